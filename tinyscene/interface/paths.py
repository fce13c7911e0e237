"""The paths and names that a caller gives: one, or several."""

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Union

AnyPath = Union[str, "os.PathLike[str]"]
AnyPaths = AnyPath | Iterable[AnyPath]
Names = str | Iterable[str]


def paths_of(named: AnyPaths) -> list[Path]:
    """One path as one, though a string could be walked through, too; several as they are."""
    return [Path(named)] if isinstance(named, str | os.PathLike) else [Path(each) for each in named]


def names_of(given: Names) -> list[str]:
    """One name as one, several as they are."""
    return [given] if isinstance(given, str) else list(given)

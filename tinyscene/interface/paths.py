"""The paths that a caller names: one, or several."""

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Union

AnyPath = Union[str, "os.PathLike[str]"]
AnyPaths = AnyPath | Iterable[AnyPath]


def paths_of(named: AnyPaths) -> list[Path]:
    """One path as one, though a string could be walked through, too; several as they are."""
    return [Path(named)] if isinstance(named, str | os.PathLike) else [Path(each) for each in named]

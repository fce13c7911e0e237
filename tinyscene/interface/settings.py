"""Changes of a recipe: as a mapping in Python, as `key=value` on the command line."""

import json
from collections.abc import Mapping
from pathlib import PurePath
from typing import Any

from tinyscene.deploy.common.errors import InputError
from tinyscene.interface.paths import Names, names_of

Settings = Mapping[str, Any] | Names | None


def overrides_of(settings: Settings) -> list[str]:
    """Overrides `key=value` from a mapping, such as {"train.epochs": 5} or {"train": {"epochs": 5}}, or as they are."""
    if not isinstance(settings, Mapping):
        return names_of(settings or ())
    overrides: list[str] = []
    for key, value in settings.items():
        if isinstance(value, Mapping):
            overrides += overrides_of({f"{key}.{inner}": each for inner, each in value.items()})
        else:
            try:
                overrides.append(f"{key}={json.dumps(value, default=_plain, ensure_ascii=False)}")  # JSON is YAML, too
            except TypeError as error:
                raise InputError(f"{key}: {error}") from None
    return overrides


def _plain(value: object) -> object:
    """What JSON has no form for: a path, or a number of numpy."""
    if isinstance(value, PurePath):
        return str(value)
    if hasattr(value, "item"):
        return value.item()  # type: ignore[attr-defined]
    raise TypeError(f"a setting cannot be a {type(value).__name__}")

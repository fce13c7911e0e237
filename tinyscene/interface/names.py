"""Models by name: of the package, of the hub, and where they lie on this disk."""

import contextlib
import os
from importlib.resources import files
from pathlib import Path

from tinyscene.deploy.bundle.index import INDEX
from tinyscene.deploy.common.errors import InputError
from tinyscene.deploy.common.terminal import notice
from tinyscene.interface.hub import SCHEME, fetch_bundle, hub_folder

PACKAGED = Path(str(files("tinyscene"))) / "bundled"


def packaged_models() -> dict[str, Path]:
    """The bundles that come with the package, by name."""
    if not PACKAGED.is_dir():
        return {}
    return {folder.name: folder for folder in sorted(PACKAGED.iterdir()) if (folder / INDEX).is_file()}


def find_model(name: "str | os.PathLike[str]") -> Path:
    """Where a model lies: a path as it is, unless nothing is there and a packaged model has this name.

    Where both are there, one line says which is used; not for a Path, or ./NAME, which can only be a path. A bundle of
    the hub, hf://user/name or hf://user/name@revision, is fetched first.
    """
    if os.fspath(name).startswith(SCHEME):
        return fetch_bundle(os.fspath(name))
    path, packaged = Path(name), packaged_models().get(os.fspath(name))
    if packaged is None or not path.exists():
        return packaged or path
    if isinstance(name, str):
        notice(f"{name}: {path.absolute()} is used; the packaged model of this name is {packaged}")
    return path


def is_kept_unchanged(folder: Path) -> bool:
    """Whether a bundle comes with the package, or was fetched from the hub. Neither is changed."""
    places = [PACKAGED]
    with contextlib.suppress(InputError):  # where there can be no cache, nothing was fetched
        places.append(hub_folder())
    return any(folder.resolve().is_relative_to(place.resolve()) for place in places)

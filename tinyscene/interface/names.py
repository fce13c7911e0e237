"""Models by name: of the package, of the hub, and where they lie on this disk."""

import os
from importlib.resources import files
from pathlib import Path

from tinyscene.deploy.bundle.bundle import INDEX

PACKAGED = Path(str(files("tinyscene"))) / "bundled"


def packaged_models() -> dict[str, Path]:
    """The bundles that come with the package, by name."""
    if not PACKAGED.is_dir():
        return {}
    return {folder.name: folder for folder in sorted(PACKAGED.iterdir()) if (folder / INDEX).is_file()}


def find_model(name: "str | os.PathLike[str]") -> Path:
    """Where a model lies: a path as it is, unless nothing is there and a packaged model has this name."""
    path = Path(name)
    return path if path.exists() else packaged_models().get(os.fspath(name), path)


def is_packaged(folder: Path) -> bool:
    """Whether a bundle comes with the package. It is not changed."""
    return folder.resolve().is_relative_to(PACKAGED.resolve())

"""The files of a bundle by name, and a copy of them."""

import shutil
from pathlib import Path

from tinyscene.deploy.bundle.bundle import Bundle, open_bundle
from tinyscene.deploy.bundle.index import INDEX, VARIANTS
from tinyscene.deploy.common.files import replacing_folder, require_free


def bundle_files(bundle: Bundle) -> tuple[str, ...]:
    """Paths in the bundle's folder of the files that its index has a hash of, its index, and those of its variants."""
    own = (*bundle.content["files"], INDEX)
    variants = {f"{VARIANTS}/{device}": bundle.variant(device) for device in bundle.variants}
    return own + tuple(f"{folder}/{name}" for folder, variant in variants.items() for name in bundle_files(variant))


def copy_bundle(bundle: Bundle, folder: Path) -> None:
    """Copy a bundle into a new folder, whole or not at all. What is measured on it and not in its index stays behind.

    Raises InputError if the folder is taken.
    """
    require_free(folder)
    with replacing_folder(folder) as temporary:
        for name in bundle_files(bundle):
            (temporary / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(bundle.folder / name, temporary / name)
        open_bundle(temporary)  # what was changed meanwhile is not kept

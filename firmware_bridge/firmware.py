"""`tinyscene firmware`: write a bundle as a folder of C sources or as a package, with a report.

firmware = write_firmware(bundle, Path("fw"))
"""

from collections.abc import Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from tinyscene.deploy.bundle.bundle import GRAPH, Bundle
from tinyscene.deploy.common.errors import InputError
from tinyscene.deploy.common.files import replacing_folder, require_free, temporary_folder
from tinyscene.deploy.common.text import json_text
from tinyscene.firmware_bridge.codegen.library import DEVICE_KERNELS, Library, make_library
from tinyscene.firmware_bridge.codegen.weight_layouts import KERNELS
from tinyscene.firmware_bridge.packaging import WASM_KERNELS, package
from tinyscene.firmware_bridge.report import (
    LibraryReport,
    MeasuredFlash,
    MissingFlash,
    describe,
    plan_picture,
    readme,
)
from tinyscene.firmware_bridge.targets.image import build_image, build_settings, flash_bytes
from tinyscene.firmware_bridge.templates import license_text

MEASURED_ON = "cortex-m4"


@dataclass(frozen=True)
class WrittenFirmware:
    """What was written, and its figures."""

    report: LibraryReport
    folder: str
    files: list[str]

    def as_json(self) -> dict[str, Any]:
        return self.report.as_json() | {"folder": self.folder, "files": self.files}


def write_firmware(
    bundle: Bundle,
    out: Path,
    kind: str | None = None,
    kernels: Sequence[str] = DEVICE_KERNELS,
    hop: float | None = None,
) -> WrittenFirmware:
    """Write C sources, or a package of a kind, whole or not at all.

    Raises InputError for unknown kernels, an unknown kind or an impossible hop.
    """
    require_free(out)
    unknown = [name for name in kernels if name not in KERNELS]
    if unknown or not kernels:
        raise InputError(f"--kernels {','.join(kernels)}: known are {', '.join(KERNELS)}")
    model = bundle.content["files"][f"{GRAPH}.safetensors"]
    if kind == "wasm":
        kernels = tuple(dict.fromkeys([*kernels, *WASM_KERNELS]))
    library = make_library(bundle.graph, bundle.front_end, bundle.labels, kernels, hop, model, bundle.rule)
    report = describe(library, _measure_flash(library))
    if kind:
        files = package(library, kind, metadata.version("tinyscene"))
    else:
        files = library.files | {"README.md": readme(report), "LICENSE": license_text()}
    files |= {"report.json": json_text(report.as_json(), indent=2) + "\n", "plan.svg": plan_picture(library.plan)}
    with replacing_folder(out) as temporary:
        for name, content in files.items():
            path = temporary / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content.encode() if isinstance(content, str) else content)
    return WrittenFirmware(report, str(out), sorted(files))


def _measure_flash(library: Library) -> MeasuredFlash | MissingFlash:
    """Flash of the library on one target, or why it cannot be measured here."""
    try:
        settings = build_settings(MEASURED_ON)
        if settings.kernels not in library.kernels:
            return MissingFlash(f"the library has no kernels for {MEASURED_ON}")
        with temporary_folder() as folder:
            flash = flash_bytes(build_image(library, settings, folder), library)
    except InputError as error:
        return MissingFlash(str(error))
    return MeasuredFlash(MEASURED_ON, settings.toolchain.version(), settings.optimize, flash)

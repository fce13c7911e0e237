"""`tinyscene firmware`: a bundle as a folder of C sources, or as a package, with a report.

report = write_firmware(bundle, Path("fw"))
"""

import json
import tempfile
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

from tinyscene.deploy.bundle.bundle import GRAPH, Bundle
from tinyscene.deploy.common.errors import InputError
from tinyscene.deploy.common.files import replacing_folder, require_free
from tinyscene.firmware_bridge.codegen.library import DEVICE_KERNELS, Library, make_library
from tinyscene.firmware_bridge.codegen.weight_layouts import LAYOUTS
from tinyscene.firmware_bridge.packaging import TEMPLATES, package
from tinyscene.firmware_bridge.report import describe, plan_picture, readme
from tinyscene.firmware_bridge.targets.image import build_image, build_settings, flash_bytes

MEASURED_ON = "cortex-m4"


def write_firmware(
    bundle: Bundle,
    out: Path,
    kind: str | None = None,
    kernels: Sequence[str] = DEVICE_KERNELS,
    hop: float = 1.0,
) -> dict[str, Any]:
    """Write sources, or a package of that kind, whole or not at all; what the report says of them.

    Raises InputError for kernels, a kind or a hop that there are not.
    """
    require_free(out)
    unknown = [each for each in kernels if each not in LAYOUTS]
    if unknown or not kernels:
        raise InputError(f"--kernels {','.join(kernels)}: known are {', '.join(LAYOUTS)}")
    model = bundle.content["files"][f"{GRAPH}.safetensors"]
    library = make_library(bundle.graph, bundle.front_end, bundle.labels, kernels, hop, model)
    report = describe(library, _measure_flash(library))
    shared = {"report.json": json.dumps(report, indent=2) + "\n", "plan.svg": plan_picture(library.plan)}
    if kind:
        files = package(library, kind, metadata.version("tinyscene")) | shared
    else:
        licence = (TEMPLATES / "LICENSE").read_text(encoding="utf-8")
        files = library.files | shared | {"README.md": readme(report), "LICENSE": licence}
    with replacing_folder(out) as temporary:
        for name, content in files.items():
            path = temporary / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content.encode() if isinstance(content, str) else content)
    return report | {"folder": str(out), "files": sorted(files)}


def _measure_flash(library: Library) -> dict[str, Any]:
    """Flash of the library on one target; or, under `missing`, why it cannot be measured here."""
    try:
        settings = build_settings(MEASURED_ON)
        if settings.kernels not in library.kernels:
            return {"missing": f"the library has no kernels for {MEASURED_ON}"}
        with tempfile.TemporaryDirectory(prefix="tinyscene-") as folder:
            sizes = flash_bytes(build_image(library, settings, Path(folder)), library)
    except InputError as error:
        return {"missing": str(error)}
    return {"target": MEASURED_ON, "toolchain": settings.toolchain.version(), "optimize": settings.optimize, **sizes}

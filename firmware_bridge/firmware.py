"""`tinyscene firmware`: write a bundle as a folder of C sources or as a package, with a report.

firmware = write_firmware(bundle, Path("fw"))
"""

from collections.abc import Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tinyscene.deploy.bundle.bundle import Bundle
from tinyscene.deploy.bundle.index import GRAPH
from tinyscene.deploy.common.errors import InputError
from tinyscene.deploy.common.files import replacing_folder, require_free, temporary_folder
from tinyscene.deploy.common.text import json_text
from tinyscene.firmware_bridge.codegen.library import DEVICE_KERNELS, Library, make_library
from tinyscene.firmware_bridge.codegen.naming import DEFAULT, require_prefix, with_prefix
from tinyscene.firmware_bridge.codegen.weight_layouts import KERNELS
from tinyscene.firmware_bridge.cost import COUNTED_ON as MEASURED_ON
from tinyscene.firmware_bridge.cost import Cost, clock_table, measure_cost
from tinyscene.firmware_bridge.memory.by_time import Order, require_order
from tinyscene.firmware_bridge.packaging import LISTENING, WASM_KERNELS, package, packed
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

Flash = MeasuredFlash | MissingFlash
WITHOUT_PREFIX = ("wasm", "board")  # packages


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
    prefix: str = DEFAULT,
    order: Order = "mel",
    band_offsets: bool = False,
) -> WrittenFirmware:
    """Write C sources, or a package of a kind, whole or not at all. Names in them begin with a prefix.

    `order` is that of the network's rows: "time" spreads the work over the clip. With `band_offsets` the microphone's
    colour is learned. Raises InputError for unknown kernels, an unknown kind or order, an impossible hop, a prefix that
    names cannot begin with, or a bundle that offsets cannot be learned from.
    """
    require_free(out)
    require_prefix(prefix)
    require_order(order)
    if prefix != DEFAULT and kind in WITHOUT_PREFIX:
        raise InputError(f"--prefix {prefix}: the package {kind} is a program of its own, whose names need none")
    unknown = [name for name in kernels if name not in KERNELS]
    if unknown or not kernels:
        raise InputError(f"--kernels {','.join(kernels)}: known are {', '.join(KERNELS)}")
    model = bundle.content["files"][f"{GRAPH}.safetensors"]
    if kind == "wasm":
        kernels = tuple(dict.fromkeys([*kernels, *WASM_KERNELS]))
    bands = bundle.bands if band_offsets else None
    library = make_library(
        bundle.graph, bundle.front_end, bundle.labels, kernels, hop, model, bundle.rule, order, bands
    )
    plain = kind in LISTENING or "dsp" not in kernels  # which takes a build more
    flash, costs = _measure(library, bundle.vectors.pcm[-1], ("dsp", "plain") if plain else ("dsp",))
    report = describe(library, flash, costs)
    version = metadata.version("tinyscene")
    if kind:
        files = package(library, kind, version, costs, _home())
    else:
        files = library.files | {
            "README.md": readme(report, library.config, clock_table(costs, library.config)),
            "LICENSE": license_text(),
        }
    files = with_prefix(files, prefix)
    if kind == "cmsis":
        files |= packed(files, version)
    files |= {"report.json": json_text(report.as_json(), indent=2) + "\n", "plan.svg": plan_picture(library.plan)}
    with replacing_folder(out) as temporary:
        for name, content in files.items():
            path = temporary / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content.encode() if isinstance(content, str) else content)
    return WrittenFirmware(report, str(out), sorted(files))


def _home() -> str | None:
    """The first address in [project.urls] of pyproject.toml, if there is any."""
    addresses = metadata.metadata("tinyscene").get_all("Project-URL") or []
    return addresses[0].split(",", 1)[1].strip() if addresses else None


def _measure(library: Library, clip: NDArray[np.int16], kinds: Sequence[str]) -> tuple[Flash, list[Cost]]:
    """Flash of the library on one target, or why it cannot be measured here; and what a decision costs, if an emulator
    is there, with each of the kinds of kernels that the library has."""
    flash: Flash = MissingFlash(f"the library has no kernels for {MEASURED_ON}")
    costs = []
    try:
        for kernels in (kind for kind in kinds if kind in library.kernels):
            settings = build_settings(MEASURED_ON, kernels=kernels)
            with temporary_folder() as folder:
                image = build_image(library, settings, folder)
                if kernels == settings.target.kernels:
                    size = flash_bytes(image, library)
                    flash = MeasuredFlash(MEASURED_ON, settings.toolchain.version(), settings.optimize, size)
                costs.append(measure_cost(image, settings, library.config, clip))
    except InputError as error:
        return (flash if isinstance(flash, MeasuredFlash) else MissingFlash(str(error))), costs
    return flash, costs

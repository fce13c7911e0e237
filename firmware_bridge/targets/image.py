"""Build the library as an image for a target, and measure the flash that it takes.

settings = build_settings("cortex-m4", "zig", optimize="O2")
image = build_image(library, settings, folder)
flash_bytes(image, library)               # code, weights, tables
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from tinyscene.deploy.common.errors import InputError
from tinyscene.firmware_bridge.codegen.library import Library, write_sources
from tinyscene.firmware_bridge.memory.by_time import Order, require_order
from tinyscene.firmware_bridge.targets.elf import image_symbols
from tinyscene.firmware_bridge.targets.emulators import EMULATORS
from tinyscene.firmware_bridge.targets.toolchains import (
    TARGETS,
    Target,
    Toolchain,
    build,
    find_toolchain,
    harness_sources,
)

OPTIMIZE = "O2"
LEVELS = ("O0", "O1", "O2", "O3", "Os")
KERNEL_DEFINES = {"plain": ["TINYSCENE_PLAIN"], "simd": ["TINYSCENE_HOST"]}  # others are selected by the compiler


@dataclass(frozen=True)
class BuildSettings:
    """A target with the toolchain and kernels that an image is built with, and the emulator that runs it."""

    target: Target
    toolchain: Toolchain
    emulator: str | None  # none for the host, which needs none
    optimize: str
    kernels: str
    order: Order = "mel"


@dataclass(frozen=True)
class FlashBytes:
    """Bytes of the library in flash."""

    code: int
    weights: int  # of the network
    tables: int  # all other constants

    @property
    def total(self) -> int:
        return self.code + self.weights + self.tables


def build_settings(
    target: str,
    toolchain: str = "zig",
    emulator: str | None = None,
    optimize: str = OPTIMIZE,
    kernels: str | None = None,
    order: Order = "mel",
) -> BuildSettings:
    """Build settings by name. Defaults: unicorn where it supports the core, else QEMU; the fastest kernels.

    Raises InputError for what is unknown or missing.
    """
    if target not in TARGETS:
        raise InputError(f"--target {target}: known are {', '.join(TARGETS)}")
    if optimize not in LEVELS:
        raise InputError(f"--optimize {optimize}: known are {', '.join(LEVELS)}")
    core = TARGETS[target]
    if kernels not in (None, "plain", core.kernels):
        raise InputError(f"--kernels {kernels}: {target} runs {' and '.join(dict.fromkeys(('plain', core.kernels)))}")
    if emulator and not core.bare:
        raise InputError(f"--emulator {emulator}: {target} runs on this machine itself")
    if emulator not in (None, *EMULATORS):
        raise InputError(f"--emulator {emulator}: known are {', '.join(EMULATORS)}")
    default = ("unicorn" if core.unicorn else "qemu") if core.bare else None
    compiler = find_toolchain(toolchain, core)
    require_order(order)
    return BuildSettings(core, compiler, emulator or default, optimize, kernels or core.kernels, order)


def build_image(
    library: Library,
    settings: BuildSettings,
    folder: Path,
    trace: bool = False,
    program: Literal["scene", "network"] = "scene",
    flags: Sequence[str] = (),
) -> Path:
    """Build the library with a program of harness/, in a new folder within `folder`."""
    sources = folder / ("traced" if trace else "plain")
    sources.mkdir()
    return build(
        settings.toolchain,
        settings.target,
        [*write_sources(library, sources), *harness_sources(settings.target, program)],
        sources / f"{program}.elf",
        includes=[sources],
        defines=[*KERNEL_DEFINES.get(settings.kernels, []), *(["TINYSCENE_TRACE"] if trace else [])],
        optimize=settings.optimize,
        flags=flags,
    )


def flash_bytes(image: Path, library: Library) -> FlashBytes:
    """What the library takes of an image's flash."""
    sizes: Counter[str] = Counter()
    for symbol in image_symbols(image):
        of_library = symbol.file in library.files or symbol.name.startswith("tinyscene_")
        if symbol.kind == "bss" or (not of_library and not symbol.name.startswith(".")):
            continue
        of_network = symbol.file == "tinyscene_weights.c" or symbol.name.startswith("tinyscene_conv_")
        sizes["code" if symbol.kind == "text" else "weights" if of_network else "tables"] += symbol.bytes
    return FlashBytes(sizes["code"], sizes["weights"], sizes["tables"])

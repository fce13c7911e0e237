"""Build the library as an image for a target, and measure the flash that it takes.

settings = build_settings("cortex-m4", "zig", optimize="O2")
image = build_image(library, settings, folder)
flash_bytes(image, library)               # code, weights, tables
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from tinyscene.deploy.common.errors import InputError
from tinyscene.firmware_bridge.codegen.library import Library, write_sources
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


@dataclass(frozen=True)
class BuildSettings:
    """A target with the toolchain and kernels that an image is built with."""

    target: Target
    toolchain: Toolchain
    emulator: str | None  # none for the host, which needs none
    optimize: str
    kernels: str


def build_settings(
    target: str,
    toolchain: str = "zig",
    emulator: str | None = None,
    optimize: str = OPTIMIZE,
    kernels: str | None = None,
) -> BuildSettings:
    """Build settings by name. Defaults: unicorn where it supports the core, else QEMU; the fastest kernels.

    Raises InputError for what is unknown or missing.
    """
    if target not in TARGETS:
        raise InputError(f"--target {target}: known are {', '.join(TARGETS)}")
    if optimize not in LEVELS:
        raise InputError(f"--optimize {optimize}: known are {', '.join(LEVELS)}")
    chosen = TARGETS[target]
    if kernels not in (None, "plain", chosen.kernels):
        raise InputError(f"--kernels {kernels}: {target} runs {' and '.join(dict.fromkeys(('plain', chosen.kernels)))}")
    if emulator and not chosen.bare:
        raise InputError(f"--emulator {emulator}: {target} runs on this machine itself")
    if emulator not in (None, *EMULATORS):
        raise InputError(f"--emulator {emulator}: known are {', '.join(EMULATORS)}")
    usual = ("unicorn" if chosen.unicorn else "qemu") if chosen.bare else None
    return BuildSettings(
        chosen, find_toolchain(toolchain, chosen), emulator or usual, optimize, kernels or chosen.kernels
    )


def build_image(
    library: Library,
    settings: BuildSettings,
    folder: Path,
    trace: bool = False,
    program: Literal["scene", "network"] = "scene",
    flags: Sequence[str] = (),
) -> Path:
    """Build the library with a program of harness/ around it, in a folder of its own in `folder`."""
    sources = folder / ("traced" if trace else "plain")
    sources.mkdir()
    chosen = {"plain": ["TINYSCENE_PLAIN"], "simd": ["TINYSCENE_HOST"]}.get(settings.kernels, [])
    return build(
        settings.toolchain,
        settings.target,
        [*write_sources(library, sources), *harness_sources(settings.target, program)],
        sources / f"{program}.elf",
        includes=[sources],
        defines=[*chosen, *(["TINYSCENE_TRACE"] if trace else [])],
        optimize=settings.optimize,
        flags=flags,
    )


def flash_bytes(image: Path, library: Library) -> dict[str, int]:
    """Bytes of the library in flash: its code, the network's weights, all other constants."""
    kept = {"code": 0, "weights": 0, "tables": 0}
    for symbol in image_symbols(image):
        of_library = symbol.file in library.files or symbol.name.startswith("tinyscene_")
        if symbol.kind == "bss" or (not of_library and not symbol.name.startswith(".")):
            continue
        of_network = symbol.file == "tinyscene_weights.c" or symbol.name.startswith("tinyscene_conv_")
        kept["code" if symbol.kind == "text" else "weights" if of_network else "tables"] += symbol.bytes
    return kept

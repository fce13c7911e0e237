"""Toolchains and targets: C99 sources to an image for a microcontroller, or to a program or library of the host.

    toolchain = find_toolchain("zig", TARGETS["cortex-m4"])
    image = build(toolchain, target, [*sources, *harness_sources(target, "scene")], folder / "scene.elf", ...)

`zig` is clang with all that it needs, from PyPI; `gcc` is the system's cross compiler. Images for microcontrollers are
linked without a C library: harness/ has what a program needs on a bare-metal processor.
"""

import functools
import os
import shutil
import subprocess
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from tinyscene.deploy.common.errors import InputError
from tinyscene.deploy.common.files import cache_folder, temporary_folder
from tinyscene.deploy.common.installation import require
from tinyscene.deploy.common.processes import python_module

HARNESS = Path(__file__).parent.parent / "harness"
SECTIONS = ("-ffunction-sections", "-fdata-sections")  # so that the linker can drop unused functions
BARE = ("-ffreestanding", "-fno-unwind-tables", "-fno-asynchronous-unwind-tables")

Kernels = Literal["plain", "dsp", "mve", "simd"]


@dataclass(frozen=True)
class Target:
    """A processor: how to compile for it and how to emulate it."""

    name: str
    description: str
    kernels: Kernels  # that its compiler selects
    zig: tuple[str, ...]  # flags
    gcc: tuple[str, ...]
    compiler: str = "arm-none-eabi-gcc"
    package: str = "gcc-arm-none-eabi"  # of the compiler, on Debian and Ubuntu
    startup: str = "cortex_m.c"  # of harness/
    linker_script: str | None = "mps2.ld"  # of harness/; none for the host
    unicorn: str | None = None  # unicorn's constant for the core, or none if unsupported
    qemu: tuple[str, ...] = ()  # the program and its machine, or none

    @property
    def bare(self) -> bool:
        return self.linker_script is not None


def _cortex_m(name: str, description: str, kernels: Kernels, zig: str, gcc: str, **more: Any) -> Target:
    core = zig.partition("+")[0]
    abi = "eabi" if "soft" in gcc else "eabihf"
    return Target(
        name=name,
        description=description,
        kernels=kernels,
        zig=(f"--target=thumb-freestanding-{abi}", f"-mcpu={zig}"),
        gcc=(f"-mcpu={core.replace('_', '-')}", "-mthumb", *gcc.split()),
        **more,
    )


def _host(name: str, description: str, kernels: Kernels, zig: str, gcc: tuple[str, ...]) -> Target:
    return Target(
        name, description, kernels, (f"-mcpu={zig}",), gcc, "gcc", "gcc", startup="host.c", linker_script=None
    )


# The library uses integers only, but images for cores with an FPU are built with it enabled.
TARGETS: Mapping[str, Target] = {
    target.name: target
    for target in (
        _cortex_m(
            "cortex-m3",
            "Arm Cortex-M3: Armv7-M",
            "plain",
            "cortex_m3",
            "-mfloat-abi=soft",
            unicorn="UC_CPU_ARM_CORTEX_M3",
            qemu=("qemu-system-arm", "mps2-an385"),
        ),
        _cortex_m(
            "cortex-m4",
            "Arm Cortex-M4: Armv7E-M, DSP",
            "dsp",
            "cortex_m4+vfp4d16sp",
            "-mfpu=fpv4-sp-d16 -mfloat-abi=hard",
            unicorn="UC_CPU_ARM_CORTEX_M4",
            qemu=("qemu-system-arm", "mps2-an386"),
        ),
        _cortex_m(
            "cortex-m7",
            "Arm Cortex-M7: Armv7E-M, DSP, two instructions at once",
            "dsp",
            "cortex_m7+fp_armv8d16",
            "-mfpu=fpv5-d16 -mfloat-abi=hard",
            unicorn="UC_CPU_ARM_CORTEX_M7",
            qemu=("qemu-system-arm", "mps2-an500"),
        ),
        _cortex_m(
            "cortex-m33",
            "Arm Cortex-M33: Armv8-M, DSP",
            "dsp",
            "cortex_m33+dsp+fp_armv8d16sp",
            "-mfpu=fpv5-sp-d16 -mfloat-abi=hard",
            unicorn="UC_CPU_ARM_CORTEX_M33",
        ),
        _cortex_m(
            "cortex-m55",
            "Arm Cortex-M55: Armv8.1-M, vectors (MVE)",
            "mve",
            "cortex_m55+mve_fp",
            "-mfloat-abi=hard",
            linker_script="an547.ld",
            qemu=("qemu-system-arm", "mps3-an547"),
        ),
        Target(
            "riscv32",
            "RISC-V RV32IMAC",
            "plain",
            zig=("--target=riscv32-freestanding-none", "-mcpu=generic_rv32+m+a+c"),
            gcc=("-march=rv32imac", "-misa-spec=2.2", "-mabi=ilp32"),  # the older specification has the counters
            compiler="riscv64-unknown-elf-gcc",
            package="gcc-riscv64-unknown-elf",
            startup="riscv32.c",
            linker_script="riscv32.ld",
            unicorn="UC_CPU_RISCV32_BASE32",
            qemu=("qemu-system-riscv32", "virt"),
        ),
        _host("host", "this machine's architecture, any processor of it", "plain", "baseline", ()),
        _host("host-native", "this very machine", "simd", "native", ("-march=native",)),
    )
}


@dataclass(frozen=True)
class Toolchain:
    """A compiler that builds for a target."""

    name: str
    command: tuple[str, ...]

    def version(self) -> str:
        """The version that it reports, for instance `zig 0.17.1`.

        Raises InputError if it does not run.
        """
        query = [*self.command[:-1], "version"] if self.name == "zig" else [*self.command, "-dumpfullversion"]
        return f"{self.name} {_call(query, f'{self.name} does not run').strip()}"

    def has_headers(self) -> bool:
        """Whether a compiler named gcc finds a C library's headers."""
        try:
            _call([*self.command, "-fsyntax-only", "-include", "string.h", "-x", "c", os.devnull], "")
        except InputError:
            return False
        return True


TOOLCHAINS = ("zig", "gcc")


def find_toolchain(name: str, target: Target) -> Toolchain:
    """A toolchain by name, one of TOOLCHAINS.

    Raises InputError with an installation command if it is missing.
    """
    if name == "zig":
        require("ziglang", "firmware")
        return Toolchain("zig", tuple(python_module("ziglang", "cc")))
    if name == "gcc":
        if shutil.which(target.compiler) is None:
            raise InputError(f"{target.compiler} is not installed: apt-get install {target.package}, or use zig")
        return Toolchain("gcc", (target.compiler,))
    raise InputError(f"toolchain {name!r} is unknown: known are {', '.join(TOOLCHAINS)}")


def harness_sources(target: Target, program: Literal["scene", "network"] | None = None) -> list[Path]:
    """Sources that a program needs on a target, and one of the programs in harness/ if named (see job.h)."""
    names = [f"{program}_main.c", "job.c"] if program else []
    names += [target.startup, "bare.c", "memory.c"] if target.bare else [target.startup]
    return [HARNESS / name for name in names]


def build(
    toolchain: Toolchain,
    target: Target,
    sources: Sequence[Path],
    out: Path,
    *,
    includes: Iterable[Path] = (),
    defines: Iterable[str] = (),
    optimize: str = "O2",
    flags: Iterable[str] = (),
    shared: bool = False,
) -> Path:
    """Compile C99 sources and link them without unused functions.

    `defines` are arguments of -D, `flags` further arguments of the compiler. `out` becomes an image for a
    microcontroller, which needs the start-up of `harness_sources`, or a program of the host, or, if `shared`, a shared
    library of the host. Equal sources give equal bytes, whatever their folder.

    Raises InputError with the first error line of the toolchain.
    """
    options = [*_flags(toolchain, target), f"-{optimize}", *flags, *(["-fPIC"] if shared else [])]
    folders = [*includes, *([HARNESS / "include"] if target.bare else []), HARNESS]
    options += [f"-I{folder.absolute()}" for folder in folders] + [f"-D{define}" for define in defines]
    with temporary_folder() as folder:
        call = functools.partial(_call, environment=compiler_environment(toolchain, folder))

        def compile_one(index: int) -> str:
            compiled = str(folder / f"{index}.o")
            complaint = f"{toolchain.name} cannot compile {sources[index].name} for {target.name}"
            call([*toolchain.command, *options, "-c", str(sources[index].absolute()), "-o", compiled], complaint)
            return compiled

        with ThreadPoolExecutor(os.cpu_count()) as pool:
            objects = list(pool.map(compile_one, range(len(sources))))
        complaint = f"{toolchain.name} cannot link {out.name} for {target.name}"
        linking = [*options, *(["-shared"] if shared else []), *_linking(toolchain, target, objects)]
        call([*toolchain.command, *linking, "-o", str(out.absolute())], complaint)
    return out


def _flags(toolchain: Toolchain, target: Target) -> list[str]:
    machine = target.zig if toolchain.name == "zig" else target.gcc
    flags = [*machine, "-std=c99", "-g0", "-fomit-frame-pointer", *SECTIONS, *(BARE if target.bare else ())]
    return [*flags, "-fno-sanitize=undefined"] if toolchain.name == "zig" else flags  # which zig enables by default


def _linking(toolchain: Toolchain, target: Target, objects: list[str]) -> list[str]:
    linked = ["-Wl,--gc-sections", *objects]
    if toolchain.name == "zig":
        linked.append("-g")  # without it, symbols are stripped at -Os; the code is the same
    if target.bare:
        linked += ["-Wl,-e,harness_reset", "-T", str(HARNESS / str(target.linker_script))]
        if toolchain.name == "gcc":  # which otherwise looks for a C library
            linked += ["-nostdlib", "-lgcc"]
    return linked


def compiler_environment(toolchain: Toolchain, folder: Path) -> dict[str, str]:
    """Only zig's own cache remains, beside our caches or in $ZIG_GLOBAL_CACHE_DIR."""
    if toolchain.name != "zig":
        return {**os.environ, "LC_ALL": "C"}
    cache = os.environ.get("ZIG_GLOBAL_CACHE_DIR") or str(cache_folder() / "zig")
    return {**os.environ, "ZIG_GLOBAL_CACHE_DIR": cache, "ZIG_LOCAL_CACHE_DIR": str(folder / "zig"), "LC_ALL": "C"}


def _call(command: Sequence[str], complaint: str, environment: Mapping[str, str] | None = None) -> str:
    """Run a tool in the folder of the linker scripts; returns its output."""
    try:
        process = subprocess.run(
            command, env=environment, cwd=HARNESS, capture_output=True, text=True, errors="replace", check=False
        )
    except OSError as error:
        raise InputError(f"{complaint} ({error.strerror})") from None
    if process.returncode == 0:
        return process.stdout
    raise InputError(f"{complaint}: {_first_error(process.stderr) or f'exit code {process.returncode}'}")


def _first_error(output: str) -> str:
    lines = [line.strip() for line in output.splitlines() if line.strip() and not line.startswith("collect2:")]
    errors = [line for line in lines if "error: " in line or "undefined reference" in line]
    return next(iter(errors + lines), "")

"""The instruction sets of hosts: how to compile a program for each, and how to run it here if that is possible."""

import functools
import importlib.util
import platform
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

ZIG = (sys.executable, "-m", "ziglang", "cc", "-O2")
# A program of WASI in wasmtime; it reads and writes the folder where it runs.
WASM = """
import sys, wasmtime
store = wasmtime.Store()
linker = wasmtime.Linker(store.engine)
linker.define_wasi()
config = wasmtime.WasiConfig()
config.inherit_stdin()
config.inherit_stdout()
config.inherit_stderr()
config.preopen_dir(".", ".")
store.set_wasi(config)
instance = linker.instantiate(store, wasmtime.Module.from_file(store.engine, sys.argv[1]))
try:
    instance.exports(store)["_start"](store)
except wasmtime.ExitTrap as trap:
    sys.exit(trap.code)
"""


@dataclass(frozen=True)
class Machine:
    """An instruction set: how to compile for it, what a processor says that has it, what else is needed to run it."""

    compiler: tuple[str, ...]
    cpu_flags: tuple[str, ...] = ()
    emulator: tuple[str, ...] = ()


MACHINES = {
    "avx512-vnni": Machine((*ZIG, "-mcpu=x86_64_v4+avx512vnni"), ("avx512_vnni", "avx512bw", "avx512vl", "bmi2")),
    "avx-vnni": Machine((*ZIG, "-mcpu=x86_64_v3+avxvnni"), ("avx2", "avx_vnni", "bmi2")),
    "avx2": Machine((*ZIG, "-mcpu=x86_64_v3"), ("avx2", "bmi2")),
    "neon-dot-product": Machine(
        (*ZIG, "--target=aarch64-linux-musl", "-mcpu=generic+dotprod", "-static"), (), ("qemu-aarch64-static",)
    ),
    "wasm-simd128": Machine(
        (*ZIG, "--target=wasm32-wasi", "-mcpu=generic+bulk_memory+simd128"), (), (sys.executable, "-c", WASM)
    ),
    "gcc-sanitizers": Machine(
        ("gcc", "-O0", "-march=native", "-fsanitize=address,undefined", "-fno-sanitize-recover=all"), ("avx2",)
    ),
}
# As parameters of tests. The C library of another machine, which zig compiles first, takes it a minute.
ALL_MACHINES = [
    pytest.param(name, marks=pytest.mark.slow) if machine.emulator else name for name, machine in MACHINES.items()
]


@functools.cache
def processor_flags() -> frozenset[str]:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() and platform.machine() == "x86_64" else []
    return frozenset(next((line.split(":")[1] for line in lines if line.startswith("flags")), "").split())


def compile_or_skip(name: str, sources: Sequence[Path], includes: Sequence[Path], program: Path) -> list[str]:
    """The command that runs a program of these sources on a machine; the test is skipped where it cannot be run."""
    machine = MACHINES[name]
    if machine.emulator and not shutil.which(machine.emulator[0]):
        pytest.skip(f"{machine.emulator[0]} is not installed: apt-get install qemu-user-static")
    if name.startswith("wasm") and importlib.util.find_spec("wasmtime") is None:
        pytest.skip("wasmtime is not installed")
    if missing := sorted({*machine.cpu_flags} - processor_flags()):
        pytest.skip(f"this processor has no {', '.join(missing)}")
    if machine.compiler[0] == "gcc" and not shutil.which("gcc"):
        pytest.skip("gcc is not installed")
    if machine.compiler[0] != "gcc":
        pytest.importorskip("ziglang", reason="ziglang is not installed")
    options = ["-std=gnu99", "-Wall", "-Wextra", "-Werror", "-DTINYSCENE_HOST", *(f"-I{each}" for each in includes)]
    subprocess.run([*machine.compiler, *options, "-o", program, *sources], check=True)
    return [*machine.emulator, str(program)]

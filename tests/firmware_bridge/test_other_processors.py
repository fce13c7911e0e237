"""The library on processors that no target names: big-endian, Cortex-M0+, Xtensa, and RISC-V without compressed
instructions.

Every answer is compared with the reference: the bundle's golden logits, which are its model's bit for bit.
"""

import importlib.util
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tests import ROOT
from tests.firmware_bridge.packaged import write
from tinyscene.deploy.bundle.bundle import Bundle
from tinyscene.firmware_bridge.codegen.library import Library, make_library, write_sources
from tinyscene.firmware_bridge.emulate import Image, job_of
from tinyscene.firmware_bridge.packaging import package
from tinyscene.firmware_bridge.targets.image import BuildSettings, build_image
from tinyscene.firmware_bridge.targets.toolchains import TARGETS, find_toolchain

pytestmark = pytest.mark.slow
CLIPS = 4
BIG_ENDIAN = {
    "mips": ("mips-linux-musleabi", "qemu-mips-static"),
    "ppc": ("powerpc-linux-musleabi", "qemu-ppc-static"),
    "s390x": ("s390x-linux-musl", "qemu-s390x-static"),
}
CORES = {
    "cortex-m0plus": replace(
        TARGETS["cortex-m3"],
        name="cortex-m0plus",
        zig=("--target=thumb-freestanding-eabi", "-mcpu=cortex_m0plus"),
        gcc=("-mcpu=cortex-m0plus", "-mthumb", "-mfloat-abi=soft", "-masm-syntax-unified"),
        unicorn="UC_CPU_ARM_CORTEX_M0",
        qemu=(),
    ),
    "rv32ima": replace(
        TARGETS["riscv32"],
        name="rv32ima",
        zig=("--target=riscv32-freestanding-none", "-mcpu=generic_rv32+m+a"),
        gcc=("-march=rv32ima", "-misa-spec=2.2", "-mabi=ilp32"),
        qemu=(),
    ),
}


@pytest.fixture(scope="module")
def library(bundle: Bundle) -> Library:
    return make_library(bundle.graph, bundle.front_end, bundle.labels, ("plain",))


@pytest.mark.parametrize("toolchain", ["zig", "gcc"])
@pytest.mark.parametrize("core", CORES)
def test_a_core_without_a_target_of_its_own_gives_the_golden_logits(
    core: str, toolchain: str, library: Library, bundle: Bundle, tmp_path: Path
) -> None:
    target = CORES[core]
    if toolchain == "gcc" and shutil.which(target.compiler) is None:
        pytest.skip(f"{target.compiler} is not installed: make tools")
    settings = BuildSettings(target, find_toolchain(toolchain, target), "unicorn", "O2", "plain")
    image = Image(build_image(library, settings, tmp_path), settings)
    answers = image.run(job_of(bundle.vectors.pcm[:CLIPS]))
    np.testing.assert_array_equal(answers.logits, bundle.vectors.logits[:CLIPS])


@pytest.mark.parametrize("machine", BIG_ENDIAN)
def test_a_big_endian_machine_gives_the_golden_logits(
    machine: str, library: Library, bundle: Bundle, tmp_path: Path
) -> None:
    triple, emulator = BIG_ENDIAN[machine]
    if shutil.which(emulator) is None or importlib.util.find_spec("ziglang") is None:
        pytest.skip(f"{emulator} and ziglang are needed: make tools, and the extra `firmware`")
    folder = write(package(library, "cmake", "1.2.3"), tmp_path / "package")
    sources = [*sorted((folder / "src").glob("*.c")), folder / "example/scene.c"]
    command = [sys.executable, "-m", "ziglang", "cc", f"--target={triple}", "-static", "-O2", "-std=c99"]
    command += ["-fno-sanitize=undefined", f"-I{folder / 'include'}", *map(str, sources), "-o", str(tmp_path / "scene")]
    subprocess.run(command, check=True, env={**os.environ, "ZIG_LOCAL_CACHE_DIR": str(tmp_path / "zig")})
    pcm = bundle.vectors.pcm[:CLIPS].astype(">i2").tobytes()
    done = subprocess.run([emulator, tmp_path / "scene"], input=pcm, capture_output=True, check=True)
    logits = [[int(each) for each in line.split("\t")[2].split()] for line in done.stdout.decode().splitlines()]
    np.testing.assert_array_equal(logits, bundle.vectors.logits[:CLIPS])


def test_an_xtensa_gives_the_golden_logits(library: Library, bundle: Bundle, tmp_path: Path) -> None:
    """The core of the ESP8266, which has no C library here: its own program, and the harness's memcpy."""
    compiler, emulator = "xtensa-lx106-elf-gcc", "qemu-xtensa-static"
    if shutil.which(compiler) is None or shutil.which(emulator) is None:
        pytest.skip(f"{compiler} and {emulator} are needed: make tools")
    harness = ROOT / "firmware_bridge" / "harness"
    sources = [*write_sources(library, tmp_path), harness / "memory.c", Path(__file__).parent / "xtensa.c"]
    command = [compiler, "-O2", "-std=gnu99", "-ffreestanding", "-mlongcalls", "-nostdlib", "-static"]
    command += [f"-I{tmp_path}", f"-I{harness / 'include'}", *map(str, sources), "-lgcc", "-o", str(tmp_path / "scene")]
    subprocess.run(command, check=True)
    pcm = bundle.vectors.pcm[:CLIPS].astype("<i2").tobytes()
    run = [emulator, "-cpu", "lx106", tmp_path / "scene"]
    done = subprocess.run(run, input=pcm, capture_output=True, check=True)
    logits = np.frombuffer(done.stdout, np.int8).reshape(CLIPS, -1)
    np.testing.assert_array_equal(logits, bundle.vectors.logits[:CLIPS])

"""The CMake package: builds for this machine, for Cortex-M and for RISC-V, and another project that uses it."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tests.firmware_bridge.packaged import golden_lines, need, recording, run, write
from tinyscene.deploy.bundle.bundle import Bundle


def configure(source: Path, build: Path, *options: str) -> Path:
    need("cmake", "ninja")
    run("cmake", "-G", "Ninja", "-S", source, "-B", build, *options)
    run("cmake", "--build", build)
    return build


def test_cmake_builds_it_and_its_example_gives_the_golden_logits(
    made: dict[str, Path], bundle: Bundle, tmp_path: Path
) -> None:
    need("gcc")
    sound = recording(bundle, tmp_path / "sound.raw")
    build = configure(made["cmake"], tmp_path / "build", "-DCMAKE_C_COMPILER=gcc", "-DCMAKE_BUILD_TYPE=Debug")
    program = build / "scene"
    lines = [line.split("\t") for line in run(program, sound).splitlines()]
    assert [label for _, label, _ in lines] == golden_lines(bundle)
    assert [time for time, _, _ in lines] == [f"{index + 1:.2f} s" for index in range(len(lines))]
    logits = [[int(each) for each in line[2].split()] for line in lines]
    np.testing.assert_array_equal(logits, bundle.vectors.logits)
    with sound.open("rb") as stream:
        piped = subprocess.run([program], stdin=stream, capture_output=True, text=True, check=True).stdout
    assert piped.splitlines() == ["\t".join(line) for line in lines]


@pytest.mark.slow
@pytest.mark.parametrize("way", ["find_package", "add_subdirectory", "FetchContent"])
def test_another_cmake_project_can_use_it(way: str, made: dict[str, Path], tmp_path: Path) -> None:
    need("gcc")
    use = {
        "find_package": "find_package(tinyscene 1.2 REQUIRED)",
        "add_subdirectory": f"add_subdirectory({made['cmake']} tinyscene)",
        "FetchContent": "include(FetchContent)\n"
        f"FetchContent_Declare(tinyscene SOURCE_DIR {made['cmake']})\nFetchContent_MakeAvailable(tinyscene)",
    }[way]
    if way == "find_package":
        run("cmake", "--install", configure(made["cmake"], tmp_path / "tinyscene"), "--prefix", tmp_path / "installed")
    lists = "cmake_minimum_required(VERSION 3.16)\nproject(other C)\n" + use
    lists += "\nadd_executable(other main.c)\ntarget_link_libraries(other PRIVATE tinyscene::tinyscene)\n"
    main = "#include <tinyscene.h>\nint main(void) { return tinyscene_memory_bytes() != TINYSCENE_BYTES; }\n"
    write({"CMakeLists.txt": lists, "main.c": main}, tmp_path / "other")
    build = configure(tmp_path / "other", tmp_path / "build", f"-DCMAKE_PREFIX_PATH={tmp_path / 'installed'}")
    run(build / "other")
    assert not list(build.rglob("scene")), "a guest does not build its examples"


CORES = {
    "cortex-m0plus": ("v6S-M", None),
    "cortex-m3": ("v7", None),
    "cortex-m4": ("v7E-M", "smlad"),
    "cortex-m7": ("v7E-M", "smlad"),
    "cortex-m23": ("v8-M.baseline", None),
    "cortex-m33": ("v8-M.mainline", "smlad"),
    "cortex-m55": ("v8.1-M.mainline", "vqrdmulh"),
}


@pytest.mark.slow
@pytest.mark.parametrize("toolchain", ["arm-none-eabi", "zig"])
@pytest.mark.parametrize("cpu", CORES)
def test_cmake_builds_it_for_a_cortex_m_with_its_kernels_whatever_flags_are_added(
    toolchain: str, cpu: str, made: dict[str, Path], tmp_path: Path
) -> None:
    need("arm-none-eabi-gcc" if toolchain == "arm-none-eabi" else sys.executable, "arm-none-eabi-objdump")
    build = configure(
        made["cmake"],
        tmp_path,
        f"-DCMAKE_TOOLCHAIN_FILE=cmake/{toolchain}.cmake",
        f"-DTINYSCENE_CPU={cpu}",
        f"-DTINYSCENE_PYTHON={sys.executable}",
        "-DCMAKE_C_FLAGS=-DMINE",
    )
    architecture, instruction = CORES[cpu]
    library = build / "libtinyscene.a"
    found = re.findall(r"Tag_CPU_arch: (\S+)", run("arm-none-eabi-readelf", "-A", library))
    assert {name.lower() for name in found} == {architecture.lower()}
    code = run("arm-none-eabi-objdump", "-d", library)
    assert instruction is None or instruction in code
    assert instruction is not None or not re.search("smlad|vqrdmulh", code)


@pytest.mark.slow
def test_cmake_builds_it_for_risc_v_by_its_preset(made: dict[str, Path], tmp_path: Path) -> None:
    need("cmake", "ninja", "riscv64-unknown-elf-gcc", "riscv64-unknown-elf-readelf")
    shutil.copytree(made["cmake"], tmp_path / "package")
    run("cmake", "--preset", "riscv32", "-G", "Ninja", "-DCMAKE_C_FLAGS=-DMINE", cwd=tmp_path / "package")
    run("cmake", "--build", "--preset", "riscv32", cwd=tmp_path / "package")
    library = tmp_path / "package/build/riscv32/libtinyscene.a"
    found = re.findall(r'Tag_RISCV_arch: "(rv32\S+?)"', run("riscv64-unknown-elf-readelf", "-A", library))
    assert found
    assert all(re.match(r"rv32i\dp\d_m\dp\d_a\dp\d_c", name) for name in found)


def test_the_presets_are_those_of_the_toolchain_files(made: dict[str, Path]) -> None:
    need("cmake")
    listed = re.findall(r'^  "(\S+)"', run("cmake", "--list-presets", cwd=made["cmake"]), re.MULTILINE)
    assert [name for name in listed if name != "emulated"] == [
        "host",
        *CORES,
        "riscv32",
        "esp32",
        "esp32s2",
        "esp32s3",
        "esp32c3",
    ]


@pytest.mark.slow
def test_the_readmes_commands_decide_on_this_machine_and_on_an_emulated_board(
    made: dict[str, Path], bundle: Bundle, tmp_path: Path
) -> None:
    need("cmake", "gcc", "arm-none-eabi-gcc", "qemu-system-arm")
    shutil.copytree(made["cmake"], tmp_path / "package")
    commands = re.findall(
        r"^    ((?:cmake --preset|qemu-).+)$", (tmp_path / "package/README.md").read_text(), re.MULTILINE
    )
    recording(bundle, tmp_path / "package/recording.raw")
    outputs = [run("sh", "-c", command, cwd=tmp_path / "package") for command in commands]
    words = [line.split("\t") for output in outputs for line in output.splitlines()]
    assert [line[1] for line in words if len(line) == 3] == golden_lines(bundle)  # on this machine
    assert [line[0] for line in words if line[0] in bundle.labels] == golden_lines(bundle)


@pytest.mark.parametrize("toolchain", ["arm-none-eabi", "zig"])
def test_cmake_refuses_a_processor_that_it_has_no_flags_for(
    toolchain: str, made: dict[str, Path], tmp_path: Path
) -> None:
    need("cmake", "ninja")
    options = (f"-DCMAKE_TOOLCHAIN_FILE=cmake/{toolchain}.cmake", "-DTINYSCENE_CPU=cortex-m1")
    output = run("cmake", "-G", "Ninja", "-S", made["cmake"], "-B", tmp_path, *options, ok=False)
    assert f"it must be one of {', '.join(CORES)}" in " ".join(output.split())

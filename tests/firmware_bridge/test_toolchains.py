"""Toolchains: what they build for which target, what it weighs, and what they say when they cannot."""

import ctypes
import platform
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from elftools.elf.elffile import ELFFile

from tests import ROOT
from tinyscene.deploy.common.errors import InputError
from tinyscene.firmware_bridge.targets.elf import image_symbols
from tinyscene.firmware_bridge.targets.toolchains import (
    HARNESS,
    TARGETS,
    Toolchain,
    build,
    compiler_environment,
    find_toolchain,
    harness_sources,
)

M4, HOST = TARGETS["cortex-m4"], TARGETS["host"]
WARNINGS = ("-Wall", "-Wextra", "-Wconversion", "-Wshadow", "-pedantic", "-Werror")
SIZED = """
#include <string.h>
#include "harness.h"
extern const unsigned char sized_table[1000];
const unsigned char sized_table[1000] = {1, 2, 3};
unsigned char sized_zeros[3000], sized_values[500] = {1};
static int helper(const unsigned char *x) { return harness_open((const char *)x, 0); }
int sized_unused(int x);
int sized_unused(int x) { return x * x / 3; }
int main(void)
{
    memcpy(sized_zeros, sized_table, sizeof sized_table);
    harness_print("a line without a name");
    return helper(sized_zeros) + helper(sized_values);
}
"""


def has(name: str, target: str) -> bool:
    return name == "zig" or shutil.which(TARGETS[target].compiler) is not None


def write(folder: Path, text: str, name: str = "program.c") -> Path:
    path = folder / name
    path.write_text(text)
    return path


@pytest.fixture(scope="module", params=["zig", "gcc"])
def sized(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    if not has(request.param, "cortex-m4"):
        pytest.skip("arm-none-eabi-gcc is not installed")
    folder = tmp_path_factory.mktemp("sized")
    sources = [write(folder, SIZED), *harness_sources(M4)]
    return build(find_toolchain(request.param, M4), M4, sources, folder / "sized.elf")


def test_a_missing_zig_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"^ziglang is not installed: pip install .*\[firmware\]'$"):
        find_toolchain("zig", M4)


@pytest.mark.parametrize(
    ("target", "line"),
    [
        ("cortex-m7", "arm-none-eabi-gcc is not installed: apt-get install gcc-arm-none-eabi"),
        ("riscv32", "riscv64-unknown-elf-gcc is not installed: apt-get install gcc-riscv64-unknown-elf"),
        ("host", "gcc is not installed: apt-get install gcc"),
    ],
)
def test_a_missing_gcc_says_how_to_install_it(target: str, line: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(InputError, match=f"^{line}"):
        find_toolchain("gcc", TARGETS[target])


def test_an_unknown_toolchain_is_refused() -> None:
    with pytest.raises(InputError, match="'keil' is unknown: known are zig, gcc"):
        find_toolchain("keil", M4)


def test_zigs_own_cache_lies_beside_ours_unless_it_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("TINYSCENE_CACHE", str(tmp_path / "ours"))
    monkeypatch.delenv("ZIG_GLOBAL_CACHE_DIR", raising=False)
    caches = [compiler_environment(Toolchain("zig", ()), tmp_path)["ZIG_GLOBAL_CACHE_DIR"]]
    monkeypatch.setenv("ZIG_GLOBAL_CACHE_DIR", str(tmp_path / "named"))
    caches.append(compiler_environment(Toolchain("zig", ()), tmp_path)["ZIG_GLOBAL_CACHE_DIR"])
    assert caches == [str(tmp_path / "ours" / "zig"), str(tmp_path / "named")]


def test_zig_tells_its_version() -> None:
    assert find_toolchain("zig", M4).version().split(".")[0] == "zig 0"


def test_a_gcc_without_a_c_library_has_no_headers(tmp_path: Path) -> None:
    compiler = tmp_path / "gcc"
    compiler.write_text("#!/bin/sh\necho 'fatal error: string.h: No such file or directory' >&2\nexit 1\n")
    compiler.chmod(0o755)
    assert not Toolchain("gcc", (str(compiler),)).has_headers()
    compiler.write_text("#!/bin/sh\n")
    assert Toolchain("gcc", (str(compiler),)).has_headers()


@pytest.mark.parametrize("toolchain", ["zig", "gcc"])
@pytest.mark.parametrize("target", TARGETS)
def test_the_compiler_chooses_the_kernels_of_its_target(toolchain: str, target: str) -> None:
    if not has(toolchain, target):
        pytest.skip(f"{TARGETS[target].compiler} is not installed")
    command = find_toolchain(toolchain, TARGETS[target]).command
    header = ROOT / "firmware_bridge/runtime/tinyscene_kernels.h"
    flags = TARGETS[target].zig if toolchain == "zig" else TARGETS[target].gcc
    host = [] if TARGETS[target].bare else ["-DTINYSCENE_HOST"]
    shown = subprocess.run(
        [*command, *flags, *host, "-ffreestanding", "-dM", "-E", header], capture_output=True, text=True, check=True
    ).stdout
    names = {line.split()[1].removeprefix("TINYSCENE_").lower() for line in shown.splitlines()}
    wide = platform.machine() not in ("x86_64", "AMD64") or "__AVX2__" in shown
    expected = TARGETS[target].kernels if wide or target != "host-native" else "plain"
    assert names & {"plain", "dsp", "mve", "simd"} == {expected}


def test_a_compile_error_is_one_line(tmp_path: Path) -> None:
    broken = write(tmp_path, "int main(void)\n{\n    return nothing;\n}\n")
    with pytest.raises(
        InputError, match=r"^zig cannot compile program\.c for host: .*program\.c:3:\d+: error: .*"
    ) as told:
        build(find_toolchain("zig", HOST), HOST, [broken], tmp_path / "out")
    assert "\n" not in str(told.value)


def test_a_link_error_is_one_line(tmp_path: Path) -> None:
    calling = write(tmp_path, "int missing(void);\nint main(void) { return missing(); }\n")
    with pytest.raises(InputError, match=r"^zig cannot link out\.elf for cortex-m4: .*undefined symbol: missing$"):
        build(find_toolchain("zig", M4), M4, [calling, *harness_sources(M4)], tmp_path / "out.elf")


@pytest.mark.parametrize("toolchain", ["zig", "gcc"])
def test_equal_sources_give_equal_images_wherever_they_lie(
    toolchain: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not has(toolchain, "cortex-m4"):
        pytest.skip("arm-none-eabi-gcc is not installed")
    images = []
    for name in ("here", "elsewhere/deeper"):
        folder = tmp_path / name
        folder.mkdir(parents=True)
        monkeypatch.chdir(folder)
        sources = [write(folder, SIZED), *harness_sources(M4)]
        images.append(build(find_toolchain(toolchain, M4), M4, sources, Path("out.elf")).read_bytes())
        assert {path.name for path in folder.iterdir()} <= {"program.c", "out.elf"}  # and no litter
    assert images[0] == images[1]


@pytest.mark.parametrize("toolchain", ["zig", "gcc"])
@pytest.mark.parametrize("target", ["cortex-m4", "riscv32", "host"])
def test_the_harness_compiles_without_a_warning(toolchain: str, target: str, tmp_path: Path) -> None:
    if not has(toolchain, target):
        pytest.skip(f"{TARGETS[target].compiler} is not installed")
    chosen = TARGETS[target]
    build(
        find_toolchain(toolchain, chosen),
        chosen,
        [write(tmp_path, "int main(void)\n{\n    return 0;\n}\n"), *harness_sources(chosen)],
        tmp_path / "out",
        flags=WARNINGS,
    )


def test_sizes_name_functions_constants_values_and_zeros(sized: Path) -> None:
    sizes = {symbol.name: (symbol.kind, symbol.bytes) for symbol in image_symbols(sized)}
    assert sizes["sized_table"] == ("rodata", 1000)
    assert sizes["sized_values"] == ("data", 500)
    assert sizes["sized_zeros"] == ("bss", 3000)
    assert sizes["main"][0] == "text"
    assert sizes[".stack"] == ("bss", 65536)
    assert "sized_unused" not in sizes  # the linker drops it


@pytest.mark.parametrize("optimize", ["O0", "Os"])
def test_symbols_stay_at_every_optimization(optimize: str, tmp_path: Path) -> None:
    sources = [write(tmp_path, SIZED), *harness_sources(M4)]
    image = build(find_toolchain("zig", M4), M4, sources, tmp_path / "sized.elf", optimize=optimize)
    assert {"main", "sized_table", "sized_zeros", "harness_reset"} <= {symbol.name for symbol in image_symbols(image)}


def test_sizes_add_up_to_the_image(sized: Path) -> None:
    with sized.open("rb") as stream:
        sections = [each for each in ELFFile(stream).iter_sections() if each["sh_flags"] & 2]
        sizes = [symbol.bytes for symbol in image_symbols(sized)]
        assert sum(sizes) == sum(each["sh_size"] for each in sections)
        assert min(sizes) > 0


def test_sizes_tell_the_source_of_what_is_static(sized: Path) -> None:
    files = {symbol.name: symbol.file for symbol in image_symbols(sized)}
    assert files["vectors"] == "cortex_m.c"
    assert files["sized_table"] == ""


def test_what_is_no_image_has_no_sizes(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"program\.c: not an image"):
        image_symbols(write(tmp_path, "no ELF"))


def test_a_library_of_the_host_can_be_called(tmp_path: Path) -> None:
    source = write(tmp_path, "int twice(int x);\nint twice(int x)\n{\n    return 2 * x * FACTOR;\n}\n")
    library = build(
        find_toolchain("zig", HOST), HOST, [source], tmp_path / "twice.so", defines=["FACTOR=3"], shared=True
    )
    assert ctypes.CDLL(str(library)).twice(7) == 42


def test_memory_functions_do_what_their_names_say(tmp_path: Path) -> None:
    """Every alignment and overlap of short moves, against numpy."""
    c = ctypes.CDLL(
        str(build(find_toolchain("zig", HOST), HOST, [HARNESS / "memory.c"], tmp_path / "memory.so", shared=True))
    )
    start = np.random.default_rng(1).integers(0, 256, 96).astype(np.uint8)
    for call in (c.memcpy, c.memmove, c.memset):
        call.restype, call.argtypes = (
            ctypes.c_void_p,
            [ctypes.c_void_p] * (1 + (call is not c.memset)) + [ctypes.c_size_t],
        )
    c.memset.argtypes = [ctypes.c_void_p, ctypes.c_int, ctypes.c_size_t]
    for to in range(8):
        for size in (0, 1, 3, 16, 17, 40):
            for offset in (*range(8), 40):
                buffer, expected = start.copy(), start.copy()
                expected[to : to + size] = start[offset : offset + size]
                assert c.memmove(buffer.ctypes.data + to, buffer.ctypes.data + offset, size) == buffer.ctypes.data + to
                np.testing.assert_array_equal(buffer, expected)
            buffer, expected = start.copy(), start.copy()
            expected[to : to + size] = start[50 - to : 50 - to + size]
            c.memcpy(buffer.ctypes.data + to, buffer.ctypes.data + 50 - to, size)
            np.testing.assert_array_equal(buffer, expected)
            expected[to : to + size] = 0xA7
            c.memset(buffer.ctypes.data + to, 0x1A7, size)
            np.testing.assert_array_equal(buffer, expected)

"""What tinyscene.h promises of the C, held against compilers, linkers and analysers."""

import re
import shutil
import subprocess
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from elftools.elf.elffile import ELFFile

from tests import ROOT
from tinyscene.deploy.bundle.bundle import Bundle
from tinyscene.deploy.common.errors import InputError
from tinyscene.firmware_bridge.codegen.library import Library, make_library, write_sources
from tinyscene.firmware_bridge.emulate import answers_of, job_of
from tinyscene.firmware_bridge.targets.image import build_image, build_settings
from tinyscene.firmware_bridge.targets.toolchains import TARGETS, find_toolchain

STRICT = ["-std=c99", "-Wall", "-Wextra", "-Wconversion", "-Wshadow", "-pedantic", "-Werror"]
DEVICES = [  # toolchain, target, and a definition that chooses the kernels
    *(("gcc", target, define) for target, define in [("host", "TINYSCENE_PLAIN"), ("host-native", "TINYSCENE_HOST")]),
    *(("zig", target, define) for target, define in [("host", "TINYSCENE_PLAIN"), ("host-native", "TINYSCENE_HOST")]),
    *(
        (name, target, None)
        for name in ("zig", "gcc")
        for target in ("cortex-m3", "cortex-m4", "cortex-m55", "riscv32")
    ),
]
LIBC = {"memcpy", "memmove", "memset", "memcmp"}  # which a freestanding compiler calls by itself
COMPILERS_OWN = re.compile(r"__aeabi_\w+|__\w*(div|mod|mul|shl|shr)\w*")  # arithmetic that a processor has not
CPPCHECK = ["--enable=warning,performance,portability", "--std=c99", "--error-exitcode=1", "--quiet"]
KNOWN = [
    "--suppress=shiftTooManyBitsSigned",  # that >> is arithmetic is asserted in tinyscene_kernels.h
    "--suppress=ctuuninitvar",  # takes what a function is to fill in for what it reads
]
TIDY = [  # all that may be a mistake, but for matters of taste
    *("-*", "clang-analyzer-*", "bugprone-*"),
    *(f"-bugprone-{each}" for each in ("easily-swappable-parameters", "implicit-widening-of-multiplication-result")),
    *(f"-bugprone-{each}" for each in ("signed-char-misuse", "narrowing-conversions", "reserved-identifier")),
    "-clang-analyzer-security.insecureAPI.DeprecatedOrUnsafeBufferHandling",  # asks for memcpy_s
]


@pytest.fixture(scope="module")
def library(bundle: Bundle) -> Library:
    kernels = ("plain", "dsp", "mve", "simd")
    return make_library(bundle.graph, bundle.front_end, bundle.labels, kernels, bands=bundle.bands)


@pytest.fixture(scope="module")
def sources(library: Library, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return write_sources(library, tmp_path_factory.mktemp("library"))


def tool(name: str, package: str) -> str:
    path = shutil.which(name)
    if path is None:
        pytest.skip(f"{name} is missing: apt-get install {package}")
    return path


def compiler(toolchain: str, target: str) -> list[str]:
    chosen = TARGETS[target]
    try:
        found = find_toolchain(toolchain, chosen)
    except InputError as error:
        pytest.skip(str(error))
    flags = chosen.zig if toolchain == "zig" else chosen.gcc
    bare = (["-ffreestanding"] if chosen.bare else ["-fno-pie"]) if toolchain == "gcc" else []
    return [*found.command, *flags, *bare]


def call(command: list[str], folder: Path) -> str:
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr + done.stdout
    return done.stdout


@pytest.fixture(scope="module")
def objects(sources: list[Path]) -> Callable[[str, str, str | None], list[Path]]:
    """Strictly compiled objects, by toolchain, target and definition."""
    made: dict[tuple[str, str, str | None], list[Path]] = {}

    def compiled(toolchain: str, target: str, define: str | None) -> list[Path]:
        key = toolchain, target, define
        if key not in made:
            folder = sources[0].parent / "-".join(filter(None, key))
            folder.mkdir()
            command = [*compiler(toolchain, target), *STRICT, "-O2", *([f"-D{define}"] if define else [])]
            if "freestanding" in " ".join(command):
                command.append(f"-I{ROOT / 'firmware_bridge' / 'harness' / 'include'}")
            for source in sources:
                call([*command, "-c", str(source), "-o", str(folder / f"{source.stem}.o")], folder)
            made[key] = sorted(folder.glob("*.o"))
        return made[key]

    return compiled


@pytest.mark.parametrize("device", DEVICES, ids=lambda device: "-".join(filter(None, device)))
def test_every_file_compiles_without_a_warning(objects: Callable[..., list[Path]], device: tuple) -> None:
    assert len(objects(*device)) >= 8


def symbols(paths: list[Path]) -> list[tuple[str, str]]:
    """(kind, name) of every symbol, as nm has them."""
    lines = call([tool("nm", "binutils"), "-P", *map(str, paths)], paths[0].parent).splitlines()
    return [(fields[1], fields[0]) for line in lines if len(fields := line.split()) >= 2]


LINKED = [DEVICES[0], DEVICES[1], ("zig", "cortex-m4", None), ("zig", "cortex-m55", None), ("zig", "riscv32", None)]


@pytest.mark.parametrize("device", LINKED, ids=lambda device: "-".join(filter(None, device)))
def test_nothing_is_called_but_what_a_freestanding_compiler_has(
    objects: Callable[..., list[Path]], device: tuple
) -> None:
    found = symbols(objects(*device))
    defined = {name for kind, name in found if kind != "U"}
    foreign = {name for kind, name in found if kind == "U" and name not in defined}
    assert {name for name in foreign - LIBC if not COMPILERS_OWN.fullmatch(name)} == set()


@pytest.mark.parametrize("device", LINKED, ids=lambda device: "-".join(filter(None, device)))
def test_there_is_no_state_outside_of_the_memory_handed_over(objects: Callable[..., list[Path]], device: tuple) -> None:
    writable = {name for kind, name in symbols(objects(*device)) if kind in "bBDdCGgSs"}
    assert {name for name in writable if name.startswith("tinyscene")} == set()
    assert not {kind for kind, _ in symbols(objects(*DEVICES[0]))} & set("bBC")


def test_every_name_that_a_linker_sees_has_the_prefix(objects: Callable[..., list[Path]]) -> None:
    for device in LINKED:
        names = {name for kind, name in symbols(objects(*device)) if kind in "TDBRCVW"}
        assert {name for name in names if not name.startswith("tinyscene_")} == set()


def test_every_macro_of_the_public_header_has_the_prefix(sources: list[Path]) -> None:
    folder = sources[0].parent
    text = (folder / "tinyscene.h").read_text() + (folder / "tinyscene_config.h").read_text()
    assert {name for name in re.findall(r"#define (\w+)", text) if not name.upper().startswith("TINYSCENE_")} == set()


def test_sections_of_ones_choice_hold_kernels_weights_and_tables(sources: list[Path], tmp_path: Path) -> None:
    names = {"CODE": ".itcm", "WEIGHTS": ".qspi", "TABLES": ".dtcm"}
    chosen = [f'-DTINYSCENE_{each}_SECTION="{name}"' for each, name in names.items()]
    command = [*compiler("gcc", "cortex-m4"), *STRICT, "-O2", f"-I{ROOT / 'firmware_bridge' / 'harness' / 'include'}"]
    sizes: Counter[str] = Counter()
    for source in sources:
        call([*command, *chosen, "-c", str(source), "-o", f"{source.stem}.o"], tmp_path)
        with (tmp_path / f"{source.stem}.o").open("rb") as file:
            sizes.update({each.name: each["sh_size"] for each in ELFFile(file).iter_sections()})
    assert sizes[".qspi"] > 1_000  # of a small network
    assert sizes[".dtcm"] > 20_000
    assert sizes[".itcm"] > 2 * sum(size for name, size in sizes.items() if name.startswith(".text"))
    assert sum(size for name, size in sizes.items() if name.startswith(".rodata")) < 1_500  # labels and structures


def test_the_public_header_is_good_cxx(sources: list[Path], tmp_path: Path) -> None:
    program = tmp_path / "program.cpp"
    program.write_text(
        '#include "tinyscene.h"\n#include "tinyscene.h"\nint main() { return tinyscene_best(nullptr); }\n'
    )
    flags = ["-std=c++11", "-Wall", "-Wextra", "-pedantic", "-Werror", f"-I{sources[0].parent}"]
    made = str(tmp_path / "program.o")
    call([tool("g++", "g++"), *flags, "-c", str(program), "-o", made], tmp_path)
    assert ("U", "tinyscene_best") in symbols([Path(made)])


@pytest.mark.parametrize("define", ["TINYSCENE_PLAIN", "TINYSCENE_HOST"])
def test_no_function_calls_itself_and_none_has_a_stack_of_unknown_size(
    sources: list[Path], tmp_path: Path, define: str
) -> None:
    command = [tool("gcc", "gcc"), *STRICT, "-O2", "-march=native", f"-D{define}", "-fcallgraph-info=su"]
    calls: dict[str, set[str]] = {}
    for source in sources:
        call([*command, "-c", str(source), "-o", f"{source.stem}.o"], tmp_path)
        graph = (tmp_path / f"{source.stem}.ci").read_text()
        assert "bytes (dynamic)" not in graph  # "dynamic,bounded" is an aligned one
        for caller, called in re.findall(r'edge: \{ sourcename: "([^"]+)" targetname: "([^"]+)"', graph):
            calls.setdefault(caller.split(":")[-1], set()).add(called.split(":")[-1])
    assert "tinyscene_network_step" in calls["tinyscene_step"]

    def reached(name: str) -> set[str]:
        found, edge = set(), {name}
        while edge := {each for called in edge for each in calls.get(called, ())} - found:
            found |= edge
        return found

    assert [name for name in calls if name in reached(name)] == []


@pytest.mark.parametrize("define", ["TINYSCENE_PLAIN", "TINYSCENE_DSP", "TINYSCENE_MVE"])
def test_cppcheck_finds_nothing(sources: list[Path], define: str) -> None:
    folder = sources[0].parent
    hand_written = [str(path) for path in sources if path.stem != "tinyscene_weights"]
    extra = [] if define == "TINYSCENE_PLAIN" else ["--suppress=syntaxError", "--suppress=unknownMacro"]
    call(
        [tool("cppcheck", "cppcheck"), *CPPCHECK, *extra, *KNOWN, f"-D{define}", f"-I{folder}", *hand_written],
        folder,
    )


@pytest.mark.slow
def test_clang_tidy_finds_nothing(sources: list[Path]) -> None:
    folder = sources[0].parent
    hand_written = [str(path) for path in sources if path.stem not in ("tinyscene_weights", "tinyscene_tables")]
    command = [tool("clang-tidy", "clang-tidy"), f"--checks={','.join(TIDY)}", "--warnings-as-errors=*", "--quiet"]
    call([*command, *hand_written, "--", "-std=c99", "-DTINYSCENE_PLAIN", f"-I{folder}"], folder)


@pytest.mark.slow
@pytest.mark.parametrize("target", ["host", "host-native"])
def test_golden_sounds_run_clean_under_the_sanitizers(bundle: Bundle, tmp_path: Path, target: str) -> None:
    tool("gcc", "gcc")
    device = build_settings(target, "gcc", optimize="O1")
    library = make_library(bundle.graph, bundle.front_end, bundle.labels, (device.kernels,))
    flags = ["-fsanitize=address,undefined", "-fno-sanitize-recover=all"]
    image = build_image(library, device, tmp_path, flags=flags)
    (image.parent / "job.bin").write_bytes(job_of(bundle.vectors.pcm))
    call([str(image)], image.parent)
    answers = answers_of((image.parent / "result.bin").read_bytes())
    assert np.array_equal(answers.logits, bundle.vectors.logits)

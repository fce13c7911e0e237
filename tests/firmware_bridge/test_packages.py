"""Packages: what an ecosystem's own tools ask of a library, and that what is inside answers as the bundle does.

No board, no Arduino, PlatformIO or Zephyr is here: metadata is held to their specifications' rules, and the examples
are run in test_examples.py.
"""

import importlib.util
import io
import json
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
import yaml

from tests import ROOT
from tests.firmware_bridge.packaged import COSTS, SKETCHES, golden_lines, need, recording, run, write
from tinyscene.deploy.bundle.bundle import Bundle
from tinyscene.deploy.common.errors import InputError
from tinyscene.firmware_bridge.codegen.library import Library, make_library
from tinyscene.firmware_bridge.packaging import PACKAGES, WASM_EXPORTS, WASM_KERNELS, WASM_MODULES, package, packed
from tinyscene.firmware_bridge.templates import TEMPLATES

HOME = "https://example.org/tinyscene"


@pytest.fixture(scope="module")
def library(bundle: Bundle) -> Library:
    return make_library(bundle.graph, bundle.front_end, bundle.labels)


@pytest.fixture(scope="module")
def made(library: Library, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The packages that need no compiler, each in its folder."""
    folder = tmp_path_factory.mktemp("packages")
    return {
        kind: write(package(library, kind, "1.2.3", COSTS, HOME), folder / kind) for kind in PACKAGES if kind != "wasm"
    }


@pytest.fixture(scope="module")
def wasm_library(bundle: Bundle) -> Library:
    return make_library(bundle.graph, bundle.front_end, bundle.labels, WASM_KERNELS)


@pytest.fixture(scope="module")
def wasm(wasm_library: Library, tmp_path_factory: pytest.TempPathFactory) -> Path:
    if importlib.util.find_spec("ziglang") is None:
        pytest.skip("ziglang is not installed")
    return write(package(wasm_library, "wasm", "1.2.3"), tmp_path_factory.mktemp("wasm"))


# all packages


@pytest.mark.parametrize("kind", [kind for kind in PACKAGES if kind != "wasm"])
def test_a_package_holds_every_source_as_it_is(kind: str, made: dict[str, Path], library: Library) -> None:
    folders = [made[kind] / name for name in ("src", "include")]
    found = {path.name: path.read_text() for folder in folders for path in folder.glob("*")}
    assert found == library.files


@pytest.mark.parametrize("kind", [kind for kind in PACKAGES if kind != "wasm"])
def test_a_package_has_a_license_a_short_readme_and_nothing_left_to_fill_in(
    kind: str, made: dict[str, Path], library: Library
) -> None:
    _check_common(made[kind], library)


def _check_common(folder: Path, library: Library) -> None:
    assert (folder / "LICENSE").read_bytes() == (ROOT / "LICENSE").read_bytes()
    readme = (folder / "README.md").read_text()
    assert len(readme.splitlines()) <= 60
    assert f"at {library.config['SAMPLE_RATE']} Hz" in readme
    assert f"{library.config['BYTES']} bytes of RAM" in readme
    assert "every second, on the last second:" in readme
    assert "**Not tested:**" in readme
    for path in folder.rglob("*"):
        content = path.read_bytes() if path.is_file() else b""
        assert not re.search(rb"\{\{ \w+ \}\}|\{[%#] ", content) or path.suffix == ".wasm", path
        assert path.suffix != ".j2"
        assert not re.search(rb"/tmp|/home/|/root/|" + re.escape(str(ROOT)).encode(), content), path


def test_a_readme_has_the_clock_and_the_sound_that_waits(made: dict[str, Path], library: Library) -> None:
    for kind in ("arduino", "platformio", "zephyr", "espidf", "cmake"):
        text = (made[kind] / "README.md").read_text()
        rows = [line.split("|")[1:-1] for line in text.splitlines() if re.match(r"\| \d+ MHz", line)]
        assert [row[0].split()[0] for row in rows] == ["32", "48", "64", "100", "160", "240", "480"]
        assert [row[1].strip() for row in rows[:2]] == ["too slow", "too slow"]  # 43.0 + 12.2 M instructions a second
        frames = np.ceil(43.0 / (64 - 12.2) * 32_000 / 500)  # of the shortest hop
        assert float(rows[2][1]) == round(32_000 / (500 * frames), 2)
        assert float(rows[2][2].replace(",", "")) == 2 * 32 * 839
        assert ("The examples measure it" in text) == (kind != "cmake")
        assert "bytes of sound wait" not in str(package(library, kind, "1.2.3")["README.md"])


@pytest.mark.parametrize("kind", ["conan", "", "Arduino"])
def test_an_unknown_package_is_refused_with_the_known_ones(kind: str, library: Library) -> None:
    with pytest.raises(InputError, match="known are cmake, arduino, platformio, zephyr, espidf, cmsis, wasm, board"):
        package(library, kind, "1.2.3")


@pytest.mark.parametrize("version", ["1.2", "v1.2.3", "1.2.3\n", "01.2.3", "1.2.3.dev1", ""])
def test_a_version_that_an_ecosystem_would_not_take_is_refused(version: str, library: Library) -> None:
    with pytest.raises(InputError, match="three numbers"):
        package(library, "cmake", version)


def test_every_template_is_of_a_known_package() -> None:
    shared = {"LICENSE", "clock.md.j2", "needs.md.j2", "scene_cost.h.j2", "sketch.ino.j2"}
    assert {path.name for path in TEMPLATES.iterdir()} == {*PACKAGES, "sources", "web", *shared}


# CMake


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


# PlatformIO


def test_platformio_metadata_keeps_to_the_manifest_schema(made: dict[str, Path]) -> None:
    folder = made["platformio"]
    manifest: dict[str, Any] = json.loads((folder / "library.json").read_text())
    assert re.fullmatch(r"[^:;/,@<>]{1,100}", manifest["name"])
    assert manifest["version"] == "1.2.3"
    assert 1 <= len(manifest["description"]) <= 1000
    assert manifest["license"] == "Apache-2.0"
    assert all(re.fullmatch(r"[a-z\d\-+. ]{1,50}", keyword) for keyword in manifest["keywords"])
    assert all(1 <= len(author["name"]) <= 50 for author in manifest["authors"])
    assert manifest["frameworks"] == manifest["platforms"] == "*"
    assert (folder / manifest["build"]["srcDir"] / manifest["headers"]).is_file()
    for example in manifest["examples"]:
        assert re.fullmatch(r"[a-zA-Z\d\-_/]{1,100}", example["name"])
        assert all((folder / example["base"] / name).is_file() for name in example["files"])
    assert len(manifest["examples"]) == len(list((folder / "examples").iterdir()))


def test_platformio_examples_are_the_tested_ones(made: dict[str, Path]) -> None:
    examples = made["platformio"] / "examples"
    for name in SKETCHES:
        path = Path(name) / f"{name}.ino"
        assert (examples / path).read_bytes() == (made["arduino"] / "examples" / path).read_bytes()
    assert (examples / "native/scene.c").read_bytes() == (made["cmake"] / "example/scene.c").read_bytes()


# CMSIS-Pack


def test_the_pack_description_has_what_its_schema_asks(made: dict[str, Path], library: Library) -> None:
    """The rules of PACK.xsd 1.7.32 for what is used here: it is not among the files of any package registry."""
    folder = made["cmsis"]
    root = ElementTree.parse(folder / "tinyscene.tinyscene.pdsc").getroot()
    text = {child.tag: (child.text or "").strip() for child in root}
    assert root.tag == "package"
    assert re.fullmatch(r"\d+\.\d+(\.\d+)?", root.attrib["schemaVersion"])
    assert {"name", "vendor", "description", "url", "releases"} <= text.keys()
    assert len(text) == len(root)  # each once
    assert all(re.fullmatch(r"[-_A-Za-z0-9]+", text[name]) for name in ("name", "vendor"))
    assert text["url"] == HOME
    assert len(text["description"]) <= 256
    assert [release.attrib["version"] for release in root.findall("releases/release")] == ["1.2.3"]
    (component,) = root.findall("components/component")
    assert component.attrib.keys() == {"Cvendor", "Cclass", "Cgroup", "Cversion"}
    assert component.attrib["Cversion"] == "1.2.3"
    assert {child.tag for child in component} == {"description", "files"}
    files = component.findall("files/file")
    assert {each.attrib["category"] for each in files} == {"doc", "include", "header", "sourceC"}
    assert all((folder / each.attrib["name"]).exists() for each in files)
    listed = {Path(each.attrib["name"]).name for each in files if each.attrib["category"] == "sourceC"}
    assert listed == {name for name in library.files if name.endswith(".c")}
    description = root.find("taxonomy/description")
    assert description is not None
    assert description.attrib == {key: component.attrib[key] for key in ("Cclass", "Cgroup")}


def test_the_pack_holds_the_folder_and_is_the_same_each_time(library: Library) -> None:
    files = package(library, "cmsis", "1.2.3", COSTS, HOME)
    ((name, content),) = packed(files, "1.2.3").items()
    assert name == "tinyscene.tinyscene.1.2.3.pack"
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        assert {entry: archive.read(entry).decode() for entry in archive.namelist()} == files
    assert packed(dict(reversed(files.items())), "1.2.3") == {name: content}


@pytest.mark.slow
def test_what_the_pack_lists_compiles_for_a_cortex_m4(made: dict[str, Path], tmp_path: Path) -> None:
    need("arm-none-eabi-gcc")
    root = ElementTree.parse(made["cmsis"] / "tinyscene.tinyscene.pdsc").getroot()
    files = [made["cmsis"] / each.attrib["name"] for each in root.findall("components/component/files/file")]
    sources = [path for path in files if path.suffix == ".c"]
    flags = ("-mcpu=cortex-m4", "-mthumb", "-std=c99", "-Wall", "-Wextra", "-Werror", "-ffreestanding")
    headers = ROOT / "firmware_bridge/harness/include"  # string.h, which Debian's compiler lacks
    run("arm-none-eabi-gcc", *flags, f"-I{made['cmsis'] / 'include'}", f"-I{headers}", "-c", *sources, cwd=tmp_path)


# Zephyr


def test_the_zephyr_module_has_only_documented_keys_and_what_it_names_is_there(made: dict[str, Path]) -> None:
    module = yaml.safe_load((made["zephyr"] / "zephyr/module.yml").read_text())
    assert module.keys() <= {"name", "build", "tests", "samples", "boards", "blobs", "security", "package-managers"}
    assert module["build"].keys() <= {"cmake", "kconfig", "cmake-ext", "kconfig-ext", "depends", "settings"}
    assert (made["zephyr"] / module["build"]["cmake"] / "CMakeLists.txt").is_file()
    assert (made["zephyr"] / module["build"]["kconfig"]).is_file()
    (folder,) = module["samples"]
    samples = [yaml.safe_load(path.read_text()) for path in (made["zephyr"] / folder).glob("*/sample.yaml")]
    assert [sample.keys() for sample in samples] == [{"sample", "tests"}]
    assert all(name.startswith("sample.") and "filter" in test for name, test in samples[0]["tests"].items())


def test_the_zephyr_option_parses_and_the_sample_sets_it(made: dict[str, Path]) -> None:
    lines = (made["zephyr"] / "zephyr/Kconfig").read_text().splitlines()
    statements = [line for line in lines if line and not line.startswith(("#", "\t  "))]
    assert statements[0] == "config TINYSCENE"
    assert [re.match(r"\t(\w+)", line)[1] for line in statements[1:]] == ["bool", "help"]  # pyright: ignore[reportOptionalSubscript]
    settings = (made["zephyr"] / "samples/scene/prj.conf").read_text().splitlines()
    assert all(re.fullmatch(r"CONFIG_[A-Z0-9_]+=(y|\d+)", line) for line in settings)
    assert "CONFIG_TINYSCENE=y" in settings


def test_the_zephyr_module_in_cmake_with_stand_ins_lists_all_sources_if_it_is_on(
    made: dict[str, Path], library: Library, tmp_path: Path
) -> None:
    need("cmake")
    lists = "cmake_minimum_required(VERSION 3.20)\nproject(stand_in NONE)\n"
    for function in ("zephyr_library_named", "zephyr_library_sources", "zephyr_include_directories"):
        lists += f"function({function})\nforeach(each ${{ARGV}})\nmessage(STATUS {function}=${{each}})\n"
        lists += "endforeach()\nendfunction()\n"
    lists += f"add_subdirectory({made['zephyr'] / 'zephyr'} module)\n"
    write({"CMakeLists.txt": lists}, tmp_path)
    output = run("cmake", "-S", tmp_path, "-B", tmp_path / "on", "-DCONFIG_TINYSCENE=y")
    sources = [Path(path) for path in re.findall(r"zephyr_library_sources=(.+)", output)]
    assert all(path.is_file() for path in sources)
    assert {path.name for path in sources} == {name for name in library.files if name.endswith(".c")}
    (include,) = re.findall(r"zephyr_include_directories=(.+)", output)
    assert Path(include, "tinyscene.h").is_file()
    assert "zephyr_library" not in run("cmake", "-S", tmp_path, "-B", tmp_path / "off")


# WebAssembly


class Module:
    """tinyscene.wasm in wasmtime."""

    def __init__(self, path: Path) -> None:
        wasmtime = pytest.importorskip("wasmtime")
        engine = wasmtime.Engine()
        self.module = wasmtime.Module.from_file(engine, str(path))
        self.store = wasmtime.Store(engine)
        self.exports = wasmtime.Instance(self.store, self.module, []).exports(self.store)

    def call(self, name: str, *arguments: int) -> Any:
        return self.exports[name](self.store, *arguments)

    def logits(self, pcm: np.ndarray) -> list[np.ndarray]:
        decided = []
        for start in range(0, len(pcm), room := self.call("tinyscene_wasm_pcm_samples")):
            block = pcm[start : start + room]
            self.exports["memory"].write(self.store, block.tobytes(), self.call("tinyscene_wasm_pcm"))
            at = 0
            while at < len(block):
                status = self.call("tinyscene_wasm_push", at, len(block) - at)
                assert status >= 0
                at += self.call("tinyscene_wasm_taken")
                if status == 1:
                    assert self.call("tinyscene_run", self.call("tinyscene_wasm_instance")) == 0
                    start_at = self.call("tinyscene_wasm_scores")
                    end = start_at + self.call("tinyscene_wasm_classes")
                    content = self.exports["memory"].read(self.store, start_at, end)
                    decided.append(np.frombuffer(content, np.int8))
        return decided


def test_the_wasm_package_has_a_license_a_short_readme_and_nothing_left_to_fill_in(
    wasm: Path, wasm_library: Library
) -> None:
    _check_common(wasm, wasm_library)
    for name in WASM_MODULES:
        assert f"{(wasm / name).stat().st_size:,} bytes" in (wasm / "README.md").read_text()


@pytest.mark.parametrize("name", WASM_MODULES)
def test_a_wasm_module_needs_nothing_and_exports_what_it_says(name: str, wasm: Path) -> None:
    module = Module(wasm / name).module
    assert list(module.imports) == []
    assert {each.name for each in module.exports} == {"memory", *WASM_EXPORTS}


@pytest.mark.parametrize("name", WASM_MODULES)
def test_a_wasm_module_in_wasmtime_gives_the_golden_logits(name: str, wasm: Path, bundle: Bundle) -> None:
    module = Module(wasm / name)
    assert module.call("tinyscene_wasm_start") == 0
    np.testing.assert_array_equal(module.logits(bundle.vectors.pcm.ravel()), bundle.vectors.logits)


def test_only_one_wasm_module_has_vectors(wasm: Path) -> None:
    wasmtime = pytest.importorskip("wasmtime")
    config = wasmtime.Config()
    config.wasm_relaxed_simd = config.wasm_simd = False
    engine = wasmtime.Engine(config)
    wasmtime.Module.validate(engine, (wasm / "tinyscene_plain.wasm").read_bytes())
    with pytest.raises(wasmtime.WasmtimeError, match="SIMD"):
        wasmtime.Module.validate(engine, (wasm / "tinyscene.wasm").read_bytes())


def test_the_wasm_module_refuses_a_block_beyond_its_buffer(wasm: Path) -> None:
    module = Module(wasm / "tinyscene.wasm")
    assert module.call("tinyscene_wasm_start") == 0
    room = module.call("tinyscene_wasm_pcm_samples")
    for start, samples in ((0, room + 1), (1, room), (-1, 1), (0, -1), (2**31 - 1, 2**31 - 1)):
        assert module.call("tinyscene_wasm_push", start, samples) < 0
        assert module.call("tinyscene_wasm_taken") == 0


SCRIPT = """
import { readFileSync } from "node:fs";
import { Tinyscene } from "./tinyscene.mjs";
const raw = readFileSync("sound.raw");
const pcm = new Int16Array(raw.buffer.slice(raw.byteOffset, raw.byteOffset + raw.length));
const urls = ["tinyscene.wasm", "tinyscene_plain.wasm"].map((name) => new URL(name, import.meta.url));
const ways = [[urls[0]], [readFileSync(urls[0])], [new Uint8Array(9), urls[1]], urls];
const results = [];
for (const way of ways) {
    const scene = await Tinyscene.load(...way);
    const decisions = [];
    for (let at = 0; at < pcm.length; at += 7001) decisions.push(...scene.push(pcm.subarray(at, at + 7001)));
    scene.reset();
    const again = scene.push(pcm).length;
    for (const decision of decisions) decision.logits = Array.from(decision.logits);
    results.push({ rate: scene.sampleRate, labels: scene.labels, again, decisions });
}
let refused = "";
try { (await Tinyscene.load(...ways[1])).push([1, 2, 3]); } catch (error) { refused = error.message; }
console.log(JSON.stringify({ results, refused }));
"""


def test_the_javascript_wrapper_in_node_gives_the_golden_logits_with_labels_and_probabilities(
    wasm: Path, bundle: Bundle, tmp_path: Path
) -> None:
    need("node")
    folder = tmp_path / "package"
    shutil.copytree(wasm, folder)
    write({"use.mjs": SCRIPT}, folder)
    recording(bundle, folder / "sound.raw")
    found = json.loads(run("node", "use.mjs", cwd=folder))
    assert found["refused"] == "tinyscene: push takes an Int16Array"
    output = bundle.graph.output.q
    real = output.scale * (bundle.vectors.logits.astype(float) - output.zero_point)
    expected = np.exp(real) / np.exp(real).sum(1, keepdims=True)
    for result in found["results"]:
        assert (result["rate"], result["labels"]) == (bundle.front_end.sample_rate, list(bundle.labels))
        assert result["again"] == len(expected)
        assert [each["label"] for each in result["decisions"]] == golden_lines(bundle)
        np.testing.assert_array_equal([each["logits"] for each in result["decisions"]], bundle.vectors.logits)
        np.testing.assert_allclose([each["probabilities"] for each in result["decisions"]], expected, atol=1e-9)


USE = """
import { Tinyscene } from "tinyscene";
const scene = await Tinyscene.open();
const pcm = new Int16Array(scene.sampleRate * 2);
console.log(JSON.stringify(scene.push(pcm).map((each) => each.label)));
"""
TYPED = """
import { Tinyscene, type Decision } from "tinyscene";
const scene: Tinyscene = await Tinyscene.open();
const decisions: Decision[] = scene.push(new Int16Array(scene.sampleRate));
for (const each of decisions) console.log(each.label, each.index, each.logits.length, each.probabilities[0]);
scene.reset();
const rows: number = scene.mels * scene.frames + scene.labels.length;
export { rows };
"""


@pytest.fixture
def project(wasm: Path, tmp_path: Path) -> Path:
    """A JavaScript project that the package is installed in."""
    shutil.copytree(wasm, tmp_path / "node_modules/tinyscene")
    return write({"package.json": '{"type": "module"}', "use.mjs": USE, "use.ts": TYPED}, tmp_path)


def test_the_npm_package_lists_its_files_and_exports_what_is_there(wasm: Path) -> None:
    manifest: dict[str, Any] = json.loads((wasm / "package.json").read_text())
    assert re.fullmatch(r"[a-z0-9][a-z0-9._-]*", manifest["name"])
    assert manifest["version"] == "1.2.3"
    assert {path.name for path in wasm.iterdir()} == {*manifest["files"], "package.json"}
    main = manifest["exports"]["."]
    named = [manifest["main"], manifest["types"], *main.values()]
    named += [path for path in manifest["exports"].values() if isinstance(path, str)]
    assert all((wasm / path).is_file() for path in named)


def test_the_npm_package_is_imported_by_its_name_and_finds_its_modules(project: Path, bundle: Bundle) -> None:
    need("node")
    (first, second) = json.loads(run("node", "use.mjs", cwd=project))
    assert first == second
    assert first in bundle.labels


@pytest.mark.slow
def test_the_npm_package_bundled_by_esbuild_runs(project: Path, bundle: Bundle) -> None:
    need("node", "esbuild")
    run("esbuild", "use.mjs", "--bundle", "--format=esm", "--platform=node", "--outfile=out/use.mjs", cwd=project)
    for name in WASM_MODULES:
        shutil.copy(project / "node_modules/tinyscene" / name, project / "out")
    (first, _) = json.loads(run("node", "out/use.mjs", cwd=project))
    assert first in bundle.labels


@pytest.mark.slow
def test_the_types_of_the_npm_package_suit_a_program(project: Path) -> None:
    need("tsc")
    options = ("--noEmit", "--strict", "--module", "nodenext", "--target", "es2022", "--lib", "es2022,dom")
    run("tsc", *options, "use.ts", cwd=project)
    (project / "use.ts").write_text(TYPED.replace("new Int16Array(scene.sampleRate)", "[1, 2, 3]"))
    assert "Type 'number[]'" in run("tsc", *options, "use.ts", cwd=project, ok=False)

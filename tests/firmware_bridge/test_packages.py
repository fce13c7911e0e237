"""Packages: what an ecosystem's own tools ask of a library, and that what is inside answers as the bundle does.

No board, no Arduino, PlatformIO or Zephyr is here: metadata is held to their specifications' rules, and the examples
are run in test_examples.py.
"""

import io
import json
import re
import zipfile
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
import yaml

from tests import ROOT
from tests.firmware_bridge.packaged import COSTS, HOME, SKETCHES, check_package, need, run, write
from tinyscene.deploy.common.errors import InputError
from tinyscene.firmware_bridge.codegen.library import Library
from tinyscene.firmware_bridge.packaging import PACKAGES, package, packed
from tinyscene.firmware_bridge.templates import TEMPLATES

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
    check_package(made[kind], library)


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

"""What packages say of themselves: Arduino's library specification, and addresses, of which none is invented."""

import re
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.firmware_bridge.packaged import COSTS, HOME, SKETCHES, write
from tinyscene.firmware_bridge.codegen.library import Library
from tinyscene.firmware_bridge.packaging import PACKAGES, package

WITH_ADDRESS = {"arduino": "library.properties", "platformio": "library.json", "espidf": "idf_component.yml"}
# https://docs.arduino.cc/arduino-cli/library-specification, format 1.5, revision 2.2, read in November 2026
REQUIRED = {"name", "version", "author", "maintainer", "sentence", "paragraph", "category", "url", "architectures"}
CATEGORIES = {
    *("Display", "Communication", "Signal Input/Output", "Sensors", "Device Control", "Timing", "Data Storage"),
    *("Data Processing", "Other"),
}
TOKENS = {"KEYWORD1", "KEYWORD2", "KEYWORD3", "LITERAL1", "LITERAL2"}
SOURCES = {".c", ".cpp", ".h", ".S", ".ino"}
FIELDS: dict[str, Callable[[str], object]] = {
    "name": lambda text: re.fullmatch(r"(?=.*[A-Za-z])(?!arduino)[a-z0-9][a-z0-9 _.-]{,62}", text, re.IGNORECASE),
    "version": lambda text: re.fullmatch(r"(0|[1-9]\d*)(\.(0|[1-9]\d*)){1,2}", text),
    "author": bool,
    "maintainer": bool,
    "sentence": bool,
    "paragraph": bool,
    "category": CATEGORIES.__contains__,
    "url": lambda text: re.fullmatch(r"https?://[a-z0-9.-]+\.[a-z]+(/\S*)?", text),
    "architectures": lambda text: all(re.fullmatch(r"\*|[a-z0-9_]+", each) for each in text.split(",")),
    "includes": bool,
}


def faults(folder: Path) -> list[str]:
    """Where a library for Arduino does not keep to the specification."""
    fields = dict(line.split("=", 1) for line in (folder / "library.properties").read_text("utf-8").splitlines())
    found = [f"no {name}" for name in sorted(REQUIRED - fields.keys())]
    found += [f"{name}={text}" for name, text in fields.items() if not FIELDS.get(name, lambda _: False)(text)]
    found += [name for name in fields.get("includes", "").split(",") if not (folder / "src" / name).is_file()]
    found += [path.name for path in folder.iterdir() if path.suffix in SOURCES or path.name == "utility"]
    for sketch in (folder / "examples").iterdir():
        if not re.fullmatch(r"[A-Za-z0-9][\w.-]{,62}", sketch.name) or not (sketch / f"{sketch.name}.ino").is_file():
            found.append(f"sketch {sketch.name}")
    for line in (folder / "keywords.txt").read_text("utf-8").splitlines():
        if line and not line.startswith("#"):
            words = line.split("\t")
            if not 2 <= len(words) <= 4 or not re.fullmatch(r"\w+", words[0]) or words[1] not in TOKENS:
                found.append(f"keyword {line}")
    return found


@pytest.fixture
def arduino(library: Library, tmp_path: Path) -> Path:
    return write(package(library, "arduino", "1.2.3", COSTS, HOME), tmp_path)


def test_the_arduino_package_keeps_to_the_library_specification(arduino: Path) -> None:
    assert faults(arduino) == []


def test_without_the_projects_address_the_arduino_package_lacks_that_alone(library: Library, tmp_path: Path) -> None:
    assert faults(write(package(library, "arduino", "1.2.3", COSTS), tmp_path)) == ["no url"]


@pytest.mark.parametrize(
    ("file", "old", "new"),
    [
        ("library.properties", "name=tinyscene", "name=Arduino tinyscene"),
        ("library.properties", "name=tinyscene", "name=2026"),
        ("library.properties", "version=1.2.3", "version=01.2"),
        ("library.properties", "category=Signal Input/Output", "category=Audio"),
        ("library.properties", "url=https://", "url="),
        ("library.properties", "esp32,", "esp32, "),
        ("library.properties", "includes=tinyscene.h", "includes=scene.h"),
        ("library.properties", "sentence=", "summary="),
        ("keywords.txt", "tinyscene\t", "tinyscene "),
    ],
)
def test_what_the_specification_forbids_is_found(file: str, old: str, new: str, arduino: Path) -> None:
    text = (arduino / file).read_text()
    assert old in text
    (arduino / file).write_text(text.replace(old, new, 1))
    assert faults(arduino)


def test_the_arduino_package_names_architectures_that_can_run_it(arduino: Path) -> None:
    (line,) = re.findall(r"^architectures=(.+)$", (arduino / "library.properties").read_text(), re.MULTILINE)
    assert {"esp32", "mbed_nano", "mbed_portenta"} <= set(line.split(","))
    assert not {"avr", "megaavr", "*"} & set(line.split(","))  # whose int has 16 bits


def test_arduino_keywords_are_those_of_the_header(arduino: Path, library: Library) -> None:
    header = library.files["tinyscene.h"] + library.files["tinyscene_config.h"]
    keywords = re.findall(r"^(\w+)\t", (arduino / "keywords.txt").read_text(), re.MULTILINE)
    assert all(re.search(rf"\b{keyword}\b", header) for keyword in keywords)
    functions = set(re.findall(r"^[a-z].*[ *](tinyscene_\w+)\(.*;$", header, re.MULTILINE))
    assert "tinyscene_step" in functions
    assert functions <= set(keywords)


def test_arduino_sketches_are_those_that_are_tested(arduino: Path) -> None:
    assert sorted(path.name for path in (arduino / "examples").iterdir()) == sorted(SKETCHES)


# addresses


def test_manifests_have_the_projects_address(library: Library) -> None:
    for kind, name in WITH_ADDRESS.items():
        assert HOME in str(package(library, kind, "1.2.3", COSTS, HOME)[name])


@pytest.mark.parametrize("kind", [kind for kind in PACKAGES if kind != "wasm"])
def test_without_the_projects_address_a_package_has_none_and_says_where_one_is_asked_for(
    kind: str, library: Library
) -> None:
    files = package(library, kind, "1.2.3", COSTS)
    text = "\n".join(str(content) for name, content in files.items() if name != "LICENSE")
    theirs = ("http://www.w3.org/", "https://raw.githubusercontent.com/platformio/platformio-core/")
    assert [each for each in re.findall(r"https?://[^\s\"<>]+", text) if not each.startswith(theirs)] == []
    asked = {"arduino": "`url` of library.properties", "cmsis": "`<url>` of tinyscene.tinyscene.pdsc"}
    readme = str(files["README.md"])
    assert (asked.get(kind, "?") in readme) == (kind in asked)
    assert "To publish it" not in str(package(library, kind, "1.2.3", COSTS, HOME)["README.md"])

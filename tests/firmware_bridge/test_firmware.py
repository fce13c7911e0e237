"""`tinyscene firmware`: what it writes, what it says, what it refuses."""

import json
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest

from tests.conftest import ROOT
from tinyscene.deploy.bundle.bundle import Bundle
from tinyscene.deploy.common.files import cache_folder
from tinyscene.deploy.graph.graph import Graph
from tinyscene.deploy.graph.operators import Conv2D
from tinyscene.firmware_bridge import native
from tinyscene.firmware_bridge.codegen.library import make_library
from tinyscene.firmware_bridge.emulate import emulate
from tinyscene.firmware_bridge.firmware import write_firmware
from tinyscene.firmware_bridge.packaging import PACKAGES
from tinyscene.firmware_bridge.targets.image import build_settings
from tinyscene.firmware_bridge.targets.toolchains import TARGETS, build, find_toolchain


@pytest.fixture(scope="module")
def written(bundle: Bundle, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    folder = tmp_path_factory.mktemp("firmware") / "fw"
    return folder, write_firmware(bundle, folder).as_json()


def test_the_folder_holds_the_sources_a_readme_a_report_and_a_picture(written: tuple[Path, dict]) -> None:
    folder, report = written
    names = {path.name for path in folder.iterdir()}
    assert names == set(report["files"])
    assert names > {"tinyscene.h", "tinyscene.c", "tinyscene_dsp.c", "tinyscene_mve.c", "README.md", "LICENSE"}
    assert json.loads((folder / "report.json").read_text())["plan"] == report["plan"]


def test_the_report_says_what_the_library_takes_and_what_made_it(written: tuple[Path, dict], bundle: Bundle) -> None:
    report = written[1]
    assert report["memory_bytes"] == report["arena_bytes"] + report["state_bytes"]
    assert max(row["offset"] + row["bytes"] for row in report["plan"]) <= report["arena_bytes"]
    assert report["model"] == bundle.content["files"]["graph.safetensors"]
    assert report["flash"]["weights"] >= bundle.content["budget"]["deployed_bytes"]
    assert report["made_by"]["versions"]["tinyscene"]


@pytest.mark.slow
def test_the_readmes_program_decides_as_the_model_does_by_the_readmes_commands(
    written: tuple[Path, dict], bundle: Bundle, tmp_path: Path
) -> None:
    if shutil.which("cc") is None:
        pytest.skip("cc is missing: apt-get install gcc")
    folder = shutil.copytree(written[0], tmp_path / "fw")
    text = (folder / "README.md").read_text()
    program, commands = re.search(r"^```c\n(.+?)^```\n\n    (.+?)\n", text, re.MULTILINE | re.DOTALL).groups()  # type: ignore[union-attr]
    (folder / "main.c").write_text(program)
    bundle.vectors.pcm.tofile(folder / "recording.raw")
    done = subprocess.run(["sh", "-c", commands], cwd=folder, capture_output=True, text=True, check=True)
    assert done.stdout.split("\n")[:-1] == [bundle.labels[index] for index in bundle.vectors.logits.argmax(1)]


@pytest.mark.slow
def test_the_cost_of_a_decision_is_what_unicorn_counts(written: tuple[Path, dict], bundle: Bundle) -> None:
    (cost,) = written[1]["costs"]
    counted = emulate(bundle, bundle.vectors.pcm[-1:], build_settings("cortex-m4", emulator="unicorn"))
    assert cost["kernels"] == counted.kernels
    assert counted.instructions == pytest.approx(1000 * cost["run_kilo"], rel=0.01)
    assert counted.frontend_instructions == pytest.approx(1000 * cost["push_kilo"], rel=0.01)


def test_the_header_names_the_model_it_was_made_of(written: tuple[Path, dict]) -> None:
    folder, report = written
    assert f'#define TINYSCENE_MODEL "{report["model"]}"' in (folder / "tinyscene_config.h").read_text()


def test_the_readme_has_the_figures_of_the_report(written: tuple[Path, dict]) -> None:
    folder, report = written
    text = (folder / "README.md").read_text()
    assert f"{report['memory_bytes']:,} bytes of RAM" in text
    for row in report["plan"]:
        assert f"| {row['offset']:,} | {row['bytes']:,} | {row['rows']} |" in text


def test_the_picture_shows_every_block_where_it_lies(written: tuple[Path, dict]) -> None:
    folder, report = written
    svg = ElementTree.parse(folder / "plan.svg").getroot()
    titles = [str(each.text) for each in svg.iter("{http://www.w3.org/2000/svg}title")]
    assert sorted(titles) == sorted(
        f"{row['block']}: {row['bytes']:,} bytes at {row['offset']:,}" for row in report["plan"]
    )


def test_the_same_bundle_gives_the_same_bytes(written: tuple[Path, dict], bundle: Bundle, tmp_path: Path) -> None:
    folder, report = written
    write_firmware(bundle, tmp_path / "again")
    for name in report["files"]:
        assert (tmp_path / "again" / name).read_bytes() == (folder / name).read_bytes(), name


def test_nothing_in_it_names_this_machine(written: tuple[Path, dict]) -> None:
    for path in written[0].iterdir():
        text = path.read_text()
        assert str(ROOT) not in text
        assert str(Path.home()) not in text


def test_overlapping_windows_need_more_memory(bundle: Bundle) -> None:
    sizes = [
        make_library(bundle.graph, bundle.front_end, bundle.labels, ("plain",), hop).config["BYTES"]
        for hop in (1.0, 0.5, 0.25)
    ]
    assert sizes == sorted(sizes)
    assert len(set(sizes)) == 3


def test_names_from_a_bundle_cannot_become_code(bundle: Bundle) -> None:
    evil = "*/ int evil; /*"
    first, *rest = bundle.graph.operators
    assert isinstance(first, Conv2D)
    operators = [type(first)(**{**vars(first), "output": type(first.output)(evil, first.output.shape, first.output.q)})]
    for each in rest:
        inputs = tuple(evil if name == first.output.name else name for name in each.inputs)
        operators.append(type(each)(**{**vars(each), "inputs": inputs}))  # type: ignore[arg-type]
    labels = ['"; int evil; char *x = "', *bundle.labels[1:]]
    library = make_library(Graph(bundle.graph.input, tuple(operators)), bundle.front_end, labels, ("plain",))
    assert "int evil" not in library.files["tinyscene_network.c"] + library.files["tinyscene_weights.c"]
    assert r"\042\073 int evil\073 char \052x \075 \042" in library.files["tinyscene_labels.c"]


def test_labels_of_any_script_are_utf8_strings(bundle: Bundle, tmp_path: Path) -> None:
    labels = ["Straße", "地下鉄", "trigraph ??/", *bundle.labels[3:]]
    library = make_library(bundle.graph, bundle.front_end, labels, ("plain",))
    for name in ("tinyscene.h", "tinyscene_config.h", "tinyscene_labels.c"):
        (tmp_path / name).write_text(library.files[name])
    (tmp_path / "main.c").write_text(
        '#include <stdio.h>\n#include "tinyscene.h"\n'
        "int main(void) { for (size_t i = 0; tinyscene_label(i); i++) puts(tinyscene_label(i)); return 0; }\n"
    )
    target = TARGETS["host"]
    sources = [tmp_path / "main.c", tmp_path / "tinyscene_labels.c"]
    flags = ["-pedantic", "-Wall", "-Werror"]
    program = build(find_toolchain("zig", target), target, sources, tmp_path / "main", flags=flags)
    assert subprocess.run([program], capture_output=True, check=True).stdout.decode().split("\n")[:-1] == labels


# the first three count a decision twice, as zephyr does, and wasm is compiled and run in a browser by other tests
LONG = ("arduino", "espidf", "platformio", "wasm")


@pytest.mark.parametrize(
    "kind", [pytest.param(kind, marks=[pytest.mark.slow] * (kind in LONG)) for kind in sorted(PACKAGES)]
)
def test_every_package_can_be_written(run_cli: Callable, bundle: Bundle, tmp_path: Path, kind: str) -> None:
    code, out, _ = run_cli("firmware", bundle.folder, "--package", kind, "--out", tmp_path / kind, "--json")
    assert code == 0
    found = {path.relative_to(tmp_path / kind).as_posix() for path in (tmp_path / kind).rglob("*") if path.is_file()}
    assert found == set(json.loads(out)["files"])


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (
            ["--package", "deb"],
            "package 'deb' is unknown: known are cmake, arduino, platformio, zephyr, espidf",
        ),
        (["--kernels", "plain,avx1024"], "--kernels plain,avx1024: known are plain, dsp, mve, simd"),
        (["--kernels", ""], "--kernels : known are plain, dsp, mve, simd"),
        (["--hop", "0.3333"], "a hop of 0.3333 seconds: it must be 1, or less and a multiple of 0.015625 (a frame)"),
        (["--hop", "nan"], "a hop of nan seconds"),
    ],
)
def test_what_cannot_be_written_is_one_line_and_leaves_nothing(
    run_cli: Callable, bundle: Bundle, tmp_path: Path, arguments: list[str], line: str
) -> None:
    code, out, err = run_cli("firmware", bundle.folder, "--out", tmp_path / "fw", *arguments)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert line in err
    assert list(tmp_path.iterdir()) == []


def test_a_folder_with_something_in_it_is_left_alone(run_cli: Callable, bundle: Bundle, tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("precious")
    code, _, err = run_cli("firmware", bundle.folder, "--out", tmp_path)
    assert (code, err.count("\n")) == (2, 1)
    assert "already exists and is not empty" in err
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]


def test_without_a_compiler_the_sources_are_written_all_the_same(
    run_cli: Callable, bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    code, out, _ = run_cli("firmware", bundle.folder, "--out", tmp_path / "fw", "--json")
    assert code == 0
    assert "[firmware]'" in json.loads(out)["flash"]["missing"]
    assert (tmp_path / "fw" / "tinyscene.c").is_file()


def test_the_native_runner_answers_like_the_reference(run_cli: Callable, bundle: Bundle, sample: Path) -> None:
    recording = sorted((sample / "audio").iterdir())[5]
    answers = []
    for runner in ("reference", "native"):
        code, out, _ = run_cli("classify", bundle.folder, recording, "--runner", runner, "--json")
        assert code == 0
        answers.append(json.loads(out))
        assert [answer.pop("runner") for answer in answers[-1]] == [runner]
    assert answers[0] == answers[1]


def test_what_is_compiled_is_found_again_without_generating_it(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    expected = native.native_runner(bundle)(bundle.vectors.pcm[:2])
    capsys.readouterr()
    with monkeypatch.context() as patch:
        patch.setattr(native, "make_library", None)
        np.testing.assert_array_equal(native.native_runner(bundle)(bundle.vectors.pcm[:2]), expected)
    assert capsys.readouterr().err == ""
    for path in (cache_folder() / "native").glob("*.json"):
        path.write_text("{")
    np.testing.assert_array_equal(native.native_runner(bundle)(bundle.vectors.pcm[:2]), expected)


def test_the_native_runner_without_a_compiler_is_one_line(
    run_cli: Callable, bundle: Bundle, sample: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    monkeypatch.setattr("shutil.which", lambda name: None)
    code, out, err = run_cli("classify", bundle.folder, sorted((sample / "audio").iterdir())[5], "--runner", "native")
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert "runner native: a C compiler is not installed: pip install " in err


def test_a_changed_bundle_is_refused_before_anything_is_written(
    run_cli: Callable, bundle: Bundle, tmp_path: Path
) -> None:
    shutil.copytree(bundle.folder, tmp_path / "bundle")
    weights = tmp_path / "bundle" / "graph.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1])
    code, _, err = run_cli("firmware", tmp_path / "bundle", "--out", tmp_path / "fw")
    assert (code, err.count("\n")) == (2, 1)
    assert "graph.safetensors" in err
    assert not (tmp_path / "fw").exists()

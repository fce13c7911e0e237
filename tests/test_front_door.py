"""The front door: light to import, and deaf to what lies in the user's folder."""

import importlib.metadata
import json
import subprocess
import sys
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest

import tinyscene
from tests import ROOT
from tinyscene.deploy.bundle import runners
from tinyscene.deploy.bundle.bundle import Bundle
from tinyscene.deploy.bundle.runners import scene_runners
from tinyscene.deploy.common.errors import InputError
from tinyscene.deploy.common.processes import python_module


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A user's folder whose own modules bear our names and those of libraries; each leaves a mark if it runs."""
    for name in ("train.py", "deploy.py", "firmware_bridge.py", "benchmarks/__init__.py", "tests/__init__.py"):
        trap(tmp_path / name)
    return tmp_path


def trap(path: Path) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_text(f"open({str(path.parent / 'mark.txt')!r}, 'w'); raise SystemExit('the user module ran')\n")


def marks(folder: Path) -> list[Path]:
    return list(folder.rglob("mark.txt"))


def python(folder: Path, *arguments: str) -> str:
    done = subprocess.run([sys.executable, *arguments], cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_importing_it_runs_nothing_of_the_users(folder: Path) -> None:
    python(folder, "-c", "import tinyscene; tinyscene.load, tinyscene.FrontEnd")
    assert marks(folder) == []


def test_its_commands_run_nothing_of_the_users(folder: Path) -> None:
    for library in ("numpy.py", "yaml.py", "rich.py"):
        trap(folder / library)
    assert json.loads(python(folder, "-m", "tinyscene", "budget", "nano", "--json"))["macs"] == 1_454_776
    assert marks(folder) == []


def test_a_child_interpreter_imports_nothing_from_the_working_folder(folder: Path) -> None:
    trap(folder / "this.py")
    done = subprocess.run(python_module("this"), cwd=folder, capture_output=True, text=True, check=True)
    assert "Zen of Python" in done.stdout
    assert marks(folder) == []


def test_importing_it_imports_nothing_else() -> None:
    program = (
        "import sys, typing, importlib; before = set(sys.modules); import tinyscene; "
        "print(sorted(set(sys.modules) - before))"
    )
    assert python(ROOT, "-c", program) == "['tinyscene']\n"


def test_its_names_are_the_public_interface() -> None:
    classes = ["Bundle", "DatasetOptions", "FrontEnd", "InputError", "Run", "SceneClassifier", "TinysceneError"]
    stages = (
        "budget evaluate import_weights load logits prepare probe prune pull quantize recipes report sample sweep train"
    )
    assert dir(tinyscene) == sorted([*classes, *stages.split()])
    assert all(callable(getattr(tinyscene, name)) for name in dir(tinyscene))
    with pytest.raises(AttributeError, match="has no attribute 'verify'"):
        tinyscene.verify("bundle")  # type: ignore[attr-defined]


def test_its_names_stay_the_public_interface_once_a_bundle_is_loaded(bundle: Bundle) -> None:
    program = (
        "import sys, tinyscene; names = dir(tinyscene); tinyscene.load(sys.argv[1]); "
        "print(dir(tinyscene) == names == sorted(tinyscene.__all__))"
    )
    assert python(ROOT, "-c", program, str(bundle.folder)) == "True\n"


def test_a_bundle_and_its_classifier_are_described_in_one_line(bundle: Bundle) -> None:
    assert repr(bundle) == f"<Bundle {bundle.folder}: 10 labels, {len(bundle.graph.operators)} operators>"
    assert repr(tinyscene.load(bundle.folder)) == "<BundleClassifier: 10 labels, 1 s at 32,000 Hz>"


def test_the_native_runner_is_known_without_the_front_door() -> None:
    program = "from tinyscene.deploy.bundle.runners import scene_runners; print(list(scene_runners()))"
    assert "native" in python(ROOT, "-c", program)


def test_a_broken_runner_of_another_package_is_one_line(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    broken = EntryPoint("fast", "no_such_package:make", "tinyscene.runners")
    monkeypatch.setattr(runners, "entry_points", lambda group: importlib.metadata.EntryPoints([broken]))
    with pytest.raises(InputError, match=r"^runner fast: no_such_package:make cannot be imported \(.*\)$"):
        scene_runners()["fast"](bundle)

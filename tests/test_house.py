"""The layers: which way imports point."""

import ast
import json
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from tests import ROOT

LAYERS = {  # a folder and what of ours it may import
    "deploy": {"deploy"},
    "train": {"deploy", "train"},
    "firmware_bridge": {"deploy", "firmware_bridge"},
    "benchmarks": {"benchmarks", "deploy", "firmware_bridge", "train"},
}


def modules(path: Path) -> set[str]:
    """Modules that a file imports anywhere, by their full names."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return names


def imported(path: Path) -> set[str]:
    """The layers that a file imports anywhere, and `tinyscene` for the front door."""
    ours = [name.split(".") for name in modules(path) if name.split(".")[0] in ("tinyscene", *LAYERS, "tests")]
    return {parts[1] if parts[1:2] and parts[1] in LAYERS else parts[0] for parts in ours if parts != ["tinyscene"]}


PRODUCT = [path for layer in LAYERS for path in sorted((ROOT / layer).rglob("*.py"))]


@pytest.mark.parametrize("path", PRODUCT, ids=str)
def test_imports_point_downwards(path: Path) -> None:
    assert imported(path) <= LAYERS[path.relative_to(ROOT).parts[0]]


def test_nothing_imports_in_a_circle() -> None:
    files = {("tinyscene." + ".".join(path.relative_to(ROOT).with_suffix("").parts)): path for path in PRODUCT}
    files = {name.removesuffix(".__init__"): path for name, path in files.items()}
    waiting = {name: {other for other in modules(path) if other in files} - {name} for name, path in files.items()}
    while free := {name for name, others in waiting.items() if not others}:
        waiting = {name: others - free for name, others in waiting.items() if name not in free}
    assert waiting == {}


@pytest.mark.parametrize("path", sorted((ROOT / "deploy").rglob("*.py")), ids=str)
def test_deploy_never_imports_torch(path: Path) -> None:
    assert "torch" not in {name.split(".")[0] for name in modules(path)}


def test_the_command_line_opens_without_torch() -> None:
    program = (
        "import sys; sys.modules['torch'] = None; import tinyscene.cli; "
        "assert not {name for name in sys.modules if name.startswith('tinyscene.train')}"
    )
    subprocess.run([sys.executable, "-c", program], check=True, cwd=ROOT)


def test_the_tests_of_the_device_side_open_without_torch() -> None:
    program = "import sys; sys.modules['torch'] = None; import pytest; sys.exit(pytest.main(sys.argv[1:]))"
    command = [sys.executable, "-c", program, "-q", "--collect-only", "tests/deploy"]
    done = subprocess.run(command, check=False, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-2000:]


@pytest.mark.parametrize("path", sorted((ROOT / "benchmarks" / "results").glob("*.json")), ids=lambda path: path.stem)
def test_the_command_of_a_result_file_names_no_folder_of_one_machine(path: Path) -> None:
    command = json.loads(path.read_text(encoding="utf-8")).get("made_by", {}).get("command", "")
    assert [word for word in shlex.split(command) if word.startswith(("/", "~"))] == []

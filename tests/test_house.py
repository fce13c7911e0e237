"""The floors of the house: which way imports point."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
FLOORS = {  # a folder and what of ours it may import
    "deploy": {"deploy"},
    "train": {"deploy", "train"},
    "firmware_bridge": {"deploy", "firmware_bridge"},
    "benchmarks": {"benchmarks", "deploy", "firmware_bridge", "train"},
}
OURS = {*FLOORS, "tinyscene", "tests"}


def imported(path: Path) -> set[str]:
    """Top-level modules that a file imports anywhere."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.add(node.module.split(".")[0])
    return names


@pytest.mark.parametrize("path", [path for floor in FLOORS for path in sorted((ROOT / floor).rglob("*.py"))], ids=str)
def test_imports_point_downwards(path: Path) -> None:
    assert imported(path) & OURS <= FLOORS[path.relative_to(ROOT).parts[0]]


@pytest.mark.parametrize("path", sorted((ROOT / "deploy").rglob("*.py")), ids=str)
def test_the_ground_floor_never_imports_torch(path: Path) -> None:
    assert "torch" not in imported(path)


def test_the_front_door_opens_without_torch() -> None:
    program = (
        "import sys; sys.modules['torch'] = None; import tinyscene; "
        "assert {name for name in sys.modules if name.startswith('train')} == {'train', 'train.commands'}"
    )
    subprocess.run([sys.executable, "-c", program], check=True, cwd=ROOT)

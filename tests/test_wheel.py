"""The wheel: built from a copy of the tree, installed where the repository cannot be seen, and used.

The dependencies are those of this environment, lent to the new one, so that nothing is fetched.
"""

import os
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile

from tests import ROOT
from tinyscene.deploy.bundle.bundle import Bundle

pytestmark = pytest.mark.slow
SOURCES = ("benchmarks", "deploy", "firmware_bridge", "train")
FILES = ("pyproject.toml", "README.md", "LICENSE")
Installed = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if not list(Path(sysconfig.get_path("purelib")).glob("setuptools-*.dist-info")):
        pytest.skip("setuptools, which builds the wheel, is not in this environment")
    tree, out = tmp_path_factory.mktemp("tree"), tmp_path_factory.mktemp("wheel")
    for name in SOURCES:
        shutil.copytree(ROOT / name, tree / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in FILES:
        shutil.copy(ROOT / name, tree / name)
    shutil.copytree(ROOT / "tinyscene", tree / "tinyscene", symlinks=True)
    options = ("--no-deps", "--no-build-isolation", "--no-index", "--wheel-dir", out)
    subprocess.run([sys.executable, "-m", "pip", "wheel", "--quiet", *options, tree], check=True, cwd=tree)
    return next(out.glob("tinyscene-*.whl"))


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Installed:
    """Run the wheel's own `tinyscene` outside of the repository."""
    folder = tmp_path_factory.mktemp("elsewhere")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder / "venv"], check=True)
    python = folder / "venv" / "bin" / "python"
    site = subprocess.run(
        [python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout.strip()
    lent = lend(folder / "lent")
    options = ("--no-deps", "--no-index", "--quiet")
    subprocess.run([sys.executable, "-m", "pip", "--python", python, "install", *options, wheel], check=True)
    (Path(site) / "lent.pth").write_text(f"{lent}\n")
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}

    def run(*arguments: object, name: str = "tinyscene", **changes: str) -> subprocess.CompletedProcess[str]:
        command = [folder / "venv" / "bin" / name, *map(str, arguments)]
        return subprocess.run(
            command, cwd=folder, env=environment | changes, capture_output=True, text=True, check=False
        )

    return run


def lend(folder: Path) -> Path:
    """This environment's packages, all but tinyscene, as links: a .pth file of theirs would let the repository in."""
    folder.mkdir()
    for path in Path(sysconfig.get_path("purelib")).iterdir():
        if "tinyscene" not in path.name and path.suffix != ".pth":
            (folder / path.name).symlink_to(path)
    return folder


@pytest.fixture
def without_torch(tmp_path: Path) -> dict[str, str]:
    """An environment in which torch is not installed."""
    (tmp_path / "sitecustomize.py").write_text(
        "import sys\n"
        "class Missing:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name.split('.')[0] == 'torch':\n"
        "            raise ModuleNotFoundError(name)\n"
        "import importlib.util\n"
        "find = importlib.util.find_spec\n"
        "importlib.util.find_spec = lambda name, *rest: None if name == 'torch' else find(name, *rest)\n"
        "sys.meta_path.insert(0, Missing())\n"
    )
    return {"PYTHONPATH": str(tmp_path)}


def test_it_is_imported_from_where_it_was_installed(installed: Installed) -> None:
    code = "import tinyscene, tinyscene.deploy, tinyscene.train; print(tinyscene.__file__, tinyscene.train.__file__)"
    done = installed("-c", code, name="python")
    assert done.returncode == 0, done.stderr
    assert [path for path in done.stdout.split() if "venv/lib" not in path or str(ROOT) in path] == []


def test_it_says_its_version(installed: Installed, wheel: Path) -> None:
    done = installed("--version")
    assert (done.returncode, done.stdout) == (0, f"tinyscene {wheel.name.split('-')[1]}\n")


def test_every_file_that_is_read_at_run_time_is_in_it(wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    tracked = subprocess.run(["git", "ls-files", *SOURCES], cwd=ROOT, capture_output=True, text=True, check=True)
    left_out = {f"tinyscene/{name}" for name in tracked.stdout.split("\n") if name} - names
    assert {name for name in left_out if not name.startswith("tinyscene/benchmarks/")} == set()


def test_it_holds_nothing_but_the_program(wheel: Path) -> None:
    tops = {name.split("/")[0] for name in zipfile.ZipFile(wheel).namelist()}
    assert {top for top in tops if not top.endswith(".dist-info")} == {"tinyscene"}


def test_it_makes_a_sample_and_counts_a_recipe(installed: Installed, tmp_path: Path) -> None:
    done = installed("sample", tmp_path / "sample")
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "sample" / "meta.csv").is_file()
    done = installed("budget", "nano")
    assert done.returncode == 0, done.stderr
    assert "1,454,776" in done.stdout


def test_without_torch_it_says_what_to_install(
    installed: Installed, without_torch: dict[str, str], wheel: Path
) -> None:
    done = installed("budget", "nano", **without_torch)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)
    assert f"is not installed: pip install '{wheel}[train]'" in done.stderr


def test_without_torch_it_classifies_and_listens(
    installed: Installed, without_torch: dict[str, str], bundle: Bundle, tmp_path: Path
) -> None:
    path = tmp_path / "noise.wav"
    soundfile.write(path, np.random.default_rng(0).normal(0, 0.1, 32_000), 32_000)
    for arguments in (("classify", bundle.folder, path), ("listen", bundle.folder, "--source", path, "--fast")):
        done = installed(*arguments, "--json", **without_torch)
        assert done.returncode == 0, done.stderr
        assert '"scene"' in done.stdout


@pytest.mark.parametrize("package", ["cmake", "arduino", "platformio", "zephyr", "wasm"])
def test_without_torch_it_writes_firmware(
    package: str, installed: Installed, without_torch: dict[str, str], bundle: Bundle, tmp_path: Path
) -> None:
    done = installed("firmware", bundle.folder, "--package", package, "--out", tmp_path / "fw", **without_torch)
    assert done.returncode == 0, done.stderr
    assert list((tmp_path / "fw").rglob("*.wasm" if package == "wasm" else "tinyscene*.c"))

"""The wheel: built from a copy of the tree, installed where the repository cannot be seen, and used there.

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
from tests.test_front_door import marks, trap
from tests.train.test_export import TINY
from tests.train.test_loop import QUICK
from tinyscene.deploy.bundle.bundle import Bundle

SOURCES = ("benchmarks", "deploy", "firmware_bridge", "train")
FILES = ("pyproject.toml", "README.md", "LICENSE")
USERS = ("train.py", "deploy.py", "firmware_bridge.py", "benchmarks/__init__.py", "tests/__init__.py")
MOST_BYTES = 2_000_000
SETTINGS = (*QUICK, *TINY, "train.epochs=1")
SWEEP = 'name: one\nsplits: ["5"]\nseeds: [0]\nruns:\n  first: {recipe: nano}\n'
BUILD_SDIST = "import sys; from setuptools import build_meta; build_meta.build_sdist(sys.argv[1])"
IMPORT_EVERYTHING = """
import importlib, pkgutil, tinyscene
names = [module.name for module in pkgutil.walk_packages(tinyscene.__path__, "tinyscene.")]
for name in names:
    if not name.endswith("__main__"):
        print(importlib.import_module(name).__file__)
"""
Installed = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of what the wheel is built from, so that building leaves nothing in the repository."""
    if not list(Path(sysconfig.get_path("purelib")).glob("setuptools-*.dist-info")):
        pytest.skip("setuptools, which builds the wheel, is not in this environment")
    tree = tmp_path_factory.mktemp("tree")
    for name in SOURCES:
        shutil.copytree(ROOT / name, tree / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in FILES:
        shutil.copy(ROOT / name, tree / name)
    shutil.copytree(ROOT / "tinyscene", tree / "tinyscene", symlinks=True)
    return tree


@pytest.fixture(scope="module")
def wheel(tree: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_wheel(tree, tmp_path_factory.mktemp("wheel"))


def build_wheel(source: Path, out: Path) -> Path:
    options = ("--no-deps", "--no-build-isolation", "--no-index", "--wheel-dir", out)
    subprocess.run([sys.executable, "-m", "pip", "wheel", "--quiet", *options, source], check=True, cwd=out)
    return next(out.glob("tinyscene-*.whl"))


def names_in(wheel: Path) -> set[str]:
    return set(zipfile.ZipFile(wheel).namelist())


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Installed:
    """Run a program of the environment in which the wheel is installed, in a folder whose modules bear our names."""
    folder, users = tmp_path_factory.mktemp("elsewhere"), tmp_path_factory.mktemp("users")
    for name in USERS:
        trap(users / name)
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder / "venv"], check=True)
    python = folder / "venv" / "bin" / "python"
    program = "import sysconfig; print(sysconfig.get_path('purelib'))"
    site = subprocess.run([python, "-c", program], env=environment, capture_output=True, text=True, check=True).stdout
    lent = lend(folder / "lent")
    pip = (sys.executable, "-m", "pip", "--python", python, "install", "--no-deps", "--no-index", "--quiet")
    subprocess.run([*pip, wheel], env=environment, check=True)
    (Path(site.strip()) / "lent.pth").write_text(f"{lent}\n")
    torchrun = folder / "venv" / "bin" / "torchrun"  # as pip writes it
    torchrun.write_text(f"#!{python}\nfrom torch.distributed.run import main\nmain()\n")
    torchrun.chmod(0o755)

    def run(*arguments: object, name: str = "tinyscene", **changes: str) -> subprocess.CompletedProcess[str]:
        command = [folder / "venv" / "bin" / name, *map(str, arguments)]
        done = subprocess.run(
            command, cwd=users, env=environment | changes, capture_output=True, text=True, check=False
        )
        assert marks(users) == []
        return done

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


def test_every_module_of_it_is_imported_from_where_it_was_installed(installed: Installed) -> None:
    done = installed("-c", IMPORT_EVERYTHING, name="python")
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.split()) > 100
    assert [path for path in done.stdout.split() if "venv/lib" not in path or str(ROOT) in path] == []


def test_its_module_is_run_beside_the_users_modules(installed: Installed) -> None:
    done = installed("-m", "tinyscene", "--help", name="python")
    assert (done.returncode, "Usage: tinyscene" in done.stdout) == (0, True), done.stderr


def test_torchrun_trains_beside_the_users_modules(installed: Installed, small_dataset: Path, tmp_path: Path) -> None:
    settings = [word for setting in SETTINGS for word in ("--set", setting)]
    arguments = ("train", "nano", "--data", small_dataset, "--split", "5", "--out", tmp_path / "run", *settings)
    launcher = ("--standalone", "--nproc-per-node", "1", "-m", "tinyscene")
    done = installed(*launcher, *arguments, name="torchrun", OMP_NUM_THREADS="1")
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "run" / "model.safetensors").is_file()


def test_a_sweep_trains_beside_the_users_modules(installed: Installed, small_dataset: Path, tmp_path: Path) -> None:
    (tmp_path / "one.yaml").write_text(SWEEP)
    settings = [word for setting in SETTINGS for word in ("--set", setting)]
    done = installed("sweep", tmp_path / "one.yaml", "--data", small_dataset, "--out", tmp_path / "out", *settings)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "out" / "runs" / "first-5-0" / "model.safetensors").is_file()


def test_it_holds_the_same_files_when_it_is_built_from_the_source_distribution(
    tree: Path, wheel: Path, tmp_path: Path
) -> None:
    subprocess.run([sys.executable, "-c", BUILD_SDIST, tmp_path], check=True, cwd=tree, capture_output=True)
    assert names_in(build_wheel(next(tmp_path.glob("tinyscene-*.tar.gz")), tmp_path)) == names_in(wheel)


def test_it_says_its_version(installed: Installed, wheel: Path) -> None:
    done = installed("--version")
    assert (done.returncode, done.stdout) == (0, f"tinyscene {wheel.name.split('-')[1]}\n")


def test_every_file_that_is_read_at_run_time_is_in_it(wheel: Path) -> None:
    tracked = subprocess.run(["git", "ls-files", *SOURCES], cwd=ROOT, capture_output=True, text=True, check=True)
    left_out = {f"tinyscene/{name}" for name in tracked.stdout.split("\n") if name} - names_in(wheel)
    assert {name for name in left_out if not name.startswith("tinyscene/benchmarks/")} == set()


def test_it_holds_nothing_but_the_program(wheel: Path) -> None:
    assert {name.split("/")[0] for name in names_in(wheel)} == {
        "tinyscene",
        f"tinyscene-{wheel.name.split('-')[1]}.dist-info",
    }


def test_it_is_small(wheel: Path) -> None:
    assert wheel.stat().st_size <= MOST_BYTES


def test_without_torch_or_data_it_hears_with_the_model_that_comes_along(
    installed: Installed, without_torch: dict[str, str]
) -> None:
    sound = ROOT / "tinyscene" / "bundled" / "sounds" / "rooster.flac"
    done = installed("classify", "sounds10", sound, "--runner", "reference", **without_torch)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(f"{sound}: rooster ")


@pytest.mark.slow
def test_it_makes_a_sample_and_counts_a_recipe(installed: Installed, tmp_path: Path) -> None:
    done = installed("sample", tmp_path / "sample")
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "sample" / "meta.csv").is_file()
    done = installed("budget", "nano")
    assert done.returncode == 0, done.stderr
    assert "1,454,776" in done.stdout


@pytest.mark.slow
def test_without_torch_it_says_what_to_install(
    installed: Installed, without_torch: dict[str, str], wheel: Path
) -> None:
    done = installed("budget", "nano", **without_torch)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)
    assert f"is not installed: pip install '{wheel}[train]'" in done.stderr


@pytest.mark.slow
def test_without_torch_it_classifies_and_listens(
    installed: Installed, without_torch: dict[str, str], bundle: Bundle, tmp_path: Path
) -> None:
    path = tmp_path / "noise.wav"
    soundfile.write(path, np.random.default_rng(0).normal(0, 0.1, 32_000), 32_000)
    for arguments in (("classify", bundle.folder, path), ("listen", bundle.folder, "--source", path, "--fast")):
        done = installed(*arguments, "--json", **without_torch)
        assert done.returncode == 0, done.stderr
        assert '"scene"' in done.stdout


@pytest.mark.slow
@pytest.mark.parametrize("package", ["cmake", "arduino", "platformio", "zephyr", "wasm"])
def test_without_torch_it_writes_firmware(
    package: str, installed: Installed, without_torch: dict[str, str], bundle: Bundle, tmp_path: Path
) -> None:
    done = installed("firmware", bundle.folder, "--package", package, "--out", tmp_path / "fw", **without_torch)
    assert done.returncode == 0, done.stderr
    assert list((tmp_path / "fw").rglob("*.wasm" if package == "wasm" else "tinyscene*.c"))

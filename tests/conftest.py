"""What the tests share: a synthetic dataset, the real recordings where they are, and the golden values.

Nothing is imported from tinyscene.train until a fixture needs it, so that what a device runs is tested without torch.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from numpy.typing import NDArray

from tests import ROOT
from tinyscene.cli import main
from tinyscene.deploy.bundle.bundle import Bundle, open_bundle

if TYPE_CHECKING:
    from tinyscene.train.data.cache import Clips
    from tinyscene.train.data.datasets import Dataset

REAL_DATA = Path(os.environ.get("TINYSCENE_DATA", ROOT.parent / "shared" / "data"))
BUNDLE = os.environ.get("TINYSCENE_TEST_BUNDLE")  # written by `python -m tests.small_bundle`, for tests without torch
NEED_TRAINING = (
    "bundle classifier decision embedding hostile_models installation model_card onnx_writer runners tflite_writer "
    "verify"
)
if find_spec("torch") is None:  # as in the environment of `make test-device`
    collect_ignore = [f"deploy/test_{name}.py" for name in NEED_TRAINING.split()]


@pytest.fixture(scope="session", autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache folder of the test session's own, so that no test reads or leaves one of the user's."""
    folder = tmp_path_factory.mktemp("cache")
    os.environ["TINYSCENE_CACHE"] = str(folder)
    return folder


@pytest.fixture(scope="session")
def sample(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The synthetic dataset of `tinyscene sample`. Not to be changed: copy it."""
    from tinyscene.train.data.sample import write_sample

    folder = tmp_path_factory.mktemp("sample") / "sample"
    write_sample(folder)
    return folder


@pytest.fixture(scope="session")
def sample_dataset(sample: Path) -> Dataset:
    from tinyscene.train.data.datasets import open_dataset

    return open_dataset(sample)


@pytest.fixture(scope="session")
def sample_clips(sample_dataset: Dataset, cache: Path) -> Clips:
    from tinyscene.train.data.cache import prepare

    return prepare(sample_dataset, 32_000, cache)


@pytest.fixture(scope="session")
def bundle(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """A small bundle of a network that was not trained. Not to be changed: copy its folder."""
    if BUNDLE:
        return open_bundle(Path(BUNDLE))
    pytest.importorskip("torch")
    from tests.small_bundle import small_bundle

    dataset, clips = request.getfixturevalue("sample_dataset"), request.getfixturevalue("sample_clips")
    return small_bundle(tmp_path_factory.mktemp("bundle"), dataset, clips)


@pytest.fixture
def small_dataset(sample: Path, tmp_path: Path) -> Path:
    """A copy of the sample with its 5 % split and a test list of 20, for tests that change files."""
    folder = tmp_path / "small"
    shutil.copytree(sample / "evaluation_setup", folder / "evaluation_setup")
    lists = {name: (sample / "evaluation_setup" / name).read_text().splitlines() for name in ("split5.csv", "test.csv")}
    lists["test.csv"] = lists["test.csv"][:1] + lists["test.csv"][1::21]
    (folder / "evaluation_setup" / "test.csv").write_text("\n".join(lists["test.csv"]) + "\n")
    for name in ("split10.csv", "split25.csv", "split50.csv", "split100.csv"):
        (folder / "evaluation_setup" / name).unlink()
    kept = {line.split("\t")[0] for lines in lists.values() for line in lines[1:]}
    meta = (sample / "meta.csv").read_text().splitlines()
    (folder / "meta.csv").write_text(
        "\n".join(line for line in meta if line.split("\t")[0] in {*kept, "filename"}) + "\n"
    )
    (folder / "audio").mkdir()
    for name in kept:
        shutil.copy(sample / name, folder / name)
    return folder


@pytest.fixture(scope="session")
def golden() -> dict[str, np.ndarray]:
    """torchaudio's values, described in tests/golden/README.md."""
    with np.load(ROOT / "tests" / "golden" / "torchaudio-v1.npz") as values:
        return {key: values[key] for key in values.files}


@pytest.fixture(scope="session")
def tau_mini() -> Path:
    return _real("tau_mini")


@pytest.fixture(scope="session")
def esc10() -> Path:
    return _real("esc10")


@pytest.fixture(scope="session")
def esc50_devices() -> Path:
    return _real("esc50_devices")


@pytest.fixture(scope="session")
def baseline_weights() -> Path:
    return _real("models/dcase24_baseline_61k.safetensors")


@pytest.fixture(scope="session")
def efficientat_weights() -> Path:
    """EfficientAT's mn04 of AudioSet; beside it lie golden values."""
    return _real("models/efficientat_mn04_as.safetensors")


@pytest.fixture(scope="session")
def recordings(tau_mini: Path, cache: Path) -> tuple[Dataset, Clips]:
    from tinyscene.train.data.cache import prepare
    from tinyscene.train.data.datasets import open_dataset

    dataset = open_dataset(tau_mini)
    return dataset, prepare(dataset, 32_000, cache)


@pytest.fixture(scope="session")
def tested(recordings: tuple[Dataset, Clips]) -> NDArray[np.int64]:
    """The clips of the test list of the development recordings."""
    dataset, clips = recordings
    return clips.select(dataset.split(dataset.default_split)[1])


@pytest.fixture(scope="session")
def imported_run(baseline_weights: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The published baseline."""
    from tinyscene.train.recipe import load_recipe
    from tinyscene.train.runs.run import import_weights

    return import_weights(baseline_weights, load_recipe("baseline"), tmp_path_factory.mktemp("imported") / "run")


@pytest.fixture(scope="session")
def imported_bundle(
    imported_run: Path, recordings: tuple[Dataset, Clips], tmp_path_factory: pytest.TempPathFactory
) -> Bundle:
    """The published baseline made integer, calibrated on the training list, not fine-tuned."""
    from tinyscene.train.quantize.quantize import quantize

    return quantize(imported_run, *recordings, tmp_path_factory.mktemp("int8") / "bundle")


def _real(name: str) -> Path:
    path = REAL_DATA / name
    if not path.exists():
        pytest.skip(f"{path} is missing: set TINYSCENE_DATA to the folder of the development recordings")
    return path


@pytest.fixture
def run_cli(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    """Call the command line in this process. Returns (exit code, stdout, stderr)."""

    def run(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr("sys.argv", ["tinyscene", *map(str, arguments)])
        code = 0
        try:
            main()
        except SystemExit as stop:
            code = int(stop.code or 0)
        out, err = capfd.readouterr()
        return code, out, err

    return run

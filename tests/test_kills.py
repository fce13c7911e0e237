"""Commands killed (SIGKILL) at each of their writes, and continued: they end as if nothing had been."""

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.processes import Strike, finish
from tests.train.test_export import TINY
from tinyscene.deploy.bundle.bundle import EXPORTS, open_bundle
from tinyscene.deploy.common.files import sha256

pytestmark = pytest.mark.slow

SET = [f"--set={each}" for each in (*TINY, "train.epochs=3", "train.batch_size=32", "quantize.clips=16")]
TUNING = ["--qat", "--set=quantize.epochs=2", "--set=quantize.batch_size=32"]


@dataclass(frozen=True)
class Stage:
    """A command, where its results go, and what of them must be the same however often it was killed."""

    command: Callable[[], list[object]]  # as it is given next, after a kill or at first
    clear: Callable[[], None]  # removes the results, to begin anew
    results: Callable[[], object]


def survive(stage: Stage, tmp_path: Path, cache: Path) -> None:
    """Kill a command at each of its writes in turn, each time begun anew; go on; hold the end to an unbroken run.

    Also kill it at a write of every continuation, until it comes through: the second write, then the third and so on.
    """
    log, counted = tmp_path / "log", tmp_path / "counted"
    assert finish(log, cache, *stage.command(), strike=Strike(0, counted)) == 0, log.read_text()
    writes, unbroken = int(counted.read_text()), stage.results()
    assert writes > 1
    for at in range(1, writes + 1):
        stage.clear()
        code = finish(log, cache, *stage.command(), strike=Strike(at, counted))
        assert code in (0, -9), log.read_text()  # a thread may do the last writes in another order
        if code:
            assert finish(log, cache, *stage.command()) == 0, f"write {at} of {writes}: {log.read_text()}"
        assert stage.results() == unbroken, f"write {at} of {writes}"
        assert not list(tmp_path.rglob(".tinyscene-*")), f"write {at} of {writes}"
    stage.clear()
    for at in range(2, 2 * writes):
        if finish(log, cache, *stage.command(), strike=Strike(at, counted)) == 0:
            break
    assert stage.results() == unbroken


@pytest.fixture(scope="module")
def run(sample: Path, cache: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run")
    out = folder / "run"
    assert finish(folder / "log", cache, "train", "nano", "--data", sample, "--split", "5", "--out", out, *SET) == 0
    return out


def hashes(folder: Path, *names: str) -> dict[str, str]:
    return {name: sha256(folder / name) for name in names}


def test_prepare(sample: Path, tmp_path: Path) -> None:
    cache = tmp_path / "cache"

    def prepared() -> dict[str, str]:
        (folder,) = (path for path in cache.iterdir() if path.is_dir())
        return hashes(folder, "pcm.i16", "index.json")

    stage = Stage(lambda: ["prepare", sample], lambda: shutil.rmtree(cache), prepared)
    survive(stage, tmp_path, cache)


def test_train(sample: Path, cache: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"

    def command() -> list[object]:
        resume = ["--resume"] if (out / "recipe.yaml").exists() else []
        return ["train", "nano", "--data", sample, "--split", "5", "--out", out, *SET, *resume]

    def trained() -> object:
        from safetensors.numpy import load_file

        weights = {name: tensor.tobytes() for name, tensor in load_file(out / "model.safetensors").items()}
        return weights, len((out / "metrics.jsonl").read_text().splitlines())

    survive(Stage(command, lambda: shutil.rmtree(out), trained), tmp_path, cache)


@pytest.mark.parametrize("tuning", [[], TUNING], ids=["calibrated", "fine-tuned"])
def test_quantize(tuning: list[str], run: Path, sample: Path, cache: Path, tmp_path: Path) -> None:
    out, work = tmp_path / "bundle", tmp_path / "bundle.qat"

    def command() -> list[object]:
        if out.exists():  # it was killed between writing the bundle and clearing up
            shutil.rmtree(out)
        resume = ["--resume"] if (work / "recipe.yaml").exists() else []
        return ["quantize", run, "--data", sample, "--out", out, *tuning, *resume]

    def quantized() -> object:
        return hashes(out, "graph.safetensors", "graph.json", "golden/vectors.bin"), open_bundle(out).labels

    survive(Stage(command, lambda: shutil.rmtree(out), quantized), tmp_path, cache)


def test_export(run: Path, sample: Path, cache: Path, tmp_path: Path) -> None:
    written, bundle = tmp_path / "written", tmp_path / "bundle"
    assert finish(tmp_path / "log", cache, "quantize", run, "--data", sample, "--out", written) == 0
    shutil.copytree(written, bundle)

    def clear() -> None:
        shutil.rmtree(bundle)
        shutil.copytree(written, bundle)

    def exported() -> object:
        return hashes(bundle, *EXPORTS.values()), open_bundle(bundle).content["files"]

    stage = Stage(lambda: ["export", bundle, "--to", ",".join(EXPORTS)], clear, exported)
    survive(stage, tmp_path, cache)

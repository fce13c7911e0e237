"""Two processes at once on one cache, run, bundle or sweep, ten rounds each: nothing is lost or doubled."""

import csv
import json
import shutil
from pathlib import Path

import pytest
from safetensors.numpy import load_file

from tests.processes import finish, start
from tests.train.test_export import TINY
from tinyscene.deploy.bundle.bundle import Bundle, open_bundle
from tinyscene.deploy.bundle.index import EXPORTS
from tinyscene.deploy.common.files import TEMPORARY, sha256

pytestmark = pytest.mark.slow

ROUNDS = 10
SET = [f"--set={each}" for each in (*TINY, "train.epochs=1", "train.batch_size=32")]
SWEEP = "name: two\nruns:\n  one: {recipe: nano}\n  two: {recipe: nano}\nsplits: ['5']\nseeds: [0]\n"


def both(place: Path, cache: Path, *commands: list[object]) -> list[int | None]:
    processes = [start(place / f"log{number}", cache, *command) for number, command in enumerate(commands)]
    for process in processes:
        process.join()
    return [process.exitcode for process in processes]


def logs(place: Path) -> list[str]:
    return [path.read_text() for path in sorted(place.glob("log*"))]


def test_one_cache(small_dataset: Path, tmp_path: Path) -> None:
    contents = set()
    for number in range(ROUNDS):
        cache = tmp_path / f"cache{number}"
        assert both(tmp_path, cache, *[["prepare", small_dataset]] * 2) == [0, 0]
        (folder,) = (path for path in cache.iterdir() if path.is_dir())
        assert {path.name for path in folder.iterdir()} == {"index.json", "pcm.i16"}
        recordings = [each["path"] for each in json.loads((folder / "index.json").read_text())["recordings"]]
        assert sorted(recordings) == sorted(f"audio/{path.name}" for path in (small_dataset / "audio").iterdir())
        contents.add(sha256(folder / "pcm.i16"))
    assert len(contents) == 1


def test_one_new_run(small_dataset: Path, cache: Path, tmp_path: Path) -> None:
    """One trains it, the other is told that it is taken; of ten runs each is as the first."""
    weights = set()
    for number in range(ROUNDS):
        out = tmp_path / f"run{number}"
        command = ["train", "nano", "--data", small_dataset, "--split", "5", "--out", out, *SET]
        assert sorted(map(str, both(tmp_path, cache, command, command))) == ["0", "2"], logs(tmp_path)
        assert len((out / "metrics.jsonl").read_text().splitlines()) == 1
        tensors = load_file(out / "model.safetensors")
        weights.add(b"".join(tensors[name].tobytes() for name in sorted(tensors)))
    assert len(weights) == 1


def test_one_bundle(bundle: Bundle, cache: Path, tmp_path: Path) -> None:
    for number in range(ROUNDS):
        copy = tmp_path / f"bundle{number}"
        shutil.copytree(bundle.folder, copy, ignore=shutil.ignore_patterns("*.tflite", "*.onnx"))
        kinds = list(EXPORTS)
        assert both(tmp_path, cache, *[["export", copy, "--to", kind] for kind in kinds]) == [0] * len(kinds)
        assert all(open_bundle(copy).exported(kind) for kind in kinds)


def test_one_bundle_that_is_measured_and_exported(
    bundle: Bundle, small_dataset: Path, cache: Path, tmp_path: Path
) -> None:
    for number in range(ROUNDS):
        copy = tmp_path / f"bundle{number}"
        shutil.copytree(bundle.folder, copy, ignore=shutil.ignore_patterns("*.tflite", "*.onnx"))
        evaluation = ["evaluate", copy, "--data", small_dataset, "--runner", "reference"]
        assert both(tmp_path, cache, evaluation, ["export", copy, "--to", "tflite,onnx"]) == [0, 0], logs(tmp_path)
        opened = open_bundle(copy)
        assert opened.content["metrics"]["clips"] == 20
        assert all(opened.exported(kind) for kind in ("tflite", "onnx"))


def test_one_new_bundle(small_dataset: Path, cache: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    training = ["train", "nano", "--data", small_dataset, "--split", "5", "--out", run, *SET]
    assert finish(tmp_path / "log", cache, *training) == 0
    for number in range(ROUNDS):
        out = tmp_path / f"new{number}"
        command = ["quantize", run, "--data", small_dataset, "--out", out, "--set=quantize.clips=8"]
        codes = both(tmp_path, cache, command, command)
        assert 0 in codes, logs(tmp_path)
        assert set(codes) <= {0, 2}, logs(tmp_path)
        open_bundle(out)
        assert not list(tmp_path.glob(f"{TEMPORARY}*"))


def test_one_sweep(small_dataset: Path, cache: Path, tmp_path: Path) -> None:
    (tmp_path / "sweep.yaml").write_text(SWEEP)
    for number in range(ROUNDS):
        out = tmp_path / f"sweep{number}"
        command = ["sweep", tmp_path / "sweep.yaml", "--data", small_dataset, "--out", out, "--jobs", 1, *SET]
        codes = both(tmp_path, cache, command, command)
        assert 0 in codes, [(tmp_path / f"log{each}").read_text() for each in range(2)]
        with (out / "results.csv").open() as handle:
            assert sorted(row["run"] for row in csv.DictReader(handle)) == ["one", "two"]
        for metrics in out.rglob("metrics.jsonl"):
            assert len(metrics.read_text().splitlines()) == 1

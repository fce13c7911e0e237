"""Disks that are full or read-only, paths with blanks and other letters, and runs side by side."""

import errno
import json
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, ClassVar

import pytest

from tests.processes import finish, start
from tests.train.test_export import TINY
from tinyscene.benchmarks import bench
from tinyscene.deploy.bundle.bundle import Bundle, open_bundle
from tinyscene.interface import bundle as interface
from tinyscene.interface import evaluation

RunCli = Callable[..., tuple[int, str, str]]
SET = [f"--set={each}" for each in (*TINY, "train.epochs=1", "train.batch_size=32", "quantize.clips=8")]
FULL = "No space left on device; free some room and run it again\n"


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 16 kB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    if os.geteuid() != 0 or not _mounted("-t", "tmpfs", "-o", "size=16k", "tinyscene", folder):
        pytest.skip("only root can mount a small disk")
    yield folder
    subprocess.run(["umount", folder], check=True)


def _mounted(*arguments: object) -> bool:
    return subprocess.run(["mount", *map(str, arguments)], check=False, capture_output=True).returncode == 0


@pytest.fixture(scope="module")
def run(sample: Path, cache: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("run") / "run"
    log = out.with_name("log")
    assert finish(log, cache, "train", "nano", "--data", sample, "--split", "5", "--out", out, *SET) == 0
    return out


def stages(sample: Path, run: Path, bundle: Path) -> dict[str, list[object]]:
    """Each command that writes, but for the folder that it writes to."""
    return {
        "sample": ["sample"],
        "train": ["train", "nano", "--data", sample, "--split", "5", *SET, "--out"],
        "logits": ["logits", run, "--data", sample, "--split", "5", "--out"],
        "prune": ["prune", run, "--data", sample, "--to-macs", "6e5", "--set=prune.steps=1", "--out"],
        "quantize": ["quantize", run, "--data", sample, "--out"],
        "export": ["export", bundle, "--to", "tflite", "--out"],
        "firmware": ["firmware", bundle, "--out"],
        "web": ["web", bundle, "--out"],
        "report": ["report", bundle, "--out"],
    }


@pytest.mark.parametrize(
    "stage",
    [
        *("train", "logits", "quantize", "export", "report"),
        *(pytest.param(stage, marks=pytest.mark.slow) for stage in ("sample", "prune", "web", "firmware")),
    ],
)
def test_a_full_disk_is_said_in_one_line_and_nothing_half_written_is_left(
    stage: str, disk: Path, sample: Path, run: Path, bundle: Bundle, run_cli: RunCli
) -> None:
    (disk / "ballast").write_bytes(bytes(12 * 1024))
    command = stages(sample, run, bundle.folder)[stage]
    code, out, err = run_cli(*command, disk / "out")
    assert (code, out) == (2, "")
    assert err.endswith(FULL)
    left = {str(path) for path in disk.rglob("*") if path.is_file()} - {str(disk / "ballast")}
    assert left <= {str(disk / "out" / name) for name in ("recipe.yaml", "metrics.jsonl")}, "what a run goes on from"
    assert _mounted("-o", "remount,size=512m", disk)
    resume = ["--resume"] if left else []
    assert run_cli(*command, disk / "out", *resume)[0] == 0


def test_a_cache_on_a_full_disk_is_made_once_there_is_room(
    disk: Path, sample: Path, run_cli: RunCli, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TINYSCENE_CACHE", str(disk / "cache"))
    code, _, err = run_cli("prepare", sample)
    assert (code, err.endswith(FULL)) == (2, True)
    assert not list(disk.rglob("*.i16"))
    assert _mounted("-o", "remount,size=512m", disk)
    assert run_cli("prepare", sample)[0] == 0


def test_a_dataset_on_a_read_only_disk_is_all_that_is_needed(
    disk: Path, sample: Path, tmp_path: Path, run_cli: RunCli, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert _mounted("-o", "remount,size=512m", disk)
    shutil.copytree(sample, disk / "data")
    assert _mounted("-o", "remount,ro", disk)
    monkeypatch.setenv("TINYSCENE_CACHE", str(tmp_path / "cache"))
    assert run_cli("train", "nano", "--data", disk / "data", "--split", "5", "--out", tmp_path / "run", *SET)[0] == 0
    assert run_cli("evaluate", tmp_path / "run", "--data", disk / "data")[0] == 0


def test_a_run_on_a_read_only_disk_is_classified_by_an_export_in_the_cache(
    disk: Path, run: Path, sample: Path, tmp_path: Path, run_cli: RunCli, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert _mounted("-o", "remount,size=512m", disk)
    shutil.copytree(run, disk / "run", ignore=shutil.ignore_patterns("*.onnx"))
    assert _mounted("-o", "remount,ro", disk)
    monkeypatch.setenv("TINYSCENE_CACHE", str(tmp_path / "cache"))
    sound = next((sample / "audio").iterdir())
    results = [run_cli("classify", folder, sound) for folder in (run, disk / "run", disk / "run")]
    assert (results[0][0], results[0]) == (0, results[1])
    assert results[1] == results[2]
    assert len(list((tmp_path / "cache").rglob("*.onnx"))) == 1


def test_writing_to_a_read_only_disk_is_one_line(disk: Path, bundle: Bundle, run_cli: RunCli) -> None:
    assert _mounted("-o", "remount,ro", disk)
    code, out, err = run_cli("firmware", bundle.folder, "--out", disk / "fw")
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert "Read-only file system" in err


@pytest.mark.slow
def test_paths_with_blanks_and_other_letters_go_through_the_whole_pipeline(
    small_dataset: Path, tmp_path: Path, run_cli: RunCli
) -> None:
    place = tmp_path / "mes données, été «2026» 日本 %s {x}"
    shutil.move(small_dataset, place / "sons de la forêt")
    data, first, bundle = place / "sons de la forêt", place / "premier essai", place / "réseau"
    assert run_cli("train", "nano", "--data", data, "--split", "5", "--out", first, *SET)[0] == 0
    assert run_cli("evaluate", first, "--data", data)[0] == 0
    assert run_cli("quantize", first, "--data", data, "--out", bundle)[0] == 0
    assert run_cli("export", bundle, "--to", "tflite,onnx,onnx-int8")[0] == 0
    assert run_cli("export", first)[0] == 0
    assert run_cli("firmware", bundle, "--out", place / "carte", "--package", "cmake")[0] == 0
    assert run_cli("emulate", bundle, "--target", "host")[0] == 0
    sound = next((data / "audio").iterdir())
    code, out, _ = run_cli("classify", bundle, sound, "--runner", "native", "--json")
    assert (code, json.loads(out)[0]["file"]) == (0, str(sound))


def test_runs_side_by_side_share_one_cache(sample: Path, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    command = ["train", "nano", "--data", sample, "--split", "5", *SET]
    both = [start(tmp_path / f"log{n}", cache, *command, "--out", tmp_path / f"run{n}") for n in range(2)]
    for process in both:
        process.join()
    assert [process.exitcode for process in both] == [0, 0]
    assert len([path for path in cache.iterdir() if path.is_dir()]) == 1
    one, other = ((tmp_path / f"run{n}" / "metrics.jsonl").read_text() for n in range(2))
    losses = [json.loads(each)["loss"] for each in (one, other)]
    assert losses[0] == losses[1]


def test_a_bundle_is_read_while_another_process_adds_exports(bundle: Bundle, tmp_path: Path, cache: Path) -> None:
    copy = tmp_path / "bundle"
    shutil.copytree(bundle.folder, copy)
    process = start(tmp_path / "log", cache, "export", copy, "--to", "tflite")
    while process.is_alive():
        open_bundle(copy)
    assert process.exitcode == 0


def test_an_evaluation_that_cannot_be_written_is_shown(
    bundle: Bundle, sample: Path, run_cli: RunCli, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.EROFS, "Read-only file system", "evaluation.json")

    monkeypatch.setattr(evaluation, "write_record", refuse)
    code, stdout, stderr = run_cli("evaluate", bundle.folder, "--data", sample, "--json")
    assert (code, "macro_accuracy" in json.loads(stdout)) == (2, True)
    assert stderr.splitlines()[-1] == "tinyscene: evaluation.json: Read-only file system"


def test_figures_of_a_benchmark_that_cannot_be_written_are_shown(
    bundle: Bundle, run_cli: RunCli, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Measured:
        targets: ClassVar[dict[str, Any]] = {}

        def as_dict(self) -> dict[str, Any]:
            return {"clips": 1}

    def measure(*_: object, record: bool = True) -> Measured:
        assert not record
        return Measured()

    def refuse(*_: object) -> None:
        raise OSError(errno.EROFS, "Read-only file system", "bundle.json")

    monkeypatch.setattr(interface.Bundle, "bench", measure)
    monkeypatch.setattr(interface.Bundle, "record", refuse)
    monkeypatch.setattr(bench, "bench_table", lambda _: "")
    code, stdout, stderr = run_cli("bench", bundle.folder, "--json")
    assert (code, json.loads(stdout)) == (2, {"clips": 1})
    assert stderr.splitlines()[-1] == "tinyscene: bundle.json: Read-only file system"

"""Runs that went wrong: diverged, in use by another process, damaged on disk. None goes on as if nothing had been."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from tests.processes import start
from tests.train.test_export import TINY
from tinyscene.deploy.common.errors import InputError
from tinyscene.deploy.common.files import lock, sha256
from tinyscene.train.data.cache import Clips
from tinyscene.train.data.datasets import Dataset
from tinyscene.train.data.training_data import TrainingData
from tinyscene.train.loop import loop
from tinyscene.train.loop.loop import train
from tinyscene.train.loop.trainer import DivergedError, Trainer
from tinyscene.train.recipe import load_recipe
from tinyscene.train.runs.run import (
    CHECKPOINT,
    DIGEST,
    MAX_METRICS,
    METRICS,
    MODEL,
    RunFolder,
    digest,
    load_model,
    read_metrics,
    training_seconds,
)

SETTINGS = [*TINY, "train.batch_size=32", "train.epochs=3"]


@pytest.fixture
def data(sample_dataset: Dataset, sample_clips: Clips) -> TrainingData:
    return TrainingData(sample_dataset, sample_clips, "5")


@pytest.fixture(scope="module")
def finished(sample_dataset: Dataset, sample_clips: Clips, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("finished") / "run"
    train(load_recipe("nano", SETTINGS), TrainingData(sample_dataset, sample_clips, "5"), RunFolder(out))
    return out


@pytest.fixture
def begun(finished: Path, tmp_path: Path) -> Path:
    """A run whose training is done but for its last file."""
    shutil.copytree(finished, tmp_path / "run")
    (tmp_path / "run" / MODEL).unlink()
    return tmp_path / "run"


def resume(run: Path, data: TrainingData) -> Path:
    return train(load_recipe("nano", SETTINGS), data, RunFolder(run, resume=True))


def test_a_loss_that_is_not_finite_stops_training_and_keeps_the_last_good_checkpoint(
    data: TrainingData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    step = Trainer.step
    good: dict[str, str] = {}

    def poisoned(self: Trainer, state: Any, *more: Any) -> bool:
        if state.epoch == 1 and state.batch == 1:
            good["sha256"] = sha256(tmp_path / "run" / CHECKPOINT)
            self.parameters[0].data[0] = torch.nan
        return step(self, state, *more)

    monkeypatch.setattr(Trainer, "step", poisoned)
    with pytest.raises(DivergedError, match=r"diverged in epoch 2: the loss is nan in step 6, at a learning rate of"):
        train(load_recipe("nano", SETTINGS), data, RunFolder(tmp_path / "run"))
    assert sha256(tmp_path / "run" / CHECKPOINT) == good["sha256"]
    assert len((tmp_path / "run" / METRICS).read_text().splitlines()) == 1
    assert not (tmp_path / "run" / MODEL).exists()


@pytest.mark.parametrize("batch", [32, 480], ids=["several steps", "one step"])  # after which the loss is still finite
def test_a_learning_rate_beyond_reason_is_one_line_and_exit_code_2(
    batch: int, sample: Path, run_cli: Callable[..., tuple[int, str, str]], tmp_path: Path
) -> None:
    beyond = ("train.lr=1e30", "train.warmup=0", "train.epochs=1", f"train.batch_size={batch}")
    settings = [f"--set={setting}" for setting in (*SETTINGS, *beyond)]
    code, _, err = run_cli("train", "nano", "--data", sample, "--split", "5", "--out", tmp_path / "run", *settings)
    assert (code, err.count("\n"), "try a lower --set train.lr" in err) == (2, 1, True)


def test_a_run_that_another_process_trains_is_left_to_it(begun: Path, data: TrainingData) -> None:
    before = sha256(begun / METRICS)
    handle = os.open(begun, os.O_RDONLY)
    lock(handle)
    with pytest.raises(InputError, match="another process is training this run"):
        resume(begun, data)
    os.close(handle)
    assert sha256(begun / METRICS) == before
    assert resume(begun, data).exists()


@pytest.mark.slow
def test_of_two_processes_that_resume_one_run_one_trains_it(
    sample: Path, cache: Path, finished: Path, tmp_path: Path
) -> None:
    for number in range(10):
        out = tmp_path / f"run{number}"
        settings = [f"--set={setting}" for setting in SETTINGS]
        command = ["train", "nano", "--data", sample, "--split", "5", "--out", out, *settings]
        shutil.copytree(finished, out)
        (out / MODEL).unlink()
        (out / CHECKPOINT).unlink()  # so that everything is trained again
        processes = [start(tmp_path / f"log{index}", cache, *command, "--resume") for index in range(2)]
        for process in processes:
            process.join()
        assert 0 in {process.exitcode for process in processes} <= {0, 2}
        lines = [json.loads(line)["epoch"] for line in (out / METRICS).read_text().splitlines()]
        assert lines == [1, 2, 3]
        assert load_file(out / MODEL).keys() == load_file(finished / MODEL).keys()


def rewrite(checkpoint: Path, tensors: dict[str, torch.Tensor], state: dict[str, Any]) -> None:
    """Write a checkpoint with other tensors and another state, and with the right hash."""
    with safe_open(checkpoint, "pt") as handle:
        header = handle.metadata() | {"state": json.dumps(json.loads(handle.metadata()["state"]) | state)}
    tensors = load_file(checkpoint) | tensors
    save_file(tensors, checkpoint, header | {DIGEST: digest(tensors, header)})


@pytest.mark.parametrize(
    "state",
    [{"step": 10**6}, {"batch": 1}, {"batch": 10**6, "clips": 1}, {"clips": 1}, {"seconds": 1.0}, {"epoch": 1}],
    ids=str,
)
def test_a_place_where_training_never_stands_is_refused(state: dict[str, Any], begun: Path, data: TrainingData) -> None:
    rewrite(begun / CHECKPOINT, {}, state)
    with pytest.raises(InputError, match="where this training never stands"):
        resume(begun, data)


@pytest.mark.parametrize(
    ("key", "damage"),
    [
        ("exp_avg", lambda tensor: tensor[:1]),
        ("exp_avg_sq", lambda tensor: tensor.double()),
        ("exp_avg_sq", lambda tensor: tensor - 1),
        ("step", lambda tensor: tensor.repeat(2)),
        ("step", lambda tensor: -tensor),
    ],
    ids=["cut", "double", "negative", "two steps", "a negative step"],
)
def test_moments_that_no_optimizer_has_are_refused(
    key: str, damage: Callable[[torch.Tensor], torch.Tensor], begun: Path, data: TrainingData
) -> None:
    tensors = load_file(begun / CHECKPOINT)
    name = next(name for name in tensors if name.startswith(f"optimizer.{key}.") and name.endswith("weight"))
    rewrite(begun / CHECKPOINT, {name: damage(tensors[name])}, {})
    with pytest.raises(InputError, match=r"not a checkpoint that can be read \(optimizer"):
        resume(begun, data)


@pytest.mark.parametrize(
    "state",
    [
        {"epoch": 10**9},
        {"epoch": -1},
        {"epoch": "x"},
        {"epoch": True},
        {"loss": 1e999},
        pytest.param({"loss": 10**400}, id="beyond float"),
        {"surprise": 1},
    ],
    ids=str,
)
def test_a_state_that_training_cannot_have_is_refused(state: dict[str, Any], begun: Path, data: TrainingData) -> None:
    rewrite(begun / CHECKPOINT, {}, state)
    with pytest.raises(InputError, match="not a checkpoint that can be read"):
        resume(begun, data)


def test_a_flipped_bit_of_a_checkpoint_is_noticed(begun: Path, data: TrainingData) -> None:
    content = bytearray((begun / CHECKPOINT).read_bytes())
    content[-1000] ^= 1
    (begun / CHECKPOINT).write_bytes(content)
    with pytest.raises(InputError, match="its content is not what was written"):
        resume(begun, data)


def test_a_flipped_bit_of_a_model_is_noticed(finished: Path, tmp_path: Path) -> None:
    content = bytearray((finished / MODEL).read_bytes())
    content[-1000] ^= 1
    (tmp_path / MODEL).write_bytes(content)
    with pytest.raises(InputError, match="its content is not what was written"):
        load_model(tmp_path / MODEL)


def test_a_checkpoint_whose_weights_are_not_finite_is_refused(begun: Path, data: TrainingData) -> None:
    tensors = load_file(begun / CHECKPOINT)
    name, tensor = next(item for item in tensors.items() if item[1].is_floating_point())
    rewrite(begun / CHECKPOINT, {name: torch.full_like(tensor, torch.nan)}, {})
    with pytest.raises(InputError, match="holds NaN or infinite values"):
        resume(begun, data)


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (lambda text: text[:-20], "line 3 does not hold the metrics of epoch 3"),
        (lambda text: text.replace('"epoch": 2', '"epoch": 1'), "line 2 does not hold the metrics of epoch 2"),
        (lambda text: text.splitlines(keepends=True)[0], "holds 1 epochs of the 3 of the checkpoint"),
        (lambda text: text + MAX_METRICS * "x", "larger than 10,000,000 bytes"),
    ],
    ids=["cut", "an epoch twice", "lost lines", "endless"],
)
def test_metrics_that_the_checkpoint_counts_on_are_checked(
    damage: Callable[[str], str], reason: str, begun: Path, data: TrainingData
) -> None:
    metrics = begun / METRICS
    metrics.write_text(damage(metrics.read_text()))
    with pytest.raises(InputError, match=reason):
        resume(begun, data)


@pytest.mark.parametrize("content", ['{"epoch": 1', "[1]", MAX_METRICS * "x" + "\n"], ids=["cut", "list", "endless"])
def test_metrics_that_are_none_are_one_line(content: str, tmp_path: Path) -> None:
    (tmp_path / METRICS).write_text(content)
    with pytest.raises(InputError, match=r"not the metrics of a training|larger than"):
        read_metrics(tmp_path)


@pytest.mark.parametrize(
    "seconds", ["", ', "seconds": "1"', ', "seconds": NaN', ', "seconds": 1e400', ', "seconds": true']
)
def test_metrics_without_the_seconds_of_an_epoch_are_one_line(seconds: str, tmp_path: Path) -> None:
    (tmp_path / METRICS).write_text('{"epoch": 1, "seconds": 2.5}\n{"epoch": 2, "seconds": 1}\n')
    assert training_seconds(tmp_path) == 3.5
    (tmp_path / METRICS).write_text(f'{{"epoch": 1, "seconds": 2.5}}\n{{"epoch": 2{seconds}}}\n')
    with pytest.raises(InputError, match=r"metrics\.jsonl: line 2 does not say how many `seconds`"):
        training_seconds(tmp_path)


def test_a_line_of_metrics_is_on_the_disk_before_the_checkpoint_that_counts_on_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    on_disk = []
    monkeypatch.setattr(os, "fsync", lambda handle: on_disk.append(os.fstat(handle).st_size))
    loop._append_metrics(tmp_path, {"epoch": 1}, None)
    loop._append_metrics(tmp_path, {"epoch": 2}, None)
    assert on_disk == [len('{"epoch": 1}\n'), (tmp_path / METRICS).stat().st_size]

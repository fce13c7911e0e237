"""The training loop: what a step does, what a run writes, and that a broken run ends like an unbroken one."""

import importlib.metadata
import json
import math
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from tests import ROOT
from tinyscene.deploy.common.errors import InputError
from tinyscene.train.data.cache import Clips
from tinyscene.train.data.datasets import Dataset
from tinyscene.train.data.selection import Selection
from tinyscene.train.data.training_data import TrainingData
from tinyscene.train.loop.checkpoint import TrainState
from tinyscene.train.loop.loop import train
from tinyscene.train.loop.schedule import learning_rate
from tinyscene.train.loop.trainer import Hardware, Ranks, Trainer
from tinyscene.train.models import build, features_of
from tinyscene.train.recipe import Recipe, load_recipe
from tinyscene.train.runs.evaluate import evaluate, predictor
from tinyscene.train.runs.run import RunFolder, load_model, read_metrics, write_recipe
from tinyscene.train.teachers.distill import cross_entropy
from tinyscene.train.training_settings import Train

QUICK = ["train.batch_size=32", "train.micro_batch=16", "features.n_mels=64", "features.hop_length=1000"]
STILL = ["augment.roll_seconds=0", "augment.freq_mask=0", "augment.mixstyle_p=0"]  # no random numbers in a step
AVERAGED = "train.ema=0.9"
SPLIT = "5"
CLIPS_IN_SPLIT = 120


@pytest.fixture
def quick() -> Recipe:
    """The smallest network on a coarse log-mel: seconds for an epoch."""
    return load_recipe("nano", [*QUICK, "train.epochs=3"])


def metrics_of(run: Path) -> list[dict[str, Any]]:
    """The metrics of a run without what depends on the clock."""
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [{key: line[key] for key in line if key not in ("seconds", "clips_per_second")} for line in lines]


def command(sample: Path, out: Path, *more: str, epochs: int = 3) -> list[str]:
    """The command line of the quick run."""
    settings = [word for setting in (*QUICK, AVERAGED, f"train.epochs={epochs}") for word in ("--set", setting)]
    arguments = ["train", "nano", "--data", str(sample), "--split", SPLIT, "--out", str(out)]
    return ["-m", "tinyscene", *arguments, *settings, *more]


def environment(cache: Path) -> dict[str, str]:
    return {**os.environ, "TINYSCENE_CACHE": str(cache), "OMP_NUM_THREADS": "1"}


def wait_for(condition: Callable[[], bool], process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + 120
    while not condition():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.fixture(scope="module")
def unbroken(sample: Path, sample_clips: Clips, cache: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run from start to end on one thread."""
    out = tmp_path_factory.mktemp("runs") / "unbroken"
    subprocess.run([sys.executable, *command(sample, out)], check=True, cwd=ROOT, env=environment(cache))
    return out


def test_the_learning_rate_warms_up_linearly_and_falls_as_half_a_cosine() -> None:
    settings = Train(lr=1.0, warmup=0.1)
    rates = [learning_rate(settings, step, 100) for step in range(100)]
    assert rates[:10] == pytest.approx([step / 10 for step in range(10)])
    assert rates[10:] == pytest.approx([(1 + math.cos(math.pi * k / 90)) / 2 for k in range(90)])


def test_the_published_warm_up_is_2000_of_81900_steps() -> None:
    assert round(Train().warmup * 81_900) == pytest.approx(2000, abs=10)


def test_the_baseline_warms_up_for_the_published_2000_steps_on_every_split() -> None:
    settings = load_recipe("baseline").train
    for total in (4_200, 81_900):  # steps of TAU's splits 5 and 100
        assert learning_rate(settings, 1_000, total) == pytest.approx(settings.lr / 2)
        assert learning_rate(settings, 2_000, total) == settings.lr


def test_a_warm_up_of_many_steps_takes_half_of_a_short_run() -> None:
    settings = Train(lr=1.0, warmup_steps=2_000)
    assert [learning_rate(settings, step, 40) for step in (0, 10, 20)] == [0, 0.5, 1]


def test_the_linear_schedule_is_the_published_one() -> None:
    """PaSST's: a rise over 3 epochs, exp(-5 (1 - epoch / 3)^2) from epoch 0.5, a fall from 3 over 10, then 0.01."""
    settings = load_recipe("passt").train
    steps = 7  # an epoch
    rates = [learning_rate(settings, step, 25 * steps) / settings.lr for step in range(25 * steps)]
    by_epoch = rates[::steps]
    assert rates == [rate for rate in by_epoch for _ in range(steps)]
    assert by_epoch[:4] == pytest.approx([0.031048, 0.108368, 0.573753, 1.0], abs=1e-6)
    assert by_epoch[4:13] == pytest.approx([1 - 0.99 * epoch / 10 for epoch in range(1, 10)])
    assert by_epoch[13:] == pytest.approx([0.01] * 12)


def test_the_teacher_cp_resnet_rises_over_15_epochs_and_falls_from_50_over_85() -> None:
    settings = load_recipe("cp_resnet").train
    rates = [learning_rate(settings, epoch, 150) / settings.lr for epoch in range(150)]
    assert rates[14] < 1
    assert rates[15:51] == [1.0] * 36
    assert rates[92] == pytest.approx(1 - 0.995 * 42 / 85)
    assert rates[134] > 0.005
    assert rates[135:] == pytest.approx([0.005] * 15)


def test_a_run_holds_one_line_of_metrics_an_epoch(unbroken: Path) -> None:
    lines = metrics_of(unbroken)
    assert [line["epoch"] for line in lines] == [1, 2, 3]
    assert [line["step"] for line in lines] == [4, 8, 12]
    assert all(line["clips"] == CLIPS_IN_SPLIT for line in lines)


def test_the_loss_falls_from_that_of_a_guess(sample_dataset: Dataset, sample_clips: Clips, tmp_path: Path) -> None:
    recipe = load_recipe("nano", [*QUICK, *STILL, "train.epochs=10"])
    train(recipe, TrainingData(sample_dataset, sample_clips, SPLIT), RunFolder(tmp_path / "run"))
    losses = [line["loss"] for line in metrics_of(tmp_path / "run")]
    assert losses[0] == pytest.approx(math.log(10), rel=0.3)
    assert losses[-1] < 0.8 * losses[0]


def test_a_model_carries_the_recipe_versions_data_and_git_state_that_made_it(
    unbroken: Path, sample_clips: Clips
) -> None:

    card = load_model(unbroken)[1]
    assert card.parsed_recipe == load_recipe("nano", [*QUICK, AVERAGED, "train.epochs=3"])
    assert card.data_hash == sample_clips.data_hash
    assert card.made_by["versions"]["torch"] == importlib.metadata.version("torch")
    assert "git" in card.made_by


def interrupt(sample: Path, cache: Path, out: Path, number: signal.Signals) -> tuple[int, str]:
    """Start the quick run, send it a signal once it has a checkpoint; its exit code and stderr."""
    run = subprocess.Popen(
        [sys.executable, *command(sample, out)], cwd=ROOT, env=environment(cache), stderr=subprocess.PIPE, text=True
    )
    wait_for((out / "checkpoint.safetensors").exists, run)
    run.send_signal(number)
    _, errors = run.communicate(timeout=60)
    return run.returncode, errors


@pytest.mark.parametrize(
    "number",
    [signal.SIGKILL, *(pytest.param(each, marks=pytest.mark.slow) for each in (signal.SIGINT, signal.SIGTERM))],
)
def test_an_interrupted_and_resumed_run_ends_with_the_metrics_and_weights_of_an_unbroken_one(
    number: signal.Signals, unbroken: Path, sample: Path, cache: Path, tmp_path: Path
) -> None:
    out = tmp_path / "broken"
    code, errors = interrupt(sample, cache, out, number)
    assert not (out / "model.safetensors").exists()
    if number == signal.SIGKILL:
        assert code == -signal.SIGKILL
    else:
        assert (code, errors.count("\n")) == (130, 1)
        assert "go on with --resume" in errors
    subprocess.run([sys.executable, *command(sample, out, "--resume")], check=True, cwd=ROOT, env=environment(cache))
    assert metrics_of(out) == metrics_of(unbroken)
    assert same_weights(out, unbroken)


def same_weights(one: Path, other: Path) -> bool:
    first, second = (load_file(run / "model.safetensors") for run in (one, other))
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.slow
def test_two_processes_learn_what_one_does(sample: Path, sample_clips: Clips, cache: Path, tmp_path: Path) -> None:
    # random numbers each process draws for itself; without them both see the same micro-batches of 15
    settings = [*STILL, "train.batch_size=30", "train.micro_batch=15"]
    plain = [word for setting in settings for word in ("--set", setting)]
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    for name, launcher in (("one", []), ("two", torchrun)):
        arguments = command(sample, tmp_path / name, *plain, epochs=2)
        subprocess.run([sys.executable, *launcher, *arguments], check=True, cwd=ROOT, env=environment(cache))
    alone, together = (load_file(tmp_path / name / "model.safetensors") for name in ("one", "two"))
    learnt = [name for name in alone if not name.endswith(("running_mean", "running_var", "num_batches_tracked"))]
    for name in learnt:
        torch.testing.assert_close(together[name], alone[name], rtol=1e-3, atol=1e-4)
    assert [line["loss"] for line in metrics_of(tmp_path / "two")] == pytest.approx(
        [line["loss"] for line in metrics_of(tmp_path / "one")], rel=1e-4
    )


def test_branches_train_and_leave_a_plain_network(sample_dataset: Dataset, sample_clips: Clips, tmp_path: Path) -> None:
    recipe = load_recipe("nano", [*QUICK, "train.epochs=1", "model.branches=true"])
    model = train(recipe, TrainingData(sample_dataset, sample_clips, SPLIT), RunFolder(tmp_path / "run"))
    trained = load_file(tmp_path / "run" / "checkpoint.safetensors")
    assert any(".parallel." in name for name in trained)
    assert not any(".parallel." in name for name in load_file(model))


def test_every_augmentation_at_once_trains(
    sample_dataset: Dataset, sample_clips: Clips, sample: Path, tmp_path: Path
) -> None:
    settings = ["time_mask=8", "mixstyle_p=1", "dir_p=1", f"dir_folder={sample / 'audio'}", "mixup_alpha=0.3"]
    recipe = load_recipe("nano", [*QUICK, "train.epochs=1", *(f"augment.{setting}" for setting in settings)])
    train(recipe, TrainingData(sample_dataset, sample_clips, SPLIT), RunFolder(tmp_path / "run"))
    assert math.isfinite(metrics_of(tmp_path / "run")[0]["loss"])


def test_bfloat16_trains_to_nearly_the_same_first_loss(
    sample_dataset: Dataset, sample_clips: Clips, tmp_path: Path
) -> None:
    losses = []
    for precision in ("float32", "bfloat16"):
        recipe = load_recipe("nano", [*QUICK, "train.epochs=1", f"train.precision={precision}"])
        train(recipe, TrainingData(sample_dataset, sample_clips, SPLIT), RunFolder(tmp_path / precision))
        losses.append(metrics_of(tmp_path / precision)[0]["loss"])
    assert losses[1] == pytest.approx(losses[0], rel=0.05)
    assert losses[1] != losses[0]


def test_the_test_list_is_evaluated_when_asked(sample_dataset: Dataset, sample_clips: Clips, tmp_path: Path) -> None:
    recipe = load_recipe("nano", [*QUICK, "train.epochs=2", "train.evaluate_every=2"])
    train(recipe, TrainingData(sample_dataset, sample_clips, SPLIT), RunFolder(tmp_path / "run"))
    first, second = metrics_of(tmp_path / "run")
    assert "test_accuracy" not in first
    assert 0 <= second["test_accuracy"] <= 1


def test_tensorboard_gets_the_metrics(sample_dataset: Dataset, sample_clips: Clips, tmp_path: Path) -> None:
    recipe = load_recipe("nano", [*QUICK, "train.epochs=1", "train.tensorboard=true"])
    train(recipe, TrainingData(sample_dataset, sample_clips, SPLIT), RunFolder(tmp_path / "run"))
    assert list((tmp_path / "run" / "tensorboard").glob("events*"))


def test_resuming_with_another_recipe_is_refused(
    quick: Recipe, unbroken: Path, sample_dataset: Dataset, sample_clips: Clips
) -> None:
    other = quick.model_copy(update={"seed": 1})
    with pytest.raises(InputError, match="was trained with another recipe"):
        train(other, TrainingData(sample_dataset, sample_clips, SPLIT), RunFolder(unbroken, resume=True))


def test_a_run_killed_before_its_first_checkpoint_starts_anew(
    quick: Recipe, sample_dataset: Dataset, sample_clips: Clips, tmp_path: Path
) -> None:
    write_recipe(tmp_path / "run", quick)
    (tmp_path / "run" / "metrics.jsonl").write_text("a line cut sh")
    train(quick, TrainingData(sample_dataset, sample_clips, SPLIT), RunFolder(tmp_path / "run", resume=True))
    assert [line["epoch"] for line in metrics_of(tmp_path / "run")] == [1, 2, 3]


def test_resuming_a_finished_run_changes_nothing(unbroken: Path, sample_dataset: Dataset, sample_clips: Clips) -> None:
    before = {path.name: path.read_bytes() for path in unbroken.iterdir()}
    recipe = load_recipe("nano", [*QUICK, AVERAGED, "train.epochs=3"])
    train(recipe, TrainingData(sample_dataset, sample_clips, SPLIT), RunFolder(unbroken, resume=True))
    assert {path.name: path.read_bytes() for path in unbroken.iterdir()} == before


def test_the_average_is_what_a_run_keeps(sample_dataset: Dataset, sample_clips: Clips, tmp_path: Path) -> None:
    recipe = load_recipe("nano", [*QUICK, "train.epochs=2", "train.ema=0.75"])
    train(recipe, TrainingData(sample_dataset, sample_clips, SPLIT), RunFolder(tmp_path / "run"))
    kept, checkpoint = (load_file(tmp_path / "run" / f"{name}.safetensors") for name in ("model", "checkpoint"))
    name = "stages.s1.b1.block.0.0.weight"
    assert torch.equal(kept[name], checkpoint[f"average.module.{name}"])
    assert not torch.equal(kept[name], checkpoint[f"model.{name}"])


def test_the_average_is_what_is_tested_while_it_trains(
    sample_dataset: Dataset, sample_clips: Clips, tmp_path: Path
) -> None:
    recipe = load_recipe("nano", [*QUICK, "train.epochs=1", "train.evaluate_every=1", "train.ema=0.99"])
    train(recipe, TrainingData(sample_dataset, sample_clips, SPLIT), RunFolder(tmp_path / "run"))
    network, _ = load_model(tmp_path / "run")
    kept = evaluate(predictor(network, features_of(recipe)), sample_clips, sample_dataset.split(SPLIT)[1])
    assert read_metrics(tmp_path / "run")[0]["test_log_loss"] == pytest.approx(kept.log_loss, rel=1e-5)


def test_an_average_with_hardly_any_memory_is_the_network(
    sample_dataset: Dataset, sample_clips: Clips, tmp_path: Path
) -> None:
    for name, decay in (("plain", 0.0), ("average", 1e-9)):
        recipe = load_recipe("nano", [*QUICK, "train.epochs=1", f"train.ema={decay}"])
        train(recipe, TrainingData(sample_dataset, sample_clips, SPLIT), RunFolder(tmp_path / name))
    plain, average = (load_file(tmp_path / name / "model.safetensors") for name in ("plain", "average"))
    for name in plain:
        torch.testing.assert_close(average[name], plain[name], rtol=1e-5, atol=1e-7)


def trainer_of(dataset: Dataset, clips: Clips, *settings: str) -> Trainer:
    recipe = load_recipe("nano", [*QUICK, *settings])
    labelled = clips.select(dataset.split(SPLIT)[0])
    selection, hardware = Selection(clips, labelled, labelled[:0]), Hardware(Ranks(0, 1), torch.device("cpu"), 16)
    return Trainer(build(recipe.model, 10), recipe, cross_entropy, selection, hardware)


def test_an_average_follows_its_recurrence(sample_dataset: Dataset, sample_clips: Clips) -> None:
    trainer = trainer_of(sample_dataset, sample_clips, "train.ema=0.75")
    name, state, expected = "in_c.0.0.weight", TrainState(), torch.empty(0)
    for step in range(4):
        trainer.step(state, total_steps=100, stopping=False)
        now = trainer.network.state_dict()[name]
        expected = now.clone() if step == 0 else 0.75 * expected + 0.25 * now
    assert trainer.average is not None
    torch.testing.assert_close(trainer.average.module.state_dict()[name], expected)


@pytest.mark.parametrize("degree", [0.5, 1.0])
def test_balanced_sampling_takes_rare_groups_as_often_as_the_degree_says(
    degree: float, sample_dataset: Dataset, sample_clips: Clips
) -> None:
    trainer = trainer_of(sample_dataset, sample_clips, f"train.balance={degree}")
    devices = np.where(np.arange(CLIPS_IN_SPLIT) % 4, "a", "s1")  # three times as many of one as of the other
    trainer.recording_devices = devices
    groups = np.array([f"{label}-{device}" for label, device in zip(trainer.label, devices, strict=True)])
    names, count = np.unique(groups, return_counts=True)
    taken = np.concatenate([trainer._shuffle(np.random.default_rng(seed)) for seed in range(200)])
    share = np.array([(groups[taken] == name).mean() for name in names])
    expected = count ** (1 - degree) / (count ** (1 - degree)).sum()
    np.testing.assert_allclose(share, expected, rtol=0.05)


def test_without_balancing_an_epoch_takes_every_clip_once(sample_dataset: Dataset, sample_clips: Clips) -> None:
    order = trainer_of(sample_dataset, sample_clips)._shuffle(np.random.default_rng(0))
    assert sorted(order.tolist()) == list(range(CLIPS_IN_SPLIT))

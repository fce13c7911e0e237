"""Labels that a teacher doubts: which they are, what is left of them in a mixture, and how they are counted."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from tests.train.test_export import TINY, run_of
from tests.train.test_loop import CLIPS_IN_SPLIT, QUICK, SPLIT, STILL, metrics_of
from tinyscene.deploy.common.errors import InputError
from tinyscene.train.data.cache import Clips
from tinyscene.train.data.datasets import Dataset
from tinyscene.train.data.selection import select
from tinyscene.train.data.training_data import TrainingData
from tinyscene.train.loop.checkpoint import TrainState
from tinyscene.train.loop.loop import train
from tinyscene.train.loop.trainer import Hardware, Ranks, Trainer
from tinyscene.train.models import build
from tinyscene.train.recipe import load_recipe
from tinyscene.train.runs.run import RunFolder
from tinyscene.train.teachers.answers import teacher_of
from tinyscene.train.teachers.distill import Targets
from tinyscene.train.teachers.logits import make_logits

CPU = torch.device("cpu")
DOUBTED = (3, 50, 119)  # positions in the training list


@pytest.fixture
def data(sample_dataset: Dataset, sample_clips: Clips) -> TrainingData:
    return TrainingData(sample_dataset, sample_clips, SPLIT)


@pytest.fixture
def logits(data: TrainingData, tmp_path: Path) -> Path:
    """A teacher that gives each label .5, but three of them .04; the next label has what is left over."""
    indices = data.clips.select(data.dataset.split(SPLIT)[0])
    label = torch.from_numpy(data.clips.label[indices])
    given = torch.full((len(label),), 0.5)
    given[list(DOUBTED)] = 0.04
    probabilities = torch.full((len(label), 10), 1e-6)
    probabilities.scatter_(1, label[:, None], given[:, None])
    probabilities.scatter_(1, (label[:, None] + 1) % 10, 1 - given[:, None])
    names = {"clips": json.dumps(data.clips.names(indices)), "labels": json.dumps(data.clips.labels)}
    save_file({"logits": probabilities.log()}, tmp_path / "l.safetensors", names)
    return tmp_path / "l.safetensors"


def trainer_of(data: TrainingData, settings: list[str]) -> tuple[Trainer, list[Targets]]:
    """A trainer of one batch of all clips, and what its loss will have been asked for."""
    asked: list[Targets] = []

    def loss(output: Tensor, targets: Targets) -> Tensor:
        asked.append(targets)
        return output.sum()

    whole = [f"train.batch_size={CLIPS_IN_SPLIT}", f"train.micro_batch={CLIPS_IN_SPLIT}"]
    recipe = load_recipe("nano", [*QUICK, *STILL, *whole, *settings])
    selection, hardware = select(recipe, data), Hardware(Ranks(0, 1), CPU, CLIPS_IN_SPLIT)
    teacher = teacher_of(recipe, data, selection, CPU, 32)
    return Trainer(build(recipe.model, 10), recipe, loss, selection, hardware, teacher), asked


@pytest.mark.parametrize(("mask", "doubted"), [(0, []), (0.03, []), (0.05, list(DOUBTED))])
def test_labels_below_the_limit_at_temperature_1_are_left_out(
    mask: float, doubted: list[int], data: TrainingData, logits: Path
) -> None:
    trainer, asked = trainer_of(data, [f"distill.logits={logits}", "distill.temperature=4", f"distill.mask={mask}"])
    assert trainer.masked.nonzero().flatten().tolist() == doubted
    trainer.step(TrainState(), total_steps=10, stopping=False)
    kept = torch.eye(10)[trainer.label] * ~trainer.masked[:, None]
    assert torch.equal(asked[0].labels, kept[torch.from_numpy(trainer.order)])


def test_each_share_of_a_mixture_is_masked_for_itself(data: TrainingData, logits: Path) -> None:
    settings = [f"distill.logits={logits}", "augment.mixup_alpha=0.3"]
    labels = []
    for mask in (0, 0.05):
        trainer, asked = trainer_of(data, [*settings, f"distill.mask={mask}"])
        trainer.step(TrainState(), total_steps=10, stopping=False)
        labels.append(asked[0].labels)
    left_out = labels[0] - labels[1]  # (batch, classes)
    assert (left_out >= 0).all()
    assert 3 <= int((left_out > 0).sum()) <= 6  # shares of three clips, as own and as partner
    torch.testing.assert_close(labels[1].sum(1), 1 - left_out.sum(1))  # the other share of each mixture is kept
    assert torch.equal(labels[0][(left_out == 0).all(1)], labels[1][(left_out == 0).all(1)])


def test_a_teacher_that_is_asked_judges_the_clips_as_recorded(data: TrainingData, tmp_path: Path) -> None:
    run, _ = run_of(tmp_path, "nano", [*TINY, "features.hop_length=2000"], seed=5)
    stored = make_logits([run], data.dataset, data.clips, SPLIT, tmp_path / "l.safetensors")
    answers = []
    for key in (f"distill.online={run}", f"distill.logits={stored}"):
        trainer, _ = trainer_of(data, [key, "augment.mixup_alpha=0.3", "augment.roll_seconds=0.1"])
        assert trainer.teacher is not None
        answers.append(trainer.teacher.as_recorded())
    assert answers[0].shape == (CLIPS_IN_SPLIT, 10)
    torch.testing.assert_close(*answers, rtol=1e-4, atol=1e-6)


def test_metrics_count_the_labels_left_out_where_labels_are_judged(
    data: TrainingData, logits: Path, tmp_path: Path
) -> None:
    for name, mask in (("plain", 0), ("masked", 0.05)):
        settings = ["train.epochs=1", f"distill.logits={logits}", f"distill.mask={mask}"]
        train(load_recipe("nano", [*QUICK, *settings]), data, RunFolder(tmp_path / name))
    assert [line.get("masked_labels") for line in metrics_of(tmp_path / "plain")] == [None]
    assert [line["masked_labels"] for line in metrics_of(tmp_path / "masked")] == [3]


def test_labels_are_not_judged_without_a_teacher(data: TrainingData, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"distill\.mask: no teacher"):
        train(load_recipe("nano", [*QUICK, "distill.mask=0.1"]), data, RunFolder(tmp_path / "run"))
    assert not (tmp_path / "run").exists()

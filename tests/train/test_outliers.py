"""Training against strangers' clips: which they are, and what the network is asked for on them."""

from pathlib import Path

import pytest
import torch
from torch import Tensor

from tests.train.test_loop import STILL
from tests.train.test_online import data, elsewhere, trainer_of
from tinyscene.deploy.common.errors import InputError
from tinyscene.train.data.selection import select
from tinyscene.train.data.training_data import TrainingData
from tinyscene.train.loop.checkpoint import TrainState
from tinyscene.train.models import build
from tinyscene.train.recipe import load_recipe
from tinyscene.train.teachers.distill import Targets, cross_entropy

__all__ = ["data", "elsewhere"]  # fixtures


def test_a_batch_has_as_many_clips_of_strangers_whose_classes_are_all_alike(
    elsewhere: Path, data: TrainingData
) -> None:
    asked: list[Targets] = []

    def loss(logits: Tensor, targets: Targets) -> Tensor:
        asked.append(targets)
        return logits.sum()

    settings = [*STILL, f"train.outliers={elsewhere}", "train.outlier_weight=0.5"]
    trainer = trainer_of(data, settings, build(load_recipe("nano").model, 10), loss)
    trainer.step(TrainState(), total_steps=10, stopping=False)
    for targets in asked:
        assert targets.labels[::2].max(1).values.tolist() == [1.0] * 8
        torch.testing.assert_close(targets.labels[1::2], torch.full((8, 10), 0.05))
        assert targets.teacher is None


def test_the_loss_on_strangers_is_least_where_all_logits_are_equal() -> None:
    labels = torch.full((1, 10), 0.05)
    flat, sure = torch.zeros(1, 10), torch.eye(10)[:1]
    least = cross_entropy(flat, Targets(torch.empty(0), labels))
    torch.testing.assert_close(least, 0.5 * torch.log(torch.tensor(10.0)))
    assert cross_entropy(sure, Targets(torch.empty(0), labels)) > least


def test_a_run_names_the_folder_of_its_outliers(elsewhere: Path, data: TrainingData) -> None:
    selection = select(load_recipe("nano", [f"train.outliers={elsewhere}"]), data)
    assert selection.external_data is not None
    assert selection.external_data.startswith(f"{elsewhere}: 3 clips without labels")


def test_outliers_of_the_test_list_are_refused(sample: Path, data: TrainingData) -> None:
    with pytest.raises(InputError, match=r"train\.outliers .*: holds \d+ recordings of the test list"):
        select(load_recipe("nano", [f"train.outliers={sample / 'audio'}"]), data)


@pytest.mark.parametrize("key", ["distill.logits=any", "distill.online=any"])
def test_outliers_and_a_teacher_are_refused_together(key: str) -> None:
    with pytest.raises(InputError, match=r"train\.outliers: a teacher knows no strangers"):
        load_recipe("nano", ["train.outliers=any", key])

"""Distillation and consistency: the losses against their definitions, and what a run makes of them."""

import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.train.test_loop import QUICK, SPLIT, STILL
from tinyscene.deploy.common.errors import InputError
from tinyscene.train.data.cache import Clips
from tinyscene.train.data.datasets import Dataset
from tinyscene.train.data.training_data import TrainingData
from tinyscene.train.loop.loop import train
from tinyscene.train.models import build
from tinyscene.train.recipe import load_recipe
from tinyscene.train.runs.run import Card, RunFolder, load_tensors, save_tensors
from tinyscene.train.teachers.distill import Targets, consistency, cross_entropy, loss_of
from tinyscene.train.training_settings import Augment, Distill, Train


def log_softmax(values: np.ndarray) -> np.ndarray:
    return values - np.log(np.exp(values).sum(-1, keepdims=True))


def arrays(seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A student's and a teacher's logits and labels' distributions, (6, 10) each."""
    rng = np.random.default_rng(seed)
    return rng.normal(0, 2, (6, 10)), rng.normal(0, 2, (6, 10)), rng.dirichlet(np.ones(10), 6)


@pytest.mark.parametrize(("temperature", "weight"), [(2.0, 0.02), (1.0, 0.5), (4.0, 0.0)])
def test_the_loss_is_the_mean_softened_divergence_and_the_cross_entropy(temperature: float, weight: float) -> None:
    ours, theirs, labels = arrays()
    p = np.exp(log_softmax(theirs / temperature))
    divergence = (p * (np.log(p) - log_softmax(ours / temperature))).mean(1).sum()  # the step divides by the clips
    expected = weight * -(labels * log_softmax(ours)).sum() + (1 - weight) * temperature**2 * divergence
    loss = loss_of(Distill(logits="any", temperature=temperature, label_weight=weight))
    found = loss(torch.tensor(ours), Targets(torch.empty(0), torch.tensor(labels), torch.tensor(p)))
    assert float(found) == pytest.approx(expected)


def test_the_loss_of_two_classes_is_what_it_is_by_hand() -> None:
    """The student says 1/2, 1/2; the teacher 3/4, 1/4; the label is the first.

    Divergence 3/4 ln 3/2 + 1/4 ln 1/2 = 0.130812, over two classes 0.065406, times 4 is 0.261624; cross-entropy ln 2.
    """
    loss = loss_of(Distill(logits="any"))
    targets = Targets(torch.empty(0), torch.tensor([[1.0, 0.0]]), torch.tensor([[0.75, 0.25]]))
    expected = 0.02 * 0.693147 + 0.98 * 0.261624
    assert float(loss(torch.zeros(1, 2), targets)) == pytest.approx(expected, abs=1e-5)


def test_the_loss_is_torchs_divergence_as_the_authors_reduce_it() -> None:
    ours, theirs, labels = (torch.tensor(values) for values in arrays())
    divergence = torch.nn.KLDivLoss(log_target=True, reduction="none")
    kd = divergence((ours / 2).log_softmax(-1), (theirs / 2).log_softmax(-1)).mean() * 2**2
    expected = 0.02 * torch.nn.functional.cross_entropy(ours, labels) + 0.98 * kd
    found = loss_of(Distill(logits="any"))(ours, Targets(torch.empty(0), labels, (theirs / 2).softmax(1)))
    assert float(found) / len(ours) == pytest.approx(float(expected))


def test_the_student_is_refused_without_teachers_logits_in_one_line(
    sample: Path, tmp_path: Path, run_cli: Callable[..., tuple[int, str, str]]
) -> None:
    out = tmp_path / "run"
    code, _, err = run_cli("train", "student", "--data", sample, "--split", SPLIT, "--out", out)
    assert (code, out.exists()) == (2, False)
    assert re.search(r"recipe student learns from teachers.*tinyscene logits.*distill\.logits=FILE", err)
    assert "Traceback" not in err


def test_the_student_is_trained_as_published() -> None:
    recipe = load_recipe("student")
    assert recipe.augment == Augment(
        roll_seconds=0.1, freq_mask=48, mixstyle_p=0.4, mixstyle_alpha=0.3, dir_p=0.6, dir_devices=("a",)
    )
    assert recipe.train == Train(epochs=150, batch_size=256, lr=0.005, weight_decay=1e-4)
    assert (recipe.distill.temperature, recipe.distill.label_weight) == (2, 0.02)
    assert recipe.model == load_recipe("baseline").model


def test_a_distilled_run_of_the_former_loss_is_not_resumed(
    sample_dataset: Dataset, sample_clips: Clips, tmp_path: Path
) -> None:
    logits = teacher_of(tmp_path, sample_dataset, sample_clips, wrong_by=0)
    recipe, data = (
        load_recipe("nano", [*QUICK, "train.epochs=1", f"distill.logits={logits}"]),
        TrainingData(sample_dataset, sample_clips, SPLIT),
    )
    run = tmp_path / "run"
    train(recipe, data, RunFolder(run))
    tensors, header = load_tensors(run / "checkpoint.safetensors")
    card = json.loads(header["tinyscene"])
    del card["recipe"]["distill"]["required"]
    save_tensors(run / "checkpoint.safetensors", tensors, Card(**card), json.loads(header["state"]))
    with pytest.raises(InputError, match="sum over classes"):
        train(recipe, data, RunFolder(run, resume=True))


def test_the_published_temperature_and_weight_are_the_defaults() -> None:
    assert (Distill().temperature, Distill().label_weight) == (2.0, 0.02)


def test_without_a_teacher_the_loss_is_of_the_labels_alone() -> None:
    assert loss_of(Distill()) is cross_entropy


def test_consistency_is_the_cross_entropy_with_the_answers_that_are_sure_enough() -> None:
    ours, _, answers = arrays()
    confidence = float(np.sort(answers.max(1))[2:4].mean())  # three of six are surer
    sure = answers.max(1) > confidence
    expected = -(answers * log_softmax(ours)).sum(1)[sure].sum()
    assert float(consistency(torch.tensor(ours), torch.tensor(answers), confidence)) == pytest.approx(expected)


def losses(run: Path) -> list[float]:
    return [json.loads(line)["loss"] for line in (run / "metrics.jsonl").read_text().splitlines()]


def teacher_of(folder: Path, dataset: Dataset, clips: Clips, wrong_by: int) -> str:
    """A file of logits, sure of the label `wrong_by` after the true one."""
    chosen = clips.select(dataset.split(SPLIT)[0])
    logits = 20.0 * torch.eye(10)[(torch.from_numpy(clips.label[chosen]) + wrong_by) % 10]
    names = {"clips": json.dumps(clips.names(chosen)), "labels": json.dumps(clips.labels)}
    save_file({"logits": logits}, folder / f"{wrong_by}.safetensors", names)
    return str(folder / f"{wrong_by}.safetensors")


def test_a_student_learns_what_the_teacher_says_and_not_the_labels(
    sample_dataset: Dataset, sample_clips: Clips, tmp_path: Path
) -> None:
    logits = teacher_of(tmp_path, sample_dataset, sample_clips, wrong_by=1)
    taught = ["train.epochs=12", f"distill.logits={logits}", "distill.label_weight=0", "distill.temperature=1"]
    run = tmp_path / "run"
    recipe = load_recipe("nano", [*QUICK, *STILL, *taught])
    train(recipe, TrainingData(sample_dataset, sample_clips, SPLIT), RunFolder(run))
    accuracies = [json.loads(line)["accuracy"] for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert losses(run)[-1] < 0.8 * losses(run)[0]
    assert accuracies[-1] < 0.1  # of the true labels


@pytest.mark.parametrize("mixup", [0.0, 0.3])
def test_a_teacher_that_says_the_labels_teaches_what_the_labels_do(
    mixup: float, sample_dataset: Dataset, sample_clips: Clips, tmp_path: Path
) -> None:
    """Cross-entropy and divergence of one distribution differ by its entropy, which has no gradient.

    One step, of all clips: further steps would enlarge what the order of float sums changes in the first.
    """
    logits = teacher_of(tmp_path, sample_dataset, sample_clips, wrong_by=0)
    still = [*QUICK, *STILL, "train.epochs=1", f"augment.mixup_alpha={mixup}", "train.batch_size=120"]
    taught = [f"distill.logits={logits}", "distill.label_weight=0", "distill.temperature=1"]
    recipes = load_recipe("nano", still), load_recipe("nano", [*still, *taught])
    for recipe, out in zip(recipes, (tmp_path / "labels", tmp_path / "teacher"), strict=True):
        train(recipe, TrainingData(sample_dataset, sample_clips, SPLIT), RunFolder(out))
    torch.manual_seed(recipes[0].seed)
    start = vector(build(recipes[0].model, 10).state_dict())
    by_labels, by_teacher = (vector(load_file(tmp_path / name / "model.safetensors")) for name in ("labels", "teacher"))
    assert (by_labels - by_teacher).norm() < 0.05 * (by_labels - start).norm()


def test_a_student_refuses_the_answers_of_a_teacher_of_another_split(
    sample_dataset: Dataset, sample_clips: Clips, tmp_path: Path
) -> None:
    path = Path(teacher_of(tmp_path, sample_dataset, sample_clips, wrong_by=0))
    tensors, header = load_tensors(path)
    save_file(tensors, path, header | {"split": "100"})
    recipe = load_recipe("nano", [*QUICK, f"distill.logits={path}"])
    with pytest.raises(InputError, match=f"is of split 100; a student of split {SPLIT} may not see that"):
        train(recipe, TrainingData(sample_dataset, sample_clips, SPLIT), RunFolder(tmp_path / "run"))


def vector(state: dict[str, torch.Tensor]) -> torch.Tensor:
    return torch.cat([state[name].flatten() for name in sorted(state) if name.endswith("weight")])


def test_unlabelled_clips_change_what_is_learnt_and_their_labels_do_not(
    sample_dataset: Dataset, sample_clips: Clips, tmp_path: Path
) -> None:
    hidden = sample_clips.label.copy()
    outside = np.setdiff1d(np.arange(len(hidden)), sample_clips.select(sample_dataset.split(SPLIT)[0]))
    hidden[outside] = 0
    settings = ["train.epochs=2", "consistency.weight=1", "consistency.split=25"]
    for name, clips, more in (
        ("plain", sample_clips, []),
        ("consistent", sample_clips, settings),
        ("hidden", replace(sample_clips, label=hidden), settings),
    ):
        recipe = load_recipe("nano", [*QUICK, "train.epochs=2", *more])
        train(recipe, TrainingData(sample_dataset, clips, SPLIT), RunFolder(tmp_path / name))
    assert losses(tmp_path / "consistent") == losses(tmp_path / "hidden")
    assert losses(tmp_path / "consistent")[0] > losses(tmp_path / "plain")[0] + 1  # about ln 10 more


def test_consistency_needs_clips_outside_the_split(
    sample_dataset: Dataset, sample_clips: Clips, tmp_path: Path
) -> None:
    recipe = load_recipe("nano", [*QUICK, "consistency.weight=1", f"consistency.split={SPLIT}"])
    with pytest.raises(InputError, match=rf"consistency.split {SPLIT}.*smaller --split"):
        train(recipe, TrainingData(sample_dataset, sample_clips, SPLIT), RunFolder(tmp_path / "run"))
    assert not (tmp_path / "run").exists()

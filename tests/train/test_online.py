"""A teacher that is asked at each step: what it hears, what the loss makes of it, and recordings without labels."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from torch import Tensor, nn

from tests.train.test_distill import losses
from tests.train.test_export import TINY, run_of
from tests.train.test_loop import QUICK, SPLIT, STILL, metrics_of, same_weights
from tinyscene.deploy.common.errors import InputError
from tinyscene.deploy.common.files import sha256
from tinyscene.deploy.frontend.log_mel import PCM_SCALE
from tinyscene.train.data.augment import Draw
from tinyscene.train.data.cache import Clips, prepare
from tinyscene.train.data.datasets import Dataset
from tinyscene.train.data.features import LogMel
from tinyscene.train.data.selection import select
from tinyscene.train.data.training_data import TrainingData
from tinyscene.train.loop import loop
from tinyscene.train.loop.checkpoint import TrainState
from tinyscene.train.loop.trainer import Hardware, Ranks, Trainer
from tinyscene.train.models import build
from tinyscene.train.recipe import load_recipe
from tinyscene.train.runs.run import Card, RunFolder, load_model, load_tensors, save_tensors
from tinyscene.train.teachers.answers import OnlineTeacher, teacher_of
from tinyscene.train.teachers.distill import Loss, Targets, loss_of
from tinyscene.train.teachers.logits import make_logits
from tinyscene.train.training_settings import Distill

AT_16K = ["features.sample_rate=16000", "features.n_fft=1024", "features.win_length=800", "features.hop_length=320"]
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of a network that was not trained, at 32 kHz."""
    return run_of(tmp_path_factory.mktemp("teacher"), "nano", [*TINY, "features.hop_length=2000"], seed=5)[0]


@pytest.fixture(scope="module")
def elsewhere(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of noise: two recordings, three clips."""
    folder = tmp_path_factory.mktemp("elsewhere")
    rng = np.random.default_rng(3)
    (folder / "deep").mkdir()
    soundfile.write(folder / "short.wav", 0.1 * rng.normal(size=32_000), 32_000)
    soundfile.write(folder / "deep" / "long.wav", 0.1 * rng.normal(size=64_000), 32_000)
    return folder


@pytest.fixture
def data(sample_dataset: Dataset, sample_clips: Clips) -> TrainingData:
    """The sample with a third of the split's training clips, 40."""
    training, test = sample_dataset.split(SPLIT)
    dataset = replace(sample_dataset, splits=sample_dataset.splits | {SPLIT: (training[::3], test)})
    return TrainingData(dataset, sample_clips, SPLIT)


def trainer_of(data: TrainingData, settings: list[str], network: nn.Module, loss: Loss) -> Trainer:
    recipe = load_recipe("nano", [*QUICK, *settings])
    selection = select(recipe, data)
    teacher = teacher_of(recipe, data, selection, CPU, 16)
    return Trainer(network, recipe, loss, selection, Hardware(Ranks(0, 1), CPU, 16), teacher)


def test_without_augmentation_the_answers_are_those_of_a_file_of_logits(
    teacher: Path, data: TrainingData, tmp_path: Path
) -> None:
    logits = make_logits([teacher], data.dataset, data.clips, SPLIT, tmp_path / "l.safetensors")
    for name, key in (("online", f"distill.online={teacher}"), ("stored", f"distill.logits={logits}")):
        recipe = load_recipe("nano", [*QUICK, *STILL, "train.epochs=1", key])
        loop.train(recipe, data, RunFolder(tmp_path / name))
    assert losses(tmp_path / "online") == pytest.approx(losses(tmp_path / "stored"), rel=1e-5)


def test_a_teacher_hears_the_convolved_rolled_and_mixed_clips_at_its_own_rate(
    data: TrainingData, tmp_path: Path
) -> None:
    run, network = run_of(tmp_path, "nano", [*TINY, *AT_16K])
    (tmp_path / "ir").mkdir()
    soundfile.write(tmp_path / "ir" / "two_taps.wav", np.array([0.6, 0.8]), 16_000, "DOUBLE")  # of unit energy
    recipe = load_recipe("nano", [*QUICK, f"distill.online={run}", f"augment.dir_folder={tmp_path / 'ir'}"])
    selection = select(recipe, data)
    positions = np.array([7, 3])
    drawn = Draw(
        shift=torch.tensor([100, -64]),  # samples at 32 kHz
        response=torch.tensor([0, -1]),
        mixup=(torch.tensor([0.7, 1.0]), torch.tensor([1, 0])),
    )
    teacher = OnlineTeacher(run, recipe, data, selection, CPU, 16)
    heard = heard_by(teacher.features)
    answers = teacher(positions, drawn)

    at_16k = prepare(data.dataset, 16_000, data.clips.folder.parent)
    first, second = at_16k.pcm[data.training_clips()[positions]] / PCM_SCALE
    first = np.roll(np.convolve(first, [0.6, 0.8])[:16_000], 50)
    second = np.roll(second, -32)
    expected = torch.from_numpy(np.stack([0.7 * first + 0.3 * second, second])).float()
    torch.testing.assert_close(heard[0], expected, rtol=1e-4, atol=1e-6)
    with torch.no_grad():
        logits = network(LogMel(load_model(run)[1].parsed_recipe.features)(expected))
    torch.testing.assert_close(answers, (logits / 2).softmax(1), rtol=1e-3, atol=1e-5)


def heard_by(module: nn.Module) -> list[Tensor]:
    """What a module will have been given."""
    heard: list[Tensor] = []
    module.register_forward_pre_hook(lambda _, given: heard.append(given[0].detach().clone()))
    return heard


@pytest.mark.parametrize("masks", [0, 48])
def test_student_and_teacher_of_one_front_end_are_given_the_same_but_for_masks(
    masks: int, data: TrainingData, tmp_path: Path
) -> None:
    run, _ = run_of(tmp_path, "nano", [*TINY, *QUICK[2:]])
    mixed = ["augment.mixstyle_p=0", "augment.mixup_alpha=0.3", f"augment.freq_mask={masks}"]
    recipe = load_recipe("nano", QUICK)
    student = build(recipe.model, 10)
    trainer = trainer_of(data, [*mixed, f"distill.online={run}"], student, loss_of(Distill(online=str(run))))
    assert isinstance(trainer.teacher, OnlineTeacher)
    inputs = heard_by(student), heard_by(trainer.teacher.network)
    trainer.step(TrainState(), total_steps=10, stopping=False)
    ours, theirs = (torch.cat(given) for given in inputs)
    floor = float(torch.tensor(recipe.features.log_offset).log())
    assert bool((ours == floor).any()) == bool(masks)
    assert not (theirs == floor).any()
    torch.testing.assert_close(ours[ours != floor], theirs[ours != floor])


def test_clips_without_labels_have_the_teachers_answers_and_no_label(
    teacher: Path, elsewhere: Path, data: TrainingData
) -> None:
    asked: list[Targets] = []

    def loss(logits: Tensor, targets: Targets) -> Tensor:
        asked.append(targets)
        return logits.sum()

    settings = [*STILL, f"distill.online={teacher}", f"distill.transfer={elsewhere}", "distill.temperature=1"]
    trainer = trainer_of(data, settings, build(load_recipe("nano").model, 10), loss)
    trainer.step(TrainState(), total_steps=10, stopping=False)
    assert len(asked) == 2 * 32 / 16  # a batch of 32 with labels, micro-batches of 16
    for targets in asked:
        assert targets.labels.sum(1).tolist() == [1.0, 0.0] * 8
    network, card = load_model(teacher)
    noise = [soundfile.read(elsewhere / "short.wav")[0]]
    noise += list(soundfile.read(elsewhere / "deep" / "long.wav")[0].reshape(2, -1))
    with torch.no_grad():
        known = network(LogMel(card.parsed_recipe.features)(torch.from_numpy(np.stack(noise)).float())).softmax(1)
    for answer in torch.cat([targets.teacher[1::2] for targets in asked if targets.teacher is not None]):
        assert (answer - known).abs().amax(1).min() < 1e-3


def test_clips_without_labels_have_no_cross_entropy_and_half_of_the_divergence() -> None:
    """The cross-entropy is the mean over the clips with labels, the divergence over all."""
    rng = torch.Generator().manual_seed(0)
    logits, answers = torch.randn(8, 10, generator=rng), torch.randn(8, 10, generator=rng).softmax(1)
    labels = torch.eye(10)[:4]
    every = Targets(torch.empty(0), torch.cat([labels, torch.zeros(4, 10)]), answers)
    weights: dict[str, Any] = {"online": "any", "transfer": "any", "temperature": 1}
    by_labels = loss_of(Distill(label_weight=1, **weights))(logits, every) / 4
    by_answers = loss_of(Distill(label_weight=0, **weights))(logits, every) / 4
    torch.testing.assert_close(by_labels, nn.CrossEntropyLoss()(logits[:4], torch.arange(4)))
    torch.testing.assert_close(by_answers, nn.KLDivLoss(reduction="none")(logits.log_softmax(1), answers).mean())


def test_a_run_names_its_teacher_and_the_data_from_elsewhere(
    teacher: Path, elsewhere: Path, data: TrainingData, tmp_path: Path
) -> None:
    settings = ["train.epochs=1", f"distill.online={teacher}", f"distill.transfer={elsewhere}"]
    loop.train(load_recipe("nano", [*QUICK, *settings]), data, RunFolder(tmp_path / "run"))
    card = load_model(tmp_path / "run")[1]
    assert card.teacher == f"{teacher} sha256:{sha256(teacher / 'model.safetensors')}"
    assert card.external_data is not None
    assert card.external_data.startswith(f"{elsewhere}: 3 clips without labels")


def test_the_rest_of_the_training_list_is_learned_from_without_its_labels(
    teacher: Path, sample_dataset: Dataset, sample_clips: Clips
) -> None:
    recipe = load_recipe("nano", [*QUICK, f"distill.online={teacher}", "distill.transfer=rest"])
    selection = select(recipe, TrainingData(sample_dataset, sample_clips, SPLIT))
    whole = sample_clips.select(sample_dataset.split("100")[0])
    assert sorted([*selection.labelled, *selection.transferred]) == sorted(whole)
    assert selection.external_data is not None
    assert f"rest of the training list of split {SPLIT}" in selection.external_data
    with pytest.raises(InputError, match="split 100 leaves out no recordings"):
        select(recipe, TrainingData(sample_dataset, sample_clips, "100"))


def test_a_resumed_run_ends_as_an_unbroken_one_and_only_with_the_same_teacher(
    teacher: Path, elsewhere: Path, data: TrainingData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = ["train.epochs=2", f"distill.online={teacher}", f"distill.transfer={elsewhere}"]
    recipe = load_recipe("nano", [*QUICK, *TINY, *settings, "augment.mixup_alpha=0.3"])
    loop.train(recipe, data, RunFolder(tmp_path / "unbroken"))
    save = loop.save_checkpoint

    def save_and_stop(*arguments: Any) -> None:
        save(*arguments)
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(loop, "save_checkpoint", save_and_stop)
        with pytest.raises(KeyboardInterrupt):
            loop.train(recipe, data, RunFolder(tmp_path / "broken"))
    with monkeypatch.context() as patched:
        patched.setattr(loop, "online_source", lambda _: "run sha256:another")
        with pytest.raises(InputError, match="another teacher"):
            loop.train(recipe, data, RunFolder(tmp_path / "broken", resume=True))
    loop.train(recipe, data, RunFolder(tmp_path / "broken", resume=True))
    assert metrics_of(tmp_path / "broken") == metrics_of(tmp_path / "unbroken")
    assert same_weights(tmp_path / "broken", tmp_path / "unbroken")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (["distill.online=runs/a", "distill.logits=l.safetensors"], "name one of them"),
        (["distill.transfer=sounds"], "name a teacher with distill.online"),
    ],
)
def test_settings_that_contradict_each_other_are_refused(settings: list[str], message: str) -> None:
    with pytest.raises(InputError, match=message):
        load_recipe("nano", settings)


def test_a_student_may_be_required_to_learn_from_a_teacher_that_is_asked() -> None:
    load_recipe("student", ["distill.online=runs/any"]).distill.require("student")


def test_a_teacher_of_other_lists_is_refused(teacher: Path, data: TrainingData, tmp_path: Path) -> None:
    tensors, header = load_tensors(teacher / "model.safetensors")
    card = Card(**json.loads(header["tinyscene"]))
    other = {"data_hash": data.clips.data_hash, "split": "100", "split_hash": data.dataset.split_hash("100")}
    save_tensors(tmp_path / "other.safetensors", tensors, card.model_copy(update=other))
    recipe = load_recipe("nano", [*QUICK, f"distill.online={tmp_path / 'other.safetensors'}"])
    with pytest.raises(InputError, match="was trained on split 100 of other lists"):
        loop.train(recipe, data, RunFolder(tmp_path / "run"))
    assert not (tmp_path / "run").exists()


def test_recordings_of_the_test_list_are_refused_as_data_from_elsewhere(
    teacher: Path, sample: Path, data: TrainingData, tmp_path: Path
) -> None:
    (tmp_path / "sounds").mkdir()
    (tmp_path / "sounds" / "renamed.wav").write_bytes((sample / data.test[0]).read_bytes())
    recipe = load_recipe("nano", [*QUICK, f"distill.online={teacher}", f"distill.transfer={tmp_path / 'sounds'}"])
    with pytest.raises(InputError, match=r"1 recordings of the test list: renamed\.wav"):
        loop.train(recipe, data, RunFolder(tmp_path / "run"))


@pytest.mark.parametrize(("content", "message"), [(None, "no such folder"), ("text", "holds no recordings")])
def test_a_folder_without_recordings_is_refused_in_one_line(
    content: str | None,
    message: str,
    teacher: Path,
    sample: Path,
    tmp_path: Path,
    run_cli: Callable[..., tuple[int, str, str]],
) -> None:
    if content:
        (tmp_path / "sounds").mkdir()
        (tmp_path / "sounds" / "readme.txt").write_text(content)
    settings = ["--set", f"distill.online={teacher}", "--set", f"distill.transfer={tmp_path / 'sounds'}"]
    code, _, err = run_cli("train", "nano", "--data", sample, "--split", SPLIT, "--out", tmp_path / "run", *settings)
    assert (code, message in err, "Traceback" in err) == (2, True, False)

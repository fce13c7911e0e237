"""Evaluation against plain loops and closed forms, and the files and the JSON that the command leaves."""

import json
import math
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from numpy.typing import NDArray

from tinyscene.deploy.common.errors import InputError
from tinyscene.train.data.cache import Clips, prepare
from tinyscene.train.data.datasets import SCENES, open_dataset
from tinyscene.train.models import build
from tinyscene.train.recipe import load_recipe
from tinyscene.train.runs.evaluate import Evaluation, evaluate, plot_confusion, score
from tinyscene.train.runs.run import Card, save_tensors

LABELS = ("bus", "metro", "park", "tram")
GROUPS = {"real": ("a", "b", "c"), "seen": ("s1", "s2", "s3"), "unseen": ("s4", "s5", "s6")}
RATE = 4_000  # Hz
FULL = 20_000  # level at which a clip of a step recording is "high" for certain
STEPS = {  # seconds of constant level
    "low/1-votes.wav": (18_000, 8_000, 8_000),  # most of its seconds are low, their mean is high
    "low/2-one.wav": (4_000,),
    "low/1-silence.wav": (9_000, 0, 7_000),  # digital silence is not used
    "high/2-long.wav": tuple(range(2_000, 20_000, 500)),  # more seconds than a batch
    "high/1-short.wav": (12_000, 15_000),
}
KEYS = {"clips", "correct", "accuracy", "macro_accuracy", "log_loss", "by_class", "by_device", "by_device_group"}


@pytest.fixture(scope="module")
def scored() -> tuple[NDArray[np.float64], NDArray[np.int64], NDArray[np.str_], Evaluation]:
    """Random probabilities, true classes and devices, and what `score` makes of them."""
    rng = np.random.default_rng(3)
    probabilities = rng.dirichlet(np.ones(len(LABELS)), 200)
    truth = rng.choice(len(LABELS), 200, p=[0.1, 0.2, 0.3, 0.4])
    devices = rng.choice([device for group in GROUPS.values() for device in group], 200)
    return probabilities, truth, devices, score(probabilities, truth, devices, LABELS)


@pytest.fixture(scope="module")
def steps(tmp_path_factory: pytest.TempPathFactory) -> Clips:
    folder = tmp_path_factory.mktemp("steps")
    for name, levels in STEPS.items():
        (folder / name).parent.mkdir(exist_ok=True)
        soundfile.write(folder / name, np.repeat(np.array(levels, np.int16), RATE), RATE, "PCM_16")
    (folder / "high" / "1-broken.wav").write_bytes(b"RIFF")
    return prepare(open_dataset(folder), RATE, tmp_path_factory.mktemp("cache"))


def level(pcm: NDArray[np.int16]) -> NDArray[np.float32]:
    """Probabilities of "high" and "low" that say the clip's level."""
    high = pcm[:, 0].astype(np.float32) / np.float32(FULL)
    return np.stack([high, 1 - high], axis=1)


def run_of(folder: Path, labels: tuple[str, ...]) -> Path:
    recipe = load_recipe("nano")
    card = Card(recipe=recipe.as_dict(), labels=labels, split="5", data_hash=None, micro_batch=None, made_by={})
    save_tensors(folder / "model.safetensors", build(recipe.model, len(labels)).state_dict(), card)
    return folder


def test_accuracy_counts_the_recordings_whose_likeliest_class_is_true(scored: Any) -> None:
    probabilities, truth, _, result = scored
    correct = sum(max(range(4), key=row.__getitem__) == true for row, true in zip(probabilities, truth, strict=True))
    assert (result.clips, result.correct, result.accuracy) == (200, correct, correct / 200)


def test_the_confusion_matrix_has_a_row_a_true_class(scored: Any) -> None:
    probabilities, truth, _, result = scored
    confusion = [[0] * 4 for _ in range(4)]
    for row, true in zip(probabilities, truth, strict=True):
        confusion[true][max(range(4), key=row.__getitem__)] += 1
    assert result.confusion == confusion


def test_macro_accuracy_is_the_mean_recall(scored: Any) -> None:
    result = scored[-1]
    recalls = [row[index] / sum(row) for index, row in enumerate(result.confusion)]
    assert [result.by_class[label].accuracy for label in LABELS] == pytest.approx(recalls)
    assert result.macro_accuracy == pytest.approx(sum(recalls) / 4)
    assert result.macro_accuracy != pytest.approx(result.accuracy, abs=1e-3)


def test_log_loss_is_the_mean_surprise(scored: Any) -> None:
    probabilities, truth, _, result = scored
    surprise = [-math.log(row[true]) for row, true in zip(probabilities, truth, strict=True)]
    assert result.log_loss == pytest.approx(sum(surprise) / 200)


@pytest.mark.parametrize(("probability", "loss"), [(0.25, math.log(4)), (1.0, 0.0), (0.0, 15 * math.log(10))])
def test_log_loss_is_known_for_a_constant_probability(probability: float, loss: float) -> None:
    rest = (1 - probability) / 3
    probabilities = np.array([[probability, rest, rest, rest]] * 5)
    assert score(probabilities, np.zeros(5, int), np.array(["a"] * 5), LABELS).log_loss == pytest.approx(loss)


@pytest.mark.parametrize("by", ["by_device", "by_device_group"])
def test_a_device_or_group_counts_its_own_recordings(by: str, scored: Any) -> None:
    probabilities, truth, devices, result = scored
    clips, correct, surprise = defaultdict(int), defaultdict(int), defaultdict(float)
    for row, true, device in zip(probabilities, truth, devices.tolist(), strict=True):
        name = device if by == "by_device" else next(group for group, members in GROUPS.items() if device in members)
        clips[name] += 1
        correct[name] += int(row.argmax() == true)
        surprise[name] -= math.log(row[true])
    assert getattr(result, by).keys() == clips.keys()
    for name, group in getattr(result, by).items():
        assert (group.clips, group.correct) == (clips[name], correct[name])
        assert group.accuracy == pytest.approx(correct[name] / clips[name])
        assert group.log_loss == pytest.approx(surprise[name] / clips[name])


def test_a_class_without_recordings_is_left_out_of_the_macro_average() -> None:
    result = score(np.eye(4)[[0, 0, 3, 3]], np.array([0, 0, 0, 3]), np.array(["a"] * 4), LABELS)
    assert result.by_class.keys() == {"bus", "tram"}
    assert result.macro_accuracy == pytest.approx((2 / 3 + 1) / 2)


def test_recordings_without_devices_have_no_device_groups() -> None:
    result = score(np.eye(4), np.arange(4), np.array([""] * 4), LABELS)
    assert result.by_device == result.by_device_group == {}


def test_a_recording_scores_the_mean_over_its_seconds(steps: Clips) -> None:
    result = evaluate(level, steps, (*STEPS, "high/1-broken.wav"))
    surprise, correct = [], 0
    for name, levels in STEPS.items():
        used = [each for each in levels if each]
        high = sum(used) / len(used) / FULL
        right = high if name.startswith("high") else 1 - high
        surprise.append(-math.log(right))
        correct += right > 0.5
    assert (result.clips, result.correct) == (len(STEPS), correct)
    assert result.log_loss == pytest.approx(sum(surprise) / len(STEPS), rel=1e-5)


def test_only_the_recordings_of_the_list_are_scored(steps: Clips) -> None:
    result = evaluate(level, steps, ("low/2-one.wav", "high/1-short.wav"))
    assert result.confusion == [[1, 0], [0, 1]]
    assert result.log_loss == pytest.approx(-(math.log(0.8) + math.log(13_500 / FULL)) / 2, rel=1e-5)


def test_a_model_that_answers_nan_is_not_evaluated(steps: Clips) -> None:
    with pytest.raises(InputError, match="answers NaN"):
        evaluate(lambda pcm: np.full((len(pcm), 2), np.nan, np.float32), steps, ("low/2-one.wav",))


def test_the_confusion_plot_is_a_png(scored: Any, tmp_path: Path) -> None:
    plot_confusion(scored[-1], tmp_path / "new" / "confusion.png")
    assert (tmp_path / "new" / "confusion.png").read_bytes().startswith(b"\x89PNG\r\n\x1a\n")


def test_a_plot_that_cannot_be_drawn_leaves_the_older_file(scored: Any, tmp_path: Path) -> None:
    (tmp_path / "confusion.unknown").write_text("older")
    with pytest.raises(ValueError, match="unknown"):
        plot_confusion(scored[-1], tmp_path / "confusion.unknown")
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("confusion.unknown", "older")]


def test_a_plot_that_cannot_take_its_place_leaves_nothing(scored: Any, tmp_path: Path) -> None:
    (tmp_path / "taken.png").mkdir()
    with pytest.raises(OSError, match="taken"):
        plot_confusion(scored[-1], tmp_path / "taken.png")
    assert [*tmp_path.rglob("*")] == [tmp_path / "taken.png"]


def test_the_command_prints_and_keeps_one_evaluation(
    small_dataset: Path, tmp_path: Path, run_cli: Callable[..., tuple[int, str, str]]
) -> None:
    run = run_of(tmp_path / "run", SCENES)
    code, out, _ = run_cli("evaluate", run, "--data", small_dataset, "--json")
    printed, kept = json.loads(out), json.loads((run / "evaluation.json").read_text())
    assert (code, printed["clips"], printed["split"]) == (0, 20, "5")
    assert printed.keys() > KEYS
    assert {key: kept[key] for key in printed} == printed
    assert (run / "evaluation.png").read_bytes().startswith(b"\x89PNG\r\n\x1a\n")


def test_recordings_and_classes_that_the_figures_are_not_about_are_said_and_recorded(
    small_dataset: Path, tmp_path: Path, run_cli: Callable[..., tuple[int, str, str]]
) -> None:
    run, tests = run_of(tmp_path / "run", SCENES), small_dataset / "evaluation_setup" / "test.csv"
    buses = [name for name in tests.read_text().split()[1:] if "/bus-" in name]
    for name in buses:
        (small_dataset / name).write_bytes(b"")
    code, _, err = run_cli("evaluate", run, "--data", small_dataset)
    kept = json.loads((run / "evaluation.json").read_text())
    assert (code, kept["left_out"], kept["clips"]) == (0, len(buses), 20 - len(buses))
    assert f"split 5: {len(buses)} of 20 test recordings cannot be used and are not counted\n" in err
    assert "split 5: no test recordings of bus: the averages are about the other classes\n" in err


def test_a_model_of_other_labels_is_refused(
    small_dataset: Path, tmp_path: Path, run_cli: Callable[..., tuple[int, str, str]]
) -> None:
    run = run_of(tmp_path / "run", SCENES[::-1])
    code, out, err = run_cli("evaluate", run, "--data", small_dataset)
    assert (code, out) == (2, "")
    assert "labels" in err
    assert [path.name for path in run.iterdir()] == ["model.safetensors"]

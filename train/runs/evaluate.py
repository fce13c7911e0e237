"""Evaluation as the challenge defines it: macro-average accuracy, log loss, by class, device and device group.

    tinyscene evaluate RUN | BUNDLE | MODEL.onnx --data DATA

The unit is the recording: one second in TAU; elsewhere a recording's probabilities are the mean of those
of its seconds. Anything that turns int16 clips into probabilities can be evaluated, whatever runs it. Where a
run or bundle has networks for single recording devices, each recording is classified by its device's.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from numpy.typing import NDArray
from torch import nn

from tinyscene.deploy.bundle.bundle import open_bundle
from tinyscene.deploy.bundle.index import INDEX
from tinyscene.deploy.common.errors import InputError
from tinyscene.deploy.common.files import replacing, write_whole
from tinyscene.deploy.common.progress import progress
from tinyscene.deploy.common.provenance import provenance
from tinyscene.deploy.common.terminal import notice
from tinyscene.deploy.common.text import json_text
from tinyscene.deploy.frontend.log_mel import FrontEnd
from tinyscene.deploy.live.classifier import OnnxClassifier, SceneClassifier, open_classifier
from tinyscene.train.data.cache import Clips
from tinyscene.train.data.cache_index import CachedRecording
from tinyscene.train.data.datasets import DEVICE_GROUPS
from tinyscene.train.data.features import waveform
from tinyscene.train.models import Features, features_of
from tinyscene.train.runs.figures import figure_style, figure_text
from tinyscene.train.runs.recording_devices import load_devices
from tinyscene.train.runs.run import load_model
from tinyscene.train.runs.strangers import KeptClips

BATCH = 32  # clips
MEASURES = ("clips", "correct", "accuracy", "macro_accuracy", "log_loss")
DETAILS = ("by_class", "by_device", "by_device_group", "confusion")
SMALLEST_PROBABILITY = 1e-15  # in the logarithm, as scikit-learn's log loss has it

DeviceGroups = Mapping[str, tuple[str, ...]]  # names of recording devices by group
Predict = Callable[[NDArray[np.int16]], NDArray[np.float32]]  # (batch, samples) -> (batch, classes) probabilities


def predictor(network: nn.Module, features: Features, torch_device: torch.device | None = None) -> Predict:
    """A torch network with its features, as a function of int16 clips."""
    torch_device = torch_device or torch.device("cuda" if torch.cuda.is_available() else "cpu")
    features.to(torch_device)
    network.to(device=torch_device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    @torch.inference_mode()
    def predict(pcm: NDArray[np.int16]) -> NDArray[np.float32]:
        network.eval()
        clips = waveform(torch.from_numpy(np.ascontiguousarray(pcm)).to(torch_device))  # (batch, samples)
        log_mel = features(clips).contiguous(memory_format=torch.channels_last)  # (batch, 1, mel, frame)
        return network(log_mel).softmax(1).cpu().numpy()  # (batch, classes)

    return predict


@dataclass(frozen=True)
class EvaluatedModel:
    """What is evaluated, as a function of clips, and what it needs to be."""

    predict: Predict
    front_end: FrontEnd
    labels: tuple[str, ...]
    split: str | None  # that it was trained on, if that is known
    runner: str
    variants: Mapping[str, Predict] = field(default_factory=dict)  # by device; `predict` is for the others

    @property
    def kept(self) -> list[KeptClips]:
        """Those of its functions that count the clips which a decision rule keeps."""
        return [each for each in (self.predict, *self.variants.values()) if isinstance(each, KeptClips)]


def open_evaluated_model(model: Path, runner: str | None) -> EvaluatedModel:
    """A run, by torch; a bundle, by the runner named or the default one; or an .onnx file, by ONNX Runtime."""
    if (model / INDEX).exists():
        bundle = open_bundle(model)
        scene, split = open_classifier(bundle, runner), bundle.split
        variants = {name: _predict(open_classifier(bundle.variant(name), runner)) for name in bundle.variants}
        return EvaluatedModel(_predict(scene), scene.front_end, scene.labels, split, scene.runner, variants)
    if model.suffix == ".onnx":
        scene = OnnxClassifier(model)
        return EvaluatedModel(
            scene.probabilities, scene.front_end, scene.labels, scene.metadata.get("split"), "onnxruntime"
        )
    network, card = load_model(model)
    recipe = card.parsed_recipe
    variants = {device: predictor(own, features_of(recipe)) for device, (own, _) in load_devices(model, card).items()}
    predict = predictor(network, features_of(recipe))
    return EvaluatedModel(predict, recipe.features, card.labels, card.split, "torch", variants)


def _predict(scene: SceneClassifier) -> Predict:
    return KeptClips(scene) if scene.rule and scene.rule.unknown else scene.probabilities


@dataclass(frozen=True)
class Score:
    """How right a model is on some recordings."""

    clips: int  # recordings
    correct: int
    accuracy: float
    log_loss: float


@dataclass(frozen=True)
class Evaluation(Score):
    """How right a model is on the recordings of a list, and on parts of it. Parts that are empty are left out."""

    macro_accuracy: float  # mean over classes
    by_class: dict[str, Score]
    by_device: dict[str, Score]
    by_device_group: dict[str, Score]
    confusion: list[list[int]]  # rows: true class
    labels: tuple[str, ...]


def record(model: Path, evaluation: Evaluation, about: dict[str, Any]) -> Path:
    """Write an evaluation as JSON and PNG, with what is to be known about it. Returns their path without suffix.

    `about` holds at least data_hash, split and runner. A run keeps the files in its folder, a bundle in
    `evaluation/`, and its index takes up the figures; those of a single file are written beside it.
    """
    content = asdict(evaluation) | about
    if (model / INDEX).exists():
        metrics = {key: content[key] for key in (*MEASURES, *DETAILS, "data_hash", "split", "runner")}
        metrics |= {key: content[key] for key in ("left_out", "unknown") if key in content}
        open_bundle(model).record("metrics", metrics)
        path = model / "evaluation" / "evaluation"
    elif model.is_dir():
        path = model / "evaluation"
    else:
        path = model.with_name(f"{model.name.removesuffix('.onnx')}-evaluation")
    plot_confusion(evaluation, path.with_name(f"{path.name}.png"))
    # last, because a sweep takes it for the sign that a job is done
    write_whole(path.with_name(f"{path.name}.json"), json_text(content | {"made_by": provenance()}, indent=2) + "\n")
    return path


def evaluate(
    predict: Predict,
    clips: Clips,
    paths: tuple[str, ...],
    variants: Mapping[str, Predict] | None = None,
    groups: DeviceGroups = DEVICE_GROUPS,
) -> Evaluation:
    """Evaluate on the recordings of a list; those that could not be decoded are not counted.

    The recordings of a device among `variants` are given to its own function instead of `predict`. `groups` are those
    of `Dataset.device_groups`.
    """
    recordings, probabilities = score_recordings(predict, clips, paths, variants)
    return score_answers(recordings, probabilities, clips.labels, groups)


def score_recordings(
    predict: Predict, clips: Clips, paths: tuple[str, ...], variants: Mapping[str, Predict] | None = None
) -> tuple[list[CachedRecording], NDArray[np.float64]]:
    """The recordings of a list that could be decoded, and their probabilities (recording, class).

    Raises InputError if one is NaN or infinite.
    """
    indices = clips.select(paths)
    numbers, position = np.unique(clips.recording[indices], return_inverse=True)
    scores = np.zeros((len(numbers), len(clips.labels)))  # (recording, class)
    with progress("evaluating", len(indices)) as advance:
        for ask, members in _shares(predict, variants or {}, clips.recording_devices(indices)):
            for start in range(0, len(members), BATCH):
                part = members[start : start + BATCH]
                np.add.at(scores, position[part], ask(clips.pcm[indices[part]]))
                advance(len(part))
    if not np.isfinite(scores).all():
        raise InputError(
            "the model answers NaN or infinite values: its weights are damaged, or beyond what it can add up"
        )
    return [clips.recordings[number] for number in numbers], scores / np.bincount(position)[:, None]


def score_answers(
    recordings: list[CachedRecording],
    probabilities: NDArray[np.float64],
    labels: tuple[str, ...],
    groups: DeviceGroups = DEVICE_GROUPS,
) -> Evaluation:
    """Metrics of the answers of `score_recordings`."""
    truth = np.array([labels.index(item.label) for item in recordings])
    devices = np.array([item.device for item in recordings])
    return score(probabilities, truth, devices, labels, groups)


def count_left_out(evaluation: Evaluation, split: str, paths: tuple[str, ...]) -> int:
    """How many recordings of a test list were not evaluated: they could not be decoded, or are silent.

    Says in one line each that there are such, and which classes have no others.
    """
    left_out = len(set(paths)) - evaluation.clips
    if left_out:
        notice(f"split {split}: {left_out:,} of {len(set(paths)):,} test recordings cannot be used and are not counted")
    if missing := [label for label in evaluation.labels if label not in evaluation.by_class]:
        notice(f"split {split}: no test recordings of {', '.join(missing)}: the averages are about the other classes")
    return left_out


def _shares(
    predict: Predict, variants: Mapping[str, Predict], devices: NDArray[np.str_]
) -> Iterator[tuple[Predict, NDArray[np.int64]]]:
    """Which function is asked for which clips, as positions in `devices` (clip,)."""
    yield predict, np.flatnonzero(~np.isin(devices, list(variants)))
    for device, own in variants.items():
        yield own, np.flatnonzero(devices == device)


def score(
    probabilities: NDArray[np.floating[Any]],
    truth: NDArray[np.integer[Any]],
    devices: NDArray[np.str_],
    labels: tuple[str, ...],
    device_groups: DeviceGroups = DEVICE_GROUPS,
) -> Evaluation:
    """Metrics of probabilities (recording, class) against true classes (recording,)."""
    guess = probabilities.argmax(1)
    right = guess == truth
    losses = -np.log(np.maximum(probabilities[np.arange(len(truth)), truth], SMALLEST_PROBABILITY))
    confusion = np.zeros((len(labels), len(labels)), int)
    np.add.at(confusion, (truth, guess), 1)

    def group(members: NDArray[np.bool_]) -> Score:
        return Score(
            clips=int(members.sum()),
            correct=int(right[members].sum()),
            accuracy=float(right[members].mean()),
            log_loss=float(losses[members].mean()),
        )

    def groups(members: dict[str, NDArray[np.bool_]]) -> dict[str, Score]:
        return {name: group(member) for name, member in members.items() if member.any()}

    by_class = groups({label: truth == index for index, label in enumerate(labels)})
    return Evaluation(
        **vars(group(np.ones(len(truth), bool))),
        macro_accuracy=float(np.mean([result.accuracy for result in by_class.values()])),
        by_class=by_class,
        by_device=groups({device: devices == device for device in sorted(set(devices.tolist())) if device}),
        by_device_group=groups({name: np.isin(devices, members) for name, members in device_groups.items()}),
        confusion=confusion.tolist(),
        labels=labels,
    )


def plot_confusion(evaluation: Evaluation, path: Path) -> None:
    """Write the confusion matrix, rows normalised, as a PNG."""
    labels, counts = [figure_text(label) for label in evaluation.labels], np.array(evaluation.confusion)
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)  # (true, predicted)
    with figure_style(), replacing(path) as temporary:
        figure = Figure((7.5, 6.5), layout="constrained")
        axes = figure.subplots()
        image = axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
        axes.set_xticks(range(len(labels)), labels, rotation=45, ha="right")
        axes.set_yticks(range(len(labels)), labels)
        axes.set(xlabel="predicted", ylabel="true", title=f"macro-average accuracy {evaluation.macro_accuracy:.1%}")
        for (row, column), share in np.ndenumerate(shares):
            colour = "white" if share > 0.5 else "black"
            axes.text(column, row, f"{share:.0%}", ha="center", va="center", color=colour, fontsize=8)
        figure.colorbar(image, label="share of the true class")
        figure.savefig(temporary, dpi=120)

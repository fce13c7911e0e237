"""Evaluation as the challenge defines it: macro-average accuracy, log loss, by class, device and device group.

    tinyscene evaluate RUN | MODEL.onnx --data DATA

The unit is the recording: one second in TAU; elsewhere a recording's probabilities are the mean of those
of its seconds. Anything that turns int16 clips into probabilities can be evaluated, whatever runs it.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import torch
from matplotlib import pyplot
from numpy.typing import NDArray
from torch import nn

from deploy.files import replacing
from deploy.frontend import FrontEnd
from train.cache import Clips
from train.data import DEVICE_GROUPS
from train.features import LogMel, waveform
from train.progress import progress

BATCH = 32  # clips
SMALLEST_PROBABILITY = 1e-15  # in the logarithm, as scikit-learn's log loss has it

Predict = Callable[[NDArray[np.int16]], NDArray[np.float32]]  # (batch, samples) -> (batch, classes) probabilities


def predictor(network: nn.Module, front_end: FrontEnd, device: torch.device | None = None) -> Predict:
    """A torch network with its front end, as a function of int16 clips."""
    device = device or torch.device("cuda" if torch.cuda.is_available() else "cpu")
    log_mel = LogMel(front_end).to(device)
    network.to(device=device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    @torch.inference_mode()
    def predict(pcm: NDArray[np.int16]) -> NDArray[np.float32]:
        network.eval()
        clips = waveform(torch.from_numpy(np.ascontiguousarray(pcm)).to(device))  # (batch, samples)
        features = log_mel(clips).contiguous(memory_format=torch.channels_last)  # (batch, 1, mel, frame)
        return network(features).softmax(1).cpu().numpy()  # (batch, classes)

    return predict


def evaluate(predict: Predict, clips: Clips, paths: tuple[str, ...]) -> dict[str, Any]:
    """Evaluate on the recordings of a list; those that could not be decoded are not counted.

    Returns: clips (recordings scored), correct, accuracy, macro_accuracy (mean over classes), log_loss,
    by_class, by_device and by_device_group (each name -> clips, correct, accuracy, log_loss), confusion
    (rows: true class) and labels.
    """
    indices = clips.select(paths)
    numbers, position = np.unique(clips.recording[indices], return_inverse=True)
    scores = np.zeros((len(numbers), len(clips.labels)))  # (recording, class)
    with progress("evaluating", len(indices)) as advance:
        for start in range(0, len(indices), BATCH):
            part = slice(start, start + BATCH)
            np.add.at(scores, position[part], predict(clips.pcm[indices[part]]))
            advance(len(indices[part]))
    scores /= np.bincount(position)[:, None]
    recordings = [clips.recordings[number] for number in numbers]
    truth = np.array([clips.labels.index(item.label) for item in recordings])
    devices = np.array([item.device for item in recordings])
    return {"labels": list(clips.labels), **score(scores, truth, devices, clips.labels)}


def score(
    probabilities: NDArray[np.floating[Any]],
    truth: NDArray[np.integer[Any]],
    devices: NDArray[np.str_],
    labels: tuple[str, ...],
) -> dict[str, Any]:
    """Metrics of probabilities (recording, class) against true classes (recording,)."""
    guess = probabilities.argmax(1)
    right = guess == truth
    losses = -np.log(np.maximum(probabilities[np.arange(len(truth)), truth], SMALLEST_PROBABILITY))
    confusion = np.zeros((len(labels), len(labels)), int)
    np.add.at(confusion, (truth, guess), 1)

    def group(members: NDArray[np.bool_]) -> dict[str, float | int]:
        return {
            "clips": int(members.sum()),
            "correct": int(right[members].sum()),
            "accuracy": float(right[members].mean()),
            "log_loss": float(losses[members].mean()),
        }

    def groups(members: dict[str, NDArray[np.bool_]]) -> dict[str, dict[str, float | int]]:
        return {name: group(member) for name, member in members.items() if member.any()}

    by_class = groups({label: truth == index for index, label in enumerate(labels)})
    return {
        **group(np.ones(len(truth), bool)),
        "macro_accuracy": float(np.mean([each["accuracy"] for each in by_class.values()])),
        "by_class": by_class,
        "by_device": groups({device: devices == device for device in sorted(set(devices.tolist())) if device}),
        "by_device_group": groups({name: np.isin(devices, members) for name, members in DEVICE_GROUPS.items()}),
        "confusion": confusion.tolist(),
    }


def plot_confusion(evaluation: dict[str, Any], path: Path) -> None:
    """Write the confusion matrix, rows normalised, as a PNG."""
    matplotlib.use("Agg")
    labels, counts = evaluation["labels"], np.array(evaluation["confusion"])
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)  # (true, predicted)
    figure, axes = pyplot.subplots(figsize=(7.5, 6.5), layout="constrained")
    image = axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    axes.set_xticks(range(len(labels)), labels, rotation=45, ha="right")
    axes.set_yticks(range(len(labels)), labels)
    axes.set(xlabel="predicted", ylabel="true", title=f"macro-average accuracy {evaluation['macro_accuracy']:.1%}")
    for (row, column), share in np.ndenumerate(shares):
        colour = "white" if share > 0.5 else "black"
        axes.text(column, row, f"{share:.0%}", ha="center", va="center", color=colour, fontsize=8)
    figure.colorbar(image, label="share of the true class")
    try:
        with replacing(path) as temporary:
            figure.savefig(temporary, dpi=120)
    finally:
        pyplot.close(figure)

"""Which score tells clips of known classes from strangers: those of another dataset, of which no class is known.

    python -m tinyscene.benchmarks.experiments.unknown BUNDLE --data DATA --strangers OTHER

Logits are the integers of the bundle; the embedding, the mean over bands and frames of what the classifier takes, is
that of its float graph. Class means, directions and covariance are those of the training list, as is the threshold of
`kept_at` and `refused_at`: the greatest that keeps so many of its clips. All figures are of the test list, and of the
whole other dataset or, with --test-only, of its test list.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import typer
from numpy.typing import NDArray

from tinyscene.benchmarks.bootstrap import COVERAGE, TestList, recordings_of
from tinyscene.benchmarks.experiments.results import Out, read_result, write_result
from tinyscene.benchmarks.separation import DRAWS, Scored, separate
from tinyscene.deploy.bundle.bundle import Bundle, open_bundle
from tinyscene.deploy.common.command_line import run_command_line
from tinyscene.deploy.common.progress import progress
from tinyscene.deploy.graph.embedding import below_classifier
from tinyscene.deploy.live.classifier import open_classifier
from tinyscene.train.data.cache import Clips, prepare
from tinyscene.train.data.datasets import open_dataset
from tinyscene.train.data.features import LogMel, waveform
from tinyscene.train.quantize.fake_quantize import FakeQuantGraph

BATCH = 32  # clips
KEEP = 0.95
SHRINKAGE = 0.1  # of the covariance, towards a multiple of the identity

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Heard:
    """What a bundle makes of clips."""

    clips: TestList
    logits: Floats  # (clip, classes)
    embedding: Floats  # (clip, channels)


def main(
    bundle: Annotated[Path, typer.Argument(help="Folder of a bundle.")],
    data: Annotated[Path, typer.Option(help="Folder of the dataset that it was trained on.")],
    strangers: Annotated[Path, typer.Option(help="Folder of a dataset without a class of it.")],
    split: Annotated[str | None, typer.Option(help="Split; by default the one of the training.")] = None,
    test_only: Annotated[bool, typer.Option("--test-only", help="Only the test list of the strangers.")] = False,
    out: Out = Path("benchmarks/results/unknown.json"),
) -> None:
    """Measure every score and add the rows to the result file."""
    model = open_bundle(bundle)
    dataset, other = open_dataset(data), open_dataset(strangers)
    clips, others = (prepare(each, model.front_end.sample_rate) for each in (dataset, other))
    name = split or model.content["quantized"]["split"]
    training, known = (hear(model, clips, clips.select(part)) for part in dataset.split(name))
    listed = other.split(other.default_split)[1] if test_only else tuple(entry.path for entry in other.recordings)
    foreign = hear(model, others, others.select(listed))
    scores = [scores_of(heard, training) for heard in (training, known, foreign)]
    rows = {}
    for score, of_training in scores[0].items():
        threshold = float(np.sort(of_training)[int((1 - KEEP) * len(of_training))])
        both = Scored(known.clips, scores[1][score]), Scored(foreign.clips, scores[2][score])
        rows[score] = separate(*both, KEEP, threshold)
    about = {
        "known": f"{dataset.root.name}, split {name}",
        "strangers": f"{other.root.name}{', test list' if test_only else ''}",
        "accuracy": float((known.logits.argmax(1) == known.clips.truth).mean()),
        "outliers": (model.content["recipe"].get("train") or {}).get("outliers") is not None,
        "clips": len(known.clips.clips),
        "recordings": int(known.clips.recording.max()) + 1,
        "strangers_clips": len(foreign.clips.clips),
        "strangers_recordings": int(foreign.clips.recording.max()) + 1,
        "scores": rows,
    }
    pairs = read_result(out).get("pairs", {}) | {f"{bundle.name}: {about['strangers']}": about}
    write_result(out, {"keep": KEEP, "coverage": COVERAGE, "draws": DRAWS, "pairs": pairs})


def scores_of(heard: Heard, training: Heard) -> dict[str, Floats]:
    """Each score by clip: the greater, the more a clip is like the known classes."""
    logits, embedding = heard.logits, heard.embedding
    ordered = np.sort(logits, 1)
    energy = np.log(np.exp(logits - ordered[:, -1:]).sum(1)) + ordered[:, -1]
    means, inverse = _means(training.embedding, training.clips.truth), _inverse_covariance(training)
    offsets = embedding[:, None] - means  # (clip, class, channels)
    lengths = np.linalg.norm(embedding, axis=1)
    directions = _means(_unit(training.embedding), training.clips.truth)
    projection = (embedding @ _unit(directions).T).max(1)
    return {
        "largest logit": ordered[:, -1],
        "margin": ordered[:, -1] - ordered[:, -2],
        "energy": energy,
        "probability": np.exp(ordered[:, -1] - energy),
        "distance": -np.sqrt((offsets**2).sum(2)).min(1),
        "Mahalanobis distance": -np.einsum("ncd,de,nce->nc", offsets, inverse, offsets).min(1),
        "cosine": projection / np.maximum(lengths, 1e-12),
        "projection": projection,
    }


def _unit(rows: Floats) -> Floats:
    return rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12)


def _means(rows: Floats, truth: NDArray[np.int64]) -> Floats:
    """The mean of each class that has a row, (classes, channels)."""
    return np.stack([rows[truth == label].mean(0) for label in np.unique(truth)])


def _inverse_covariance(training: Heard) -> Floats:
    """That of the embeddings around their class means, (channels, channels)."""
    truth = np.unique(training.clips.truth, return_inverse=True)[1]
    within = training.embedding - _means(training.embedding, training.clips.truth)[truth]
    covariance = within.T @ within / len(within)
    spherical = np.eye(len(covariance)) * np.trace(covariance) / len(covariance)
    return np.linalg.inv((1 - SHRINKAGE) * covariance + SHRINKAGE * spherical)


def hear(bundle: Bundle, clips: Clips, indices: NDArray[np.int64]) -> Heard:
    """Run a bundle on clips."""
    scene, network = open_classifier(bundle), FakeQuantGraph(bundle.float_graph).eval()
    taken = below_classifier(bundle.graph).output.name
    log_mel, logits, embedding = LogMel(bundle.front_end), [], []
    with progress("classifying", len(indices)) as advance, torch.inference_mode():
        for start in range(0, len(indices), BATCH):
            pcm = clips.pcm[indices[start : start + BATCH]]
            logits.append(scene.logits(pcm))
            tensors = dict(network.tensors(log_mel(waveform(torch.from_numpy(pcm)))))
            embedding.append(tensors[taken].mean((2, 3)).numpy())
            advance(len(pcm))
    recordings = [clips.recordings[number] for number in clips.recording[indices]]
    numbers = recordings_of(recording.path for recording in recordings)
    devices = np.array([recording.device for recording in recordings])
    test = TestList(indices, clips.label[indices], numbers, devices)
    return Heard(test, np.concatenate(logits).astype(float), np.concatenate(embedding).astype(float))


if __name__ == "__main__":
    run_command_line(main)

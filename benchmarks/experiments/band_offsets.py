"""Whether the mean of each mel band, learned on a device, makes up for its microphone: accuracy with and without.

    python -m tinyscene.benchmarks.experiments.band_offsets BUNDLE... --data DATA

In integers, as a device would do it: it keeps the mean of its int8 log-mel in each band, and adds to every frame what
is missing to the mean of the training clips, rounded to whole steps. `level and colour` adds that; `colour` adds it
less its mean over the bands, so that the level stays. A device's mean is of some seconds of other recordings of its
test list, drawn anew for each clip, REPEATS times. They are of many scenes, which favours the method: a device that
stays in one place learns that place's colour, too.

Several bundles, such as those of all folds, are one figure: each is tested on its own test list.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from numpy.typing import NDArray

from tinyscene.benchmarks.bootstrap import COVERAGE, DRAWS, GROUPS, TestList, draw, interval, macro, recordings_of
from tinyscene.benchmarks.experiments.results import Out, read_result, write_result
from tinyscene.deploy.bundle.bundle import Bundle, open_bundle
from tinyscene.deploy.common.progress import progress
from tinyscene.deploy.graph.graph import INT8_MAX, INT8_MIN
from tinyscene.firmware_bridge.codegen.library import make_library
from tinyscene.firmware_bridge.native import KERNELS, NativeNetwork
from tinyscene.train.data.cache import Clips, prepare
from tinyscene.train.data.datasets import open_dataset

SECONDS = (1, 10, 60)
REPEATS = 3
BATCH = 64  # clips

Int8 = NDArray[np.int8]
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Tested:
    """The test list of a bundle, as the integer network takes it."""

    paths: list[str]  # of the clips' recordings
    clips: TestList
    features: Int8  # (clip, mel, frame, 1)
    expected: Floats  # (mel,), the mean of the training clips


def main(
    bundles: Annotated[list[Path], typer.Argument(help="Folders of bundles.")],
    data: Annotated[Path, typer.Option(help="Folder of the dataset that they were trained on.")],
    name: Annotated[str, typer.Option(help="Name of the rows.")],
    split: Annotated[str | None, typer.Option(help="Split; by default each bundle's own.")] = None,
    reference: Annotated[str | None, typer.Option(help="Device of the training clips that are averaged.")] = None,
    out: Out = Path("benchmarks/results/band_offsets.json"),
) -> None:
    """Measure the accuracy with offsets of each kind and add the rows to the result file."""
    right: dict[str, list[Floats]] = {}  # of each way, (clip,) for each bundle
    tests = []
    for number, folder in enumerate(bundles):
        bundle = open_bundle(folder)
        tested = test_list(bundle, data, split, reference)
        for way, answers in answers_of(bundle, tested, np.random.default_rng(number)).items():
            right.setdefault(way, []).append(answers)
        tests.append(tested)
    test = TestList(
        np.concatenate([each.clips.clips for each in tests]),
        np.concatenate([each.clips.truth for each in tests]),
        recordings_of(path for each in tests for path in each.paths),
        np.concatenate([each.clips.device for each in tests]),
    )
    rows = _rows({way: np.concatenate(parts) for way, parts in right.items()}, test)
    about = {
        "bundles": [folder.name for folder in bundles],
        "data": data.name,
        "reference": reference or "all training clips",
        "clips": len(test.clips),
        "recordings": len(np.unique(test.recording)),
        "rows": rows,
    }
    kept = read_result(out).get("models", {})
    write_result(out, {"coverage": COVERAGE, "draws": DRAWS, "repeats": REPEATS, "models": kept | {name: about}})


def test_list(bundle: Bundle, data: Path, split: str | None, reference: str | None) -> Tested:
    """The features of a bundle's test list, and what the mean of its training list is."""
    dataset = open_dataset(data)
    clips = prepare(dataset, bundle.front_end.sample_rate)
    training, test = (clips.select(part) for part in dataset.split(split or bundle.content["quantized"]["split"]))
    if reference:
        devices = np.array([clips.recordings[number].device for number in clips.recording[training]])
        training = training[devices == reference]
    expected = _features(bundle, clips, training).mean((0, 2, 3))  # (mel,)
    recordings = [clips.recordings[number] for number in clips.recording[test]]
    paths = [recording.path for recording in recordings]
    devices = np.array([recording.device for recording in recordings])
    listed = TestList(test, clips.label[test], recordings_of(paths), devices)
    return Tested(paths, listed, _features(bundle, clips, test), expected)


def answers_of(bundle: Bundle, tested: Tested, rng: np.random.Generator) -> dict[str, Floats]:
    """The share of right answers of each clip over the repeats, (clip,), for each way of adding offsets."""
    network = NativeNetwork(make_library(bundle.graph, bundle.front_end, bundle.labels, KERNELS))
    right = {"none": _right(network, tested, np.zeros(tested.features.shape[:2]))}
    means = tested.features.mean((2, 3))  # (clip, mel)
    for seconds in SECONDS:
        repeats = []
        for _ in range(REPEATS):
            offsets = np.stack(
                [_offsets(tested, means, clip, seconds, rng) for clip in range(len(means))]
            )  # (clip, mel)
            colour = offsets - offsets.mean(1, keepdims=True)
            repeats.append([_right(network, tested, each) for each in (offsets, colour)])
        for way, answers in zip(("level and colour", "colour"), np.mean(repeats, 0), strict=True):
            right[f"{way}, {seconds} s"] = answers
    return right


def _offsets(tested: Tested, means: Floats, clip: int, seconds: int, rng: np.random.Generator) -> Floats:
    """What other recordings of a clip's device lack to the training's mean, (mel,); nothing if there are none."""
    test = tested.clips
    others = np.flatnonzero((test.device == test.device[clip]) & (test.recording != test.recording[clip]))
    if not len(others):
        return np.zeros_like(tested.expected)
    heard = means[rng.choice(others, seconds, replace=len(others) < seconds)].mean(0)
    return tested.expected - heard


def _right(network: NativeNetwork, tested: Tested, offsets: Floats) -> Floats:
    """Which clips are right with offsets (clip, mel), in whole steps."""
    found = []
    with progress("classifying", len(offsets)) as advance:
        for start in range(0, len(offsets), BATCH):
            part = slice(start, start + BATCH)
            moved = tested.features[part] + np.rint(offsets[part])[:, :, None, None]
            logits = network(np.clip(moved, INT8_MIN, INT8_MAX).astype(np.int8))  # (batch, classes)
            found.append(logits.argmax(1))
            advance(len(moved))
    return (np.concatenate(found) == tested.clips.truth).astype(float)


def _features(bundle: Bundle, clips: Clips, indices: NDArray[np.int64]) -> Int8:
    """The int8 log-mel of clips, (clip, mel, frame, 1)."""
    parts = [clips.pcm[indices[start : start + BATCH]] for start in range(0, len(indices), BATCH)]
    return np.concatenate([bundle.features(part) for part in parts])


def _rows(right: dict[str, Floats], test: TestList) -> list[dict[str, object]]:
    """Accuracy of each way, and what it gains over none, with its interval, for each group of devices."""
    weights, rows = draw(test), []
    for way, answers in right.items():
        row: dict[str, object] = {"way": way}
        for group in GROUPS:
            members = test.members(group)
            if not members.any():
                continue
            with_offsets, without = (macro(each, members, test, weights) for each in (answers, right["none"]))
            gain = with_offsets - without
            row[group] = {"accuracy": float(with_offsets[0]), "gain": float(gain[0]), "interval": interval(gain)}
        rows.append(row)
    return rows


if __name__ == "__main__":
    typer.run(main)

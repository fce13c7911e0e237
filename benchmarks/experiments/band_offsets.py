"""What offsets of the mel bands, learned while listening, do to accuracy, after seconds and minutes of sound.

    python -m tinyscene.benchmarks.experiments.band_offsets BUNDLE... --data DATA --name NAME

The offsets are the library's (`deploy/frontend/band_offsets.py`), as a device learns them from its own decisions. For
each recording of the test list and each device that has it, a device that knows nothing yet hears seconds that are
drawn at random, one after another; then the recording's clips are classified with what it has learned, and teach it
nothing. What it hears is of other recordings of that device,

  scenes   of any scene: a device that is carried about
  scene    of the recording's own scene
  place    or of the recording itself: a device that stays where it is. The second that is tested may be among them

Where a device has no such recording nothing is learned. Several bundles are one figure: each is tested by itself, and
their answers are counted together.
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
from tinyscene.deploy.common.command_line import run_command_line
from tinyscene.deploy.common.progress import progress
from tinyscene.deploy.frontend.band_offsets import (
    HORIZON_SECONDS,
    PRIOR_SECONDS,
    BandOffsets,
    OffsetWindows,
)
from tinyscene.deploy.graph.tensor import INT8_MAX, INT8_MIN
from tinyscene.firmware_bridge.codegen.library import make_library
from tinyscene.firmware_bridge.native import KERNELS, NativeNetwork
from tinyscene.train.data.cache import prepare
from tinyscene.train.data.datasets import open_dataset

SECONDS = (1, 10, 60, 600)
HEARD = ("scenes", "scene", "place")
BATCH = 64  # clips

Int8 = NDArray[np.int8]
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Tested:
    """A bundle with the test list of a dataset, as its network takes it."""

    bundle: Bundle
    network: NativeNetwork
    paths: list[str]  # of the clips' recordings
    clips: TestList
    features: Int8  # (clip, mel, frame, 1)


def main(
    bundles: Annotated[list[Path], typer.Argument(help="Folders of bundles.")],
    data: Annotated[Path, typer.Option(help="Folder of the dataset.")],
    name: Annotated[str, typer.Option(help="Name of the rows.")],
    split: Annotated[str | None, typer.Option(help="Split; by default each bundle's own.")] = None,
    out: Out = Path("benchmarks/results/band_offsets.json"),
) -> None:
    """Measure the accuracy with and without offsets and add the rows to the result file."""
    tests = [test_list(open_bundle(folder), data, split) for folder in bundles]
    answers = [answers_of(tested, np.random.default_rng(number)) for number, tested in enumerate(tests)]
    right = {way: np.concatenate([each[way] for each in answers]) for way in answers[0]}
    test = TestList(
        np.concatenate([each.clips.clips for each in tests]),
        np.concatenate([each.clips.truth for each in tests]),
        recordings_of(path for each in tests for path in each.paths),
        np.concatenate([each.clips.device for each in tests]),
    )
    about = {
        "bundles": [folder.name for folder in bundles],
        "data": data.name,
        "clips": len(tests[0].clips.clips),
        "recordings": len(np.unique(test.recording)),
        "rows": _rows(right, test),
    }
    settings = {"prior": PRIOR_SECONDS, "horizon": HORIZON_SECONDS, "coverage": COVERAGE, "draws": DRAWS}
    write_result(out, {**settings, "models": read_result(out).get("models", {}) | {name: about}})


def test_list(bundle: Bundle, data: Path, split: str | None) -> Tested:
    """A bundle and the features of its test list."""
    dataset = open_dataset(data)
    clips = prepare(dataset, bundle.front_end.sample_rate, clip_seconds=bundle.front_end.clip_seconds)
    test = clips.select(dataset.split(split or bundle.content["quantized"]["split"])[1])
    paths = [clips.recordings[number].path for number in clips.recording[test]]
    parts = [clips.pcm[test[start : start + BATCH]] for start in range(0, len(test), BATCH)]
    network = NativeNetwork(make_library(bundle.graph, bundle.front_end, bundle.labels, KERNELS))
    listed = TestList(test, clips.label[test], recordings_of(paths), clips.recording_devices(test))
    return Tested(bundle, network, paths, listed, np.concatenate([bundle.features(part) for part in parts]))


def answers_of(tested: Tested, rng: np.random.Generator) -> dict[str, Floats]:
    """Whether each clip's answer is right, (clip,), without offsets and with those of each way and time."""
    test = tested.clips
    none = np.concatenate(
        [tested.network(tested.features[start : start + BATCH]).argmax(1) for start in range(0, len(test.clips), BATCH)]
    )
    right = {"none": (none == test.truth).astype(float)}
    right |= {f"{heard}, {seconds} s": right["none"].copy() for heard in HEARD for seconds in SECONDS}
    pairs = sorted(set(zip(test.recording.tolist(), test.device.tolist(), strict=True)))
    with progress("listening", len(pairs) * len(HEARD)) as advance:
        for recording, device in pairs:
            clips = np.flatnonzero((test.recording == recording) & (test.device == device))
            for heard in HEARD:
                for seconds, offsets in _learned(tested, _heard(test, clips, heard), rng).items():
                    right[f"{heard}, {seconds} s"][clips] = _answers(tested, clips, offsets) == test.truth[clips]
                advance(1)
    return right


def _heard(test: TestList, clips: NDArray[np.int64], heard: str) -> NDArray[np.int64]:
    """The clips that a device may hear that recorded these clips of a recording."""
    if heard == "place":
        return clips
    others = (test.device == test.device[clips[0]]) & (test.recording != test.recording[clips[0]])
    return np.flatnonzero(others & (test.truth == test.truth[clips[0]]) if heard == "scene" else others)


def _learned(tested: Tested, heard: NDArray[np.int64], rng: np.random.Generator) -> dict[int, NDArray[np.int64]]:
    """The offsets (mel,) after so many seconds of sound, drawn from these clips; none if there is no such clip."""
    if not len(heard):
        return {}
    front_end, found = tested.bundle.front_end, {}
    offsets = BandOffsets(tested.bundle.bands)
    windows = OffsetWindows(offsets, front_end, front_end.clip_samples)
    for second in range(1, SECONDS[-1] + 1):
        moved = windows.take(tested.features[rng.choice(heard), ..., 0])
        offsets.learn(int(tested.network(moved[None, ..., None])[0].argmax()))
        if second in SECONDS:
            found[second] = offsets.values
    return found


def _answers(tested: Tested, clips: NDArray[np.int64], offsets: NDArray[np.int64]) -> NDArray[np.int64]:
    """The classes of clips with offsets (mel,), (clip,)."""
    moved = np.clip(tested.features[clips] + offsets[:, None, None], INT8_MIN, INT8_MAX)
    return tested.network(moved.astype(np.int8)).argmax(1)


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
    run_command_line(main)

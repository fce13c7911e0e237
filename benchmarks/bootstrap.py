"""Intervals of accuracies: a bootstrap by recording.

    weights = draw(test)
    interval(macro(right, members, test, weights))

The clips of a recording resemble each other, so whole recordings are drawn with replacement, within their scene, and
all clips of all devices go with them. Drawn by clip, an interval would be far too narrow. It holds what the choice of
test recordings does to a figure, and nothing else.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tinyscene.train.data.datasets import DEVICE_GROUPS

DRAWS, COVERAGE = 10_000, 95  # of the bootstrap; of its intervals, in per cent
GROUPS = {"macro": None, **DEVICE_GROUPS}  # all test clips, and those of some devices
TAU_NAME_PARTS = 6

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class TestList:
    """The clips of a test list."""

    clips: NDArray[np.int64]  # (clip,) indices into the prepared dataset
    truth: NDArray[np.int64]  # (clip,) classes
    recording: NDArray[np.int64]  # (clip,) numbers from 0: one for all devices and seconds of a recording
    device: NDArray[np.str_]  # (clip,)

    def members(self, group: str) -> NDArray[np.bool_]:
        """Which clips are of a group of devices."""
        devices = GROUPS[group]
        return np.ones(len(self.clips), bool) if devices is None else np.isin(self.device, devices)


def macro(right: NDArray[Any], members: NDArray[np.bool_], test: TestList, weights: Floats | None = None) -> Floats:
    """Macro accuracy of right answers (clip,), for the recordings as they are and then for each draw of `weights`.

    A class of which a draw has no clip does not count in it.
    """
    count = test.recording.max() + 1
    every = np.ones((1, count))
    weights = every if weights is None else np.concatenate([every, weights])  # (draw, recording)
    accuracies = []
    for label in np.unique(test.truth[members]):
        selected = members & (test.truth == label)
        clips = np.bincount(test.recording[selected], minlength=count)  # (recording,)
        correct = np.bincount(test.recording[selected], right[selected], minlength=count)
        drawn = weights @ clips  # (draw,)
        accuracies.append(np.divide(weights @ correct, drawn, out=np.full(len(drawn), np.nan), where=drawn > 0))
    return np.nanmean(accuracies, axis=0)


def draw(test: TestList) -> Floats:
    """How often each recording is drawn, (draw, recording): with replacement, as many of each scene as there are."""
    rng, weights = np.random.default_rng(0), np.zeros((DRAWS, test.recording.max() + 1))
    for label in np.unique(test.truth):
        recordings = np.unique(test.recording[test.truth == label])
        share = np.full(len(recordings), 1 / len(recordings))
        weights[:, recordings] = rng.multinomial(len(recordings), share, DRAWS)
    return weights


def interval(figures: Floats) -> list[float]:
    """The bounds that COVERAGE per cent of the draws lie in, of what `macro` gave: the first is no draw."""
    low, high = np.percentile(figures[1:], [(100 - COVERAGE) / 2, (100 + COVERAGE) / 2])
    return [float(low), float(high)]


def recordings_of(paths: Iterable[str]) -> NDArray[np.int64]:
    """Numbers from 0 of the recordings that files were cut from, by TAU's names; any other file is one by itself.

    A name of TAU is SCENE-CITY-LOCATION-RECORDING-SEGMENT-DEVICE: all devices and seconds of a recording are one.
    """
    names = [Path(path) for path in paths]
    parts = [name.stem.split("-") for name in names]
    sources = [
        str(name.parent / "-".join(part[:4])) if len(part) == TAU_NAME_PARTS else str(name)
        for name, part in zip(names, parts, strict=True)
    ]
    return np.unique(sources, return_inverse=True)[1]

"""The likeness of a sound to the known classes, from the integers that a network's classifier takes.

    logits, sums = run_with_sums(graph, features)
    likeness.of(sums)                    # (batch,): low for sounds of no known class

1. **Sums.** e[k] is the sum over all bands and frames of the values of channel k that the classifier, the last
   convolution, takes, less their zero point: the embedding, in integers.
2. **Projection.** p[c] = sum over k of e[k] * D[c][k], where D[c] is the direction of class c: the mean of its training
   clips' embeddings, each scaled to length 1, in int8. All directions have about the same length.
3. **Likeness.** max over c of p[c], divided by 2**shift, truncated towards zero, at most 32767 and at least -32767.
   Where the projection on the direction of digital silence is greater than all p[c], it is below the threshold: at most
   threshold - 1. So a silent second says nothing for a class, and little against it where several are averaged.

A known sound points in the direction of its class and is long; `docs/results.md` compares this with other scores. On a
device it takes an addition for each value that the classifier takes, and a multiplication for each channel and class.
"""

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tinyscene.deploy.common.errors import InputError
from tinyscene.deploy.graph.embedding import below_classifier
from tinyscene.deploy.graph.graph import Graph
from tinyscene.deploy.graph.reference import run_keeping
from tinyscene.deploy.graph.tensor import INT8_MAX, INT8_MIN

UINT8_MAX, INT32_MAX = 2**8 - 1, 2**31 - 1
MOST = 32_767  # of a likeness
MOST_SHIFT = 48
MOST_CLASSES, MOST_CHANNELS = 1_000, 4_096

Int32 = NDArray[np.int32]


@dataclass(frozen=True)
class Likeness:
    """Directions and threshold, and what they were chosen on. Raises InputError for values out of bounds."""

    threshold: int  # sounds below it are none of these
    shift: int
    directions: tuple[tuple[int, ...], ...]  # (classes, channels), int8
    keep: float  # share of the calibration clips that was to be kept
    kept: float  # share that the threshold keeps of them
    clips: int  # calibration clips
    silence: tuple[int, ...] = ()  # (channels,), int8: the direction of digital silence; none in older bundles

    def __post_init__(self) -> None:
        whole = {"threshold": (-MOST, MOST), "shift": (0, MOST_SHIFT), "clips": (0, 2**31)}
        for name, (low, high) in whole.items():
            _require_whole(name, getattr(self, name), low, high)
        for share in (self.keep, self.kept):
            if type(share) is not float or not 0 <= share <= 1:
                raise InputError(f"decision rule: {share!r} is no share of clips")
        if not 1 <= len(self.directions) <= MOST_CLASSES:
            raise InputError("decision rule: has too many directions, or none")
        if len({len(row) for row in self.rows}) != 1 or not 1 <= len(self.rows[0]) <= MOST_CHANNELS:
            raise InputError("decision rule: its directions have no or too many channels, or not the same number")
        for value in (value for row in self.rows for value in row):
            _require_whole("direction", value, INT8_MIN, INT8_MAX)

    @property
    def rows(self) -> tuple[tuple[int, ...], ...]:
        """The directions of the classes, and after them that of silence, if there is one."""
        return (*self.directions, self.silence) if self.silence else self.directions

    @classmethod
    def read(cls, stored: object) -> "Likeness":
        """An entry that may come from anyone. Raises InputError for what is none."""
        keys = {"threshold", "shift", "directions", "silence", "keep", "kept", "clips"}
        if isinstance(stored, dict):
            stored = {"silence": [], **stored}
        content = read_table(stored, "decision rule: unknown", keys)
        rows = content["directions"]
        if not isinstance(rows, list) or not all(isinstance(row, list) for row in [*rows, content["silence"]]):
            raise InputError("decision rule: its directions are no lists of numbers")
        return cls(**{**content, "directions": tuple(map(tuple, rows)), "silence": tuple(content["silence"])})

    def require_fits(self, graph: Graph) -> None:
        """Raise InputError unless there is a direction for each class of a graph, in its classifier's channels."""
        taken = below_classifier(graph).output
        if math.prod(taken.shape[1:-1]) * UINT8_MAX > INT32_MAX:
            raise InputError("decision rule: the classifier takes too many bands and frames to be summed in 32 bits")
        expected = graph.output.shape[-1], taken.shape[-1]
        if (len(self.directions), len(self.directions[0])) != expected:
            raise InputError(f"decision rule: its directions are not {expected[0]} x {expected[1]} as the graph's")

    def of(self, sums: Int32) -> NDArray[np.int64]:
        """The likeness of clips by the sums of their embeddings: (batch, channels) -> (batch,)."""
        projections = sums.astype(np.int64) @ np.array(self.rows, np.int64).T  # (batch, classes), and silence
        best = projections[:, : len(self.directions)].max(1)
        likeness = np.clip(np.sign(best) * (np.abs(best) >> self.shift), -MOST, MOST)
        return np.where(projections.max(1) > best, np.minimum(likeness, self.threshold - 1), likeness)


def run_with_sums(graph: Graph, features: NDArray[np.int8]) -> tuple[NDArray[np.int8], Int32]:
    """Features (batch, mel, frame, 1) -> logits (batch, classes), and the sums of the embedding (batch, channels)."""
    values = run_keeping(graph, features, [below_classifier(graph).output.name])
    return values[graph.output.name], sums_of(graph, values)


def sums_of(graph: Graph, values: Mapping[str, NDArray[np.int8]]) -> Int32:
    """The sums of the embedding (batch, channels), from tensors by name, one of which is what the classifier takes."""
    taken = below_classifier(graph).output
    return (values[taken.name].astype(np.int32) - taken.q.zero_point).sum((1, 2), dtype=np.int32)


def read_table(stored: object, name: str, keys: Collection[str]) -> Mapping[str, Any]:
    """A table of exactly these keys. Raises InputError for anything else; `name` says what it is."""
    if not isinstance(stored, dict) or stored.keys() != set(keys):
        raise InputError(f"{name}: not a table of {', '.join(sorted(keys))}")
    return stored


def _require_whole(name: str, value: object, low: int, high: int) -> None:
    if type(value) is not int or not low <= value <= high:
        raise InputError(f"decision rule: {name} is {value!r}, not a whole number in {low} to {high}")

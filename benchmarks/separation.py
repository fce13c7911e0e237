"""How well a score tells clips of known classes from strangers' clips, with intervals by recording.

    separate(known, strangers, keep=0.95, threshold=0.3)      # figures and their intervals, by name

A clip is refused if its score is below a threshold. Whole recordings are drawn with replacement, within their class,
as `bootstrap.py` does it.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tinyscene.benchmarks.bootstrap import TestList, draw, interval

DRAWS = 2_000
AT_ONCE = 250  # draws in memory
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Scored:
    """Clips and their scores (clip,)."""

    clips: TestList
    score: Floats


def separate(known: Scored, strangers: Scored, keep: float, threshold: float) -> dict[str, dict[str, Any]]:
    """How well a score separates.

    auroc: the probability that a known clip has the greater score; of equal ones half count. refused: the share of
    strangers below the greatest threshold that keeps this share of the known clips. kept_at, refused_at: the shares of
    known clips that a given threshold keeps, and of strangers that it refuses.
    """
    values = np.unique(np.concatenate([known.score, strangers.score]))
    first = int(np.searchsorted(values, threshold))
    draws = zip(_histograms(known, values), _histograms(strangers, values), strict=True)
    parts = [_figures(*part, keep, first) for part in draws]
    drawn = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    return {name: {"value": float(each[0]), "interval": interval(each)} for name, each in drawn.items()}


def _figures(known: Floats, strangers: Floats, keep: float, first: int) -> dict[str, Floats]:
    """The figures of draws, by shares of clips that have each value (draw, value); `first` is that of a threshold."""
    below = strangers.cumsum(1)
    kept = known[:, ::-1].cumsum(1)[:, ::-1]  # of a threshold at each value
    place = (kept >= keep - 1e-12).sum(1) - 1
    before = np.concatenate([np.zeros((len(below), 1)), below], 1)
    return {
        "auroc": (known * (below - strangers / 2)).sum(1),
        "refused": before[np.arange(len(place)), place],
        "kept_at": known[:, first:].sum(1),
        "refused_at": before[:, first],
    }


def _histograms(scored: Scored, values: Floats) -> Iterator[Floats]:
    """The shares of the clips that have each value, (draw, value): as they are first, then for each draw."""
    count = scored.clips.recording.max() + 1
    by_recording = np.zeros((count, len(values)))
    np.add.at(by_recording, (scored.clips.recording, np.searchsorted(values, scored.score)), 1)
    weights = np.concatenate([np.ones((1, count)), draw(scored.clips)[:DRAWS]])
    for start in range(0, len(weights), AT_ONCE):
        drawn = weights[start : start + AT_ONCE] @ by_recording
        yield drawn / drawn.sum(1, keepdims=True)

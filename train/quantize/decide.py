"""The decision rule of a bundle: its settings as they are asked for, and what tells strangers, from calibration clips.

    rule = RuleSettings(average=4, keep=0.95).rule(graph, front_end, pcm, classes)

Directions and threshold (`deploy/bundle/likeness.py`) are those of the integer graph. Clips that are nearest to digital
silence are none of these, whatever the threshold; it is the greatest that keeps the wanted share of the others, each
decided on by itself. They were trained on, and the network may be surer of them than of others: `tinyscene evaluate`
tells the share that is kept of the test list.
"""

import math
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from tinyscene.deploy.bundle.decision import NEVER, DecisionRule
from tinyscene.deploy.bundle.features import input_log_mel
from tinyscene.deploy.bundle.likeness import MOST, Likeness, run_with_sums
from tinyscene.deploy.common.errors import InputError
from tinyscene.deploy.common.progress import progress
from tinyscene.deploy.frontend.log_mel import FrontEnd
from tinyscene.deploy.graph.graph import Graph
from tinyscene.deploy.graph.tensor import INT8_MAX

BATCH = 8  # clips
HEADROOM = 4  # how far a likeness may exceed the greatest of the calibration clips

Int32 = NDArray[np.int32]


@dataclass(frozen=True)
class RuleSettings:
    """What is asked of a rule; what is None is not asked for. Raises InputError for what no rule can have."""

    keep: float | None = None  # share of clips
    average: int | None = None  # decisions
    margin: int | None = None  # steps of the logits
    patience: int | None = None  # decisions

    def __post_init__(self) -> None:
        if self.keep is not None and not 0 < self.keep <= 1:
            raise InputError(f"--keep {self.keep}: must be a share above 0 and at most 1, such as 0.95")
        self._rule()

    @property
    def asked(self) -> bool:
        """Whether a rule is wanted at all."""
        return self != RuleSettings()

    def rule(self, graph: Graph, front_end: FrontEnd, pcm: NDArray[np.int16], truth: NDArray[np.int64]) -> DecisionRule:
        """The rule of an integer graph, from clips (clips, samples) and their classes (clips,)."""
        if self.keep is None:
            return self._rule()
        with_silence = np.concatenate([pcm, np.zeros_like(pcm[:1])])
        *sums, silence = _sums(graph, front_end, with_silence)
        return self._rule(fit_likeness(np.stack(sums), silence, truth, graph.output.shape[-1], self.keep))

    def made(self, rule: DecisionRule | None) -> bool:
        """Whether a rule, or none, is what these settings ask for."""
        if rule is None or not self.asked:
            return rule is None and not self.asked
        keep = None if rule.unknown is None else rule.unknown.keep
        return rule == self._rule(rule.unknown) and keep == self.keep

    def _rule(self, unknown: Likeness | None = None) -> DecisionRule:
        """A patience alone means that no lead shortens it."""
        margin = self.margin if self.margin is not None else NEVER if self.patience else 0
        return DecisionRule(1 if self.average is None else self.average, margin, self.patience or 0, unknown)


def few_kept(rule: DecisionRule) -> list[str]:
    """A warning where a rule keeps fewer of the calibration clips than was asked for."""
    known = rule.unknown
    if known is None or known.kept >= known.keep:
        return []
    kept = f"the rule keeps {known.kept:.1%} of the calibration clips, not {known.keep:.1%}"
    return [f"{kept}: others are nearer to digital silence than to any class"]


def fit_likeness(sums: Int32, silence: Int32, truth: NDArray[np.int64], classes: int, keep: float) -> Likeness:
    """Directions and threshold from the embeddings of clips (clips, channels), of digital silence (channels,), and the
    classes of the clips (clips,)."""
    rows = _directions(np.vstack([sums, silence]), np.append(truth, classes), classes + 1)
    *directions, silent = (tuple(row) for row in rows.tolist())
    greatest = int(np.abs(sums.astype(np.int64) @ rows[:classes].T).max())
    shift = max(0, math.ceil(math.log2(max(1, HEADROOM * greatest) / MOST)))
    lowest = Likeness(-MOST, shift, tuple(directions), float(keep), 1.0, len(sums), silent)
    likeness = lowest.of(sums)
    heard = likeness[likeness >= lowest.threshold]  # the others are nearest to silence
    fitted = replace(lowest, threshold=threshold_to_keep(heard, keep)) if len(heard) else lowest
    return replace(fitted, kept=float((fitted.of(sums) >= fitted.threshold).mean()))


def threshold_to_keep(likeness: NDArray[np.int64], keep: float) -> int:
    """The greatest threshold that at least this share of clips (clips,) is not below."""
    least = max(1, math.ceil(keep * len(likeness) - 1e-9))  # clips that must be kept
    return int(np.sort(likeness)[len(likeness) - least])


def _directions(sums: Int32, truth: NDArray[np.int64], classes: int) -> NDArray[np.int64]:
    """The direction of each class (classes, channels); zeros for a class without a clip, or with empty embeddings."""
    lengths = np.linalg.norm(sums, axis=1, keepdims=True)
    unit = np.divide(sums, lengths, out=np.zeros(sums.shape), where=lengths > 0)
    means = np.stack([unit[truth == index].sum(0) for index in range(classes)])
    lengths = np.linalg.norm(means, axis=1, keepdims=True)
    means = np.divide(means, lengths, out=np.zeros(means.shape), where=lengths > 0)
    return np.rint(means * INT8_MAX / max(1e-12, np.abs(means).max())).astype(np.int64)


def _sums(graph: Graph, front_end: FrontEnd, pcm: NDArray[np.int16]) -> Int32:
    """The sums of the embedding of each clip (clips, channels)."""
    log_mel, sums = input_log_mel(graph, front_end), []
    with progress("choosing the threshold", len(pcm)) as advance:
        for start in range(0, len(pcm), BATCH):
            batch = pcm[start : start + BATCH]
            sums.append(run_with_sums(graph, log_mel(batch)[..., None])[1])
            advance(len(batch))
    return np.concatenate(sums)

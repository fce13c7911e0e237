"""The decision rule: what a device stands by, from one second's logits after another's. Integers only.

    decider = Decider(rule, classes)
    decider.push(logits, likeness)       # int8 (classes,) and an integer -> the class, or `classes` for none of these

This is the definition; `firmware_bridge/runtime/tinyscene_decision.c` follows it bit for bit. For each decision:

1. **Mean.** S[c] is the sum of the logits of class c over the last m decisions, where m is `average`, or fewer at the
   start; L is that of the likeness (see `likeness.py`). They are running sums: the newest are added, those that leave
   are subtracted. Nothing is divided; what is compared with a mean is multiplied by m.
2. **Candidate.** None of these, which is the number `classes`, if the rule has a threshold and L < m * threshold;
   otherwise the class of the greatest S, the first of equal ones. A run counts the decisions in a row that had this
   candidate, this one included, up to 255.
3. **Hysteresis.** The first decision is its candidate. Later the former decision d stands unless the candidate c is
   another and one of these is so:
   - patience > 0 and run >= patience;
   - c and d are both classes, and S[c] - S[d] >= m * margin;
   - c or d is none of these, and patience is 0.

Steps are those of the integer logits: real = scale * (logit - zero point). A margin of 256 is never reached. The rule
counts decisions, not seconds: what it does in time depends on the hop.
"""

from collections import deque
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tinyscene.deploy.bundle.likeness import Likeness, read_table
from tinyscene.deploy.common.errors import InputError

UNKNOWN_LABEL = "none of these"
NEVER = 256  # a margin that no two means of int8 are apart
LONGEST_RUN = 255
BOUNDS = {"average": (1, 64), "margin": (0, NEVER), "patience": (0, LONGEST_RUN)}


@dataclass(frozen=True)
class DecisionRule:
    """The settings of the rule. Raises InputError for those that are out of bounds."""

    average: int = 1  # decisions
    margin: int = 0  # steps of the logits
    patience: int = 0  # decisions; 0: the margin alone decides
    unknown: Likeness | None = None  # without it nothing is "none of these"

    def __post_init__(self) -> None:
        for name, (low, high) in BOUNDS.items():
            value = getattr(self, name)
            if type(value) is not int or not low <= value <= high:
                raise InputError(f"decision rule: {name} is {value!r}, not a whole number in {low} to {high}")

    def as_dict(self) -> dict[str, Any]:
        """The entry of a bundle's index."""
        unknown = self.unknown and {
            **asdict(self.unknown),
            "directions": [list(row) for row in self.unknown.directions],
            "silence": list(self.unknown.silence),
        }
        return {**vars(self), "unknown": unknown}

    @classmethod
    def read(cls, stored: object) -> "DecisionRule":
        """The rule of an entry that may come from anyone. Raises InputError for what is no rule."""
        content = read_table(stored, "decision rule", {*BOUNDS, "unknown"})
        unknown = content["unknown"]
        return cls(**{**content, "unknown": None if unknown is None else Likeness.read(unknown)})

    def choose(self, sums: NDArray[np.integer[Any]], likeness: int, count: int) -> int:
        """The candidate by the sums of logits (classes,) and likeness over `count` decisions."""
        if self.unknown is not None and likeness < count * self.unknown.threshold:
            return len(sums)
        return int(np.argmax(sums))


class Decider:
    """A rule and what it remembers of a stream."""

    def __init__(self, rule: DecisionRule, classes: int) -> None:
        self.rule, self.classes = rule, classes
        self._last: deque[tuple[NDArray[np.int8], int]] = deque()
        self._sums, self._likeness = np.zeros(classes, np.int64), 0
        self._candidate = self._decided = -1
        self._run = 0

    def push(self, logits: NDArray[np.int8], likeness: int = 0) -> int:
        """The class decided on after one more decision's logits (classes,) and likeness."""
        if len(self._last) == self.rule.average:
            oldest = self._last.popleft()
            self._sums -= oldest[0]
            self._likeness -= oldest[1]
        self._last.append((logits, likeness))
        self._sums += logits
        self._likeness += likeness
        candidate = self.rule.choose(self._sums, self._likeness, len(self._last))
        self._run = min(self._run + 1, LONGEST_RUN) if candidate == self._candidate else 1
        self._candidate = candidate
        if candidate != self._decided and (self._decided < 0 or self._changes(candidate)):
            self._decided = candidate
        return self._decided

    def _changes(self, candidate: int) -> bool:
        """Whether a candidate that differs from what was decided takes its place."""
        rule, former = self.rule, self._decided
        if 0 < rule.patience <= self._run:
            return True
        if self.classes in (candidate, former):
            return rule.patience == 0
        return bool(self._sums[candidate] - self._sums[former] >= len(self._last) * rule.margin)

"""The schedule: in which order the rows of all activations are made, and from when to when each row is needed.

    schedule = make_schedule(graph, steps, cuts)

An operator makes one row (one mel band, all frames) a step, from the few rows of its sources that its window covers.
Operators take turns, each as soon as the rows that it reads are there. So an activation between two operators need not
be held whole: a ring of the rows that are still wanted does. A cut before an operator ends that: all before it is
finished first. Where to cut is the planner's choice (`planner.py`), for what must be held
whole may lie where other things lay before.

Rows of an activation are counted with its padding: `top` rows of zeros come before the first, `bottom` after the last,
and each row has `left` and `right` pixels of zeros. They are made in their turn like all others, so that no kernel
knows of borders.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from tinyscene.deploy.graph.graph import Graph, Kind, Tensor

FIRST = -1  # the time when the graph's input is there
Padding = tuple[int, int, int, int]  # top, bottom, left, right


@dataclass(frozen=True)
class Steps:
    """How an operator works through its rows, the same for each of its sources."""

    count: int
    tall: int  # rows of a source that a step reads,
    stride: int  # and how many rows further the next step does
    wide: int  # pixels of these rows that are read
    padding: Padding  # that is read around a source; top and left as the operator has them, bottom and right as needed
    scratch: int = 0  # bytes needed during a step
    kept: int = 0  # bytes needed from the first step to the last


@dataclass(frozen=True)
class Rows:
    """The rows of an activation, with padding."""

    tensor: Tensor
    padding: Padding

    @property
    def size(self) -> tuple[int, int, int]:
        """Height, width and channels, without padding."""
        height, width, channels = (1, 1, *self.tensor.shape[1:])[-3:]
        return height, width, channels

    @property
    def count(self) -> int:
        return self.size[0] + self.padding[0] + self.padding[1]

    @property
    def stride(self) -> int:
        """Bytes from a row to the next."""
        return (self.size[1] + self.padding[2] + self.padding[3]) * self.size[2]

    @property
    def left(self) -> int:
        """Bytes of padding before a row's first value."""
        return self.padding[2] * self.size[2]

    @property
    def bytes(self) -> int:
        """Bytes of a row's values."""
        return self.size[1] * self.size[2]


@dataclass(frozen=True)
class Step:
    """One turn: an operator, how many it made before, and the part (between cuts) that it belongs to."""

    operator: int
    turn: int
    part: int


@dataclass(frozen=True)
class Schedule:
    """All steps in order, and the time (a step's number) of each row's making and of its last reading."""

    graph: Graph
    steps: Sequence[Steps]  # of each operator
    rows: dict[str, Rows]  # of each activation, by name
    cuts: tuple[int, ...]  # the first operator of each part, 0 first
    passes: list[int]  # of each part
    order: list[Step]
    first_use: dict[str, list[int]]
    last_use: dict[str, list[int]]

    def slots(self, name: str) -> int:
        """Rows of an activation that a ring must hold so that none is overwritten before it last_use."""
        first_use, last_use = self.first_use[name], self.last_use[name]
        needed, later = 1, 0
        for row, death in enumerate(last_use):
            while later < len(first_use) and first_use[later] <= death:
                later += 1
            needed = max(needed, later - row)
        return needed

    def turns(self, operator: int) -> int:
        """Turns of an operator: its steps, and the rows of padding around what it makes."""
        top, bottom, _, _ = self.rows[self.graph.operators[operator].output.name].padding
        return top + self.steps[operator].count + bottom

    def need(self, operator: int, source: str) -> tuple[int, int, int]:
        """Turn t of an operator needs min(a * t + b, c) rows of a source: (a, b, c)."""
        steps = self.steps[operator]
        above = self.rows[self.graph.operators[operator].output.name].padding[0]
        first = self.rows[source].padding[0] - steps.padding[0]
        return steps.stride, first + steps.tall - steps.stride * above, self.rows[source].count

    def reads(self, step: Step, source: str) -> range:
        """The rows of a source that a step reads."""
        steps, above = self.steps[step.operator], self.rows[self.graph.operators[step.operator].output.name].padding[0]
        if not 0 <= step.turn - above < steps.count:
            return range(0)
        first = (step.turn - above) * steps.stride + self.rows[source].padding[0] - steps.padding[0]
        return range(first, first + steps.tall)

    def made(self, step: Step) -> int | None:
        """The row that a step makes; a mean makes its only one last."""
        rows = self.rows[self.graph.operators[step.operator].output.name]
        if self.turns(step.operator) == rows.count:
            return step.turn
        return 0 if step.turn == self.turns(step.operator) - 1 else None

    def operators(self, part: int) -> range:
        """The operators of a part."""
        ends = (*self.cuts[1:], len(self.graph.operators))
        return range(self.cuts[part], ends[part])

    def sources(self, part: int) -> list[str]:
        """The activations that a part reads and that were whole before it began."""
        operators = [self.graph.operators[index] for index in self.operators(part)]
        made = {operator.output.name for operator in operators}
        return sorted({name for operator in operators for name in operator.inputs} - made)


def padded_rows(graph: Graph, steps: Sequence[Steps]) -> dict[str, Rows]:
    """Each activation with the padding that its readers need at most."""
    padding: dict[str, Padding] = dict.fromkeys(graph.tensors, (0, 0, 0, 0))
    for operator, each in zip(graph.operators, steps, strict=True):
        for name in operator.inputs:
            top, bottom, left, right = map(max, padding[name], each.padding)
            padding[name] = (top, bottom, left, right)
    return {name: Rows(tensor, padding[name]) for name, tensor in graph.tensors.items()}


def make_schedule(graph: Graph, steps: Sequence[Steps], cuts: tuple[int, ...]) -> Schedule:
    """Let the operators take turns, part by part."""
    rows = padded_rows(graph, steps)
    first_use: dict[str, list[int]] = {name: [] for name in rows}
    last_use: dict[str, list[int]] = {name: [FIRST] * each.count for name, each in rows.items()}
    first_use[graph.input.name] = [FIRST] * rows[graph.input.name].count
    schedule = Schedule(graph, steps, rows, cuts, [0] * len(cuts), [], first_use, last_use)
    for part in range(len(cuts)):
        _run_part(schedule, part)
    end = len(schedule.order)
    last_use[graph.output.name] = [end] * rows[graph.output.name].count
    return schedule


def _run_part(schedule: Schedule, part: int) -> None:
    """Pass after pass, one more row of the whole sources may be read, and each operator that can takes one turn."""
    operators = schedule.operators(part)
    turns = dict.fromkeys(operators, 0)
    there = dict.fromkeys(schedule.sources(part), 0)
    while any(turns[operator] < schedule.turns(operator) for operator in operators):
        there |= {name: there[name] + 1 for name in schedule.sources(part)}
        for operator in operators:
            if _can_work(schedule, operator, turns[operator], there):
                _take(schedule, Step(operator, turns[operator], part))
                turns[operator] += 1
                name = schedule.graph.operators[operator].output.name
                there[name] = len(schedule.first_use[name])
        schedule.passes[part] += 1


def _can_work(schedule: Schedule, operator: int, turn: int, there: dict[str, int]) -> bool:
    if turn == schedule.turns(operator):
        return False
    needs = ((name, *schedule.need(operator, name)) for name in schedule.graph.operators[operator].inputs)
    return all(min(a * turn + b, c) <= there.get(name, 0) for name, a, b, c in needs)


def _take(schedule: Schedule, step: Step) -> None:
    now = len(schedule.order)
    schedule.order.append(step)
    operator = schedule.graph.operators[step.operator]
    for name in operator.inputs:
        for row in schedule.reads(step, name):
            schedule.last_use[name][row] = now
    row = schedule.made(step)
    if row is not None:
        schedule.first_use[operator.output.name].append(now)
        schedule.last_use[operator.output.name][row] = now


def window_steps(operator: Kind, source: Tensor, size: tuple[int, int], scratch: int) -> Steps:
    """The steps of an operator that slides a window of (mel, frame)."""
    _, height, width, _ = source.shape
    _, tall_out, wide_out, _ = operator.output.shape
    top, _, left, _ = operator.padding  # type: ignore[union-attr]
    down, across = operator.stride  # type: ignore[union-attr]
    bottom = (tall_out - 1) * down + size[0] - top - height
    right = (wide_out - 1) * across + size[1] - left - width
    return Steps(
        count=tall_out,
        tall=size[0],
        stride=down,
        wide=(wide_out - 1) * across + size[1],
        padding=(top, max(bottom, 0), left, max(right, 0)),
        scratch=scratch,
    )


def row_steps(source: Tensor, kept: int = 0) -> Steps:
    """The steps of an operator that takes its sources row by row."""
    height, width, _ = (1, 1, *source.shape[1:])[-3:]
    return Steps(count=height, tall=1, stride=1, wide=width, padding=(0, 0, 0, 0), kept=kept)


def macs(graph: Graph) -> int:
    """Multiplications of one inference."""
    return sum(getattr(operator, "macs", 0) for operator in graph.operators)

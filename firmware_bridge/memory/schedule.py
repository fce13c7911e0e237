"""The schedule: the order in which the rows of all activations are computed, and the live range of each row.

    schedule = make_schedule(graph, access, cuts)

In one step an operator computes one row from the few rows of its sources that its window covers. Operators take turns,
each as soon as the rows that it reads are available. So an activation between two operators need not be held whole: a
ring of the rows that are still needed suffices. A cut before an operator ends this: everything before the cut is
completed first. The planner (`planner.py`) chooses the cuts, because an activation that must be held whole may reuse
memory of earlier ones.

The graph's input is there, whole, before the first step; or it arrives row by row, each in a step of its own, as frames
of sound do in the order by time (`by_time.py`). Then the schedule has no cuts.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from tinyscene.deploy.graph.graph import Graph
from tinyscene.firmware_bridge.memory.pace import Pace
from tinyscene.firmware_bridge.memory.rows import AccessPattern, Rows, padded_rows

FIRST = -1  # the time when the graph's input is available, unless it arrives row by row
ARRIVAL = -1  # in place of an operator: the step in which a row of the input arrives


@dataclass(frozen=True)
class Step:
    """One turn of an operator or of an arriving input, from 0 on, in a part of the schedule (between two cuts)."""

    operator: int
    turn: int
    part: int


@dataclass(frozen=True)
class Schedule:
    """All steps in order, and the live range of each row: the steps that first write and last read it."""

    graph: Graph
    access: Sequence[AccessPattern]  # of each operator
    rows: dict[str, Rows]  # of each activation, by name
    cuts: tuple[int, ...]  # the first operator of each part, 0 first
    arriving: bool  # whether the graph's input arrives row by row
    pace: Pace | None  # of an input that arrives without end
    passes: list[int]  # of each part
    order: list[Step]
    first_use: dict[str, list[int]]
    last_use: dict[str, list[int]]

    def slots(self, name: str) -> int:
        """Rows that a ring must hold so that none is overwritten before its last use."""
        first_use, last_use = self.first_use[name], self.last_use[name]
        needed, later = 1, 0
        for row, last in enumerate(last_use):
            while later < len(first_use) and first_use[later] <= last:
                later += 1
            needed = max(needed, later - row)
        return needed

    def turns(self, operator: int) -> int:
        """Turns of an operator: its steps and the rows of padding around its output."""
        top, bottom, _, _ = self.rows[self.graph.operators[operator].output.name].padding
        return top + self.access[operator].count + bottom

    def need(self, operator: int, source: str) -> tuple[int, int, int]:
        """Turn t of an operator needs min(a * t + b, c) rows of a source: (a, b, c)."""
        access = self.access[operator]
        above = self.rows[self.graph.operators[operator].output.name].padding[0]
        first = self.rows[source].padding[0] - access.padding[0]
        return access.stride, first + access.tall - access.stride * above, self.rows[source].count

    def inputs(self, step: Step) -> tuple[str, ...]:
        """The activations that a step reads."""
        return () if step.operator == ARRIVAL else self.graph.operators[step.operator].inputs

    def output(self, step: Step) -> str:
        """The activation that a step writes."""
        return self.graph.input.name if step.operator == ARRIVAL else self.graph.operators[step.operator].output.name

    def reads(self, step: Step, source: str) -> range:
        """The rows of a source that a step reads."""
        access = self.access[step.operator]
        above = self.rows[self.graph.operators[step.operator].output.name].padding[0]
        if not 0 <= step.turn - above < access.count:
            return range(0)
        first = (step.turn - above) * access.stride + self.rows[source].padding[0] - access.padding[0]
        return range(first, first + access.tall)

    def output_row(self, step: Step) -> int | None:
        """The row that a step writes; a mean writes its only row in its last step."""
        rows = self.rows[self.output(step)]
        if step.operator == ARRIVAL or self.turns(step.operator) == rows.count:
            return step.turn
        return 0 if step.turn == self.turns(step.operator) - 1 else None

    def operators(self, part: int) -> range:
        """The operators of a part."""
        ends = (*self.cuts[1:], len(self.graph.operators))
        return range(self.cuts[part], ends[part])

    def sources(self, part: int) -> list[str]:
        """The activations that a part reads and that are complete before it begins."""
        operators = [self.graph.operators[index] for index in self.operators(part)]
        own = {operator.output.name for operator in operators}
        return sorted({name for operator in operators for name in operator.inputs} - own)


def make_schedule(
    graph: Graph,
    access: Sequence[AccessPattern],
    cuts: tuple[int, ...] = (0,),
    arriving: bool = False,
    pace: Pace | None = None,
) -> Schedule:
    """Schedule the operators in turns, part by part. There are no cuts if the input arrives row by row."""
    rows = padded_rows(graph, access)
    first_use: dict[str, list[int]] = {name: [] for name in rows}
    last_use: dict[str, list[int]] = {name: [FIRST] * activation.count for name, activation in rows.items()}
    if not arriving:
        first_use[graph.input.name] = [FIRST] * rows[graph.input.name].count
    schedule = Schedule(graph, access, rows, cuts, arriving, pace, [0] * len(cuts), [], first_use, last_use)
    for part in range(len(cuts)):
        _run_part(schedule, part)
    end = len(schedule.order)
    last_use[graph.output.name] = [end] * rows[graph.output.name].count
    return schedule


def _run_part(schedule: Schedule, part: int) -> None:
    """Each pass makes one more row of the complete sources available; every operator that can run takes one turn."""
    operators = schedule.operators(part)
    turns = dict.fromkeys(operators, 0)
    available = dict.fromkeys(schedule.sources(part), 0)
    source = schedule.graph.input.name
    arriving = schedule.rows[source].count if schedule.arriving else 0  # rows, whether they are read or not
    while available.get(source, 0) < arriving or any(turns[each] < schedule.turns(each) for each in operators):
        for name in schedule.sources(part):
            if schedule.arriving and available[name] < schedule.rows[name].count:
                _add(schedule, Step(ARRIVAL, available[name], part))
            available[name] += 1
        for operator in operators:
            if _can_run(schedule, operator, turns[operator], available):
                step = Step(operator, turns[operator], part)
                _add(schedule, step)
                turns[operator] += 1
                name = schedule.output(step)
                available[name] = len(schedule.first_use[name])
        schedule.passes[part] += 1


def _can_run(schedule: Schedule, operator: int, turn: int, available: dict[str, int]) -> bool:
    if turn == schedule.turns(operator):
        return False
    if schedule.pace:
        arrived = available[schedule.graph.input.name]
        return schedule.pace.strides[operator] * turn + schedule.pace.starts[operator] <= arrived
    needs = ((name, *schedule.need(operator, name)) for name in schedule.graph.operators[operator].inputs)
    return all(min(a * turn + b, c) <= available.get(name, 0) for name, a, b, c in needs)


def _add(schedule: Schedule, step: Step) -> None:
    now = len(schedule.order)
    schedule.order.append(step)
    for name in schedule.inputs(step):
        for row in schedule.reads(step, name):
            schedule.last_use[name][row] = now
    row = schedule.output_row(step)
    if row is not None:
        schedule.first_use[schedule.output(step)].append(now)
        schedule.last_use[schedule.output(step)][row] = now

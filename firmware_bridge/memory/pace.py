"""The pace of a network that listens without end: the passes in which each operator takes its turns.

    graph = lengthened(by_time(graph), frames)
    pace = make_pace(graph, access, work)

Without padding over time a column of a layer depends on the frames that it covers and on nothing else: it is the same
in every window that holds it, and is computed once. A pass begins when a frame arrives. The strides over time multiply
to the frames from one turn of an operator to the next; all operators of one stride could take their turns in the same
passes. To have as much to do in each pass, some of them start later, which delays the decision.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from tinyscene.deploy.graph.graph import Graph
from tinyscene.deploy.graph.operator import Window
from tinyscene.deploy.graph.operators import Kind, Mean, Repeat
from tinyscene.firmware_bridge.memory.rows import AccessPattern


@dataclass(frozen=True)
class Pace:
    """Turn t of operator i is taken in pass strides[i] * t + starts[i]; in pass p, frame p - 1 arrives."""

    strides: tuple[int, ...]
    starts: tuple[int, ...]
    columns: int  # of the last layer that a decision is the mean of

    @property
    def period(self) -> int:
        """Frames from one column of the last layer to the next: every so many passes, the same is done."""
        return max(self.strides)

    @property
    def decision(self) -> int:
        """The pass in which the first window's last column is made."""
        return self.strides[-1] * (self.columns - 1) + self.starts[-1]


def is_streamable(graph: Graph) -> bool:
    """Whether all windows of a graph have the same columns, and it ends in their mean."""
    padded = any(any(operator.padding[2:]) for operator in graph.operators if isinstance(operator, Window))
    means = [operator for operator in graph.operators if isinstance(operator, Mean)]
    repeated = any(operator.times[1] > 1 for operator in graph.operators if isinstance(operator, Repeat))
    return not padded and not repeated and means == list(graph.operators[-1:])


def lengthened(graph: Graph, frames: int) -> Graph:
    """A streamable graph by time for another number of frames."""
    tensors = {graph.input.name: replace(graph.input, shape=(1, frames, *graph.input.shape[2:]))}
    operators: list[Kind] = []
    for operator in graph.operators:
        shape = operator.output_shape(*(tensors[name] for name in operator.inputs))
        operators.append(replace(operator, output=replace(operator.output, shape=shape)))
        tensors[operator.output.name] = operators[-1].output
    return Graph(tensors[graph.input.name], tuple(operators))


def make_pace(graph: Graph, access: Sequence[AccessPattern], work: Sequence[float], columns: int) -> Pace:
    """The pace of a streamable graph by time. `work` is what a turn of each operator takes, in any unit."""
    strides, starts = {graph.input.name: 1}, {graph.input.name: 1}
    for operator, pattern in zip(graph.operators, access, strict=True):
        strides[operator.output.name] = strides[operator.inputs[0]] * pattern.stride
    load = [0.0] * strides[graph.output.name]  # of each pass of a period
    for stride in sorted({strides[operator.output.name] for operator in graph.operators}):
        members = [index for index, each in enumerate(graph.operators) if strides[each.output.name] == stride]
        first = _earliest(graph.operators[members[0]], access[members[0]], strides, starts)
        groups = _groups(
            [work[index] for index in members], [max(load[(first + k) % stride :: stride]) for k in range(stride)]
        )
        for index, group in zip(members, groups, strict=True):
            earliest = _earliest(graph.operators[index], access[index], strides, starts)
            start = earliest + (first + group - earliest) % stride
            starts[graph.operators[index].output.name] = start
            for place in range(start % stride, len(load), stride):
                load[place] += work[index]
    names = [operator.output.name for operator in graph.operators]
    return Pace(tuple(strides[name] for name in names), tuple(starts[name] for name in names), columns)


def _earliest(operator: Kind, pattern: AccessPattern, strides: Mapping[str, int], starts: Mapping[str, int]) -> int:
    """The first pass in which all rows are there that an operator's first turn reads."""
    rows = pattern.tall - pattern.padding[0]
    return max(starts[name] + strides[name] * (rows - 1) for name in operator.inputs)


def _groups(work: Sequence[float], loads: Sequence[float]) -> list[int]:
    """Divide operators, in order, among as many passes as have loads, so that the largest sum is as small as it can be.

    Returns the pass of each. A sum that suffices is searched for by halving the interval that holds the smallest one.
    """
    low, high = max(loads), max(loads) + sum(work)
    best = [0] * len(work)
    for _ in range(40):
        middle = (low + high) / 2
        found = _filled(work, loads, middle)
        if found is None:
            low = middle
        else:
            best, high = found, middle
    return best


def _filled(work: Sequence[float], loads: Sequence[float], most: float) -> list[int] | None:
    """The passes, each filled up to a sum before the next; none if they do not suffice."""
    groups, group, total = [], 0, loads[0]
    for each in work:
        while total + each > most:
            group += 1
            if group == len(loads):
                return None
            total = loads[group]
        total += each
        groups.append(group)
    return groups


def rewind_passes(pace: Pace, slots: Sequence[int]) -> int:
    """The fewest passes, in whole periods, after which all rings are where they were: those of the operators' outputs,
    and the input's at last, of so many slots each."""
    turns = [pace.period // stride for stride in (*pace.strides, 1)]
    return pace.period * math.lcm(*(count // math.gcd(count, turn) for count, turn in zip(slots, turns, strict=True)))

"""The plan of the arena: the place of each row of each activation.

    plan = make_plan(graph, access, extras)
    plan.arena_bytes, plan.row_offset("logits", 0)

Cuts (see `schedule.py`), rings and offsets are chosen together: for every set of cuts worth trying, the blocks of
memory are placed, largest first, where they extend the arena least. Two blocks may overlap if no two of their rows
are live at the same time: the output of a part is written over rows of its input that are not read any more. The
distance that two blocks need for this follows in closed form from the live ranges of their rows.

`arena_check.py` checks the result.
"""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from tinyscene.deploy.graph.graph import Graph
from tinyscene.deploy.graph.operators import Kind
from tinyscene.firmware_bridge.memory.pace import Pace
from tinyscene.firmware_bridge.memory.rows import AccessPattern
from tinyscene.firmware_bridge.memory.schedule import ARRIVAL, FIRST, Schedule, make_schedule

ALIGNMENT, WORK_ALIGNMENT = 4, 16  # of rows; of the arena and of working memory, where vectors may lie
ALWAYS = 2**30  # a time after all others: such a block persists from one inference to the next
SCRATCH = "\tscratch"  # names of blocks that are not activations start with a tab
ARRIVAL_WORK = "\tfft"
MAX_ROUNDS = 12  # of the search for cuts
MOST_LIVE = 2  # activations across a cut
Times = NDArray[np.int64]  # (row, 4): first byte in the block, byte after the last, first_use, last_use


@dataclass(frozen=True, eq=False)
class Block:
    """Memory that is placed as one: an activation, whole or as a ring, or an operator's working memory."""

    name: str
    bytes: int
    rows: Times  # or its live ranges as a whole, one after another
    alignment: int = ALIGNMENT

    @property
    def first_use(self) -> int:
        return int(self.rows[:, 2].min())

    @property
    def last_use(self) -> int:
        return int(self.rows[:, 3].max())


def aligned(size: int) -> int:
    """Bytes, rounded up to what the arena and its working memory are aligned to."""
    return -(-size // WORK_ALIGNMENT) * WORK_ALIGNMENT


def accumulator_block(operator: Kind) -> str:
    """The name of the block that holds an operator's sums from its first step to its last."""
    return f"\t{operator.output.name} sums"


def work_block(name: str, size: int, first_use: int, last_use: int, alignment: int = WORK_ALIGNMENT) -> Block:
    """Memory that is used as a whole for one live range."""
    return Block(name, size, np.array([[0, size, first_use, last_use]], np.int64), alignment)


@dataclass(frozen=True)
class Plan:
    """A schedule with a place for everything. Offsets are in bytes from the arena's start."""

    schedule: Schedule
    blocks: dict[str, Block]
    offsets: dict[str, int]

    @cached_property
    def arena_bytes(self) -> int:
        end = max(self.offsets[name] + block.bytes for name, block in self.blocks.items())
        return aligned(end)

    @cached_property
    def slots(self) -> dict[str, int]:
        """Rows that are held of each activation."""
        return {name: self.schedule.slots(name) for name in self.schedule.rows}

    def read_bytes(self, operator: int, source: str) -> tuple[int, int]:
        """The bytes of a source's rows that an operator reads: the first, and the one after the last."""
        rows, access = self.schedule.rows[source], self.schedule.access[operator]
        start = (rows.padding[2] - access.padding[2]) * rows.size[2]
        return start, start + access.wide * rows.size[2]

    def row_offset(self, name: str, row: int) -> int:
        """Where a row, counted with padding, begins."""
        return self.offsets[name] + row % self.slots[name] * self.schedule.rows[name].stride


def make_plan(
    graph: Graph,
    access: Sequence[AccessPattern],
    extras: Sequence[Block] = (),
    arrival: int | None = None,
    pace: Pace | None = None,
) -> Plan:
    """The smallest arena that the search finds for a graph.

    `access` is the access pattern of each operator. `extras` are blocks besides the network's, such as the front
    end's. The network's first step is at time 0; the graph's input is available from time FIRST (`schedule.py`) on.
    If it arrives row by row, `arrival` is the working memory in bytes that this takes; with a pace, it does so without
    end, and the graph is long enough to show all that repeats.
    """

    def place(cuts: tuple[int, ...]) -> Plan:
        schedule = make_schedule(graph, access, cuts, arrival is not None, pace)
        return _place([*_blocks(schedule), *_arrival_blocks(schedule, arrival or 0), *extras], schedule)

    best = place((0,))
    if arrival is not None:
        return best
    possible = _possible_cuts(graph)
    for _ in range(MAX_ROUNDS):
        candidates = [{*best.schedule.cuts} ^ {cut} for cut in possible]
        better = min(
            (place(tuple(sorted(cuts))) for cuts in candidates), key=lambda plan: plan.arena_bytes, default=best
        )
        if better.arena_bytes >= best.arena_bytes:
            break
        best = better
    return best


def _possible_cuts(graph: Graph) -> list[int]:
    """Operators before which no more activations are live than a cut may leave whole."""
    live, cuts = {graph.input.name}, []
    for index, (operator, last) in enumerate(zip(graph.operators, graph.last_reads(), strict=True)):
        if index and len(live) <= MOST_LIVE:
            cuts.append(index)
        live = (live - last) | {operator.output.name}
    return cuts


def _blocks(schedule: Schedule) -> list[Block]:
    blocks = []
    for name, rows in schedule.rows.items():
        slots, stride = schedule.slots(name), rows.stride
        first_use, last_use = schedule.first_use[name], schedule.last_use[name]
        if slots == rows.count:
            times = [[row * stride, (row + 1) * stride, first_use[row], last_use[row]] for row in range(slots)]
        else:
            times = [[0, slots * stride, *span] for span in _spans(first_use, last_use)]
        blocks.append(Block(name, slots * stride, np.array(times, np.int64)))
    blocks += _scratch_blocks(schedule)
    for index, (operator, access) in enumerate(zip(schedule.graph.operators, schedule.access, strict=True)):
        if access.accumulators:
            times = [time for time, step in enumerate(schedule.order) if step.operator == index]
            if schedule.pace:  # sums of former windows
                times = [FIRST, ALWAYS]
            blocks.append(work_block(accumulator_block(operator), access.accumulators, times[0], times[-1], 4))
    return blocks


def _scratch_blocks(schedule: Schedule) -> list[Block]:
    """Working memory in the steps of operators that need some, as much as each needs."""
    steps = [(time, step.operator) for time, step in enumerate(schedule.order) if step.operator != ARRIVAL]
    needed = [(schedule.access[operator].scratch, time) for time, operator in steps]
    times = np.array([[0, size, time, time] for size, time in needed if size], np.int64)
    return [Block(SCRATCH, int(times[:, 1].max()), times, WORK_ALIGNMENT)] if len(times) else []


def _spans(first_use: Sequence[int], last_use: Sequence[int]) -> list[list[int]]:
    """The times in which any row of a ring is live: between them, its memory is free."""
    spans = [[first_use[0], last_use[0]]]
    for first, last in zip(first_use[1:], last_use[1:], strict=True):
        if first <= spans[-1][1]:
            spans[-1][1] = max(spans[-1][1], last)
        else:
            spans.append([first, last])
    return spans


def _arrival_blocks(schedule: Schedule, size: int) -> list[Block]:
    """Working memory in the steps in which rows of values, not of padding, arrive."""
    rows = schedule.rows[schedule.graph.input.name]
    frames = range(rows.padding[0], rows.padding[0] + rows.size[0])
    steps = enumerate(schedule.order)
    times = [[0, size, time, time] for time, step in steps if step.operator == ARRIVAL and step.turn in frames]
    return [Block(ARRIVAL_WORK, size, np.array(times, np.int64), WORK_ALIGNMENT)] if times and size else []


def _place(blocks: Sequence[Block], schedule: Schedule) -> Plan:
    blocks = sorted(blocks, key=lambda block: (-block.bytes, block.name))
    distances = _distances(blocks)
    offsets: dict[str, int] = {}
    bottom = top = 0  # of the blocks placed so far; offsets may be negative until the end
    for block in blocks:
        near = [(offsets[name], *found) for name in offsets if (found := distances.get((name, block.name)))]
        step = block.alignment
        above_one = (-(-(offset + below) // step) * step for offset, below, _ in near)
        below_one = ((offset - above) // step * step for offset, _, above in near)
        free = [
            start
            for start in {-(-bottom // step) * step, *above_one, *below_one}
            if all(start - offset >= below or offset - start >= above for offset, below, above in near)
        ]
        size = block.bytes
        offsets[block.name] = place = min(
            free, key=lambda start: (max(top, start + size) - min(bottom, start), abs(start - bottom))
        )
        bottom, top = min(bottom, place), max(top, place + block.bytes)
    base = bottom // WORK_ALIGNMENT * WORK_ALIGNMENT
    places = {name: offset - base for name, offset in offsets.items()}
    return Plan(schedule, {block.name: block for block in blocks}, places)


def _distances(blocks: Sequence[Block]) -> dict[tuple[str, str], tuple[int, int]]:
    """For each two blocks that are live together, in their order, the least distances in bytes from start to start: if
    the second lies above the first, and if it lies below.

    For each pair of rows that are live together, the lower block's row must end before the higher one's begins.
    """
    spans = [(block.first_use, block.last_use) for block in blocks]
    distances = {}
    for one, other in itertools.combinations(range(len(blocks)), 2):
        if spans[one][0] > spans[other][1] or spans[other][0] > spans[one][1]:
            continue
        x, y = blocks[one].rows[:, None], blocks[other].rows[None]
        together = (x[..., 2] <= y[..., 3]) & (y[..., 2] <= x[..., 3])
        if together.any():
            gaps = (int((low[..., 1] - high[..., 0])[together].max()) for low, high in ((x, y), (y, x)))
            distances[blocks[one].name, blocks[other].name] = tuple(gaps)
    return distances

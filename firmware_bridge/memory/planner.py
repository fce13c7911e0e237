"""The plan of the arena: where each row of each activation lies, and the proof that no step touches what it must not.

    plan = make_plan(graph, steps, extras)
    plan.arena_bytes, plan.row_offset("logits", 0)

Parts (see `schedule.py`), rings and places are chosen together: for every set of cuts worth trying, the blocks of
memory are placed, largest first, where they lengthen the arena least. Two blocks may overlap where no two of their
rows live at the same time: the output of a part is written over rows of its input that nobody reads any more. How far
below another a block must begin for that follows in closed form from the rows' times.

`proof.py` proves the result.
"""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from tinyscene.deploy.graph.graph import Graph, Kind
from tinyscene.firmware_bridge.memory.schedule import Schedule, Steps, make_schedule

ALIGNMENT, WORK_ALIGNMENT = 4, 16  # of rows; of the arena and of working memory, where vectors may lie
ALWAYS = 2**30  # a time after all others
SCRATCH = "\tscratch"  # blocks that are no activations: a tab is in no name of one
MOST_ROUNDS = 12  # of looking for another cut that helps
Times = NDArray[np.int64]  # (row, 4): first byte in the block, byte after the last, first_use, last_use


@dataclass(frozen=True, eq=False)
class Block:
    """Memory that is placed as one: an activation, whole or as a ring, or an operator's working memory."""

    name: str
    bytes: int
    rows: Times
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


def kept_name(operator: Kind) -> str:
    """The block of what an operator keeps from its first step to its last."""
    return f"\t{operator.output.name} sums"


def work_block(name: str, size: int, first_use: int, last_use: int, alignment: int = WORK_ALIGNMENT) -> Block:
    """Memory that is in use as a whole from one time to another."""
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
        rows, steps = self.schedule.rows[source], self.schedule.steps[operator]
        start = (rows.padding[2] - steps.padding[2]) * rows.size[2]
        return start, start + steps.wide * rows.size[2]

    def row_offset(self, name: str, row: int) -> int:
        """Where a row, counted with padding, begins."""
        return self.offsets[name] + row % self.slots[name] * self.schedule.rows[name].stride


def make_plan(graph: Graph, steps: Sequence[Steps], extras: Sequence[Block] = ()) -> Plan:
    """The smallest arena that is found for a graph.

    `steps` says how each operator works. `extras` are blocks besides the network's, such as the front end's; the
    network's first step is at time 0 and the graph's input is there from the time FIRST (`schedule.py`) on.
    """

    def plan(cuts: tuple[int, ...]) -> Plan:
        return _place(make_schedule(graph, steps, cuts), extras)

    best = plan((0,))
    places = _narrow_places(graph)
    for _ in range(MOST_ROUNDS):
        tried = [{*best.schedule.cuts} ^ {place} for place in places]
        better = min((plan(tuple(sorted(cuts))) for cuts in tried), key=lambda each: each.arena_bytes, default=best)
        if better.arena_bytes >= best.arena_bytes:
            break
        best = better
    return best


def _narrow_places(graph: Graph) -> list[int]:
    """Operators before which only one activation is wanted."""
    wanted, places = {graph.input.name}, []
    for index, (operator, last) in enumerate(zip(graph.operators, graph.last_reads(), strict=True)):
        if index and len(wanted) == 1:
            places.append(index)
        wanted = (wanted - last) | {operator.output.name}
    return places


def _blocks(schedule: Schedule) -> list[Block]:
    blocks = []
    for name, rows in schedule.rows.items():
        slots, stride = schedule.slots(name), rows.stride
        first_use, last_use = schedule.first_use[name], schedule.last_use[name]
        if slots == rows.count:
            times = [[row * stride, (row + 1) * stride, first_use[row], last_use[row]] for row in range(slots)]
        else:
            times = [[0, slots * stride, min(first_use), max(last_use)]]
        blocks.append(Block(name, slots * stride, np.array(times, np.int64)))
    scratch = max(each.scratch for each in schedule.steps)
    if scratch:
        blocks.append(work_block(SCRATCH, scratch, 0, len(schedule.order)))
    for operator, steps in zip(schedule.graph.operators, schedule.steps, strict=True):
        if steps.kept:
            index = schedule.graph.operators.index(operator)
            times = [time for time, step in enumerate(schedule.order) if step.operator == index]
            blocks.append(work_block(kept_name(operator), steps.kept, times[0], times[-1], 4))
    return blocks


def _place(schedule: Schedule, extras: Sequence[Block]) -> Plan:
    blocks = sorted([*_blocks(schedule), *extras], key=lambda block: (-block.bytes, block.name))
    apart = {(x.name, y.name): _apart(x, y) for x, y in itertools.permutations(blocks, 2)}
    offsets: dict[str, int] = {}
    bottom = top = 0  # of what is placed; below the first block is room, too
    for block in blocks:
        near = [(offsets[name], apart[name, block.name], apart[block.name, name]) for name in offsets]
        near = [(offset, below, above) for offset, below, above in near if below is not None and above is not None]
        step = block.alignment
        above_one = (-(-(offset + below) // step) * step for offset, below, _ in near)
        below_one = ((offset - above) // step * step for offset, _, above in near)
        free = [
            each
            for each in {-(-bottom // step) * step, *above_one, *below_one}
            if all(each - offset >= below or offset - each >= above for offset, below, above in near)
        ]
        size = block.bytes
        offsets[block.name] = place = min(
            free, key=lambda each: (max(top, each + size) - min(bottom, each), abs(each - bottom))
        )
        bottom, top = min(bottom, place), max(top, place + block.bytes)
    base = bottom // WORK_ALIGNMENT * WORK_ALIGNMENT
    places = {name: offset - base for name, offset in offsets.items()}
    return Plan(schedule, {block.name: block for block in blocks}, places)


def _apart(low: Block, high: Block) -> int | None:
    """How far below another a block must begin at least, in bytes; none where they never live at the same time.

    For each pair of rows that do, the lower block's must end before the higher one's begins.
    """
    x, y = low.rows[:, None], high.rows[None]
    together = (x[..., 2] <= y[..., 3]) & (y[..., 2] <= x[..., 3])
    gaps = np.where(together, x[..., 1] - y[..., 0], -ALWAYS)
    return int(gaps.max()) if together.any() else None

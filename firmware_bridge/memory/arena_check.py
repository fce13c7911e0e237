"""The check of a plan: its whole schedule is run on an arena of labels instead of values.

    check_arena(plan)       # raises ArenaError if a step reads or writes memory that it must not

Each byte holds the label of what was last written there. A step may read only bytes whose label is that of the row that
it means to read, however the plan was computed and whatever was written in between; it may write only inside the arena
and not over what it still reads. Nothing depends on data: what holds for labels holds for every inference. An address
sanitizer could not find these errors, because the arena is one object to it.
"""

import numpy as np

from tinyscene.firmware_bridge.memory.planner import ALWAYS, ARRIVAL_WORK, SCRATCH, Plan, accumulator_block
from tinyscene.firmware_bridge.memory.schedule import ARRIVAL, FIRST, Step


class ArenaError(AssertionError):
    """A plan in which a step reads or writes memory that it must not: a fault of the planner, never of a user."""


def check_arena(plan: Plan) -> None:
    """Run the schedule on labels. Raises ArenaError at the first step that touches what it must not."""
    arena = _Arena(plan)
    schedule, graph = plan.schedule, plan.schedule.graph
    before = [block for block in plan.blocks.values() if block.first_use <= FIRST and block.name != graph.input.name]
    for block in before:
        arena.fill(block.name, block.bytes)
    for row in range(0 if schedule.arriving else schedule.rows[graph.input.name].count):
        arena.write_row(graph.input.name, row)
    for block in before:
        if block.last_use >= FIRST:
            arena.require(block.name, block.bytes)
    for step in schedule.order:
        _run(arena, step)
    for row in range(schedule.rows[graph.output.name].count):
        arena.require_row(graph.output.name, row, 0, schedule.rows[graph.output.name].stride)
    for block in before:
        if block.last_use == ALWAYS:
            arena.require(block.name, block.bytes)


def _run(arena: "_Arena", step: Step) -> None:
    """Run a step: working memory, reads, and the row that it writes must not overwrite each other."""
    schedule = arena.plan.schedule
    working = _working(arena.plan, step)
    for name, size in working.items():
        if name in (SCRATCH, ARRIVAL_WORK) or step.turn == 0:
            arena.fill(name, size)
    row = schedule.output_row(step)
    for written in (False, True):  # sources must be intact before and after the row is written
        if written and row is not None:
            arena.write_row(schedule.output(step), row)
        for name in schedule.inputs(step):
            for source_row in schedule.reads(step, name):
                arena.require_row(name, source_row, *arena.plan.read_bytes(step.operator, name))
        for name, size in working.items():
            arena.require(name, size)


def _working(plan: Plan, step: Step) -> dict[str, int]:
    """The blocks of working memory of a step, and how many bytes of each it uses."""
    if step.operator == ARRIVAL:
        return {name: block.bytes for name, block in plan.blocks.items() if name == ARRIVAL_WORK}
    operator, access = plan.schedule.graph.operators[step.operator], plan.schedule.access[step.operator]
    used = {SCRATCH: access.scratch, accumulator_block(operator): access.accumulators}
    return {name: size for name, size in used.items() if size}


class _Arena:
    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.labels = np.zeros(plan.arena_bytes, np.int64)
        self.base = {name: (index + 1) << 32 for index, name in enumerate(plan.blocks)}

    def fill(self, name: str, size: int) -> None:
        self._write(self.plan.offsets[name], size, self.base[name])

    def write_row(self, name: str, row: int) -> None:
        self._write(self.plan.row_offset(name, row), self.plan.schedule.rows[name].stride, self.base[name] + row)

    def require_row(self, name: str, row: int, start: int, stop: int) -> None:
        """Raise ArenaError if bytes of a row were overwritten."""
        if not 0 <= start < stop <= self.plan.schedule.rows[name].stride:
            raise ArenaError(f"bytes {start} to {stop} of a row of {name} are not its own")
        self._require(self.plan.row_offset(name, row) + start, stop - start, self.base[name] + row, f"{name} row {row}")

    def require(self, name: str, size: int) -> None:
        """Raise ArenaError if the first bytes of a block, as many as `size` says, were overwritten."""
        self._require(self.plan.offsets[name], size, self.base[name], name)

    def _write(self, start: int, size: int, label: int) -> None:
        if not 0 <= start <= start + size <= len(self.labels):
            raise ArenaError(f"bytes {start} to {start + size} lie outside an arena of {len(self.labels)}")
        self.labels[start : start + size] = label

    def _require(self, start: int, size: int, label: int, what: str) -> None:
        labels = self.labels[start : start + size]
        if len(labels) != size or (labels != label).any():
            names = list(self.plan.blocks)
            others = sorted({names[int(other >> 32) - 1] if other else "nothing" for other in labels[labels != label]})
            raise ArenaError(f"{what}, read at {start}, holds {', '.join(others)}")

"""The network in C: one function per operator that computes a row, one that takes turns, and the tables.

    network_files(plan, kernels)      # name -> content

`tinyscene_network.c` is readable: sizes and offsets are numbers, and a comment describes the output of each function.
The operators take turns exactly as in `schedule.py`, so the check of the plan covers them, wherever a run is divided.
"""

import math
from collections.abc import Sequence

from tinyscene.deploy.common.errors import InputError
from tinyscene.firmware_bridge.codegen.ops import code_of
from tinyscene.firmware_bridge.codegen.ops.context import Code, CodegenContext, comment, row_address
from tinyscene.firmware_bridge.memory.planner import Plan
from tinyscene.firmware_bridge.memory.schedule import Schedule

NETWORK_HEAD = """\
#include "tinyscene_network.h"

#include <stddef.h>

#include "tinyscene_kernels.h"

/* Kept apart, so that a debugger and a profiler name the layer that they are in. */
#if defined(__GNUC__)
#define TINYSCENE_STEP static __attribute__((noinline)) TINYSCENE_CODE void
#else
#define TINYSCENE_STEP static void
#endif

/* The address in a row of a ring, whose slots are `stride` bytes apart. */
#define ROW(first, slot, stride) (&(&arena[first])[(slot) * (stride)])

#if defined(TINYSCENE_TRACE)
#define TRACE_STEP(tensor, row) tinyscene_trace_step(arena, tensor, row)
#define TRACE_ROW(tensor, row, values, bytes) tinyscene_trace_row(tensor, row, values, bytes)
#else
#define TRACE_STEP(tensor, row) ((void)(row))
#define TRACE_ROW(tensor, row, values, bytes) ((void)(row))
#endif
"""


LAST_TURN = """\
/* The operators of a part of the schedule take turns in order, pass after pass; then those of the next part do. */
static void end_pass(tinyscene_progress *progress, uint16_t first, uint16_t passes)
{
    if (progress->pass < passes) {
        progress->pass++;
        progress->next = first;
    } else {
        progress->pass = 1;
    }
}
"""

NETWORK_TAIL = """\
int tinyscene_network_step(int8_t *arena, tinyscene_progress *progress, int32_t budget)
{
    while (progress->next < TINYSCENE_TENSORS) {
        const int32_t units = take_turn(arena, progress);
        move_on(progress);
        budget -= units;
        if ((units > 0) && (budget <= 0)) {
            return 1;
        }
    }
    return 0;
}

void tinyscene_network_run(int8_t *arena)
{
    tinyscene_progress progress;
    tinyscene_network_begin(arena, &progress);
    while (tinyscene_network_step(arena, &progress, INT32_MAX)) {
        continue;
    }
}
"""

VALUE_WORK = 8  # multiplications that take as long as what an operator without weights does for a value
MOST_ROWS = 2**15  # counters of rows and passes have 16 bits
Config = dict[str, int | float | str]  # constants of the C, without TINYSCENE_


def network_config(plan: Plan) -> Config:
    """Constants of the network."""
    graph = plan.schedule.graph
    first, last = plan.schedule.rows[graph.input.name], plan.schedule.rows[graph.output.name]
    return {
        "TENSORS": len(graph.tensors),
        "ARENA_BYTES": plan.arena_bytes,
        "RUN_UNITS": sum(units * plan.schedule.turns(index) for index, units in enumerate(row_units(plan))),
        "ROW_UNITS": max(row_units(plan)),
        "INPUT": first_value(plan, graph.input.name),
        "INPUT_ROWS": first.size[0],
        "INPUT_ROW_BYTES": first.bytes,
        "INPUT_STRIDE": first.stride,
        "OUTPUT": first_value(plan, graph.output.name),
        "OUTPUT_ROWS": last.size[0],
        "OUTPUT_ROW_BYTES": last.bytes,
        "OUTPUT_STRIDE": last.stride,
    }


def row_units(plan: Plan) -> list[int]:
    """What a row of each operator takes of a budget: thousands of multiplications, or of what takes as long."""
    schedule = plan.schedule
    units = []
    for index, operator in enumerate(schedule.graph.operators):
        values = max(math.prod(tensor.shape) for tensor in (operator.output, *schedule.graph.sources(operator)))
        work = getattr(operator, "macs", 0) or VALUE_WORK * values
        units.append(max(1, round(work / schedule.access[index].count / 1000)))
    return units


def first_value(plan: Plan, name: str) -> int:
    """The offset of the first value of an activation that is held whole, after its padding."""
    rows = plan.schedule.rows[name]
    return plan.row_offset(name, rows.padding[0]) + rows.left


def network_files(plan: Plan, kernels: Sequence[str], summed: str | None = None) -> dict[str, str]:
    """The generated files of a network, with weights for these kernels.

    `summed` is the activation whose rows are summed for a decision rule (`decision.py`), if any is.
    """
    operators = enumerate(plan.schedule.graph.operators, 1)
    codes = [code_of(operator, CodegenContext(plan, operator, number, kernels)) for number, operator in operators]
    weights = [_weights_head(kernels), *(code.tables for code in codes if code.tables)]
    return {"tinyscene_weights.c": "\n".join(weights), "tinyscene_network.c": _network_code(plan, codes, summed)}


def _weights_head(kernels: Sequence[str]) -> str:
    known = " && ".join(f"!defined(TINYSCENE_{name.upper()})" for name in kernels)
    return f"""\
#include "tinyscene_kernels.h"

#if {known}
#error "these weights are laid out for the kernels {", ".join(kernels)}: define TINYSCENE_PLAIN, or generate others"
#endif

#if defined(__GNUC__)
#define TINYSCENE_TABLE __attribute__((aligned(16))) TINYSCENE_WEIGHTS
#else
#define TINYSCENE_TABLE
#endif
"""


def _network_code(plan: Plan, codes: Sequence[Code], summed: str | None) -> str:
    graph = plan.schedule.graph
    if max(rows.count for rows in plan.schedule.rows.values()) > MOST_ROWS:
        raise InputError(f"an activation of more than {MOST_ROWS:,} rows is not supported")
    rows = plan.schedule.rows[graph.input.name]
    size = rows.count * rows.stride
    clear = [
        "void tinyscene_network_clear(int8_t *arena)",
        "{",
        f"    tinyscene_fill({row_address(plan, graph.input.name, '0', 0)}, {graph.input.q.zero_point}, {size});",
        "}",
    ]
    begin = [
        "void tinyscene_network_begin(int8_t *arena, tinyscene_progress *progress)",
        "{",
        "#if defined(TINYSCENE_TRACE)",
        "    for (int32_t row = 0; row < TINYSCENE_INPUT_ROWS; row++) {",
        "        TRACE_ROW(0, row, ROW(TINYSCENE_INPUT, row, TINYSCENE_INPUT_STRIDE), TINYSCENE_INPUT_ROW_BYTES);",
        "    }",
        "#endif",
        *(["    tinyscene_embedding_clear(arena);"] if summed else ["    (void)arena;"]),
        "    static const tinyscene_progress none = {1, 1, {0}};",
        "    *progress = none;",
        "}",
    ]
    sections = [
        NETWORK_HEAD,
        *(['#include "tinyscene_decision.h"\n'] if summed else []),
        "".join(code.declarations for code in codes),
        *(_row_function(plan, index, code, summed) for index, code in enumerate(codes)),
        _turn_function(plan),
        _order_function(plan),
        "\n".join(clear),
        "\n".join(begin),
        NETWORK_TAIL,
    ]
    return "\n".join(section if section.endswith("\n") else section + "\n" for section in sections)


def _row_function(plan: Plan, index: int, code: Code, summed: str | None) -> str:
    """The function of an operator's step: it writes a row of padding, or a row of values with padding at its ends."""
    schedule, operator, number = plan.schedule, plan.schedule.graph.operators[index], index + 1
    name = operator.output.name
    rows, access = schedule.rows[name], schedule.access[index]
    (top, _, left, right), (_, width, channels) = rows.padding, rows.size
    zero, row_per_turn = operator.output.q.zero_point, schedule.turns(index) == rows.count
    turn = "turn" if row_per_turn else "0"
    body = [f"TRACE_STEP({number}, turn);", f"int8_t *const y = {row_address(plan, name, turn, rows.left)};"]
    start = f"&y[-{rows.left}]" if rows.left else "y"
    if rows.count > rows.size[0]:
        inside = f"(turn < {top}) || (turn >= {top + rows.size[0]})" if top else f"turn >= {rows.size[0]}"
        body += [
            f"if ({inside}) {{",
            f"    tinyscene_fill({start}, {zero}, {rows.stride});",
            "    return;",
            "}",
        ]
    body.append(f"const int32_t row = turn - {top};" if top else "const int32_t row = turn;")
    if left:
        body.append(f"tinyscene_fill({start}, {zero}, {rows.left});")
    if right:
        body.append(f"tinyscene_fill(&y[{width * channels}], {zero}, {right * channels});")
    body += code.step
    place = "row" if row_per_turn else "0"
    finished = [f"TRACE_ROW({number}, {place}, y, {rows.bytes});"]
    if name == summed:
        finished.append(f"tinyscene_embedding_add(arena, y, {width});")
    if row_per_turn:
        body += finished
    else:
        body += [f"if (row == {access.count - 1}) {{", *(f"    {line}" for line in finished), "}"]
    shape, ring = " x ".join(map(str, operator.output.shape[1:])), f"{plan.slots[name]} of {rows.count}"
    head = (
        f"/* {operator.kind} {comment(name)}: {shape}; {ring} rows of {rows.stride} bytes are held. */\n"
        f"TINYSCENE_STEP tinyscene_row_{number}(int8_t *arena, int32_t turn)\n"
    )
    return head + "{\n" + "".join(f"    {line}\n" for line in body) + "}\n"


def _turn_function(plan: Plan) -> str:
    """The turn of one operator, which it takes exactly when it does in schedule.py."""
    schedule, graph = plan.schedule, plan.schedule.graph
    numbers = {name: index for index, name in enumerate(graph.tensors)}
    lines = [
        "/* The operator whose turn it is computes its next row, if the rows that it reads are there. Returns the",
        " * units of the budget that this takes. */",
        "static int32_t take_turn(int8_t *arena, tinyscene_progress *progress)",
        "{",
        "    uint16_t *const turns = progress->turns;",
        "    const int32_t pass = progress->pass;",
        "    switch (progress->next) {",
    ]
    for part in range(len(schedule.cuts)):
        whole = schedule.sources(part)
        for index in schedule.operators(part):
            conditions = [f"(turns[{index + 1}] < {schedule.turns(index)})"]
            for name in dict.fromkeys(graph.operators[index].inputs):
                available = "pass" if name in whole else f"turns[{numbers[name]}]"
                conditions += _needs(schedule, index, name, available)
            lines += [
                f"    case {index + 1}:",
                f"        if (!({' && '.join(conditions)})) {{",
                "            return 0;",
                "        }",
                f"        tinyscene_row_{index + 1}(arena, turns[{index + 1}]++);",
                f"        return {row_units(plan)[index]};",
            ]
    return "\n".join([*lines, "    default:", "        return 0;", "    }", "}"])


def _order_function(plan: Plan) -> str:
    """Whose turn it is next."""
    schedule = plan.schedule
    lines = ["static void move_on(tinyscene_progress *progress)", "{", "    switch (progress->next++) {"]
    for part in range(len(schedule.cuts)):
        operators = schedule.operators(part)
        lines += [
            f"    case {operators.stop}:",
            f"        end_pass(progress, {operators.start + 1}, {schedule.passes[part]});",
            "        break;",
        ]
    return "\n".join([LAST_TURN, *lines, "    default:", "        break;", "    }", "}"])


def _needs(schedule: Schedule, index: int, name: str, available: str) -> list[str]:
    """The condition that enough rows of a source are available: all, or those that the next turn reads."""
    factor, addend, most = schedule.need(index, name)
    operators = schedule.graph.operators
    writer = next((number for number, operator in enumerate(operators) if operator.output.name == name), None)
    turns = most if writer is None else schedule.turns(writer)
    turn = f"turns[{index + 1}]"
    scaled = turn if factor == 1 else f"({factor} * {turn})"
    need = f"({scaled} {'+' if addend > 0 else '-'} {abs(addend)})" if addend else scaled
    if turns != most and available != "pass":  # a mean of this part writes its row in its last turn
        complete = f"({available} == {turns})"
        return [complete if addend > 0 else f"({complete} || ({need} <= 0))"]  # a row of padding needs none
    return [f"(({available} >= {need}) || ({available} >= {most}))"]

"""The network in C: one function per operator that computes a row, one that takes turns, and the tables.

    network_files(plan, kernels)      # name -> content

`tinyscene_network.c` is readable: sizes and offsets are numbers, and a comment describes the output of each function.
The order in which they are called is in `turns.py`.
"""

from collections.abc import Sequence

from tinyscene.deploy.common.errors import InputError
from tinyscene.firmware_bridge.codegen.ops import code_of
from tinyscene.firmware_bridge.codegen.ops.context import Code, CodegenContext, comment, fill_row, row_address
from tinyscene.firmware_bridge.codegen.turns import pass_units, row_units, turns_code
from tinyscene.firmware_bridge.memory.planner import Plan, accumulator_block

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

RUN = """\
void tinyscene_network_run(int8_t *arena)
{
    tinyscene_progress progress;
    tinyscene_network_begin(arena, &progress);
    while (tinyscene_network_step(arena, &progress, INT32_MAX)) {
        continue;
    }
}
"""

MOST_ROWS = 2**15  # counters of rows and passes have 16 bits
Config = dict[str, int | float | str]  # constants of the C, without TINYSCENE_


def network_config(plan: Plan) -> Config:
    """Constants of the network."""
    graph, pace = plan.schedule.graph, plan.schedule.pace
    first, last = plan.schedule.rows[graph.input.name], plan.schedule.rows[graph.output.name]
    run = sum(units * each.count for units, each in zip(row_units(plan), plan.schedule.access, strict=True))
    return {
        "TENSORS": len(graph.tensors),
        "ARENA_BYTES": plan.arena_bytes,
        "RUN_UNITS": max(pass_units(plan)) if pace else run,
        "ROW_UNITS": max(row_units(plan)),
        "BY_TIME": int(plan.schedule.arriving),
        "STREAMS": int(pace is not None),
        **({"PASS_UNITS": max(pass_units(plan))} if plan.schedule.arriving else {}),
        **({} if plan.schedule.arriving else {"INPUT": first_value(plan, graph.input.name)}),
        "INPUT_ROWS": first.size[0],
        "INPUT_ROW_BYTES": first.bytes,
        "INPUT_STRIDE": first.stride,
        "OUTPUT": first_value(plan, graph.output.name),
        "OUTPUT_ROWS": last.size[0],
        "OUTPUT_ROW_BYTES": last.bytes,
        "OUTPUT_STRIDE": last.stride,
    }


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
    if max(rows.count for rows in plan.schedule.rows.values()) > MOST_ROWS:
        raise InputError(f"an activation of more than {MOST_ROWS:,} rows is not supported")
    sections = [
        NETWORK_HEAD,
        *(['#include "tinyscene_decision.h"\n'] if summed else []),
        "".join(code.declarations for code in codes),
        *(_row_function(plan, index, code, summed) for index, code in enumerate(codes)),
        *turns_code(plan),
        *([] if plan.schedule.arriving else [_clear_function(plan)]),
        _begin_function(plan, summed),
        *([_output_function(plan)] if plan.schedule.pace else []),
        *([] if plan.schedule.arriving else [RUN]),
    ]
    return "\n".join(section if section.endswith("\n") else section + "\n" for section in sections)


def _clear_function(plan: Plan) -> str:
    """The padding around the input, and the zero point in the input."""
    name, zero = plan.schedule.graph.input.name, plan.schedule.graph.input.q.zero_point
    rows = plan.schedule.rows[name]
    fill = f"    tinyscene_fill({row_address(plan, name, '0', 0)}, {zero}, {rows.count * rows.stride});"
    return "\n".join(["void tinyscene_network_clear(int8_t *arena)", "{", fill, "}"])


def _begin_function(plan: Plan, summed: str | None) -> str:
    trace = [
        "#if defined(TINYSCENE_TRACE)",
        "    for (int32_t row = 0; row < TINYSCENE_INPUT_ROWS; row++) {",
        "        TRACE_ROW(0, row, ROW(TINYSCENE_INPUT, row, TINYSCENE_INPUT_STRIDE), TINYSCENE_INPUT_ROW_BYTES);",
        "    }",
        "#endif",
    ]
    schedule = plan.schedule
    first = 0 if schedule.arriving else 1
    sums = accumulator_block(schedule.graph.operators[-1])
    clear = (
        [f"    tinyscene_fill(&arena[{plan.offsets[sums]}], 0, {plan.blocks[sums].bytes});"] if schedule.pace else []
    )
    lines = [
        "void tinyscene_network_begin(int8_t *arena, tinyscene_progress *progress)",
        "{",
        *([] if schedule.arriving else trace),
        *clear,
        *(["    tinyscene_embedding_clear(arena);"] if summed else ["    (void)arena;"]),
        f"    static const tinyscene_progress none = {{1, {first}, {{0}}}};",
        "    *progress = none;",
        "}",
    ]
    return "\n".join(lines)


def _output_function(plan: Plan) -> str:
    """What the last columns say at any time."""
    number = len(plan.schedule.graph.operators)
    sums, channels = (
        plan.offsets[accumulator_block(plan.schedule.graph.operators[-1])],
        plan.schedule.graph.output.shape[-1],
    )
    lines = [
        "void tinyscene_network_output(const int8_t *arena, int8_t *output)",
        "{",
        f"    const int32_t *sums = (const int32_t *)(const void *)&arena[{sums}];",
        f"    tinyscene_mean_end(&mean_{number}, sums, {channels}, output);",
        "}",
    ]
    return "\n".join(lines)


def _row_function(plan: Plan, index: int, code: Code, summed: str | None) -> str:
    """The function of an operator's step: it writes a row of padding, or a row of values with padding at its ends."""
    schedule, operator, number = plan.schedule, plan.schedule.graph.operators[index], index + 1
    name = operator.output.name
    rows, access, pace = schedule.rows[name], schedule.access[index], schedule.pace
    top, width = rows.padding[0], rows.size[1]
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
    body += [*fill_row(rows, zero), *code.step]
    place = "row" if row_per_turn else "0"
    finished = [f"TRACE_ROW({number}, {place}, y, {rows.bytes});"]
    if name == summed:
        add = f"slide(arena, y, {width}, row % {pace.columns})" if pace else f"add(arena, y, {width})"
        finished.append(f"tinyscene_embedding_{add};")
    if pace and not row_per_turn:  # the mean, which writes its sums only
        body = [f"TRACE_STEP({number}, turn);", "const int32_t row = turn;", *code.step]
    elif row_per_turn:
        body += finished
    else:
        body += [f"if (row == {access.count - 1}) {{", *(f"    {line}" for line in finished), "}"]
    shape, ring = " x ".join(map(str, operator.output.shape[1:])), f"{plan.slots[name]} of {rows.count}"
    head = (
        f"/* {operator.kind} {comment(name)}: {shape}; {ring} rows of {rows.stride} bytes are held. */\n"
        f"TINYSCENE_STEP tinyscene_row_{number}(int8_t *arena, int32_t turn)\n"
    )
    return head + "{\n" + "".join(f"    {line}\n" for line in body) + "}\n"

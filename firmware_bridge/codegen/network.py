"""The network in C: a function a row of each activation, one a part of the schedule, and the tables.

    network_files(plan, kernels)      # name -> content

`tinyscene_network.c` is written for a reader: sizes and places are numbers, each function says what it makes and
where that lies. The parts' functions take turns as `schedule.py` does, so the plan's proof holds for them.
"""

from collections.abc import Sequence

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
#define TINYSCENE_STEP static __attribute__((noinline)) void
#else
#define TINYSCENE_STEP static void
#endif

#if defined(TINYSCENE_TRACE)
#define TRACE_STEP(tensor, row) tinyscene_trace_step(arena, tensor, row)
#define TRACE_ROW(tensor, row, values, bytes) tinyscene_trace_row(tensor, row, values, bytes)
#else
#define TRACE_STEP(tensor, row) ((void)(row))
#define TRACE_ROW(tensor, row, values, bytes) ((void)(row))
#endif
"""


def network_files(plan: Plan, kernels: Sequence[str]) -> dict[str, str]:
    """The generated files of a network, with weights for these kernels."""
    operators = enumerate(plan.schedule.graph.operators, 1)
    codes = [code_of(operator, CodegenContext(plan, operator, number, kernels)) for number, operator in operators]
    weights = [_weights_head(kernels), *(code.tables for code in codes if code.tables)]
    return {"tinyscene_weights.c": "\n".join(weights), "tinyscene_network.c": _network_code(plan, codes)}


def _weights_head(kernels: Sequence[str]) -> str:
    known = " && ".join(f"!defined(TINYSCENE_{each.upper()})" for each in kernels)
    return f"""\
#include "tinyscene_kernels.h"

#if {known}
#error "these weights are laid out for the kernels {", ".join(kernels)}: define TINYSCENE_PLAIN, or generate others"
#endif

#if defined(__GNUC__)
#define TINYSCENE_TABLE __attribute__((aligned(16)))
#else
#define TINYSCENE_TABLE
#endif
"""


def _network_code(plan: Plan, codes: Sequence[Code]) -> str:
    graph, parts = plan.schedule.graph, range(len(plan.schedule.cuts))
    rows = plan.schedule.rows[graph.input.name]
    size = rows.count * rows.stride
    clear = [
        "void tinyscene_network_clear(int8_t *arena)",
        "{",
        f"    tinyscene_fill({row_address(plan, graph.input.name, '0', 0)}, {graph.input.q.zero_point}, {size});",
        "}",
    ]
    run = [
        "void tinyscene_network_run(int8_t *arena)",
        "{",
        "#if defined(TINYSCENE_TRACE)",
        "    for (int32_t row = 0; row < TINYSCENE_INPUT_ROWS; row++)",
        "        TRACE_ROW(0, row, arena + TINYSCENE_INPUT + row * TINYSCENE_INPUT_STRIDE, TINYSCENE_INPUT_ROW_BYTES);",
        "#endif",
        *(f"    part_{part}(arena);" for part in parts),
        "}",
    ]
    functions = [_row_function(plan, index, code) for index, code in enumerate(codes)]
    functions += [_part_function(plan, part) for part in parts]
    pieces = [NETWORK_HEAD, "".join(code.declarations for code in codes), *functions, "\n".join(clear), "\n".join(run)]
    return "\n".join(piece if piece.endswith("\n") else piece + "\n" for piece in pieces)


def _row_function(plan: Plan, index: int, code: Code) -> str:
    """A step of an operator: a row of padding, or a row of its own with the padding at its ends."""
    schedule, operator, number = plan.schedule, plan.schedule.graph.operators[index], index + 1
    name = operator.output.name
    rows, steps = schedule.rows[name], schedule.steps[index]
    (top, _, left, right), (_, width, channels) = rows.padding, rows.size
    zero, makes_rows = operator.output.q.zero_point, schedule.turns(index) == rows.count
    turn = "turn" if makes_rows else "0"
    body = [f"TRACE_STEP({number}, turn);", f"int8_t *const y = {row_address(plan, name, turn, rows.left)};"]
    start = f"y - {rows.left}" if rows.left else "y"
    if rows.count > rows.size[0]:
        inside = f"turn < {top} || turn >= {top + rows.size[0]}" if top else f"turn >= {rows.size[0]}"
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
        body.append(f"tinyscene_fill(y + {width * channels}, {zero}, {right * channels});")
    body += code.step
    traced = f"TRACE_ROW({number}, row, y, {rows.bytes});"
    if makes_rows:
        body.append(traced)
    else:
        body += [f"if (row == {steps.count - 1})", f"    {traced.replace(', row,', ', 0,')}"]
    shape, held = " x ".join(map(str, operator.output.shape[1:])), f"{plan.slots[name]} of {rows.count}"
    head = (
        f"/* {operator.kind} {comment(name)}: {shape}; {held} rows of {rows.stride} bytes are held. */\n"
        f"TINYSCENE_STEP tinyscene_row_{number}(int8_t *arena, int32_t turn)\n"
    )
    return head + "{\n" + "".join(f"    {line}\n" for line in body) + "}\n"


def _part_function(plan: Plan, part: int) -> str:
    """The operators of a part taking turns, exactly as in schedule.py."""
    schedule, graph = plan.schedule, plan.schedule.graph
    whole, operators = schedule.sources(part), schedule.operators(part)
    numbers = {name: index for index, name in enumerate(graph.tensors)}
    lines = [
        f"static void part_{part}(int8_t *arena)",
        "{",
        f"    int32_t {', '.join(f'made_{index + 1} = 0' for index in operators)};",
        f"    for (int32_t pass = 1; pass <= {schedule.passes[part]}; pass++) {{",
    ]
    for index in operators:
        conditions = [f"made_{index + 1} < {schedule.turns(index)}"]
        for name in dict.fromkeys(graph.operators[index].inputs):
            there = "pass" if name in whole else f"made_{numbers[name]}"
            conditions += _needs(schedule, index, name, there)
        lines += [
            f"        if ({' && '.join(conditions)})",
            f"            tinyscene_row_{index + 1}(arena, made_{index + 1}++);",
        ]
    return "\n".join([*lines, "    }", "}"])


def _needs(schedule: Schedule, index: int, name: str, there: str) -> list[str]:
    """That enough rows of a source are there: all of them, or those that the next turn reads."""
    factor, addend, most = schedule.need(index, name)
    maker = next((i for i, each in enumerate(schedule.graph.operators) if each.output.name == name), None)
    turns = most if maker is None else schedule.turns(maker)
    made = f"made_{index + 1}"
    scaled = made if factor == 1 else f"{factor} * {made}"
    need = f"{scaled} + {addend}" if addend >= 0 else f"{scaled} - {-addend}"
    if turns != most:  # a mean makes its row in its last turn
        return [f"{there} == {turns}"]
    return [f"({there} >= {need} || {there} >= {most})"]

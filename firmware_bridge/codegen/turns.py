"""The order of the work in C: whose turn it is, and how far a run has come.

    turns_code(plan)      # functions of tinyscene_network.c

The operators take turns exactly as in `schedule.py`, so the check of the plan covers them, wherever a run is divided.
If the input arrives row by row, each arrival begins a pass. If it does so without end, the turns are counted back after
a number of passes in which all rings come round.
"""

import math
from collections.abc import Sequence

from tinyscene.deploy.common.errors import InputError
from tinyscene.deploy.graph.graph import Graph
from tinyscene.deploy.graph.operators import Add, AveragePool2D, Conv2D, DepthwiseConv2D, Kind, MaxPool2D
from tinyscene.deploy.graph.tensor import Tensor
from tinyscene.firmware_bridge.codegen.ops.context import fill_row, row_address
from tinyscene.firmware_bridge.memory.pace import Pace, rewind_passes
from tinyscene.firmware_bridge.memory.planner import Plan
from tinyscene.firmware_bridge.memory.rows import AccessPattern
from tinyscene.firmware_bridge.memory.schedule import ARRIVAL, Schedule

PASSES = """\
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

STEP = """\
int tinyscene_network_step(int8_t *arena, tinyscene_progress *progress, int32_t budget)
{
    int32_t left = (budget > 0) ? budget : 0;
    int begun = 0; /* a part computes a row at least */
    while (progress->next < TINYSCENE_TENSORS) {
@WAITS@        const int32_t units = row_units[progress->next];
        if (begun && (units > left)) {
            return TINYSCENE_NETWORK_MORE;
        }
        if (take_turn(arena, progress)) {
            left -= units;
            begun = 1;
        }
        move_on(progress);
    }
    return TINYSCENE_NETWORK_DONE;
}
"""

WAITS = """\
        if (tinyscene_network_waits(progress)) {
            return TINYSCENE_NETWORK_WAITS;
        }
"""

MOST_TURNS = 2**16 - 1  # that are counted
MOST_UNITS = 2**16 - 1  # in the table of the C: a row of more is as good as a part of its own

# Instructions of a Cortex-M4, fitted to the rows of two networks (`emulate --profile`), most of them to 5 %.
PRODUCT, CONVOLVED, PACKED = 0.73, 10, 1.6  # of convolutions: a multiplication, a value out, one in
COPIED, COPY = 2, 40  # where windows are gathered: a value, a row of a window
WINDOW, COLUMN = 19, 5  # of depthwise ones: a value out, one in
POOLED = 3.5  # a value of a window
SUMMED, OTHER = 14, 8  # a value of Add, and of what else there is


def row_units(plan: Plan) -> list[int]:
    """What a row of each operator takes of a budget: about so many thousands of a Cortex-M4's instructions."""
    work = row_work(plan.schedule.graph, plan.schedule.access)
    return [min(max(1, round(each / 1000)), MOST_UNITS) for each in work]


def row_work(graph: Graph, access: Sequence[AccessPattern]) -> list[float]:
    """What a row of each operator takes: about so many of a Cortex-M4's instructions."""
    pairs = zip(graph.operators, access, strict=True)
    return [_work(operator, graph.sources(operator)[0]) / pattern.count for operator, pattern in pairs]


def pass_units(plan: Plan) -> list[int]:
    """What each pass takes of a budget, where the input arrives row by row; not the last of several, for its work is
    done when nothing arrives any more."""
    passes, units = [], row_units(plan)
    for step in plan.schedule.order:
        if step.operator == ARRIVAL:
            passes.append(0)
        elif passes:
            passes[-1] += units[step.operator]
    return passes[:-1] or passes


def _work(operator: Kind, source: Tensor) -> float:
    """Instructions of an operator."""
    values = math.prod(operator.output.shape)
    match operator:
        case Conv2D():
            depth, pixels = operator.weights[0].size, values / operator.output.shape[3]
            gathered = 0 if operator.size == (1, 1) else COPIED * depth + COPY * operator.size[0]
            return PRODUCT * operator.macs + CONVOLVED * values + (PACKED * depth + gathered) * pixels
        case DepthwiseConv2D():
            width = operator.output.shape[2]
            columns = (width - 1) * operator.stride[1] + operator.size[1]
            return (WINDOW + COLUMN * columns / width) * values
        case Add():
            return SUMMED * values
        case AveragePool2D() | MaxPool2D():
            return POOLED * math.prod(operator.size) * values
        case _:
            return OTHER * max(values, math.prod(source.shape))


def turns_code(plan: Plan) -> list[str]:
    """The functions that decide whose turn it is, and `tinyscene_network_step`."""
    arrival = _arrival_functions(plan) if plan.schedule.arriving else []
    order = [_endless_order(plan, plan.schedule.pace)] if plan.schedule.pace else [PASSES, _order_function(plan)]
    return [*arrival, _turn_function(plan), *order, STEP.replace("@WAITS@", WAITS if arrival else "")]


def _arrival_functions(plan: Plan) -> list[str]:
    """Where the next row of the input goes, and whether it is one of values."""
    schedule, name = plan.schedule, plan.schedule.graph.input.name
    rows, zero = schedule.rows[name], schedule.graph.input.q.zero_point
    top, height = rows.padding[0], rows.size[0]
    waits_for = f"(progress->turns[0] >= {top}) && (progress->turns[0] < {top + height})"
    padding = [
        "/* A row of padding arrives. */",
        "static void pad_input(int8_t *arena, int32_t turn)",
        "{",
        "    TRACE_STEP(0, turn);",
        f"    tinyscene_fill({row_address(plan, name, 'turn', 0)}, {zero}, {rows.stride});",
        "}",
    ]
    waits = [
        "int tinyscene_network_waits(const tinyscene_progress *progress)",
        "{",
        f"    return (progress->next == 0){'' if schedule.pace else f' && {waits_for}'};",
        "}",
    ]
    place = [
        "int8_t *tinyscene_network_row(int8_t *arena, const tinyscene_progress *progress)",
        "{",
        "    const int32_t turn = progress->turns[0];",
        "    TRACE_STEP(0, turn);",
        f"    int8_t *const y = {row_address(plan, name, 'turn', rows.left)};",
        *(f"    {line}" for line in fill_row(rows, zero)),
        "    return y;",
        "}",
    ]
    arrived = [
        "void tinyscene_network_arrived(tinyscene_progress *progress, const int8_t *row)",
        "{",
        f"    TRACE_ROW(0, progress->turns[0] - {top}, row, {rows.bytes});",
        "    (void)row;",
        "    progress->turns[0]++;",
        "    progress->next = 1;",
        "}",
    ]
    functions = [waits, place, arrived]
    if rows.count > height:
        functions.insert(0, padding)
    return ["\n".join(function) for function in functions]


def _turn_function(plan: Plan) -> str:
    """The turn of one operator, which it takes exactly when it does in schedule.py."""
    schedule, graph = plan.schedule, plan.schedule.graph
    numbers = {name: index for index, name in enumerate(graph.tensors)}
    lines = [
        f"static const uint16_t row_units[TINYSCENE_TENSORS] = {{{', '.join(map(str, [0, *row_units(plan)]))}}};",
        "",
        "/* The operator whose turn it is computes its next row, if the rows that it reads are there: 1. Else 0. */",
        "static int take_turn(int8_t *arena, tinyscene_progress *progress)",
        "{",
        "    uint16_t *const turns = progress->turns;",
        *([] if schedule.arriving else ["    const int32_t pass = progress->pass;"]),
        "    switch (progress->next) {",
    ]
    padding = schedule.rows[graph.input.name].count - schedule.rows[graph.input.name].size[0]
    if schedule.arriving and padding:
        lines += [
            "    case 0:",
            f"        if (turns[0] < {schedule.rows[graph.input.name].count}) {{",
            "            pad_input(arena, turns[0]++);",
            "        }",
            "        return 0;",
        ]
    for part in range(len(schedule.cuts)):
        whole = [] if schedule.arriving else schedule.sources(part)
        for index in schedule.operators(part):
            conditions = [f"(turns[{index + 1}] < {schedule.turns(index)})"]
            for name in dict.fromkeys(graph.operators[index].inputs):
                available = "pass" if name in whole else f"turns[{numbers[name]}]"
                conditions += _needs(schedule, index, name, available)
            if schedule.pace:
                stride, start = schedule.pace.strides[index], schedule.pace.starts[index]
                conditions = [f"(turns[0] >= (({stride} * turns[{index + 1}]) + {start}))"]
            lines += [
                f"    case {index + 1}:",
                f"        if (!({' && '.join(conditions)})) {{",
                "            return 0;",
                "        }",
                f"        tinyscene_row_{index + 1}(arena, turns[{index + 1}]++);",
                "        return 1;",
            ]
    return "\n".join([*lines, "    default:", "        return 0;", "    }", "}"])


def _order_function(plan: Plan) -> str:
    """Whose turn it is next."""
    schedule = plan.schedule
    lines = ["static void move_on(tinyscene_progress *progress)", "{", "    switch (progress->next++) {"]
    for part in range(len(schedule.cuts)):
        operators = schedule.operators(part)
        first = 0 if schedule.arriving else operators.start + 1
        lines += [
            f"    case {operators.stop}:",
            f"        end_pass(progress, {first}, {schedule.passes[part]});",
            "        break;",
        ]
    return "\n".join([*lines, "    default:", "        break;", "    }", "}"])


def _endless_order(plan: Plan, pace: Pace) -> str:
    """Whose turn it is next, where passes never end."""
    slots = [plan.slots[operator.output.name] for operator in plan.schedule.graph.operators]
    slots[-1] = pace.columns  # of the mean, whose ring holds sums
    passes = rewind_passes(pace, [*slots, plan.slots[plan.schedule.graph.input.name]])
    turns = [passes, *(passes // stride for stride in pace.strides)]
    at = passes + max(pace.starts)  # when each operator has taken as many
    if at > MOST_TURNS:
        raise InputError(f"a network whose rings come round after {passes:,} frames cannot listen without end")
    lines = [
        "static void move_on(tinyscene_progress *progress)",
        "{",
        f"    static const uint16_t round[TINYSCENE_TENSORS] = {{{', '.join(map(str, turns))}}};",
        "    progress->next++;",
        "    if (progress->next == TINYSCENE_TENSORS) {",
        "        progress->next = 0;",
        f"        if (progress->turns[0] == {at}) {{ /* every ring is where it was so many turns ago */",
        "            for (int32_t tensor = 0; tensor < TINYSCENE_TENSORS; tensor++) {",
        "                progress->turns[tensor] -= round[tensor];",
        "            }",
        "        }",
        "    }",
        "}",
    ]
    return "\n".join(lines)


def _needs(schedule: Schedule, index: int, name: str, available: str) -> list[str]:
    """The condition that enough rows of a source are available: all, or those that the next turn reads."""
    factor, addend, most = schedule.need(index, name)
    operators = schedule.graph.operators
    writer = next((number for number, operator in enumerate(operators) if operator.output.name == name), None)
    turns = most if writer is None else schedule.turns(writer)
    turn = f"turns[{index + 1}]"
    scaled = turn if factor == 1 else f"({factor} * {turn})"
    need = f"({scaled} {'+' if addend > 0 else '-'} {abs(addend)})" if addend else scaled
    need = need if factor else str(addend)  # of a row that is repeated
    if turns != most and available != "pass":  # a mean of this part writes its row in its last turn
        complete = f"({available} == {turns})"
        return [complete if addend > 0 else f"({complete} || ({need} <= 0))"]  # a row of padding needs none
    return [f"(({available} >= {need}) || ({available} >= {most}))"]

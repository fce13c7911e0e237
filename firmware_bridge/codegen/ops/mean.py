"""MEAN over mel and frame: sums grow row by row, the last row makes the result of them."""

from tinyscene.deploy.graph.graph import Mean, Tensor
from tinyscene.firmware_bridge.codegen.ops.context import Code, CodegenContext, rescaling
from tinyscene.firmware_bridge.memory.planner import kept_name
from tinyscene.firmware_bridge.memory.schedule import Steps, row_steps


def plan(source: Tensor) -> Steps:
    return row_steps(source, kept=4 * source.shape[3])


def emit(operator: Mean, context: CodegenContext) -> Code:
    source, output = context.sources[0], operator.output.q
    _, height, width, channels = source.shape
    count = height * width
    multiplier, shift = rescaling(source.q.scale / output.scale)
    kept = min(count.bit_length() - 1, 31 - shift)  # bits of precision, before the multiplier is divided by the count
    values = f"{{{count * source.q.zero_point}, {(multiplier << kept) // count}, {shift + kept}, {output.zero_point}}}"
    sums = f"(int32_t *)(void *)({context.address(kept_name(operator))})"
    step = [
        f"int32_t *const sums = {sums};",
        "if (row == 0)",
        f"    for (int32_t channel = 0; channel < {channels}; channel++)",
        "        sums[channel] = 0;",
        f"tinyscene_mean_row({context.source(0)}, {width}, {channels}, sums);",
        f"if (row == {height - 1})",
        f"    tinyscene_mean_end(&mean_{context.number}, sums, {channels}, y);",
    ]
    return Code(step, declarations=f"static const tinyscene_average mean_{context.number} = {values};\n")

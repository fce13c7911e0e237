"""MEAN over mel and frame: sums are accumulated row by row; the last row computes the result."""

from tinyscene.deploy.graph.graph import Mean, Tensor
from tinyscene.firmware_bridge.codegen.ops.context import Code, CodegenContext, rescaling
from tinyscene.firmware_bridge.memory.planner import accumulator_block
from tinyscene.firmware_bridge.memory.rows import AccessPattern, row_access


def access(source: Tensor) -> AccessPattern:
    return row_access(source, accumulators=4 * source.shape[3])


def emit(operator: Mean, context: CodegenContext) -> Code:
    source, output = context.sources[0], operator.output.q
    _, height, width, channels = source.shape
    count = height * width
    multiplier, shift = rescaling(source.q.scale / output.scale)
    extra = min(count.bit_length() - 1, 31 - shift)  # bits of precision: the multiplier is divided by the count
    values = (
        f"{{{count * source.q.zero_point}, {(multiplier << extra) // count}, {shift + extra}, {output.zero_point}}}"
    )
    sums = f"(int32_t *)(void *){context.address(accumulator_block(operator))}"
    step = [
        f"int32_t *const sums = {sums};",
        "if (row == 0) {",
        f"    for (int32_t channel = 0; channel < {channels}; channel++) {{",
        "        sums[channel] = 0;",
        "    }",
        "}",
        f"tinyscene_mean_row({context.source(0)}, {width}, {channels}, sums);",
        f"if (row == {height - 1}) {{",
        f"    tinyscene_mean_end(&mean_{context.number}, sums, {channels}, y);",
        "}",
    ]
    return Code(step, declarations=f"static const tinyscene_average mean_{context.number} = {values};\n")

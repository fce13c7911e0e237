"""MEAN over mel and frame: sums are accumulated row by row; the last row computes the result."""

from tinyscene.deploy.graph.operators import Mean
from tinyscene.deploy.graph.tensor import Tensor
from tinyscene.firmware_bridge.codegen.ops.context import Code, CodegenContext, rescaling
from tinyscene.firmware_bridge.memory.planner import accumulator_block
from tinyscene.firmware_bridge.memory.rows import AccessPattern, row_access


def access(source: Tensor) -> AccessPattern:
    return row_access(source, accumulators=4 * source.shape[3])


def endless_access(source: Tensor, columns: int) -> AccessPattern:
    """The same of a mean over the last columns: sums of each of them are held, and of all."""
    return row_access(source, accumulators=4 * source.shape[3] * (1 + columns))


def emit(operator: Mean, context: CodegenContext) -> Code:
    source, pace = context.sources[0], context.plan.schedule.pace
    _, height, width, channels = source.shape
    table = _average(operator, source, (pace.columns if pace else height) * width, context.number)
    step = [f"int32_t *const sums = {sums_of(context)};"]
    if pace:
        arguments = f"{context.source(0)}, {width}, {channels}, sums, row % {pace.columns}"
        return Code([*step, f"tinyscene_mean_slide({arguments});"], declarations=table)
    step += [
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
    return Code(step, declarations=table)


def sums_of(context: CodegenContext) -> str:
    """The address of a mean's sums."""
    return f"(int32_t *)(void *){context.address(accumulator_block(context.operator))}"


def _average(operator: Mean, source: Tensor, count: int, number: int) -> str:
    """The constants of a mean of so many values."""
    multiplier, shift = rescaling(source.q.scale / operator.output.q.scale)
    extra = min(count.bit_length() - 1, 31 - shift)  # bits of precision: the multiplier is divided by the count
    fields = [count * source.q.zero_point, (multiplier << extra) // count, shift + extra, operator.output.q.zero_point]
    return f"static const tinyscene_average mean_{number} = {{{', '.join(map(str, fields))}}};\n"

"""The operators, one per file: how each reads its rows (`access`) and its C (`emit`)."""

from collections.abc import Sequence
from dataclasses import replace

from tinyscene.deploy.graph.operator import Activated
from tinyscene.deploy.graph.operators import (
    Add,
    AveragePool2D,
    Channels,
    Concat,
    Conv2D,
    Crop,
    DepthwiseConv2D,
    Kind,
    MaxPool2D,
    Mean,
    Repeat,
)
from tinyscene.deploy.graph.tensor import INT8_MAX, INT8_MIN, Tensor
from tinyscene.firmware_bridge.codegen.ops import (
    add,
    channels,
    concat,
    convolution,
    crop,
    depthwise,
    max_pool,
    mean,
    pool,
    repeat,
)
from tinyscene.firmware_bridge.codegen.ops.context import Code, CodegenContext
from tinyscene.firmware_bridge.memory.rows import AccessPattern


def access_of(  # noqa: PLR0911 - one for each operator
    operator: Kind, sources: Sequence[Tensor], kernels: Sequence[str]
) -> AccessPattern:
    """The access pattern of an operator with the kernels of the library."""
    match operator:
        case Conv2D():
            return convolution.access(operator, sources[0], kernels)
        case DepthwiseConv2D():
            return depthwise.access(operator, sources[0], kernels)
        case Add():
            return add.access(sources[0])
        case AveragePool2D():
            return pool.access(operator, sources[0])
        case MaxPool2D():
            return max_pool.access(operator, sources[0])
        case Crop():
            return crop.access(operator)
        case Repeat():
            return repeat.access(operator, sources[0])
        case Channels():
            return channels.access(sources[0])
        case Concat():
            return concat.access(sources[0])
        case Mean():
            return mean.access(sources[0])


def code_of(operator: Kind, context: CodegenContext) -> Code:
    """The C of an operator: its tables and the statements of a step."""
    code = _code_of(operator, context)
    if not isinstance(operator, Activated) or operator.clamp is None or operator.integer_bounds == (INT8_MIN, INT8_MAX):
        return code  # int8 itself ends where most clamps do: calibrated ranges do not reach beyond them
    count, (least, most) = context.plan.schedule.rows[operator.output.name].bytes, operator.integer_bounds
    return replace(code, step=[*code.step, f"tinyscene_clamp(y, {count}, {least}, {most});"])


def _code_of(operator: Kind, context: CodegenContext) -> Code:  # noqa: PLR0911 - one for each operator
    match operator:
        case Conv2D():
            return convolution.emit(operator, context)
        case DepthwiseConv2D():
            return depthwise.emit(operator, context)
        case Add():
            return add.emit(operator, context)
        case AveragePool2D():
            return pool.emit(operator, context)
        case MaxPool2D():
            return max_pool.emit(operator, context)
        case Crop():
            return crop.emit(operator, context)
        case Repeat():
            return repeat.emit(operator, context)
        case Channels():
            return channels.emit(operator, context)
        case Concat():
            return concat.emit(operator, context)
        case Mean():
            return mean.emit(operator, context)

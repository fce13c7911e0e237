"""DEPTHWISE_CONV_2D: 3 x 3 windows have a kernel of their own, which runs 3 x 1 and 1 x 3 as well."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from tinyscene.deploy.graph.operators import DepthwiseConv2D
from tinyscene.deploy.graph.tensor import Tensor
from tinyscene.firmware_bridge.codegen.ops.context import (
    Code,
    CodegenContext,
    convolution_tables,
    is_fast,
    is_fast_on_hosts,
    rescaling_of,
)
from tinyscene.firmware_bridge.codegen.weight_layouts import depthwise_scratch, depthwise_table
from tinyscene.firmware_bridge.memory.planner import SCRATCH
from tinyscene.firmware_bridge.memory.rows import AccessPattern, window_access

FAST_WINDOWS = ((3, 3), (3, 1), (1, 3))


def access(operator: DepthwiseConv2D, source: Tensor, kernels: Sequence[str]) -> AccessPattern:
    """Windows of 3 x 1 are read as 3 x 3, with a pixel more on both sides."""
    fast = _is_fast(operator, source)
    needs = [depthwise_scratch(name, _columns(operator)) for name in kernels] if fast else [0]
    pattern = window_access(operator, source, operator.size, max(needs))
    if fast and operator.size[1] == 1:
        top, bottom, left, right = pattern.padding
        return replace(pattern, wide=pattern.wide + 2, padding=(top, bottom, left + 1, right + 1))
    return pattern


def emit(operator: DepthwiseConv2D, context: CodegenContext) -> Code:
    name = f"&tinyscene_conv_{context.number}"
    sizes = f"{context.width}, {operator.stride[1] * operator.output.shape[3]}, y"
    if not _is_fast(operator, context.sources[0]):
        flat = operator.weights.reshape(-1, len(operator.bias))
        code = convolution_tables(operator, context, {"any": flat.reshape(-1)})
        windows = ", ".join(map(str, operator.size))
        call = f"tinyscene_depthwise_any({name}, rows, {windows}, {sizes});"
        if "simd" in context.kernels and operator.size == (3, 3) and is_fast_on_hosts(operator, context.sources[0]):
            call = f"tinyscene_depthwise_wide({name}, rows, {sizes});"
        return Code([*context.rows(), call], code.tables, code.declarations)
    whole = _whole(operator)
    scale = rescaling_of(whole, context.sources[0])
    flat = whole.weights.reshape(-1, len(operator.bias))
    tables = {each: depthwise_table(each, flat, scale) for each in context.kernels}
    code = convolution_tables(whole, context, tables, ("dsp",))
    call = f"tinyscene_depthwise({name}, rows, {sizes}, {context.address(SCRATCH)});"
    rows = context.rows(repeated=3) if operator.size[0] == 1 else context.rows()
    return Code([*rows, call], code.tables, code.declarations + _scratch_check(operator, context))


def _whole(operator: DepthwiseConv2D) -> DepthwiseConv2D:
    """The same windows as 3 x 3, whose other weights are zero."""
    tall, wide = ((3 - size) // 2 for size in operator.size)
    return replace(operator, weights=np.pad(operator.weights, ((0, 0), (tall, tall), (wide, wide), (0, 0))))


def _scratch_check(operator: DepthwiseConv2D, context: CodegenContext) -> str:
    """A compile-time check that the kernel needs no more working memory than was planned."""
    room = context.plan.schedule.access[context.number - 1].scratch
    size = f"TINYSCENE_DEPTHWISE_SCRATCH({_columns(operator)})"
    return f"typedef char scratch_{context.number}_suffices[({size} <= {room}) ? 1 : -1];\n"


def _is_fast(operator: DepthwiseConv2D, source: Tensor) -> bool:
    return operator.size in FAST_WINDOWS and is_fast(operator, source)


def _columns(operator: DepthwiseConv2D) -> int:
    """Columns of the input that a row of windows covers."""
    return (operator.output.shape[2] - 1) * operator.stride[1] + 3

"""DEPTHWISE_CONV_2D: 3 x 3 windows have a kernel of their own."""

from collections.abc import Sequence

from tinyscene.deploy.graph.graph import DepthwiseConv2D, Tensor
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


def access(operator: DepthwiseConv2D, source: Tensor, kernels: Sequence[str]) -> AccessPattern:
    needs = [depthwise_scratch(name, _columns(operator)) for name in kernels] if _is_fast(operator, source) else [0]
    return window_access(operator, source, operator.size, max(needs))


def emit(operator: DepthwiseConv2D, context: CodegenContext) -> Code:
    flat, name = operator.weights.reshape(-1, len(operator.bias)), f"&tinyscene_conv_{context.number}"
    sizes = f"{context.width}, {operator.stride[1] * operator.output.shape[3]}, y"
    if not _is_fast(operator, context.sources[0]):
        code = convolution_tables(operator, context, {"any": flat.reshape(-1)})
        windows = ", ".join(map(str, operator.size))
        call = f"tinyscene_depthwise_any({name}, rows, {windows}, {sizes});"
        if "simd" in context.kernels and operator.size == (3, 3) and is_fast_on_hosts(operator, context.sources[0]):
            call = f"tinyscene_depthwise_wide({name}, rows, {sizes});"
        return Code([*context.rows(), call], code.tables, code.declarations)
    scale = rescaling_of(operator, context.sources[0])
    tables = {each: depthwise_table(each, flat, scale) for each in context.kernels}
    code = convolution_tables(operator, context, tables, ("dsp",))
    call = f"tinyscene_depthwise({name}, rows, {sizes}, {context.address(SCRATCH)});"
    return Code([*context.rows(), call], code.tables, code.declarations + _scratch_check(operator, context))


def _scratch_check(operator: DepthwiseConv2D, context: CodegenContext) -> str:
    """A compile-time check that the kernel needs no more working memory than was planned."""
    room = context.plan.schedule.access[context.number - 1].scratch
    size = f"TINYSCENE_DEPTHWISE_SCRATCH({_columns(operator)})"
    return f"typedef char scratch_{context.number}_suffices[({size} <= {room}) ? 1 : -1];\n"


def _is_fast(operator: DepthwiseConv2D, source: Tensor) -> bool:
    return operator.size == (3, 3) and is_fast(operator, source)


def _columns(operator: DepthwiseConv2D) -> int:
    """Columns of the input that a row of windows covers."""
    return (operator.output.shape[2] - 1) * operator.stride[1] + operator.size[1]

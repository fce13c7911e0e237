"""CONV_2D: windows of more than one pixel are gathered (im2col), then multiplied as in a 1 x 1 convolution."""

from collections.abc import Sequence

from tinyscene.deploy.graph.graph import Conv2D, Tensor
from tinyscene.firmware_bridge.codegen.ops.context import (
    Code,
    CodegenContext,
    convolution_tables,
    is_fast,
    rescaling_of,
)
from tinyscene.firmware_bridge.codegen.weight_layouts import pointwise_scratch, pointwise_table
from tinyscene.firmware_bridge.memory.planner import SCRATCH, aligned
from tinyscene.firmware_bridge.memory.rows import AccessPattern, window_access

PATCHES = 6  # windows gathered at once: kernels process two or three together; a host gathers a whole row


def access(operator: Conv2D, source: Tensor, kernels: Sequence[str]) -> AccessPattern:
    width, depth = operator.output.shape[2], operator.weights[0].size
    patches = 0 if _is_pointwise(operator) else aligned(_patches(operator, kernels) * depth)
    pixels = width if _is_pointwise(operator) else _patches(operator, kernels)
    needs = [pointwise_scratch(name, depth, pixels) for name in kernels] if is_fast(operator, source) else [0]
    return window_access(operator, source, operator.size, patches + max(needs))


def emit(operator: Conv2D, context: CodegenContext) -> Code:
    fast = is_fast(operator, context.sources[0])
    flat = operator.weights.reshape(len(operator.bias), -1)
    scale = rescaling_of(operator, context.sources[0])
    kernels = context.kernels if fast else []
    tables = {name: pointwise_table(name, flat, scale) for name in kernels} or {"any": flat.reshape(-1)}
    code = convolution_tables(operator, context, tables, ("dsp", "mve"))
    if _is_pointwise(operator):
        step = [_multiply(context, fast, context.source(0), str(context.width), "y", 0)]
    else:
        step = [*context.rows(), *_gathered(operator, context, fast)]
    return Code(step, code.tables, code.declarations + (_scratch_check(operator, context) if fast else ""))


def _gathered(operator: Conv2D, context: CodegenContext, fast: bool) -> list[str]:
    channels, count = context.sources[0].shape[3], _patches(operator, context.kernels)
    tall, wide = operator.size
    sizes = f"{tall}, {wide * channels}"
    step = operator.stride[1] * channels
    patches = context.address(SCRATCH)
    used = aligned(count * operator.weights[0].size)
    if count >= context.width:
        multiply = _multiply(context, fast, patches, str(context.width), "y", used)
        return [f"tinyscene_gather(rows, {sizes}, 0, {context.width}, {step}, {patches});", multiply]
    multiply = _multiply(context, fast, patches, "pixels", f"y + x * {operator.output.shape[3]}", used)
    return [
        f"for (int32_t x = 0; x < {context.width}; x += {count}) {{",
        f"    const int32_t pixels = x + {count} <= {context.width} ? {count} : {context.width} - x;",
        f"    tinyscene_gather(rows, {sizes}, x, pixels, {step}, {patches});",
        f"    {multiply}",
        "}",
    ]


def _scratch_check(operator: Conv2D, context: CodegenContext) -> str:
    """A compile-time check that the kernel needs no more working memory than was planned."""
    depth, direct = operator.weights[0].size, _is_pointwise(operator)
    pixels = context.width if direct else _patches(operator, context.kernels)
    used = 0 if direct else aligned(pixels * depth)
    room = context.plan.schedule.access[context.number - 1].scratch - used
    size = f"TINYSCENE_POINTWISE_SCRATCH({depth}, {pixels})"
    return f"typedef char scratch_{context.number}_suffices[{size} <= {room} ? 1 : -1];\n"


def _multiply(context: CodegenContext, fast: bool, x: str, pixels: str, y: str, used: int) -> str:
    """The call of a kernel; `used` bytes of scratch hold its input."""
    if not fast:
        return f"tinyscene_pointwise_any(&tinyscene_conv_{context.number}, {x}, {pixels}, {y});"
    scratch = context.address(SCRATCH, used)
    return f"tinyscene_pointwise(&tinyscene_conv_{context.number}, {x}, {pixels}, {y}, {scratch});"


def _is_pointwise(operator: Conv2D) -> bool:
    return operator.size == (1, 1) and operator.stride[1] == 1


def _patches(operator: Conv2D, kernels: Sequence[str]) -> int:
    width = operator.output.shape[2]
    return width if "simd" in kernels else min(PATCHES, width)

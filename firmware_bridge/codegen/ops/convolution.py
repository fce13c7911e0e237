"""CONV_2D: windows of more than one pixel are gathered (im2col), then multiplied as in a 1 x 1 convolution."""

from collections.abc import Sequence

from tinyscene.deploy.graph.operators import Conv2D
from tinyscene.deploy.graph.tensor import Tensor
from tinyscene.firmware_bridge.codegen.ops.context import (
    Code,
    CodegenContext,
    convolution_tables,
    is_fast,
    is_fast_on_hosts,
    rescaling_of,
)
from tinyscene.firmware_bridge.codegen.weight_layouts import pointwise_scratch, pointwise_table
from tinyscene.firmware_bridge.memory.planner import SCRATCH, aligned
from tinyscene.firmware_bridge.memory.rows import AccessPattern, window_access

FAST, WIDE, ANY = "tinyscene_pointwise", "tinyscene_pointwise_wide", "tinyscene_pointwise_any"
PATCHES = 6  # windows gathered at once: kernels process two or three together; a host gathers a whole row


def access(operator: Conv2D, source: Tensor, kernels: Sequence[str]) -> AccessPattern:
    width, depth = operator.output.shape[2], operator.weights[0].size
    patches = 0 if _is_pointwise(operator) else aligned(_patches(operator, kernels) * depth)
    pixels = width if _is_pointwise(operator) else _patches(operator, kernels)
    needs = {name: pointwise_scratch(name, depth, pixels) for name in kernels}
    kernel = _kernel(operator, source, kernels)
    scratch = {FAST: max(needs.values()), WIDE: needs.get("simd", 0), ANY: 0}[kernel]
    return window_access(operator, source, operator.size, patches + scratch)


def emit(operator: Conv2D, context: CodegenContext) -> Code:
    kernel = _kernel(operator, context.sources[0], context.kernels)
    flat = operator.weights.reshape(len(operator.bias), -1)
    scale = rescaling_of(operator, context.sources[0])
    any_table = flat.reshape(-1)
    tables = {
        FAST: {name: pointwise_table(name, flat, scale) for name in context.kernels},
        WIDE: {name: pointwise_table(name, flat, scale) if name == "simd" else any_table for name in context.kernels},
        ANY: {"any": any_table},
    }[kernel]
    code = convolution_tables(operator, context, tables, ("dsp", "mve") if kernel == FAST else ())
    if _is_pointwise(operator):
        step = [_multiply(context, kernel, context.source(0), str(context.width), "y", 0)]
    else:
        step = [*context.rows(), *_gathered(operator, context, kernel)]
    return Code(step, code.tables, code.declarations + (_scratch_check(operator, context) if kernel == FAST else ""))


def _gathered(operator: Conv2D, context: CodegenContext, kernel: str) -> list[str]:
    channels, count = context.sources[0].shape[3], _patches(operator, context.kernels)
    tall, wide = operator.size
    sizes = f"{tall}, {wide * channels}"
    step = operator.stride[1] * channels
    patches = context.address(SCRATCH)
    used = aligned(count * operator.weights[0].size)
    if count >= context.width:
        multiply = _multiply(context, kernel, patches, str(context.width), "y", used)
        return [f"tinyscene_gather(rows, {sizes}, 0, {context.width}, {step}, {patches});", multiply]
    multiply = _multiply(context, kernel, patches, "pixels", f"&y[x * {operator.output.shape[3]}]", used)
    return [
        f"for (int32_t x = 0; x < {context.width}; x += {count}) {{",
        f"    const int32_t pixels = ((x + {count}) <= {context.width}) ? {count} : ({context.width} - x);",
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
    return f"typedef char scratch_{context.number}_suffices[({size} <= {room}) ? 1 : -1];\n"


def _multiply(context: CodegenContext, kernel: str, x: str, pixels: str, y: str, used: int) -> str:
    """The call of a kernel; `used` bytes of scratch hold its input."""
    scratch = "" if kernel == ANY else f", {context.address(SCRATCH, used)}"
    return f"{kernel}(&tinyscene_conv_{context.number}, {x}, {pixels}, {y}{scratch});"


def _kernel(operator: Conv2D, source: Tensor, kernels: Sequence[str]) -> str:
    """The fastest kernel that is exact."""
    if is_fast(operator, source):
        return FAST
    return WIDE if "simd" in kernels and is_fast_on_hosts(operator, source) else ANY


def _is_pointwise(operator: Conv2D) -> bool:
    return operator.size == (1, 1) and operator.stride[1] == 1


def _patches(operator: Conv2D, kernels: Sequence[str]) -> int:
    width = operator.output.shape[2]
    return width if "simd" in kernels else min(PATCHES, width)

"""CONV_2D: windows are gathered side by side, unless they are single pixels, and then multiplied as 1 x 1 ones."""

from collections.abc import Sequence

from tinyscene.deploy.graph.graph import Conv2D, Tensor
from tinyscene.firmware_bridge.memory.layouts import LAYOUTS, pointwise_scratch
from tinyscene.firmware_bridge.memory.planner import SCRATCH, aligned
from tinyscene.firmware_bridge.memory.schedule import Steps, window_steps
from tinyscene.firmware_bridge.ops.site import Code, Site, convolution_tables, is_fast

PATCHES = 6  # windows gathered at once, which kernels take by twos or threes; a host gathers a row


def plan(operator: Conv2D, source: Tensor, kernels: Sequence[str]) -> Steps:
    width, depth = operator.output.shape[2], operator.weights[0].size
    patches = 0 if _is_pointwise(operator) else aligned(_patches(operator, kernels) * depth)
    pixels = width if _is_pointwise(operator) else _patches(operator, kernels)
    needs = [pointwise_scratch(each, depth, pixels) for each in kernels] if is_fast(operator, source) else [0]
    return window_steps(operator, source, operator.size, patches + max(needs))


def emit(operator: Conv2D, site: Site) -> Code:
    fast = is_fast(operator, site.sources[0])
    flat = operator.weights.reshape(len(operator.bias), -1)
    weights = {each: LAYOUTS[each](flat) for each in site.kernels} if fast else {"plain": flat.reshape(-1)}
    code = convolution_tables(operator, site, weights)
    if _is_pointwise(operator):
        step = [_multiply(site, fast, site.source(0), str(site.width), "y", 0)]
    else:
        step = [*site.rows(), *_gathered(operator, site, fast)]
    return Code(step, code.tables, code.declarations + (_scratch_check(operator, site) if fast else ""))


def _gathered(operator: Conv2D, site: Site, fast: bool) -> list[str]:
    channels, count = site.sources[0].shape[3], _patches(operator, site.kernels)
    tall, wide = operator.size
    sizes = f"{tall}, {wide * channels}"
    step = operator.stride[1] * channels
    patches = site.address(SCRATCH)
    used = aligned(count * operator.weights[0].size)
    if count >= site.width:
        multiply = _multiply(site, fast, patches, str(site.width), "y", used)
        return [f"tinyscene_gather(rows, {sizes}, 0, {site.width}, {step}, {patches});", multiply]
    multiply = _multiply(site, fast, patches, "pixels", f"y + x * {operator.output.shape[3]}", used)
    return [
        f"for (int32_t x = 0; x < {site.width}; x += {count}) {{",
        f"    const int32_t pixels = x + {count} <= {site.width} ? {count} : {site.width} - x;",
        f"    tinyscene_gather(rows, {sizes}, x, pixels, {step}, {patches});",
        f"    {multiply}",
        "}",
    ]


def _scratch_check(operator: Conv2D, site: Site) -> str:
    """That the kernel which is compiled needs no more working memory than was planned."""
    depth, direct = operator.weights[0].size, _is_pointwise(operator)
    pixels = site.width if direct else _patches(operator, site.kernels)
    used = 0 if direct else aligned(pixels * depth)
    room = site.plan.schedule.steps[site.number - 1].scratch - used
    size = f"TINYSCENE_POINTWISE_SCRATCH({depth}, {pixels})"
    return f"typedef char scratch_{site.number}_suffices[{size} <= {room} ? 1 : -1];\n"


def _multiply(site: Site, fast: bool, x: str, pixels: str, y: str, used: int) -> str:
    """The call of a kernel; `used` bytes of scratch hold its input."""
    if not fast:
        return f"tinyscene_pointwise_any(&tinyscene_conv_{site.number}, {x}, {pixels}, {y});"
    scratch = site.address(SCRATCH, used)
    return f"tinyscene_pointwise(&tinyscene_conv_{site.number}, {x}, {pixels}, {y}, {scratch});"


def _is_pointwise(operator: Conv2D) -> bool:
    return operator.size == (1, 1) and operator.stride[1] == 1


def _patches(operator: Conv2D, kernels: Sequence[str]) -> int:
    width = operator.output.shape[2]
    return width if "simd" in kernels else min(PATCHES, width)

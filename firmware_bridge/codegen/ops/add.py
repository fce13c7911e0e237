"""ADD, by TFLite's rule: both inputs are shifted left by 20 and brought to twice the larger scale."""

from collections.abc import Sequence

import numpy as np

from tinyscene.deploy.graph.operators import Add
from tinyscene.deploy.graph.reference import ADD_SHIFT
from tinyscene.deploy.graph.tensor import Tensor
from tinyscene.firmware_bridge.codegen.floats import bits, sum_floats
from tinyscene.firmware_bridge.codegen.ops.context import Code, CodegenContext, for_floats, rescaling
from tinyscene.firmware_bridge.memory.rows import AccessPattern, row_access

FAST_SHIFT = 21  # of the output, at most: what tinyscene_kernels.h asks for tinyscene_add


def access(source: Tensor) -> AccessPattern:
    return row_access(source)


def emit(operator: Add, context: CodegenContext) -> Code:
    order = sorted((0, 1), key=lambda index: -context.sources[index].q.scale)  # the larger scale's input is just halved
    sources, output = [context.sources[index] for index in order], operator.output.q
    scale = 2.0 * sources[0].q.scale
    scaled = rescaling(sources[1].q.scale / scale)
    last = rescaling(scale / (2**ADD_SHIFT * output.scale))
    activation_min = output.zero_point if operator.relu else -128
    zero_points = ", ".join(str(tensor.q.zero_point) for tensor in sources)
    values = f"{{{zero_points}}}, {scaled[0]}, {scaled[1]}, {last[0]}, {last[1]}, {output.zero_point}, {activation_min}"
    floats = _floats(operator, context, order) if "simd" in context.kernels else ""
    count = context.plan.schedule.rows[operator.output.name].bytes
    inputs = ", ".join(context.source(index) for index in order)
    kernel = "tinyscene_add" if scaled[1] >= 1 and 1 <= last[1] <= FAST_SHIFT else "tinyscene_add_any"
    step = f"{kernel}(&sum_{context.number}, {inputs}, {count}, y);"
    return Code([step], declarations=f"static const tinyscene_sum sum_{context.number} = {{{values}{floats}}};\n")


def _floats(operator: Add, context: CodegenContext, order: Sequence[int]) -> str:
    """The last values, for kernels that add in float32."""
    floats = sum_floats(operator, context.sources, order)
    first, second, addend = np.zeros(3, np.int32) if floats is None else bits(floats)
    return for_floats(f"{{{first}, {second}}}, {addend}")

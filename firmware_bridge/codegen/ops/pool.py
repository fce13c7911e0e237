"""AVERAGE_POOL_2D: the mean of a window, its padding counted."""

from tinyscene.deploy.graph.operators import AveragePool2D
from tinyscene.deploy.graph.tensor import Tensor
from tinyscene.firmware_bridge.codegen.ops.context import Code, CodegenContext
from tinyscene.firmware_bridge.memory.rows import AccessPattern, window_access

MAX_AREA = 2**20  # of a window: beyond, the host's kernel would have to round twice
FAST_AREA, FAST_CHANNELS = 255, 4  # what tinyscene_kernels.h asks for tinyscene_pool: no more, and no fewer


def access(operator: AveragePool2D, source: Tensor) -> AccessPattern:
    area = operator.size[0] * operator.size[1]
    operator.require(area < MAX_AREA, f"a window of {area:,} values; the firmware's hold less than {MAX_AREA:,}")
    return window_access(operator, source, operator.size, 0)


def emit(operator: AveragePool2D, context: CodegenContext) -> Code:
    (tall, wide), channels = operator.size, operator.output.shape[3]
    step = operator.stride[1] * channels
    kernel = "tinyscene_pool" if tall * wide <= FAST_AREA and channels >= FAST_CHANNELS else "tinyscene_pool_any"
    return Code([*context.rows(), f"{kernel}(rows, {tall}, {wide}, {channels}, {context.width}, {step}, y);"])

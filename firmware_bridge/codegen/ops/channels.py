"""SLICE of channels: of each pixel of a row, some."""

from tinyscene.deploy.graph.operators import Channels
from tinyscene.deploy.graph.tensor import Tensor
from tinyscene.firmware_bridge.codegen.ops.context import Code, CodegenContext
from tinyscene.firmware_bridge.memory.rows import AccessPattern, row_access


def access(source: Tensor) -> AccessPattern:
    return row_access(source)


def emit(operator: Channels, context: CodegenContext) -> Code:
    count, channels, first = operator.output.shape[3], context.sources[0].shape[3], operator.first
    return Code(
        [
            f"const int8_t *const x = {context.source(0)};",
            f"for (int32_t pixel = 0; pixel < {context.width}; pixel++) {{",
            f"    tinyscene_copy(&x[({channels} * pixel) + {first}], {count}, &y[{count} * pixel]);",
            "}",
        ]
    )

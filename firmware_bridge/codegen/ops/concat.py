"""CONCATENATION of channels: for each pixel of a row, those of one source and then those of the other."""

from tinyscene.deploy.graph.operators import Concat
from tinyscene.deploy.graph.tensor import Tensor
from tinyscene.firmware_bridge.codegen.ops.context import Code, CodegenContext
from tinyscene.firmware_bridge.memory.rows import AccessPattern, row_access


def access(source: Tensor) -> AccessPattern:
    return row_access(source)


def emit(operator: Concat, context: CodegenContext) -> Code:
    (first, second), channels = (tensor.shape[3] for tensor in context.sources), operator.output.shape[3]
    return Code(
        [
            f"const int8_t *const x = {context.source(0)};",
            f"const int8_t *const z = {context.source(1)};",
            f"for (int32_t pixel = 0; pixel < {context.width}; pixel++) {{",
            f"    tinyscene_copy(&x[{first} * pixel], {first}, &y[{channels} * pixel]);",
            f"    tinyscene_copy(&z[{second} * pixel], {second}, &y[({channels} * pixel) + {first}]);",
            "}",
        ]
    )

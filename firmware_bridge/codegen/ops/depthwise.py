"""DEPTHWISE_CONV_2D: 3 x 3 windows have a kernel of their own."""

from tinyscene.deploy.graph.graph import DepthwiseConv2D, Tensor
from tinyscene.firmware_bridge.codegen.ops.context import Code, CodegenContext, convolution_tables, is_fast
from tinyscene.firmware_bridge.memory.rows import AccessPattern, window_access


def access(operator: DepthwiseConv2D, source: Tensor) -> AccessPattern:
    return window_access(operator, source, operator.size, 0)


def emit(operator: DepthwiseConv2D, context: CodegenContext) -> Code:
    code = convolution_tables(operator, context, {"plain": operator.weights.reshape(-1)})
    step = operator.stride[1] * operator.output.shape[3]
    if is_fast(operator, context.sources[0]) and operator.size == (3, 3):
        call = f"tinyscene_depthwise(&tinyscene_conv_{context.number}, rows, {context.width}, {step}, y);"
    else:
        sizes = ", ".join(map(str, operator.size))
        call = f"tinyscene_depthwise_any(&tinyscene_conv_{context.number}, rows, {sizes}, {context.width}, {step}, y);"
    return Code([*context.rows(), call], code.tables, code.declarations)

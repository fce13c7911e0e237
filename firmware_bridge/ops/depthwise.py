"""DEPTHWISE_CONV_2D: 3 x 3 windows have a kernel of their own."""

from tinyscene.deploy.graph.graph import DepthwiseConv2D, Tensor
from tinyscene.firmware_bridge.memory.schedule import Steps, window_steps
from tinyscene.firmware_bridge.ops.site import Code, Site, convolution_tables, is_fast


def plan(operator: DepthwiseConv2D, source: Tensor) -> Steps:
    return window_steps(operator, source, operator.size, 0)


def emit(operator: DepthwiseConv2D, site: Site) -> Code:
    code = convolution_tables(operator, site, {"plain": operator.weights.reshape(-1)})
    step = operator.stride[1] * operator.output.shape[3]
    if is_fast(operator, site.sources[0]) and operator.size == (3, 3):
        call = f"tinyscene_depthwise(&tinyscene_conv_{site.number}, rows, {site.width}, {step}, y);"
    else:
        sizes = ", ".join(map(str, operator.size))
        call = f"tinyscene_depthwise_any(&tinyscene_conv_{site.number}, rows, {sizes}, {site.width}, {step}, y);"
    return Code([*site.rows(), call], code.tables, code.declarations)

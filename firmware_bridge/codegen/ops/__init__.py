"""The operators, one a file: how each works through its rows (`plan`) and the C that does it (`emit`)."""

from collections.abc import Sequence

from tinyscene.deploy.graph.graph import Add, AveragePool2D, Conv2D, DepthwiseConv2D, Kind, Mean, Tensor
from tinyscene.firmware_bridge.codegen.ops import add, convolution, depthwise, mean, pool
from tinyscene.firmware_bridge.codegen.ops.context import Code, CodegenContext
from tinyscene.firmware_bridge.memory.schedule import Steps


def steps_of(operator: Kind, sources: Sequence[Tensor], kernels: Sequence[str]) -> Steps:
    """How an operator works through its rows, with the kernels that the library holds."""
    match operator:
        case Conv2D():
            return convolution.plan(operator, sources[0], kernels)
        case DepthwiseConv2D():
            return depthwise.plan(operator, sources[0])
        case Add():
            return add.plan(sources[0])
        case AveragePool2D():
            return pool.plan(operator, sources[0])
        case Mean():
            return mean.plan(sources[0])


def code_of(operator: Kind, context: CodegenContext) -> Code:
    """The C of an operator: its tables, and what it does in a step."""
    match operator:
        case Conv2D():
            return convolution.emit(operator, context)
        case DepthwiseConv2D():
            return depthwise.emit(operator, context)
        case Add():
            return add.emit(operator, context)
        case AveragePool2D():
            return pool.emit(operator, context)
        case Mean():
            return mean.emit(operator, context)

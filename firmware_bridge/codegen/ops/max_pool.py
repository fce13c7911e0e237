"""MAX_POOL_2D: the largest value of a window, its padding left out."""

from tinyscene.deploy.graph.operators import MaxPool2D
from tinyscene.deploy.graph.tensor import Tensor
from tinyscene.firmware_bridge.codegen.ops.context import Code, CodegenContext
from tinyscene.firmware_bridge.memory.rows import AccessPattern, window_access


def access(operator: MaxPool2D, source: Tensor) -> AccessPattern:
    return window_access(operator, source, operator.size, 0)


def emit(operator: MaxPool2D, context: CodegenContext) -> Code:
    top, _, left, _ = operator.padding
    _, height, *size = context.sources[0].shape
    if context.plan.schedule.pace:
        height = 2**30  # rows come without end
    fields = [*operator.size, *operator.stride, top, left, height, *size, context.width]
    name = f"windows_{context.number}"
    table = f"static const tinyscene_windows {name} = {{{', '.join(map(str, fields))}}};\n"
    return Code([*context.rows(), f"tinyscene_max_pool(&{name}, rows, row, y);"], declarations=table)

"""What an addition reads of one row, or of one pixel of each row, as often as it is added."""

from dataclasses import replace

from tinyscene.deploy.graph.operators import Repeat
from tinyscene.deploy.graph.tensor import Tensor
from tinyscene.firmware_bridge.codegen.ops.context import Code, CodegenContext
from tinyscene.firmware_bridge.memory.rows import AccessPattern, row_access


def access(operator: Repeat, source: Tensor) -> AccessPattern:
    tall = operator.times[0]
    return replace(row_access(source), count=tall, stride=0) if tall > 1 else row_access(source)


def emit(operator: Repeat, context: CodegenContext) -> Code:
    channels, count = operator.output.shape[3], context.plan.schedule.rows[operator.output.name].bytes
    if operator.times[0] > 1:
        return Code([f"tinyscene_copy({context.source(0)}, {count}, y);"])
    loop = f"for (int32_t pixel = 0; pixel < {operator.times[1]}; pixel++) {{"
    return Code([loop, f"    tinyscene_copy({context.source(0)}, {channels}, &y[{channels} * pixel]);", "}"])

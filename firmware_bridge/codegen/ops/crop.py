"""SLICE: rows without those at the top and bottom, and without the pixels at their ends."""

from tinyscene.deploy.graph.operators import Crop
from tinyscene.firmware_bridge.codegen.ops.context import Code, CodegenContext
from tinyscene.firmware_bridge.memory.rows import AccessPattern


def access(operator: Crop) -> AccessPattern:
    """A step reads one row, and waits for those that are cut off below it: until then, nothing that is cropped alike by
    the windows of convolutions can be there to be added to it."""
    (top, bottom, left, _), (_, height, width, _) = operator.crop, operator.output.shape
    return AccessPattern(count=height, tall=1 + bottom, stride=1, wide=width, padding=(-top, 0, -left, 0))


def emit(operator: Crop, context: CodegenContext) -> Code:
    count = context.plan.schedule.rows[operator.output.name].bytes
    return Code([f"tinyscene_copy({context.source(0)}, {count}, y);"])

"""ADD, by TFLite's rule: both inputs are shifted left by 20 and brought to twice the larger scale."""

from deploy.graph import Add, Tensor
from deploy.reference import ADD_SHIFT
from firmware_bridge.ops.site import Code, Site, rescaling
from firmware_bridge.schedule import Steps, row_steps


def plan(source: Tensor) -> Steps:
    return row_steps(source)


def emit(operator: Add, site: Site) -> Code:
    sources, output = site.sources, operator.output.q
    scale = 2.0 * max(tensor.q.scale for tensor in sources)
    first, second = (rescaling(tensor.q.scale / scale) for tensor in sources)
    last = rescaling(scale / (2**ADD_SHIFT * output.scale))
    pairs = [tuple(tensor.q.zero_point for tensor in sources), *zip(first, second, strict=True)]
    braced = ", ".join(f"{{{one}, {other}}}" for one, other in pairs)
    lowest = output.zero_point if operator.relu else -128
    values = f"{{{braced}, {last[0]}, {last[1]}, {output.zero_point}, {lowest}}}"
    count = site.plan.schedule.rows[operator.output.name].bytes
    step = f"tinyscene_add(&sum_{site.number}, {site.source(0)}, {site.source(1)}, {count}, y);"
    return Code([step], declarations=f"static const tinyscene_sum sum_{site.number} = {values};\n")

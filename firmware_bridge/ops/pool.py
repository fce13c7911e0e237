"""AVERAGE_POOL_2D: the mean of a window, its padding counted."""

from deploy.graph import AveragePool2D, Tensor
from firmware_bridge.ops.site import Code, Site
from firmware_bridge.schedule import Steps, window_steps


def plan(operator: AveragePool2D, source: Tensor) -> Steps:
    return window_steps(operator, source, operator.size, 0)


def emit(operator: AveragePool2D, site: Site) -> Code:
    (tall, wide), channels = operator.size, operator.output.shape[3]
    step = operator.stride[1] * channels
    return Code([*site.rows(), f"tinyscene_pool(rows, {tall}, {wide}, {channels}, {site.width}, {step}, y);"])

"""The order by time: the graph with mel and frame exchanged, so that a row is one frame with all its mel bands.

    by_time(graph)      # the same logits, bit for bit

Rows are computed from the top to the bottom. By mel, a row is one band with all its frames, and nothing can be
computed before the last frame is there. By time, a row can be computed as soon as the frames that it covers have
arrived: the work is spread over the clip, the input is not held whole, and the rings are longer.
"""

from dataclasses import replace
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from tinyscene.deploy.common.errors import InputError
from tinyscene.deploy.graph.graph import Graph
from tinyscene.deploy.graph.operator import Convolution, Pool, Window
from tinyscene.deploy.graph.operators import Add, Channels, Concat, Crop, Kind, Mean, Repeat
from tinyscene.deploy.graph.tensor import Tensor

Order = Literal["mel", "time"]  # of the rows


def require_order(order: str) -> None:
    """Raise InputError for an unknown order."""
    if order not in get_args(Order):
        raise InputError(f"--order {order}: known are {' and '.join(get_args(Order))}")


def by_time(graph: Graph) -> Graph:
    """The graph that computes the same of an input (1, frame, mel, 1)."""
    return Graph(_exchanged(graph.input), tuple(_operator(operator) for operator in graph.operators))


def rows_first(values: NDArray[np.int8]) -> NDArray[np.int8]:
    """Values (batch, mel, frame, channels) in the order in which they are computed: (batch, frame, mel, channels)."""
    return np.ascontiguousarray(values.swapaxes(1, 2)) if values.ndim == 4 else values


def _exchanged(tensor: Tensor) -> Tensor:
    if len(tensor.shape) != 4:
        return tensor
    batch, mel, frame, channels = tensor.shape
    return replace(tensor, shape=(batch, frame, mel, channels))


def _operator(operator: Kind) -> Kind:
    output = _exchanged(operator.output)
    if isinstance(operator, Crop):
        top, bottom, left, right = operator.crop
        return replace(operator, output=output, crop=(left, right, top, bottom))
    if isinstance(operator, Repeat):
        return replace(operator, output=output, times=operator.times[::-1])
    if not isinstance(operator, Window):
        assert isinstance(operator, Add | Channels | Concat | Mean)
        return replace(operator, output=output)
    top, bottom, left, right = operator.padding
    down, across = operator.stride
    settings = {"output": output, "padding": (left, right, top, bottom), "stride": (across, down)}
    if isinstance(operator, Convolution):
        return replace(operator, **settings, weights=operator.weights.swapaxes(1, 2))
    assert isinstance(operator, Pool)
    return replace(operator, **settings, window=operator.window[::-1])

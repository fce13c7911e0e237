"""Post-training quantization: measure ranges on a few clips, and make a float graph integer.

    graph = equalize(graph, batches)                                 # equalize.py
    ranges = calibrate(graph, batches, settings)
    graph, scales = correct(graph, ranges, batches, rounding=True)   # correct.py
    integer = to_integers(graph, ranges, scales)

A range is the extremes seen, the percentile that leaves out the rarest values, or the range of least squared error
of rounding and clipping, from a histogram.

The same graph and clips give the same integers on every processor: batches are features that integers alone
compute (`FixedPointLogMel.log_mel`), the reference runs the graph, and every other sum is one of integers or is
taken in the order of its terms.
"""

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from tinyscene.deploy.graph.graph import Graph
from tinyscene.deploy.graph.operator import WEIGHT_MAX, Convolution, Kept
from tinyscene.deploy.graph.operators import Kind
from tinyscene.deploy.graph.reference import run_all
from tinyscene.deploy.graph.tensor import INT8_MAX, INT8_MIN, Quantization, Tensor
from tinyscene.train.training_settings import Quantize

Float32 = NDArray[np.float32]
Ranges = dict[str, tuple[float, float]]  # tensor -> lowest and highest real value, zero between them
Scales = dict[str, Float32]  # output of a convolution -> steps of its weights, (outputs,)

LEVELS = INT8_MAX - INT8_MIN
SMALLEST = 1e-6  # of a range and of a weight's scale: what is all zeros has a scale too
BINS = 4096  # of a tensor's histogram
MSE_STEPS = np.linspace(1.0, 0.3, 36)  # shares of the extremes that are tried
MAX_BIAS, LEAST_MULTIPLIER = 2**30, 2**-30  # of an integer convolution: half of what deploy/graph/operators.py takes
UNSEEN = 1.0  # the range of a tensor that was zero throughout


def calibrate(graph: Graph, batches: list[Float32], settings: Quantize) -> Ranges:
    """The range of every tensor over batches of log-mel (batch, mel, frame, 1)."""
    extremes: Ranges = {}
    for batch in batches:
        for name, values in run_all(graph, batch).items():
            low, high = extremes.get(name, (0.0, 0.0))
            extremes[name] = (min(low, float(values.min())), max(high, float(values.max())))
    extremes = {name: ends if any(ends) else (0.0, UNSEEN) for name, ends in extremes.items()}
    if settings.calibration == "minmax":
        return {name: not_empty(*ends) for name, ends in extremes.items()}
    counts = {name: np.zeros(BINS, np.int64) for name in extremes}
    for batch in batches:
        for name, values in run_all(graph, batch).items():
            counts[name] += _histogram(values, *extremes[name])
    if settings.calibration == "mse":
        return {name: not_empty(*_least_error(count, *extremes[name])) for name, count in counts.items()}
    share = settings.percentile / 100
    return {name: not_empty(*_percentile(count, *extremes[name], share)) for name, count in counts.items()}


def not_empty(low: float, high: float) -> tuple[float, float]:
    """The range from low to high with zero in it, and wide enough for a scale."""
    return min(low, 0.0), max(high, low + SMALLEST, SMALLEST)


def _histogram(values: Float32, low: float, high: float) -> NDArray[np.int64]:
    """How many of the values, all of which lie in low to high, are in each of BINS parts of it."""
    index = ((values.astype(np.float64).ravel() - low) * (BINS / (high - low))).astype(np.int64)
    return np.bincount(np.minimum(index, BINS - 1), minlength=BINS)


def _percentile(count: NDArray[np.int64], low: float, high: float, share: float) -> tuple[float, float]:
    """The range between the percentiles 1 - share and share of a histogram, zero included."""
    below = np.cumsum(count) / count.sum()
    edges = np.linspace(low, high, BINS + 1)
    lowest = edges[np.searchsorted(below, 1.0 - share)]
    highest = edges[min(int(np.searchsorted(below, share)) + 1, BINS)]
    return min(float(lowest), 0.0) if low < 0 else 0.0, max(float(highest), SMALLEST)


def _least_error(count: NDArray[np.int64], low: float, high: float) -> tuple[float, float]:
    """The range of least squared error, clipping and rounding together, by trying shares of both ends."""
    centres = np.linspace(low, high, BINS, endpoint=False) + (high - low) / BINS / 2
    least, ends = np.inf, (low, high)
    for first in MSE_STEPS * low if low < 0 else (0.0,):
        for last in MSE_STEPS * high:
            clipped = np.clip(centres, first, last) - centres
            errors = count * (clipped**2 + (clipped == 0) * ((last - first) / LEVELS) ** 2 / 12)
            error = float(np.cumsum(errors)[-1])  # which adds in order; the order of sum() depends on the processor
            if error < least:
                least, ends = error, (float(first), float(last))
    return ends


def to_integers(graph: Graph, ranges: Ranges, scales: Scales | None = None) -> Graph:
    """The integer graph of a float graph whose tensors lie in `ranges`, by TFLite's 8-bit specification.

    Weights of an operator whose output `scales` names are multiples of those steps; others take the largest weight
    as 127 steps.
    """
    ranges = joined(graph, ranges)
    tensors = {graph.input.name: _quantized(graph.input, ranges)}
    operators = []
    for operator in graph.operators:
        source, output = tensors[operator.inputs[0]], _quantized(operator.output, ranges)
        tensors[output.name] = output
        operators.append(_integer_operator(operator, source, output, (scales or {}).get(output.name)))
    return Graph(tensors[graph.input.name], tuple(operators))


def joined(graph: Graph, ranges: Ranges) -> Ranges:
    """The range of every tensor, wide enough for all that must have its scale and zero point."""
    together, made = graph.quantized_together(), {graph.input.name}
    made |= {operator.output.name for operator in graph.operators if not isinstance(operator, Kept)}
    lows: dict[str, float] = {}
    highs: dict[str, float] = {}
    for name in (name for name in graph.tensors if name in made & ranges.keys()):  # what keeps theirs has no other
        first, (low, high) = together[name], ranges[name]
        lows[first], highs[first] = min(low, lows.get(first, low)), max(high, highs.get(first, high))
    return {name: (lows[first], highs[first]) for name, first in together.items() if first in lows}


def _quantized(tensor: Tensor, ranges: Ranges) -> Tensor:
    low, high = ranges[tensor.name]
    scale = float(np.float32((high - low) / LEVELS))
    zero_point = int(np.clip(np.rint(INT8_MIN - low / scale), INT8_MIN, INT8_MAX))
    return replace(tensor, quantization=Quantization(scale, zero_point))


def _integer_operator(operator: Kind, source: Tensor, output: Tensor, steps: Float32 | None) -> Kind:
    if not isinstance(operator, Convolution):
        return replace(operator, output=output)
    # (outputs,)
    scales = np.abs(operator.weights).max(operator.other_axes) / WEIGHT_MAX if steps is None else steps
    # A channel of next to no weights takes the scale that its bias and the rescaling to its output can do with
    least = np.maximum(np.abs(operator.bias.astype(np.float64)) / MAX_BIAS, output.q.scale * LEAST_MULTIPLIER)
    scales = np.maximum(scales, least / source.q.scale).astype(np.float32)
    weights = np.clip(np.rint(operator.weights / operator.along_channels(scales)), -WEIGHT_MAX, WEIGHT_MAX).astype(
        np.int8
    )
    bias = np.rint(operator.bias / (source.q.scale * scales.astype(np.float64)))
    return replace(operator, output=output, weights=weights, bias=bias.astype(np.int32), weight_scales=scales)

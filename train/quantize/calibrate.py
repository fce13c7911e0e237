"""Post-training quantization: measure ranges on a few clips, correct biases, make a float graph integer.

    graph = equalize(graph, batches)
    ranges = calibrate(graph, batches, settings)
    graph = correct_biases(graph, ranges, batches)
    integer = to_integers(graph, ranges)

A range is the extremes seen, the percentile that leaves out the rarest values, or the range of least squared error
of rounding and clipping, from a histogram. Equalization gives each channel before a depthwise convolution the
whole range. It costs nothing: its factors go into weights, which have a scale for each channel. Rounded weights
shift the mean of a channel; bias correction takes the shift back. Both are from M. Nagel et al., "Data-Free
Quantization Through Weight Equalization and Bias Correction", ICCV 2019, with measured ranges and means in place
of assumed ones.

The same graph and clips give the same integers on every processor: batches are features that integers alone
compute (`FixedPointLogMel.log_mel`), the reference runs the graph, and every other sum is one of integers or is
taken in the order of its terms.
"""

from collections import Counter
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from tinyscene.deploy.bundle.inspection import with_rounded_weights
from tinyscene.deploy.graph.graph import (
    INT8_MAX,
    INT8_MIN,
    WEIGHT_MAX,
    Add,
    AveragePool2D,
    Conv2D,
    Convolution,
    DepthwiseConv2D,
    Graph,
    Kind,
    Quantization,
    Tensor,
)
from tinyscene.deploy.graph.reference import exact_mean, run_all, run_float
from tinyscene.train.recipe import Quantize

Float32 = NDArray[np.float32]
Ranges = dict[str, tuple[float, float]]  # tensor -> lowest and highest real value, zero between them

LEVELS = INT8_MAX - INT8_MIN
SMALLEST = 1e-6  # of a range and of a weight's scale: what is all zeros has a scale too
BINS = 4096  # of a tensor's histogram
MSE_STEPS = np.linspace(1.0, 0.3, 36)  # shares of the extremes that are tried
MAX_BIAS, LEAST_MULTIPLIER = 2**30, 2**-30  # of an integer convolution: half of what deploy/graph/graph.py takes
UNSEEN = 1.0  # the range of a tensor that was zero throughout
SMALLEST_SHARE = 1e-3  # of the largest channel, that a channel is taken to reach


def equalize(graph: Graph, batches: list[Float32]) -> Graph:
    """The same function with every channel that only a depthwise convolution reads as large as the largest.

    Holds for channels behind a ReLU, which commutes with their positive factors. Batches: log-mel (batch, mel,
    frame, 1).
    """
    highest: dict[str, Float32] = {}  # tensor -> (channels,)
    for batch in batches:
        for name, values in run_all(graph, batch).items():
            peak: Float32 = values.max(tuple(range(values.ndim - 1)))
            highest[name] = np.maximum(highest[name], peak) if name in highest else peak
    makers = {operator.output.name: operator for operator in graph.operators}
    readers = Counter(name for operator in graph.operators for name in operator.inputs)
    for after in graph.operators:
        before = makers.get(after.inputs[0])
        if not isinstance(after, DepthwiseConv2D) or not isinstance(before, Conv2D) or not before.relu:
            continue
        name = before.output.name
        if readers[name] == 1:
            peak = np.maximum(highest[name], SMALLEST_SHARE * highest[name].max() + SMALLEST)
            factor = peak / peak.max()  # (channels,)
            weights, bias = before.weights / factor[:, None, None, None], before.bias / factor
            makers[name] = replace(before, weights=weights.astype(np.float32), bias=bias.astype(np.float32))
            makers[after.output.name] = replace(after, weights=(after.weights * factor).astype(np.float32))
    return Graph(graph.input, tuple(makers.values()))


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


def correct_biases(graph: Graph, ranges: Ranges, batches: list[Float32]) -> Graph:
    """The graph with biases for which, quantized, the mean of each channel before its activation is the float one.

    The float graph and the quantized one run side by side, so that an operator is corrected for what its corrected
    inputs still lack. Batches: log-mel (batch, mel, frame, 1).
    """
    integer = to_integers(graph, ranges)
    exact = {graph.input.name: batches}
    rounded = {graph.input.name: [_rounded(batch, integer.input) for batch in batches]}
    operators = []
    for operator, whole, last_read in zip(graph.operators, integer.operators, graph.last_reads(), strict=True):
        name = operator.output.name
        exact[name] = _before_activation(operator, graph, exact)
        rounded[name] = _before_activation(with_rounded_weights(whole, operator, integer), graph, rounded)
        if isinstance(operator, Convolution):
            shift = _channel_means(exact[name]) - _channel_means(rounded[name])
            rounded[name] = [np.add(y, shift, dtype=np.float32) for y in rounded[name]]
            operators.append(replace(operator, bias=operator.bias + shift))
        else:
            operators.append(operator)
        if getattr(operator, "relu", False):
            exact[name], rounded[name] = ([np.maximum(y, np.float32(0)) for y in ys[name]] for ys in (exact, rounded))
        rounded[name] = [_rounded(y, whole.output) for y in rounded[name]]
        for read in last_read:
            del exact[read], rounded[read]
    return Graph(graph.input, tuple(operators))


def _before_activation(operator: Kind, graph: Graph, batches: dict[str, list[Float32]]) -> list[Float32]:
    plain = replace(operator, relu=False) if isinstance(operator, Convolution | Add) else operator
    inputs = zip(*(batches[name] for name in operator.inputs), strict=True)
    return [run_float(plain, graph.sources(operator), list(arguments)) for arguments in inputs]


def _channel_means(batches: list[Float32]) -> Float32:
    """Batches (batch, mel, frame, channels) -> (channels,)."""
    return exact_mean(np.concatenate(batches)[None], (1, 2, 3))[0]


def _rounded(values: Float32, tensor: Tensor) -> Float32:
    return tensor.q.dequantize(tensor.q.quantize(values))


def to_integers(graph: Graph, ranges: Ranges) -> Graph:
    """The integer graph of a float graph whose tensors lie in `ranges`, by TFLite's 8-bit specification."""
    tensors = {graph.input.name: _quantized(graph.input, ranges)}
    operators = []
    for operator in graph.operators:
        source = tensors[operator.inputs[0]]
        if isinstance(operator, AveragePool2D):
            output = replace(operator.output, quantization=source.quantization)
        else:
            output = _quantized(operator.output, ranges)
        tensors[output.name] = output
        operators.append(_integer_operator(operator, source, output))
    return Graph(tensors[graph.input.name], tuple(operators))


def _quantized(tensor: Tensor, ranges: Ranges) -> Tensor:
    low, high = ranges[tensor.name]
    scale = float(np.float32((high - low) / LEVELS))
    zero_point = int(np.clip(np.rint(INT8_MIN - low / scale), INT8_MIN, INT8_MAX))
    return replace(tensor, quantization=Quantization(scale, zero_point))


def _integer_operator(operator: Kind, source: Tensor, output: Tensor) -> Kind:
    if not isinstance(operator, Convolution):
        return replace(operator, output=output)
    scales = np.abs(operator.weights).max(operator.other_axes) / WEIGHT_MAX  # (outputs,)
    # A channel of next to no weights takes the scale that its bias and the rescaling to its output can do with
    least = np.maximum(np.abs(operator.bias.astype(np.float64)) / MAX_BIAS, output.q.scale * LEAST_MULTIPLIER)
    scales = np.maximum(scales, least / source.q.scale).astype(np.float32)
    weights = np.clip(np.rint(operator.weights / operator.along_channels(scales)), -WEIGHT_MAX, WEIGHT_MAX).astype(
        np.int8
    )
    bias = np.rint(operator.bias / (source.q.scale * scales.astype(np.float64)))
    return replace(operator, output=output, weights=weights, bias=bias.astype(np.int32), weight_scales=scales)

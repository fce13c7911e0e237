"""Post-training quantization: ranges from a few clips, biases corrected, a float graph made integer.

    graph = equalize(graph, batches)
    ranges = calibrate(FakeQuantGraph(graph), batches, settings)
    rounded = FakeQuantGraph(graph); rounded.round_in(ranges); correct_biases(rounded, FakeQuantGraph(graph), batches)
    integer = to_integers(rounded.graph(), rounded.ranges())

Ranges are the extremes seen, the percentile that leaves out the rarest values, or those of least squared
error of rounding and clipping, from a histogram. Equalization gives each channel before a depthwise
convolution the whole range, which costs nothing: its factor goes into weights that have a scale a channel.
Rounded weights shift the mean of what a channel computes, and its bias takes the shift back. Both are M. Nagel
et al., "Data-Free Quantization Through Weight Equalization and Bias Correction", ICCV 2019, with measured
ranges and means for assumed ones. What each brings here is in the README, Results.
"""

from collections import Counter
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tinyscene.deploy.graph.graph import (
    INT8_MAX,
    INT8_MIN,
    WEIGHT_MAX,
    AveragePool2D,
    Conv2D,
    Convolution,
    DepthwiseConv2D,
    Graph,
    Kind,
    Quantization,
)
from tinyscene.deploy.graph.graph import Tensor as Activation
from tinyscene.train.quantize.fake_quantize import LEVELS, SMALLEST, FakeQuantGraph, Ranges
from tinyscene.train.recipe import Quantize

BINS = 4096  # of a tensor's histogram
MSE_STEPS = np.linspace(1.0, 0.3, 36)  # shares of the extremes that are tried
MAX_BIAS, LEAST_MULTIPLIER = 2**30, 2**-30  # of an integer convolution: half of what deploy/graph/graph.py takes
UNSEEN = 1.0  # the range of a tensor that was zero throughout
SMALLEST_SHARE = 1e-3  # of the largest channel, that a channel is taken to reach


@torch.inference_mode()
def equalize(graph: Graph, batches: list[Tensor]) -> Graph:
    """The same function with every channel that only a depthwise convolution reads as large as the largest.

    Holds for channels behind a ReLU, which commutes with their positive factors.
    """
    highest: dict[str, NDArray[np.float32]] = {}  # tensor -> (channels,)
    module = FakeQuantGraph(graph)
    for batch in batches:
        for name, values in module.tensors(batch):
            if values.ndim == 4:
                found = values.amax((0, 2, 3)).cpu().numpy()
                highest[name] = np.maximum(highest.get(name, found), found)
    made = {operator.output.name: operator for operator in graph.operators}
    readers = Counter(name for operator in graph.operators for name in operator.inputs)
    for after in graph.operators:
        before = made.get(after.inputs[0])
        if not isinstance(after, DepthwiseConv2D) or not isinstance(before, Conv2D) or not before.relu:
            continue
        name = before.output.name
        if readers[name] == 1:
            peak = np.maximum(highest[name], SMALLEST_SHARE * highest[name].max() + SMALLEST)
            factor = peak / peak.max()  # (channels,)
            weights, bias = before.weights / factor[:, None, None, None], before.bias / factor
            made[name] = replace(before, weights=weights.astype(np.float32), bias=bias.astype(np.float32))
            made[after.output.name] = replace(after, weights=(after.weights * factor).astype(np.float32))
    return Graph(graph.input, tuple(made.values()))


@torch.inference_mode()
def calibrate(module: FakeQuantGraph, batches: list[Tensor], settings: Quantize) -> Ranges:
    """The range of every tensor over batches of log-mel (batch, 1, mel, frame)."""
    extremes: Ranges = {}
    for batch in batches:
        for name, values in module.tensors(batch):
            low, high = extremes.get(name, (0.0, 0.0))
            extremes[name] = (min(low, float(values.min())), max(high, float(values.max())))
    extremes = {name: ends if any(ends) else (0.0, UNSEEN) for name, ends in extremes.items()}
    if settings.calibration == "minmax":
        return extremes
    counts = {name: np.zeros(BINS) for name in extremes}
    for batch in batches:
        for name, values in module.tensors(batch):
            counts[name] += torch.histc(values.float(), BINS, *extremes[name]).cpu().numpy()
    if settings.calibration == "mse":
        return {name: _least_error(count, *extremes[name]) for name, count in counts.items()}
    return {name: _percentile(count, *extremes[name], settings.percentile / 100) for name, count in counts.items()}


def _percentile(count: NDArray[np.float64], low: float, high: float, share: float) -> tuple[float, float]:
    """The range between the percentiles 1 - share and share of a histogram, zero included."""
    below = np.cumsum(count) / count.sum()
    edges = np.linspace(low, high, BINS + 1)
    lowest = edges[np.searchsorted(below, 1.0 - share)]
    highest = edges[min(int(np.searchsorted(below, share)) + 1, BINS)]
    return min(float(lowest), 0.0) if low < 0 else 0.0, max(float(highest), SMALLEST)


def _least_error(count: NDArray[np.float64], low: float, high: float) -> tuple[float, float]:
    """The range of least squared error, clipping and rounding together, by trying shares of both ends."""
    centres = np.linspace(low, high, BINS, endpoint=False) + (high - low) / BINS / 2
    best, found = np.inf, (low, high)
    for first in MSE_STEPS * low if low < 0 else (0.0,):
        for last in MSE_STEPS * high:
            clipped = np.clip(centres, first, last) - centres
            error = (count * (clipped**2 + (clipped == 0) * ((last - first) / LEVELS) ** 2 / 12)).sum()
            if error < best:
                best, found = error, (float(first), float(last))
    return found


@torch.inference_mode()
def correct_biases(rounded: FakeQuantGraph, exact: FakeQuantGraph, batches: list[Tensor]) -> None:
    """Move each bias of `rounded` so that its channel's mean before the activation is that of `exact`.

    Both run side by side, so that an operator is corrected for what its corrected inputs still lack.
    """
    source = exact.source
    ours = {source.input.name: [rounded.round(source.input.name, batch) for batch in batches]}
    theirs = {source.input.name: batches}
    for operator, last_read in zip(source.operators, source.last_reads(), strict=True):
        want = [
            exact.apply_operator(operator, [theirs[name][k] for name in operator.inputs]) for k in range(len(batches))
        ]
        have = [
            rounded.apply_operator(operator, [ours[name][k] for name in operator.inputs]) for k in range(len(batches))
        ]
        if isinstance(operator, Convolution):
            shift = torch.cat(want).mean((0, 2, 3)) - torch.cat(have).mean((0, 2, 3))  # (channels,)
            rounded.move_bias(operator, shift)
            have = [y + shift[:, None, None] for y in have]
        theirs[operator.output.name] = [exact.finish(operator, y) for y in want]
        ours[operator.output.name] = [rounded.finish(operator, y) for y in have]
        for name in last_read:
            del ours[name], theirs[name]


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


def _quantized(tensor: Activation, ranges: Ranges) -> Activation:
    low, high = ranges[tensor.name]
    scale = float(np.float32((high - low) / LEVELS))
    zero_point = int(np.clip(np.rint(INT8_MIN - low / scale), INT8_MIN, INT8_MAX))
    return replace(tensor, quantization=Quantization(scale, zero_point))


def _integer_operator(operator: Kind, source: Activation, output: Activation) -> Kind:
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

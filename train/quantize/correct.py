"""Correction of what rounding does to a network: weights rounded for the least error, biases for the right mean.

    graph, scales = correct(graph, ranges, batches, rounding=True)

The float graph and the quantized one run side by side, operator by operator, so that an operator is corrected for
what its corrected inputs still lack. Rounded weights shift the mean of a channel; bias correction takes the shift back
(M. Nagel et al., "Data-Free Quantization Through Weight Equalization and Bias Correction", ICCV 2019, with measured
means in place of assumed ones). How weights are rounded is in `train/quantize/rounding.py`.
"""

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from tinyscene.deploy.bundle.inspection import with_rounded_weights
from tinyscene.deploy.graph.graph import Graph
from tinyscene.deploy.graph.operator import Activated, Convolution
from tinyscene.deploy.graph.operators import Conv2D, DepthwiseConv2D, Kind
from tinyscene.deploy.graph.reference import activated, exact_mean, run_float, windows
from tinyscene.deploy.graph.tensor import Tensor
from tinyscene.train.quantize.calibrate import Ranges, Scales, to_integers
from tinyscene.train.quantize.rounding import round_weights

Float32 = NDArray[np.float32]
Float64 = NDArray[np.float64]


def correct(graph: Graph, ranges: Ranges, batches: list[Float32], rounding: bool) -> tuple[Graph, Scales]:
    """The graph with biases for which, quantized, the mean of each channel before its activation is the float one.

    With `rounding` its weights are multiples of the scales that come with it; else no scales come. Batches: log-mel
    (batch, mel, frame, 1), all in memory.
    """
    integer, scales = to_integers(graph, ranges), Scales()
    exact = {graph.input.name: batches}
    rounded = {graph.input.name: [_rounded(batch, integer.input) for batch in batches]}
    operators = []
    for operator, whole, last_read in zip(graph.operators, integer.operators, graph.last_reads(), strict=True):
        name = operator.output.name
        corrected: Kind = operator
        exact[name] = _before_activation(operator, graph, exact)
        if rounding and isinstance(operator, Conv2D | DepthwiseConv2D) and isinstance(whole, Convolution):
            source = integer.sources(whole)[0]
            corrected, scales[name] = _with_best_weights(operator, whole.scales, source, rounded[source.name])
            rounded[name] = _before_activation(corrected, graph, rounded)
        else:
            rounded[name] = _before_activation(with_rounded_weights(whole, operator, integer), graph, rounded)
        if isinstance(corrected, Convolution):
            shift = _channel_means(exact[name]) - _channel_means(rounded[name])
            rounded[name] = [np.add(y, shift, dtype=np.float32) for y in rounded[name]]
            corrected = replace(corrected, bias=corrected.bias + shift)
        operators.append(corrected)
        exact[name], rounded[name] = ([activated(operator, y) for y in ys[name]] for ys in (exact, rounded))
        rounded[name] = [_rounded(y, whole.output) for y in rounded[name]]
        for read in last_read:
            del exact[read], rounded[read]
    return Graph(graph.input, tuple(operators)), scales


def _before_activation(operator: Kind, graph: Graph, batches: dict[str, list[Float32]]) -> list[Float32]:
    plain = replace(operator, relu=False, clamp=None) if isinstance(operator, Activated) else operator
    inputs = zip(*(batches[name] for name in operator.inputs), strict=True)
    return [run_float(plain, graph.sources(operator), list(arguments)) for arguments in inputs]


def _channel_means(batches: list[Float32]) -> Float32:
    """Batches (batch, mel, frame, channels) -> (channels,)."""
    return exact_mean(np.concatenate(batches)[None], (1, 2, 3))[0]


def _rounded(values: Float32, tensor: Tensor) -> Float32:
    return tensor.q.dequantize(tensor.q.quantize(values))


def _with_best_weights(
    operator: Conv2D | DepthwiseConv2D, scales: Float32, source: Tensor, batches: list[Float32]
) -> tuple[Conv2D | DepthwiseConv2D, Float32]:
    """The operator with weights rounded for these inputs (batch, mel, frame, channels), and the steps of them."""
    weights = operator.weights.astype(np.float64)
    if isinstance(operator, DepthwiseConv2D):
        grouped = weights[0].transpose(2, 0, 1).reshape(len(scales), 1, -1)  # (channels, 1, taps)
        least = scales.astype(np.float64)[:, None]
    else:
        grouped = weights.reshape(1, len(scales), -1)  # (1, outputs, taps * inputs)
        least = scales.astype(np.float64)[None]
    integers, steps = round_weights(grouped, _covariance(operator, source, batches), least)
    if isinstance(operator, DepthwiseConv2D):
        integers = integers.reshape(len(scales), *operator.size).transpose(1, 2, 0)[None]
    else:
        integers = integers.reshape(weights.shape)
    found = steps.ravel().astype(np.float32)
    best = integers * operator.along_channels(found.astype(np.float64))
    return replace(operator, weights=best.astype(np.float32)), found


def _covariance(operator: Convolution, source: Tensor, batches: list[Float32]) -> Float64:
    """Of what the weights meet, in steps of the input: (channels, taps, taps) or (1, taps * inputs, taps * inputs).

    Sums of products of int8 values are integers that float64 holds, in any order.
    """
    products, sums, count = np.zeros(()), np.zeros(()), 0
    for batch in batches:
        taps = windows(
            operator, np.rint(batch / source.q.scale).astype(np.float64)
        )  # (taps, batch, mel, frame, inputs)
        if isinstance(operator, DepthwiseConv2D):
            met = taps.reshape(len(taps), -1, taps.shape[-1]).transpose(2, 0, 1)  # (channels, taps, places)
        else:
            met = taps.transpose(0, 4, 1, 2, 3).reshape(1, len(taps) * taps.shape[-1], -1)
        products = products + met @ met.transpose(0, 2, 1)
        sums, count = sums + met.sum(2), count + met.shape[2]
    means = sums / count
    return products / count - means[:, :, None] * means[:, None, :]

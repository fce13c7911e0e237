"""Cross-layer equalization: the same function with the channels of a tensor more nearly as large as each other.

    graph = equalize(graph, batches)

A tensor has one scale for all channels, so that a channel that reaches a tenth as far as the largest has a tenth of
its steps. Convolutions, ReLU, additions, pools and crops let a positive factor for each channel pass: what makes a
tensor is divided by it, what reads it is multiplied, and weights have a scale for each output channel. Tensors that an
addition, a pool, a crop or a mean joins share their factors; those with a clamp have none, because its bounds are the
same for all channels. After M. Nagel et al., "Data-Free Quantization Through Weight Equalization and Bias Correction",
ICCV 2019, with the measured ranges of activations in place of those of the weights.

Channels that depthwise convolutions alone read are made to reach equally far, because a factor of theirs is one of an
output channel, too. A convolution that mixes its inputs pays in weights for what its inputs gain: there the factors
are raised to the power of 3/4, which is measured (benchmarks/results/calibration.json) and has the same bits on every
processor, as a square root has.
"""

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from tinyscene.deploy.graph.graph import Graph
from tinyscene.deploy.graph.operator import Activated, Convolution, Kept
from tinyscene.deploy.graph.operators import Add, Channels, Concat, DepthwiseConv2D, Kind, Mean
from tinyscene.deploy.graph.reference import run_all

Float32 = NDArray[np.float32]
Float64 = NDArray[np.float64]
Ends = tuple[Float64, Float64]  # lowest, at most 0, and highest, at least 0, of each channel

SMALLEST_SHARE = 1e-3  # of the largest channel, that a channel is taken to reach
SMALLEST = 1e-6  # of a range: what is all zeros has one, too


def equalize(graph: Graph, batches: list[Float32]) -> Graph:
    """The same function, equalized by what tensors reach on batches of log-mel, (batch, mel, frame, 1) each."""
    ends = _channel_ends(graph, batches)
    factors: dict[str, Float64] = {}  # tensor -> (channels,)
    for names in _joined(graph):
        shares = [np.maximum(_share(-ends[name][0]), _share(ends[name][1])) for name in names]
        share = np.maximum(np.max(shares, axis=0), SMALLEST_SHARE)  # at most 1: no tensor reaches further than before
        factors |= dict.fromkeys(names, share if _only_depthwise(graph, names) else _three_quarters(share))
    return Graph(graph.input, tuple(_scaled(operator, factors) for operator in graph.operators))


def _channel_ends(graph: Graph, batches: list[Float32]) -> dict[str, Ends]:
    """Of each tensor."""
    ends: dict[str, Ends] = {}
    for batch in batches:
        for name, values in run_all(graph, batch).items():
            axes = tuple(range(values.ndim - 1))
            low, high = ends.get(name, (np.zeros(values.shape[-1]), np.zeros(values.shape[-1])))
            ends[name] = np.minimum(low, values.min(axes)), np.maximum(high, values.max(axes))
    return ends


def _joined(graph: Graph) -> list[list[str]]:
    """The tensors whose channels can have factors, those that share them together."""
    groups = {name: [name] for name in graph.tensors}
    for operator in graph.operators:
        if isinstance(operator, Add | Kept | Mean) and not isinstance(operator, Channels | Concat):
            for name in operator.inputs:
                if groups[name] is not groups[operator.output.name]:
                    joined = groups[name] + groups[operator.output.name]
                    groups |= dict.fromkeys(joined, joined)
    fixed = {graph.input.name, graph.output.name}
    for operator in graph.operators:
        if isinstance(operator, Channels | Concat):  # their channels are numbered otherwise
            fixed |= {*operator.inputs, operator.output.name}
    fixed |= {each.output.name for each in graph.operators if isinstance(each, Activated) and each.clamp is not None}
    unique = {id(names): names for names in groups.values()}
    return [names for names in unique.values() if not fixed & {*names}]


def _share(reach: Float64) -> Float64:
    return reach / max(float(reach.max()), SMALLEST)


def _only_depthwise(graph: Graph, names: list[str]) -> bool:
    """Whether depthwise convolutions alone read these tensors."""
    readers = [operator for operator in graph.operators if {*names} & {*operator.inputs}]
    return all(isinstance(operator, DepthwiseConv2D) for operator in readers)


def _three_quarters(share: Float64) -> Float64:
    """share ** 0.75"""
    root = np.sqrt(share)
    return root * np.sqrt(root)


def _scaled(operator: Kind, factors: dict[str, Float64]) -> Kind:
    if not isinstance(operator, Convolution):
        return operator
    weights, bias = operator.weights.astype(np.float64), operator.bias.astype(np.float64)
    read, made = factors.get(operator.inputs[0]), factors.get(operator.output.name)
    if read is not None:
        weights = weights * read  # the last axis is that of the inputs, or of the channels of a depthwise convolution
    if made is not None:
        weights, bias = weights / operator.along_channels(made), bias / made
    return replace(operator, weights=weights.astype(np.float32), bias=bias.astype(np.float32))

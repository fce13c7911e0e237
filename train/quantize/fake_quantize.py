"""A float graph in torch, to train it with the rounding of the integers it will become.

    module = FakeQuantGraph(graph)             # float, as deploy/graph/reference.py computes it
    module.round_in(ranges)                    # from here on every tensor and weight is rounded
    graph, ranges = module.graph(), module.ranges()

Rounding passes gradients straight through (Y. Bengio et al., arXiv:1308.3432); the ranges of the activations
are parameters and learn from what they clip and round (S. Esser et al., "Learned Step Size Quantization",
ICLR 2020). What is trained is the graph that is deployed, so there is nothing to convert afterwards.
"""

import math
from collections import deque
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tinyscene.deploy.graph.graph import Graph
from tinyscene.deploy.graph.operator import WEIGHT_MAX, Activated, Convolution, Window
from tinyscene.deploy.graph.operators import (
    Add,
    AveragePool2D,
    Channels,
    Concat,
    Crop,
    DepthwiseConv2D,
    Kind,
    MaxPool2D,
    Repeat,
)
from tinyscene.deploy.graph.tensor import INT8_MAX, INT8_MIN
from tinyscene.train.quantize.calibrate import LEVELS, SMALLEST, Ranges, joined, not_empty


class FakeQuantize(nn.Module):
    """The int8 values of one tensor, in a range whose two ends learn by what factor to move."""

    ends: Tensor

    def __init__(self, low: float, high: float) -> None:
        super().__init__()
        self.register_buffer("ends", torch.tensor(not_empty(low, high)))
        self.stretch = nn.Parameter(torch.zeros(2))  # logarithms of the factors

    def range(self) -> Tensor:
        return self.ends * self.stretch.exp()

    def forward(self, x: Tensor) -> Tensor:
        low, high = self.range()
        scale = (high - low) / LEVELS
        zero_point = _straight_through(INT8_MIN - low / scale)
        return (torch.clamp(_straight_through(x / scale) + zero_point, INT8_MIN, INT8_MAX) - zero_point) * scale


class FakeQuantGraph(nn.Module):
    """Log-mel (batch, 1, mel, frame) -> logits (batch, classes), as a float graph defines it."""

    def __init__(self, graph: Graph) -> None:
        super().__init__()
        self.source = graph
        self.weights, self.biases, self.roundings = nn.ParameterDict(), nn.ParameterDict(), nn.ModuleDict()
        self.rounded_as = graph.quantized_together()
        for operator in graph.operators:
            if isinstance(operator, Convolution):
                key = _key(operator.output.name)
                self.weights[key] = nn.Parameter(torch.tensor(operator.weights.transpose(_order(operator))))
                self.biases[key] = nn.Parameter(torch.tensor(operator.bias))

    def round_in(self, ranges: Ranges) -> None:
        """Round every tensor from now on, in these ranges to begin with."""
        for name, (low, high) in joined(self.source, ranges).items():
            if self.rounded_as[name] == name:
                self.roundings[_key(name)] = FakeQuantize(low, high)

    def forward(self, log_mel: Tensor) -> Tensor:
        return deque(self.tensors(log_mel), maxlen=1)[0][1]  # which lets go of the others

    def tensors(self, log_mel: Tensor) -> Iterator[tuple[str, Tensor]]:
        """Every tensor in order, (batch, channels, mel, frame), or (batch, channels) after the mean."""
        values = {self.source.input.name: self.round(self.source.input.name, log_mel)}
        yield next(iter(values.items()))
        for operator, last_read in zip(self.source.operators, self.source.last_reads(), strict=True):
            y = self.finish(operator, self.apply_operator(operator, [values[name] for name in operator.inputs]))
            values[operator.output.name] = y
            yield operator.output.name, y
            for name in last_read:
                del values[name]

    def apply_operator(  # noqa: PLR0911 - one for each operator
        self, operator: Kind, inputs: list[Tensor]
    ) -> Tensor:
        """The output of an operator before its activation and rounding."""
        x = inputs[0]
        if isinstance(operator, Window) and any(operator.padding):
            top, bottom, left, right = operator.padding
            passed_over = isinstance(operator, MaxPool2D)
            x = F.pad(x, (left, right, top, bottom), value=-math.inf if passed_over else 0.0)
        if isinstance(operator, Convolution):
            key = _key(operator.output.name)
            weights = _round_weights(self.weights[key]) if self.roundings else self.weights[key]
            groups = x.shape[1] if isinstance(operator, DepthwiseConv2D) else 1
            return F.conv2d(x, weights, self.biases[key], operator.stride, groups=groups)
        if isinstance(operator, Add):
            return x + inputs[1]
        if isinstance(operator, AveragePool2D):
            return F.avg_pool2d(x, operator.window, operator.stride)
        if isinstance(operator, MaxPool2D):
            return F.max_pool2d(x, operator.window, operator.stride)
        if isinstance(operator, Crop):
            top, bottom, left, right = operator.crop
            return x[:, :, top : x.shape[2] - bottom, left : x.shape[3] - right]
        if isinstance(operator, Channels):
            return x[:, operator.first : operator.first + operator.output.shape[3]]
        if isinstance(operator, Concat):
            return torch.cat(inputs, 1)
        if isinstance(operator, Repeat):
            return x.repeat(1, 1, *operator.times)
        return x.mean((2, 3), keepdim=len(operator.output.shape) == 4)

    def finish(self, operator: Kind, y: Tensor) -> Tensor:
        """Activation and rounding of the output of `apply_operator`."""
        if isinstance(operator, Activated) and operator.clamp:
            y = y.clamp(*operator.clamp)
        elif isinstance(operator, Activated) and operator.relu:
            y = F.relu(y)
        return self.round(operator.output.name, y)

    def round(self, name: str, x: Tensor) -> Tensor:
        return self.roundings[_key(self.rounded_as[name])](x) if self.roundings else x

    def ranges(self) -> Ranges:
        """The activations' ranges as they are now, those of pools and crops left out."""
        ranges = {}
        for name in self.source.tensors:
            if _key(name) in self.roundings:
                rounding = self.roundings[_key(name)]
                assert isinstance(rounding, FakeQuantize)
                low, high = rounding.range().tolist()
                ranges[name] = (low, high)
        return ranges

    def graph(self) -> Graph:
        """The float graph with the weights as they are now."""
        return Graph(self.source.input, tuple(self._with_weights(operator) for operator in self.source.operators))

    def _with_weights(self, operator: Kind) -> Kind:
        if not isinstance(operator, Convolution):
            return operator
        key = _key(operator.output.name)
        weights = self.weights[key].detach().cpu().numpy().transpose(np.argsort(_order(operator)))
        bias = self.biases[key].detach().cpu().numpy().copy()
        return replace(operator, weights=np.ascontiguousarray(weights), bias=bias)


def _round_weights(weights: Tensor) -> Tensor:
    """Weights (outputs, ...) on the grid of int8 with a scale an output channel."""
    scale = weights.detach().abs().amax((1, 2, 3), keepdim=True).clamp(min=SMALLEST) / WEIGHT_MAX
    return _straight_through(weights / scale) * scale


def _straight_through(x: Tensor) -> Tensor:
    return x + (x.round() - x).detach()


def _order(operator: Convolution) -> tuple[int, int, int, int]:
    """TFLite's axes of the weights in torch's order (outputs, inputs / groups, height, width)."""
    return (3, 0, 1, 2) if isinstance(operator, DepthwiseConv2D) else (0, 3, 1, 2)


def _key(name: str) -> str:
    """Names of parameters hold no dots, and are no attributes of a dictionary."""
    return "/" + name.replace(".", "/")

"""Lowering: a torch network as the float graph of `deploy/graph/graph.py`, its BatchNorms and ReLUs fused.

    graph = lower(network, (256, 65))        # log_mel (1, mel, frame, 1) -> logits (1, classes)

torch.fx traces the network down to torch.nn's own modules (`train/quantize/trace.py`). A linear layer is a convolution
whose window is all that it reads; a BatchNorm or an activation that no convolution or addition can take in is a 1 x 1
depthwise convolution. What the graph has no operator for is refused, by the place it has in the network.
"""

import math
import operator
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import fx, nn

from tinyscene.deploy.common.errors import InputError
from tinyscene.deploy.graph.graph import Graph
from tinyscene.deploy.graph.operator import Convolution
from tinyscene.deploy.graph.operators import (
    Add,
    AveragePool2D,
    Channels,
    Concat,
    Conv2D,
    Crop,
    DepthwiseConv2D,
    MaxPool2D,
    Mean,
    Repeat,
)
from tinyscene.deploy.graph.tensor import Tensor
from tinyscene.train.models.cp_mobile import CPMobile, fold_branches
from tinyscene.train.quantize.fewer_copies import with_fewer_copies
from tinyscene.train.quantize.lowering import INPUT, Lowering
from tinyscene.train.quantize.trace import (
    BATCH,
    UNBOUNDED,
    bounds_of,
    called_layer,
    operands,
    trace,
)

SUPPORTED = (
    "Conv2d, Linear, BatchNorm2d, BatchNorm1d, ReLU, ReLU6, Hardtanh and clamp, AvgPool2d, MaxPool2d, "
    "AdaptiveAvgPool2d(1), AdaptiveMaxPool2d(1), mean over mel, frame or both, addition, also of one band or frame to "
    "all, cat of channels, slices of channels, mel and frame, pad with negative sizes, Flatten, squeeze, view and "
    "reshape to (batch, features), Dropout, Identity"
)

Pair = tuple[int, int]  # mel, frame


def lower(network: nn.Module, shape: Pair) -> Graph:
    """The float graph of a network in evaluation mode, on the CPU; folding is computed in float64.

    network: log-mel (batch, 1, mel, frame) -> logits (batch, classes); shape: (mel, frame). Tensors are named
    after the modules that make them. Raises InputError that names the first layer that cannot be lowered.
    """
    source = Tensor(INPUT, (1, *shape, 1))
    for path, module in network.named_modules():
        if module.training:
            raise InputError(f"{path or 'network'}: is in training mode; call eval() before lowering")
    if isinstance(network, CPMobile):
        network = fold_branches(network)
    return with_fewer_copies(_Lowering(network, source, trace(network, shape)).graph())


class _Lowering(Lowering):
    """One walk over a traced network, node by node in the order they run."""

    def graph(self) -> Graph:
        for node in self.traced.nodes:
            self.lower(node)
        return Graph(self.source, tuple(self.operators.values()))

    def lower(self, node: fx.Node) -> None:
        if node.op == "placeholder":
            self.require(node, not self.tensors, "as a second input", "networks of one input")
            self.tensors[node] = self.source
        elif node.op == "output":
            self.finish(node)
        elif node in self.shapes:  # else it makes a size
            layer = self.layer(node)
            step = STEPS.get(node.target if layer is None else type(layer))  # not a subclass, which may do otherwise
            if step is None:
                self.refuse(node, "", SUPPORTED)
            step(self, node)

    def convolution(self, node: fx.Node) -> None:
        layer: nn.Conv2d = self.layer(node)
        groups, inputs, outputs = layer.groups, layer.in_channels, layer.out_channels
        depthwise = groups == inputs == outputs > 1
        counts = f"with groups={groups} of {inputs} channels and {outputs} outputs"
        self.require(node, groups == 1 or depthwise, counts, "one group, or one for each channel and output")
        self.require(node, layer.dilation == (1, 1), f"with dilation={layer.dilation}", "dilations of 1")
        self.require(node, layer.padding_mode == "zeros", f"with padding_mode={layer.padding_mode!r}", "zeros")
        before = {"valid": (0, 0), "same": tuple((size - 1) // 2 for size in layer.kernel_size)}  # as torch halves it
        padding = before[layer.padding] if isinstance(layer.padding, str) else layer.padding
        order = (1, 2, 3, 0) if depthwise else (0, 2, 3, 1)  # of (outputs, inputs / groups, height, width)
        weights = np.array(layer.weight.detach().numpy().transpose(order), np.float32, order="C")
        bias = np.zeros(outputs, np.float32) if layer.bias is None else layer.bias.detach().numpy().astype(np.float32)
        kind = DepthwiseConv2D if depthwise else Conv2D
        self.window(node, kind, layer.kernel_size, layer.stride, padding, weights=weights, bias=bias)

    def linear(self, node: fx.Node) -> None:
        layer: nn.Linear = self.layer(node)
        _, height, width, channels = self.spatial(node).shape
        shape = self.shapes[operands(node)[0]]
        flat = len(shape) == 2 and shape[1] == height * width * channels
        self.require(node, flat, f"on {shape}", "linear layers on (batch, features), after global pooling or Flatten")
        # (outputs, channels * height * width), in the order of torch's Flatten
        weights = layer.weight.detach().numpy().reshape(-1, channels, height, width).transpose(0, 2, 3, 1)
        weights = np.array(weights, np.float32, order="C")
        bias = np.zeros(len(weights), np.float32) if layer.bias is None else layer.bias.detach().numpy().astype("f4")
        self.add(node, Conv2D, (1, 1, 1, len(weights)), weights=weights, bias=bias)

    def norm(self, node: fx.Node) -> None:
        layer: nn.BatchNorm2d = self.layer(node)
        if layer.running_mean is None or layer.running_var is None:
            self.refuse(node, "without running statistics", "BatchNorm with running statistics")
        gain = (layer.running_var.double() + layer.eps).rsqrt()  # (outputs,)
        shift = -layer.running_mean.double() * gain
        if layer.affine:
            gain, shift = gain * layer.weight.double(), shift * layer.weight.double() + layer.bias.double()
        gain, shift = gain.detach().numpy(), shift.detach().numpy()
        fused = self.fusable(node, Convolution)
        if fused is None or fused.bounds != UNBOUNDED:
            self.affine(node, gain, shift)
            return
        with np.errstate(all="ignore"):  # the graph refuses what is not finite
            weights = (fused.weights * fused.along_channels(gain)).astype(np.float32)
            bias = (fused.bias * gain + shift).astype(np.float32)
        self.fuse(node, replace(fused, weights=weights, bias=bias))

    def activation(self, node: fx.Node) -> None:
        least, most = bounds = bounds_of(node, self.layer(node))
        allowed = bounds == (0.0, math.inf) or -math.inf < least <= 0.0 <= most < math.inf
        supported = "ReLU, ReLU6, and clamps to finite bounds with zero between them"
        self.require(node, allowed and least < most, f"to {least} and {most}", supported)
        fused = self.fusable(node, Convolution | Add)
        if fused is None:
            channels = self.spatial(node).shape[3]
            fused = self.affine(node, np.ones(channels), np.zeros(channels))
        before = [min(max(end, least), most) for end in fused.bounds]  # of one activation after another
        if before == [0.0, math.inf]:
            self.fuse(node, replace(fused, relu=True))
        else:
            low, high = (float(np.float32(end)) for end in before)
            self.fuse(node, replace(fused, relu=False, clamp=(low, high)))

    def affine(self, node: fx.Node, gain: Any, shift: Any) -> DepthwiseConv2D:
        """A factor and a term for each channel, which no operator before can take in."""
        shape = self.spatial(node).shape
        whole = len(gain) == shape[3]
        self.require(node, whole, "on a flattened map", "BatchNorm on (batch, channels, mel, frame) or after pooling")
        weights, bias = gain.astype(np.float32)[None, None, None], shift.astype(np.float32)
        self.add(node, DepthwiseConv2D, shape, weights=weights, bias=bias)
        made = self.operators[self.tensors[node].name]
        assert isinstance(made, DepthwiseConv2D)
        return made

    def sum(self, node: fx.Node) -> None:
        addends, supported = operands(node), "addition of two tensors of one shape, or of one band or frame to all"
        plain = len(addends) == len(node.args) == 2 and not node.kwargs
        self.require(node, plain, "of other than two tensors", supported)
        first, second = (self.shapes.get(operand) for operand in addends)
        if first != second:
            shape, repeated = self.shapes[node], int(first == self.shapes[node])  # which of them is not whole
            _, channels, mel, frame = (*shape, 0, 0)[:4]
            line = (first, second)[repeated] in ((BATCH, channels, 1, frame), (BATCH, channels, mel, 1))
            self.require(node, line and shape in (first, second), f"of {first} and {second}", supported)
            self.add_repeated(node, addends, repeated)
            return
        if len({len(self.tensors[operand].shape) for operand in addends}) == 2:  # one is a mean, another was
            for operand in addends:
                self.give_four_dimensions(self.tensors[operand])
        self.add(node, Add, self.tensors[addends[0]].shape)

    def add_repeated(self, node: fx.Node, addends: list[fx.Node], repeated: int) -> None:
        """Append an addition one of whose addends is a band or a frame for all."""
        tensors = [self.tensors[each] for each in addends]
        shape, before = tensors[1 - repeated].shape, tensors[repeated].shape
        times = (shape[1] // before[1], shape[2] // before[2])
        self.append(node, Repeat, [tensors[repeated]], shape, times=times)
        tensors[repeated] = self.tensors[node]
        self.append(node, Add, tensors, shape)

    def max_pool(self, node: fx.Node) -> None:
        layer: nn.MaxPool2d = called_layer(node) or self.layer(node)
        size, stride, before = (_pair(setting) for setting in (layer.kernel_size, layer.stride, layer.padding))
        dilation = _pair(layer.dilation)
        self.require(node, dilation == (1, 1), f"with dilation={dilation}", "dilations of 1")
        self.require(node, not layer.return_indices, "with return_indices=True", "return_indices=False")
        self.window(node, MaxPool2D, size, stride, before, window=size)

    def global_max(self, node: fx.Node) -> None:
        whole, (_, height, width, _) = self.shapes[node][2:] == (1, 1), self.spatial(node).shape
        self.require(node, whole, "over other than all of mel and frame", "global pooling")
        self.window(node, MaxPool2D, (height, width), (1, 1), (0, 0), window=(height, width))

    def pool(self, node: fx.Node) -> None:
        layer: nn.AvgPool2d = called_layer(node) or self.layer(node)
        size, stride, before = (_pair(setting) for setting in (layer.kernel_size, layer.stride, layer.padding))
        counted = layer.count_include_pad or before == (0, 0)
        self.require(node, counted, "with count_include_pad=False", "pools that count their padding")
        self.require(node, not layer.ceil_mode, "with ceil_mode=True", "ceil_mode=False")
        self.require(node, layer.divisor_override is None, "with a divisor_override", "means of the whole window")
        self.window(node, AveragePool2D, size, stride, before, window=size)

    def mean(self, node: fx.Node) -> None:
        (_, tall, wide, channels), made = self.spatial(node).shape, self.shapes[node]
        if node.op == "call_module" or node.target is F.adaptive_avg_pool2d:
            axes = {(1, wide): [2], (tall, 1): [3], (1, 1): [2, 3]}.get(made[2:])  # type: ignore[arg-type]
        else:
            given = node.kwargs.get("dim", node.args[1] if len(node.args) > 1 else ())
            numbers = given if isinstance(given, tuple | list) else [given]
            axes = sorted(axis % 4 for axis in numbers if isinstance(axis, int))
            axes = axes if set(node.kwargs) <= {"input", "dim", "keepdim"} else None
        supported = "global pooling, and means over mel or frame with keepdim=True"
        kept = len(made) == 4 and axes in ([2], [3])
        self.require(node, axes == [2, 3] or kept, "over other than all of mel, of frame or of both", supported)
        if axes == [2, 3]:
            self.add(node, Mean, (1, channels))
        else:
            size = (tall, 1) if axes == [2] else (1, wide)
            self.window(node, AveragePool2D, size, (1, 1), (0, 0), window=size)

    def crop(self, node: fx.Node) -> None:
        shape, supported = self.shapes.get(operands(node)[0], ()), "slices of channels, mel and frame"
        self.require(node, len(shape) == 4 and len(node.all_input_nodes) == 1, "", supported)
        places = torch.arange(math.prod(shape), dtype=torch.float64).view(shape)
        arguments, named = fx.map_arg((node.args, node.kwargs), lambda _: places)
        kept = node.target(*arguments, **named)  # type: ignore[operator] # the places of its input that it keeps
        above, left = divmod(int(kept.flatten()[:1].sum()), shape[3])
        first, top = divmod(above, shape[2])
        *_, channels, tall, wide = (1, 1, 1, *kept.shape)
        inside = places[:, first : first + channels, top : top + tall, left : left + wide]
        self.require(node, torch.equal(kept, inside), f"to {tuple(kept.shape)}", supported)
        self.tensors[node] = self.tensors[operands(node)[0]]
        if channels < shape[1]:
            self.append(node, Channels, [self.tensors[node]], (1, *shape[2:], channels), first=first)
        if any(cut := (top, shape[2] - top - tall, left, shape[3] - left - wide)):
            self.append(node, Crop, [self.tensors[node]], (1, tall, wide, channels), crop=cut)

    def concat(self, node: fx.Node) -> None:
        parts = node.args[0] if node.args else node.kwargs.get("tensors")
        axis = node.kwargs.get("dim", node.args[1] if len(node.args) > 1 else 0)
        joined = isinstance(parts, list | tuple) and len(parts) > 1 and axis in (1, -3)
        self.require(
            node, joined and len(self.shapes[node]) == 4, f"along {axis}", "channels of two activations or more"
        )
        tensors = [self.tensors[part] for part in parts]  # type: ignore[union-attr, index]
        for tensor in tensors:
            self.give_four_dimensions(tensor)
        first, *others = (self.tensors[part] for part in parts)  # type: ignore[union-attr, index]
        for other in others:
            shape = (*first.shape[:3], first.shape[3] + other.shape[3])
            self.append(node, Concat, [first, other], shape)
            first = self.tensors[node]

    def flatten(self, node: fx.Node) -> None:
        """The graph keeps what it has: a linear layer reads (batch, features) as a window of all rows and columns."""
        source, shape = self.tensors[operands(node)[0]], self.shapes[node]
        kept = len(shape) > 2 and math.prod(shape[2:]) == 1 and source.shape == (1, *shape[1:2])
        is_flat = shape[:1] == (BATCH,) and (shape[1:] == (math.prod(source.shape),) or kept)
        self.require(node, is_flat, f"to {shape}", "Flatten, squeeze, view and reshape to (batch, features)")
        self.tensors[node] = source


STEPS: dict[Any, Callable[[_Lowering, fx.Node], None]] = {  # by module, function or name of a method
    nn.Conv2d: _Lowering.convolution,
    nn.Linear: _Lowering.linear,
    **dict.fromkeys([nn.BatchNorm2d, nn.BatchNorm1d], _Lowering.norm),
    **dict.fromkeys([nn.ReLU, F.relu, torch.relu, "relu", nn.ReLU6, F.relu6], _Lowering.activation),
    **dict.fromkeys([nn.Hardtanh, F.hardtanh, torch.clamp, "clamp"], _Lowering.activation),
    **dict.fromkeys([nn.AvgPool2d, F.avg_pool2d], _Lowering.pool),
    **dict.fromkeys([nn.MaxPool2d, F.max_pool2d], _Lowering.max_pool),
    nn.AdaptiveMaxPool2d: _Lowering.global_max,
    **dict.fromkeys([nn.AdaptiveAvgPool2d, F.adaptive_avg_pool2d, torch.mean, "mean"], _Lowering.mean),
    **dict.fromkeys([operator.getitem, F.pad], _Lowering.crop),
    **dict.fromkeys([torch.cat, torch.concat], _Lowering.concat),
    **dict.fromkeys([operator.add, torch.add, "add"], _Lowering.sum),
    **dict.fromkeys([nn.Flatten, torch.flatten, torch.squeeze, torch.reshape], _Lowering.flatten),
    **dict.fromkeys(["flatten", "squeeze", "view", "reshape"], _Lowering.flatten),
}


def _pair(setting: int | Pair) -> Pair:
    return setting if isinstance(setting, tuple) else (setting, setting)

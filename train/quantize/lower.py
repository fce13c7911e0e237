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
from typing import Any, NoReturn

import numpy as np
import torch
import torch.nn.functional as F
from torch import fx, nn

from tinyscene.deploy.common.errors import InputError
from tinyscene.deploy.graph.graph import Graph
from tinyscene.deploy.graph.operators import (
    Add,
    AveragePool2D,
    Conv2D,
    Convolution,
    Crop,
    DepthwiseConv2D,
    Kind,
    MaxPool2D,
    Mean,
)
from tinyscene.deploy.graph.tensor import Tensor
from tinyscene.train.models.cp_mobile import CPMobile, fold_branches
from tinyscene.train.quantize.trace import (
    BATCH,
    UNBOUNDED,
    Traced,
    bounds_of,
    called_layer,
    operands,
    place,
    trace,
)

INPUT, OUTPUT = "log_mel", "logits"
SUPPORTED = (
    "Conv2d, Linear, BatchNorm2d, BatchNorm1d, ReLU, ReLU6, Hardtanh and clamp, AvgPool2d, MaxPool2d, "
    "AdaptiveAvgPool2d(1), AdaptiveMaxPool2d(1), mean over mel, frame or both, addition, Flatten, squeeze, view and "
    "reshape to (batch, features), slices of mel and frame, pad with negative sizes, Dropout, Identity"
)

Shape = tuple[int, ...]  # torch's unless said otherwise: (batch, channels, mel, frame) or (batch, channels)
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
    return _Lowering(network, source, trace(network, shape)).graph()


class _Lowering:
    """One walk over a traced network, node by node in the order they run."""

    def __init__(self, network: nn.Module, source: Tensor, traced: Traced) -> None:
        self.network, self.source, self.traced, self.shapes = network, source, traced.graph, traced.shapes
        self.tensors: dict[fx.Node, Tensor] = {}  # what holds a node's value; fused nodes share one
        self.operators: dict[str, Kind] = {}  # by the name of their output, in order

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
        addends, supported = operands(node), "addition of two tensors of one shape"
        plain = len(addends) == len(node.args) == 2 and not node.kwargs
        self.require(node, plain, "of other than two tensors", supported)
        first, second = (self.shapes.get(operand) for operand in addends)
        self.require(node, first == second, f"of {first} and {second}", supported)
        if len({len(self.tensors[operand].shape) for operand in addends}) == 2:  # one is a mean, another was
            for operand in addends:
                self.give_four_dimensions(self.tensors[operand])
        self.add(node, Add, self.tensors[addends[0]].shape)

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
            axes = {(1, 1): [2, 3], (1, wide): [2], (tall, 1): [3]}.get(made[2:])  # type: ignore[arg-type]
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
        shape, supported = self.shapes.get(operands(node)[0], ()), "slices of mel and frame, pad with negative sizes"
        self.require(node, len(shape) == 4 and len(node.all_input_nodes) == 1, "", supported)
        places = torch.arange(math.prod(shape), dtype=torch.float64).view(shape)
        arguments, named = fx.map_arg((node.args, node.kwargs), lambda _: places)
        kept = node.target(*arguments, **named)  # type: ignore[operator] # the places of its input that it keeps
        top, left = divmod(int(kept.flatten()[:1].sum()), shape[3])
        *_, tall, wide = (1, 1, *kept.shape)
        inside = torch.equal(kept, places[:, :, top : top + tall, left : left + wide])
        self.require(node, inside, f"to {tuple(kept.shape)}", supported)
        self.tensors[node] = self.tensors[operands(node)[0]]
        if any(cut := (top, shape[2] - top - tall, left, shape[3] - left - wide)):
            self.add(node, Crop, (1, tall, wide, shape[1]), crop=cut)

    def flatten(self, node: fx.Node) -> None:
        """The graph keeps what it has: a linear layer reads (batch, features) as a window of all rows and columns."""
        source, shape = self.tensors[operands(node)[0]], self.shapes[node]
        kept = len(shape) > 2 and math.prod(shape[2:]) == 1 and source.shape == (1, *shape[1:2])
        is_flat = shape[:1] == (BATCH,) and (shape[1:] == (math.prod(source.shape),) or kept)
        self.require(node, is_flat, f"to {shape}", "Flatten, squeeze, view and reshape to (batch, features)")
        self.tensors[node] = source

    def finish(self, node: fx.Node) -> None:
        results = [self.tensors[operand].name for operand in operands(node)]
        self.require(
            node, results == list(self.operators)[-1:], "of other than the last result", "one result, made last"
        )
        result = operands(node)[0]
        shape = self.tensors[result].shape
        if len(self.shapes[result]) == 2 and len(shape) == 4:
            self.require(node, shape[:3] == (1, 1, 1), "of a flattened map", "one vector of logits")
            self.tensors[node] = Tensor(OUTPUT, (1, shape[3]))
            self.operators[OUTPUT] = Mean(inputs=(results[0],), output=self.tensors[node])  # of one value
            return
        _, last = self.operators.popitem()
        self.operators[OUTPUT] = replace(last, output=replace(last.output, name=OUTPUT))

    def window(self, node: fx.Node, kind: Any, size: Any, stride: Any, before: Any, **settings: Any) -> None:
        """Append an operator with a window; its padding at the end reaches no further than some window does."""
        pooled = len(self.tensors[operands(node)[0]].shape) == 2
        input_shape, shape = self.spatial(node).shape, self.shapes[node]
        self.require(node, not (pooled and any(before)), "with padding after global pooling", "windows of 1 x 1 there")
        sides = zip(shape[2:], stride, size, before, input_shape[1:3], strict=True)
        bottom, right = (
            max((count - 1) * step + span - first - size_in, 0) for count, step, span, first, size_in in sides
        )
        padding = (before[0], bottom, before[1], right)
        self.add(node, kind, (1, *shape[2:], shape[1]), stride=stride, padding=padding, **settings)

    def add(self, node: fx.Node, kind: Any, shape: Shape, **settings: Any) -> None:
        """Append the operator that makes this node's value; shape is the graph's."""
        inputs = tuple(self.tensors[operand].name for operand in operands(node))
        self.tensors[node] = Tensor(self.name(node), shape)
        self.operators[self.tensors[node].name] = kind(inputs=inputs, output=self.tensors[node], **settings)

    def spatial(self, node: fx.Node) -> Tensor:
        """What a node reads first, with mel and frame: a mean that another operator reads keeps them."""
        source = operands(node)[0]
        self.give_four_dimensions(self.tensors[source])
        return self.tensors[source]

    def give_four_dimensions(self, tensor: Tensor) -> None:
        if len(tensor.shape) == 2:
            wider = replace(tensor, shape=(1, 1, 1, tensor.shape[1]))
            self.operators[tensor.name] = replace(self.operators[tensor.name], output=wider)
            self.tensors |= {node: wider for node, each in self.tensors.items() if each.name == tensor.name}

    def fusable(self, node: fx.Node, kinds: Any) -> Any:
        """The operator, if any, that makes what this node alone reads, so that the node may as well work in place."""
        tensor = self.tensors[operands(node)[0]]
        operator = self.operators.get(tensor.name)
        holders = [each for each, held in self.tensors.items() if held.name == tensor.name]
        alone = sum(len(each.users) for each in holders) == len(holders)  # each read by the next, the last by this node
        return operator if isinstance(operator, kinds) and alone else None

    def fuse(self, node: fx.Node, fused: Kind) -> None:
        """Let an operator that does this node's work too take the place of the one it was made from."""
        self.operators[fused.output.name], self.tensors[node] = fused, fused.output

    def layer(self, node: fx.Node) -> Any:
        """The module that a node calls; none where it calls a function."""
        return self.network.get_submodule(str(node.target)) if node.op == "call_module" else None

    def name(self, node: fx.Node) -> str:
        """A new name: the module's, or that of the Sequential around it if that has no other convolution."""
        name = place(node) or node.name
        outer = name.rpartition(".")[0]
        around = self.network.get_submodule(outer)
        if outer and isinstance(around, nn.Sequential):
            convolutions = [layer for layer in around.modules() if isinstance(layer, nn.Conv2d)]
            name = outer if convolutions == [self.layer(node)] else name
        names = {INPUT, OUTPUT, *self.operators}
        return next(
            candidate
            for candidate in (name, *(f"{name}_{count}" for count in range(2, 10_000)))
            if candidate not in names
        )

    def require(self, node: fx.Node, condition: bool, detail: str, supported: str) -> None:
        if not condition:
            self.refuse(node, detail, supported)

    def refuse(self, node: fx.Node, detail: str, supported: str) -> NoReturn:
        called = f"{getattr(node.target, '__name__', node.target)} (node {node.name})"
        what = called if self.layer(node) is None else type(self.layer(node)).__name__
        detail = f" {detail}" if detail else ""
        raise InputError(f"{place(node) or 'network'}: {what}{detail} cannot be lowered; supported: {supported}")


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
    **dict.fromkeys([operator.add, torch.add, "add"], _Lowering.sum),
    **dict.fromkeys([nn.Flatten, torch.flatten, torch.squeeze, torch.reshape], _Lowering.flatten),
    **dict.fromkeys(["flatten", "squeeze", "view", "reshape"], _Lowering.flatten),
}


def _pair(setting: int | Pair) -> Pair:
    return setting if isinstance(setting, tuple) else (setting, setting)

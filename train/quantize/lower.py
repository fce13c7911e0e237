"""Lowering: a torch network as the float graph of `deploy/graph/graph.py`, its BatchNorms and ReLUs fused.

    graph = lower(network, (256, 65))        # log_mel (1, mel, frame, 1) -> logits (1, classes)

torch.fx traces the network down to torch.nn's own modules. What the graph has no operator for is refused,
by the place it has in the network.
"""

import operator
from dataclasses import replace
from typing import Any, NoReturn

import numpy as np
import torch
import torch.nn.functional as F
from torch import fx, nn

from tinyscene.deploy.common.errors import InputError
from tinyscene.deploy.graph.graph import (
    Add,
    AveragePool2D,
    Conv2D,
    Convolution,
    DepthwiseConv2D,
    Graph,
    Kind,
    Mean,
    Tensor,
)
from tinyscene.train.models.cp_mobile import CPMobile, fold_branches

INPUT, OUTPUT = "log_mel", "logits"
SUPPORTED = (
    "Conv2d, BatchNorm2d, ReLU, AvgPool2d, AdaptiveAvgPool2d(1), mean over mel and frame, addition, "
    "Flatten and squeeze after global pooling, Dropout, Identity"
)

Shape = tuple[int, ...]  # torch's unless said otherwise: (batch, channels, mel, frame) or (batch, channels)
Pair = tuple[int, int]  # mel, frame

_BATCH = 2  # of the trial run: with 1, squeeze() would drop it
_NOTHING_IN_EVAL = (nn.Identity, nn.Dropout, nn.Dropout2d)


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
    return _Lowering(network, source, *_trace(network, shape)).graph()


@torch.inference_mode()
def _trace(network: nn.Module, shape: Pair) -> tuple[fx.Graph, dict[fx.Node, Shape]]:
    """The network's fx graph, without what does nothing in evaluation, and the shape that each node makes."""
    tracer = fx.Tracer()
    trial = torch.randn(_BATCH, 1, *shape, generator=torch.Generator().manual_seed(0))
    try:
        expected = network(trial.clone())
        traced = tracer.trace(network)
        for node in traced.nodes:  # so that the readers of a tensor are those that compute
            if node.op == "call_module" and type(network.get_submodule(node.target)) in _NOTHING_IN_EVAL:
                node.replace_all_uses_with(_operands(node)[0])
                traced.erase_node(node)
        interpreter = fx.Interpreter(network, garbage_collect_values=False, graph=traced)
        actual = interpreter.run(trial.clone())
    except Exception as error:  # torch and the network raise what they like
        place = next(reversed(tracer.module_stack.values()), ("network", None))[0]  # what was being called
        reason = (str(error) or type(error).__name__).strip().splitlines()[0][:200]
        raise InputError(f"{place}: torch.fx cannot trace it on a log-mel of {shape} ({reason})") from None
    if isinstance(expected, torch.Tensor) and not torch.allclose(expected, actual, equal_nan=True):
        raise InputError("network: torch.fx traces it as something else; avoid hooks and in-place changes")
    return traced, {node: tuple(getattr(value, "shape", ())) for node, value in interpreter.env.items()}


class _Lowering:
    """One walk over a traced network, node by node in the order they run."""

    def __init__(self, network: nn.Module, source: Tensor, traced: fx.Graph, shapes: dict[fx.Node, Shape]) -> None:
        self.network, self.source, self.traced, self.shapes = network, source, traced, shapes
        self.tensors: dict[fx.Node, Tensor] = {}  # what holds a node's value; fused nodes share one
        self.operators: dict[str, Kind] = {}  # by the name of their output, in order

    def graph(self) -> Graph:
        for node in self.traced.nodes:
            self.lower(node)
        return Graph(self.source, tuple(self.operators.values()))

    def lower(self, node: fx.Node) -> None:
        layer = self.layer(node)
        match node.op, node.target if layer is None else type(layer):  # not a subclass, which may do otherwise
            case "placeholder", _:
                self.require(node, not self.tensors, "as a second input", "networks of one input")
                self.tensors[node] = self.source
            case "call_module", nn.Conv2d:
                self.convolution(node)
            case "call_module", nn.BatchNorm2d:
                self.norm(node)
            case "call_module", nn.AvgPool2d:
                self.pool(node)
            case ("call_module", nn.ReLU) | ("call_function", F.relu | torch.relu) | ("call_method", "relu"):
                self.relu(node)
            case ("call_function", operator.add | torch.add) | ("call_method", "add"):
                self.sum(node)
            case ("call_module", nn.AdaptiveAvgPool2d) | ("call_function", torch.mean) | ("call_method", "mean"):
                self.mean(node)
            case ("call_module", nn.Flatten) | ("call_function", torch.flatten | torch.squeeze):
                self.flatten(node)
            case "call_method", "flatten" | "squeeze":
                self.flatten(node)
            case "output", _:
                self.finish(node)
            case _:
                self.refuse(node, "", SUPPORTED)

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

    def norm(self, node: fx.Node) -> None:
        layer: nn.BatchNorm2d = self.layer(node)
        supported = "BatchNorm2d directly after a convolution, with running statistics"
        fused = self.fusable(node, Convolution, supported)
        self.require(node, not fused.relu, "after a ReLU", supported)
        if layer.running_mean is None or layer.running_var is None:
            self.refuse(node, "without running statistics", supported)
        gain = (layer.running_var.double() + layer.eps).rsqrt()  # (outputs,)
        shift = -layer.running_mean.double() * gain
        if layer.affine:
            gain, shift = gain * layer.weight.double(), shift * layer.weight.double() + layer.bias.double()
        gain, shift = gain.detach().numpy(), shift.detach().numpy()
        with np.errstate(all="ignore"):  # the graph refuses what is not finite
            weights = (fused.weights * fused.along_channels(gain)).astype(np.float32)
            bias = (fused.bias * gain + shift).astype(np.float32)
        self.fuse(node, replace(fused, weights=weights, bias=bias))

    def relu(self, node: fx.Node) -> None:
        supported = "ReLU directly after a convolution or an addition"
        self.fuse(node, replace(self.fusable(node, Convolution | Add, supported), relu=True))

    def sum(self, node: fx.Node) -> None:
        operands, supported = _operands(node), "addition of two tensors of one shape"
        plain = len(operands) == len(node.args) == 2 and not node.kwargs
        self.require(node, plain, "of other than two tensors", supported)
        first, second = (self.shapes[operand] for operand in operands)
        self.require(node, first == second, f"of {first} and {second}", supported)
        self.add(node, Add, self.tensors[operands[0]].shape)

    def pool(self, node: fx.Node) -> None:
        layer: nn.AvgPool2d = self.layer(node)
        size, stride, before = (_pair(setting) for setting in (layer.kernel_size, layer.stride, layer.padding))
        counted = layer.count_include_pad or before == (0, 0)
        self.require(node, counted, "with count_include_pad=False", "pools that count their padding")
        self.require(node, not layer.ceil_mode, "with ceil_mode=True", "ceil_mode=False")
        self.require(node, layer.divisor_override is None, "with a divisor_override", "means of the whole window")
        self.window(node, AveragePool2D, size, stride, before, window=size)

    def mean(self, node: fx.Node) -> None:
        if node.op == "call_module":
            whole = self.shapes[node][2:] == (1, 1)
        else:
            axes = node.kwargs.get("dim", node.args[1] if len(node.args) > 1 else None)
            numbers = [axis % 4 for axis in axes if isinstance(axis, int)] if isinstance(axes, tuple | list) else []
            whole = sorted(numbers) == [2, 3] and set(node.kwargs) <= {"input", "dim", "keepdim"}
        self.require(node, whole, "over other than all of mel and frame", "global pooling")
        self.add(node, Mean, (1, self.shapes[node][1]))

    def flatten(self, node: fx.Node) -> None:
        """What flatten and squeeze make of (batch, channels, 1, 1), the graph's Mean has made already."""
        source, shape = self.tensors[_operands(node)[0]], self.shapes[node]
        is_flat = shape[:1] == (_BATCH,) and source.shape == (1, *shape[1:2])
        self.require(node, is_flat, f"to {shape}", "Flatten and squeeze to (batch, channels) after global pooling")
        self.tensors[node] = source

    def finish(self, node: fx.Node) -> None:
        results = [self.tensors[operand].name for operand in _operands(node)]
        self.require(
            node, results == list(self.operators)[-1:], "of other than the last result", "one result, made last"
        )
        _, last = self.operators.popitem()
        self.operators[OUTPUT] = replace(last, output=replace(last.output, name=OUTPUT))

    def window(self, node: fx.Node, kind: Any, size: Any, stride: Any, before: Any, **settings: Any) -> None:
        """Append an operator with a window; its padding at the end reaches no further than some window does."""
        input_shape, shape = self.tensors[_operands(node)[0]].shape, self.shapes[node]
        self.require(node, len(input_shape) == 4, "after global pooling", "convolutions and pools before it")
        sides = zip(shape[2:], stride, size, before, input_shape[1:3], strict=True)
        bottom, right = (
            max((count - 1) * step + span - first - size_in, 0) for count, step, span, first, size_in in sides
        )
        padding = (before[0], bottom, before[1], right)
        self.add(node, kind, (1, *shape[2:], shape[1]), stride=stride, padding=padding, **settings)

    def add(self, node: fx.Node, kind: Any, shape: Shape, **settings: Any) -> None:
        """Append the operator that makes this node's value; shape is the graph's."""
        inputs = tuple(self.tensors[operand].name for operand in _operands(node))
        self.tensors[node] = Tensor(self.name(node), shape)
        self.operators[self.tensors[node].name] = kind(inputs=inputs, output=self.tensors[node], **settings)

    def fusable(self, node: fx.Node, kinds: Any, supported: str) -> Any:
        """The operator that makes what this node alone reads (so the node may as well work in place)."""
        source = _operands(node)[0]
        operator = self.operators.get(self.tensors[source].name)
        self.require(node, isinstance(operator, kinds), "after something else", supported)
        self.require(node, len(source.users) == 1, "of what others read too", supported)
        return operator

    def fuse(self, node: fx.Node, fused: Kind) -> None:
        """Let an operator that does this node's work too take the place of the one it was made from."""
        self.operators[fused.output.name], self.tensors[node] = fused, fused.output

    def layer(self, node: fx.Node) -> Any:
        """The module that a node calls; none where it calls a function."""
        return self.network.get_submodule(str(node.target)) if node.op == "call_module" else None

    def name(self, node: fx.Node) -> str:
        """A new name: the module's, or that of the Sequential around it if that has no other convolution."""
        name = _place(node) or node.name
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
        raise InputError(f"{_place(node) or 'network'}: {what}{detail} cannot be lowered; supported: {supported}")


def _place(node: fx.Node) -> str:
    """The path of the module that a node is, or is called in; empty for the network itself."""
    stack = list(node.meta.get("nn_module_stack", {}).values())
    return str(node.target) if node.op == "call_module" else stack[-1][0] if stack else ""


def _operands(node: fx.Node) -> list[fx.Node]:
    return [value for value in (*node.args, *node.kwargs.values()) if isinstance(value, fx.Node)]


def _pair(setting: int | Pair) -> Pair:
    return setting if isinstance(setting, tuple) else (setting, setting)

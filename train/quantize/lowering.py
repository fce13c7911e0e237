"""What lowering a torch network keeps on its way, node by node, and how it adds an operator to the graph."""

from dataclasses import replace
from typing import Any, NoReturn

from torch import fx, nn

from tinyscene.deploy.common.errors import InputError
from tinyscene.deploy.graph.operators import Kind, Mean
from tinyscene.deploy.graph.tensor import Tensor
from tinyscene.train.quantize.trace import Traced, operands, place

INPUT, OUTPUT = "log_mel", "logits"

Shape = tuple[int, ...]  # torch's unless said otherwise: (batch, channels, mel, frame) or (batch, channels)


class Lowering:
    """A traced network and the operators so far; tensors are named after the modules that make them."""

    def __init__(self, network: nn.Module, source: Tensor, traced: Traced) -> None:
        self.network, self.source, self.traced, self.shapes = network, source, traced.graph, traced.shapes
        self.tensors: dict[fx.Node, Tensor] = {}  # what holds a node's value; fused nodes share one
        self.operators: dict[str, Kind] = {}  # by the name of their output, in order

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
        """Append the operator that makes this node's value of what the node reads; shape is the graph's."""
        self.append(node, kind, [self.tensors[operand] for operand in operands(node)], shape, **settings)

    def append(self, node: fx.Node, kind: Any, sources: list[Tensor], shape: Shape, **settings: Any) -> None:
        self.tensors[node] = Tensor(self.name(node), shape)
        inputs = tuple(source.name for source in sources)
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

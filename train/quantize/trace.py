"""A torch network as torch.fx traces it, down to torch.nn's own modules, with the shape of what each node makes."""

import math
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import fx, nn

from tinyscene.deploy.common.errors import InputError

BATCH = 2  # of the trial run: with 1, squeeze() would drop it
Shape = tuple[int, ...]  # (batch, channels, mel, frame) or (batch, features)
Bounds = tuple[float, float]

UNBOUNDED = (-math.inf, math.inf)

_NOTHING_IN_EVAL = (nn.Identity, nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.AlphaDropout)
_DROPOUTS = (F.dropout, F.dropout1d, F.dropout2d, F.alpha_dropout)
_POOLS = {  # functions, the modules that do the same, and the names of the arguments after the input
    F.avg_pool2d: (
        nn.AvgPool2d,
        ("kernel_size", "stride", "padding", "ceil_mode", "count_include_pad", "divisor_override"),
    ),
    F.max_pool2d: (nn.MaxPool2d, ("kernel_size", "stride", "padding", "dilation", "ceil_mode", "return_indices")),
}


@dataclass(frozen=True)
class Traced:
    """A network's nodes, without those that do nothing in evaluation."""

    graph: fx.Graph
    shapes: dict[fx.Node, Shape]  # of each node but those that make sizes


@torch.inference_mode()
def trace(network: nn.Module, shape: tuple[int, int]) -> Traced:
    """Trace a network in evaluation mode on log-mel (batch, 1, mel, frame). Raises InputError if torch.fx cannot."""
    tracer = fx.Tracer()
    trial = torch.randn(BATCH, 1, *shape, generator=torch.Generator().manual_seed(0))
    try:
        expected = network(trial.clone())
        traced = tracer.trace(network)
        for node in traced.nodes:  # so that the readers of a tensor are those that compute
            if _does_nothing(node, network):
                node.replace_all_uses_with(operands(node)[0])
                traced.erase_node(node)
        interpreter = fx.Interpreter(network, garbage_collect_values=False, graph=traced)
        actual = interpreter.run(trial.clone())
    except Exception as error:  # torch and the network raise what they like
        where = next(reversed(tracer.module_stack.values()), ("network", None))[0]  # what was being called
        reason = (str(error) or type(error).__name__).strip().splitlines()[0][:200]
        raise InputError(f"{where}: torch.fx cannot trace it on a log-mel of {shape} ({reason})") from None
    if isinstance(expected, torch.Tensor) and not torch.allclose(expected, actual, equal_nan=True):
        raise InputError("network: torch.fx traces it as something else; avoid hooks and in-place changes")
    made = interpreter.env.items()
    shapes = {node: getattr(value, "shape", ()) for node, value in made if not isinstance(value, int | torch.Size)}
    return Traced(traced, {node: tuple(shape) for node, shape in shapes.items()})


def _does_nothing(node: fx.Node, network: nn.Module) -> bool:
    if node.op == "call_module":
        return type(network.get_submodule(str(node.target))) in _NOTHING_IN_EVAL
    training = node.kwargs.get("training", node.args[2] if len(node.args) > 2 else True)
    is_dropout = node.op == "call_function" and node.target in _DROPOUTS and training is False
    return is_dropout or (node.op, node.target) == ("call_method", "contiguous")


def called_layer(node: fx.Node) -> Any:
    """The module that does what a function of pooling does with its arguments; none for other nodes."""
    if node.op != "call_function" or node.target not in _POOLS:
        return None
    kind, names = _POOLS[node.target]  # type: ignore[index]
    settings: dict[str, Any] = dict(zip(names, node.args[1:], strict=False))
    return kind(**settings | {name: value for name, value in node.kwargs.items() if name in names})


def bounds_of(node: fx.Node, layer: nn.Module | None) -> Bounds:
    """The bounds of an activation, infinite where none is given, NaN where one is computed."""
    if layer is None and node.target not in (torch.clamp, "clamp", F.hardtanh):
        return (0.0, 6.0) if node.target is F.relu6 else (0.0, math.inf)
    if layer is not None:
        return (0.0, math.inf) if isinstance(layer, nn.ReLU) else (float(layer.min_val), float(layer.max_val))  # type: ignore[arg-type]
    settings: dict[str, Any] = {"min": None, "max": None}
    settings |= dict(zip(settings, node.args[1:], strict=False))
    settings |= {name.removesuffix("_val"): value for name, value in node.kwargs.items()}
    infinite = (-1.0, 1.0) if node.target is F.hardtanh else UNBOUNDED
    ends = [
        settings[name] if settings[name] is not None else end
        for name, end in zip(("min", "max"), infinite, strict=True)
    ]
    low, high = (float(end) if isinstance(end, int | float) else math.nan for end in ends)
    return low, high


def place(node: fx.Node) -> str:
    """The path of the module that a node is, or is called in; empty for the network itself."""
    stack = list(node.meta.get("nn_module_stack", {}).values())
    return str(node.target) if node.op == "call_module" else stack[-1][0] if stack else ""


def operands(node: fx.Node) -> list[fx.Node]:
    return [value for value in (*node.args, *node.kwargs.values()) if isinstance(value, fx.Node)]

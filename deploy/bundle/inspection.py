"""Bytes, operations and quantization errors of a graph, tensor by tensor: what `tinyscene inspect` shows."""

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace
from itertools import islice

import numpy as np
from numpy.typing import NDArray

from tinyscene.deploy.bundle.features import input_log_mel
from tinyscene.deploy.common.errors import InputError
from tinyscene.deploy.frontend.log_mel import FrontEnd
from tinyscene.deploy.graph.graph import Graph
from tinyscene.deploy.graph.operator import Convolution
from tinyscene.deploy.graph.operators import Kind
from tinyscene.deploy.graph.reference import run_all, run_float
from tinyscene.deploy.graph.tensor import INT8_MAX, INT8_MIN, Tensor

Float32 = NDArray[np.float32]

BATCH = 16  # clips
LEAST_ENERGY = 1e-30


@dataclass(frozen=True)
class TensorCost:
    """A tensor of an integer graph, and the weights and operations that compute it."""

    name: str
    kind: str  # of its operator, or "input"
    shape: tuple[int, ...]
    scale: float
    zero_point: int
    low: float  # the real values it can hold
    high: float
    parameters: int = 0
    bytes: int = 0
    macs: int = 0


@dataclass(frozen=True)
class TensorErrors:
    """Quantization error of a tensor."""

    sqnr_db: float  # 10 log10(sum float**2 / sum (float - integer)**2), with the errors of all tensors before it
    alone: float  # mean absolute error of the logits when only this tensor and its weights are quantized


def inspect_graph(graph: Graph) -> list[TensorCost]:
    """The tensors in the graph's order, the input first."""
    rows = [_cost(graph.input, "input")]
    for operator in graph.operators:
        row = _cost(operator.output, operator.kind)
        if isinstance(operator, Convolution):
            parameters = operator.weights.size + operator.bias.size
            size = operator.weights.nbytes + operator.bias.nbytes
            row = replace(row, parameters=parameters, bytes=size, macs=operator.macs)
        rows.append(row)
    return rows


@dataclass
class _Sums:
    """Of one tensor over all clips, each in the order of the values."""

    signal: float = 0.0
    noise: float = 0.0
    alone: float = 0.0


def inspect_errors(
    graph: Graph, float_graph: Graph, front_end: FrontEnd, pcm: Iterable[NDArray[np.int16]]
) -> dict[str, TensorErrors]:
    """The errors of each tensor, by name, on int16 clips, each (samples,); a batch of them in memory at a time.

    The float graph takes the fixed-point log-mel before it is rounded to int8, so that every processor gets the same
    figures; `tinyscene verify` compares with the float front end. Raises InputError if there is no clip.
    """
    log_mel = input_log_mel(graph, front_end)
    sums = {name: _Sums() for name in graph.tensors}
    clips, count = iter(pcm), 0
    while batch := list(islice(clips, BATCH)):
        values = np.stack(batch)
        _add_errors(sums, graph, float_graph, log_mel.log_mel(values)[..., None], log_mel(values)[..., None])
        count += len(batch)
    if not count:
        raise InputError("no clip to measure quantization errors on")
    logits = count * math.prod(graph.output.shape)
    return {
        name: TensorErrors(
            sqnr_db=10 * math.log10(max(total.signal, LEAST_ENERGY) / max(total.noise, LEAST_ENERGY)),
            alone=total.alone / logits,
        )
        for name, total in sums.items()
    }


def _add_errors(
    sums: dict[str, _Sums], graph: Graph, float_graph: Graph, log_mel: Float32, features: NDArray[np.int8]
) -> None:
    """Add the errors of a batch: its log-mel (batch, mel, frame, 1) and the same in int8."""
    exact, integers = run_all(float_graph, log_mel), run_all(graph, features)
    logits = float_graph.output.name
    for index, (name, values) in enumerate(integers.items()):
        quantization, total = graph.tensors[name].q, sums[name]
        noise = exact[name] - quantization.dequantize(values)
        alone = dict(exact)
        if index == 0:
            alone[name] = quantization.dequantize(values)
        else:
            pair = graph.operators[index - 1], float_graph.operators[index - 1]
            y = _run(with_rounded_weights(*pair, graph), float_graph, alone)
            alone[name] = quantization.dequantize(quantization.quantize(y))
        for operator in float_graph.operators[index:]:
            alone[operator.output.name] = _run(operator, float_graph, alone)
        total.signal = _sum(np.square(exact[name], dtype=np.float64), total.signal)
        total.noise = _sum(np.square(noise, dtype=np.float64), total.noise)
        total.alone = _sum(np.abs(alone[logits] - exact[logits]), total.alone)


def _cost(tensor: Tensor, kind: str) -> TensorCost:
    """A tensor that no weights compute."""
    q = tensor.q
    low, high = (q.scale * (end - q.zero_point) for end in (INT8_MIN, INT8_MAX))
    return TensorCost(tensor.name, kind, tensor.shape, q.scale, q.zero_point, low, high)


def with_rounded_weights(operator: Kind, exact: Kind, graph: Graph) -> Kind:
    """The float graph's operator with the integer operator's weights and bias."""
    if not isinstance(operator, Convolution) or not isinstance(exact, Convolution):
        return exact
    weights = operator.weights * operator.along_channels(operator.scales)
    bias = operator.bias * (graph.sources(operator)[0].q.scale * operator.scales.astype(np.float64))
    return replace(exact, weights=weights.astype(np.float32), bias=bias.astype(np.float32))


def _run(operator: Kind, graph: Graph, values: dict[str, Float32]) -> Float32:
    return run_float(operator, graph.sources(operator), [values[name] for name in operator.inputs])


def _sum(values: NDArray[np.floating], total: float) -> float:
    """`total` and the values, added in their order: that of numpy's sum() depends on the processor."""
    return float(np.cumsum(np.concatenate([[total], values.ravel()]), dtype=np.float64)[-1])

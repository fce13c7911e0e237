"""Where a bundle's bytes, operations and errors are, tensor by tensor: what `tinyscene inspect` shows.

Two figures say where the error of the integers comes from. `sqnr_db` is how far a tensor's error, gathered
from the input to there, lies below its signal: 10 log10(sum float**2 / sum (float - integer)**2). `alone` is
the mean absolute error of the logits when that tensor, with the weights that make it, is the only one rounded
in the float graph: large where rounding matters.
"""

import math
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tinyscene.deploy.bundle.features import input_log_mel
from tinyscene.deploy.frontend.log_mel import PCM_SCALE, FrontEnd
from tinyscene.deploy.graph.graph import INT8_MAX, INT8_MIN, Convolution, Graph, Kind
from tinyscene.deploy.graph.reference import run_all, run_float

Float32 = NDArray[np.float32]

NO_WEIGHTS = {"parameters": 0, "bytes": 0, "macs": 0}


def inspect_graph(graph: Graph) -> list[dict[str, Any]]:
    """Each tensor, and the weights and work that make it.

    Keys: name, kind, shape, scale, zero_point, low and high (the reals it can hold), parameters, bytes, macs.
    """
    rows = [{"name": graph.input.name, "kind": "input", **_tensor(graph, graph.input.name), **NO_WEIGHTS}]
    for operator in graph.operators:
        cost = NO_WEIGHTS
        if isinstance(operator, Convolution):
            parameters = operator.weights.size + operator.bias.size
            size = operator.weights.nbytes + operator.bias.nbytes
            cost = {"parameters": parameters, "bytes": size, "macs": operator.macs}
        name = operator.output.name
        rows.append({"name": name, "kind": operator.kind, **_tensor(graph, name), **cost})
    return rows


def inspect_errors(
    graph: Graph, float_graph: Graph, front_end: FrontEnd, pcm: NDArray[np.int16]
) -> dict[str, dict[str, float]]:
    """For each tensor the errors on int16 clips (batch, samples): `sqnr_db` and `alone`, as above."""
    features = input_log_mel(graph, front_end)(pcm)[..., None]
    exact = run_all(float_graph, front_end.log_mel(pcm / PCM_SCALE)[..., None])
    integers = run_all(graph, features)
    errors = {}
    for index, (name, values) in enumerate(integers.items()):
        quantization = graph.tensors[name].q
        noise = exact[name] - quantization.dequantize(values)
        alone = dict(exact)
        if index == 0:
            alone[name] = quantization.dequantize(values)
        else:
            pair = graph.operators[index - 1], float_graph.operators[index - 1]
            y = _run(_with_rounded_weights(*pair, graph), float_graph, alone)
            alone[name] = quantization.dequantize(quantization.quantize(y))
        for operator in float_graph.operators[index:]:
            alone[operator.output.name] = _run(operator, float_graph, alone)
        logits = float_graph.output.name
        errors[name] = {
            "sqnr_db": 10 * math.log10(_energy(exact[name]) / _energy(noise)),
            "alone": float(np.abs(alone[logits] - exact[logits]).mean()),
        }
    return errors


def _tensor(graph: Graph, name: str) -> dict[str, Any]:
    tensor, q = graph.tensors[name], graph.tensors[name].q
    low, high = (q.scale * (end - q.zero_point) for end in (INT8_MIN, INT8_MAX))
    return {"shape": list(tensor.shape), "scale": q.scale, "zero_point": q.zero_point, "low": low, "high": high}


def _with_rounded_weights(operator: Kind, exact: Kind, graph: Graph) -> Kind:
    """The float graph's operator with the integer operator's weights and bias."""
    if not isinstance(operator, Convolution) or not isinstance(exact, Convolution):
        return exact
    weights = operator.weights * operator.along_channels(operator.scales)
    bias = operator.bias * (graph.sources(operator)[0].q.scale * operator.scales.astype(np.float64))
    return replace(exact, weights=weights.astype(np.float32), bias=bias.astype(np.float32))


def _run(operator: Kind, graph: Graph, values: dict[str, Float32]) -> Float32:
    return run_float(operator, graph.sources(operator), [values[name] for name in operator.inputs])


def _energy(values: Float32) -> float:
    return max(float(np.square(values, dtype=np.float64).sum()), 1e-30)

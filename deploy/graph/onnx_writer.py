"""Graph -> ONNX, float or int8 (int8 in, int8 out).

    content = write_onnx(graph, {"labels": [...]})

Activations are NCHW, (batch, channels, mel, frame), with a free batch unless one is given. An integer graph is written
in QDQ form: a float operator between a DequantizeLinear of each input and a QuantizeLinear of its output, which ONNX
Runtime fuses into one integer kernel. It fuses int8 on ARM as it is; on x86 it wants uint8 unless the session sets
`session.qdqisint8allowed` to 1, and computes most operators in float without. Feature settings and labels go into the
file's metadata, as JSON, under `tinyscene`.
"""

import json
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tinyscene.deploy.common.installation import missing
from tinyscene.deploy.common.provenance import METADATA_KEY
from tinyscene.deploy.graph.graph import Graph
from tinyscene.deploy.graph.operator import Activated, Convolution, Pool, Window
from tinyscene.deploy.graph.operators import AveragePool2D, Channels, Concat, Crop, DepthwiseConv2D, Kind, Mean, Repeat
from tinyscene.deploy.graph.tensor import INT8_MAX, INT8_MIN, Tensor

try:
    import onnx
    from onnx import helper, numpy_helper
except ImportError:
    raise missing("onnx", "onnx", "writing ONNX") from None

OPSET = 19  # the first whose DequantizeLinear onnx.reference has
IR_VERSION = 9  # of ONNX 1.14, which brought opset 19; ONNX Runtime takes it since 1.15
BATCH = "batch"
CHANNEL_AXIS = 0  # of weights, (outputs, inputs, height, width)

# A global pool for a Mean, with Flatten behind it if it has two dimensions: of a ReduceMean ONNX Runtime has no
# integer kernel.
OPERATORS = {
    "Conv2D": "Conv",
    "DepthwiseConv2D": "Conv",
    "Add": "Add",
    "AveragePool2D": "AveragePool",
    "MaxPool2D": "MaxPool",
    "Crop": "Slice",
    "Channels": "Slice",
    "Concat": "Concat",
    "Mean": "GlobalAveragePool",
}


def write_onnx(graph: Graph, metadata: dict[str, Any], batch: int | None = None) -> bytes:
    """The bytes of an .onnx file that has passed ONNX's checker. Its tensors keep the graph's names."""
    file = _File(set(graph.tensors), batch or BATCH)
    floats = {graph.input.name: file.as_float(graph.input)}
    for operator in graph.operators:
        if isinstance(operator, Repeat):  # Add repeats what it reads
            floats[operator.output.name] = floats[operator.inputs[0]]
            continue
        _write(file, operator, graph.sources(operator), [floats[name] for name in operator.inputs])
        if operator.output is not graph.output:
            floats[operator.output.name] = file.as_float(operator.output)
    model = file.pack(graph, metadata)
    onnx.checker.check_model(model, full_check=True)
    return model.SerializeToString(deterministic=True)


@dataclass
class _File:
    """A model while it is being written. Its tensors are their names."""

    names: set[str]
    batch: int | str
    nodes: list[onnx.NodeProto] = field(default_factory=list)
    constants: list[onnx.TensorProto] = field(default_factory=list)
    quantizations: dict[str, list[str]] = field(default_factory=dict)  # tensor -> its scale and zero point

    def free(self, name: str) -> str:
        """A name that no other tensor has: a graph's may look like ours."""
        while name in self.names:
            name += "'"
        self.names.add(name)
        return name

    def constant(self, name: str, values: NDArray[Any]) -> str:
        name = self.free(name)
        self.constants.append(numpy_helper.from_array(np.array(values, order="C"), name))
        return name

    def node(self, kind: str, inputs: list[str], output: str, **attributes: Any) -> str:
        self.nodes.append(helper.make_node(kind, inputs, [output], output, **attributes))
        return output

    def quantization(self, tensor: Tensor) -> list[str]:
        if tensor.name not in self.quantizations:
            scale, zero = np.array(tensor.q.scale, np.float32), np.array(tensor.q.zero_point, np.int8)
            names = [self.constant(f"{tensor.name}/scale", scale), self.constant(f"{tensor.name}/zero", zero)]
            self.quantizations[tensor.name] = names
        return self.quantizations[tensor.name]

    def as_float(self, tensor: Tensor) -> str:
        """The activation as float operators read it."""
        if tensor.quantization is None:
            return tensor.name
        inputs = [tensor.name, *self.quantization(tensor)]
        return self.node("DequantizeLinear", inputs, self.free(f"{tensor.name}/float"))

    def pack(self, graph: Graph, metadata: dict[str, Any]) -> onnx.ModelProto:
        kind = onnx.TensorProto.INT8 if graph.is_integer else onnx.TensorProto.FLOAT
        first, last = (
            helper.make_tensor_value_info(tensor.name, kind, [self.batch, tensor.shape[-1], *tensor.shape[1:-1]])
            for tensor in (graph.input, graph.output)
        )
        model = helper.make_model(
            helper.make_graph(self.nodes, METADATA_KEY, [first], [last], self.constants),
            producer_name=METADATA_KEY,
            ir_version=IR_VERSION,
            opset_imports=[helper.make_opsetid("", OPSET)],
        )
        helper.set_model_props(model, {METADATA_KEY: json.dumps(metadata, separators=(",", ":"))})
        return model


def _write(file: _File, operator: Kind, sources: list[Tensor], inputs: list[str]) -> None:
    """Write one operator of the graph: a chain of nodes, the last of which makes its output."""
    output = operator.output
    if isinstance(operator, Convolution):
        inputs = [*inputs, *_write_weights(file, operator, sources[0])]
    if isinstance(operator, Crop | Channels):
        inputs = [*inputs, *_write_ends(file, operator)]
    chain: list[tuple[str, list[str]]] = []  # kind and the inputs after the first
    if output.quantization:
        scale, zero = file.quantization(output)
        chain.append(("QuantizeLinear", [scale, zero]))
        # QuantizeLinear itself clamps at -128 and 127. For any other bounds the integers are clipped: a Relu
        # between operator and QuantizeLinear would keep ONNX Runtime from fusing them.
        if isinstance(operator, Activated) and operator.integer_bounds != (INT8_MIN, INT8_MAX):
            chain.append(("Clip", _bounds(file, operator, zero)))
    elif isinstance(operator, Activated) and operator.clamp:
        ends = zip(("least", "most"), operator.clamp, strict=True)
        chain.append(("Clip", [file.constant(f"{output.name}/{end}", np.array(v, np.float32)) for end, v in ends]))
    elif isinstance(operator, Activated) and operator.relu:
        chain.append(("Relu", []))
    if isinstance(operator, Mean) and len(output.shape) == 2:
        chain.append(("Flatten", []))
    kinds = [OPERATORS[operator.kind], *(kind for kind, _ in chain)]
    names = [*(file.free(f"{output.name}/{kind}") for kind in kinds[:-1]), output.name]
    file.node(kinds[0], inputs, names[0], **_attributes(operator))
    for (kind, more), before, name in zip(chain, names, names[1:], strict=False):
        file.node(kind, [before, *more], name)


def _bounds(file: _File, operator: Activated, zero: str) -> list[str]:
    """The constants of a Clip of integers."""
    if operator.relu:
        return [zero]
    ends = zip(("least", "most"), operator.integer_bounds, strict=True)
    return [file.constant(f"{operator.output.name}/{end}", np.array(value, np.int8)) for end, value in ends]


def _attributes(operator: Kind) -> dict[str, Any]:
    if isinstance(operator, Concat):
        return {"axis": 1}
    if not isinstance(operator, Window):
        return {}
    top, bottom, left, right = operator.padding
    attributes = {"kernel_shape": operator.size, "strides": operator.stride, "pads": (top, left, bottom, right)}
    if isinstance(operator, Pool):
        return {**attributes, "count_include_pad": 1} if isinstance(operator, AveragePool2D) else attributes
    return {**attributes, "group": operator.output.shape[3] if isinstance(operator, DepthwiseConv2D) else 1}


def _write_ends(file: _File, operator: Crop | Channels) -> list[str]:
    """Where a Slice begins and ends, along mel and frame or along channels."""
    _, mel, frame, channels = operator.output.shape
    axes, first, size = (
        ((2, 3), operator.crop[::2], (mel, frame))
        if isinstance(operator, Crop)
        else ((1,), (operator.first,), (channels,))
    )
    last = [start + length for start, length in zip(first, size, strict=True)]
    settings = {"starts": first, "ends": last, "axes": axes}
    return [file.constant(f"{operator.output.name}/{name}", np.array(v, np.int64)) for name, v in settings.items()]


def _write_weights(file: _File, operator: Convolution, source: Tensor) -> list[str]:
    """Write weights and bias, in an integer graph behind a DequantizeLinear with a scale for each output."""
    name = operator.output.name
    axes = (3, 0, 1, 2) if isinstance(operator, DepthwiseConv2D) else (0, 3, 1, 2)
    weights = file.constant(f"{name}/weights", operator.weights.transpose(axes))
    bias = file.constant(f"{name}/bias", operator.bias)
    if operator.weight_scales is None:
        return [weights, bias]
    scales = {weights: operator.scales, bias: np.float32(source.q.scale) * operator.scales}
    floats = []
    for array, values in scales.items():
        inputs = [array, file.constant(f"{array}/scale", values)]
        if array == weights:  # of int32 there is no zero point to give
            inputs.append(file.constant(f"{array}/zero", np.zeros(len(values), np.int8)))
        floats.append(file.node("DequantizeLinear", inputs, file.free(f"{array}/float"), axis=CHANNEL_AXIS))
    return floats

"""Graph -> .tflite, float or full int8 (int8 in, int8 out), with LiteRT's own flatbuffer schema.

    content = write_tflite(graph, {"labels": [...]})

One TFLite operator for each of the graph's, and beside it what TFLite has no option for: a PAD before a window whose
padding is not TFLite's SAME (which pads a stride of 2 on an even size on the other side, and does not count a pool's
padding); PADV2 before a maximum, where the padding must be less than any value; MAXIMUM and MINIMUM after an operator
with other bounds than a RELU6's; RESHAPE after a mean that keeps its four dimensions. Feature settings and labels go
into the file's metadata, as JSON, under `tinyscene`.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from tinyscene.deploy.common.installation import missing
from tinyscene.deploy.common.provenance import METADATA_KEY
from tinyscene.deploy.graph.graph import Graph
from tinyscene.deploy.graph.operator import Activated, Convolution, Pool, Window
from tinyscene.deploy.graph.operators import (
    AveragePool2D,
    Channels,
    Concat,
    Crop,
    DepthwiseConv2D,
    Kind,
    MaxPool2D,
    Mean,
    Repeat,
)
from tinyscene.deploy.graph.tensor import INT8_MAX, INT8_MIN, Tensor

try:
    import flatbuffers
    from ai_edge_litert import schema_py_generated as schema
except ImportError:
    raise missing("ai-edge-litert", what="writing .tflite") from None

IDENTIFIER = b"TFL3"
SCHEMA_VERSION = 3

FLOAT_VERSION = 1


class _Spelling(NamedTuple):
    """How TFLite spells an operator."""

    code: int
    int8_version: int
    options: Callable[[], Any]


CODE = schema.BuiltinOperator
OPERATORS = {
    "Pad": _Spelling(CODE.PAD, 2, schema.PadOptionsT),
    "Conv2D": _Spelling(CODE.CONV_2D, 3, schema.Conv2DOptionsT),
    "DepthwiseConv2D": _Spelling(CODE.DEPTHWISE_CONV_2D, 3, schema.DepthwiseConv2DOptionsT),
    "Add": _Spelling(CODE.ADD, 2, schema.AddOptionsT),
    "AveragePool2D": _Spelling(CODE.AVERAGE_POOL_2D, 2, schema.Pool2DOptionsT),
    "MaxPool2D": _Spelling(CODE.MAX_POOL_2D, 2, schema.Pool2DOptionsT),
    "Crop": _Spelling(CODE.SLICE, 2, schema.SliceOptionsT),
    "Channels": _Spelling(CODE.SLICE, 2, schema.SliceOptionsT),
    "Concat": _Spelling(CODE.CONCATENATION, 2, schema.ConcatenationOptionsT),
    "Mean": _Spelling(CODE.MEAN, 2, schema.ReducerOptionsT),
    "PadV2": _Spelling(CODE.PADV2, 2, schema.PadV2OptionsT),
    "Maximum": _Spelling(CODE.MAXIMUM, 2, schema.MaximumMinimumOptionsT),
    "Minimum": _Spelling(CODE.MINIMUM, 2, schema.MaximumMinimumOptionsT),
    "Reshape": _Spelling(CODE.RESHAPE, 1, schema.ReshapeOptionsT),
}
ACTIVATION = schema.ActivationFunctionType
CLAMPS = {(0.0, 6.0): ACTIVATION.RELU6, (-1.0, 1.0): ACTIVATION.RELU_N1_TO_1}  # that TFLite fuses


def write_tflite(graph: Graph, metadata: dict[str, Any], small: bool = False) -> bytes:
    """The bytes of a .tflite file.

    `small` leaves out the names of tensors and the scales of biases: a sixth of the flash, and a device has no use for
    them. Some hosts need them: XNNPACK computes a convolution itself only if its bias has scales, and OpenVINO and
    NeSsi refuse a file without names.
    """
    file = _File(small)
    indices = {graph.input.name: file.activation(graph.input)}
    for operator in graph.operators:
        inputs = [indices[name] for name in operator.inputs]
        if isinstance(operator, Repeat):  # ADD repeats what it reads
            indices[operator.output.name] = inputs[0]
            continue
        indices[operator.output.name] = _write(file, operator, graph.sources(operator), inputs)
    return file.pack(indices[graph.input.name], indices[graph.output.name], metadata)


@dataclass
class _File:
    """A model while it is being written."""

    small: bool
    tensors: list[Any] = field(default_factory=list)
    buffers: list[Any] = field(default_factory=lambda: [schema.BufferT()])  # the first is empty, by the format
    operators: list[Any] = field(default_factory=list)
    codes: list[tuple[int, int]] = field(default_factory=list)

    def activation(self, tensor: Tensor, suffix: str = "", shape: tuple[int, ...] | None = None) -> int:
        kind = schema.TensorType.INT8 if tensor.quantization else schema.TensorType.FLOAT32
        index = self._tensor(tensor.name + suffix, shape or tensor.shape, kind)
        if tensor.quantization:
            self.tensors[index].quantization = _quantization([tensor.q.scale], [tensor.q.zero_point])
        return index

    def constant(self, name: str, values: NDArray[Any]) -> int:
        kinds = {
            np.dtype(np.int8): schema.TensorType.INT8,
            np.dtype(np.int32): schema.TensorType.INT32,
            np.dtype(np.float32): schema.TensorType.FLOAT32,
        }
        index = self._tensor(name, values.shape, kinds[values.dtype])
        self.tensors[index].buffer = self._buffer(values.tobytes())
        return index

    def bound(self, name: str, like: Tensor, value: float) -> int:
        """A constant of one value with the type and quantization of an activation."""
        index = self.constant(name, np.array([value], np.int8 if like.quantization else np.float32))
        if like.quantization:
            self.tensors[index].quantization = _quantization([like.q.scale], [like.q.zero_point])
        return index

    def operator(self, kind: str, inputs: list[int], output: int, options: Any) -> None:
        is_integer = self.tensors[output].type == schema.TensorType.INT8
        key = (OPERATORS[kind].code, OPERATORS[kind].int8_version if is_integer else FLOAT_VERSION)
        if key not in self.codes:
            self.codes.append(key)
        operator = schema.OperatorT()
        operator.opcodeIndex = self.codes.index(key)
        operator.inputs, operator.outputs = inputs, [output]
        operator.builtinOptionsType = getattr(schema.BuiltinOptions, type(options).__name__.removesuffix("T"))
        operator.builtinOptions = options
        self.operators.append(operator)

    def pack(self, first: int, last: int, metadata: dict[str, Any]) -> bytes:
        graph = schema.SubGraphT()
        graph.tensors, graph.operators, graph.inputs, graph.outputs = self.tensors, self.operators, [first], [last]
        entry = schema.MetadataT()
        entry.name, entry.buffer = METADATA_KEY, self._buffer(json.dumps(metadata, separators=(",", ":")).encode())
        model = schema.ModelT()
        model.version, model.subgraphs, model.buffers, model.metadata = SCHEMA_VERSION, [graph], self.buffers, [entry]
        model.description = METADATA_KEY
        model.operatorCodes = []
        for code, version in self.codes:
            entry = schema.OperatorCodeT()
            entry.builtinCode = entry.deprecatedBuiltinCode = code  # none of ours is beyond the old field's 127
            entry.version = version
            model.operatorCodes.append(entry)
        builder = flatbuffers.Builder(1 << 18)
        builder.Finish(model.Pack(builder), IDENTIFIER)
        return bytes(builder.Output())

    def _tensor(self, name: str, shape: tuple[int, ...], kind: int) -> int:
        tensor = schema.TensorT()
        tensor.name = None if self.small else name
        tensor.shape, tensor.type = list(shape), kind
        self.tensors.append(tensor)
        return len(self.tensors) - 1

    def _buffer(self, content: bytes) -> int:
        buffer: Any = schema.BufferT()
        buffer.data = np.frombuffer(content, np.uint8)
        self.buffers.append(buffer)
        return len(self.buffers) - 1


def _write(file: _File, operator: Kind, sources: list[Tensor], inputs: list[int]) -> int:
    """Write one operator of the graph and return the index of its output."""
    if isinstance(operator, Mean):
        return _write_mean(file, operator, inputs)
    clamps = _clamps(operator)
    output = file.activation(operator.output, "/before its bounds" if clamps else "")
    padding = schema.Padding.VALID
    if isinstance(operator, Window) and any(operator.padding):
        if _is_same(operator, sources[0]):
            padding = schema.Padding.SAME
        else:
            inputs = [_write_pad(file, operator, sources[0], inputs[0])]
    if isinstance(operator, Convolution):
        inputs = [*inputs, *_write_weights(file, operator, sources[0])]
    if isinstance(operator, Crop | Channels):
        begin = (0, *operator.crop[::2], 0) if isinstance(operator, Crop) else (0, 0, 0, operator.first)
        places = {"begin": begin, "size": operator.output.shape}.items()
        inputs += [file.constant(f"{operator.output.name}/{name}", np.array(each, np.int32)) for name, each in places]
    file.operator(operator.kind, inputs, output, _options(operator, padding))
    for number, (kind, bound) in enumerate(clamps, 1):
        before, output = output, file.activation(operator.output, "" if number == len(clamps) else "/from below")
        constant = file.bound(f"{operator.output.name}/{kind}", operator.output, bound)
        file.operator(kind, [before, constant], output, schema.MaximumMinimumOptionsT())
    return output


def _write_mean(file: _File, operator: Mean, inputs: list[int]) -> int:
    """Kernels of a MEAN that keeps its dimensions round otherwise than those of one that does not."""
    tensor, keeps = operator.output, len(operator.output.shape) == 4
    flat = (1, tensor.shape[-1])
    mean = file.activation(tensor, "/flat" if keeps else "", flat)
    axes = file.constant("axes", np.array([1, 2], np.int32))
    file.operator(operator.kind, [*inputs, axes], mean, _options(operator, schema.Padding.VALID))
    if not keeps:
        return mean
    output, options = file.activation(tensor), schema.ReshapeOptionsT()
    options.newShape = list(tensor.shape)
    shape = file.constant(f"{tensor.name}/shape", np.array(tensor.shape, np.int32))
    file.operator("Reshape", [mean, shape], output, options)
    return output


def _clamps(operator: Kind) -> list[tuple[str, float]]:
    """What keeps an output within bounds that TFLite does not fuse: MAXIMUM, MINIMUM or both, and their constants."""
    if not isinstance(operator, Activated) or operator.clamp is None or operator.clamp in CLAMPS:
        return []
    if operator.output.quantization is None:
        return [("Maximum", operator.clamp[0]), ("Minimum", operator.clamp[1])]
    low, high = operator.integer_bounds
    return [*([("Maximum", low)] * (low > INT8_MIN)), *([("Minimum", high)] * (high < INT8_MAX))]


def _options(operator: Kind, padding: int) -> Any:
    options = OPERATORS[operator.kind].options()
    if isinstance(operator, Window):
        options.padding = padding
        options.strideH, options.strideW = operator.stride
    if isinstance(operator, Convolution):
        options.dilationHFactor = options.dilationWFactor = 1
    if isinstance(operator, DepthwiseConv2D):
        options.depthMultiplier = 1
    if isinstance(operator, Pool):
        options.filterHeight, options.filterWidth = operator.window
    if isinstance(operator, Concat):
        options.axis = 3
    if isinstance(operator, Activated):
        fused = ACTIVATION.RELU if operator.relu else ACTIVATION.NONE
        options.fusedActivationFunction = CLAMPS.get(operator.bounds, fused)
    return options


def _is_same(operator: Window, source: Tensor) -> bool:
    """Whether TFLite's SAME is the operator's padding. Of a mean it is not: SAME leaves the padding out of it."""
    if isinstance(operator, AveragePool2D):
        return False
    before_after = (operator.padding[:2], operator.padding[2:])
    for (before, after), size, reach, stride in zip(
        before_after, source.shape[1:3], operator.size, operator.stride, strict=True
    ):
        outputs = -(-size // stride)
        needed = max((outputs - 1) * stride + reach - size, 0)
        if (before, after) != (needed // 2, needed - needed // 2):
            return False
    return True


def _write_pad(file: _File, operator: Window, source: Tensor, index: int) -> int:
    top, bottom, left, right = operator.padding
    _, height, width, channels = source.shape
    shape = (1, height + top + bottom, width + left + right, channels)
    amounts = np.array([[0, 0], [top, bottom], [left, right], [0, 0]], np.int32)
    output = file.activation(source, f"/padded for {operator.output.name}", shape)
    constant = file.constant(f"{operator.output.name}/padding", amounts)
    is_least = source.quantization is not None and source.q.zero_point == INT8_MIN  # the zero that PAD pads with
    if isinstance(operator, MaxPool2D) and not is_least:
        least = INT8_MIN if source.quantization else float(np.finfo(np.float32).min)
        value = file.bound(f"{operator.output.name}/padded with", source, least)
        file.operator("PadV2", [index, constant, value], output, schema.PadV2OptionsT())
    else:
        file.operator("Pad", [index, constant], output, schema.PadOptionsT())
    return output


def _write_weights(file: _File, operator: Convolution, source: Tensor) -> list[int]:
    name = operator.output.name
    weights, bias = file.constant(f"{name}/weights", operator.weights), file.constant(f"{name}/bias", operator.bias)
    if operator.weight_scales is not None:
        zeros = [0] * len(operator.scales)
        file.tensors[weights].quantization = _quantization(operator.scales.tolist(), zeros, operator.channel_axis)
        if not file.small:
            scales = np.float32(source.q.scale) * operator.scales
            file.tensors[bias].quantization = _quantization(scales.tolist(), zeros)
    return [weights, bias]


def _quantization(scales: list[float], zero_points: list[int], axis: int = 0) -> Any:
    parameters = schema.QuantizationParametersT()
    parameters.scale, parameters.zeroPoint, parameters.quantizedDimension = scales, zero_points, axis
    return parameters

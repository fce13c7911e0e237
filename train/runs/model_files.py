"""Exported files as they are deployed: the multiplications of their operators, the bytes of the constants stored."""

import importlib
from dataclasses import replace
from math import prod
from pathlib import Path

from tinyscene.deploy.common.errors import InputError
from tinyscene.deploy.common.installation import missing
from tinyscene.train.runs.count import Count, Layer, macs_of
from tinyscene.train.runs.free_operators import ONNX_FREE
from tinyscene.train.runs.tflite_layers import count_layers

MAX_FILE = 2**28  # bytes of a model that is counted


def count_onnx(path: Path) -> Count:
    """Count an ONNX file's convolutions and matrix products; bytes are those of its constants.

    Raises InputError for a file that is no model, and for a product whose weights cannot be found: nothing
    is passed over in silence.
    """
    onnx = _library("onnx", "onnx")
    try:
        _require_small(path)
        model = onnx.load(path, load_external_data=False)
        _fix_sizes(model.graph)
        model = onnx.shape_inference.infer_shapes(model, strict_mode=True, data_prop=True)
        onnx.checker.check_model(model)
        return _count_onnx(path, model.graph, onnx)
    except Exception as error:  # protobuf, onnx and the C++ beneath raise what they like at a hostile file
        raise InputError(f"{path}: not an ONNX model that can be counted ({_first_line(error)})") from None


def _fix_sizes(graph) -> None:
    """Let the model take one clip, and have every other size inferred: none that the file declares is believed."""
    stored = {tensor.name for tensor in graph.initializer}
    for value in graph.input:
        sizes = value.type.tensor_type.shape.dim
        if value.name not in stored and sizes:
            sizes[0].dim_value = sizes[0].dim_value or 1
    del graph.value_info[:]
    for value in graph.output:
        value.type.tensor_type.ClearField("shape")


def _count_onnx(path: Path, graph, onnx) -> Count:
    tensors = {tensor.name: tensor for tensor in graph.initializer}
    for node in graph.node:
        if node.op_type == "Constant":
            tensors[node.output[0]] = onnx.helper.get_node_attr_value(node, "value")
    weights = {
        name: tuple(tensor.dims) for name, tensor in tensors.items() if tensor.data_type != onnx.TensorProto.INT64
    }
    values = (*graph.value_info, *graph.output)
    shapes = {value.name: tuple(dim.dim_value for dim in value.type.tensor_type.shape.dim) for value in values}
    layers = []
    for node in graph.node:
        if node.op_type in ("DequantizeLinear", "Identity") and node.input[0] in weights:
            weights[node.output[0]] = weights[node.input[0]]  # counted where it is used
            continue
        shape = shapes.get(node.output[0], ())
        macs = _onnx_macs(node, shapes, weights, onnx)
        is_rounding = node.op_type in ("QuantizeLinear", "DequantizeLinear", "Clip")  # scales are no parameters
        used = [] if is_rounding else [weights[name] for name in node.input if name in weights]
        layers.append(Layer(node.name, node.op_type, shape, sum(prod(size) for size in used), macs))
    stored = sum(onnx.numpy_helper.to_array(tensor).nbytes for tensor in tensors.values())
    kinds = {onnx.TensorProto.DataType.Name(tensor.data_type).lower() for tensor in tensors.values()}
    return _deployed(path, layers, stored, kinds)


def _onnx_macs(node, shapes: dict[str, tuple[int, ...]], weights: dict[str, tuple[int, ...]], onnx) -> int:
    """Multiplications of a node. Raises ValueError for an operator, or a size, that is not known."""
    kind = f"{node.domain}.{node.op_type}" if node.domain not in ("", "ai.onnx") else node.op_type
    if kind in ONNX_FREE:
        return 0
    if kind not in ("Conv", "Gemm", "MatMul", "Mul"):
        raise ValueError(f"{kind} {node.name!r} is an operator that is not counted here")
    shape = shapes.get(node.output[0])
    if shape is None or 0 in shape:
        raise ValueError(f"the size of what {kind} {node.name!r} makes is not known")
    return prod(shape) * (1 if kind == "Mul" else _depth(node, weights, onnx))


def _depth(node, weights: dict[str, tuple[int, ...]], onnx) -> int:
    """Multiplications behind each value of a convolution or matrix product."""
    left, right = (weights.get(name) for name in node.input[:2])
    attributes = {attribute.name: onnx.helper.get_attribute_value(attribute) for attribute in node.attribute}
    if node.op_type == "Conv" and right:
        return prod(right[1:])
    if node.op_type != "Conv" and right:
        return right[-1] if attributes.get("transB") else right[-2 if len(right) > 1 else -1]
    if node.op_type != "Conv" and left:
        return left[-2] if attributes.get("transA") else left[-1]
    raise ValueError(f"the weights of {node.op_type} {node.name!r} are not constants")


def count_tflite(path: Path) -> Count:
    """Count a TFLite file's convolutions and fully connected layers; bytes are those of its constant tensors."""
    schema = _library("ai_edge_litert.schema_py_generated", "")
    try:
        _require_small(path)
        content = path.read_bytes()
        if content[4:8] != b"TFL3":
            raise ValueError("it lacks the identifier TFL3")
        model = schema.ModelT.InitFromPackedBuf(content, 0)
        return _count_tflite(path, model, schema)
    except Exception as error:  # flatbuffers follows a hostile file's offsets wherever they lead
        raise InputError(f"{path}: not a TFLite model that can be counted ({_first_line(error)})") from None


def _count_tflite(path: Path, model, schema) -> Count:
    rows = count_layers(model, schema)
    layers = [Layer(*row[:-1]) for row in rows]
    constants = [tensor for tensor in model.subgraphs[0].tensors if model.buffers[tensor.buffer].data is not None]
    stored = sum(len(model.buffers[tensor.buffer].data) for tensor in constants)
    kinds = {code: name.lower() for name, code in vars(schema.TensorType).items() if isinstance(code, int)}
    count = _deployed(path, layers, stored, {kinds[tensor.type] for tensor in constants})
    return replace(count, nessi_macs=sum(row[-1] for row in rows))


def _deployed(path: Path, layers: list[Layer], stored: int, kinds: set[str]) -> Count:
    parameters, macs = sum(layer.parameters for layer in layers), macs_of(layers)
    return Count(str(path), parameters, macs, stored, "+".join(sorted(kinds)), tuple(layers))


def _require_small(path: Path) -> None:
    if path.stat().st_size > MAX_FILE:
        raise ValueError(f"larger than {MAX_FILE >> 20} MB")


def _library(name: str, extra: str):
    try:
        return importlib.import_module(name)
    except ImportError:
        raise missing(name.partition(".")[0], extra) from None


def _first_line(error: Exception) -> str:
    return (str(error) or type(error).__name__).strip().splitlines()[0][:200]

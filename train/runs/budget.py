"""The budget: parameters, bytes and MACs of one second of sound, against the limits of the challenge.

    tinyscene budget RECIPE | RUN | BUNDLE | MODEL.safetensors | MODEL.onnx | MODEL.tflite

A network is counted before BatchNorm is folded, by torchinfo, as NeSsi counts torch models: the DCASE
2024 baseline has 61,148 parameters and 29,419,156 MACs. Exported files are counted as they are deployed:
the multiplications of convolutions and fully connected layers, and the bytes of the constants stored.
"""

import contextlib
import importlib
from dataclasses import asdict, dataclass, replace
from math import prod
from pathlib import Path

import torchinfo
from torch import Tensor, nn
from torchinfo.layer_info import LayerInfo

from tinyscene.deploy.bundle.bundle import INDEX, open_bundle
from tinyscene.deploy.bundle.inspection import inspect_graph
from tinyscene.deploy.common.errors import InputError, OverBudgetError
from tinyscene.deploy.common.installation import missing
from tinyscene.deploy.frontend.log_mel import ONE_SECOND
from tinyscene.deploy.graph.operators import Convolution
from tinyscene.train.data.datasets import SCENES
from tinyscene.train.models import build, finish
from tinyscene.train.recipe import Recipe, load_recipe, recipe_names
from tinyscene.train.runs.free_operators import ONNX_FREE
from tinyscene.train.runs.listening import DECISIONS, Listening, listening_of, second_of_columns, window_by_window
from tinyscene.train.runs.run import load_tensors, model_path, network_with, read_card
from tinyscene.train.runs.tflite_layers import count_layers
from tinyscene.train.training_settings import Budget

MAX_FILE = 2**28  # bytes of a model that is counted
BYTES = {"float32": 4, "float16": 2, "int8": 1}


@dataclass(frozen=True)
class Layer:
    name: str
    kind: str
    output: tuple[int, ...]
    parameters: int
    macs: int


@dataclass(frozen=True)
class DeployedCount:
    """What a network costs with BatchNorm folded, in int8 with int32 biases."""

    parameters: int
    int8_bytes: int
    macs: int


@dataclass(frozen=True)
class Count:
    """What a model costs. `bytes` is in the precision the limits are held against."""

    source: str
    parameters: int
    macs: int
    bytes: int
    precision: str
    layers: tuple[Layer, ...]
    deployed: DeployedCount | None = None  # of a clip; none for a file, which is counted as it is deployed
    nessi_macs: int | None = None  # of a .tflite, as NeSsi counts one: additions and averages, too
    clip_seconds: float = ONE_SECOND
    clip_macs: int | None = None  # of a clip of this length, counted as `macs` is; none where that is one second
    listening: Listening | None = None  # of a second; none for a file, which does not tell its features

    def faults(self, limits: Budget) -> list[str]:
        """One line for each limit that is passed."""
        pairs = (("bytes", self.bytes, limits.max_bytes), ("MACs", self.macs, limits.max_macs))
        return [f"{value:,} {what} is over the limit of {most:,}" for what, value, most in pairs if value > most]

    def require(self, limits: Budget, allow_over: bool = False) -> None:
        """Raise OverBudgetError if a limit is passed, unless that is allowed."""
        if not allow_over and (faults := self.faults(limits)):
            raise OverBudgetError(
                f"{self.source}: {' and '.join(faults)}; make the model smaller or say --allow-over-budget"
            )

    def as_dict(self, limits: Budget) -> dict[str, object]:
        limit = {"bytes": limits.max_bytes, "macs": limits.max_macs}
        return {**asdict(self), "limits": limit, "within_budget": not self.faults(limits)}


def count_target(target: str, recipe: str | None, overrides: list[str] | None) -> tuple[Count, Budget]:
    """Count a recipe, a run or a model file, and say which limits it is held against.

    A recipe that is named has limits of its own. A file may come from anyone: it does not choose what it is held to.
    """
    path = Path(target)
    if path.suffix in (".onnx", ".tflite"):
        if not path.is_file():
            raise InputError(f"{path}: no such file")
        _require_limits_only(target, recipe, overrides)
        return (count_onnx if path.suffix == ".onnx" else count_tflite)(path), Budget()
    if (path / INDEX).exists():
        _require_limits_only(target, recipe, overrides)
        return count_bundle(path), Budget()
    if path.suffix != ".safetensors" and not path.is_dir():
        if recipe:
            raise InputError(f"--recipe: {target} names a recipe itself; leave one of the two out")
        parsed_recipe = load_recipe(target, overrides)
        return count_recipe(parsed_recipe), parsed_recipe.budget
    tensors, header = load_tensors(model_path(path))
    card = read_card(header, path)
    if card is not None:
        _require_limits_only(target, recipe, overrides)
        parsed_recipe, classes = card.parsed_recipe, len(card.labels)
        limits = Budget(precision=parsed_recipe.budget.precision)
    else:
        parsed_recipe, classes = load_recipe(recipe or _fitting_recipe(tensors, path), overrides), len(SCENES)
        limits = parsed_recipe.budget
    network = network_with(tensors, parsed_recipe, classes, path)
    return replace(count_network(network, parsed_recipe), source=target), limits


def _require_limits_only(target: str, recipe: str | None, overrides: list[str] | None) -> None:
    """A model that says itself what it is takes no recipe."""
    if option := "--recipe" if recipe else "--set" if overrides else None:
        raise InputError(
            f"{option}: {target} already says which network it is; only --max-bytes and --max-macs can be changed"
        )


def count_bundle(folder: Path) -> Count:
    """Count a bundle: the network as the challenge counts it, and the bytes of its integers.

    BatchNorm is no longer in the graph, so the challenge's count is the one in the index; raises InputError if that is
    less than the graph's own.
    """
    bundle = open_bundle(folder)
    counted = bundle.content["budget"]
    layers = tuple(
        Layer(row.name, row.kind, row.shape, row.parameters, row.macs) for row in inspect_graph(bundle.graph)
    )
    deployed = DeployedCount(
        parameters=sum(layer.parameters for layer in layers),
        int8_bytes=sum(row.bytes for row in inspect_graph(bundle.graph)),
        macs=sum(layer.macs for layer in layers),
    )
    weights = sum(operator.weights.size for operator in bundle.graph.operators if isinstance(operator, Convolution))
    if (counted["deployed_bytes"], counted["deployed_macs"]) != (deployed.int8_bytes, deployed.macs):
        raise InputError(f"{folder}: its index tells another budget than its graph; make the bundle again")
    if counted["parameters"] < weights or counted.get("clip_macs", counted["macs"]) < deployed.macs:
        raise InputError(f"{folder}: its index tells less parameters or MACs than its graph; make the bundle again")
    return Count(
        source=str(folder),
        parameters=counted["parameters"],
        macs=counted["macs"],
        bytes=deployed.int8_bytes,
        precision="int8, biases int32",
        layers=layers,
        deployed=deployed,
        clip_seconds=bundle.front_end.clip_seconds,
        clip_macs=counted.get("clip_macs"),
        listening=listening_of(bundle, counted.get("clip_macs", counted["macs"])),
    )


def _fitting_recipe(tensors: dict[str, Tensor], path: Path) -> str:
    """The shipped recipe whose network has tensors of these names and shapes."""
    for name in recipe_names("cp_mobile"):
        with contextlib.suppress(InputError):
            network_with(tensors, load_recipe(name), len(SCENES), path)
            return name
    raise InputError(f"{path}: carries no recipe and fits none of ours; name it with --recipe")


def count_recipe(recipe: Recipe, classes: int = 10) -> Count:
    """Count the network that a recipe deploys: its branches, if any, folded."""
    return count_network(build(recipe.model, classes), recipe)


def count_network(network: nn.Module, recipe: Recipe) -> Count:
    """Count a torch network on the log-mel of one second, as the challenge does, layer by layer.

    Beside it stands what a clip of the recipe's length costs, if it is another. A network without padding over time
    that hears more than a second for a decision is counted by what a second adds, and layer by layer on its clip.
    """
    folded, features = finish(network), recipe.features
    of_clip, parameters = _layers(folded, features.shape)
    clip_macs = _sum(of_clip)
    added = second_of_columns(recipe, lambda frames: _sum(_layers(folded, (features.n_mels, frames))[0]))
    second = replace(features, clip_seconds=ONE_SECOND)
    hears_more = added is not None and second.frames < features.frames
    layers = of_clip if hears_more or second == features else _layers(folded, second.shape)[0]
    return Count(
        source=recipe.name,
        parameters=parameters,
        macs=added if added is not None and hears_more else _sum(layers),
        bytes=parameters * BYTES[recipe.budget.precision],
        precision=recipe.budget.precision,
        layers=layers,
        deployed=_folded(of_clip),
        clip_seconds=features.clip_seconds,
        clip_macs=None if second == features else clip_macs,
        listening=window_by_window(clip_macs) if added is None else Listening(True, dict.fromkeys(DECISIONS, added)),
    )


def _sum(layers: tuple[Layer, ...]) -> int:
    return sum(layer.macs for layer in layers)


def _layers(network: nn.Module, shape: tuple[int, int]) -> tuple[tuple[Layer, ...], int]:
    """The layers of a network on a log-mel (mel, frame), and its parameters."""
    summary = torchinfo.summary(network, (1, 1, *shape), verbose=0, mode="eval", device="cpu")
    names = {id(module): name for name, module in network.named_modules()}
    layers = tuple(
        Layer(names[layer.layer_id], layer.class_name, tuple(layer.output_size), layer.num_params, _macs(layer))
        for layer in summary.summary_list
        if layer.is_leaf_layer
    )
    return layers, summary.total_params


def _macs(layer: LayerInfo) -> int:
    """torchinfo's count, which knows one row of a linear layer, times its rows: the tokens of a transformer."""
    return layer.macs * (prod(layer.output_size[1:-1]) if layer.class_name == "Linear" else 1)


def _folded(layers: tuple[Layer, ...]) -> DeployedCount:
    """What is left when every BatchNorm is a bias: convolution weights, one bias an output channel."""
    convolutions = [layer for layer in layers if layer.kind == "Conv2d"]
    weights = sum(layer.parameters for layer in convolutions)
    biases = sum(layer.output[1] for layer in convolutions)
    return DeployedCount(weights + biases, weights + 4 * biases, sum(layer.macs for layer in convolutions))


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
    parameters, macs = sum(layer.parameters for layer in layers), sum(layer.macs for layer in layers)
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

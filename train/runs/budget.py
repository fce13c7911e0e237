"""The budget: parameters, bytes and MACs of one second of sound, against the limits of the challenge.

    tinyscene budget RECIPE | RUN | BUNDLE | MODEL.safetensors | MODEL.onnx | MODEL.tflite

A network is counted before BatchNorm is folded, by torchinfo, as NeSsi counts torch models: the DCASE
2024 baseline has 61,148 parameters and 29,419,156 MACs. Exported files are counted as they are deployed:
the multiplications of convolutions and fully connected layers, and the bytes of the constants stored.
"""

import contextlib
from dataclasses import replace
from math import prod
from pathlib import Path

import torchinfo
from torch import Tensor, nn
from torchinfo.layer_info import LayerInfo

from tinyscene.deploy.bundle.bundle import open_bundle
from tinyscene.deploy.bundle.index import INDEX
from tinyscene.deploy.bundle.inspection import inspect_graph
from tinyscene.deploy.common.errors import InputError
from tinyscene.deploy.common.files import require_file
from tinyscene.deploy.frontend.log_mel import ONE_SECOND
from tinyscene.deploy.graph.operator import Convolution
from tinyscene.train.data.datasets import SCENES
from tinyscene.train.models import build, finish
from tinyscene.train.recipe import Recipe, load_recipe, recipe_names
from tinyscene.train.runs.count import Count, DeployedCount, Layer, macs_of
from tinyscene.train.runs.listening import DECISIONS, Listening, listening_of, second_of_columns, window_by_window
from tinyscene.train.runs.model_files import count_onnx, count_tflite
from tinyscene.train.runs.run import load_tensors, model_path, network_with, read_card
from tinyscene.train.training_settings import Budget

SHARE_OF_A_SECOND = 0.8  # at least, of what a longer clip has: convolutions without padding lose their edges
BYTES = {"float32": 4, "float16": 2, "int8": 1}


def count_target(target: str, recipe: str | None, overrides: list[str] | None) -> tuple[Count, Budget]:
    """Count a recipe, a run or a model file, and say which limits it is held against.

    A recipe that is named has limits of its own. A file may come from anyone: it does not choose what it is held to.
    """
    path = Path(target)
    if path.suffix in (".onnx", ".tflite"):
        require_file(path)
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
    seconds = bundle.front_end.clip_seconds
    clip_macs = None if seconds == ONE_SECOND else counted["clip_macs"]
    is_less = counted["macs"] < least_macs(deployed.macs, seconds)
    if is_less or counted["parameters"] < weights or (clip_macs is not None and clip_macs < deployed.macs):
        raise InputError(f"{folder}: its index tells less parameters or MACs than its graph; make the bundle again")
    return Count(
        source=str(folder),
        parameters=counted["parameters"],
        macs=counted["macs"],
        bytes=deployed.int8_bytes,
        precision="int8, biases int32",
        layers=layers,
        deployed=deployed,
        clip_seconds=seconds,
        clip_macs=clip_macs,
        listening=listening_of(bundle, counted["macs"] if clip_macs is None else clip_macs),
    )


def least_macs(deployed: int, clip_seconds: float) -> int:
    """The fewest MACs that one second can have where a clip has so many: its share, less what its edges take."""
    return deployed if clip_seconds <= ONE_SECOND else int(SHARE_OF_A_SECOND * deployed / clip_seconds)


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
    clip_macs = macs_of(of_clip)
    added = second_of_columns(recipe, lambda frames: macs_of(_layers(folded, (features.n_mels, frames))[0]))
    second = replace(features, clip_seconds=ONE_SECOND)
    hears_more = added is not None and second.frames < features.frames
    layers = of_clip if hears_more or second == features else _layers(folded, second.shape)[0]
    return Count(
        source=recipe.name,
        parameters=parameters,
        macs=added if added is not None and hears_more else macs_of(layers),
        bytes=parameters * BYTES[recipe.budget.precision],
        precision=recipe.budget.precision,
        layers=layers,
        deployed=_folded(of_clip),
        clip_seconds=features.clip_seconds,
        clip_macs=None if second == features else clip_macs,
        listening=window_by_window(clip_macs) if added is None else Listening(True, dict.fromkeys(DECISIONS, added)),
    )


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

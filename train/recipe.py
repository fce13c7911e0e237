"""Recipes: strict, frozen, typed settings of a run, read from YAML and overridden by `key=value`.

A recipe names only what differs from the defaults here, which are the DCASE 2024 Task 1 baseline's.
An unknown key, a wrong type or a value out of range is an error that names the key:

    recipe = load_recipe("baseline", ["train.epochs=5", "model.base_channels=16"])
"""

import difflib
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, Discriminator, Field, Tag, ValidationError

from tinyscene.deploy.common.errors import InputError
from tinyscene.deploy.frontend.log_mel import FrontEnd

RECIPES = Path(__file__).parent / "recipes"

Fraction = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[float, Field(gt=0)]
Count = Annotated[int, Field(ge=1)]
SplitName = Annotated[str, BeforeValidator(lambda given: str(given) if type(given) is int else given)]  # 5 is "5"
Stride = tuple[Annotated[int, Field(ge=1, le=4)], Annotated[int, Field(ge=1, le=4)]]  # mel, frame


class Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


class Channels(Section):
    """Channel counts of a CP-Mobile network whose channels were pruned, in place of those its settings give."""

    stem: Count
    stages: tuple[Count, ...]
    expanded: tuple[Count, ...]  # by block


class Network(Section):
    """What the settings of all families have."""

    def finished(self) -> Self:
        """The network that is kept when training is over."""
        return self


class CPMobileModel(Network):
    """train/models/cp_mobile.py"""

    family: Literal["cp_mobile"] = "cp_mobile"
    base_channels: Annotated[int, Field(ge=8, le=512)] = 32
    channels_multiplier: Annotated[float, Field(ge=0.5, le=4)] = 1.8
    expansion_rate: Annotated[float, Field(ge=0.5, le=8)] = 2.1
    n_blocks: Annotated[tuple[Annotated[int, Field(ge=1, le=16)], ...], Field(min_length=1, max_length=6)] = (3, 2, 1)
    strides: dict[str, Stride] = {"b2": (1, 1), "b3": (1, 2), "b4": (2, 1)}  # by block; the others do not stride
    branches: bool = False  # parallel branches while training, folded into one convolution afterwards
    channels: Channels | None = None  # after pruning

    def finished(self) -> Self:
        return self.model_copy(update={"branches": False})


class CPResNetModel(Network):
    """train/teachers/cp_resnet.py"""

    family: Literal["cp_resnet"]
    base_channels: Annotated[int, Field(ge=8, le=512)] = 128
    rho: Annotated[int, Field(ge=0, le=22)] = 7  # receptive field: convolutions after the first block that are 3 x 3
    pools: dict[str, Stride] = {"b1": (2, 2), "b2": (2, 2), "b4": (2, 2)}  # after a block, the maximum of so many


class PasstModel(Network):
    """train/teachers/passt.py"""

    family: Literal["passt"]
    width: Annotated[int, Field(ge=8, le=2048)] = 768
    depth: Annotated[int, Field(ge=1, le=48)] = 12
    heads: Annotated[int, Field(ge=1, le=32)] = 12
    stride: Annotated[int, Field(ge=1, le=16)] = 10  # of the patches, which are 16 x 16
    patchout_mel: Annotated[int, Field(ge=0)] = 0  # rows of patches left out while training
    patchout_frame: Annotated[int, Field(ge=0)] = 0  # columns
    patchout: Annotated[int, Field(ge=0)] = 0  # single patches


class AstModel(Network):
    """train/teachers/ast.py"""

    family: Literal["ast"]
    width: Annotated[int, Field(ge=8, le=2048)] = 768
    depth: Annotated[int, Field(ge=1, le=48)] = 12
    heads: Annotated[int, Field(ge=1, le=32)] = 12
    tuning: Literal["full", "lora"] = "full"  # of all weights, or of low-rank additions to them, merged at the end
    rank: Annotated[int, Field(ge=1, le=256)] = 8  # of LoRA

    def finished(self) -> Self:
        return self.model_copy(update={"tuning": "full"})


FAMILIES = ("cp_mobile", "cp_resnet", "passt", "ast")


def _family(model: object) -> object:
    return model.get("family", "cp_mobile") if isinstance(model, dict) else getattr(model, "family", None)


Model = Annotated[
    Annotated[CPMobileModel, Tag("cp_mobile")]
    | Annotated[CPResNetModel, Tag("cp_resnet")]
    | Annotated[PasstModel, Tag("passt")]
    | Annotated[AstModel, Tag("ast")],
    Discriminator(_family),
]


class Augment(Section):
    """Augmentation of a training batch (definitions in train/augment.py). Zero turns one off."""

    roll_seconds: Annotated[float, Field(ge=0, le=0.5)] = 0.1  # shift in time, either way
    freq_mask: Annotated[int, Field(ge=0)] = 48  # mel bands at most
    time_mask: Annotated[int, Field(ge=0)] = 0  # frames at most
    mixstyle_p: Fraction = 0.4  # Freq-MixStyle: share of batches
    mixstyle_alpha: Positive = 0.3
    dir_folder: str | None = None  # impulse responses of microphones
    dir_p: Fraction = 0.0  # share of clips
    dir_devices: tuple[str, ...] = ("a",)  # only clips of these devices; empty: of every device
    gain_db: Annotated[float, Field(ge=0, le=40)] = 0.0  # louder or quieter by at most so much
    filter_db: Annotated[float, Field(ge=0, le=40)] = 0.0  # a random frequency response within so much, either way
    mixup_alpha: Annotated[float, Field(ge=0)] = 0.0


class Train(Section):
    epochs: Count = 150
    batch_size: Count = 256
    micro_batch: Count | None = None  # clips a forward pass; none: 32 on a CPU, the whole batch on a GPU
    lr: Positive = 0.005  # peak
    warmup: Fraction = 0.0245  # share of all steps; the published 2,000 of 81,900
    weight_decay: Annotated[float, Field(ge=0)] = 1e-4
    ema: Annotated[float, Field(ge=0, lt=1)] = 0.0  # decay, a step, of the average of the weights that is kept; 0: none
    balance: Fraction = 0.0  # 0: every clip once an epoch; 1: every scene from every device alike often
    precision: Literal["auto", "float32", "bfloat16"] = "auto"  # auto: bfloat16 on a GPU, float32 on a CPU
    evaluate_every: Annotated[int, Field(ge=0)] = 0  # epochs between evaluations on the test list; 0: none
    tensorboard: bool = False

    def fine_tuning(self, epochs: int, lr: float, batch_size: int) -> Self:
        """The same for a network that is trained already: no average, what is fine-tuned is kept; no evaluations."""
        changes = {"epochs": epochs, "lr": lr, "batch_size": batch_size, "evaluate_every": 0, "ema": 0.0}
        return self.model_copy(update=changes)


class Distill(Section):
    """Learning from a teacher's logits (train/distill.py)."""

    logits: str | None = None  # a file of `tinyscene logits`; none: no distillation
    temperature: Positive = 2.0
    label_weight: Fraction = 0.02  # share of the loss that asks for the labels; the rest asks for the teacher's answers


class Consistency(Section):
    """Learning from clips without their labels (train/distill.py). Outside the rules of the challenge."""

    weight: Annotated[float, Field(ge=0)] = 0.0  # of the loss on them; 0: off
    split: SplitName = "100"  # whose training list the unlabelled clips are taken from
    confidence: Fraction = 0.0  # of an answer, below which it is no target


class Budget(Section):
    """Limits of DCASE 2024 Task 1: 128 kB of parameters, 30 million MACs for one second of sound."""

    max_bytes: Count = 128_000
    max_macs: Count = 30_000_000
    precision: Literal["float32", "float16", "int8"] = "float16"  # in which the parameters are counted


class Prune(Section):
    """How a trained network's channels are pruned (train/prune.py)."""

    steps: Count = 10  # from the network as it is to the goal, each with fine-tuning
    epochs: Count = 5  # of fine-tuning after each step but the last, like the next
    final_epochs: Count = 30  # after the last
    lr: Positive = 1e-3  # peak, of each fine-tuning
    batch_size: Count = 32
    distill: Fraction = 1.0  # share of the loss that asks for the unpruned network's answers; the rest is the recipe's


class Adapt(Section):
    """How a trained network is fine-tuned for single devices (train/adapt.py); as published, but for the batch."""

    epochs: Count = 50
    lr: Positive = 5e-4  # peak
    batch_size: Count = 32
    least_clips: Count = 30  # of a device in the training list, for it to have a network of its own


class Quantize(Section):
    """How a trained network is made int8: calibration, and fine-tuning where it is asked for (--qat)."""

    calibration: Literal["minmax", "percentile", "mse"] = "percentile"
    percentile: Annotated[float, Field(gt=50, le=100)] = 99.999
    clips: Annotated[int, Field(ge=1, le=4096)] = 256  # to calibrate on, from the training list
    equalize: bool = True
    bias_correction: bool = True
    epochs: Count = 8  # of fine-tuning, like the next three
    lr: Positive = 5e-5  # peak
    batch_size: Count = 32
    distill: Fraction = 1.0  # share of the loss that asks for the float network's answers; the rest asks for the labels


class Recipe(Section):
    name: Annotated[str, Field(min_length=1, max_length=100)]
    seed: Annotated[int, Field(ge=0, lt=2**32)] = 0
    features: FrontEnd = FrontEnd()
    augment: Augment = Augment()
    model: Model = CPMobileModel()
    train: Train = Train()
    distill: Distill = Distill()
    consistency: Consistency = Consistency()
    budget: Budget = Budget()
    prune: Prune = Prune()
    adapt: Adapt = Adapt()
    quantize: Quantize = Quantize()

    def as_dict(self) -> dict[str, Any]:
        return self.model_dump(mode="json")


class Loader(yaml.SafeLoader):
    """YAML's plain data with 1.2's numbers: 1e-3 is a float, as everyone who types a learning rate expects.

    A key that is given twice is an error: one of the two would be lost.
    """

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [key.value for key, _ in node.value]
        for number, key in enumerate(keys):
            if key in keys[:number]:
                raise ValueError(f"line {node.value[number][0].start_mark.line + 1}: {key!r} is given twice")
        return super().construct_mapping(node, deep)


Loader.yaml_implicit_resolvers = {  # without dates, which no key takes
    first: [(tag, pattern) for tag, pattern in resolvers if not tag.endswith(":timestamp")]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"[-+]?[0-9]+(?:\.[0-9]*)?[eE][-+]?[0-9]+$"), list("-+0123456789")
)


def recipe_names(family: str | None = None) -> list[str]:
    """The recipes that are shipped, of all families or of one."""
    names = sorted(path.stem for path in RECIPES.glob("*.yaml"))
    return [name for name in names if family is None or load_recipe(name).model.family == family]


def load_recipe(name: str, overrides: list[str] | None = None) -> Recipe:
    """Read a recipe by name or by the path of a YAML file, and apply `key=value` overrides.

    Raises InputError for a recipe that does not exist, an unknown key, a wrong type or a bad value.
    """
    is_path = name.endswith((".yaml", ".yml"))
    path = Path(name) if is_path else RECIPES / f"{name}.yaml"
    if not is_path and name not in recipe_names():
        raise InputError(f"there is no recipe {name!r}: {hint(name, recipe_names())}")
    try:
        settings = _plain_data(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"recipe {path}: cannot be read ({error})") from None
    except ValueError as error:
        raise InputError(f"recipe {path}: not YAML ({error})") from None
    if not isinstance(settings, dict):
        raise InputError(f"recipe {path}: must be a mapping of keys to values")
    source = f"recipe {name}"
    return override(parse_recipe({"name": path.stem, **settings}, source), overrides or [], source)


def override(recipe: Recipe, overrides: list[str], source: str) -> Recipe:
    """A recipe with `key=value` overrides applied. `source` names it in errors."""
    settings = recipe.as_dict()
    for each in overrides:
        _override(settings, each)
    return parse_recipe(settings, source) if overrides else recipe


def _plain_data(text: str) -> Any:
    """Parse YAML. Whatever is wrong with it is a ValueError of one line."""
    try:
        return yaml.load(text, Loader)  # noqa: S506 - a SafeLoader
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise ValueError(" ".join(str(error).split())) from None


def parse_recipe(settings: object, source: str) -> Recipe:
    """Validate plain data, such as a run keeps, as a recipe. `source` names it in errors."""
    try:
        return Recipe.model_validate_json(json.dumps(settings))
    except ValidationError as error:
        raise InputError(f"{source}: {_describe(error)}") from None
    except (TypeError, ValueError, RecursionError) as error:
        raise InputError(f"{source}: {error}") from None


def _override(settings: dict[str, Any], override: str) -> None:
    key, equals, text = override.partition("=")
    if not (key and equals):
        raise InputError(f"--set {override}: must be key=value, such as train.epochs=5")
    try:
        value = _plain_data(text)
    except ValueError:
        raise InputError(f"--set {override[:100]}: not a YAML value") from None
    *sections, last = key.split(".")
    for section in sections:
        settings = settings.setdefault(section, {})
        if not isinstance(settings, dict):
            raise InputError(f"--set {override}: {section!r} is a value, not a section")
    settings[last] = value


def _describe(error: ValidationError) -> str:
    """The first fault on one line, with its key and, for an unknown key, the nearest known one."""
    fault = error.errors(include_url=False)[0]
    key = ".".join(str(part) for part in fault["loc"] if part not in FAMILIES)
    if fault["type"] == "union_tag_invalid":
        return f"model.family: must be one of {', '.join(FAMILIES)} (given: {fault.get('ctx', {}).get('tag')!r})"
    if fault["type"] in ("extra_forbidden", "unexpected_keyword_argument"):
        return f"unknown key {key!r}: {hint(key, list(_keys(Recipe(name='any').as_dict())))}"
    if fault["type"] == "value_error":  # a check of our own, which says it all
        return fault["msg"].removeprefix("Value error, ")
    return f"{key}: {fault['msg']} (given: {fault['input']!r})"


def _keys(settings: dict[str, Any], prefix: str = "") -> Iterator[str]:
    """Every key and section of a recipe, dotted."""
    for name, value in settings.items():
        yield prefix + name
        if isinstance(value, dict):
            yield from _keys(value, f"{prefix}{name}.")


def hint(given: str, known: list[str]) -> str:
    """What to say of a name that is not known: the nearest one that is, or all."""
    close = difflib.get_close_matches(given, known, n=1, cutoff=0.5)
    return f"did you mean {close[0]!r}?" if close else f"known are {', '.join(known)}"

"""Recipes: the strict, frozen, typed settings of a run, and what each key means.

A recipe names only what differs from the defaults here, which are those of the DCASE 2024 Task 1 baseline.
`docs/reference.md` is generated from these classes.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import Field, ValidationError, model_validator

from tinyscene.deploy.common.errors import InputError
from tinyscene.deploy.frontend.log_mel import FrontEnd
from tinyscene.train.feature_settings import as_given, feature_keys
from tinyscene.train.network_settings import REGISTERED, CPMobileModel, Model, families
from tinyscene.train.settings import Section, hint, read_settings, set_override
from tinyscene.train.training_settings import (
    Adapt,
    Augment,
    Budget,
    Consistency,
    Distill,
    Probe,
    Prune,
    Quantize,
    Train,
)

NETWORK_KEYS = [f"model.{key}" for key in CPMobileModel.model_fields]  # of which recipes lack some
RECIPES = Path(__file__).parent / "recipes"


class Recipe(Section):
    """The settings of a run."""

    name: Annotated[str, Field(min_length=1, max_length=100)]
    """Name of the recipe; by default that of its file."""
    seed: Annotated[int, Field(ge=0, lt=2**32)] = 0
    """Seed of all random numbers of the run."""
    features: FrontEnd = FrontEnd()
    """Log-mel features."""
    augment: Augment = Augment()
    """Augmentation of training batches."""
    model: Model = CPMobileModel()
    """Network family and its size."""
    train: Train = Train()
    """The training loop."""
    distill: Distill = Distill()
    """Knowledge distillation from a teacher."""
    consistency: Consistency = Consistency()
    """Consistency training on clips without labels."""
    budget: Budget = Budget()
    """Limits on the size of the network."""
    prune: Prune = Prune()
    """Pruning, for `tinyscene prune`."""
    adapt: Adapt = Adapt()
    """Fine-tuning for single recording devices, for `tinyscene adapt`."""
    probe: Probe = Probe()
    """A linear probe, for `tinyscene teach --probe`."""
    quantize: Quantize = Quantize()
    """Quantization, for `tinyscene quantize`."""

    @model_validator(mode="after")
    def _has_no_teacher_for_outliers(self) -> Self:
        if self.train.outliers and self.distill.has_teacher:
            raise ValueError(
                "train.outliers: a teacher knows no strangers; leave out distill.logits and distill.online"
            )
        return self

    @model_validator(mode="after")
    def _has_whole_columns(self) -> Self:
        if isinstance(self.model, CPMobileModel):
            self.model.require_whole_columns(self.features)
        return self

    @property
    def has_other_clips(self) -> bool:
        """Whether each batch holds as many clips of another folder as of the training list."""
        return bool(self.distill.transfer or self.train.outliers)

    def as_dict(self) -> dict[str, Any]:
        return self.model_dump(mode="json") | {"features": self.features.as_dict()}


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
    settings = read_settings(path, "recipe")
    if not isinstance(settings, dict):
        raise InputError(f"recipe {path}: must be a mapping of keys to values")
    source = f"recipe {name}"
    recipe = parse_recipe({"name": path.stem, **settings}, source)
    if not overrides:
        return recipe
    features = as_given(settings.get("features", {}), overrides, source)
    changed = recipe.as_dict() | {"features": features}
    for setting in overrides:
        set_override(changed, setting)
    return parse_recipe(changed, source)


def override(recipe: Recipe, overrides: list[str], source: str) -> Recipe:
    """A recipe with `key=value` overrides applied. `source` names it in errors."""
    settings = recipe.as_dict()
    for setting in overrides:
        set_override(settings, setting)
    return parse_recipe(settings, source) if overrides else recipe


def parse_recipe(settings: object, source: str) -> Recipe:
    """Validate plain data, such as a run keeps, as a recipe. `source` names it in errors."""
    try:
        return Recipe.model_validate_json(json.dumps(settings))
    except ValidationError as error:
        raise InputError(f"{source}: {_describe(error)}") from None
    except (TypeError, ValueError, RecursionError) as error:
        raise InputError(f"{source}: {error}") from None


def _describe(error: ValidationError) -> str:
    """The first fault on one line, with its key and, for an unknown key, the nearest known one."""
    fault = error.errors(include_url=False)[0]
    key = ".".join(str(part) for part in fault["loc"] if part not in (*families(), REGISTERED))
    if fault["type"] == "union_tag_invalid":
        return f"model.family: must be one of {', '.join(families())} (given: {fault.get('ctx', {}).get('tag')!r})"
    if fault["type"] in ("extra_forbidden", "unexpected_keyword_argument"):
        return (
            f"unknown key {key!r}: {hint(key, [*_keys(Recipe(name='any').as_dict()), *feature_keys(), *NETWORK_KEYS])}"
        )
    if fault["type"] == "value_error":  # a check of our own, which says it all
        return fault["msg"].removeprefix("Value error, ")
    return f"{key}: {fault['msg']} (given: {fault['input']!r})"


def _keys(settings: dict[str, Any], prefix: str = "") -> Iterator[str]:
    """Every key and section of a recipe, dotted."""
    for name, value in settings.items():
        yield prefix + name
        if isinstance(value, dict):
            yield from _keys(value, f"{prefix}{name}.")

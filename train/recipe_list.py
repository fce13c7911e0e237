"""The recipes that are shipped: size and purpose of each."""

from dataclasses import dataclass

from tinyscene.train.recipe import RECIPES, load_recipe, recipe_names
from tinyscene.train.runs.budget import count_recipe


@dataclass(frozen=True)
class RecipeSummary:
    """A recipe; the size is None for a teacher, which has no budget and takes long to count."""

    name: str
    family: str
    parameters: int | None
    macs: int | None
    sample_rate: int  # Hz
    purpose: str


def list_recipes() -> list[RecipeSummary]:
    """Every recipe by name, with what the comment at the head of its file says."""
    return [_summary(name) for name in recipe_names()]


def _summary(name: str) -> RecipeSummary:
    recipe = load_recipe(name)
    count = count_recipe(recipe) if recipe.model.family in ("cp_mobile", "tf_sepnet") else None
    lines = (RECIPES / f"{name}.yaml").read_text(encoding="utf-8").splitlines()
    comment = lines[: next(number for number, line in enumerate(lines) if not line.startswith("#"))]
    return RecipeSummary(
        name,
        recipe.model.family,
        count and count.parameters,
        count and count.macs,
        recipe.features.sample_rate,
        " ".join(line.lstrip("# ") for line in comment),
    )

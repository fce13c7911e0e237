"""What fine-tuning of a trained run has in common: which settings it may change, and that its weights stay finite.

tinyscene adapt | prune | quantize --qat RUN ... --set SECTION.KEY=VALUE
"""

from pathlib import Path

from torch import nn

from tinyscene.deploy.common.errors import InputError
from tinyscene.train.recipe import Recipe, override
from tinyscene.train.runs.run import Card


def with_overrides(card: Card, overrides: list[str], section: str, run: Path) -> Recipe:
    """The recipe of a trained run, with overrides of one section. Raises InputError for those of others."""
    if others := [setting for setting in overrides if not setting.startswith(f"{section}.")]:
        raise InputError(f"--set {others[0]}: the run is trained; only keys of its section {section} can be changed")
    return override(card.parsed_recipe, overrides, f"the recipe of {run}")


def require_finite(network: nn.Module, folder: Path, section: str) -> None:
    """Raise InputError if a network's weights diverged. `folder` holds what must go before another try."""
    if not all(parameter.isfinite().all() for parameter in network.parameters()):
        raise InputError(f"{folder}: fine-tuning diverged; remove the folder and try a lower --set {section}.lr")

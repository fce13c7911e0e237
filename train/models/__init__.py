"""Network families and the one place that makes them, and the features they hear, from a recipe.

Families for the device are here, one a file; teachers are in `train/teachers`.
"""

from torch import nn

from train.features import LogMel
from train.models.cp_mobile import CPMobile, fold_branches
from train.recipe import CPMobileModel, Model, Recipe


def build(model: Model, classes: int) -> nn.Module:
    """A freshly initialised network: features (batch, 1, mel, frame) -> logits (batch, classes)."""
    assert isinstance(model, CPMobileModel)
    return CPMobile(model, classes)


def features_of(recipe: Recipe) -> LogMel:
    """The features that the recipe's network hears."""
    return LogMel(recipe.features)


def finish(network: nn.Module) -> nn.Module:
    """The network that is kept when training is over: what served only the training is folded into the rest."""
    return fold_branches(network) if isinstance(network, CPMobile) else network


def published_url(model: Model) -> str | None:
    """Where a family's published weights are, if it reads any."""
    return None

"""Network families, one a file, and the one place that builds them from a recipe."""

from torch import nn

from train.models.cp_mobile import CPMobile
from train.recipe import Model


def build(model: Model, classes: int) -> nn.Module:
    """A freshly initialised network: log-mel (batch, 1, mel, frame) -> logits (batch, classes)."""
    return CPMobile(model, classes)

"""Network families, and the functions that build a network and its features from a recipe.

CP-Mobile can be deployed, and TF-SepNet without residual normalization; the other families are teachers. Other
packages can register more (`train/families.py`).
"""

from torch import nn

from tinyscene.deploy.common.errors import InputError
from tinyscene.train.data.augment import Features
from tinyscene.train.data.features import LogMel
from tinyscene.train.data.kaldi_features import AstMel, PasstMel
from tinyscene.train.families import registered_family
from tinyscene.train.models.cp_mobile import CPMobile, fold_branches
from tinyscene.train.models.cp_resnet import CPResNet
from tinyscene.train.models.efficientat import EfficientAt
from tinyscene.train.models.passt import Passt
from tinyscene.train.models.tf_sepnet import TFSepNet
from tinyscene.train.network_settings import (
    AstModel,
    CPMobileModel,
    CPResNetModel,
    EfficientAtModel,
    Model,
    PasstModel,
    RegisteredModel,
    TFSepNetModel,
)
from tinyscene.train.recipe import Recipe

__all__ = ["Features", "build", "features_of", "finish"]


def build(model: Model, classes: int) -> nn.Module:
    """A freshly initialised network: features (batch, 1, mel, frame) -> logits (batch, classes)."""
    match model:
        case CPMobileModel():
            network = CPMobile(model, classes)
        case TFSepNetModel():
            network = TFSepNet(model, classes)
        case CPResNetModel():
            network = CPResNet(model, classes)
        case PasstModel():
            network = Passt(model, classes)
        case EfficientAtModel():
            network = EfficientAt(model, classes)
        case AstModel():
            from tinyscene.train.models.ast import Ast  # transformers takes seconds to import, and is an extra

            network = Ast(model, classes)
        case RegisteredModel():
            network = _registered(model, classes)
    return network


def _registered(model: RegisteredModel, classes: int) -> nn.Module:
    """A network of another package. Raises InputError if its function makes none."""
    network = registered_family(model.family).build(model, classes)
    if not isinstance(network, nn.Module):
        raise InputError(f"network family {model.family!r}: builds a {type(network).__name__}, not a torch.nn.Module")
    return network


def features_of(recipe: Recipe) -> Features:
    """The features that the recipe's network hears."""
    match recipe.model:
        case AstModel():
            return AstMel(recipe.features)
        case PasstModel() | EfficientAtModel() | CPResNetModel(mel="kaldi"):
            return PasstMel(recipe.features)
    if recipe.augment.f_max_jitter:
        raise InputError(
            f"augment.f_max_jitter: the network {recipe.model.family} has no Kaldi features to draw it for"
        )
    return LogMel(recipe.features)


def finish(network: nn.Module) -> nn.Module:
    """The network that is kept when training is over: what served only the training is folded into the rest."""
    if isinstance(network, CPMobile):
        return fold_branches(network)
    return network.finished() if hasattr(network, "finished") else network  # type: ignore[operator]

"""Weights from files, in the types of the network that takes them over: nothing is rounded to infinity or cut off."""

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from tinyscene.deploy.common.errors import InputError

FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
INTEGERS = (torch.int32, torch.int64)  # of counts, such as BatchNorm's number of batches
VARIANCE = "running_var"  # of BatchNorm


def converted(tensor: Tensor, own: Tensor, name: str, path: Path) -> Tensor:
    """A file's tensor in the type of the network's own. Raises InputError where that cannot hold its values."""
    known = FLOATS if own.is_floating_point() else INTEGERS
    if tensor.dtype not in known or tensor.layout != torch.strided or tensor.is_meta:
        kinds = ", ".join(str(dtype).removeprefix("torch.") for dtype in known)
        kind = "without values" if tensor.is_meta else str(tensor.dtype).removeprefix("torch.")
        raise InputError(f"{path}: {name} is {kind}: it must be one of {kinds}")
    values = tensor.to(own.dtype)
    if not values.isfinite().all():
        raise InputError(f"{path}: {name} holds NaN or infinite values, or some beyond float32")
    if name.endswith(VARIANCE) and values.numel() and values.min() < 0:
        raise InputError(f"{path}: {name} holds a variance of {float(values.min()):g}, and none can be below 0")
    return values


def require_variances(tensors: Mapping[str, object], path: Path) -> None:
    """Raise InputError for a BatchNorm in weights from elsewhere that has a variance of zero or less.

    Weights of ours may have zeros, in channels that are always 0; in others' they are more often forgotten values.
    """
    for name, tensor in tensors.items():
        if name.endswith(VARIANCE) and isinstance(tensor, Tensor) and tensor.numel() and not (tensor > 0).all():
            raise InputError(f"{path}: {name} holds a variance of {float(tensor.min()):g}: it must be above 0")

"""Checkpoints: where a run stands, with the weights and the optimizer's moments, in one safetensors file."""

import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from tinyscene.deploy.common.errors import InputError
from tinyscene.deploy.common.files import read_bounded, write_whole
from tinyscene.train.runs.run import (
    CHECKPOINT,
    DIGEST,
    MAX_METRICS,
    METRICS,
    MODEL,
    RECIPE,
    Card,
    load_tensors,
    read_card,
    save_tensors,
)
from tinyscene.train.settings import read_settings


@dataclass
class TrainState:
    """Progress of a run: the current epoch, its completed batches, and the sums of its metrics so far."""

    epoch: int = 0
    batch: int = 0
    step: int = 0
    loss: float = 0.0
    correct: int = 0
    clips: int = 0
    seconds: float = 0.0

    def require_reached(self, batch_size: int, clips: int, path: Path) -> None:
        """Raise InputError where training on so many clips an epoch never stands."""
        steps = math.ceil(clips / batch_size)
        reached = self.epoch * steps + self.batch, min(self.batch * batch_size, clips)
        has_begun = self.correct <= self.clips and self.seconds > 0 if self.batch else self.seconds == 0
        if self.batch > steps or (self.step, self.clips) != reached or not has_begun:
            raise InputError(
                f"{path}: stands at step {self.step} and clip {self.clips} of an epoch, where this training never "
                "stands; train anew with another --out"
            )


def save_checkpoint(
    out: Path,
    network: nn.Module,
    average: nn.Module | None,
    optimizer: torch.optim.Optimizer,
    card: Card,
    state: TrainState,
) -> None:
    """Write everything that going on with the run needs."""
    tensors = {f"model.{name}": tensor for name, tensor in network.state_dict().items()}
    if average is not None:
        tensors |= {f"average.{name}": tensor for name, tensor in average.state_dict().items()}
    for name, parameter in _trained(network):
        moments = optimizer.state[parameter]
        tensors |= {f"optimizer.{key}.{name}": tensor for key, tensor in moments.items()}
    save_tensors(out / CHECKPOINT, tensors, card, vars(state))


def _trained(network: nn.Module) -> Iterator[tuple[str, nn.Parameter]]:
    return ((name, parameter) for name, parameter in network.named_parameters() if parameter.requires_grad)


def resume_run(
    out: Path, network: nn.Module, average: nn.Module | None, optimizer: torch.optim.Optimizer, card: Card
) -> TrainState:
    """Load a checkpoint into the network, its average and the optimizer, and say where it stands.

    A run that was killed before its first checkpoint starts anew.
    """
    path = out / CHECKPOINT
    if not path.exists():
        if (out / MODEL).exists() or not (out / RECIPE).exists():
            raise InputError(f"{out}: holds no run to resume; train without --resume into a new folder")
        if read_settings(out / RECIPE, "recipe") != card.recipe:
            raise InputError(f"{out}: was started with another recipe; resume with the same, or choose another --out")
        return TrainState()
    tensors, header = load_tensors(path)
    saved = read_card(header, path)
    if saved is not None and _has_former_loss(saved):
        raise InputError(
            f"{out}: was started when the divergence from teachers was a sum over classes, which is their mean now; "
            "train anew with another --out"
        )
    if saved is not None and saved.recipe:
        saved = saved.model_copy(update={"recipe": saved.parsed_recipe.as_dict()})  # with keys newer than the run
    keys = ("recipe", "labels", "split", "split_hash", "data_hash", "micro_batch", "source", "teacher", "external_data")
    for key in keys:
        if saved is None or getattr(saved, key) != getattr(card, key):
            raise InputError(f"{out}: was trained with another {key}; resume with the same, or choose another --out")
    state = _read_state(header, card, path)
    if broken := [name for name, tensor in tensors.items() if not tensor.isfinite().all()]:
        raise InputError(f"{path}: {broken[0]} holds NaN or infinite values")
    try:
        for prefix, module in (("model.", network), ("average.", average)):
            if module is not None:
                own_tensors = {name.removeprefix(prefix): t for name, t in tensors.items() if name.startswith(prefix)}
                module.load_state_dict(own_tensors)
        for name, parameter in _trained(network):
            optimizer.state[parameter] = _moments(tensors, name, parameter)
        optimizer.load_state_dict(optimizer.state_dict())  # moves the moments to the parameters' torch device
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        raise InputError(f"{path}: not a checkpoint that can be read ({str(error).splitlines()[0]})") from None
    return state


def _moments(tensors: dict[str, Tensor], name: str, parameter: Tensor) -> dict[str, Tensor]:
    """What the optimizer keeps of a parameter. Raises KeyError or ValueError where it is missing or of another kind."""
    shapes = {"step": torch.Size(), "exp_avg": parameter.shape, "exp_avg_sq": parameter.shape}
    moments = {key: tensors[f"optimizer.{key}.{name}"] for key in shapes}
    for key, tensor in moments.items():
        if (tensor.shape, tensor.dtype) != (shapes[key], torch.float32):
            raise ValueError(f"optimizer.{key}.{name} is {tensor.dtype} {list(tensor.shape)}")
    if moments["step"] < 0 or (moments["exp_avg_sq"] < 0).any():
        raise ValueError(f"optimizer.exp_avg_sq.{name} or its step is below 0")
    return moments


def _has_former_loss(card: Card) -> bool:
    """Whether a run learns from teachers and began before `distill.required` was a key, and the loss was another."""
    distill = card.recipe.get("distill")
    return isinstance(distill, dict) and distill.get("logits") is not None and "required" not in distill


def _read_state(header: dict[str, str], card: Card, path: Path) -> TrainState:
    if DIGEST not in header:
        raise InputError(f"{path}: carries no hash of its content; train anew with another --out")
    try:
        state = TrainState(**json.loads(header["state"]))
        whole = (state.epoch, state.batch, state.step, state.correct, state.clips)
        if not all(type(value) is int and value >= 0 for value in whole):
            raise ValueError("counts must be whole numbers of 0 or more")
        if not all(math.isfinite(value) for value in (state.loss, state.seconds)):
            raise ValueError("the loss or the time is not finite")
        if state.epoch > card.parsed_recipe.train.epochs:
            raise ValueError(f"it has {state.epoch} epochs of {card.parsed_recipe.train.epochs}")
    except (KeyError, TypeError, ValueError, OverflowError, RecursionError) as error:
        raise InputError(f"{path}: not a checkpoint that can be read ({str(error).splitlines()[0]})") from None
    return state


def drop_metrics_after(out: Path, epoch: int) -> None:
    """Drop what was written after the checkpoint, and so will be written again.

    Raises InputError if the lines of the epochs before are not there.
    """
    metrics = out / METRICS
    content = read_bounded(metrics, MAX_METRICS) if metrics.exists() else b""
    lines = content.decode(errors="replace").splitlines()
    for number, line in enumerate(lines[:epoch], 1):
        try:
            known = json.loads(line)["epoch"]
        except (KeyError, TypeError, ValueError, RecursionError):
            known = None
        if known != number:
            raise InputError(f"{metrics}: line {number} does not hold the metrics of epoch {number}; restore the file")
    if len(lines) < epoch:
        raise InputError(f"{metrics}: holds {len(lines)} epochs of the {epoch} of the checkpoint; restore the file")
    write_whole(metrics, "".join(line + "\n" for line in lines[:epoch]))

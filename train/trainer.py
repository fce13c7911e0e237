"""The step of training: a batch of clips to an update of the weights, on one process or many.

Features and augmentation are made for the whole batch, the network runs on micro-batches whose gradients are
summed. Every random number comes from a generator seeded by run, epoch, batch and rank.
"""

import atexit
import math
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from train import augment
from train.cache import Clips
from train.checkpoint import Place
from train.features import LogMel, waveform
from train.recipe import Recipe, Train

RESIDENT_SHARE = 0.7  # of the GPU's free memory that the dataset may fill

Loss = Callable[[Tensor, Tensor, Tensor], Tensor]  # logits, log-mel, target distribution -> sum over the batch


def cross_entropy(logits: Tensor, _log_mel: Tensor, targets: Tensor) -> Tensor:
    """Against targets (batch, classes), summed over the batch."""
    return F.cross_entropy(logits, targets, reduction="sum")


@dataclass(frozen=True)
class Ranks:
    """This process among those of torchrun; alone without it."""

    rank: int
    count: int

    def sum(self, values: Tensor) -> Tensor:
        if self.count > 1:
            dist.all_reduce(values)
        return values


class Trainer:
    """Everything a step needs, made once."""

    def __init__(
        self,
        recipe: Recipe,
        clips: Clips,
        chosen: NDArray[np.int64],
        network: nn.Module,
        optimizer: torch.optim.Optimizer,
        ranks: Ranks,
        device: torch.device,
        micro_batch: int,
        loss: Loss = cross_entropy,
    ) -> None:
        self.recipe, self.clips, self.chosen = recipe, clips, chosen
        self.network, self.optimizer, self.ranks, self.device = network, optimizer, ranks, device
        self.micro_batch, self.loss = micro_batch, loss
        self.order, self.shuffled = np.arange(len(chosen)), -1  # positions in `chosen`, and for which epoch
        self.parameters = [parameter for parameter in network.parameters() if parameter.requires_grad]
        self.log_mel = LogMel(recipe.features).to(device)
        self.label = torch.from_numpy(clips.label[chosen])
        self.devices = clips.device(chosen)
        folder = recipe.augment.dir_folder
        self.responses = augment.load_responses(Path(folder), recipe.features).to(device) if folder else None
        self.resident = _resident(clips, chosen, device)
        bfloat16 = recipe.train.precision == "bfloat16" or (
            recipe.train.precision == "auto" and device.type == "cuda" and torch.cuda.is_bf16_supported()
        )
        self.autocast = torch.autocast(device.type, torch.bfloat16, enabled=bfloat16)

    def step(self, place: Place, total_steps: int, stopping: bool) -> bool:
        """One step of the optimizer on one batch. Returns whether any rank wants to stop."""
        settings = self.recipe.train
        rate = learning_rate(settings, place.step, total_steps)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        if place.epoch != self.shuffled:
            self.shuffled = place.epoch
            self.order = _rng(self.recipe.seed, place.epoch).permutation(len(self.chosen))
        batch = self.order[place.batch * settings.batch_size : (place.batch + 1) * settings.batch_size]
        mine = np.array_split(batch, self.ranks.count)[self.ranks.rank]  # positions in `chosen`
        self.network.train()
        self.optimizer.zero_grad(set_to_none=False)
        loss, correct = self._accumulate(mine, len(batch), place) if len(mine) else (0.0, 0)
        tally = torch.tensor([loss, correct, stopping], device=self.device)
        loss, correct, stopping = self._share(tally).tolist()
        self.optimizer.step()
        place.loss += loss
        place.correct += round(correct)
        place.clips += len(batch)
        place.batch, place.step = place.batch + 1, place.step + 1
        return bool(stopping)

    def _share(self, tally: Tensor) -> Tensor:
        """Sum gradients and tally over the ranks, in one message."""
        if self.ranks.count == 1:
            return tally
        for parameter in self.parameters:
            if parameter.grad is None:  # this rank had no clips yet
                parameter.grad = torch.zeros_like(parameter)
        gradients = [parameter.grad for parameter in self.parameters if parameter.grad is not None]
        message = self.ranks.sum(torch.cat([*(gradient.flatten() for gradient in gradients), tally]))
        *shared, tally = message.split([*(gradient.numel() for gradient in gradients), len(tally)])
        for gradient, total in zip(gradients, shared, strict=True):
            gradient.copy_(total.view_as(gradient))
        return tally

    def _accumulate(self, mine: NDArray[np.int64], batch_size: int, place: Place) -> tuple[float, int]:
        """Sum the gradients of the mean loss of the batch over micro-batches. Returns summed loss, correct guesses."""
        seeds = (self.recipe.seed, place.epoch, place.batch, self.ranks.rank)
        responses = 0 if self.responses is None else len(self.responses)
        drawn = augment.draw(
            self.recipe.augment, self.recipe.features, self.devices[mine], responses, _rng(*seeds), self.device
        )
        label = self.label[mine].to(self.device)
        with torch.no_grad():
            signal = augment.on_waveform(waveform(self._pcm(mine)), drawn, self.responses)  # (batch, samples)
            power = augment.on_power(self.log_mel.power(signal), drawn)  # (batch, 1, mel, frame)
            targets = F.one_hot(label, len(self.clips.labels)).float()  # (batch, classes)
            features, targets = augment.on_log_mel(self.log_mel.log(power), targets, drawn)
        loss, correct = 0.0, 0
        for start in range(0, len(mine), self.micro_batch):
            part = slice(start, start + self.micro_batch)
            log_mel = features[part].contiguous(memory_format=torch.channels_last)
            with self.autocast:
                logits = self.network(log_mel)
            part_loss = self.loss(logits.float(), log_mel, targets[part])
            (part_loss / batch_size).backward()
            loss += float(part_loss.detach())
            correct += int((logits.argmax(1) == label[part]).sum())
        return loss, correct

    def _pcm(self, positions: NDArray[np.int64]) -> Tensor:
        """int16 clips (batch, samples) on the device."""
        if self.resident is not None:
            return self.resident[torch.from_numpy(positions).to(self.device)]
        return torch.from_numpy(self.clips.pcm[self.chosen[positions]]).to(self.device)

    def finish_epoch(self, place: Place) -> dict[str, Any]:
        """Average BatchNorm's statistics over the ranks, return the epoch's metrics and move to the next epoch."""
        if self.ranks.count > 1:
            for name, buffer in self.network.named_buffers():
                if name.endswith(("running_mean", "running_var")):
                    self.ranks.sum(buffer).div_(self.ranks.count)
        metrics = {
            "epoch": place.epoch + 1,
            "step": place.step,
            "lr": self.optimizer.param_groups[0]["lr"],
            "loss": place.loss / place.clips,
            "accuracy": place.correct / place.clips,
            "clips": place.clips,
            "seconds": place.seconds,
            "clips_per_second": place.clips / place.seconds,
        }
        place.epoch, place.batch = place.epoch + 1, 0
        place.loss, place.correct, place.clips, place.seconds = 0.0, 0, 0, 0.0
        return metrics


def learning_rate(settings: Train, step: int, total_steps: int) -> float:
    """Linear warm-up from zero, then half a cosine to zero."""
    warmup = round(settings.warmup * total_steps)
    if step < warmup:
        return settings.lr * step / warmup
    return settings.lr * 0.5 * (1.0 + math.cos(math.pi * (step - warmup) / max(1, total_steps - warmup)))


def _rng(*seeds: int) -> np.random.Generator:
    return np.random.default_rng(np.random.SeedSequence(seeds))


def distribute() -> tuple[Ranks, torch.device]:
    """Join the processes that torchrun started, if it did, and choose this one's device."""
    local = int(os.environ.get("LOCAL_RANK", "0"))
    device = torch.device("cuda", local) if torch.cuda.is_available() else torch.device("cpu")
    if device.type == "cuda":
        torch.cuda.set_device(device)
    if "WORLD_SIZE" in os.environ and not dist.is_initialized():
        dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
        atexit.register(dist.destroy_process_group)
    ranks = Ranks(dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else Ranks(0, 1)
    return ranks, device


def _resident(clips: Clips, chosen: NDArray[np.int64], device: torch.device) -> Tensor | None:
    """The whole training set on the GPU, if there is one and it fits."""
    if device.type != "cuda":
        return None
    free, _ = torch.cuda.mem_get_info(device)
    needed = len(chosen) * clips.pcm.shape[1] * clips.pcm.itemsize
    return torch.from_numpy(clips.pcm[chosen]).to(device) if needed < RESIDENT_SHARE * free else None

"""The step of training: a batch of clips to an update of the weights, on one process or many.

Features and augmentation are made for the whole batch, the network runs on micro-batches whose gradients are
summed. Every random number comes from a generator seeded by run, epoch, batch and rank.
"""

import atexit
import math
import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from tinyscene.deploy.common.errors import InputError
from tinyscene.train.data import augment
from tinyscene.train.data.cache import Clips
from tinyscene.train.data.features import waveform
from tinyscene.train.loop.checkpoint import TrainState
from tinyscene.train.loop.schedule import learning_rate
from tinyscene.train.models import features_of
from tinyscene.train.recipe import Recipe, Train
from tinyscene.train.teachers.distill import Loss, Targets, consistency
from tinyscene.train.teachers.logits import read_logits

CPU_MICRO_BATCH = 32  # clips
RESIDENT_SHARE = 0.7  # of the GPU's free memory that the dataset may fill


class DivergedError(InputError):
    """Training that cannot go on: the loss, or a weight, is NaN or infinite."""


@dataclass(frozen=True)
class Ranks:
    """This process among those of torchrun; alone without it."""

    rank: int
    count: int

    def sum(self, values: Tensor) -> Tensor:
        if self.count > 1:
            dist.all_reduce(values)
        return values


@dataclass(frozen=True)
class Hardware:
    """Where a network is trained: this process among others, its torch device, and how many clips it takes at once."""

    ranks: Ranks
    torch_device: torch.device
    micro_batch: int

    @classmethod
    def join(cls, settings: Train) -> "Hardware":
        """Join the processes that torchrun started, if it did, and choose this one's torch device."""
        local = int(os.environ.get("LOCAL_RANK", "0"))
        torch_device = torch.device("cuda", local) if torch.cuda.is_available() else torch.device("cpu")
        if torch_device.type == "cuda":
            torch.cuda.set_device(torch_device)
        if "WORLD_SIZE" in os.environ and not dist.is_initialized():
            dist.init_process_group("nccl" if torch_device.type == "cuda" else "gloo")
            atexit.register(dist.destroy_process_group)
        ranks = Ranks(dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else Ranks(0, 1)
        largest = CPU_MICRO_BATCH if torch_device.type == "cpu" else math.ceil(settings.batch_size / ranks.count)
        return cls(ranks, torch_device, settings.micro_batch or largest)


@dataclass(frozen=True)
class Selection:
    """The clips that are trained on, by index: with their labels, and without."""

    clips: Clips
    labelled: NDArray[np.int64]
    unlabelled: NDArray[np.int64]


class Trainer:
    """Everything a step needs, made once."""

    def __init__(
        self, network: nn.Module, recipe: Recipe, loss: Loss, selection: Selection, hardware: Hardware
    ) -> None:
        clips, labelled, unlabelled = selection.clips, selection.labelled, selection.unlabelled
        torch_device = hardware.torch_device
        self.network, self.recipe, self.loss = network, recipe, loss
        self.clips, self.labelled, self.unlabelled = clips, labelled, unlabelled
        self.ranks, self.torch_device, self.micro_batch = hardware.ranks, torch_device, hardware.micro_batch
        self.order, self.shuffled = np.arange(len(labelled)), -1  # positions in `labelled`, and for which epoch
        self.parameters = [parameter for parameter in network.parameters() if parameter.requires_grad]
        kind = torch.optim.AdamW if recipe.train.optimizer == "adamw" else torch.optim.Adam
        self.optimizer = kind(self.parameters, lr=recipe.train.lr, weight_decay=recipe.train.weight_decay)
        self.features = features_of(recipe).to(torch_device)
        self.label = torch.from_numpy(clips.label[labelled])
        self.recording_devices = clips.recording_devices(labelled)
        folder = recipe.augment.dir_folder
        self.responses = augment.load_responses(Path(folder), recipe.features).to(torch_device) if folder else None
        self.teacher, self.view = self._teacher() if recipe.distill.logits else (None, None)
        decay = recipe.train.ema
        self.average = AveragedModel(network, None, None, get_ema_multi_avg_fn(decay), True) if decay else None
        self.known = np.concatenate([labelled, unlabelled])
        self.resident = _resident(clips, self.known, torch_device)
        bfloat16 = recipe.train.precision == "bfloat16" or (
            recipe.train.precision == "auto" and torch_device.type == "cuda" and torch.cuda.is_bf16_supported()
        )
        self.autocast = torch.autocast(torch_device.type, torch.bfloat16, enabled=bfloat16)

    def step(self, state: TrainState, total_steps: int, stopping: bool) -> bool:
        """One step of the optimizer on one batch. Returns whether any rank wants to stop."""
        settings = self.recipe.train
        rate = learning_rate(settings, state.step, total_steps)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        if state.epoch != self.shuffled:
            self.shuffled = state.epoch
            self.order = self._shuffle(_rng(self.recipe.seed, state.epoch))
        batch = self.order[state.batch * settings.batch_size : (state.batch + 1) * settings.batch_size]
        mine = np.array_split(batch, self.ranks.count)[self.ranks.rank]  # positions in `labelled`
        self.network.train()
        self.optimizer.zero_grad(set_to_none=False)
        loss, correct = self._accumulate(mine, len(batch), state) if len(mine) else (0.0, 0)
        tally = torch.tensor([loss, correct, stopping], device=self.torch_device)
        loss, correct, stopping = self._share(tally).tolist()
        if not math.isfinite(loss):
            raise DivergedError(f"the loss is {loss} in step {state.step + 1}, at a learning rate of {rate:.3g}")
        self.optimizer.step()
        if self.average is not None:
            self.average.update_parameters(self.network)
        state.loss += loss
        state.correct += round(correct)
        state.clips += len(batch)
        state.batch, state.step = state.batch + 1, state.step + 1
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

    def _shuffle(self, rng: np.random.Generator) -> NDArray[np.int64]:
        """The clips of an epoch, positions in `labelled`: each once, or the rarer groups more often."""
        order = rng.permutation(len(self.labelled))
        if not self.recipe.train.balance:
            return order
        groups = np.array(
            [f"{label} {device}" for label, device in zip(self.label, self.recording_devices, strict=True)]
        )
        _, group, count = np.unique(groups, return_inverse=True, return_counts=True)
        share = count[group[order]] ** -self.recipe.train.balance
        ends = np.cumsum(share / share.sum()) * len(share)  # a clip is taken once for each whole number in its stretch
        sampled = np.searchsorted(ends, np.arange(len(share)) + rng.uniform()).clip(max=len(share) - 1)
        return rng.permutation(order[sampled])

    def _teacher(self) -> tuple[Tensor, Tensor]:
        """The teacher's probabilities (view, clip, class) for the training clips, and each response's view."""
        settings, torch_device = self.recipe.distill, self.torch_device
        logits = read_logits(Path(settings.logits or ""))
        values = logits.of(self.clips.names(self.labelled), self.clips.labels) / settings.temperature
        folder = self.recipe.augment.dir_folder
        names = ["", *(path.name for path in augment.response_paths(Path(folder)))] if folder else [""]
        views = [logits.views.index(name) if name in logits.views else 0 for name in names]
        return values.softmax(2).to(torch_device), torch.tensor(views, device=torch_device)

    def _accumulate(self, mine: NDArray[np.int64], batch_size: int, state: TrainState) -> tuple[float, int]:
        """Sum the gradients of the mean loss of the batch over micro-batches. Returns summed loss, correct guesses."""
        seeds = (self.recipe.seed, state.epoch, state.batch, self.ranks.rank)
        rng = _rng(*seeds)
        torch.manual_seed(int(rng.bit_generator.seed_seq.generate_state(1)[0]))  # type: ignore[attr-defined]
        loss, correct = self._labelled(mine, batch_size, rng)
        if self.recipe.consistency.weight:
            loss += self._unlabelled(rng.choice(len(self.unlabelled), len(mine)) + len(self.labelled), batch_size, rng)
        return loss, correct

    def _labelled(self, mine: NDArray[np.int64], batch_size: int, rng: np.random.Generator) -> tuple[float, int]:
        label = self.label[mine].to(self.torch_device)
        targets = F.one_hot(label, len(self.clips.labels)).float()  # (batch, classes)
        drawn = self._draw(self.recording_devices[mine], rng)
        if self.teacher is not None and self.view is not None:
            view = self.view[0 if drawn.response is None else drawn.response + 1]  # (batch,), or one for all
            targets = torch.cat([targets, self.teacher[view, torch.from_numpy(mine).to(self.torch_device)]], 1)
        features, targets = self._features(mine, drawn, targets)
        labels, teacher = targets.split(len(self.clips.labels), 1) if self.teacher is not None else (targets, None)
        loss, correct = 0.0, 0
        for start in range(0, len(mine), self.micro_batch):
            part = slice(start, start + self.micro_batch)
            log_mel = features[part].contiguous(memory_format=torch.channels_last)
            with self.autocast:
                logits = self.network(log_mel)
            part_targets = Targets(log_mel, labels[part], None if teacher is None else teacher[part])
            part_loss = self.loss(logits.float(), part_targets)
            (part_loss / batch_size).backward()
            loss += float(part_loss.detach())
            correct += int((logits.argmax(1) == label[part]).sum())
        return loss, correct

    def _unlabelled(self, positions: NDArray[np.int64], batch_size: int, rng: np.random.Generator) -> float:
        """Sum the gradients of the consistency loss on as many unlabelled clips. Returns the summed loss."""
        settings, nobody = self.recipe.consistency, torch.zeros(len(positions), 0, device=self.torch_device)
        recording_devices = self.clips.recording_devices(self.unlabelled[positions - len(self.labelled)])
        as_recorded, _ = self._features(positions, augment.Draw(), nobody)
        augmented, _ = self._features(positions, replace(self._draw(recording_devices, rng), mixup=None), nobody)
        loss = 0.0
        for start in range(0, len(positions), self.micro_batch):
            part = slice(start, start + self.micro_batch)
            self.network.eval()
            with torch.no_grad(), self.autocast:
                answers = self.network(as_recorded[part].contiguous(memory_format=torch.channels_last))
            self.network.train()
            with self.autocast:
                logits = self.network(augmented[part].contiguous(memory_format=torch.channels_last))
            part_loss = settings.weight * consistency(logits.float(), answers.float().softmax(1), settings.confidence)
            (part_loss / batch_size).backward()
            loss += float(part_loss.detach())
        return loss

    def _draw(self, recording_devices: NDArray[np.str_], rng: np.random.Generator) -> augment.Draw:
        responses = 0 if self.responses is None else len(self.responses)
        return augment.draw(
            self.recipe.augment, self.recipe.features, recording_devices, responses, rng, self.torch_device
        )

    @torch.no_grad()
    def _features(self, positions: NDArray[np.int64], drawn: augment.Draw, targets: Tensor) -> tuple[Tensor, Tensor]:
        """Augmented features (batch, 1, mel, frame) of clips and what is asked for, mixed as they are."""
        signal = augment.on_waveform(waveform(self._pcm(positions)), drawn, self.responses)  # (batch, samples)
        return augment.on_log_mel(augment.log_mel(self.features, signal, drawn), targets, drawn)

    def _pcm(self, positions: NDArray[np.int64]) -> Tensor:
        """int16 clips (batch, samples) on the torch device. Positions are in `labelled`, and go on in `unlabelled`."""
        if self.resident is not None:
            return self.resident[torch.from_numpy(positions).to(self.torch_device)]
        return torch.from_numpy(self.clips.pcm[self.known[positions]]).to(self.torch_device)

    def require_finite(self) -> None:
        """Raise DivergedError if a weight is NaN or infinite: a last step may do that after a finite loss."""
        for name, parameter in self.network.named_parameters():
            if not parameter.isfinite().all():
                raise DivergedError(f"{name} holds NaN or infinite values")

    def finish_epoch(self, state: TrainState, total_steps: int) -> dict[str, Any]:
        """Average BatchNorm's statistics over the ranks, return the epoch's metrics and move to the next epoch."""
        if self.ranks.count > 1:
            for name, buffer in self.network.named_buffers():
                if name.endswith(("running_mean", "running_var")):
                    self.ranks.sum(buffer).div_(self.ranks.count)
        metrics = {
            "epoch": state.epoch + 1,
            "step": state.step,
            "lr": learning_rate(self.recipe.train, state.step - 1, total_steps),  # of the last step
            "loss": state.loss / state.clips,
            "accuracy": state.correct / state.clips,
            "clips": state.clips,
            "seconds": state.seconds,
            "clips_per_second": state.clips / state.seconds,
        }
        state.epoch, state.batch = state.epoch + 1, 0
        state.loss, state.correct, state.clips, state.seconds = 0.0, 0, 0, 0.0
        return metrics


def _rng(*seeds: int) -> np.random.Generator:
    return np.random.default_rng(np.random.SeedSequence(seeds))


def _resident(clips: Clips, indices: NDArray[np.int64], torch_device: torch.device) -> Tensor | None:
    """The whole training set on the GPU, if there is one and it fits."""
    if torch_device.type != "cuda":
        return None
    free, _ = torch.cuda.mem_get_info(torch_device)
    needed = len(indices) * clips.pcm.shape[1] * clips.pcm.itemsize
    return torch.from_numpy(clips.pcm[indices]).to(torch_device) if needed < RESIDENT_SHARE * free else None

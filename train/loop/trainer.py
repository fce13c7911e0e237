"""The step of training: a batch of clips to an update of the weights, on one process or many.

Features and augmentation are made for the whole batch, the network runs on micro-batches whose gradients are
summed. Every random number comes from a generator seeded by run, epoch, batch and rank.
"""

import atexit
import math
import os
from dataclasses import dataclass, replace
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
from tinyscene.train.data.selection import Selection
from tinyscene.train.data.waveforms import Waveforms
from tinyscene.train.loop.allocator import keep_memory
from tinyscene.train.loop.checkpoint import TrainState
from tinyscene.train.loop.schedule import learning_rate
from tinyscene.train.models import features_of
from tinyscene.train.recipe import Recipe
from tinyscene.train.teachers.answers import Teacher, doubted
from tinyscene.train.teachers.distill import Loss, Targets, alternating, consistency
from tinyscene.train.training_settings import Train

CPU_MICRO_BATCH = 32  # clips


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


class Trainer:
    """Everything a step needs, made once."""

    def __init__(
        self,
        network: nn.Module,
        recipe: Recipe,
        loss: Loss,
        selection: Selection,
        hardware: Hardware,
        teacher: Teacher | None = None,
    ) -> None:
        clips, labelled, unlabelled = selection.clips, selection.labelled, selection.unlabelled
        torch_device = hardware.torch_device
        self.network, self.recipe, self.loss, self.teacher = network, recipe, loss, teacher
        self.clips, self.labelled, self.unlabelled = clips, labelled, unlabelled
        self.transferred = len(selection.transferred)
        self.ranks, self.torch_device, self.micro_batch = hardware.ranks, torch_device, hardware.micro_batch
        if torch_device.type == "cpu":
            keep_memory()
        self.order, self.shuffled = np.arange(len(labelled)), -1  # positions in `labelled`, and for which epoch
        self.parameters = [parameter for parameter in network.parameters() if parameter.requires_grad]
        kind = torch.optim.AdamW if recipe.train.optimizer == "adamw" else torch.optim.Adam
        self.optimizer = kind(
            self.parameters,
            lr=recipe.train.lr,
            weight_decay=recipe.train.weight_decay,
            fused=torch_device.type == "cuda" or None,  # one kernel for many parameters
        )
        self.features = features_of(recipe).to(torch_device)
        self.label = torch.from_numpy(clips.label[labelled])
        self.masked = doubted(teacher, self.label, recipe.distill.mask)  # (clip,), those whose label is left out
        self.recording_devices = clips.recording_devices(labelled)
        self.waveforms = Waveforms(selection.parts, recipe.augment, recipe.features, torch_device)
        decay = recipe.train.ema
        self.average = AveragedModel(network, None, None, get_ema_multi_avg_fn(decay), True) if decay else None
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
        self.optimizer.zero_grad()
        tally = torch.zeros(3, dtype=torch.float64, device=self.torch_device)  # summed loss, correct guesses, stopping
        tally[2] = stopping
        if len(mine):
            self._accumulate(mine, len(batch), state, tally)
        loss, correct, stopping = self._share(tally.float()).tolist()
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

    def _accumulate(self, mine: NDArray[np.int64], batch_size: int, state: TrainState, tally: Tensor) -> None:
        """Sum the gradients of the mean loss of the batch over micro-batches, and add to the tally of the step.

        The tally stays on the torch device, which a step then waits for once.
        """
        seeds = (self.recipe.seed, state.epoch, state.batch, self.ranks.rank)
        rng = _rng(*seeds)
        torch.manual_seed(int(rng.bit_generator.seed_seq.generate_state(1)[0]))  # type: ignore[attr-defined]
        self._labelled(mine, batch_size, rng, tally)
        if self.recipe.consistency.weight:
            unlabelled = rng.choice(len(self.unlabelled), len(mine)) + len(self.labelled)
            self._unlabelled(unlabelled, batch_size, rng, tally)

    def _labelled(self, mine: NDArray[np.int64], batch_size: int, rng: np.random.Generator, tally: Tensor) -> None:
        label = self.label[mine].to(self.torch_device)
        labels = F.one_hot(label, len(self.clips.labels)).float()  # (batch, classes)
        labels = labels.masked_fill(self.masked[mine, None].to(self.torch_device), 0.0)
        targets = self._targets(mine, labels, self.recording_devices[mine], rng)
        if self.transferred:
            others = rng.choice(self.transferred, len(mine)) + len(self.labelled) + len(self.unlabelled)
            nowhere = np.full(len(mine), "")
            targets = targets.alternating(self._targets(others, self._unnamed(labels), nowhere, rng))
            label = alternating(label, torch.full_like(label, -1))
        for start in range(0, len(label), self.micro_batch):
            part = slice(start, start + self.micro_batch)
            part_targets = targets[part]
            with self.autocast:
                logits = self.network(part_targets.log_mel)
            part_loss = self.loss(logits.float(), part_targets)
            (part_loss / batch_size).backward()
            tally[0] += part_loss.detach()
            tally[1] += (logits.argmax(1) == label[part]).sum()

    def _unnamed(self, labels: Tensor) -> Tensor:
        """What stands in place of labels (batch, classes) for clips of another folder.

        Nothing where a teacher is asked; for strangers, all classes alike, with the weight that they have.
        """
        train = self.recipe.train
        return torch.full_like(labels, train.outlier_weight / labels.shape[1] if train.outliers else 0.0)

    def _targets(
        self,
        positions: NDArray[np.int64],
        labels: Tensor,
        recording_devices: NDArray[np.str_],
        rng: np.random.Generator,
    ) -> Targets:
        """Augmented features of clips with labels (batch, classes), and what is asked of the network."""
        drawn = self._draw(recording_devices, rng)
        answers = None if self.teacher is None else self.teacher(positions, drawn)
        return Targets(self._features(positions, drawn), augment.mixed(labels, drawn), answers)

    def _unlabelled(
        self, positions: NDArray[np.int64], batch_size: int, rng: np.random.Generator, tally: Tensor
    ) -> None:
        """Sum the gradients of the consistency loss on as many unlabelled clips."""
        settings = self.recipe.consistency
        recording_devices = self.clips.recording_devices(self.unlabelled[positions - len(self.labelled)])
        as_recorded = self._features(positions, augment.Draw())
        augmented = self._features(positions, replace(self._draw(recording_devices, rng), mixup=None))
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
            tally[0] += part_loss.detach()

    def _draw(self, recording_devices: NDArray[np.str_], rng: np.random.Generator) -> augment.Draw:
        responses = 0 if self.waveforms.responses is None else len(self.waveforms.responses)
        return augment.draw(
            self.recipe.augment, self.recipe.features, recording_devices, responses, rng, self.torch_device
        )

    @torch.no_grad()
    def _features(self, positions: NDArray[np.int64], drawn: augment.Draw) -> Tensor:
        """Augmented features (batch, 1, mel, frame) of clips."""
        signal = self.waveforms.augmented(positions, drawn)  # (batch, samples)
        if self.recipe.distill.online:  # the teacher hears the same mixture
            signal, drawn = augment.mixed(signal, drawn), replace(drawn, mixup=None)
        return augment.on_log_mel(augment.log_mel(self.features, signal, drawn), drawn)

    @property
    def saved_network(self) -> nn.Module:
        """What the run will be: the network, or where there is one, the average of its weights."""
        return self.network if self.average is None else self.average.module

    def require_finite(self) -> None:
        """Raise DivergedError if a weight or an answer is NaN or infinite: a step may do that after the last loss."""
        for name, parameter in self.network.named_parameters():
            if not parameter.isfinite().all():
                raise DivergedError(f"{name} holds NaN or infinite values")
        self.network.eval()
        with torch.no_grad():
            answer = self.network(torch.ones(1, 1, *self.recipe.features.shape, device=self.torch_device))
        self.network.train()
        if not answer.isfinite().all():
            raise DivergedError("the network answers NaN or infinite values")

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
        if self.recipe.distill.mask:
            metrics["masked_labels"] = int(self.masked.sum())
        state.epoch, state.batch = state.epoch + 1, 0
        state.loss, state.correct, state.clips, state.seconds = 0.0, 0, 0, 0.0
        return metrics


def _rng(*seeds: int) -> np.random.Generator:
    return np.random.default_rng(np.random.SeedSequence(seeds))

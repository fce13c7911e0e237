"""The training loop.

    tinyscene train RECIPE --data DATA --split 25 --out RUN [--resume]
    torchrun --nproc-per-node 2 -m tinyscene train ...        # several GPUs or hosts

AdamW, cosine with warm-up. A step takes `batch_size` clips: features and augmentation are made for the
whole batch, the network runs on micro-batches whose gradients are summed. The step is that of the whole
batch in all but BatchNorm, which sees the mean and variance of a micro-batch: noisier than the published
ones, and a CPU trains three times as fast (its caches hold 32 clips, not 256). A GPU takes the batch whole.

Every random number comes from a generator seeded by run, epoch, step and rank, so a resumed run draws
the numbers of an unbroken one and ends with the same metrics. Ctrl-C finishes the step and saves.
"""

import atexit
import hashlib
import json
import math
import os
import signal
import time
from dataclasses import dataclass
from pathlib import Path
from threading import current_thread, main_thread
from types import FrameType
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from deploy.errors import InputError, TinysceneError
from deploy.files import require_free
from deploy.provenance import provenance
from train import augment
from train.budget import count_network
from train.cache import Clips
from train.checkpoint import Place, drop_metrics_after, resume_run, save_checkpoint
from train.data import Dataset
from train.evaluate import evaluate, predictor
from train.features import LogMel, waveform
from train.models import build
from train.models.cp_mobile import CPMobile, fold_branches
from train.progress import progress
from train.recipe import Recipe, Train
from train.run import METRICS, MODEL, RECIPE, Card, save_tensors, write_recipe

CPU_MICRO_BATCH = 32  # clips
SECONDS_A_CHECKPOINT = 300  # at most, besides the one after each epoch
RESIDENT_SHARE = 0.7  # of the GPU's free memory that the dataset may fill


class InterruptedRunError(TinysceneError):
    """Training stopped by Ctrl-C or SIGTERM, after saving."""

    exit_code = 130


@dataclass(frozen=True)
class Ranks:
    """This process among those of torchrun; alone without it."""

    rank: int
    count: int

    def sum(self, values: Tensor) -> Tensor:
        if self.count > 1:
            dist.all_reduce(values)
        return values


def train(
    recipe: Recipe,
    dataset: Dataset,
    clips: Clips,
    split: str,
    out: Path,
    resume: bool = False,
    allow_over_budget: bool = False,
) -> Path:
    """Train a recipe on a split of a dataset, whose prepared clips are given, and return the finished model's path.

    Raises:
        OverBudgetError: the network is over its limits and that is not allowed.
        InputError: `out` holds another run, or nothing to resume.
        InterruptedRunError: Ctrl-C; the run can be resumed.
    """
    training, test = dataset.split(split)
    ranks, device = _distribute()
    torch.manual_seed(recipe.seed)
    torch.backends.cudnn.deterministic = True
    network = build(recipe.model, len(clips.labels))
    count_network(network, recipe).require(recipe.budget, allow_over_budget)
    network.to(device=device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    chosen = clips.select(training)
    micro_batch = recipe.train.micro_batch or (
        CPU_MICRO_BATCH if device.type == "cpu" else math.ceil(recipe.train.batch_size / ranks.count)
    )
    card = Card(
        recipe=recipe.as_dict(),
        labels=clips.labels,
        split=split,
        split_hash=hashlib.sha256("\n".join((*training, "", *test)).encode()).hexdigest(),
        data_hash=clips.data_hash,
        micro_batch=micro_batch,
        made_by=provenance(),
    )
    optimizer = torch.optim.AdamW(network.parameters(), lr=recipe.train.lr, weight_decay=recipe.train.weight_decay)
    place = resume_run(out, network, optimizer, card) if resume else Place()
    if resume and (out / MODEL).exists():
        return out / MODEL
    if ranks.rank == 0:
        if not resume and (out / RECIPE).exists():
            raise InputError(f"{out}: holds a run; go on with --resume, or choose another --out")
        if not resume:
            require_free(out)
        write_recipe(out, recipe)
        drop_metrics_after(out, place.epoch)
    trainer = Trainer(recipe, clips, chosen, network, optimizer, ranks, device, micro_batch)
    _run_epochs(trainer, place, out, card, test)
    if ranks.rank == 0:
        final = fold_branches(network.cpu()) if isinstance(network, CPMobile) else network
        save_tensors(out / MODEL, final.state_dict(), card)
    ranks.sum(torch.zeros(1, device=device))  # no process leaves before the files are written
    return out / MODEL


def _run_epochs(trainer: "Trainer", place: Place, out: Path, card: Card, test: tuple[str, ...]) -> None:
    """Train from where the run stands to its end, writing metrics and checkpoints, or until it is interrupted."""
    settings, clips, first = trainer.recipe.train, len(trainer.chosen), trainer.ranks.rank == 0
    steps_an_epoch = math.ceil(clips / settings.batch_size)
    total_steps = settings.epochs * steps_an_epoch
    writer = _tensorboard(out) if settings.tensorboard and first else None
    saved = time.monotonic()
    with (
        _StopFlag() as stop,
        progress("training", settings.epochs * clips, place.epoch * clips + place.clips) as advance,
    ):
        while place.epoch < settings.epochs:
            started = time.monotonic() - place.seconds
            while place.batch < steps_an_epoch:
                before = place.clips
                stopping = trainer.step(place, total_steps, stop.raised)
                place.seconds = time.monotonic() - started
                advance(place.clips - before)
                if first and (stopping or time.monotonic() - saved > SECONDS_A_CHECKPOINT):
                    save_checkpoint(out, trainer.network, trainer.optimizer, card, place)
                    saved = time.monotonic()
                if stopping:
                    raise InterruptedRunError(
                        f"{out}: stopped and saved in epoch {place.epoch + 1}; go on with --resume"
                    )
            metrics = trainer.finish_epoch(place)
            if first:
                if settings.evaluate_every and place.epoch % settings.evaluate_every == 0:
                    predict = predictor(trainer.network, trainer.recipe.features, trainer.device)
                    result = evaluate(predict, trainer.clips, test)
                    metrics |= {f"test_{key}": result[key] for key in ("accuracy", "macro_accuracy", "log_loss")}
                _append_metrics(out, metrics, writer)
                save_checkpoint(out, trainer.network, trainer.optimizer, card, place)
                saved = time.monotonic()


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
    ) -> None:
        self.recipe, self.clips, self.chosen = recipe, clips, chosen
        self.network, self.optimizer, self.ranks, self.device = network, optimizer, ranks, device
        self.micro_batch = micro_batch
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
            with self.autocast:
                logits = self.network(features[part].contiguous(memory_format=torch.channels_last))
            part_loss = F.cross_entropy(logits.float(), targets[part], reduction="sum")
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


def _distribute() -> tuple[Ranks, torch.device]:
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


class _StopFlag:
    """While in force, SIGINT and SIGTERM are noted instead of obeyed; a second one is obeyed at once."""

    def __init__(self) -> None:
        self.raised = False

    def _note(self, _number: int, _frame: FrameType | None) -> None:
        if self.raised:
            raise KeyboardInterrupt
        self.raised = True

    def __enter__(self) -> "_StopFlag":
        heard = (signal.SIGINT, signal.SIGTERM) if current_thread() is main_thread() else ()
        self._former = {number: signal.signal(number, self._note) for number in heard}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._former.items():
            signal.signal(number, handler)


def _append_metrics(out: Path, metrics: dict[str, Any], writer: Any) -> None:
    with (out / METRICS).open("a", encoding="utf-8") as handle:
        handle.write(json.dumps(metrics) + "\n")
    if writer is not None:
        for key, value in metrics.items():
            writer.add_scalar(key, value, metrics["epoch"])


def _tensorboard(out: Path) -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        raise InputError("train.tensorboard needs tensorboard: pip install tensorboard") from None
    return SummaryWriter(str(out / "tensorboard"))

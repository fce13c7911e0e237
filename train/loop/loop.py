"""The training loop.

    tinyscene train RECIPE --data DATA --split 25 --out RUN [--weights RUN | FILE] [--resume]
    torchrun --nproc-per-node 2 -m tinyscene train ...        # several GPUs or hosts

The recipe names the optimizer and the schedule. A step (`train/loop/trainer.py`) takes `batch_size` clips: features
and augmentation are made for the whole batch, the network runs on micro-batches whose gradients are summed. The step
is that of the whole batch in all but BatchNorm, which sees the mean and variance of a micro-batch: noisier than the
published ones, and a CPU trains faster (its caches hold 32 clips, not 256). A GPU takes the batch whole.

Every random number comes from a generator seeded by run, epoch, step and rank, so a resumed run draws
the numbers of an unbroken one and ends with the same metrics. Ctrl-C finishes the step and saves.
"""

import math
import os
import signal
import time
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from threading import current_thread, main_thread
from types import FrameType
from typing import Any

import torch
from torch import nn

from tinyscene.deploy.common.errors import InputError, TinysceneError
from tinyscene.deploy.common.files import require_free
from tinyscene.deploy.common.installation import missing
from tinyscene.deploy.common.progress import progress
from tinyscene.deploy.common.provenance import provenance
from tinyscene.deploy.common.terminal import notice
from tinyscene.deploy.common.text import json_text
from tinyscene.train.data.selection import select
from tinyscene.train.data.training_data import TrainingData
from tinyscene.train.loop.checkpoint import TrainState, drop_metrics_after, resume_run, save_checkpoint
from tinyscene.train.loop.trainer import DivergedError, Hardware, Trainer
from tinyscene.train.models import build, finish
from tinyscene.train.recipe import Recipe
from tinyscene.train.runs.budget import count_network
from tinyscene.train.runs.evaluate import evaluate, predictor
from tinyscene.train.runs.run import CHECKPOINT, METRICS, MODEL, RECIPE, Card, RunFolder, save_tensors, write_recipe
from tinyscene.train.runs.transfer import transfer
from tinyscene.train.teachers.answers import online_source, teacher_of
from tinyscene.train.teachers.distill import Loss, loss_of

SECONDS_A_CHECKPOINT = 300  # at most, besides the one after each epoch


class InterruptedRunError(TinysceneError):
    """Training stopped by Ctrl-C or SIGTERM, after saving."""

    exit_code = 130


@dataclass(frozen=True)
class InitialNetwork:
    """A network to train and, unless its weights are those of the recipe's seed, what they came from."""

    network: nn.Module
    source: str | None = None


def train(
    recipe: Recipe,
    data: TrainingData,
    run: RunFolder,
    weights: Path | None = None,
    allow_over_budget: bool = False,
) -> Path:
    """Train a recipe in a run folder, and return the finished model's path.

    `weights` of a run or a file (train/runs/transfer.py) to start from, instead of those of the recipe's seed.

    Raises:
        OverBudgetError: the network is over its limits and that is not allowed.
        InputError: the folder holds another run, or nothing to resume; the training list has one class only.
        DivergedError: a loss or a weight became NaN or infinite; the last good checkpoint is kept.
        InterruptedRunError: Ctrl-C; the run can be resumed.
    """
    torch.manual_seed(recipe.seed)
    network, labels = build(recipe.model, len(data.clips.labels)), data.clips.labels
    count_network(network, recipe).require(recipe.budget, allow_over_budget)
    recipe.distill.require(recipe.name)
    initial = InitialNetwork(network, transfer(network, weights, labels) if weights else None)
    for line in data.check():
        notice(line)
    if recipe.train.evaluate_every and not data.test:
        raise InputError(f"split {data.split} has no test list to evaluate on: --set train.evaluate_every=0")
    try:
        trainer, card = fit(initial, recipe, loss_of(recipe.distill), data, run)
    except DivergedError as error:
        raise DivergedError(f"{error}; choose another --out and try a lower --set train.lr") from None
    model = run.path / MODEL
    if trainer.ranks.rank == 0 and not model.exists():
        save_tensors(model, finish(trainer.saved_network.cpu()).state_dict(), card)
    trainer.ranks.sum(torch.zeros(1, device=trainer.torch_device))  # no process leaves before the file is written
    return model


def fit(
    initial: InitialNetwork, recipe: Recipe, loss: Loss, data: TrainingData, run: RunFolder
) -> tuple[Trainer, Card]:
    """Train a network by a recipe to the end of its epochs, in a run folder. Raises as `train` does."""
    selection, hardware = select(recipe, data), Hardware.join(recipe.train)
    torch.backends.cudnn.deterministic = True
    network = initial.network.to(device=hardware.torch_device)
    network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    teacher = teacher_of(recipe, data, selection, hardware.torch_device, hardware.micro_batch)
    card = make_card(recipe.as_dict(), data, initial.source, hardware.micro_batch).model_copy(
        update={"teacher": online_source(recipe), "external_data": selection.external_data}
    )
    trainer = Trainer(network, recipe, loss, selection, hardware, teacher)
    first = hardware.ranks.rank == 0
    if first and not run.resume:
        if (run.path / RECIPE).exists():
            raise InputError(f"{run.path}: holds a run; go on with --resume, or choose another --out")
        require_free(run.path)
        run.path.mkdir(parents=True, exist_ok=True)
    with run.held() if first else nullcontext():
        state = TrainState()
        if run.resume:
            state = resume_run(run.path, network, trainer.average, trainer.optimizer, card)
            state.require_reached(recipe.train.batch_size, len(trainer.labelled), run.path / CHECKPOINT)
        if first:
            write_recipe(run.path, recipe)
            drop_metrics_after(run.path, state.epoch)
        try:
            _run_epochs(trainer, state, run.path, card, data.test)
        except DivergedError as error:
            left = f"the checkpoint of epoch {state.epoch} is kept" if state.epoch else "no epoch was completed"
            raise DivergedError(f"{run.path}: training diverged in epoch {state.epoch + 1}: {error}; {left}") from None
    return trainer, card


def make_card(settings: dict[str, Any], data: TrainingData, source: str | None, micro_batch: int | None = None) -> Card:
    """The card of a network that is trained on this data. `settings` is its recipe."""
    return Card(
        recipe=settings,
        labels=data.clips.labels,
        split=data.split,
        split_hash=data.dataset.split_hash(data.split),
        data_hash=data.clips.data_hash,
        data=data.describe(),
        micro_batch=micro_batch,
        made_by=provenance(),
        source=source,
    )


def _run_epochs(trainer: Trainer, state: TrainState, out: Path, card: Card, test: tuple[str, ...]) -> None:
    """Train from where the run stands to its end, writing metrics and checkpoints, or until it is interrupted."""
    settings, clips, first = trainer.recipe.train, len(trainer.labelled), trainer.ranks.rank == 0
    steps_an_epoch = math.ceil(clips / settings.batch_size)
    total_steps = settings.epochs * steps_an_epoch
    writer = _tensorboard(out) if settings.tensorboard and first else None
    saved = time.monotonic()
    with (
        StopFlag() as stop,
        progress("training", settings.epochs * clips, state.epoch * clips + state.clips) as advance,
    ):
        while state.epoch < settings.epochs:
            started = time.monotonic() - state.seconds
            while state.batch < steps_an_epoch:
                before = state.clips
                stopping = trainer.step(state, total_steps, stop.raised)
                state.seconds = time.monotonic() - started
                advance(state.clips - before)
                if first and (stopping or time.monotonic() - saved > SECONDS_A_CHECKPOINT):
                    trainer.require_finite()
                    save_checkpoint(out, trainer.network, trainer.average, trainer.optimizer, card, state)
                    saved = time.monotonic()
                if stopping:
                    raise InterruptedRunError(
                        f"{out}: stopped and saved in epoch {state.epoch + 1}; go on with --resume"
                    )
            trainer.require_finite()
            metrics = trainer.finish_epoch(state, total_steps)
            if first:
                if settings.evaluate_every and state.epoch % settings.evaluate_every == 0:
                    predict = predictor(trainer.saved_network, trainer.features, trainer.torch_device)
                    result = evaluate(predict, trainer.clips, test)
                    metrics |= {
                        f"test_{key}": getattr(result, key) for key in ("accuracy", "macro_accuracy", "log_loss")
                    }
                _append_metrics(out, metrics, writer)
                save_checkpoint(out, trainer.network, trainer.average, trainer.optimizer, card, state)
                saved = time.monotonic()


class StopFlag:
    """While in force, SIGINT and SIGTERM are noted instead of obeyed; a second one is obeyed at once."""

    def __init__(self) -> None:
        self.raised = False

    def _note(self, _number: int, _frame: FrameType | None) -> None:
        if self.raised:
            raise KeyboardInterrupt
        self.raised = True

    def __enter__(self) -> "StopFlag":
        signals = (signal.SIGINT, signal.SIGTERM) if current_thread() is main_thread() else ()
        self._former = {number: signal.signal(number, self._note) for number in signals}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._former.items():
            signal.signal(number, handler)


def _append_metrics(out: Path, metrics: dict[str, Any], writer: Any) -> None:
    """Add a line, on disk before the checkpoint that counts on it is written."""
    with (out / METRICS).open("a", encoding="utf-8") as handle:
        handle.write(json_text(metrics) + "\n")
        handle.flush()
        os.fsync(handle.fileno())
    if writer is not None:
        for key, value in metrics.items():
            writer.add_scalar(key, value, metrics["epoch"])


def _tensorboard(out: Path) -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        raise missing("tensorboard", "train", "train.tensorboard") from None
    return SummaryWriter(str(out / "tensorboard"))

"""Training speed: clips a second of our step beside the published one, on this machine, in one run.

    python -m tinyscene.benchmarks.experiments.training_speed --data DATA

The published step is that of the DCASE 2024 Task 1 baseline: batches of 256, each clip decoded and rolled
in the loop, resampled by a dense convolution, a dense mel filterbank, one forward and backward pass of the
whole batch in the default memory layout. Ours is the training loop's own step of the same recipe. Both
train the same network with the same augmentation; rounds alternate and the medians are compared.
"""

import math
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import numpy as np
import soundfile
import torch
import torch.nn.functional as F
import typer
from torch import Tensor

from tinyscene.benchmarks.experiments.results import Out, Rounds, write_result
from tinyscene.deploy.common.command_line import run_command_line
from tinyscene.deploy.common.progress import progress
from tinyscene.deploy.frontend.log_mel import FrontEnd
from tinyscene.deploy.frontend.resample import PHASES_A_BLOCK, TAP_ONE, sinc_filter
from tinyscene.train.data import augment
from tinyscene.train.data.cache import Clips, prepare
from tinyscene.train.data.datasets import Dataset, open_dataset
from tinyscene.train.data.selection import Selection
from tinyscene.train.loop.checkpoint import TrainState
from tinyscene.train.loop.trainer import CPU_MICRO_BATCH, Hardware, Ranks, Trainer
from tinyscene.train.models import build
from tinyscene.train.recipe import Recipe, load_recipe
from tinyscene.train.teachers.distill import cross_entropy

SOURCE_RATE = 44_100  # Hz, of TAU's recordings


class PublishedStep:
    """The baseline's step as published, on the recordings themselves."""

    def __init__(self, recipe: Recipe, dataset: Dataset, paths: tuple[str, ...]) -> None:
        self.recipe, self.paths = recipe, [dataset.root / path for path in paths]
        labels = {entry.path: dataset.labels.index(entry.label) for entry in dataset.recordings}
        self.label = torch.tensor([labels[path] for path in paths])
        self.network = build(recipe.model, len(dataset.labels)).train()
        self.optimizer = torch.optim.AdamW(
            self.network.parameters(), lr=recipe.train.lr, weight_decay=recipe.train.weight_decay
        )
        self.rng = np.random.default_rng(recipe.seed)
        self.resample = _DenseResampler(SOURCE_RATE, recipe.features.sample_rate)
        self.window = torch.from_numpy(recipe.features.window())
        self.filterbank = torch.from_numpy(recipe.features.filterbank())  # (mel, bin)

    def __call__(self) -> None:
        indices = self.rng.integers(0, len(self.paths), self.recipe.train.batch_size)
        signal = torch.stack([self._decode(self.paths[index]) for index in indices])  # (batch, samples)
        settings = self.recipe.features
        devices = np.full(len(indices), "a")
        drawn = augment.draw(self.recipe.augment, settings, devices, 0, self.rng, torch.device("cpu"))
        with torch.no_grad():
            power = self._mel(self.resample(signal), settings)[:, None]  # (batch, 1, mel, frame)
            log_mel = (augment.on_power(power, drawn) + settings.log_offset).log()
            if drawn.mixstyle is not None:
                log_mel = augment.freq_mixstyle(log_mel, *drawn.mixstyle)
        loss = F.cross_entropy(self.network(log_mel), self.label[indices])
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()

    def _decode(self, path: Path) -> Tensor:
        signal = torch.from_numpy(soundfile.read(path, dtype="float32")[0])
        most = int(self.recipe.augment.roll_seconds * SOURCE_RATE)
        return signal.roll(int(self.rng.integers(-most, most, endpoint=True)))

    def _mel(self, signal: Tensor, settings: FrontEnd) -> Tensor:
        spectrum = torch.stft(
            signal, settings.n_fft, settings.hop_length, settings.win_length, self.window, return_complex=True
        )
        return self.filterbank @ spectrum.abs().square()  # (batch, mel, frame)


class _DenseResampler:
    """Windowed sinc as one strided convolution with every tap, zero or not, as torchaudio's `Resample` computes it."""

    def __init__(self, source_rate: int, target_rate: int) -> None:
        divisor = math.gcd(source_rate, target_rate)
        self.source, self.target = source_rate // divisor, target_rate // divisor
        self.width, blocks = sinc_filter(self.source, self.target)
        self.kernels = torch.zeros(self.target, 1, 2 * self.width + self.source)  # (phase, 1, tap)
        for index, (first, taps) in enumerate(blocks):
            phase = index * PHASES_A_BLOCK
            weights = torch.from_numpy(taps.T / TAP_ONE)  # (phase, tap)
            self.kernels[phase : phase + taps.shape[1], 0, first : first + len(taps)] = weights

    def __call__(self, signal: Tensor) -> Tensor:
        padded = F.pad(signal, (self.width, self.width + self.source))[:, None]
        phases = F.conv1d(padded, self.kernels, stride=self.source)  # (batch, phase, step)
        length = -(-self.target * signal.shape[1] // self.source)
        return phases.transpose(1, 2).flatten(1)[:, :length]


def our_step(recipe: Recipe, clips: Clips, paths: tuple[str, ...], micro_batch: int) -> Callable[[], object]:
    """The training loop's step, on the waveform cache."""
    network = build(recipe.model, len(clips.labels)).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    indices = clips.select(paths)
    selection = Selection(clips, labelled=indices, unlabelled=indices[:0])
    hardware = Hardware(Ranks(0, 1), torch.device("cpu"), micro_batch)
    trainer = Trainer(network, recipe, cross_entropy, selection, hardware)
    state = TrainState()
    full_batches = len(indices) // recipe.train.batch_size

    def step() -> None:
        if state.batch == full_batches:
            state.epoch, state.batch = state.epoch + 1, 0
        trainer.step(state, total_steps=1000, stopping=False)

    return step


def main(
    data: Annotated[Path, typer.Option(help="Folder of a dataset at 44.1 kHz in TAU's layout.")],
    out: Out = Path("benchmarks/results/training_speed.json"),
    rounds: Rounds = 7,
    split: Annotated[str, typer.Option(help="Split whose training list is used.")] = "100",
) -> None:
    """Measure both steps in turn and write the rates and their ratio."""
    recipe = load_recipe("baseline")
    dataset = open_dataset(data)
    training, _ = dataset.split(split)
    clips = prepare(dataset, recipe.features.sample_rate)
    batch = recipe.train.batch_size
    steps = {
        "published": PublishedStep(recipe, dataset, training),
        "ours": our_step(recipe, clips, training, CPU_MICRO_BATCH),
    }
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    with progress("measuring", rounds * len(steps)) as advance:
        for step in steps.values():
            step()  # the first step of each allocates; it is not measured
        for _ in range(rounds):
            for name, step in steps.items():
                started = time.perf_counter()
                step()
                seconds[name].append(time.perf_counter() - started)
                advance(1)
    rates = {name: batch / statistics.median(times) for name, times in seconds.items()}
    ratio = rates["ours"] / rates["published"]
    write_result(
        out,
        {
            "recipe": recipe.name,
            "batch_size": batch,
            "micro_batch": CPU_MICRO_BATCH,
            "threads": torch.get_num_threads(),
            "clips_per_second": rates,
            "ratio": ratio,
            "seconds_a_step": seconds,
        },
    )
    typer.echo(f"published {rates['published']:.1f}, ours {rates['ours']:.1f} clips a second: {ratio:.2f} times")


if __name__ == "__main__":
    run_command_line(main)

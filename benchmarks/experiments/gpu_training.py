"""Training speed on a GPU: the step of a recipe on as many clips as TAU 2022 Mobile has, held in its memory.

    python -m tinyscene.benchmarks.experiments.gpu_training [--recipe student] [--clips 140000]

The clips are random PCM, which costs what recordings cost and teaches nothing. The rate is the median over steps after
the first, which allocates and chooses algorithms; the time of 150 epochs is that rate's. It takes a CPU where there is
no GPU, for which `benchmarks/experiments/training_speed.py` is the better measure.
"""

import math
import statistics
import time
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import typer

from tinyscene.benchmarks.experiments.results import Out, write_result
from tinyscene.deploy.common.command_line import run_command_line
from tinyscene.deploy.common.progress import progress
from tinyscene.train.data.cache import Clips
from tinyscene.train.data.cache_index import CachedRecording
from tinyscene.train.data.datasets import SCENES
from tinyscene.train.data.selection import Selection
from tinyscene.train.loop.checkpoint import TrainState
from tinyscene.train.loop.trainer import CPU_MICRO_BATCH, Hardware, Ranks, Trainer
from tinyscene.train.models import build
from tinyscene.train.recipe import load_recipe
from tinyscene.train.teachers.distill import cross_entropy

EPOCHS = 150  # of the published recipe


def random_clips(count: int, samples: int) -> Clips:
    """One recording of `count` clips of noise, of all scenes in turn."""
    pcm = np.random.default_rng(0).integers(-3000, 3000, (count, samples), np.int16)
    whole = CachedRecording(
        path="noise",
        label=SCENES[0],
        device="a",
        first_clip=0,
        clips=count,
        silent=(),
        rate=samples,
        sha256="",
        notes=(),
    )
    label, recording = np.arange(count) % len(SCENES), np.zeros(count, np.int64)
    return Clips(Path(), pcm, label, recording, (whole,), SCENES, "random", samples)


def main(
    recipe: Annotated[str, typer.Option(help="Recipe to measure.")] = "baseline",
    clips: Annotated[int, typer.Option(help="Number of clips in the training set.")] = 140_000,
    steps: Annotated[int, typer.Option(help="Number of steps to measure.")] = 200,
    out: Out = Path("benchmarks/results/gpu_training.json"),
) -> None:
    """Measure and write clips a second and the time of 150 epochs."""
    settings = load_recipe(recipe)
    torch_device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    noise = random_clips(clips, settings.features.clip_samples)
    network = build(settings.model, len(SCENES)).to(torch_device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    batch, every = settings.train.batch_size, np.arange(clips)
    micro_batch = batch if torch_device.type == "cuda" else CPU_MICRO_BATCH
    hardware = Hardware(Ranks(0, 1), torch_device, micro_batch)
    trainer = Trainer(network, settings, cross_entropy, Selection(noise, every, every[:0]), hardware)
    state, seconds = TrainState(), []
    with progress("measuring", steps) as advance:
        for _ in range(steps + 1):
            if state.batch == clips // batch:
                state.epoch, state.batch = state.epoch + 1, 0
            started = time.perf_counter()
            trainer.step(state, total_steps=steps + 1, stopping=False)  # ends by reading the loss, so it is done
            seconds.append(time.perf_counter() - started)
            advance(1)
    step = statistics.median(seconds[1:])
    result = {
        "recipe": settings.name,
        "device": torch.cuda.get_device_name() if torch_device.type == "cuda" else "cpu",
        "clips": clips,
        "batch_size": batch,
        "held_on_gpu": trainer.waveforms.resident is not None,
        "clips_per_second": batch / step,
        "minutes_for_150_epochs": EPOCHS * math.ceil(clips / batch) * step / 60,
        "seconds_a_step": seconds,
    }
    write_result(out, result)
    minutes = result["minutes_for_150_epochs"]
    typer.echo(f"{result['device']}: {batch / step:,.0f} clips a second, {minutes:.1f} minutes for {EPOCHS} epochs")


if __name__ == "__main__":
    run_command_line(main)

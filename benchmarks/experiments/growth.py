"""How cost grows: a network's latency, RAM and MACs with its width, with the clip's length and with the mel bands; the
front end's latency with the size of its transform; a second of listening with the decisions in it; and the clips a
second that training does with the batch.

    python -m tinyscene.benchmarks.experiments.growth                  # benchmarks/results/growth.json, some minutes

The baseline's network with one setting changed at a time, its weights drawn and not trained: what it costs does not
depend on them. Latency is of the native runner, the network alone, all in turn (latency.py). RAM is the arena, feature
map and all. A clip longer than a second is a network's input of more frames.
A second of listening is the audio of a
second pushed and the decisions that fall into it, windows overlapping; its RAM is the whole instance's. Training is our
step on synthetic sounds, cut into micro-batches as on any CPU, and in one piece.
"""

import statistics
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import typer
from numpy.typing import NDArray

from tinyscene.benchmarks.experiments.results import Out, Rounds, write_result
from tinyscene.benchmarks.experiments.training_speed import our_step
from tinyscene.benchmarks.latency import LEAST_ROUNDS, interleaved, one_core, summarize
from tinyscene.deploy.common.command_line import run_command_line
from tinyscene.deploy.common.files import temporary_folder
from tinyscene.deploy.common.progress import progress
from tinyscene.deploy.graph.graph import Graph
from tinyscene.firmware_bridge.codegen.library import DEVICE_KERNELS, make_library, make_network
from tinyscene.firmware_bridge.native import KERNELS, READY, NativeNetwork, NativeScene, native_scene
from tinyscene.train.data.cache import prepare
from tinyscene.train.data.datasets import SCENES, open_dataset
from tinyscene.train.data.sample import write_sample
from tinyscene.train.loop.trainer import CPU_MICRO_BATCH
from tinyscene.train.models import build
from tinyscene.train.quantize.calibrate import calibrate, to_integers
from tinyscene.train.quantize.lower import lower
from tinyscene.train.recipe import Recipe, load_recipe

WIDTHS = (8, 16, 24, 32, 48)  # base channels; the baseline has 32
SECONDS = (0.5, 1.0, 2.0, 4.0)
MELS = (64, 128, 256)
N_FFTS = (512, 1024, 2048, 4096, 8192)  # each with a window of three quarters
DECISIONS = (1, 2, 4)  # a second; the baseline's frames allow them
BATCHES = (8, 16, 32, 64, 128, 256)
STEPS = 7  # of training, of which the median counts


def integer_graph(recipe: Recipe, frames: int) -> Graph:
    """A recipe's network with random weights, quantized on noise, for a number of frames."""
    torch.manual_seed(recipe.seed)
    shape = (recipe.features.n_mels, frames)
    graph = lower(build(recipe.model, len(SCENES)).eval(), shape)
    noise = np.random.default_rng(recipe.seed).normal(size=(2, *shape, 1)).astype(np.float32)
    return to_integers(graph, calibrate(graph, [noise], recipe.quantize))


def settings() -> dict[tuple[str, float], Graph]:
    """The networks, by what is changed in the baseline and to what."""
    baseline = load_recipe("baseline")
    frames = baseline.features.frames
    seconds = [replace(baseline.features, clip_seconds=value).frames for value in SECONDS]
    graphs = {
        ("width", float(w)): integer_graph(load_recipe("baseline", [f"model.base_channels={w}"]), frames)
        for w in WIDTHS
    }
    graphs |= {
        ("seconds", value): integer_graph(baseline, count) for value, count in zip(SECONDS, seconds, strict=True)
    }
    bands = {mels: load_recipe("baseline", [f"features.n_mels={mels}"]) for mels in MELS}
    return graphs | {("mels", float(mels)): integer_graph(recipe, frames) for mels, recipe in bands.items()}


def inference(rounds: int) -> list[dict[str, Any]]:
    """A row for each network: setting, value, macs, arena_bytes, and the figures of its latency."""
    graphs, rng = settings(), np.random.default_rng(0)
    calls: dict[tuple[str, float], Callable[[], object]] = {}
    for key, graph in graphs.items():
        features = rng.integers(-128, 128, graph.input.shape, np.int8)
        network = NativeNetwork(make_network(graph, KERNELS))
        calls[key] = lambda network=network, features=features: network(features)
    with one_core():
        figures = summarize(interleaved(calls, rounds))
    return [
        {
            "setting": key[0],
            "value": key[1],
            "macs": graph.macs,
            "arena_bytes": make_network(graph, DEVICE_KERNELS).config["ARENA_BYTES"],
            **figures[key].as_dict(),
        }
        for key, graph in graphs.items()
    ]


def listening(rounds: int) -> list[dict[str, Any]]:
    """A row for each size of the transform, and for each number of decisions a second: RAM and figures of latency."""
    recipe, rng = load_recipe("baseline"), np.random.default_rng(0)
    graph, pcm = integer_graph(recipe, recipe.features.frames), rng.integers(-(2**12), 2**12, 2**17).astype(np.int16)
    second = pcm[: recipe.features.sample_rate]
    calls: dict[tuple[str, float], Callable[[], object]] = {}
    bytes_of: dict[tuple[str, float], Any] = {}
    for n_fft in N_FFTS:
        front_end = replace(recipe.features, n_fft=n_fft, win_length=3 * n_fft // 4)
        scene = native_scene(make_library(graph, front_end, SCENES, KERNELS))
        calls["n_fft", n_fft] = lambda scene=scene: (
            scene.require(scene.c.tinyscene_reset(scene.instance)),
            scene.push(second),
        )
        bytes_of["n_fft", n_fft] = make_library(graph, front_end, SCENES).config["BYTES"]
    for decisions in DECISIONS:
        scene = native_scene(make_library(graph, recipe.features, SCENES, KERNELS, hop=1 / decisions))
        _listen(scene, second)  # from then on each second holds `decisions`
        calls["decisions", decisions] = lambda scene=scene: _listen(scene, second)
        bytes_of["decisions", decisions] = make_library(graph, recipe.features, SCENES, hop=1 / decisions).config[
            "BYTES"
        ]
    with one_core():
        figures = summarize(interleaved(calls, rounds))
    return [
        {"setting": key[0], "value": key[1], "memory_bytes": bytes_of[key], **figures[key].as_dict()} for key in calls
    ]


def _listen(scene: NativeScene, pcm: NDArray[np.int16]) -> int:
    """Push audio and decide whenever a window is complete; returns how often that was."""
    decisions = 0
    while len(pcm):
        status, consumed = scene.push(pcm)
        pcm = pcm[consumed:]
        if status == READY:
            scene.decide()
            decisions += 1
    return decisions


def training() -> list[dict[str, Any]]:
    """Clips a second by batch, of our step: in micro-batches, and whole."""
    rows = []
    with temporary_folder() as folder, progress("training", 2 * len(BATCHES)) as advance:
        write_sample(folder / "sample")
        dataset = open_dataset(folder / "sample")
        clips = prepare(dataset, load_recipe("baseline").features.sample_rate, folder)
        paths = dataset.split("100")[0]
        for batch in BATCHES:
            recipe = load_recipe("baseline", [f"train.batch_size={batch}"])
            row: dict[str, Any] = {"batch": batch}
            for how, micro in (("micro_batches", min(batch, CPU_MICRO_BATCH)), ("whole", batch)):
                row[how] = batch / _seconds(our_step(recipe, clips, paths, micro))
                advance(1)
            rows.append(row)
    return rows


def _seconds(step: Callable[[], object]) -> float:
    """The median of a step's time, after one that allocates."""
    times = []
    for _ in range(1 + STEPS):
        started = time.perf_counter()
        step()
        times.append(time.perf_counter() - started)
    return statistics.median(times[1:])


def main(out: Out = Path("benchmarks/results/growth.json"), rounds: Rounds = LEAST_ROUNDS) -> None:
    """Measure and write the table."""
    rows, heard, trained = inference(rounds), listening(rounds), training()
    threads = torch.get_num_threads()
    write_result(
        out, {"inference": rows, "listening": heard, "training": {"threads": threads, "clips_per_second": trained}}
    )
    for row in rows:
        typer.echo(
            f"{row['setting']} {row['value']:g}: {row['macs']:,} MACs, {row['arena_bytes']:,} bytes, "
            f"{row['median_ms']:.3f} ms"
        )
    for row in heard:
        typer.echo(f"{row['setting']} {row['value']:g}: {row['memory_bytes']:,} bytes, {row['median_ms']:.3f} ms")
    for row in trained:
        typer.echo(f"batch {row['batch']}: {row['micro_batches']:.0f} clips a second, {row['whole']:.0f} in one piece")


if __name__ == "__main__":
    run_command_line(main)

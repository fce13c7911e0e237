"""Networks without padding over time beside padded ones, with and without a low-pass before each stride: accuracy, MACs
of listening, decisions that a shift changes.

    python -m tinyscene.benchmarks.experiments.streamable --tau-mini DATA --esc10 DATA    # some hours on two cores

`padded` is the recipe `micro`. `streamable` is `micro-stream`, whose decision hears 0.94 s. `two columns` is the same
with three frames in the windows of the first block and one in those of the fourth, so that its columns hear less and a
decision takes two. `context` has windows of three frames in all blocks, whose columns each hear two seconds: its clips
are 2.94 s long, for columns of a second, which recordings of a second do not hold. `low-pass` is `padded` with
`model.antialias`, `streamable low-pass` is `two columns` with it and with one more block of one frame, so that its
clip, 0.91 s, is no longer. All of a platform are trained for as many epochs, with three seeds. The class of a recording
is that of the mean probabilities of its clips; differences to `padded` and their intervals are those of
benchmarks/experiments/ladder.py. ESC-10 is trained on four folds and tested on the first.

A shift is measured on the test recordings of ESC-10, five seconds each: how often the class of a window differs from
that of the window some milliseconds later. Runs are kept in --runs, so that a killed experiment goes on.
"""

from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from numpy.typing import NDArray

from tinyscene.benchmarks.bootstrap import COVERAGE, DRAWS, TestList, recordings_of
from tinyscene.benchmarks.experiments.ladder import compare
from tinyscene.benchmarks.experiments.results import Out, write_result
from tinyscene.deploy.common.command_line import run_command_line
from tinyscene.deploy.frontend.audio import Recording
from tinyscene.train.data.cache import Clips, prepare
from tinyscene.train.data.datasets import Dataset, open_dataset
from tinyscene.train.data.training_data import TrainingData
from tinyscene.train.loop.loop import train
from tinyscene.train.recipe import Recipe, load_recipe
from tinyscene.train.runs.budget import count_recipe
from tinyscene.train.runs.evaluate import BATCH, EvaluatedModel, open_evaluated_model
from tinyscene.train.runs.run import MODEL, RunFolder

SEEDS = 3
BASELINE = "padded"
LAST_BLOCKS = "b4: 1, b5: 1, b6: 1, b7: 1, b8: 1"  # see one frame at a time
VARIANTS = {  # recipe and settings
    BASELINE: ("micro", []),
    "streamable": ("micro-stream", []),
    "two columns": ("micro-stream", [f"model.time_kernels={{{LAST_BLOCKS}}}"]),
    "low-pass": ("micro", ["model.antialias=true"]),
    "streamable low-pass": (
        "micro-stream",
        ["model.antialias=true", f"model.time_kernels={{b3: 1, {LAST_BLOCKS}}}", "features.clip_seconds=0.9085"],
    ),
    "context": ("micro-stream", ["model.time_kernels={}", "features.clip_seconds=2.93975"]),
}
TAU_MINI = ["train.epochs=100", "train.batch_size=16"]
SOUNDS = ["augment.mixstyle_p=0.0", "augment.mixup_alpha=0.3", "augment.freq_mask=32", "augment.gain_db=6"]
ESC10 = ["train.epochs=40", "train.batch_size=16", "train.warmup=0.1", "augment.roll_seconds=0.5", *SOUNDS]
PLATFORMS = {  # split, settings and variants
    "tau_mini": ("100", TAU_MINI, tuple(VARIANTS)[:-1]),
    "esc10": ("fold1", ESC10, tuple(VARIANTS)),
}
SHIFTS = (1, 2, 5, 10, 20, 50, 100)  # ms
STARTS = (0.0, 0.5, 1.0, 1.5)  # s, of the windows that are shifted
ESC_SECONDS = 5.0
Probabilities = NDArray[np.float32]


def main(
    tau_mini: Annotated[Path, typer.Option(help="Folder of tau_mini.")],
    esc10: Annotated[Path, typer.Option(help="Folder of ESC-10.")],
    runs: Annotated[Path, typer.Option(help="Where the runs are kept.")] = Path("runs/streamable"),
    out: Out = Path("benchmarks/results/streamable.json"),
) -> None:
    """Train what is missing, and write the tables."""
    accuracy: list[dict[str, Any]] = []
    shift: list[dict[str, Any]] = []
    for platform, folder in (("tau_mini", tau_mini), ("esc10", esc10)):
        split, settings, variants = PLATFORMS[platform]
        dataset = open_dataset(folder)
        test = _test(dataset, split)
        right: dict[str, NDArray[np.bool_]] = {}
        for name in variants:
            recipe = _recipe(name, settings, 0)
            clips = prepare(dataset, recipe.features.sample_rate, clip_seconds=recipe.features.clip_seconds)
            models = [
                _model(name, settings, seed, TrainingData(dataset, clips, split), runs / platform)
                for seed in range(SEEDS)
            ]
            right[name] = np.stack([_answers(model, clips, dataset, split) == test.truth for model in models])
            about = {"platform": platform, "variant": name, "recordings": len(test.truth), "settings": settings}
            accuracy.append(about | compare([right[name]], [right[BASELINE]], test))
            if platform == "esc10":
                shift.append({"variant": name} | _changes(models, _sounds(dataset, split, recipe)))
    costs = [{"variant": name} | _cost(_recipe(name, [], 0)) for name in VARIANTS]
    about = {"draws": DRAWS, "coverage": COVERAGE, "seeds": SEEDS, "starts": STARTS}
    write_result(out, {**about, "costs": costs, "accuracy": accuracy, "shift": shift})


def _recipe(name: str, settings: list[str], seed: int) -> Recipe:
    recipe, own = VARIANTS[name]
    return load_recipe(recipe, [*own, *settings, f"seed={seed}"])


def _model(name: str, settings: list[str], seed: int, data: TrainingData, runs: Path) -> EvaluatedModel:
    folder = runs / f"{name}-{seed}"
    if not (folder / MODEL).exists():
        train(_recipe(name, settings, seed), data, RunFolder(folder, resume=folder.exists()))
    return open_evaluated_model(folder, None)


def _cost(recipe: Recipe) -> dict[str, Any]:
    count, model = count_recipe(recipe), recipe.model
    assert count.listening is not None
    columns = {"receptive_frames": getattr(model, "receptive_frames", None)} if count.listening.streams else {}
    return {
        "clip_seconds": recipe.features.clip_seconds,
        "parameters": count.parameters,
        "listening_macs": count.listening.macs,
        **columns,
    }


def _test(dataset: Dataset, split: str) -> TestList:
    """The test recordings, each as one clip."""
    paths = dataset.split(split)[1]
    recordings = {recording.path: recording for recording in dataset.recordings}
    truth = np.array([dataset.labels.index(recordings[path].label) for path in paths])
    devices = np.array([recordings[path].device for path in paths])
    return TestList(np.arange(len(paths)), truth, recordings_of(paths), devices)


def _answers(model: EvaluatedModel, clips: Clips, dataset: Dataset, split: str) -> NDArray[np.int64]:
    """The class of each test recording, (recording,): that of its clips' mean probabilities."""
    paths = dataset.split(split)[1]
    indices = clips.select(paths)
    probabilities = _predict(model, clips.pcm, indices)
    names = np.array([clips.recordings[clips.recording[clip]].path for clip in indices])
    return np.array([probabilities[names == path].mean(0).argmax() for path in paths])


def _predict(model: EvaluatedModel, pcm: NDArray[np.int16], indices: NDArray[np.int64]) -> Probabilities:
    parts = [indices[start : start + BATCH] for start in range(0, len(indices), BATCH)]
    return np.concatenate([model.predict(pcm[part]) for part in parts])


def _sounds(dataset: Dataset, split: str, recipe: Recipe) -> NDArray[np.int16]:
    """The test recordings whose windows in all variants hold sound, (recording, samples)."""
    rate = recipe.features.sample_rate
    paths = (dataset.root / path for path in dataset.split(split)[1])
    sounds = [next(iter(Recording(path, rate, ESC_SECONDS).clips())) for path in paths]
    heard = [sound for sound in sounds if all(sound[round(start * rate) :][: rate // 2].any() for start in STARTS)]
    return np.stack(heard)


def _changes(models: list[EvaluatedModel], sounds: NDArray[np.int16]) -> dict[str, Any]:
    """In per cent of windows and seeds, how often a shift changes the class, and the interval over recordings."""
    front_end = models[0].front_end
    changed = np.zeros((len(SHIFTS), len(sounds)))  # share of each recording
    for model in models:
        for start in STARTS:
            classes = [_classes(model, sounds, start + shift / 1000) for shift in (0, *SHIFTS)]
            changed += np.array([(each != classes[0]) for each in classes[1:]]) / len(models) / len(STARTS)
    rng = np.random.default_rng(0)
    drawn = changed[:, rng.integers(0, len(sounds), (DRAWS, len(sounds)))].mean(2)  # (shift, draw)
    low, high = np.percentile(100 * drawn, [(100 - COVERAGE) / 2, (100 + COVERAGE) / 2], axis=1)
    rows = [
        {"ms": shift, "changed": 100 * float(share), "interval": [float(least), float(most)]}
        for shift, share, least, most in zip(SHIFTS, changed.mean(1), low, high, strict=True)
    ]
    return {"clip_seconds": front_end.clip_seconds, "recordings": len(sounds), "rows": rows}


def _classes(model: EvaluatedModel, sounds: NDArray[np.int16], start: float) -> NDArray[np.int64]:
    """The class of the window of each recording that starts so many seconds in."""
    first = round(start * model.front_end.sample_rate)
    windows = sounds[:, first : first + model.front_end.clip_samples]
    return _predict(model, windows, np.arange(len(windows))).argmax(1)


if __name__ == "__main__":
    run_command_line(main)

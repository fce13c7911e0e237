"""Accuracy of recipes trained from scratch, over seeds, and what one setting of a recipe is worth.

    python -m tinyscene.benchmarks.experiments.from_scratch tau_mini --data DATA  # with and without Freq-MixStyle
    python -m tinyscene.benchmarks.experiments.from_scratch esc10 --data DATA     # five folds, recipe `sounds`

Runs are kept in --runs, so a killed benchmark goes on; the table in --out is rewritten after each run.
"""

import statistics
from pathlib import Path
from typing import Annotated, Any

import typer

from tinyscene.benchmarks.experiments.results import Out, read_result, write_result
from tinyscene.deploy.common.command_line import run_command_line
from tinyscene.train.data.cache import prepare
from tinyscene.train.data.datasets import open_dataset
from tinyscene.train.data.features import LogMel
from tinyscene.train.data.training_data import TrainingData
from tinyscene.train.loop.loop import train
from tinyscene.train.recipe import load_recipe
from tinyscene.train.runs.evaluate import evaluate, predictor
from tinyscene.train.runs.run import RunFolder, load_model

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, help=__doc__)
Data = Annotated[Path, typer.Option(help="Folder of the dataset.")]
Runs = Annotated[Path, typer.Option(help="Where the runs are kept.")]

TAU_MINI = [
    "train.epochs=60",
    "train.batch_size=64",
    "train.warmup_steps=null",
]  # 930 clips are too few for 150 epochs of 256
MEASURES = ("accuracy", "macro_accuracy", "log_loss")


@app.command()
def tau_mini(
    data: Data,
    runs: Runs = Path("runs/from_scratch"),
    out: Out = Path("benchmarks/results/from_scratch_tau_mini.json"),
    seeds: Annotated[int, typer.Option(help="Number of seeds, from 0.")] = 3,
) -> None:
    """The baseline on split100, several seeds, beside the same recipe with Freq-MixStyle off."""
    result = read_result(out)
    for seed in range(seeds):
        for name, settings in (("baseline", []), ("without_freq_mixstyle", ["augment.mixstyle_p=0"])):
            _run(result, name, "baseline", [*TAU_MINI, *settings, f"seed={seed}"], data, "100", runs / f"{name}-{seed}")
            write_result(out, result)


@app.command()
def esc10(
    data: Data,
    runs: Runs = Path("runs/from_scratch_esc10"),
    out: Out = Path("benchmarks/results/from_scratch_esc10.json"),
) -> None:
    """Five-fold cross-validation, one seed; a recording's score is the mean of its seconds."""
    result = read_result(out)
    for fold in range(1, 6):
        _run(result, "sounds", "sounds", [], data, f"fold{fold}", runs / f"fold{fold}")
        write_result(out, result)


def _run(
    result: dict[str, Any], name: str, recipe: str, settings: list[str], data: Path, split: str, folder: Path
) -> None:
    """Train and evaluate one run, unless the table has it, and bring the summary of its rows up to date."""
    rows: list[dict[str, Any]] = result.setdefault("runs", [])
    if not any(row["run"] == folder.name for row in rows):
        parsed_recipe = load_recipe(recipe, settings)
        dataset = open_dataset(data)
        clips = prepare(dataset, parsed_recipe.features.sample_rate)
        train(parsed_recipe, TrainingData(dataset, clips, split), RunFolder(folder, resume=folder.exists()))
        network, card = load_model(folder)
        evaluation = evaluate(predictor(network, LogMel(parsed_recipe.features)), clips, dataset.split(split)[1])
        groups = {group: score.accuracy for group, score in evaluation.by_device_group.items()}
        rows.append(
            {"run": folder.name, "name": name, "split": split, "seed": parsed_recipe.seed, "settings": settings}
            | {key: getattr(evaluation, key) for key in ("clips", "correct", *MEASURES)}
            | {"by_device_group": groups, "data_hash": card.data_hash}
        )
    summary = result.setdefault("summary", {})
    members = [row for row in rows if row["name"] == name]
    for measure in MEASURES:
        values = [row[measure] for row in members]
        deviation = statistics.stdev(values) if len(values) > 1 else None
        summary.setdefault(name, {})[measure] = {"mean": statistics.mean(values), "sd": deviation, "runs": len(values)}


if __name__ == "__main__":
    run_command_line(app)

"""The commands that train: from recordings to a run.

Nothing here imports torch before a command runs, so that an installation without it can list all commands.
"""

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from tinyscene.cli.options import (
    TRAIN,
    AllowOver,
    FinishedRun,
    FoldPattern,
    RecipeName,
    Resume,
    Set,
    Split,
    Splits,
    TrainingSplit,
    Weights,
    with_dataset,
)
from tinyscene.deploy.common.errors import InputError
from tinyscene.deploy.common.files import sha256
from tinyscene.deploy.common.installation import require
from tinyscene.deploy.common.terminal import Json, messages, show
from tinyscene.deploy.frontend.log_mel import FrontEnd
from tinyscene.interface import datasets
from tinyscene.interface import training as stages
from tinyscene.interface.datasets import DatasetOptions
from tinyscene.interface.run import Run

app = typer.Typer()


@app.command(rich_help_panel=TRAIN)
def sample(
    folder: Annotated[Path, typer.Argument(help="Folder to write.")],
    seed: Annotated[int, typer.Option(help="Seed of the random numbers.")] = 0,
    as_json: Json = False,
) -> None:
    """Write a small synthetic dataset in TAU's layout."""
    counts = datasets.sample(folder, seed)
    show(
        {"folder": str(folder), "clips": counts},
        as_json,
        f"{folder}: {counts['100']} clips to train on, {counts['test']} to test on, all synthetic",
    )


@app.command(rich_help_panel=TRAIN)
def prepare(
    folder: Annotated[Path, typer.Argument(help="Folder of the dataset.")],
    splits: Splits = None,
    fold_pattern: FoldPattern = None,
    sample_rate: Annotated[int, typer.Option(help="Sample rate of the features, in Hz.")] = FrontEnd.sample_rate,
    clip_seconds: Annotated[float, typer.Option(help="Length of the clips, in seconds.")] = FrontEnd.clip_seconds,
    as_json: Json = False,
) -> None:
    """Decode and resample a dataset into the cache, and list the recordings that were changed or left out."""
    report = datasets.prepare(DatasetOptions(folder, splits, fold_pattern), sample_rate, clip_seconds)
    lines = [
        f"{report['used']} recordings, {report['clips']} clips of {clip_seconds:g} s, {report['left_out']} left out",
        f"cache {report['cache']}, data hash {report['data_hash'][:16]}",
        *(f"  {path}: {'; '.join(notes)}" for path, notes in report["notes"].items()),
    ]
    show(report, as_json, "\n".join(lines))


@app.command(rich_help_panel=TRAIN)
def recipes(as_json: Json = False) -> None:
    """List the recipes: their parameters, their MACs and what each is for."""
    require("torch", "train")
    from tinyscene.cli.training_tables import recipes_table

    listed = stages.recipes()
    show([asdict(recipe) for recipe in listed], as_json, recipes_table(listed))


@app.command(rich_help_panel=TRAIN)
@with_dataset()
def train(
    recipe: RecipeName,
    data: DatasetOptions,
    out: Annotated[Path | None, typer.Option(help="Folder of the run; by default runs/RECIPE-SPLIT.")] = None,
    split: Split = None,
    settings: Set = None,
    weights: Weights = None,
    resume: Resume = False,
    allow_over_budget: AllowOver = False,
    as_json: Json = False,
) -> None:
    """Train a recipe on a split of a dataset."""
    run = stages.train(recipe, data, split, out, settings, weights, resume, allow_over_budget)
    _show_run(run, data, as_json)


def _show_run(run: Run, data: DatasetOptions, as_json: bool) -> None:
    last = run.metrics[-1]
    show(
        {"run": str(run.folder), "model": str(run.model), "data_hash": run.card.data_hash, **last},
        as_json,
        f"{run.model}: {last['epoch']} epochs, loss {last['loss']:.3f}, {last['accuracy']:.1%} of the training clips; "
        f"next: tinyscene evaluate {run.folder} --data {data.folder}",
    )


@app.command(rich_help_panel=TRAIN)
@with_dataset()
def teach(
    recipe: RecipeName,
    data: DatasetOptions,
    out: Annotated[Path, typer.Option(help="Folder of the run.")],
    split: Split = None,
    settings: Set = None,
    weights: Weights = None,
    probe: Annotated[
        bool, typer.Option("--probe", help="Fit a linear classifier on the embedding of --weights (efficientat).")
    ] = False,
    resume: Resume = False,
    as_json: Json = False,
) -> None:
    """Train a teacher (passt, ast, cp_resnet, efficientat or any recipe): like `train`, without a budget."""
    if probe:
        if resume:
            raise InputError("--probe: has nothing to resume; it is fitted in one go")
        run = stages.probe(recipe, data, out, split, settings, weights)
    else:
        run = stages.train(recipe, data, split, out, settings, weights, resume, allow_over_budget=True)
    _show_run(run, data, as_json)


@app.command(rich_help_panel=TRAIN)
@with_dataset()
def logits(
    teachers: Annotated[list[Path], typer.Argument(help="Runs, and files of logits from elsewhere.")],
    data: DatasetOptions,
    out: Annotated[Path, typer.Option(help="The .safetensors file to write.")],
    split: Split = None,
    average: Annotated[str, typer.Option(help="How the teachers are averaged: mean or bayesian.")] = "mean",
    responses: Annotated[
        Path | None, typer.Option(help="Impulse responses for more views of each clip (augment.dir_folder).")
    ] = None,
    as_json: Json = False,
) -> None:
    """Compute the logits of teachers on a split's training clips, and write their average to a file."""
    written = stages.logits(teachers, data, out, split, average, responses)
    show(
        {"logits": str(out), "clips": len(written.clips), "views": len(written.views), "sha256": sha256(out)},
        as_json,
        f"{out}: {len(teachers)} teachers' logits for {len(written.clips)} clips; "
        f"next: tinyscene train student --data {data.folder} --split {written.split} "
        f"--set distill.logits={out} --out RUN",
    )


@app.command(rich_help_panel=TRAIN)
@with_dataset()
def adapt(
    run: FinishedRun,
    data: DatasetOptions,
    out: Annotated[Path, typer.Option(help="Folder of the new run.")],
    split: TrainingSplit = None,
    settings: Set = None,
    resume: Resume = False,
    as_json: Json = False,
) -> None:
    """Fine-tune a run for each recording device; the new run has one network per device."""
    adapted = Run(run).adapt(data, out, split, settings, resume)
    left_out = adapted.left_out.items()
    lines = [
        *(f"device {device}: fine-tuned on {count} clips" for device, count in adapted.devices.items()),
        *(f"device {device}: left to the general network, it has {count} clips" for device, count in left_out),
        f"{out}: next: tinyscene evaluate {out} --data {data.folder}",
    ]
    show({"run": str(out), "devices": adapted.devices, "left_out": adapted.left_out}, as_json, "\n".join(lines))


@app.command(rich_help_panel=TRAIN)
@with_dataset()
def prune(
    run: FinishedRun,
    data: DatasetOptions,
    out: Annotated[Path, typer.Option(help="Folder of the smaller run.")],
    to_macs: Annotated[
        float | None, typer.Option(help="Largest number of MACs per second of audio, such as 11e6.")
    ] = None,
    to_bytes: Annotated[float | None, typer.Option(help="Largest size of the parameters, in bytes.")] = None,
    split: TrainingSplit = None,
    settings: Set = None,
    resume: Resume = False,
    as_json: Json = False,
) -> None:
    """Remove channels from a run, step by step, until it fits a budget."""
    count = stages.prune(run, data, out, to_macs, to_bytes, split, settings, resume).budget()
    show(
        {"run": str(out), "parameters": count.parameters, "macs": count.macs, "bytes": count.bytes},
        as_json,
        f"{out}: {count.macs:,} MACs, {count.bytes:,} bytes in {count.precision}; "
        f"next: tinyscene evaluate {out} --data {data.folder}",
    )


@app.command(rich_help_panel=TRAIN)
@with_dataset()
def sweep(
    file: Annotated[str, typer.Argument(help="Name of a sweep, or a YAML file (train/sweep/sweep_file.py).")],
    data: DatasetOptions,
    out: Annotated[Path, typer.Option(help="Folder of the sweep: a new one, or one to continue.")],
    other: Annotated[
        list[str] | None, typer.Option(metavar="NAME=FOLDER", help="Folder of another dataset that the sweep names.")
    ] = None,
    settings: Set = None,
    jobs: Annotated[int | None, typer.Option(min=1, help="Jobs at a time; by default one per GPU or core.")] = None,
    ray: Annotated[str | None, typer.Option(metavar="ADDRESS", help="Ray cluster to run on; auto finds it.")] = None,
    variant: Annotated[
        list[str] | None, typer.Option(metavar="NAME", help="Variant of the sweep; several are applied in order.")
    ] = None,
    teachers: Annotated[
        str | None, typer.Option(metavar="NAME", help="Variant with other teachers, applied first.")
    ] = None,
    small: Annotated[bool, typer.Option("--small", help="The variant `small`, applied last.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what the sweep costs, and train nothing.")] = False,
    as_json: Json = False,
) -> None:
    """Train recipes on several splits and seeds, on this machine or a Ray cluster, into one table of results.

    The rates of this machine are measured first, and what is left of the sweep costs is printed. The same command
    continues an interrupted sweep.
    """
    require("torch", "train")
    from tinyscene.cli.training_tables import cost_table
    from tinyscene.train.sweep.sweep import go_on, named_sources

    variants = [*([teachers] if teachers else []), *(variant or []), *(["small"] if small else [])]
    others = {name: source.folder for name, source in named_sources(other or []).items()}
    status, cost = stages.open_sweep(file, data, out, others, settings, variants, jobs)
    if dry_run:
        show(cost.as_dict(), as_json, cost_table(cost))
        return
    messages.print(cost_table(cost))
    result = go_on(status, jobs, ray)
    show(
        result,
        as_json,
        f"{result['results']}: {result['done']} of {result['runs']} runs done; next: tinyscene report {out}",
    )


@app.command(name="import", rich_help_panel=TRAIN)
def import_(
    weights: Annotated[Path, typer.Argument(help="A .safetensors or .pt file with the published parameter names.")],
    out: Annotated[Path, typer.Option(help="Folder of the run.")],
    recipe: Annotated[str, typer.Option(help="Recipe whose network has these weights.")] = "baseline",
    settings: Set = None,
    as_json: Json = False,
) -> None:
    """Make a run from weights that were trained elsewhere."""
    run = stages.import_weights(weights, out, recipe, settings).folder
    show({"run": str(run)}, as_json, f"{run}: imported; next: tinyscene evaluate {run} --data DATA")

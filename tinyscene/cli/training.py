"""The commands of `train`: from recordings to a bundle. `tinyscene.py` puts them on the command line.

Nothing here imports torch before a command runs, so that a device's installation can name them all.
"""

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from tinyscene.deploy.common.errors import InputError
from tinyscene.deploy.common.files import require_free, sha256
from tinyscene.deploy.common.installation import require
from tinyscene.deploy.common.terminal import Json, messages, show
from tinyscene.deploy.frontend.log_mel import FrontEnd

app = typer.Typer()

Data = Annotated[Path, typer.Option("--data", help="Folder of the dataset: TAU's layout, or a folder a class.")]
Splits = Annotated[Path | None, typer.Option("--splits", help="Folder of TAU's split lists, if not in the dataset.")]
FoldPattern = Annotated[
    str | None, typer.Option("--fold-pattern", help="Regular expression whose first group is a file's fold.")
]
Split = Annotated[str, typer.Option(help="TAU: 5, 10, 25, 50, 100. Folders: fold1 and on, the one held out.")]
FinishedRun = Annotated[Path, typer.Argument(help="A finished run.")]
RecipeName = Annotated[str, typer.Argument(help="Name of a recipe, or a YAML file.")]
Weights = Annotated[
    str | None, typer.Option(help="Start from a run, a .safetensors or .pt file, or what is `published`.")
]
Resume = Annotated[bool, typer.Option("--resume", help="Go on with an interrupted run.")]
Set = Annotated[list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Change a key of the recipe.")]
Runner = Annotated[
    str, typer.Option(help="What runs a bundle: reference, native, litert, tflite-runtime or onnxruntime.")
]
AllowOver = Annotated[bool, typer.Option("--allow-over-budget", help="Go on with a model that is over budget.")]


@app.command()
def sample(folder: Path, seed: int = 0, as_json: Json = False) -> None:
    """Make a small synthetic dataset in TAU's layout."""
    needs("pooch")
    from tinyscene.train.data.sample import write_sample

    counts = write_sample(folder, seed)
    show(
        {"folder": str(folder), "clips": counts},
        as_json,
        f"{folder}: {counts['100']} clips to train on, {counts['test']} to test on, all synthetic",
    )


@app.command()
def prepare(
    folder: Annotated[Path, typer.Argument(help="Folder of the dataset.")],
    splits: Splits = None,
    fold_pattern: FoldPattern = None,
    sample_rate: Annotated[int, typer.Option(help="Hz, of the recipe's features.")] = FrontEnd.sample_rate,
    as_json: Json = False,
) -> None:
    """Decode and resample a dataset once, and report every recording that needed anything."""
    report = open_clips(folder, splits, fold_pattern, FrontEnd(sample_rate=sample_rate))[1].report()
    lines = [
        f"{report['used']} recordings, {report['clips']} one-second clips, {report['left_out']} left out",
        f"cache {report['cache']}, data hash {report['data_hash'][:16]}",
        *(f"  {path}: {'; '.join(notes)}" for path, notes in report["notes"].items()),
    ]
    show(report, as_json, "\n".join(lines))


@app.command()
def train(
    recipe: RecipeName,
    data: Data,
    out: Annotated[Path | None, typer.Option(help="Folder of the run; by default runs/RECIPE-SPLIT.")] = None,
    split: Split = "100",
    settings: Set = None,
    weights: Weights = None,
    resume: Resume = False,
    splits: Splits = None,
    fold_pattern: FoldPattern = None,
    allow_over_budget: AllowOver = False,
    as_json: Json = False,
) -> None:
    """Train a recipe on a split of a dataset."""
    needs("torch")
    from tinyscene.train.loop.loop import train as run_training
    from tinyscene.train.recipe import load_recipe
    from tinyscene.train.runs.run import METRICS
    from tinyscene.train.runs.transfer import find_weights

    chosen = load_recipe(recipe, settings)
    out = out or Path("runs") / f"{chosen.name}-{split}"
    dataset, clips = open_clips(data, splits, fold_pattern, chosen.features)
    start = find_weights(weights, chosen.model) if weights else None
    if chosen.augment.dir_p and not chosen.augment.dir_folder:
        messages.print("no augment.dir_folder is named: training without impulse responses of microphones")
    model = run_training(chosen, dataset, clips, split, out, resume, allow_over_budget, start)
    last = json.loads((out / METRICS).read_text(encoding="utf-8").splitlines()[-1])
    show(
        {"run": str(out), "model": str(model), "data_hash": clips.data_hash, **last},
        as_json,
        f"{model}: {last['epoch']} epochs, loss {last['loss']:.3f}, {last['accuracy']:.1%} of the training clips; "
        f"next: tinyscene evaluate {out} --data {data}",
    )


@app.command()
def teach(
    recipe: RecipeName,
    data: Data,
    out: Annotated[Path, typer.Option(help="Folder of the run.")],
    split: Split = "100",
    settings: Set = None,
    weights: Weights = None,
    resume: Resume = False,
    splits: Splits = None,
    fold_pattern: FoldPattern = None,
    as_json: Json = False,
) -> None:
    """Train a teacher (passt, ast, cp_resnet, or any recipe): `train` without a budget."""
    train(recipe, data, out, split, settings, weights, resume, splits, fold_pattern, True, as_json)


@app.command()
def logits(
    teachers: Annotated[list[Path], typer.Argument(help="Runs, and files of logits made elsewhere.")],
    data: Data,
    out: Annotated[Path, typer.Option(help="The .safetensors file to write.")],
    split: Split = "100",
    average: Annotated[str, typer.Option(help="How teachers become one: mean or bayesian.")] = "mean",
    responses: Annotated[
        Path | None, typer.Option(help="Impulse responses to ask the teachers with, too (augment.dir_folder).")
    ] = None,
    splits: Splits = None,
    fold_pattern: FoldPattern = None,
    as_json: Json = False,
) -> None:
    """Ask teachers for their logits on a split's training clips, and keep the ensemble's."""
    needs("torch")
    from tinyscene.train.teachers.logits import AVERAGES, make_logits, read_logits

    if average not in AVERAGES:
        raise InputError(f"--average {average}: must be one of {', '.join(AVERAGES)}")
    dataset, clips = open_clips(data, splits, fold_pattern, FrontEnd())
    written = read_logits(make_logits(teachers, dataset, clips, split, out, average, responses))
    show(
        {"logits": str(out), "clips": len(written.clips), "views": len(written.views), "sha256": sha256(out)},
        as_json,
        f"{out}: {len(teachers)} teachers' logits for {len(written.clips)} clips; "
        f"next: tinyscene train student --data {data} --split {split} --set distill.logits={out} --out RUN",
    )


@app.command()
def evaluate(
    model: Annotated[Path, typer.Argument(help="A run, a bundle, or an exported .onnx file.")],
    data: Data,
    split: Annotated[str | None, typer.Option(help="Whose test list; by default the one trained on.")] = None,
    runner: Runner = "reference",
    splits: Splits = None,
    fold_pattern: FoldPattern = None,
    as_json: Json = False,
) -> None:
    """Evaluate on the test list: by class, device and device group, with a confusion matrix."""
    needs("torch")
    from tinyscene.cli.training_tables import evaluation_tables
    from tinyscene.train.runs.evaluate import evaluate as run_evaluation
    from tinyscene.train.runs.evaluate import open_evaluated_model, record

    evaluated = open_evaluated_model(model, runner)
    dataset, clips = open_clips(data, splits, fold_pattern, evaluated.front_end)
    clips.require_labels(evaluated.labels, model)
    name = split or evaluated.split or dataset.default_split
    result = run_evaluation(evaluated.predict, clips, dataset.split(name)[1], evaluated.variants)
    result |= {"model": str(model), "data_hash": clips.data_hash, "split": name, "runner": evaluated.runner}
    written = record(model, result)
    show(result, as_json, evaluation_tables(result))
    messages.print(f"{written}.json and the confusion matrix {written}.png written", soft_wrap=True)


@app.command()
def budget(
    target: Annotated[str, typer.Argument(help="A recipe, run, bundle, or .safetensors, .onnx or .tflite file.")],
    recipe: Annotated[str | None, typer.Option(help="Recipe of a .safetensors file that carries none.")] = None,
    settings: Set = None,
    max_bytes: Annotated[int | None, typer.Option(help="Limit on bytes of parameters.")] = None,
    max_macs: Annotated[int | None, typer.Option(help="Limit on MACs for one second of sound.")] = None,
    allow_over_budget: AllowOver = False,
    as_json: Json = False,
) -> None:
    """Count parameters, bytes and MACs against the limits of DCASE 2024 Task 1 (exit code 3 if over)."""
    needs("torch")
    from tinyscene.cli.training_tables import budget_tables
    from tinyscene.train.runs.budget import count_target

    count, limits = count_target(target, recipe, settings)
    changed = {"max_bytes": max_bytes, "max_macs": max_macs}
    limits = limits.model_copy(update={key: value for key, value in changed.items() if value is not None})
    show(count.as_dict(limits), as_json, budget_tables(count, limits))
    count.require(limits, allow_over_budget)


@app.command()
def quantize(
    run: FinishedRun,
    data: Data,
    out: Annotated[Path, typer.Option(help="Folder of the bundle.")],
    qat: Annotated[bool, typer.Option("--qat", help="Fine-tune with rounding, after the calibration.")] = False,
    split: Annotated[str | None, typer.Option(help="Whose training list; by default the one trained on.")] = None,
    settings: Set = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with interrupted fine-tuning.")] = False,
    splits: Splits = None,
    fold_pattern: FoldPattern = None,
    allow_over_budget: AllowOver = False,
    as_json: Json = False,
) -> None:
    """Make a run integer-only and write it as a bundle."""
    needs("torch")
    from tinyscene.train.quantize.quantize import quantize as run_quantization
    from tinyscene.train.runs.run import load_model

    require_free(out)
    dataset, clips = open_clips(data, splits, fold_pattern, load_model(run)[1].parsed_recipe.features)
    bundle = run_quantization(run, dataset, clips, out, qat, split, settings, resume, allow_over_budget)
    budget = bundle.content["budget"]
    show(
        {"bundle": str(out), **budget},
        as_json,
        f"{out}: {budget['deployed_bytes']:,} bytes of weights and biases, {budget['deployed_macs']:,} MACs; "
        f"next: tinyscene evaluate {out} --data {data}",
    )


@app.command()
def adapt(
    run: FinishedRun,
    data: Data,
    out: Annotated[Path, typer.Option(help="Folder of the new run.")],
    split: Annotated[str | None, typer.Option(help="Whose training list; by default the one trained on.")] = None,
    settings: Set = None,
    resume: Resume = False,
    splits: Splits = None,
    fold_pattern: FoldPattern = None,
    as_json: Json = False,
) -> None:
    """Fine-tune a run for each recording device: a run with a network for every one."""
    needs("torch")
    from tinyscene.train.fine_tuning.adapt import adapt as run_adaptation
    from tinyscene.train.runs.run import load_model

    dataset, clips = open_clips(data, splits, fold_pattern, load_model(run)[1].parsed_recipe.features)
    adapted = run_adaptation(run, dataset, clips, out, split, settings, resume)
    left_out = adapted.left_out.items()
    lines = [
        *(f"device {device}: fine-tuned on {count} clips" for device, count in adapted.devices.items()),
        *(f"device {device}: left to the general network, it has {count} clips" for device, count in left_out),
        f"{out}: next: tinyscene evaluate {out} --data {data}",
    ]
    show({"run": str(out), "devices": adapted.devices, "left_out": adapted.left_out}, as_json, "\n".join(lines))


@app.command()
def prune(
    run: FinishedRun,
    data: Data,
    out: Annotated[Path, typer.Option(help="Folder of the smaller run.")],
    to_macs: Annotated[float | None, typer.Option(help="Most MACs for one second of sound, such as 11e6.")] = None,
    to_bytes: Annotated[float | None, typer.Option(help="Most bytes of parameters.")] = None,
    split: Annotated[str | None, typer.Option(help="Whose training list; by default the one trained on.")] = None,
    settings: Set = None,
    resume: Resume = False,
    splits: Splits = None,
    fold_pattern: FoldPattern = None,
    as_json: Json = False,
) -> None:
    """Take channels away from a run, step by step, until it fits a budget."""
    needs("torch_pruning")
    from tinyscene.train.fine_tuning.prune import prune as run_pruning
    from tinyscene.train.runs.budget import count_target
    from tinyscene.train.runs.run import load_model

    for name, goal in (("--to-macs", to_macs), ("--to-bytes", to_bytes)):
        if goal is not None and not 1 <= goal < 1e18:
            raise InputError(f"{name} {goal}: must be a number of 1 or more")
    most_macs, most_bytes = (None if goal is None else int(goal) for goal in (to_macs, to_bytes))
    dataset, clips = open_clips(data, splits, fold_pattern, load_model(run)[1].parsed_recipe.features)
    run_pruning(run, dataset, clips, out, most_macs, most_bytes, split, settings, resume)
    count, _ = count_target(str(out), None, None)
    show(
        {"run": str(out), "parameters": count.parameters, "macs": count.macs, "bytes": count.bytes},
        as_json,
        f"{out}: {count.macs:,} MACs, {count.bytes:,} bytes in {count.precision}; "
        f"next: tinyscene evaluate {out} --data {data}",
    )


@app.command()
def sweep(
    file: Annotated[str, typer.Argument(help="Name of a sweep, or a YAML file (train/sweep/plan.py).")],
    data: Data,
    out: Annotated[Path, typer.Option(help="Folder of the sweep: a new one, or one to go on with.")],
    other: Annotated[
        list[str] | None, typer.Option(metavar="NAME=FOLDER", help="Another dataset that the sweep names.")
    ] = None,
    settings: Set = None,
    jobs: Annotated[int | None, typer.Option(min=1, help="At a time; by default as many as cores, or GPUs.")] = None,
    ray: Annotated[str | None, typer.Option(metavar="ADDRESS", help="Run on a Ray cluster; auto finds it.")] = None,
    splits: Splits = None,
    fold_pattern: FoldPattern = None,
    as_json: Json = False,
) -> None:
    """Train recipes by splits by seeds, on one machine or many, into one table; the same command goes on."""
    needs("torch")
    from tinyscene.train.sweep.job import Source
    from tinyscene.train.sweep.sweep import named_sources, run_sweep

    source = Source(folder=str(data), splits=splits and str(splits), fold_pattern=fold_pattern)
    result = run_sweep(file, source, out, named_sources(other or []), settings, jobs, ray)
    show(
        result,
        as_json,
        f"{result['results']}: {result['done']} of {result['runs']} runs done; next: tinyscene report {out}",
    )


@app.command(name="import")
def import_(
    weights: Annotated[Path, typer.Argument(help="A .safetensors file in the published parameter names.")],
    out: Annotated[Path, typer.Option(help="Folder of the run.")],
    recipe: Annotated[str, typer.Option(help="Recipe whose network the weights are.")] = "baseline",
    settings: Set = None,
    as_json: Json = False,
) -> None:
    """Make a run of weights trained elsewhere."""
    needs("torch")
    from tinyscene.train.recipe import load_recipe
    from tinyscene.train.runs.run import import_weights

    run = import_weights(weights, load_recipe(recipe, settings), out)
    show({"run": str(run)}, as_json, f"{run}: imported; next: tinyscene evaluate {run} --data DATA")


def open_clips(folder: Path, splits: Path | None, fold_pattern: str | None, front_end: FrontEnd) -> tuple[Any, Any]:
    """A dataset and its prepared clips at the front end's rate."""
    needs("pooch")
    from tinyscene.train.data.cache import prepare as prepare_clips
    from tinyscene.train.data.datasets import open_dataset

    dataset = open_dataset(folder, splits, fold_pattern)
    return dataset, prepare_clips(dataset, front_end.sample_rate)


def needs(package: str) -> None:
    require(package, "train")

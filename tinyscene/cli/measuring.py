"""The commands that measure and report."""

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from tinyscene.cli.bundle_tables import inspection_table
from tinyscene.cli.failures import Failures
from tinyscene.cli.options import (
    MEASURE,
    AllowOver,
    AnyModel,
    BundleFolder,
    Runner,
    Set,
    TestSplit,
    path,
    with_dataset,
)
from tinyscene.deploy.bundle.inspection import inspect_graph
from tinyscene.deploy.common.installation import require
from tinyscene.deploy.common.terminal import Json, messages, show
from tinyscene.interface.bundle import Bundle
from tinyscene.interface.datasets import DatasetOptions
from tinyscene.interface.names import is_kept_unchanged
from tinyscene.interface.reporting import report as write_report

app = typer.Typer()


@app.command(rich_help_panel=MEASURE)
@with_dataset()
def evaluate(
    model: AnyModel,
    data: DatasetOptions,
    split: TestSplit = None,
    runner: Runner = None,
    strangers: Annotated[
        Path | None,
        typer.Option(help="Folder of recordings of none of the classes, for the share that the decision rule refuses."),
    ] = None,
    listen: Annotated[
        Path | None, typer.Option(metavar="PAGE", help="HTML page to write: the most confident mistakes, to be heard.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Evaluate a model on a test list: by class, device and device group, with a confusion matrix."""
    require("torch", "train")
    from tinyscene.cli.training_tables import evaluation_tables
    from tinyscene.interface.evaluation import evaluate as run_evaluation

    evaluation = run_evaluation(model, data, split, runner, record=False, strangers=strangers)
    show(evaluation.as_dict(), as_json, evaluation_tables(evaluation, evaluation.unknown))
    if is_kept_unchanged(model):
        messages.print(f"{model.name}: a packaged or fetched model is not changed, and the evaluation not recorded")
    else:
        written = evaluation.record()
        messages.print(f"{written}.json and the confusion matrix {written}.png written", soft_wrap=True)
    if listen:
        shown = evaluation.listen(listen)
        messages.print(f"{listen} written: {shown} of {evaluation.clips - evaluation.correct} mistakes", soft_wrap=True)


@app.command(rich_help_panel=MEASURE)
def budget(
    target: Annotated[str, typer.Argument(help="A recipe, a run, a bundle, or a .safetensors, .onnx or .tflite file.")],
    recipe: Annotated[str | None, typer.Option(help="Recipe of a .safetensors file that names none.")] = None,
    settings: Set = None,
    max_bytes: Annotated[int | None, typer.Option(help="Limit on bytes of parameters.")] = None,
    max_macs: Annotated[int | None, typer.Option(help="Limit on MACs for one second of audio.")] = None,
    allow_over_budget: AllowOver = False,
    as_json: Json = False,
) -> None:
    """Count parameters, bytes and MACs against the limits of DCASE 2024 Task 1 (exit code 3 if over)."""
    require("torch", "train")
    from tinyscene.cli.training_tables import budget_tables
    from tinyscene.interface.training import budget as count_budget

    count, limits = count_budget(target, recipe, settings)
    changed = {"max_bytes": max_bytes, "max_macs": max_macs}
    limits = limits.model_copy(update={key: value for key, value in changed.items() if value is not None})
    show(count.as_dict(limits), as_json, budget_tables(count, limits))
    count.require(limits, allow_over_budget)


@app.command(rich_help_panel=MEASURE)
def inspect(
    folder: BundleFolder,
    files: Annotated[
        list[Path] | None, typer.Argument(help="Recordings to measure the errors on, by 256 of their clips.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Show each tensor of a bundle: shape, scale, range, bytes, MACs and the error that its quantization adds."""
    bundle, failures = Bundle(folder), Failures()
    with failures.kept():
        errors = bundle.inspect(files or (), failures.kept)
        costs = inspect_graph(bundle.graph)
        rows = [asdict(cost) | asdict(errors[cost.name]) for cost in costs]
        show({"bundle": str(folder), "tensors": rows}, as_json, inspection_table(costs, errors))
    failures.name()


@app.command(rich_help_panel=MEASURE)
@with_dataset("--data", "--audio", use="accuracy is measured on its test list")
def bench(
    folder: BundleFolder,
    data: DatasetOptions | None,
    targets: Annotated[
        str, typer.Option(help="Targets, separated by commas: host, emulated targets, Ethos-U.")
    ] = "host,cortex-m4,cortex-m55,ethos-u55-128",
    serial: Annotated[
        str | None, typer.Option(metavar="PORT", help="Serial port of a board that runs `firmware --package board`.")
    ] = None,
    split: TestSplit = None,
    as_json: Json = False,
) -> None:
    """Measure a bundle and record the results in it: latency beside peers, instructions, RAM, flash, accuracy."""
    from tinyscene.benchmarks.bench import bench_table
    from tinyscene.firmware_bridge.emulate import require_equal

    bundle = Bundle(folder)
    result = bundle.bench(targets.split(","), data, split, serial, record=False)
    show(result.as_dict(), as_json, bench_table(result))
    if not is_kept_unchanged(folder):
        bundle.record("bench", result.as_dict())
    require_equal({row["target"]: row["difference"] for row in result.targets.values() if "equal" in row})


@app.command(rich_help_panel=MEASURE)
def report(
    folders: Annotated[
        list[Path], typer.Argument(parser=path, help="Bundles, packaged models, and folders of sweeps.")
    ],
    out: Annotated[Path | None, typer.Option(help="Folder to write; by default that of a single sweep.")] = None,
    as_json: Json = False,
) -> None:
    """Report bundles and sweeps on one HTML page: accuracy, size, layers, memory, latency, provenance."""
    content = write_report(folders, out)
    if out:
        from tinyscene.benchmarks.report import MARKDOWN, PAGE

        show(content, as_json, f"{out / PAGE} written, and the same as {out / MARKDOWN}")
    else:
        show(content, as_json, (folders[0] / "report.md").read_text(encoding="utf-8"))

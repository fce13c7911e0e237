"""The commands that make a bundle and verify it."""

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from tinyscene.cli.bundle_tables import verification_table
from tinyscene.cli.failures import Failures
from tinyscene.cli.options import (
    QUANTIZE,
    AllowOver,
    BundleFolder,
    FinishedRun,
    RowOrder,
    Set,
    TestSplit,
    TrainingSplit,
    with_dataset,
)
from tinyscene.deploy.common.installation import require
from tinyscene.deploy.common.terminal import Json, show
from tinyscene.interface.bundle import Bundle
from tinyscene.interface.datasets import DatasetOptions

app = typer.Typer()


@app.command(rich_help_panel=QUANTIZE)
@with_dataset()
def quantize(
    run: FinishedRun,
    data: DatasetOptions,
    out: Annotated[Path, typer.Option(help="Folder of the bundle.")],
    qat: Annotated[bool, typer.Option("--qat", help="Fine-tune with fake quantization after calibration.")] = False,
    split: TrainingSplit = None,
    settings: Set = None,
    keep: Annotated[
        float | None,
        typer.Option(help="Say `none of these` of sounds outside this share of the calibration clips, such as 0.95."),
    ] = None,
    average: Annotated[int | None, typer.Option(help="Decide by the mean logits of so many decisions.")] = None,
    margin: Annotated[
        int | None, typer.Option(help="Change the scene only where another leads by so many steps of the logits.")
    ] = None,
    patience: Annotated[
        int | None, typer.Option(help="Change the scene where another led in so many decisions in a row, too.")
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Continue interrupted fine-tuning.")] = False,
    allow_over_budget: AllowOver = False,
    attribution: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Text for the model card: who made the recordings, and under which terms."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Quantize a run to integers, with or without fine-tuning, and write it as a bundle."""
    require("torch", "train")
    from tinyscene.interface.quantization import quantize as run_quantization

    rule = {"keep": keep, "average": average, "margin": margin, "patience": patience}
    bundle = run_quantization(run, data, out, qat, split, settings, resume, allow_over_budget, attribution, **rule)
    budget = bundle.content["budget"]
    show(
        {"bundle": str(out), **budget},
        as_json,
        f"{out}: {budget['deployed_bytes']:,} bytes of weights and biases, {budget['deployed_macs']:,} MACs; "
        f"next: tinyscene evaluate {out} --data {data.folder}",
    )


@app.command(rich_help_panel=QUANTIZE)
@with_dataset(use="its test list is compared, too")
def verify(
    folder: BundleFolder,
    data: DatasetOptions | None,
    files: Annotated[list[Path] | None, typer.Argument(help="Recordings that are compared, too.")] = None,
    split: TestSplit = None,
    as_json: Json = False,
) -> None:
    """Compare every installed runtime with the reference (exit code 4 if one that must be equal differs)."""
    failures = Failures()
    result = Bundle(folder).verify(files or (), data, split, failures.kept)
    show(result.as_dict(), as_json, verification_table(result))
    result.require()
    failures.name()


@app.command(rich_help_panel=QUANTIZE)
@with_dataset(use="its test list is compared, too")
def emulate(
    folder: BundleFolder,
    data: DatasetOptions | None,
    target: Annotated[str, typer.Option(help="Targets, separated by commas; `host` is this machine.")] = "cortex-m4",
    audio: Annotated[list[Path] | None, typer.Option(help="Recordings that are compared, too.")] = None,
    split: TestSplit = None,
    clips: Annotated[int | None, typer.Option(min=1, help="Number of evenly spaced test clips.")] = None,
    toolchain: Annotated[str, typer.Option(help="Compiler: zig or gcc.")] = "zig",
    emulator: Annotated[
        str | None, typer.Option(help="Emulator: unicorn or qemu; by default unicorn if it knows the core.")
    ] = None,
    optimize: Annotated[str, typer.Option(help="Optimization level of the compiler: O0, O1, O2, O3 or Os.")] = "O2",
    kernels: Annotated[str | None, typer.Option(help="Kernels: plain; by default the fastest of the target.")] = None,
    order: RowOrder = "mel",
    profile: Annotated[
        bool,
        typer.Option(
            "--profile",
            help="Count instructions by layer, with all that it calls, and by function of the front end, without what "
            "it calls, on the first clip. Functions that the compiler inlined count to those that they went into.",
        ),
    ] = False,
    as_json: Json = False,
) -> None:
    """Run a bundle's firmware on emulated targets, compare it bit for bit and count instructions.

    The exit code is 4 if a target differs from the reference.
    """
    from tinyscene.firmware_bridge.emulate import require_equal
    from tinyscene.firmware_bridge.report import emulation_table
    from tinyscene.firmware_bridge.targets.image import build_settings

    devices = [build_settings(name, toolchain, emulator, optimize, kernels, order) for name in target.split(",")]
    bundle, failures, results = Bundle(folder), Failures(), []
    opened = data.open(bundle.front_end) if data else None
    for device in devices:
        with failures.kept():
            results.append(bundle.emulate(device, audio or (), opened, split, clips, profile, failures.kept))
    rows = [asdict(result) for result in results]
    if rows:
        show(rows if len(devices) > 1 else rows[0], as_json, emulation_table(results))
    require_equal({result.target: result.difference for result in results})
    failures.name()

"""The commands that make a bundle and verify it."""

from collections.abc import Iterator
from dataclasses import asdict
from itertools import chain
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from numpy.typing import NDArray

from tinyscene.cli.bundle_tables import verification_table
from tinyscene.cli.failures import Failures
from tinyscene.cli.options import (
    QUANTIZE,
    AllowOver,
    BundleFolder,
    DatasetOptions,
    FinishedRun,
    Set,
    TestSplit,
    TrainingSplit,
    with_dataset,
)
from tinyscene.deploy.bundle.bundle import open_bundle
from tinyscene.deploy.bundle.verify import verify as run_verification
from tinyscene.deploy.common.files import require_free
from tinyscene.deploy.common.installation import require
from tinyscene.deploy.common.terminal import Json, show

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
    resume: Annotated[bool, typer.Option("--resume", help="Continue interrupted fine-tuning.")] = False,
    allow_over_budget: AllowOver = False,
    as_json: Json = False,
) -> None:
    """Quantize a run to integers, with or without fine-tuning, and write it as a bundle."""
    require("torch", "train")
    from tinyscene.train.quantize.quantize import quantize as run_quantization
    from tinyscene.train.runs.run import load_model

    if not resume:
        require_free(out)
    dataset, clips = data.open(load_model(run)[1].parsed_recipe.features)
    bundle = run_quantization(run, dataset, clips, out, qat, split, settings, resume, allow_over_budget)
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
    bundle = open_bundle(folder)
    failures = Failures()
    pcm, truth = failures.clips(files or [], bundle.front_end.sample_rate), None
    if data:
        dataset, clips = data.open(bundle.front_end)
        clips.require_labels(bundle.labels, folder)
        indices = clips.select(dataset.split(split or bundle.content["quantized"]["split"])[1])
        pcm = chain(pcm, (clips.pcm[index] for index in indices))
        truth = None if files else clips.label[indices]
    result = run_verification(bundle, pcm, truth)
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
    clips: Annotated[int | None, typer.Option(min=1, help="Number of evenly spaced test clips.")] = None,
    toolchain: Annotated[str, typer.Option(help="Compiler: zig or gcc.")] = "zig",
    emulator: Annotated[
        str | None, typer.Option(help="Emulator: unicorn or qemu; by default unicorn if it knows the core.")
    ] = None,
    optimize: Annotated[str, typer.Option(help="Optimization level of the compiler: O0, O1, O2, O3 or Os.")] = "O2",
    kernels: Annotated[str | None, typer.Option(help="Kernels: plain; by default the fastest of the target.")] = None,
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
    from tinyscene.firmware_bridge.emulate import emulate as run_emulation
    from tinyscene.firmware_bridge.emulate import require_equal
    from tinyscene.firmware_bridge.report import emulation_table
    from tinyscene.firmware_bridge.targets.image import build_settings

    failures = Failures()
    devices = [build_settings(name, toolchain, emulator, optimize, kernels) for name in target.split(",")]
    bundle = open_bundle(folder)
    stored, indices = np.zeros((0, bundle.front_end.clip_samples), np.int16), np.zeros(0, np.int64)
    if data:
        dataset, prepared = data.open(bundle.front_end)
        stored, indices = prepared.pcm, prepared.select(dataset.split(bundle.content["quantized"]["split"])[1])
        count = min(clips or len(indices), len(indices))
        indices = indices[np.linspace(0, len(indices) - 1, count).astype(int)]

    def pcm() -> Iterator[NDArray[np.int16]]:
        yield from bundle.vectors.pcm
        yield from failures.clips(audio or [], bundle.front_end.sample_rate)
        yield from (stored[index] for index in indices)

    results = []
    for device in devices:
        with failures.kept():
            results.append(run_emulation(bundle, pcm(), device, profile))
    rows = [asdict(result) for result in results]
    if rows:
        show(rows if len(devices) > 1 else rows[0], as_json, emulation_table(results))
    require_equal({result.target: result.difference for result in results})
    failures.name()

"""The commands that prove, deploy and show a bundle. Needs no torch before one of them runs."""

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import numpy as np
import typer

from tinyscene.cli.bundle_tables import inspection_table, verification_table
from tinyscene.cli.training import AllowOver, Runner, needs, open_clips
from tinyscene.deploy.bundle.bundle import EXPORTS, INDEX, open_bundle
from tinyscene.deploy.bundle.exports import export as write_export
from tinyscene.deploy.bundle.inspection import inspect_errors, inspect_graph
from tinyscene.deploy.bundle.verify import verify as run_verification
from tinyscene.deploy.common.errors import InputError
from tinyscene.deploy.common.files import sha256, write_whole
from tinyscene.deploy.common.terminal import Json, messages, show
from tinyscene.deploy.frontend.audio import read_clips
from tinyscene.firmware_bridge.codegen.library import DEVICE_KERNELS
from tinyscene.models import load

app = typer.Typer()


@app.command()
def export(
    model: Annotated[Path, typer.Argument(help="A bundle, or a finished run.")],
    to: Annotated[str, typer.Option(help=f"Formats, with commas between: {', '.join(EXPORTS)}.")] = "onnx",
    out: Annotated[Path | None, typer.Option(help="File to write; by default in the bundle or run.")] = None,
    full: Annotated[bool, typer.Option("--full", help="Names and bias scales in .tflite, for hosts' kernels.")] = False,
    allow_over_budget: AllowOver = False,
    as_json: Json = False,
) -> None:
    """Export a bundle to TFLite and ONNX, or a run to float ONNX."""
    kinds = to.split(",")
    if out and len(kinds) > 1:
        raise InputError(f"--out {out}: names one file, --to {len(kinds)} formats")
    if (model / INDEX).exists():
        bundle = open_bundle(model, rewriting=() if out else kinds)
        contents = {kind: write_export(bundle, kind, full) for kind in kinds}
        if out:
            write_whole(out, contents[to])
        paths = [out] if out else [bundle.add_export(kind, content) for kind, content in contents.items()]
    else:
        if kinds != ["onnx"]:
            raise InputError(f"--to {to}: a run is exported to onnx; `tinyscene quantize` makes a bundle of it")
        needs("torch")
        from tinyscene.train.export import export_onnx

        paths = [export_onnx(model, out, allow_over_budget)]
    written = [{"file": str(path), "bytes": path.stat().st_size, "sha256": sha256(path)} for path in paths]
    show(
        written if len(written) > 1 else written[0],
        as_json,
        "\n".join(f"{each['file']}: {each['bytes']:,} bytes written" for each in written),
    )


@app.command()
def verify(
    folder: Annotated[Path, typer.Argument(help="A bundle.")],
    files: Annotated[list[Path] | None, typer.Argument(help="Recordings to compare on, too.")] = None,
    data: Annotated[Path | None, typer.Option("--data", help="A dataset, whose test list is compared on, too.")] = None,
    split: Annotated[str | None, typer.Option(help="Whose test list; by default the one trained on.")] = None,
    as_json: Json = False,
) -> None:
    """Hold every installed runtime to the reference (exit code 4 if one that must be equal is not)."""
    bundle = open_bundle(folder)
    pcm, truth = read_clips(files or [], bundle.front_end.sample_rate), None
    if data:
        dataset, clips = open_clips(data, None, None, bundle.front_end)
        clips.require_labels(bundle.labels, folder)
        chosen = clips.select(dataset.split(split or bundle.content["quantized"]["split"])[1])
        pcm, truth = np.concatenate([pcm, clips.pcm[chosen]]), None if files else clips.label[chosen]
    result = run_verification(bundle, pcm, truth)
    show(result.as_dict(), as_json, verification_table(result))
    result.require()


@app.command()
def inspect(
    folder: Annotated[Path, typer.Argument(help="A bundle.")],
    files: Annotated[list[Path] | None, typer.Argument(help="Recordings to measure the errors on.")] = None,
    as_json: Json = False,
) -> None:
    """Show each tensor: shape, scale, range, bytes, MACs and where the error of the integers comes from."""
    bundle = open_bundle(folder)
    errors = bundle.errors
    if files:
        pcm = read_clips(files, bundle.front_end.sample_rate)
        errors = inspect_errors(bundle.graph, bundle.float_graph, bundle.front_end, pcm)
    costs = inspect_graph(bundle.graph)
    rows = [asdict(cost) | asdict(errors[cost.name]) for cost in costs]
    show({"bundle": str(folder), "tensors": rows}, as_json, inspection_table(costs, errors))


@app.command()
def classify(
    model: Annotated[Path, typer.Argument(help="A bundle, a run, or an exported .onnx file.")],
    files: Annotated[list[Path], typer.Argument(help="Recordings of any rate, length and channel count.")],
    runner: Runner = "reference",
    device: Annotated[str | None, typer.Option(help="What recorded them, to use a bundle's variant for it.")] = None,
    as_json: Json = False,
) -> None:
    """Classify recordings, second by second. Needs no torch."""
    classifier = load(model, runner, device)
    results = [classifier.classify(path) for path in files]
    lines = []
    for result in results:
        best = sorted(result["scores"].items(), key=lambda item: -item[1])[:3]
        scores = ", ".join(f"{label} {score:.1%}" for label, score in best)
        notes = f" ({'; '.join(result['notes'])})" if result["notes"] else ""
        lines.append(f"{result['file']}: {scores}{notes}")
    show(results, as_json, "\n".join(lines))


@app.command()
def listen(
    model: Annotated[Path, typer.Argument(help="A bundle, a run, or an exported .onnx file.")],
    source: Annotated[Path | None, typer.Option(help="A recording to hear instead of the sound card.")] = None,
    card: Annotated[str | None, typer.Option("--input", help="Sound card: its number, or a part of its name.")] = None,
    hop: Annotated[float, typer.Option(help="Seconds between decisions.")] = 0.25,
    fast: Annotated[bool, typer.Option("--fast", help="A recording as fast as it goes, not in real time.")] = False,
    runner: Runner = "reference",
    device: Annotated[str | None, typer.Option(help="What records, to use a bundle's variant for it.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print a JSON object a line, for each decision.")] = False,
) -> None:
    """Decide on what the sound card hears, as it goes, until Ctrl-C."""
    from tinyscene.deploy.live.listen import listen as run_listening
    from tinyscene.deploy.live.listener import Listener
    from tinyscene.deploy.live.sound import open_sound

    listener = Listener(load(model, runner, device), open_sound(source, card, fast), hop, f"{model}, {runner}")
    raise typer.Exit(run_listening(listener, as_json))


@app.command()
def firmware(
    folder: Annotated[Path, typer.Argument(help="A bundle.")],
    out: Annotated[Path, typer.Option(help="Folder to write.")],
    package: Annotated[str | None, typer.Option(help="cmake, arduino, platformio, zephyr, wasm or board.")] = None,
    kernels: Annotated[str, typer.Option(help="Instruction sets, with commas between.")] = ",".join(DEVICE_KERNELS),
    hop: Annotated[float, typer.Option(help="Seconds between decisions.")] = 1.0,
    as_json: Json = False,
) -> None:
    """Write a bundle as C99 with a planned arena, or as a package."""
    from tinyscene.firmware_bridge.firmware import write_firmware
    from tinyscene.firmware_bridge.report import report_tables

    written = write_firmware(open_bundle(folder), out, package, kernels.split(","), hop)
    show(written.as_json(), as_json, report_tables(written.report))
    messages.print(f"{out}: {len(written.files)} files written", soft_wrap=True)


@app.command()
def web(
    folder: Annotated[Path, typer.Argument(help="A bundle.")],
    out: Annotated[Path, typer.Option(help="Folder to write.")],
    as_json: Json = False,
) -> None:
    """Write a page that classifies the microphone and sound files in the browser, and sends nothing anywhere."""
    from tinyscene.firmware_bridge.web import write_site

    site = write_site(open_bundle(folder), out)
    show(asdict(site), as_json, f"{out / 'index.html'}: {site.bytes:,} bytes written; open it in a browser")


@app.command()
def emulate(
    folder: Annotated[Path, typer.Argument(help="A bundle.")],
    target: Annotated[str, typer.Option(help="Devices, with commas between; `host` is this machine.")] = "cortex-m4",
    audio: Annotated[list[Path] | None, typer.Option(help="Recordings to compare on, too.")] = None,
    data: Annotated[Path | None, typer.Option("--data", help="A dataset, whose test list is compared on, too.")] = None,
    clips: Annotated[int | None, typer.Option(min=1, help="Only so many of it, evenly spread.")] = None,
    toolchain: Annotated[str, typer.Option(help="zig or gcc.")] = "zig",
    emulator: Annotated[
        str | None, typer.Option(help="unicorn or qemu; by default unicorn if it has the core.")
    ] = None,
    optimize: Annotated[str, typer.Option(help="O0, O1, O2, O3 or Os.")] = "O2",
    kernels: Annotated[str | None, typer.Option(help="plain, instead of the fastest.")] = None,
    as_json: Json = False,
) -> None:
    """Run a bundle's firmware on emulated devices, bit for bit, and count (exit code 4 if one is not equal)."""
    from tinyscene.firmware_bridge.emulate import emulate as run_emulation
    from tinyscene.firmware_bridge.emulate import require_equal
    from tinyscene.firmware_bridge.report import emulation_table
    from tinyscene.firmware_bridge.targets.image import build_settings

    devices = [build_settings(each, toolchain, emulator, optimize, kernels) for each in target.split(",")]
    bundle = open_bundle(folder)
    pcm = np.concatenate([bundle.vectors.pcm, read_clips(audio or [], bundle.front_end.sample_rate)])
    if data:
        dataset, prepared = open_clips(data, None, None, bundle.front_end)
        chosen = prepared.select(dataset.split(bundle.content["quantized"]["split"])[1])
        count = min(clips or len(chosen), len(chosen))
        pcm = np.concatenate([pcm, prepared.pcm[chosen[np.linspace(0, len(chosen) - 1, count).astype(int)]]])
    results = [run_emulation(bundle, pcm, device) for device in devices]
    rows = [asdict(result) for result in results]
    show(rows if len(rows) > 1 else rows[0], as_json, emulation_table(results))
    require_equal({result.target: result.difference for result in results})


@app.command()
def bench(
    folder: Annotated[Path, typer.Argument(help="A bundle.")],
    audio: Annotated[
        Path | None, typer.Option("--audio", "--data", help="A dataset, whose test list accuracy is measured on.")
    ] = None,
    targets: Annotated[
        str, typer.Option(help="With commas between: host, emulated devices, Ethos-U.")
    ] = "host,cortex-m4,cortex-m55,ethos-u55-128",
    serial: Annotated[
        str | None, typer.Option(metavar="PORT", help="A board that runs `firmware --package board`.")
    ] = None,
    split: Annotated[str | None, typer.Option(help="Whose test list; by default the one trained on.")] = None,
    as_json: Json = False,
) -> None:
    """Measure a bundle: latency beside its peers, instructions, RAM, flash, accuracy; and record it in the bundle."""
    from tinyscene.benchmarks.bench import bench as run_bench
    from tinyscene.benchmarks.bench import bench_table
    from tinyscene.firmware_bridge.emulate import require_equal

    bundle, test = open_bundle(folder), None
    if audio:
        needs("torch")
        dataset, clips = open_clips(audio, None, None, bundle.front_end)
        clips.require_labels(bundle.labels, folder)
        test = clips, dataset.split(split or bundle.content["quantized"]["split"])[1]
    result = run_bench(bundle, targets.split(","), test, serial)
    show(result.as_dict(), as_json, bench_table(result))
    require_equal({row["target"]: row["difference"] for row in result.targets.values() if "equal" in row})


@app.command()
def report(
    folders: Annotated[list[Path], typer.Argument(help="Bundles, and folders of sweeps.")],
    out: Annotated[Path | None, typer.Option(help="Folder to write; one sweep alone is reported in its own.")] = None,
    as_json: Json = False,
) -> None:
    """Report bundles and sweeps on one HTML page: accuracy, size, layers, memory, latency, provenance."""
    needs("torch")
    if out:
        from tinyscene.benchmarks.report import MARKDOWN, PAGE, write_report

        show(write_report(folders, out), as_json, f"{out / PAGE} written, and the same as {out / MARKDOWN}")
        return
    if len(folders) > 1 or (folders[0] / INDEX).exists():
        raise InputError("--out: name the folder to write; only one sweep alone is reported in its own")
    from tinyscene.train.sweep.report import report as report_sweep

    result = report_sweep(folders[0])
    show(result, as_json, (folders[0] / "report.md").read_text(encoding="utf-8"))

"""tinyscene: acoustic scene classification on a microcontroller, from recordings to a model.

    tinyscene sample   data/sample                                         # a synthetic dataset to try
    tinyscene prepare  data/sample                                         # decode and resample once
    tinyscene train    baseline --data data/sample --split 25 --out runs/first
    tinyscene evaluate runs/first --data data/sample
    tinyscene budget   baseline                                            # or a run, or a model file
    tinyscene quantize runs/first --data data/sample --out bundles/first   # integers only; --qat to fine-tune
    tinyscene export   bundles/first --to tflite,onnx,onnx-int8            # or a run, --to onnx
    tinyscene verify   bundles/first                                       # every runtime against the reference
    tinyscene inspect  bundles/first                                       # layers, scales, bytes and errors
    tinyscene classify bundles/first some.wav more/*.flac                  # or a run, or an .onnx file
    tinyscene listen   bundles/first                                       # the sound card, on the terminal
    tinyscene firmware bundles/first --out fw                              # C99, or a --package of it
    tinyscene emulate  bundles/first --target cortex-m4,riscv32            # bit for bit, with instruction counts
    tinyscene web      bundles/first --out site                            # a page: microphone and files, in a browser
    tinyscene bench    bundles/first                                       # latency beside peers, instructions, RAM
    tinyscene teach    cp_resnet --data data/sample --split 25 --out teachers/first        # no budget; or passt, ast
    tinyscene logits   teachers/first --data data/sample --split 25 --out logits/25.safetensors
    tinyscene adapt    runs/first --data data/sample --out runs/devices    # a network for each recording device
    tinyscene prune    runs/first --data data/sample --to-macs 11e6 --out runs/pruned
    tinyscene adapt    runs/first --data data/sample --out runs/by-device  # a variant for each known device
    tinyscene sweep    data_efficient --data data/sample --out sweeps/one  # splits x seeds x recipes; --ray auto
    tinyscene report   bundles/* sweeps/* --out report                     # HTML, Markdown and JSON
    tinyscene import   weights.safetensors --recipe baseline --out runs/imported

In Python:

    import tinyscene
    scene = tinyscene.load("bundles/first")     # device="s1": its variant, where the bundle has one
    scene.classify("some.wav")                  # scores by label, for each second
    stream = scene.stream(sample_rate=32000)
    stream.push(samples)                        # a decision for each second that is complete

Every command takes --json and then prints one JSON object or list on stdout; messages go to stderr.
Exit codes: 0 done, 2 bad input, 3 over budget, 4 not verified, 130 interrupted.
"""

import errno
import sys
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated

import numpy as np
import typer

from deploy.audio import read_clips
from deploy.bundle import EXPORTS, INDEX, open_bundle
from deploy.classifier import SceneClassifier, bundle_classifier, onnx_classifier
from deploy.errors import InputError, TinysceneError
from deploy.exports import export as write_export
from deploy.files import sha256, write_whole
from deploy.frontend import FrontEnd
from deploy.inspection import inspect_errors, inspect_graph
from deploy.runners import SCENE_RUNNERS
from deploy.tables import inspection_table, verification_table
from deploy.terminal import Json, messages, show
from deploy.verify import require as require_verified
from deploy.verify import verify as run_verification
from firmware_bridge.emit import DEVICE_KERNELS
from firmware_bridge.native import native_runner
from train.commands import AllowOver, Runner, needs, open_clips
from train.commands import app as train_commands

__all__ = ["FrontEnd", "InputError", "SceneClassifier", "TinysceneError", "load", "main"]

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
app.add_typer(train_commands)
SCENE_RUNNERS["native"] = native_runner


def load(model: str | Path, runner: str = "reference", device: str | None = None) -> SceneClassifier:
    """A classifier from a bundle, a run folder or an exported .onnx file.

    A bundle is run by `runner`: reference (what a device computes), native (the firmware's C, compiled for this
    machine), litert, tflite-runtime or onnxruntime. A run is exported to ONNX first if it has not been since its
    weights changed, which needs the extras `train` and `onnx`; an exported one needs only ONNX Runtime. `device`
    names what records: a bundle's variant for it is used, or the general network where it has none. Raises
    InputError if the model cannot be used.
    """
    path = Path(model)
    if (path / INDEX).exists():
        bundle = open_bundle(path)
        return bundle_classifier(bundle if device is None else bundle.variant(device), runner)
    if device is not None:
        raise InputError(f"--device {device}: {path} is no bundle; name the device's own run, RUN/devices/DEVICE")
    if runner not in ("reference", "onnxruntime"):
        raise InputError(f"--runner {runner}: {path} is no bundle and is run by ONNX Runtime; see `tinyscene quantize`")
    if path.suffix == ".onnx":
        return onnx_classifier(path)
    exported, weights = path / "model.onnx", path / "model.safetensors"
    if not weights.is_file() and not exported.is_file():
        raise InputError(f"{path}: neither a bundle, nor a finished run, nor an .onnx file")
    if exported.is_file():
        classifier = onnx_classifier(exported)
        if not weights.is_file() or classifier.card.get("weights_sha256") == sha256(weights):
            return classifier
    if find_spec("torch") is None:
        raise InputError(
            f"{path}: has no ONNX export of its weights; run `tinyscene export {path}` where torch is installed"
        )
    from train.export import export_onnx

    return onnx_classifier(export_onnx(path, allow_over_budget=True))


@app.callback(invoke_without_command=True)
def version(show: Annotated[bool, typer.Option("--version", help="Print the version and leave.")] = False) -> None:
    """Acoustic scene classification on a microcontroller, from recordings to a model."""
    if show:
        typer.echo(f"tinyscene {metadata.version('tinyscene')}")
        raise typer.Exit


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
        from train.export import export_onnx

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
    show(result, as_json, verification_table(result))
    require_verified(result)


@app.command()
def inspect(
    folder: Annotated[Path, typer.Argument(help="A bundle.")],
    files: Annotated[list[Path] | None, typer.Argument(help="Recordings to measure the errors on.")] = None,
    as_json: Json = False,
) -> None:
    """Show each tensor: shape, scale, range, bytes, MACs and where the error of the integers comes from."""
    bundle = open_bundle(folder)
    errors = bundle.content["errors"]
    if files:
        pcm = read_clips(files, bundle.front_end.sample_rate)
        errors = inspect_errors(bundle.graph, bundle.float_graph, bundle.front_end, pcm)
    rows = [row | errors[row["name"]] for row in inspect_graph(bundle.graph)]
    show({"bundle": str(folder), "tensors": rows}, as_json, inspection_table(rows))


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
    from deploy.listen import Listener, open_sound
    from deploy.listen import listen as run_listening

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
    from firmware_bridge.firmware import write_firmware
    from firmware_bridge.report import report_tables

    report = write_firmware(open_bundle(folder), out, package, kernels.split(","), hop)
    show(report, as_json, report_tables(report))
    messages.print(f"{out}: {len(report['files'])} files written", soft_wrap=True)


@app.command()
def web(
    folder: Annotated[Path, typer.Argument(help="A bundle.")],
    out: Annotated[Path, typer.Option(help="Folder to write.")],
    as_json: Json = False,
) -> None:
    """Write a page that classifies the microphone and sound files in the browser, and sends nothing anywhere."""
    from firmware_bridge.web import write_site

    site = write_site(open_bundle(folder), out)
    show(site, as_json, f"{out / 'index.html'}: {site['bytes']:,} bytes written; open it in a browser")


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
    from firmware_bridge.emulate import emulate as run_emulation
    from firmware_bridge.emulate import require_equal
    from firmware_bridge.image import find_device
    from firmware_bridge.report import emulation_table

    devices = [find_device(each, toolchain, emulator, optimize, kernels) for each in target.split(",")]
    bundle = open_bundle(folder)
    pcm = np.concatenate([bundle.vectors.pcm, read_clips(audio or [], bundle.front_end.sample_rate)])
    if data:
        dataset, prepared = open_clips(data, None, None, bundle.front_end)
        chosen = prepared.select(dataset.split(bundle.content["quantized"]["split"])[1])
        count = min(clips or len(chosen), len(chosen))
        pcm = np.concatenate([pcm, prepared.pcm[chosen[np.linspace(0, len(chosen) - 1, count).astype(int)]]])
    results = [run_emulation(bundle, pcm, device) for device in devices]
    show(results if len(results) > 1 else results[0], as_json, emulation_table(results))
    require_equal(results)


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
    from benchmarks.bench import bench as run_bench
    from benchmarks.bench import bench_table
    from firmware_bridge.emulate import require_equal

    bundle, test = open_bundle(folder), None
    if audio:
        needs("torch")
        dataset, clips = open_clips(audio, None, None, bundle.front_end)
        clips.require_labels(bundle.labels, folder)
        test = clips, dataset.split(split or bundle.content["quantized"]["split"])[1]
    result = run_bench(bundle, targets.split(","), test, serial)
    show(result, as_json, bench_table(result))
    require_equal([row for row in result["targets"].values() if "equal" in row])


@app.command()
def report(
    folders: Annotated[list[Path], typer.Argument(help="Bundles, and folders of sweeps.")],
    out: Annotated[Path | None, typer.Option(help="Folder to write; one sweep alone is reported in its own.")] = None,
    as_json: Json = False,
) -> None:
    """Report bundles and sweeps on one HTML page: accuracy, size, layers, memory, latency, provenance."""
    needs("torch")
    if out:
        from benchmarks.report import MARKDOWN, PAGE, write_report

        show(write_report(folders, out), as_json, f"{out / PAGE} written, and the same as {out / MARKDOWN}")
        return
    if len(folders) > 1 or (folders[0] / INDEX).exists():
        raise InputError("--out: name the folder to write; only one sweep alone is reported in its own")
    from train.sweep_report import report as report_sweep

    result = report_sweep(folders[0])
    show(result, as_json, (folders[0] / "report.md").read_text(encoding="utf-8"))


def main() -> None:
    """Run the command line; one line for what the user can mend, a traceback only for our own mistakes."""
    try:
        app()
    except TinysceneError as error:
        _fail(str(error), error.exit_code)
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        remedy = "; free some room and run it again" if error.errno == errno.ENOSPC else ""
        _fail(f"{where}{error.strerror or error}{remedy}", InputError.exit_code)


def _fail(line: str, code: int) -> None:
    messages.print(f"tinyscene: {line}", soft_wrap=True, markup=False, highlight=False)
    sys.exit(code)


if __name__ == "__main__":
    main()

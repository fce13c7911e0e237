"""The commands that deploy a bundle: as files, as firmware, as a web page, on this machine. They need no torch."""

from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from tinyscene.cli.failures import Failures
from tinyscene.cli.options import DEPLOY, AllowOver, AnyModel, BundleFolder, RecordingDevice, RowOrder, Runner, path
from tinyscene.deploy.bundle.index import EXPORTS
from tinyscene.deploy.common.errors import InputError
from tinyscene.deploy.common.files import sha256
from tinyscene.deploy.common.terminal import Json, messages, show
from tinyscene.deploy.common.text import printable
from tinyscene.deploy.frontend.sound_files import recordings_of
from tinyscene.firmware_bridge.codegen.library import DEVICE_KERNELS
from tinyscene.interface.bundle import Bundle, is_bundle
from tinyscene.interface.run import Run
from tinyscene.models import load

app = typer.Typer()


@app.command(rich_help_panel=DEPLOY)
def export(
    model: Annotated[
        Path, typer.Argument(parser=path, help="Folder of a bundle or of a finished run, or name of a packaged model.")
    ],
    to: Annotated[str, typer.Option(help=f"Formats, separated by commas: {', '.join(EXPORTS)}.")] = "onnx",
    out: Annotated[Path | None, typer.Option(help="File to write; by default inside the bundle or run.")] = None,
    small: Annotated[
        bool, typer.Option("--small/--full", help="Leave names and bias scales out of .tflite, for devices.")
    ] = False,
    batch: Annotated[int | None, typer.Option(min=1, help="Batch of .onnx with --out; by default any.")] = None,
    allow_over_budget: AllowOver = False,
    as_json: Json = False,
) -> None:
    """Export a bundle to TFLite and ONNX, or a run to float ONNX."""
    kinds = to.split(",")
    if out and len(kinds) > 1:
        raise InputError(f"--out {out}: names one file, --to {len(kinds)} formats")
    if batch and not (out and kinds[0].startswith("onnx")):
        raise InputError(f"--batch {batch}: is of a file of ONNX; name it with --out")
    if is_bundle(model):
        bundle = Bundle(model, rewriting=() if out else kinds)
        paths = bundle.export_all(kinds, out, small, batch)
    else:
        if kinds != ["onnx"]:
            raise InputError(f"--to {to}: a run is exported to onnx; `tinyscene quantize` makes a bundle of it")
        paths = [Run(model).export("onnx", out, allow_over_budget, batch)]
    written = [{"file": str(path), "bytes": path.stat().st_size, "sha256": sha256(path)} for path in paths]
    show(
        written if len(written) > 1 else written[0],
        as_json,
        "\n".join(f"{row['file']}: {row['bytes']:,} bytes written" for row in written),
    )


@app.command(rich_help_panel=DEPLOY)
def firmware(
    folder: BundleFolder,
    out: Annotated[Path, typer.Option(help="Folder to write.")],
    package: Annotated[
        str | None, typer.Option(help="Package: cmake, arduino, platformio, zephyr, espidf, cmsis, wasm or board.")
    ] = None,
    kernels: Annotated[str, typer.Option(help="Instruction sets, separated by commas.")] = ",".join(DEVICE_KERNELS),
    hop: Annotated[
        float | None, typer.Option(help="Seconds between decisions; by default a clip's length, or about 1 by time.")
    ] = None,
    prefix: Annotated[
        str, typer.Option(help="First part of all names in the C, for several models in one program.")
    ] = "tinyscene",
    order: RowOrder = "mel",
    band_offsets: Annotated[
        bool, typer.Option("--band-offsets", help="Learn the microphone's colour while listening.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Write a bundle as C99 with a planned arena, or as a package for a build system."""
    from tinyscene.firmware_bridge.report import report_tables

    written = Bundle(folder).firmware(out, package, kernels.split(","), hop, prefix, order, band_offsets)
    show(written.as_json(), as_json, report_tables(written.report))
    messages.print(f"{out}: {len(written.files)} files written", soft_wrap=True)


@app.command(rich_help_panel=DEPLOY)
def web(
    folder: BundleFolder,
    out: Annotated[Path, typer.Option(help="Folder to write.")],
    as_json: Json = False,
) -> None:
    """Write a web page that classifies the microphone and sound files in the browser and sends no data anywhere."""
    site = Bundle(folder).web(out)
    show(asdict(site), as_json, f"{out / 'index.html'}: {site.bytes:,} bytes written; open it in a browser")


@app.command(rich_help_panel=DEPLOY)
def classify(
    model: AnyModel,
    files: Annotated[
        list[Path],
        typer.Argument(help="Recordings of any sample rate, length and number of channels, or folders of them."),
    ],
    runner: Runner = None,
    device: RecordingDevice = None,
    as_json: Json = False,
) -> None:
    """Classify recordings, clip by clip. Needs no torch."""
    classifier, failures = load(model, runner, device), Failures()
    results = []
    for file in recordings_of(files):
        with failures.kept():
            results.append(classifier.classify(file))
            if not as_json:
                show(results[-1], as_json, _scene_line(results[-1]))
    if as_json:
        show(results, as_json, "")
    failures.name()


def _scene_line(result: dict[str, Any]) -> str:
    """The three most likely scenes of a recording, with the notes on its file; before them one that has no score."""
    best = sorted(result["scores"].items(), key=lambda item: -item[1])[:3]
    scores = ", ".join(f"{label} {score:.1%}" for label, score in best)
    if result["scene"] not in result["scores"]:
        scores = f"{result['scene']}; {scores}"
    notes = f" ({'; '.join(result['notes'])})" if result["notes"] else ""
    return printable(f"{result['file']}: {scores}{notes}")


@app.command(rich_help_panel=DEPLOY)
def listen(
    model: AnyModel,
    source: Annotated[Path | None, typer.Option(help="A recording to read instead of the sound card.")] = None,
    card: Annotated[str | None, typer.Option("--input", help="Sound card: its number, or part of its name.")] = None,
    hop: Annotated[float, typer.Option(help="Seconds between decisions.")] = 0.25,
    fast: Annotated[bool, typer.Option("--fast", help="Read a recording faster than real time.")] = False,
    band_offsets: Annotated[
        Path | None,
        typer.Option(help="Learn the microphone's colour: a file to go on from, if it is there, and to keep it in."),
    ] = None,
    runner: Runner = None,
    device: RecordingDevice = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object per line for each decision.")] = False,
) -> None:
    """Classify live sound from a sound card until Ctrl-C."""
    from tinyscene.deploy.live.listen import listen as run_listening
    from tinyscene.deploy.live.listener import Listener
    from tinyscene.deploy.live.sound import open_sound
    from tinyscene.deploy.live.stream import require_hop

    sound = open_sound(source, card, fast)
    require_hop(hop, sound.sample_rate)  # before a bundle is compiled
    classifier = load(model, runner, device)
    offsets = None if band_offsets is None else classifier.band_offsets(band_offsets)
    listener = Listener(classifier, sound, hop, f"{model}, {classifier.runner}", offsets=offsets)
    code = run_listening(listener, as_json)
    if offsets is not None and band_offsets is not None:
        offsets.save(band_offsets)
    raise typer.Exit(code)

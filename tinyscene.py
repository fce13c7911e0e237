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
    tinyscene firmware bundles/first --out fw                              # C99, or a --package of it
    tinyscene emulate  bundles/first --target cortex-m4,riscv32            # bit for bit, with instruction counts
    tinyscene import   weights.safetensors --recipe baseline --out runs/imported

In Python:

    import tinyscene
    scene = tinyscene.load("bundles/first")
    scene.classify("some.wav")                  # scores by label, for each second
    stream = scene.stream(sample_rate=32000)
    stream.push(samples)                        # a decision for each second that is complete

Every command takes --json and then prints one JSON object or list on stdout; messages go to stderr.
Exit codes: 0 done, 2 bad input, 3 over budget, 4 not verified, 130 interrupted.
"""

import errno
import json
import os
import sys
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from rich.console import Console, Group

from deploy.audio import read_clips
from deploy.bundle import EXPORTS, INDEX, open_bundle
from deploy.classifier import SceneClassifier, bundle_classifier, onnx_classifier
from deploy.errors import InputError, TinysceneError
from deploy.exports import export as write_export
from deploy.files import require_free, sha256, write_whole
from deploy.frontend import FrontEnd
from deploy.inspection import inspect_errors, inspect_graph
from deploy.runners import SCENE_RUNNERS
from deploy.tables import inspection_table, verification_table
from deploy.verify import require as require_verified
from deploy.verify import verify as run_verification
from firmware_bridge.emit import DEVICE_KERNELS
from firmware_bridge.native import native_runner

__all__ = ["FrontEnd", "InputError", "SceneClassifier", "TinysceneError", "load", "main"]

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
SCENE_RUNNERS["native"] = native_runner
console, messages = Console(), Console(stderr=True)
tables = Console(width=max(console.width, 150))  # a narrower terminal wraps, which beats figures cut short

Json = Annotated[bool, typer.Option("--json", help="Print one JSON object or list on stdout.")]
Data = Annotated[Path, typer.Option("--data", help="Folder of the dataset: TAU's layout, or a folder a class.")]
Splits = Annotated[Path | None, typer.Option("--splits", help="Folder of TAU's split lists, if not in the dataset.")]
FoldPattern = Annotated[
    str | None, typer.Option("--fold-pattern", help="Regular expression whose first group is a file's fold.")
]
Set = Annotated[list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Change a key of the recipe.")]
Runner = Annotated[
    str, typer.Option(help="What runs a bundle: reference, native, litert, tflite-runtime or onnxruntime.")
]
AllowOver = Annotated[bool, typer.Option("--allow-over-budget", help="Go on with a model that is over budget.")]


def load(model: str | Path, runner: str = "reference") -> SceneClassifier:
    """A classifier from a bundle, a run folder or an exported .onnx file.

    A bundle is run by `runner`: reference (what a device computes), native (the firmware's C, compiled for this
    machine), litert, tflite-runtime or onnxruntime. A run is exported to ONNX first if it has not been since its
    weights changed, which needs the extras `train` and `onnx`; an exported one needs only ONNX Runtime. Raises
    InputError if the model cannot be used.
    """
    path = Path(model)
    if (path / INDEX).exists():
        return bundle_classifier(open_bundle(path), runner)
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
def sample(folder: Path, seed: int = 0, as_json: Json = False) -> None:
    """Make a small synthetic dataset in TAU's layout."""
    _needs("pooch")
    from train.sample import write_sample

    counts = write_sample(folder, seed)
    _show(
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
    report = _clips(folder, splits, fold_pattern, FrontEnd(sample_rate=sample_rate))[1].report()
    lines = [
        f"{report['used']} recordings, {report['clips']} one-second clips, {report['left_out']} left out",
        f"cache {report['cache']}, data hash {report['data_hash'][:16]}",
        *(f"  {path}: {'; '.join(notes)}" for path, notes in report["notes"].items()),
    ]
    _show(report, as_json, "\n".join(lines))


@app.command()
def train(
    recipe: Annotated[str, typer.Argument(help="Name of a recipe, or a YAML file.")],
    data: Data,
    out: Annotated[Path, typer.Option(help="Folder of the run.")],
    split: Annotated[
        str, typer.Option(help="TAU: 5, 10, 25, 50, 100. Folders: fold1 and on, the one held out.")
    ] = "100",
    settings: Set = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with an interrupted run.")] = False,
    splits: Splits = None,
    fold_pattern: FoldPattern = None,
    allow_over_budget: AllowOver = False,
    as_json: Json = False,
) -> None:
    """Train a recipe on a split of a dataset."""
    _needs("torch")
    from train.loop import train as run_training
    from train.recipe import load_recipe
    from train.run import METRICS

    chosen = load_recipe(recipe, settings)
    dataset, clips = _clips(data, splits, fold_pattern, chosen.features)
    model = run_training(chosen, dataset, clips, split, out, resume, allow_over_budget)
    last = json.loads((out / METRICS).read_text(encoding="utf-8").splitlines()[-1])
    _show(
        {"run": str(out), "model": str(model), "data_hash": clips.data_hash, **last},
        as_json,
        f"{model}: {last['epoch']} epochs, loss {last['loss']:.3f}, {last['accuracy']:.1%} of the training clips; "
        f"next: tinyscene evaluate {out} --data {data}",
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
    _needs("torch")
    from train.evaluate import evaluate as run_evaluation
    from train.evaluate import open_subject, record
    from train.tables import evaluation_tables

    subject = open_subject(model, runner)
    dataset, clips = _clips(data, splits, fold_pattern, subject.front_end)
    clips.require_labels(subject.labels, model)
    name = split or subject.split or dataset.default_split
    result = run_evaluation(subject.predict, clips, dataset.split(name)[1])
    result |= {"model": str(model), "data_hash": clips.data_hash, "split": name, "runner": subject.runner}
    written = record(model, result)
    _show(result, as_json, evaluation_tables(result))
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
    _needs("torch")
    from train.budget import count_target
    from train.tables import budget_tables

    count, limits = count_target(target, recipe, settings)
    changed = {"max_bytes": max_bytes, "max_macs": max_macs}
    limits = limits.model_copy(update={key: value for key, value in changed.items() if value is not None})
    _show(count.as_dict(limits), as_json, budget_tables(count, limits))
    count.require(limits, allow_over_budget)


@app.command()
def quantize(
    run: Annotated[Path, typer.Argument(help="A finished run.")],
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
    _needs("torch")
    from train.quantize import quantize as run_quantization
    from train.run import load_model

    require_free(out)
    dataset, clips = _clips(data, splits, fold_pattern, load_model(run)[1].parsed_recipe.features)
    bundle = run_quantization(run, dataset, clips, out, qat, split, settings, resume, allow_over_budget)
    budget = bundle.content["budget"]
    _show(
        {"bundle": str(out), **budget},
        as_json,
        f"{out}: {budget['deployed_bytes']:,} bytes of weights and biases, {budget['deployed_macs']:,} MACs; "
        f"next: tinyscene evaluate {out} --data {data}",
    )


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
        _needs("torch")
        from train.export import export_onnx

        paths = [export_onnx(model, out, allow_over_budget)]
    written = [{"file": str(path), "bytes": path.stat().st_size, "sha256": sha256(path)} for path in paths]
    _show(
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
        dataset, clips = _clips(data, None, None, bundle.front_end)
        clips.require_labels(bundle.labels, folder)
        chosen = clips.select(dataset.split(split or bundle.content["quantized"]["split"])[1])
        pcm, truth = np.concatenate([pcm, clips.pcm[chosen]]), None if files else clips.label[chosen]
    result = run_verification(bundle, pcm, truth)
    _show(result, as_json, verification_table(result))
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
    _show({"bundle": str(folder), "tensors": rows}, as_json, inspection_table(rows))


@app.command()
def classify(
    model: Annotated[Path, typer.Argument(help="A bundle, a run, or an exported .onnx file.")],
    files: Annotated[list[Path], typer.Argument(help="Recordings of any rate, length and channel count.")],
    runner: Runner = "reference",
    as_json: Json = False,
) -> None:
    """Classify recordings, second by second. Needs no torch."""
    classifier = load(model, runner)
    results = [classifier.classify(path) for path in files]
    lines = []
    for result in results:
        best = sorted(result["scores"].items(), key=lambda item: -item[1])[:3]
        scores = ", ".join(f"{label} {score:.1%}" for label, score in best)
        notes = f" ({'; '.join(result['notes'])})" if result["notes"] else ""
        lines.append(f"{result['file']}: {scores}{notes}")
    _show(results, as_json, "\n".join(lines))


@app.command()
def firmware(
    folder: Annotated[Path, typer.Argument(help="A bundle.")],
    out: Annotated[Path, typer.Option(help="Folder to write.")],
    package: Annotated[str | None, typer.Option(help="cmake, arduino, platformio, zephyr or wasm.")] = None,
    kernels: Annotated[str, typer.Option(help="Instruction sets, with commas between.")] = ",".join(DEVICE_KERNELS),
    hop: Annotated[float, typer.Option(help="Seconds between decisions.")] = 1.0,
    as_json: Json = False,
) -> None:
    """Write a bundle as C99 with a planned arena, or as a package."""
    from firmware_bridge.firmware import write_firmware
    from firmware_bridge.report import report_tables

    report = write_firmware(open_bundle(folder), out, package, kernels.split(","), hop)
    _show(report, as_json, report_tables(report))
    messages.print(f"{out}: {len(report['files'])} files written", soft_wrap=True)


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
        dataset, prepared = _clips(data, None, None, bundle.front_end)
        chosen = prepared.select(dataset.split(bundle.content["quantized"]["split"])[1])
        count = min(clips or len(chosen), len(chosen))
        pcm = np.concatenate([pcm, prepared.pcm[chosen[np.linspace(0, len(chosen) - 1, count).astype(int)]]])
    results = [run_emulation(bundle, pcm, device) for device in devices]
    _show(results if len(results) > 1 else results[0], as_json, emulation_table(results))
    require_equal(results)


@app.command(name="import")
def import_(
    weights: Annotated[Path, typer.Argument(help="A .safetensors file in the published parameter names.")],
    out: Annotated[Path, typer.Option(help="Folder of the run.")],
    recipe: Annotated[str, typer.Option(help="Recipe whose network the weights are.")] = "baseline",
    settings: Set = None,
    as_json: Json = False,
) -> None:
    """Make a run of weights trained elsewhere."""
    _needs("torch")
    from train.recipe import load_recipe
    from train.run import import_weights

    run = import_weights(weights, load_recipe(recipe, settings), out)
    _show({"run": str(run)}, as_json, f"{run}: imported; next: tinyscene evaluate {run} --data DATA")


def _clips(folder: Path, splits: Path | None, fold_pattern: str | None, front_end: FrontEnd) -> tuple[Any, Any]:
    """A dataset and its prepared clips at the front end's rate."""
    _needs("pooch")
    from train.cache import prepare as prepare_clips
    from train.data import open_dataset

    dataset = open_dataset(folder, splits, fold_pattern)
    return dataset, prepare_clips(dataset, front_end.sample_rate)


def _needs(package: str) -> None:
    if find_spec(package) is None:
        raise InputError(f"{package} is not installed: pip install 'tinyscene[train]'")


def _show(result: object, as_json: bool, shown: str | Group) -> None:
    """Print a result: as JSON, or as a person reads it. Of the processes of torchrun only the first speaks."""
    if os.environ.get("RANK", "0") != "0":
        return
    if as_json:
        sys.stdout.write(json.dumps(result, indent=2) + "\n")
    else:
        is_text = isinstance(shown, str)
        (console if is_text else tables).print(shown, soft_wrap=is_text, markup=False, highlight=False)


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

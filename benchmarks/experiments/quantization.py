"""What becoming integers costs a network, step by step, and how near the runtimes and the features are.

    python -m tinyscene.benchmarks.experiments.quantization network imported runs/imported --data DATA
    python -m tinyscene.benchmarks.experiments.quantization runtimes runs/quantization/imported-default --data DATA
    python -m tinyscene.benchmarks.experiments.quantization features --data DATA

`network` quantizes a run in several ways and compares each bundle, front end included, with the float
network on the test list of split 100. Bundles are kept in --bundles, so a killed benchmark goes on.
"""

from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import typer
from numpy.typing import NDArray

from tinyscene.benchmarks.experiments.results import read_result, write_result
from tinyscene.deploy.bundle.bundle import Bundle, open_bundle
from tinyscene.deploy.bundle.verify import verify
from tinyscene.deploy.common.command_line import run_command_line
from tinyscene.deploy.common.progress import progress
from tinyscene.deploy.frontend.fixed_point import FixedPointLogMel
from tinyscene.deploy.frontend.log_mel import FrontEnd, float_pcm
from tinyscene.deploy.live.classifier import BundleClassifier
from tinyscene.train.data.cache import Clips, prepare
from tinyscene.train.data.datasets import Dataset, open_dataset
from tinyscene.train.data.features import LogMel, waveform
from tinyscene.train.quantize.quantize import quantize
from tinyscene.train.runs.run import load_model

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, help=__doc__)
Data = Annotated[Path, typer.Option(help="Folder of a dataset in TAU's layout.")]

SPLIT, BATCH = "100", 32
RESULTS = Path("benchmarks/results")
NEAREST = "quantize.rounding=false"
PLAIN = ["quantize.equalize=false", "quantize.bias_correction=false"]
WAYS: dict[str, tuple[bool, list[str]]] = {  # name -> fine-tuned?, settings
    "minmax": (False, ["quantize.calibration=minmax", *PLAIN]),
    "mse": (False, ["quantize.calibration=mse", *PLAIN]),
    "percentile": (False, PLAIN),
    "percentile, equalized": (False, ["quantize.bias_correction=false"]),
    "percentile, biases corrected": (False, ["quantize.equalize=false", NEAREST]),
    "minmax, both": (False, ["quantize.calibration=minmax", NEAREST]),
    "mse, both": (False, ["quantize.calibration=mse", NEAREST]),
    "percentile, both": (False, [NEAREST]),
    "default": (False, []),
    "minmax, fine-tuned": (True, ["quantize.calibration=minmax", *PLAIN]),
    "default, fine-tuned": (True, []),
}
GAINS = {"device gain 1": 1.0, "-40 dB": 0.01, "full scale": None}  # none: the peak at full scale
SIGNAL = 10.0  # times the log offset, from which on a band is said to hold signal
FEATURE_RANGE = (-11.52, 12.0)  # of log-mel: silence to the loudest


@app.command()
def network(
    name: Annotated[str, typer.Argument(help="Part of the result file's name: quantization_NAME.json.")],
    run: Annotated[Path, typer.Argument(help="A finished run.")],
    data: Data,
    bundles: Annotated[Path, typer.Option(help="Folder of the bundles.")] = Path("runs/quantization"),
    ways: Annotated[list[str] | None, typer.Option("--way", help="Only this one; may be repeated.")] = None,
) -> None:
    """Quantize a run in several ways and compare it with its float network."""
    out = RESULTS / f"quantization_{name}.json"
    result = read_result(out)
    dataset, clips, indices = _test_clips(data)
    exact = _float_logits(run, clips.pcm, indices)
    truth = clips.label[indices]
    result["float"] = {"clips": len(indices)} | _accuracy(exact, truth)
    for way in ways or WAYS:
        if way in result.setdefault("ways", {}):
            continue
        qat, settings = WAYS[way]
        logits = _integer_logits(
            _bundle(run, dataset, clips, bundles / f"{name}-{_slug(way)}", qat, settings), clips.pcm, indices
        )
        result["ways"][way] = {
            "settings": settings,
            "same_scene": float((logits.argmax(1) == exact.argmax(1)).mean()),
            "mean_error": float(np.abs(logits - exact).mean()),
            **_accuracy(logits, truth),
        }
        write_result(out, result)


@app.command()
def runtimes(bundle: Annotated[Path, typer.Argument(help="A bundle.")], data: Data) -> None:
    """Hold every runtime to the reference on the test list."""
    _, clips, indices = _test_clips(data)
    write_result(
        RESULTS / "runtimes.json", verify(open_bundle(bundle), clips.pcm[indices], clips.label[indices]).as_dict()
    )


@app.command()
def features(data: Data) -> None:
    """Compare the fixed-point features with the float ones, on every clip of a dataset, at several gains."""
    front_end = FrontEnd()
    clips = prepare(open_dataset(data), front_end.sample_rate)
    low, high = FEATURE_RANGE
    scale = float(np.float32((high - low) / 255))
    zero_point = round(-128 - low / scale)
    log_mel = FixedPointLogMel(front_end, scale, zero_point)
    signal = np.log(SIGNAL * front_end.log_offset + front_end.log_offset)
    rows = {}
    with progress("comparing", len(GAINS) * len(clips.pcm)) as advance:
        for name, gain in GAINS.items():
            counts, signal_counts = np.zeros(256, int), np.zeros(256, int)
            for start in range(0, len(clips.pcm), BATCH):
                pcm = _with_gain(clips.pcm[start : start + BATCH], gain)
                exact = front_end.log_mel(float_pcm(pcm))
                rounded = np.clip(np.rint(exact / scale) + zero_point, -128, 127)
                difference = np.abs(log_mel(pcm) - rounded).astype(int)
                counts += np.bincount(difference.ravel(), minlength=256)
                signal_counts += np.bincount(difference[exact > signal], minlength=256)
                advance(len(pcm))
            shares = counts / counts.sum()
            rows[name] = {
                "equal": shares[0],
                "within_1": shares[:2].sum(),
                "max": int(counts.nonzero()[0].max()),
                "max_with_signal": int(signal_counts.nonzero()[0].max()),
            }
    settings = {"scale": scale, "zero_point": zero_point, "clips": len(clips.pcm), "data_hash": clips.data_hash}
    write_result(RESULTS / "fixed_point_features.json", {**settings, "gains": rows})


def _test_clips(data: Path) -> tuple[Dataset, Clips, NDArray[np.int64]]:
    dataset = open_dataset(data)
    clips = prepare(dataset, FrontEnd().sample_rate)
    return dataset, clips, clips.select(dataset.split(SPLIT)[1])


def _bundle(run: Path, dataset: Dataset, clips: Clips, folder: Path, qat: bool, settings: list[str]) -> Bundle:
    if folder.exists():
        return open_bundle(folder)
    work = folder.with_name(f"{folder.name}.qat")
    return quantize(run, dataset, clips, folder, qat, SPLIT, settings, resume=work.exists())


@torch.inference_mode()
def _float_logits(run: Path, pcm: NDArray[np.int16], indices: NDArray[np.int64]) -> NDArray[np.float32]:
    trained, card = load_model(run)
    log_mel = LogMel(card.parsed_recipe.features)
    parts = (torch.from_numpy(pcm[indices[start : start + BATCH]]) for start in range(0, len(indices), BATCH))
    return torch.cat([trained(log_mel(waveform(part))) for part in parts]).numpy()


def _integer_logits(bundle: Bundle, pcm: NDArray[np.int16], indices: NDArray[np.int64]) -> NDArray[np.float32]:
    classifier = BundleClassifier(bundle, "reference")
    with progress("evaluating", len(indices)) as advance:
        logits = []
        for start in range(0, len(indices), BATCH):
            logits.append(classifier.logits(pcm[indices[start : start + BATCH]]))
            advance(BATCH)
    return np.concatenate(logits)


def _accuracy(logits: NDArray[np.float32], truth: NDArray[np.int64]) -> dict[str, float | int]:
    right = logits.argmax(1) == truth
    return {"correct": int(right.sum()), "accuracy": float(right.mean())}


def _with_gain(pcm: NDArray[np.int16], gain: float | None) -> NDArray[np.int16]:
    """Clips (batch, samples) scaled and rounded; without a gain, each to its own full scale."""
    peaks = np.maximum(np.abs(pcm.astype(int)).max(1, keepdims=True), 1)
    factor = 32767 / peaks if gain is None else gain
    return np.rint(pcm * factor).astype(np.int16)


def _slug(way: str) -> str:
    return way.replace(", ", "-").replace(" ", "_")


if __name__ == "__main__":
    run_command_line(app)

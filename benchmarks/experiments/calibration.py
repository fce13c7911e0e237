"""How near int8 is to float after calibration in several ways, over several draws of calibration clips.

    python -m tinyscene.benchmarks.experiments.calibration RUN --data DATA --way default --clips 1088

Compared are the same scene, the SQNR of the logits and the accuracy, fixed-point front end included, on evenly spaced
test clips of the split that a run was trained on, or of split 100 where it was imported. What is in the result file is
not measured again.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from numpy.typing import NDArray

from tinyscene.benchmarks.experiments.results import Out, read_result, write_result
from tinyscene.deploy.common.command_line import run_command_line
from tinyscene.deploy.frontend.fixed_point import FixedPointLogMel
from tinyscene.deploy.frontend.log_mel import FrontEnd, float_pcm
from tinyscene.deploy.graph.graph import Graph
from tinyscene.deploy.graph.reference import run as run_graph
from tinyscene.train.data.cache import prepare
from tinyscene.train.data.datasets import open_dataset
from tinyscene.train.quantize.calibrate import to_integers
from tinyscene.train.quantize.lower import lower
from tinyscene.train.quantize.quantize import BATCH, post_training
from tinyscene.train.runs.run import load_model
from tinyscene.train.training_settings import Quantize

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, help=__doc__)
Float32 = NDArray[np.float32]

IMPORTED_SPLIT = "100"
WAYS = {
    "default": Quantize(),
    "not equalized": Quantize(equalize=False),
    "weights rounded to nearest": Quantize(rounding=False),
    "ranges of least squared error": Quantize(calibration="mse"),
}


@dataclass(frozen=True)
class Test:
    """Clips that are tested: features (clips, mel, frame, 1), float logits (clips, classes) and labels (clips,)."""

    features: Float32
    logits: Float32
    labels: NDArray[np.int64]


@app.command()
def main(
    runs: Annotated[list[Path], typer.Argument(help="Finished runs.")],
    data: Annotated[Path, typer.Option(help="Folder of the dataset.")],
    draws: Annotated[int, typer.Option(help="Number of draws of calibration clips.")] = 5,
    clips: Annotated[int, typer.Option(help="Number of test clips.")] = 272,
    ways: Annotated[list[str] | None, typer.Option("--way", help="Only this one; may be repeated.")] = None,
    out: Out = Path("benchmarks/results/calibration.json"),
) -> None:
    """Measure same scene, SQNR and accuracy for each run, way and draw."""
    dataset, result = open_dataset(data), read_result(out)
    for run in runs:
        network, card = load_model(run)
        front_end = card.parsed_recipe.features
        prepared = prepare(dataset, front_end.sample_rate, clip_seconds=front_end.clip_seconds)
        graph = lower(network, front_end.shape)
        training, listed = (prepared.select(part) for part in dataset.split(card.split or IMPORTED_SPLIT))
        chosen = listed[np.linspace(0, len(listed) - 1, clips).astype(int)]
        exact = _logits(graph, front_end.log_mel(float_pcm(prepared.pcm[chosen]))[..., None])
        test = Test(_fixed_point(front_end, prepared.pcm[chosen]), exact, prepared.label[chosen])
        measured = result.setdefault("networks", {}).setdefault(run.name, {"float": {}, "ways": {}})
        measured["float"][str(clips)] = int((exact.argmax(1) == test.labels).sum())
        for draw in range(draws):
            drawn = np.random.default_rng(draw).permutation(training)[: Quantize().clips]
            features = _fixed_point(front_end, prepared.pcm[drawn])
            for way in ways or WAYS:
                rows = measured["ways"].setdefault(way, {}).setdefault(str(clips), {})
                if str(draw) not in rows:
                    batches = np.split(features, range(BATCH, len(features), BATCH))
                    _, corrected, ranges, scales = post_training(graph, batches, WAYS[way])
                    rows[str(draw)] = _measure(to_integers(corrected, ranges, scales), test)
                    write_result(out, result)


def _fixed_point(front_end: FrontEnd, pcm: NDArray[np.int16]) -> Float32:
    """Log-mel of clips, (clips, mel, frame, 1), before it is rounded to int8."""
    front_end_in_integers = FixedPointLogMel(front_end, scale=1.0, zero_point=0)
    parts = [front_end_in_integers.log_mel(part) for part in np.split(pcm, range(BATCH, len(pcm), BATCH))]
    return np.concatenate(parts)[..., None]


def _measure(integer: Graph, test: Test) -> dict[str, float | int]:
    logits = integer.output.q.dequantize(_logits(integer, integer.input.q.quantize(test.features)))
    noise = float(np.square(logits - test.logits, dtype=np.float64).sum())
    signal = float(np.square(test.logits, dtype=np.float64).sum())
    return {
        "sqnr_db": 10 * float(np.log10(signal / noise)),
        "same_scene": float((logits.argmax(1) == test.logits.argmax(1)).mean()),
        "correct": int((logits.argmax(1) == test.labels).sum()),
    }


def _logits(graph: Graph, features: NDArray) -> NDArray:
    """Features (clips, mel, frame, 1) -> logits (clips, classes)."""
    return np.concatenate([run_graph(graph, part) for part in np.split(features, range(BATCH, len(features), BATCH))])


if __name__ == "__main__":
    run_command_line(app)

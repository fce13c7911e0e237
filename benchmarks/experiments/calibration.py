"""How near int8 is to float after each step of calibration, over several draws of calibration clips.

    python -m tinyscene.benchmarks.experiments.calibration RUN --data DATA

Each step adds to those before it. Compared are the same scene and the SQNR of the logits, fixed-point front end
included, on evenly spaced test clips of split 100. What is in the result file is not measured again.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from numpy.typing import NDArray

from tinyscene.benchmarks.experiments.results import Out, read_result, write_result
from tinyscene.deploy.frontend.fixed_point import FixedPointLogMel
from tinyscene.deploy.frontend.log_mel import float_pcm
from tinyscene.deploy.graph.graph import Graph
from tinyscene.deploy.graph.reference import run as run_graph
from tinyscene.train.data.cache import prepare
from tinyscene.train.data.datasets import open_dataset
from tinyscene.train.data.training_data import TrainingData
from tinyscene.train.quantize.calibrate import calibrate, equalize, to_integers
from tinyscene.train.quantize.clips import calibration_clips
from tinyscene.train.quantize.correct import correct
from tinyscene.train.quantize.lower import lower
from tinyscene.train.quantize.quantize import BATCH
from tinyscene.train.recipe import Quantize
from tinyscene.train.runs.run import load_model

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, help=__doc__)
Float32 = NDArray[np.float32]

SPLIT = "100"
STEPS = ("before", "even draw", "biases on all clips", "input not clipped", "weights rounded")
FORMER_BIAS_CLIPS = 64


class _Features:
    """Fixed-point log-mel of clips, (clips, mel, frame, 1), computed once; in float as training computes them."""

    def __init__(self, front_end, pcm: NDArray[np.int16]) -> None:
        self.front_end, self.pcm, self.known = front_end, pcm, {}
        self.fixed_point = FixedPointLogMel(front_end, scale=1.0, zero_point=0)

    def fixed(self, chosen: NDArray[np.int64]) -> Float32:
        for clip in chosen.tolist():
            if clip not in self.known:
                self.known[clip] = self.fixed_point.log_mel(self.pcm[clip : clip + 1])[0, ..., None]
        return np.stack([self.known[clip] for clip in chosen.tolist()])

    def float(self, chosen: NDArray[np.int64]) -> Float32:
        return self.front_end.log_mel(float_pcm(self.pcm[chosen]))[..., None]


@app.command()
def main(
    run: Annotated[Path, typer.Argument(help="A finished run.")],
    data: Annotated[Path, typer.Option(help="Folder of a dataset in TAU's layout.")],
    draws: Annotated[int, typer.Option(help="Number of draws of calibration clips.")] = 5,
    clips: Annotated[int, typer.Option(help="Number of test clips.")] = 272,
    out: Out = Path("benchmarks/results/calibration.json"),
) -> None:
    """Measure same scene and SQNR for each step and draw."""
    network, card = load_model(run)
    dataset = open_dataset(data)
    prepared = prepare(dataset, card.parsed_recipe.features.sample_rate)
    graph = lower(network, card.parsed_recipe.features.shape)
    features = _Features(card.parsed_recipe.features, prepared.pcm)
    test = prepared.select(dataset.split(SPLIT)[1])
    test = test[np.linspace(0, len(test) - 1, clips).astype(int)]
    training = TrainingData(dataset, prepared, SPLIT)
    result = {"clips": clips, "calibration_clips": Quantize().clips, "steps": {name: {} for name in STEPS}}
    result |= read_result(out)
    exact = _logits(graph, features.float(test))
    for draw in range(draws):
        if all(str(draw) in result["steps"][name] for name in STEPS):
            continue
        for name, integer in _integers(graph, training, features, draw):
            low, high = integer.input.q, integer.output.q
            logits = high.dequantize(_logits(integer, low.quantize(features.fixed(test))))
            noise = float(np.square(logits - exact, dtype=np.float64).sum())
            signal = float(np.square(exact, dtype=np.float64).sum())
            result["steps"][name][str(draw)] = {
                "same_scene": float((logits.argmax(1) == exact.argmax(1)).mean()),
                "sqnr_db": 10 * float(np.log10(signal / noise)),
            }
            write_result(out, result)


def _integers(graph: Graph, data: TrainingData, features: _Features, draw: int) -> Iterator[tuple[str, Graph]]:
    """The integer graph after each step."""
    settings, former = Quantize(), FORMER_BIAS_CLIPS // BATCH
    for even in (False, True):
        if even:
            chosen = calibration_clips(data, draw, settings.clips)
        else:
            chosen = np.random.default_rng(draw).permutation(data.training_clips())[: settings.clips]
        batches = np.split(features.fixed(chosen), range(BATCH, len(chosen), BATCH))
        equalized = equalize(graph, batches)
        whole = calibrate(equalized, batches, settings)
        share = 100 - settings.percentile
        low, high = np.percentile(np.concatenate(batches), [share, 100 - share])
        clipped = whole | {graph.input.name: (float(low), float(high))}
        yield STEPS[even], to_integers(correct(equalized, clipped, batches[:former], rounding=False)[0], clipped)
        if even:
            yield STEPS[2], to_integers(correct(equalized, clipped, batches, rounding=False)[0], clipped)
            yield STEPS[3], to_integers(correct(equalized, whole, batches, rounding=False)[0], whole)
            corrected, scales = correct(equalized, whole, batches, rounding=True)
            yield STEPS[4], to_integers(corrected, whole, scales)


def _logits(graph: Graph, features: NDArray) -> NDArray:
    """Features (clips, mel, frame, 1) -> logits (clips, classes)."""
    return np.concatenate([run_graph(graph, part) for part in np.split(features, range(BATCH, len(features), BATCH))])


if __name__ == "__main__":
    app()

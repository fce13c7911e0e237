"""Accuracy of a bundle on a test list, float and int8, with bootstrap intervals by recording.

    tinyscene bench BUNDLE --audio DATA

int8 is run by the firmware's C compiled for this machine, after its logits of the golden sounds were found equal to the
reference; without a compiler, by the reference itself. Float is the float graph in LiteRT on float features, checked
against the numpy interpreter on a golden sound. The interval of the difference uses the same bootstrap samples.
"""

from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from tinyscene.benchmarks.bootstrap import COVERAGE, DRAWS, TestList, draw, interval, macro, recordings_of
from tinyscene.benchmarks.measured import Amount, Count, Measured, Share
from tinyscene.deploy.bundle.bundle import Bundle
from tinyscene.deploy.bundle.exports import export
from tinyscene.deploy.common.errors import TinysceneError
from tinyscene.deploy.common.installation import MissingPackageError
from tinyscene.deploy.common.terminal import messages
from tinyscene.deploy.frontend.log_mel import float_pcm
from tinyscene.deploy.graph.reference import run
from tinyscene.deploy.live.classifier import BundleClassifier, SceneClassifier
from tinyscene.train.data.cache import Clips
from tinyscene.train.runs.evaluate import Predict, score, score_recordings

FLOAT_TOLERANCE = 1e-3  # of logits, between two ways of adding the same floats


class UnequalRunnerError(TinysceneError):
    """A runner that does not give the golden vectors (exit code 4)."""

    exit_code = 4


Bounds = Annotated[list[float], Field(min_length=2, max_length=2)]


@dataclass(frozen=True)
class NetworkAccuracy(Measured):
    """Of one kind of the network. Shares, not per cent."""

    macro_accuracy: Share
    macro_interval: Bounds
    correct: Count = 0
    accuracy: Share = 0.0
    log_loss: Amount = 0.0
    runner: str = ""


@dataclass(frozen=True)
class AccuracyDifference(Measured):
    """Macro-average accuracy of int8 minus that of float."""

    macro_accuracy: float
    macro_interval: Bounds


@dataclass(frozen=True)
class Accuracy(Measured):
    """Accuracy before and after quantization, on the same recordings."""

    exact: Annotated[NetworkAccuracy, Field(alias="float")]  # the float network
    int8: NetworkAccuracy
    difference: AccuracyDifference
    clips: Count  # files scored
    recordings: Count  # that the files were cut from
    coverage: Annotated[float, Field(gt=0, lt=100)]  # per cent, of the intervals
    draws: Count = 0  # of the bootstrap
    data_hash: str = ""

    def as_dict(self) -> dict[str, Any]:
        content = super().as_dict()
        return {"float": content.pop("exact"), **content}


def measure_accuracy(bundle: Bundle, clips: Clips, paths: tuple[str, ...]) -> Accuracy:
    """Evaluate a bundle, with its variants for recording devices, on the recordings of a list."""
    runner = _integer_runner(bundle)
    variants = {device: bundle.variant(device) for device in bundle.variants}
    exact = score_recordings(_float(bundle), clips, paths, {device: _float(own) for device, own in variants.items()})
    own_integers = {device: _integer(own, runner) for device, own in variants.items()}
    int8 = score_recordings(_integer(bundle, runner), clips, paths, own_integers)
    recordings = exact[0]
    truth = np.array([clips.labels.index(recording.label) for recording in recordings])
    devices = np.array([recording.device for recording in recordings])
    numbers = recordings_of(recording.path for recording in recordings)
    test = TestList(np.arange(len(recordings)), truth, numbers, devices)
    weights, everything = draw(test), test.members("macro")

    def drawn(scores: NDArray[np.float64]) -> NDArray[np.float64]:
        return macro(scores.argmax(1) == truth, everything, test, weights)

    def accuracy(scores: NDArray[np.float64], runner: str) -> NetworkAccuracy:
        evaluation = score(scores, truth, devices, clips.labels)
        figures = {key: getattr(evaluation, key) for key in ("correct", "accuracy", "macro_accuracy", "log_loss")}
        return NetworkAccuracy(**figures, macro_interval=interval(drawn(scores)), runner=runner)

    difference = drawn(int8[1]) - drawn(exact[1])
    return Accuracy(
        exact=accuracy(exact[1], "litert"),
        int8=accuracy(int8[1], runner),
        difference=AccuracyDifference(float(difference[0]), interval(difference)),
        clips=len(recordings),
        recordings=int(test.recording.max()) + 1,
        coverage=COVERAGE,
        draws=DRAWS,
        data_hash=clips.data_hash,
    )


def _integer_runner(bundle: Bundle) -> str:
    """The native runner, once it has given the golden logits; the reference where there is no compiler for it."""
    try:
        scene = BundleClassifier(bundle, "native")
    except MissingPackageError as error:
        messages.print(f"{error}; the accuracy in int8 is measured with the reference, which is slower", soft_wrap=True)
        return "reference"
    expected = bundle.graph.output.q.dequantize(bundle.vectors.logits)
    if not np.array_equal(scene.logits(bundle.vectors.pcm), expected):
        raise UnequalRunnerError(f"{bundle.folder}: the native runner does not give the golden logits")
    return "native"


def _integer(bundle: Bundle, runner: str) -> Predict:
    return BundleClassifier(bundle, runner).probabilities


class FloatClassifier(SceneClassifier):
    """The float graph run by LiteRT on float features."""

    def __init__(self, bundle: Bundle) -> None:
        from ai_edge_litert.interpreter import Interpreter

        self.labels, self.front_end, self.metadata = bundle.labels, bundle.front_end, bundle.content
        content = export(bundle, "tflite-float")
        self._interpreter = Interpreter(model_content=content, num_threads=1)
        self._interpreter.allocate_tensors()
        self._input = self._interpreter.get_input_details()[0]["index"]
        self._output = self._interpreter.get_output_details()[0]["index"]

    def logits(self, pcm: NDArray[np.int16]) -> NDArray[np.float32]:
        rows = []
        for features in self.front_end.log_mel(float_pcm(pcm))[..., None]:  # (mel, frame, 1)
            self._interpreter.set_tensor(self._input, features[None])
            self._interpreter.invoke()
            rows.append(self._interpreter.get_tensor(self._output)[0])
        return np.stack(rows)


def _float(bundle: Bundle) -> Predict:
    """The float graph, checked against the numpy interpreter on a golden clip."""
    classifier, clip = FloatClassifier(bundle), bundle.vectors.pcm[-1:]
    expected = run(bundle.float_graph, bundle.front_end.log_mel(float_pcm(clip))[..., None])
    if not np.allclose(classifier.logits(clip), expected, rtol=FLOAT_TOLERANCE, atol=FLOAT_TOLERANCE):
        raise UnequalRunnerError(f"{bundle.folder}: LiteRT does not give the float graph's logits")
    return classifier.probabilities

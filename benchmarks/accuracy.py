"""Accuracy of a bundle on a test list, float and int8, with intervals by recording.

    tinyscene bench BUNDLE --audio DATA

int8 is the firmware's C compiled for this machine, after it has given the golden sounds' logits to the bit; where there
is no compiler, the reference. Float is the float graph in LiteRT on float features, after it has given the numpy
interpreter's logits on the golden sounds. The interval of the difference is of the same drawn recordings.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from tinyscene.benchmarks.bootstrap import COVERAGE, DRAWS, Test, draw, interval, macro, recordings_of
from tinyscene.deploy.bundle.bundle import Bundle
from tinyscene.deploy.bundle.exports import export
from tinyscene.deploy.common.errors import InputError, TinysceneError
from tinyscene.deploy.frontend.log_mel import PCM_SCALE
from tinyscene.deploy.graph.reference import run
from tinyscene.deploy.live.classifier import BundleClassifier, SceneClassifier
from tinyscene.train.data.cache import Clips
from tinyscene.train.evaluate import Predict, score, score_recordings

FLOAT_TOLERANCE = 1e-3  # of logits, between two ways of adding the same floats


class UnequalRunnerError(TinysceneError):
    """A runner that does not give the golden vectors (exit code 4)."""

    exit_code = 4


def measure_accuracy(bundle: Bundle, clips: Clips, paths: tuple[str, ...]) -> dict[str, Any]:
    """Evaluate a bundle, with its variants for devices, on the recordings of a list.

    Returns: float and int8 (each correct, accuracy, macro_accuracy, macro_interval, log_loss, runner), difference
    (macro_accuracy of int8 less that of float, and its macro_interval), clips (files scored), recordings (that they
    were cut from), coverage (per cent, of intervals), draws, data_hash. Shares, not per cent.
    """
    scores: dict[str, NDArray[np.float64]] = {}
    runners = {"int8": _integer_runner(bundle), "float": "litert"}
    for kind in ("float", "int8"):
        predict = _float(bundle) if kind == "float" else _integer(bundle, runners[kind])
        variants = {
            device: _float(own) if kind == "float" else _integer(own, runners[kind])
            for device in bundle.variants
            for own in [bundle.variant(device)]
        }
        items, scores[kind] = score_recordings(predict, clips, paths, variants)
    truth = np.array([clips.labels.index(item.label) for item in items])
    devices = np.array([item.device for item in items])
    test = Test(np.arange(len(items)), truth, recordings_of(item.path for item in items), devices)
    weights, everything = draw(test), test.members("macro")
    drawn = {kind: macro(each.argmax(1) == truth, everything, test, weights) for kind, each in scores.items()}
    result: dict[str, Any] = {
        kind: {
            **{key: row[key] for key in ("correct", "accuracy", "macro_accuracy", "log_loss")},
            "macro_interval": interval(drawn[kind]),
            "runner": runners[kind],
        }
        for kind, each in scores.items()
        for row in [score(each, truth, devices, clips.labels)]
    }
    difference = drawn["int8"] - drawn["float"]
    result["difference"] = {"macro_accuracy": float(difference[0]), "macro_interval": interval(difference)}
    recordings = int(test.recording.max()) + 1
    return result | {
        "clips": len(items),
        "recordings": recordings,
        "data_hash": clips.data_hash,
        "coverage": COVERAGE,
        "draws": DRAWS,
    }


def _integer_runner(bundle: Bundle) -> str:
    """The fastest runner that there is and that equals the reference."""
    try:
        scene = BundleClassifier(bundle, "native")
    except InputError:
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
        content = export(bundle, "tflite-float", full=True)
        self._interpreter = Interpreter(model_content=content, num_threads=1)
        self._interpreter.allocate_tensors()
        self._input = self._interpreter.get_input_details()[0]["index"]
        self._output = self._interpreter.get_output_details()[0]["index"]

    def logits(self, pcm: NDArray[np.int16]) -> NDArray[np.float32]:
        rows = []
        for features in self.front_end.log_mel(pcm / PCM_SCALE)[..., None]:  # (mel, frame, 1)
            self._interpreter.set_tensor(self._input, features[None])
            self._interpreter.invoke()
            rows.append(self._interpreter.get_tensor(self._output)[0])
        return np.stack(rows)


def _float(bundle: Bundle) -> Predict:
    """The float graph, checked against the numpy interpreter on a golden clip."""
    classifier, clip = FloatClassifier(bundle), bundle.vectors.pcm[-1:]
    expected = run(bundle.float_graph, bundle.front_end.log_mel(clip / PCM_SCALE)[..., None])
    if not np.allclose(classifier.logits(clip), expected, rtol=FLOAT_TOLERANCE, atol=FLOAT_TOLERANCE):
        raise UnequalRunnerError(f"{bundle.folder}: LiteRT does not give the float graph's logits")
    return classifier.probabilities

"""Scene classifiers: recordings or a stream of samples in, scores by label out. Needs no torch.

    scene = bundle_classifier(open_bundle(folder), "reference")
    scene.classify("some.wav")

    stream = scene.stream(sample_rate=32000)
    for decision in stream.push(samples): ...

A bundle is integers all the way: PCM, int8 features by the fixed-point front end, int8 logits. A float
ONNX model takes the float front end.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tinyscene.deploy.bundle.bundle import Bundle, read_labels
from tinyscene.deploy.bundle.runners import make_runner, onnx_session, scene_runners
from tinyscene.deploy.common.errors import InputError
from tinyscene.deploy.common.provenance import METADATA_KEY
from tinyscene.deploy.frontend.audio import Recording, make_clip, mix_down
from tinyscene.deploy.frontend.fixed_point import FixedPointLogMel
from tinyscene.deploy.frontend.log_mel import PCM_SCALE, SOURCE_RATES, FrontEnd

BATCH = 16  # seconds of a recording classified at once
MAX_ONNX = 2**28  # bytes

Logits = Callable[[NDArray[np.int16]], NDArray[np.float32]]  # (batch, samples) -> (batch, classes)


@dataclass(frozen=True)
class SceneClassifier:
    """A model with its front end and labels, whatever runs it."""

    labels: tuple[str, ...]
    front_end: FrontEnd
    logits: Logits  # one-second clips (batch, samples) at the front end's rate -> logits (batch, classes)
    card: dict[str, Any]  # what made the model

    def probabilities(self, pcm: NDArray[np.int16]) -> NDArray[np.float32]:
        """One-second clips (batch, samples) -> probabilities (batch, classes)."""
        logits = self.logits(pcm)
        exponentials = np.exp(logits - logits.max(axis=1, keepdims=True))
        return exponentials / exponentials.sum(axis=1, keepdims=True)

    def classify(self, path: Path | str) -> dict[str, Any]:
        """Classify a recording of any rate, length and channel count.

        Returns: file; scene and scores (label -> mean probability over its seconds); seconds, a list of
        start, scene and scores; notes on what had to be done to the file.
        """
        recording = Recording(Path(path), self.front_end.sample_rate)
        seconds: list[NDArray[np.float32]] = []
        batch: list[NDArray[np.int16]] = []
        for clip in recording.clips():
            batch.append(clip)
            if len(batch) == BATCH:
                seconds.append(self.probabilities(np.stack(batch)))
                batch = []
        if batch:
            seconds.append(self.probabilities(np.stack(batch)))
        scores = np.concatenate(seconds)  # (second, classes)
        return {
            "file": str(path),
            **self.decision(scores.mean(axis=0)),
            "seconds": [{"start": start, **self.decision(each)} for start, each in enumerate(scores)],
            "notes": recording.notes,
        }

    def stream(self, sample_rate: int, hop: float = 1.0) -> "SceneStream":
        """A stream of samples at `sample_rate` Hz, to be decided on every `hop` seconds.

        With a hop of one second the decisions are those of `classify` on the same samples.
        """
        return SceneStream(self, sample_rate, hop)

    def decision(self, scores: NDArray[np.float32]) -> dict[str, Any]:
        """Probabilities (classes,) as a scene and its scores by label."""
        named = {label: float(score) for label, score in zip(self.labels, scores, strict=True)}
        return {"scene": max(named, key=named.__getitem__), "scores": named}


class SceneStream:
    """Samples pushed in as they come; a decision on the last second of them each hop."""

    def __init__(self, classifier: SceneClassifier, sample_rate: int, hop: float) -> None:
        low, high = SOURCE_RATES
        if type(sample_rate) is not int or not low <= sample_rate <= high:
            raise InputError(f"a sample rate of {sample_rate} Hz: it must be a whole number in {low:,} to {high:,}")
        if not 0 < hop <= 1 or round(hop * sample_rate) < 1:
            raise InputError(f"a hop of {hop} seconds: it must be above 0 and at most 1")
        self.classifier, self.sample_rate = classifier, sample_rate
        self._hop = hop * sample_rate  # samples, and not always a whole number of them
        self._decided = 0  # seconds
        self._buffer = np.zeros(0, np.float32)

    def push(self, samples: NDArray[Any]) -> list[dict[str, Any]]:
        """Take more samples, (samples,) or (samples, channels), int16 or float within +-1, of any number.

        Returns a decision (start in seconds, scene, scores) for each second that is complete.
        """
        self._buffer = np.concatenate([self._buffer, mix_down(samples)])
        decisions = []
        while len(self._buffer) >= self.sample_rate:
            decisions.append(self._decide(self._buffer[: self.sample_rate]))
            former, self._decided = self._start, self._decided + 1
            self._buffer = self._buffer[self._start - former :]
        return decisions

    def finish(self) -> list[dict[str, Any]]:
        """End the stream: what is left is padded and decided on if half a hop of it is new, or if it is all.

        What is pushed after that is a new stream.
        """
        left = self._buffer
        new = len(left) - (self.sample_rate - self._hop if self._decided else 0)
        is_all = self._decided == 0 and len(left) > 0
        decisions = [self._decide(left)] if is_all or (self._decided and 2 * new >= self._hop) else []
        self._buffer, self._decided = left[:0], 0
        return decisions

    @property
    def _start(self) -> int:
        """Where the buffer starts in the stream, in samples: rounded anew for each decision, so that none drifts."""
        return round(self._decided * self._hop)

    def _decide(self, second: NDArray[np.float32]) -> dict[str, Any]:
        clip, _ = make_clip(second, self.sample_rate, self.classifier.front_end.sample_rate)
        scores = self.classifier.probabilities(clip[None])[0]
        return {"start": self._start / self.sample_rate, **self.classifier.decision(scores)}


def bundle_classifier(bundle: Bundle, runner: str) -> SceneClassifier:
    """A bundle run by the runner of that name, in `deploy/bundle/runners.py`."""
    output = bundle.graph.output.q
    runners = scene_runners()
    if runner in runners:
        run = runners[runner](bundle)
        return SceneClassifier(bundle.labels, bundle.front_end, lambda pcm: output.dequantize(run(pcm)), bundle.content)
    invoke, source = make_runner(runner, bundle), bundle.graph.input.q
    log_mel = FixedPointLogMel(bundle.front_end, source.scale, source.zero_point)

    def logits(pcm: NDArray[np.int16]) -> NDArray[np.float32]:
        return output.dequantize(invoke(log_mel(pcm)[..., None]))  # features (batch, mel, frame, 1)

    return SceneClassifier(bundle.labels, bundle.front_end, logits, bundle.content)


def onnx_classifier(model: Path) -> SceneClassifier:
    """A float ONNX model with the labels and front end in its metadata, run by ONNX Runtime on the CPU."""
    try:
        import onnxruntime
    except ImportError:
        raise InputError("onnxruntime is not installed: pip install 'tinyscene[onnx]'") from None
    if not model.is_file():
        raise InputError(f"{model}: no such model file")
    if model.stat().st_size > MAX_ONNX:
        raise InputError(f"{model}: larger than {MAX_ONNX >> 20} MB")
    try:
        session = onnx_session(onnxruntime, model.read_bytes())
    except Exception as error:  # ONNX Runtime's exceptions share no other base
        reason = " ".join(str(error).split())[:200]
        raise InputError(f"{model}: not a model that ONNX Runtime can run ({reason})") from None
    card = _read_card(session.get_modelmeta().custom_metadata_map, model)
    labels, front_end = tuple(card["labels"]), FrontEnd(**card["front_end"])
    inputs, outputs = session.get_inputs(), session.get_outputs()
    if len(inputs) != 1 or inputs[0].type != "tensor(float)" or inputs[0].shape[1:] != [1, *front_end.shape]:
        raise InputError(f"{model}: its input does not fit its front end, float 1 x {front_end.shape}")
    if isinstance(inputs[0].shape[0], int):
        raise InputError(f"{model}: takes batches of {inputs[0].shape[0]} only; export it with a free batch size")
    if len(outputs) != 1 or outputs[0].shape[1:] != [len(labels)]:
        raise InputError(f"{model}: its output does not fit its {len(labels)} labels")

    def logits(pcm: NDArray[np.int16]) -> NDArray[np.float32]:
        features = front_end.log_mel(pcm / PCM_SCALE)[:, None]  # (batch, 1, mel, frame)
        return np.asarray(session.run(None, {inputs[0].name: features})[0])

    try:
        logits(np.zeros((1, front_end.clip_samples), np.int16))
    except Exception as error:
        reason = " ".join(str(error).split())[:200]
        raise InputError(f"{model}: ONNX Runtime loads it but cannot run it ({reason})") from None
    return SceneClassifier(labels, front_end, logits, card)


def _read_card(metadata: dict[str, str], model: Path) -> dict[str, Any]:
    """Labels, front end and provenance that an export carries."""
    try:
        card = json.loads(metadata[METADATA_KEY])
        read_labels(card["labels"])
        FrontEnd(**card["front_end"])
        return card
    except (KeyError, TypeError, ValueError, RecursionError) as error:
        raise InputError(
            f"{model}: carries no labels and front end of tinyscene ({error}); export it with `tinyscene export`"
        ) from None

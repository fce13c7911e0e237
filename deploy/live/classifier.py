"""Scene classifiers: recordings or a stream of samples in, scores by label out. Needs no torch.

    scene = open_classifier(open_bundle(folder))     # or OnnxClassifier(path)
    scene.classify("some.wav")

    stream = scene.stream(sample_rate=32000)
    for decision in stream.push(samples): ...

A bundle is run in integers from PCM to logits, with the fixed-point front end. A float ONNX model is run with the
float front end.
"""

import contextlib
import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tinyscene.deploy.bundle.bundle import Bundle
from tinyscene.deploy.bundle.decision import UNKNOWN_LABEL, Decider, DecisionRule
from tinyscene.deploy.bundle.index import read_labels
from tinyscene.deploy.bundle.likeness import run_with_sums
from tinyscene.deploy.bundle.runners import make_runner, onnx_session, scene_runners
from tinyscene.deploy.common.errors import InputError
from tinyscene.deploy.common.installation import MissingPackageError, missing
from tinyscene.deploy.common.provenance import METADATA_KEY
from tinyscene.deploy.common.terminal import messages
from tinyscene.deploy.frontend.audio import Recording
from tinyscene.deploy.frontend.band_offsets import BandOffsets, OffsetWindows
from tinyscene.deploy.frontend.log_mel import FrontEnd, float_pcm
from tinyscene.deploy.graph.embedding import embed
from tinyscene.deploy.live.follower import BundleFollower
from tinyscene.deploy.live.onnx_embedding import onnx_embedder
from tinyscene.deploy.live.stream import Follower, Heard, SceneStream

PREFERRED, DEFINITION = "native", "reference"  # runners: of the first the results are those of the second
BATCH = 16  # clips of a recording classified at once
MAX_ONNX = 2**28  # bytes


def softmax(logits: NDArray[np.float32]) -> NDArray[np.float32]:
    """Logits (batch, classes) -> probabilities (batch, classes)."""
    exponentials = np.exp(logits - logits.max(axis=1, keepdims=True))
    return exponentials / exponentials.sum(axis=1, keepdims=True)


class SceneClassifier(ABC):
    """A model with its front end and labels. A subclass says how its logits are computed."""

    labels: tuple[str, ...]
    front_end: FrontEnd
    rule: DecisionRule | None = None  # of a bundle; without one the scene of the highest score is decided on
    runner = ""  # what computes the logits
    metadata: dict[str, Any]  # what the model's file says of it: labels, front end, what made it

    @abstractmethod
    def logits(self, pcm: NDArray[np.int16]) -> NDArray[np.float32]:
        """Clips (batch, samples) of the front end's rate and length -> logits (batch, classes)."""

    def hear(self, pcm: NDArray[np.int16]) -> Heard:
        """Clips (batch, samples) -> logits, and likenesses where a decision rule needs them."""
        return Heard(self.logits(pcm), np.zeros(len(pcm), np.int64))

    def __repr__(self) -> str:
        clip = f"{self.front_end.clip_seconds:g} s at {self.front_end.sample_rate:,} Hz"
        return f"<{type(self).__name__}: {len(self.labels)} labels, {clip}>"

    def probabilities(self, pcm: NDArray[np.int16]) -> NDArray[np.float32]:
        """Clips (batch, samples) -> probabilities (batch, classes)."""
        return softmax(self.logits(pcm))

    def classify(self, path: Path | str) -> dict[str, Any]:
        """Classify a recording of any rate, length and channel count.

        Returns: file; scene and scores (label -> mean probability over its clips); seconds, a list of start in
        seconds, scene and scores of each clip; notes on what had to be done to the file; runner, which computed the
        logits. With a decision rule, the scene of a clip is what the rule decides on after it, and that of the file
        what it makes of the means over all clips; either may be UNKNOWN_LABEL, which has no score.
        """
        recording, clip_seconds = self._recording(path), self.front_end.clip_seconds
        batches = [self.hear(batch) for batch in self._batches(recording)]
        heard = Heard(*(np.concatenate(parts) for parts in zip(*batches, strict=True)))
        scores, decide = softmax(heard.logits), self.decider()  # (clip, classes)
        scenes = [decide(*clip) for clip in zip(*heard, strict=True)]
        length = int(clip_seconds) if clip_seconds.is_integer() else clip_seconds
        return {
            "file": str(path),
            "scene": self._scene(heard, scores),
            "scores": self.named(scores.mean(axis=0)),
            "seconds": [
                {"start": index * length, "scene": scene, "scores": self.named(row)}
                for index, (scene, row) in enumerate(zip(scenes, scores, strict=True))
            ],
            "notes": recording.notes,
            "runner": self.runner,
        }

    def embeddings(self, pcm: NDArray[np.int16]) -> NDArray[np.float32]:  # noqa: ARG002
        """Clips (batch, samples), as for `logits` -> what the network's classifier takes, averaged (batch, channels).

        Raises InputError for a model that has none.
        """
        raise InputError(f"{self!r} has no embedding")

    def embed(self, path: Path | str) -> NDArray[np.float32]:
        """The embedding of each clip of a recording, (clip, channels): what the network's classifier takes.

        The values of a bundle are those of its integers, which all runners share. Raises InputError as `classify`.
        """
        return np.concatenate([self.embeddings(batch) for batch in self._batches(self._recording(path))])

    def _recording(self, path: Path | str) -> Recording:
        """A file whose clips are as the front end takes them."""
        return Recording(Path(path), self.front_end.sample_rate, self.front_end.clip_seconds)

    def _batches(self, recording: Recording) -> Iterator[NDArray[np.int16]]:
        """The clips of a recording, (batch, samples)."""
        clips = recording.clips()
        while batch := list(islice(clips, BATCH)):
            yield np.stack(batch)

    def stream(self, sample_rate: int, hop: float | None = None, offsets: BandOffsets | None = None) -> SceneStream:
        """A stream of samples at `sample_rate` Hz, to be decided on every `hop` seconds.

        With a hop of a clip's length, which is the default, the decisions are those of `classify` on the same samples.
        With `offsets`, those of `band_offsets`, the microphone's colour is learned and taken away.
        """
        return SceneStream(self, sample_rate, hop, offsets)

    def band_offsets(self, file: Path | str | None = None) -> BandOffsets:  # noqa: ARG002
        """Offsets of the mel bands, learned while listening: those of a file that their `save` wrote, or none yet.

        Raises InputError for a model that has nothing to learn them from, and for a file that is no state of its.
        """
        raise self._no_offsets()

    def follow(self, windows: OffsetWindows | None = None) -> Follower:
        """What `hear` makes of a stream's clips, one after another; with `windows`, with offsets of the mel bands.

        Raises InputError as `band_offsets`, if offsets are asked for.
        """
        if windows is not None:
            raise self._no_offsets()
        return lambda clip, _: self.hear(clip[None])

    def _no_offsets(self) -> InputError:
        return InputError(f"{self!r} learns no band offsets: only a bundle does; see `tinyscene quantize`")

    def decider(self) -> Callable[[NDArray[np.float32], int], str]:
        """A function of a stream's logits (classes,) and likeness, one decision after another: the scene decided on."""
        return lambda logits, _: self.labels[int(logits.argmax())]

    def named(self, scores: NDArray[np.float32]) -> dict[str, float]:
        """Probabilities (classes,) by label."""
        return {label: float(score) for label, score in zip(self.labels, scores, strict=True)}

    def scores(self, logits: NDArray[np.float32]) -> dict[str, float]:
        """Probabilities by label, of logits (classes,)."""
        return self.named(softmax(logits[None])[0])

    def _scene(self, heard: Heard, scores: NDArray[np.float32]) -> str:  # noqa: ARG002
        """The scene of a recording by what was heard in its clips, and their probabilities (clip, classes)."""
        return self.labels[int(scores.mean(axis=0).argmax())]


class BundleClassifier(SceneClassifier):
    """A bundle, run by the runner of that name (`deploy/bundle/runners.py`)."""

    def __init__(self, bundle: Bundle, runner: str) -> None:
        self.labels, self.front_end, self.metadata = bundle.labels, bundle.front_end, bundle.content
        self.bundle, self.runner, self.rule = bundle, runner, bundle.rule
        scene_runner = scene_runners().get(runner)
        if scene_runner:  # it has a front end of its own
            self._run = scene_runner(bundle)
            self._network = getattr(self._run, "of_features", None)
        else:
            network = make_runner(runner, bundle)
            self._network = None if runner == DEFINITION else network  # none: the reference
            self._run = lambda pcm: network(bundle.features(pcm))

    def logits(self, pcm: NDArray[np.int16]) -> NDArray[np.float32]:
        return self.bundle.graph.output.q.dequantize(self._run(pcm))

    def embeddings(self, pcm: NDArray[np.int16]) -> NDArray[np.float32]:
        return embed(self.bundle.graph, self.bundle.features(pcm))

    def hear(self, pcm: NDArray[np.int16]) -> Heard:
        if self.rule is None or self.rule.unknown is None:
            return super().hear(pcm)
        logits, sums = self._run_with_sums(pcm)
        return Heard(self.bundle.graph.output.q.dequantize(logits), self.rule.unknown.of(sums))

    def band_offsets(self, file: Path | str | None = None) -> BandOffsets:
        offsets = BandOffsets(self.bundle.bands)
        if file is not None and Path(file).exists():
            offsets.load(file)
        return offsets

    def follow(self, windows: OffsetWindows | None = None) -> Follower:
        if windows is None and self.runner in scene_runners():
            return super().follow()
        sums = windows is not None and self.rule is not None and self.rule.unknown is not None
        return BundleFollower(self.bundle, None if sums else self._network, windows)

    def decider(self) -> Callable[[NDArray[np.float32], int], str]:
        if self.rule is None:
            return super().decider()
        decider, q = Decider(self.rule, len(self.labels)), self.bundle.graph.output.q
        return lambda logits, likeness: self._label(decider.push(q.quantize(logits), int(likeness)))

    def _scene(self, heard: Heard, scores: NDArray[np.float32]) -> str:
        if self.rule is None:
            return super()._scene(heard, scores)
        integers = self.bundle.graph.output.q.quantize(heard.logits).astype(np.int64)  # (clip, classes)
        return self._label(self.rule.choose(integers.sum(axis=0), int(heard.likeness.sum()), len(integers)))

    def _label(self, index: int) -> str:
        return self.labels[index] if index < len(self.labels) else UNKNOWN_LABEL

    def _run_with_sums(self, pcm: NDArray[np.int16]) -> tuple[NDArray[np.int8], NDArray[np.int32]]:
        """Logits of the runner, and the sums of the embedding: its own, or those of the reference, which are equal."""
        own = getattr(self._run, "with_sums", None)
        if own is not None:
            return own(pcm)
        logits, sums = run_with_sums(self.bundle.graph, self.bundle.features(pcm))
        return (logits if self.runner == DEFINITION else self._run(pcm)), sums

    def require_golden_logits(self) -> None:
        """Raise InputError unless the runner gives the logits of the bundle's golden sounds."""
        vectors = self.bundle.vectors
        if not np.array_equal(self._run(vectors.pcm), vectors.logits):
            raise InputError(f"runner {self.runner} does not give the golden logits of {self.bundle.folder}")


def open_classifier(bundle: Bundle, runner: str | None = None) -> BundleClassifier:
    """A bundle, run by the runner of that name; by default by PREFERRED where it can be, otherwise by DEFINITION.

    PREFERRED is silently left out where there is no compiler for it; other reasons get a line on stderr.
    """
    if runner is not None:
        return BundleClassifier(bundle, runner)
    if PREFERRED in scene_runners():
        try:
            native = BundleClassifier(bundle, PREFERRED)
            native.require_golden_logits()
            return native
        except MissingPackageError:
            pass
        except (InputError, OSError) as error:
            messages.print(f"runner {PREFERRED} cannot be used, {DEFINITION} is: {error}", soft_wrap=True)
    return BundleClassifier(bundle, DEFINITION)


class OnnxClassifier(SceneClassifier):
    """A float ONNX model with labels and front end in its metadata, run by ONNX Runtime on the CPU.

    Raises InputError for a file that is no such model or that ONNX Runtime cannot run.
    """

    def __init__(self, model: Path) -> None:
        try:
            import onnxruntime
        except ImportError:
            raise missing("onnxruntime", "onnx") from None
        self._model, self.runner = model, "onnxruntime"
        if not model.is_file():
            raise InputError(f"{model}: no such model file")
        if model.stat().st_size > MAX_ONNX:
            raise InputError(f"{model}: larger than {MAX_ONNX >> 20} MB")
        with _named(model, "not a model that ONNX Runtime can run"):
            self._session = onnx_session(onnxruntime, model.read_bytes())
            self.metadata = _read_metadata(self._session.get_modelmeta().custom_metadata_map, model)
            self.labels, self.front_end = tuple(self.metadata["labels"]), FrontEnd(**self.metadata["front_end"])
            self._input = self._session.get_inputs()[0].name if self._session.get_inputs() else ""
            self._check_shapes(model)
        self._embedder: Callable[[NDArray[np.float32]], NDArray[np.float32]] | None = None
        self.logits(np.zeros((1, self.front_end.clip_samples), np.int16))

    def logits(self, pcm: NDArray[np.int16]) -> NDArray[np.float32]:
        features = self.front_end.log_mel(float_pcm(pcm))[:, None]  # (batch, 1, mel, frame)
        with _named(self._model, "ONNX Runtime loads it but cannot run it"):
            logits = np.asarray(self._session.run(None, {self._input: features})[0])
        if logits.shape != (len(pcm), len(self.labels)) or not np.isfinite(logits).all():
            raise InputError(f"{self._model}: gives NaN, infinite values or another number of logits")
        return logits

    def embeddings(self, pcm: NDArray[np.int16]) -> NDArray[np.float32]:
        if self._embedder is None:
            self._embedder = onnx_embedder(self._model)
        features = self.front_end.log_mel(float_pcm(pcm))[:, None]  # (batch, 1, mel, frame)
        with _named(self._model, "ONNX Runtime loads it but cannot run it"):
            return self._embedder(features)

    def _check_shapes(self, model: Path) -> None:
        """Raise InputError unless the model takes batches of the front end's features and gives a logit a label."""
        inputs, outputs, shape = self._session.get_inputs(), self._session.get_outputs(), self.front_end.shape
        if len(inputs) != 1 or inputs[0].type != "tensor(float)" or inputs[0].shape[1:] != [1, *shape]:
            raise InputError(f"{model}: its input does not fit its front end, float 1 x {shape}")
        if isinstance(inputs[0].shape[0], int):
            raise InputError(f"{model}: takes batches of {inputs[0].shape[0]} only; export it with a free batch size")
        if len(outputs) != 1 or outputs[0].type != "tensor(float)" or outputs[0].shape[1:] != [len(self.labels)]:
            raise InputError(f"{model}: its output does not fit its {len(self.labels)} labels")


@contextlib.contextmanager
def _named(model: Path, fault: str) -> Iterator[None]:
    """Turn whatever ONNX Runtime raises into one line: its exceptions share no base, and its texts may be no UTF-8."""
    try:
        yield
    except InputError:
        raise
    except Exception as error:
        raise InputError(f"{model}: {fault} ({' '.join(str(error).split())[:200]})") from None


def _read_metadata(stored: dict[str, str], model: Path) -> dict[str, Any]:
    """The labels, front end and provenance that an export carries."""
    try:
        metadata = json.loads(stored[METADATA_KEY])
        read_labels(metadata["labels"])
        FrontEnd(**metadata["front_end"])
        return metadata
    except (KeyError, TypeError, ValueError, RecursionError) as error:
        raise InputError(
            f"{model}: carries no labels and front end of tinyscene ({error}); export it with `tinyscene export`"
        ) from None

"""Scene classifiers over the runtimes that are installed. Needs numpy, soundfile and a runtime; no torch.

scene = SceneClassifier(Path("model.onnx"))
scene.classify(Path("some.wav"))
"""

import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deploy.audio import Recording
from deploy.errors import InputError
from deploy.frontend import PCM_SCALE, FrontEnd

CARD_KEY = "tinyscene"  # of the model's metadata
BATCH = 16  # seconds of a recording classified at once


class SceneClassifier:
    """A float ONNX model with its front end and labels, run by ONNX Runtime on the CPU."""

    def __init__(self, model: Path) -> None:
        try:
            import onnxruntime
        except ImportError:
            raise InputError("onnxruntime is not installed: pip install 'tinyscene[onnx]'") from None
        if not model.is_file():
            raise InputError(f"{model}: no such model file")
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 4  # what goes wrong is raised; it need not be printed too
        try:
            self._session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        except Exception as error:  # ONNX Runtime's exceptions share no other base
            reason = " ".join(str(error).split())[:200]
            raise InputError(f"{model}: not a model that ONNX Runtime can run ({reason})") from None
        self.card = _read_card(self._session.get_modelmeta().custom_metadata_map, model)
        self.labels: tuple[str, ...] = tuple(self.card["labels"])
        self.front_end = FrontEnd(**self.card["front_end"])
        inputs, outputs = self._session.get_inputs(), self._session.get_outputs()
        if len(inputs) != 1 or inputs[0].type != "tensor(float)" or inputs[0].shape[1:] != [1, *self.front_end.shape]:
            raise InputError(f"{model}: its input does not fit its front end, float 1 x {self.front_end.shape}")
        if isinstance(inputs[0].shape[0], int):
            raise InputError(f"{model}: takes batches of {inputs[0].shape[0]} only; export it with a free batch size")
        if len(outputs) != 1 or outputs[0].shape[1:] != [len(self.labels)]:
            raise InputError(f"{model}: its output does not fit its {len(self.labels)} labels")

    def logits(self, pcm: NDArray[np.int16]) -> NDArray[np.float32]:
        """One-second clips (batch, samples) at the front end's rate -> logits (batch, classes)."""
        features = self.front_end.log_mel(pcm / PCM_SCALE)[:, None]  # (batch, 1, mel, frame)
        return np.asarray(self._session.run(None, {self._session.get_inputs()[0].name: features})[0])

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
            **self._decision(scores.mean(axis=0)),
            "seconds": [{"start": start, **self._decision(each)} for start, each in enumerate(scores)],
            "notes": recording.notes,
        }

    def _decision(self, scores: NDArray[np.float32]) -> dict[str, Any]:
        named = {label: float(score) for label, score in zip(self.labels, scores, strict=True)}
        return {"scene": max(named, key=named.__getitem__), "scores": named}


def _read_card(metadata: dict[str, str], model: Path) -> dict[str, Any]:
    """Labels, front end and provenance that an export carries."""
    try:
        card = json.loads(metadata[CARD_KEY])
        labels = card["labels"]
        if not (isinstance(labels, list) and labels and all(isinstance(label, str) for label in labels)):
            raise ValueError("labels must be a list of names")
        if len(set(labels)) < len(labels):
            raise ValueError("a label stands twice")
        FrontEnd(**card["front_end"])
        return card
    except (KeyError, TypeError, ValueError, RecursionError) as error:
        raise InputError(
            f"{model}: carries no labels and front end of tinyscene ({error}); export it with `tinyscene export`"
        ) from None

"""Evaluation of a model on a test list, and the record of it."""

import os
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tinyscene.deploy.common.errors import InputError
from tinyscene.deploy.common.installation import require
from tinyscene.deploy.frontend.log_mel import FrontEnd
from tinyscene.interface.datasets import AnyDataset, open_data
from tinyscene.interface.html import confusion_table, facts_table, scores_table
from tinyscene.interface.names import find_model, is_kept_unchanged

require("torch", "train")  # so that what is missing is named with the remedy

from tinyscene.train.data.cache import Clips  # noqa: E402
from tinyscene.train.data.cache_index import CachedRecording  # noqa: E402
from tinyscene.train.runs.evaluate import (  # noqa: E402
    Evaluation,
    count_left_out,
    open_evaluated_model,
    score_answers,
    score_recordings,
)
from tinyscene.train.runs.evaluate import record as write_record  # noqa: E402
from tinyscene.train.runs.strangers import KeptClips, kept_share, refused_share  # noqa: E402


@dataclass(frozen=True)
class Answers:
    """What a model said of each recording."""

    recordings: list[CachedRecording]
    probabilities: NDArray[np.float64]  # (recording, class), means over its clips
    clips: Clips
    front_end: FrontEnd


@dataclass(frozen=True)
class ModelEvaluation(Evaluation):
    """How right a model is on the recordings of a test list, and what was evaluated on what."""

    model: str
    data_hash: str
    split: str
    runner: str  # what computed the logits
    left_out: int  # recordings of the list that could not be used and are not counted
    unknown: dict[str, Any] | None  # shares that a bundle's decision rule keeps and, of strangers, refuses
    answers: Answers = field(repr=False, compare=False)

    def as_dict(self) -> dict[str, Any]:
        """The evaluation as plain data, as `tinyscene evaluate --json` prints it."""
        return asdict(self._scores()) | self._about()

    def _repr_html_(self) -> str:
        summary = [
            ("data", f"split {self.split}, {self.clips:,} recordings"),
            *([("left out", f"{self.left_out:,} recordings that could not be used")] if self.left_out else []),
            ("run by", self.runner),
            ("macro-average accuracy", f"{self.macro_accuracy:.2%}"),
            ("accuracy", f"{self.accuracy:.2%} ({self.correct:,} correct)"),
            ("log loss", f"{self.log_loss:.3f}"),
        ]
        parts = {"class": self.by_class, "device": self.by_device, "group": self.by_device_group}
        scores = [(part, name, score) for part, named in parts.items() for name, score in named.items()]
        tables = (
            facts_table(f"Evaluation of {self.model}", summary),
            scores_table(scores),
            confusion_table(self.labels, self.confusion),
        )
        return "\n".join(tables)

    def record(self) -> Path:
        """Write it as JSON and PNG into the run, into the bundle, or beside the file. Returns the path without suffix.

        The index and the card of a bundle take up its figures.
        """
        return write_record(Path(self.model), self._scores(), self._about())

    def listen(self, page: "str | os.PathLike[str]") -> int:
        """Write the most confident mistakes as an HTML page: sound, log-mel, truth, answer. Returns their number."""
        from tinyscene.benchmarks.report.mistakes import confident_mistakes, write_mistakes

        answers = self.answers
        mistakes = confident_mistakes(answers.recordings, answers.probabilities, self.labels)
        about = self._about() | {"clips": self.clips}
        return write_mistakes(Path(page), mistakes, answers.clips, answers.front_end, about)

    def _scores(self) -> Evaluation:
        return Evaluation(**{each.name: getattr(self, each.name) for each in fields(Evaluation)})

    def _about(self) -> dict[str, Any]:
        about = {name: getattr(self, name) for name in ("model", "data_hash", "split", "runner", "left_out")}
        return about | ({} if self.unknown is None else {"unknown": self.unknown})


def evaluate(
    model: "str | os.PathLike[str]",
    data: AnyDataset,
    split: str | None = None,
    runner: str | None = None,
    record: bool = True,
    strangers: "str | os.PathLike[str] | None" = None,
) -> ModelEvaluation:
    """Evaluate a model on a test list: by class, recording device and device group, with a confusion matrix.

    Args:
        model: a bundle, the name of a packaged model, a run, or an exported .onnx file.
        data: folder of a dataset, or DatasetOptions.
        split: split whose test list is used; by default that of the training.
        runner: runtime for a bundle; by default native where a C compiler is installed, otherwise reference.
        record: write the result into the run or bundle, as the command does; a packaged model is not changed.
        strangers: folder of recordings of none of the classes, for the share of them that the decision rule refuses.

    Raises InputError if the model or the data cannot be used, or if their labels differ.
    """
    path = find_model(model)
    evaluated = open_evaluated_model(path, runner)
    dataset, clips = open_data(data, evaluated.front_end)
    clips.require_labels(evaluated.labels, path)
    name = split or evaluated.split or dataset.default_split
    test, groups = dataset.split(name)[1], dataset.device_groups(name)
    if strangers is not None and not evaluated.kept:
        raise InputError(f"--strangers: {path} refuses none; make a bundle of it with `tinyscene quantize --keep 0.95`")
    recordings, probabilities = score_recordings(evaluated.predict, clips, test, evaluated.variants)
    scores = score_answers(recordings, probabilities, clips.labels, groups)
    evaluation = ModelEvaluation(
        **vars(scores),
        model=str(path),
        data_hash=clips.data_hash,
        split=name,
        runner=evaluated.runner,
        left_out=count_left_out(scores, name, test),
        unknown=_unknown(evaluated.kept, clips, strangers),
        answers=Answers(recordings, probabilities, clips, evaluated.front_end),
    )
    if record and not is_kept_unchanged(path):
        evaluation.record()
    return evaluation


def _unknown(kept: list[KeptClips], clips: Clips, strangers: "str | os.PathLike[str] | None") -> dict[str, Any] | None:
    if not kept:
        return None
    shares = kept_share(kept)
    return shares | ({} if strangers is None else refused_share(kept[0].scene, Path(strangers), clips))

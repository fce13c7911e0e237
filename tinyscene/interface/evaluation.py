"""Evaluation of a model on a test list, and the record of it."""

import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tinyscene.deploy.common.installation import require
from tinyscene.interface.datasets import AnyDataset, open_data

require("torch", "train")  # so that what is missing is named with the remedy

from tinyscene.train.runs.evaluate import Evaluation, open_evaluated_model  # noqa: E402
from tinyscene.train.runs.evaluate import evaluate as run_evaluation  # noqa: E402
from tinyscene.train.runs.evaluate import record as write_record  # noqa: E402


@dataclass(frozen=True)
class ModelEvaluation(Evaluation):
    """How right a model is on the recordings of a test list, and what was evaluated on what."""

    model: str
    data_hash: str
    split: str
    runner: str  # what computed the logits

    def as_dict(self) -> dict[str, Any]:
        """The evaluation as plain data, as `tinyscene evaluate --json` prints it."""
        return asdict(self)

    def record(self) -> Path:
        """Write it as JSON and PNG into the run, into the bundle, or beside the file. Returns the path without suffix.

        The index and the card of a bundle take up its figures.
        """
        about = {key: getattr(self, key) for key in ModelEvaluation.__annotations__}
        return write_record(Path(self.model), self, about)


def evaluate(
    model: "str | os.PathLike[str]",
    data: AnyDataset,
    split: str | None = None,
    runner: str | None = None,
    record: bool = True,
) -> ModelEvaluation:
    """Evaluate a model on a test list: by class, recording device and device group, with a confusion matrix.

    Args:
        model: a bundle, a run, or an exported .onnx file.
        data: folder of a dataset, or DatasetOptions.
        split: split whose test list is used; by default that of the training.
        runner: runtime for a bundle; by default native where a C compiler is installed, otherwise reference.
        record: write the result into the run or bundle, as the command does.

    Raises InputError if the model or the data cannot be used, or if their labels differ.
    """
    path = Path(model)
    evaluated = open_evaluated_model(path, runner)
    dataset, clips = open_data(data, evaluated.front_end)
    clips.require_labels(evaluated.labels, path)
    name = split or evaluated.split or dataset.default_split
    test, groups = dataset.split(name)[1], dataset.device_groups(name)
    result = run_evaluation(evaluated.predict, clips, test, evaluated.variants, groups)
    evaluation = ModelEvaluation(
        **vars(result), model=str(path), data_hash=clips.data_hash, split=name, runner=evaluated.runner
    )
    if record:
        evaluation.record()
    return evaluation

"""A run: the folder that training wrote."""

import os
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tinyscene.deploy.common.installation import require
from tinyscene.interface.datasets import AnyDataset, open_data
from tinyscene.interface.settings import Settings, overrides_of

if TYPE_CHECKING:
    from tinyscene.interface.bundle import Bundle
    from tinyscene.interface.evaluation import ModelEvaluation
    from tinyscene.train.fine_tuning.adapt import Adapted
    from tinyscene.train.recipe import Recipe
    from tinyscene.train.runs.count import Count
    from tinyscene.train.runs.run import Card


class Run:
    """A finished run: a trained network in float, with its recipe and what made it.

    It can be given wherever the path of a run is taken. Raises InputError if the folder holds no finished run.
    """

    def __init__(self, folder: "str | os.PathLike[str]") -> None:
        require("torch", "train")
        from tinyscene.train.runs.run import model_path

        self.folder = Path(folder)
        self.model = model_path(self.folder)  # the file of the weights

    def __fspath__(self) -> str:
        return str(self.folder)

    def __repr__(self) -> str:
        return f"<Run {self.folder}: recipe {self.card.recipe['name']}, {len(self.labels)} labels>"

    @cached_property
    def card(self) -> "Card":
        """The recipe, the labels, the split and the hash of the data, and what made the run."""
        from tinyscene.train.runs.run import load_model

        return load_model(self.folder)[1]

    @property
    def recipe(self) -> "Recipe":
        """The recipe, with all of its keys."""
        return self.card.parsed_recipe

    @property
    def labels(self) -> tuple[str, ...]:
        """The classes, in the order of the logits."""
        return self.card.labels

    @property
    def metrics(self) -> list[dict[str, Any]]:
        """What was measured after each epoch: loss, accuracy on the training clips, seconds. Empty if imported."""
        from tinyscene.train.runs.run import read_metrics

        return read_metrics(self.folder)

    def budget(self) -> "Count":
        """Parameters, bytes, and MACs for one clip, layer by layer."""
        from tinyscene.train.runs.budget import count_target

        return count_target(str(self.folder), None, None)[0]

    def evaluate(self, data: AnyDataset, split: str | None = None) -> "ModelEvaluation":
        """As `tinyscene.evaluate`."""
        from tinyscene.interface.evaluation import evaluate

        return evaluate(self, data, split)

    def quantize(self, data: AnyDataset, out: "str | os.PathLike[str] | None" = None, **options: Any) -> "Bundle":
        """As `tinyscene.quantize`."""
        from tinyscene.interface.quantization import quantize

        return quantize(self, data, out, **options)

    def prune(self, data: AnyDataset, out: "str | os.PathLike[str]", **options: Any) -> "Run":
        """As `tinyscene.prune`."""
        from tinyscene.interface.training import prune

        return prune(self, data, out, **options)

    def adapt(
        self,
        data: AnyDataset,
        out: "str | os.PathLike[str]",
        split: str | None = None,
        settings: Settings = None,
        resume: bool = False,
    ) -> "Adapted":
        """Fine-tune the run for each recording device. The new run in the folder `out` has a network for each.

        Raises InputError where no device has enough training clips, or `out` is taken or holds nothing to resume.
        """
        from tinyscene.train.fine_tuning.adapt import adapt

        dataset, clips = open_data(data, self.recipe.features)
        return adapt(self.folder, dataset, clips, Path(out), split, overrides_of(settings), resume)

    def export(
        self,
        kind: str = "onnx",
        out: "str | os.PathLike[str] | None" = None,
        allow_over_budget: bool = False,
        batch: int | None = None,
    ) -> Path:
        """Write the float network as ONNX, into the run or to the file `out`. `batch` fixes the number of clips.

        Raises InputError for another kind: those are of a bundle. Raises OverBudgetError unless that is allowed.
        """
        from tinyscene.deploy.common.errors import InputError
        from tinyscene.train.export import export_onnx

        if kind != "onnx":
            raise InputError(f"--to {kind}: a run is exported to onnx; `tinyscene quantize` makes a bundle of it")
        return export_onnx(self.folder, None if out is None else Path(out), allow_over_budget, batch)

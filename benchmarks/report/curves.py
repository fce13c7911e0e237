"""The training curves of a sweep: the loss of its runs after each epoch."""

import statistics
from itertools import zip_longest
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from tinyscene.deploy.common.errors import InputError
from tinyscene.deploy.common.files import read_bounded
from tinyscene.train.runs.run import MAX_METRICS, METRICS

Curves = dict[str, list[float]]  # by run, its mean training loss after each epoch, over splits and seeds


class _Epoch(BaseModel):
    """A line of a run's metrics; what else it holds is not read."""

    model_config = ConfigDict(strict=True, allow_inf_nan=False)

    loss: Annotated[float, Field(ge=0)]


def read_curves(sweep: Path) -> Curves:
    """The curves of the runs in the folder of a sweep. Raises InputError for metrics that are none."""
    losses: dict[str, list[list[float]]] = {}
    for path in sorted(sweep.glob(f"runs/*/{METRICS}")):
        run = path.parent.name.partition("-")[0]  # of RUN-SPLIT-SEED; no name of a run has a hyphen
        losses.setdefault(run, []).append(_losses(path))
    return {run: _means(members) for run, members in losses.items() if any(len(member) > 1 for member in members)}


def _losses(path: Path) -> list[float]:
    try:
        lines = read_bounded(path, MAX_METRICS).splitlines()
        return [_Epoch.model_validate_json(line).loss for line in lines]
    except (ValidationError, ValueError):
        raise InputError(f"{path}: not the metrics of a training; run the sweep again") from None


def _means(losses: list[list[float]]) -> list[float]:
    """The mean of several curves, after each epoch of those that got there."""
    epochs = zip_longest(*losses)
    return [statistics.fmean(loss for loss in epoch if loss is not None) for epoch in epochs]

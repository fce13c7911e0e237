"""Quantization of a run."""

import contextlib
import os
from pathlib import Path

from tinyscene.deploy.common.files import require_free, temporary_folder
from tinyscene.deploy.common.installation import require
from tinyscene.interface.bundle import Bundle
from tinyscene.interface.datasets import AnyDataset, open_data
from tinyscene.interface.run import Run
from tinyscene.interface.settings import Settings, overrides_of


def quantize(
    run: "str | os.PathLike[str]",
    data: AnyDataset,
    out: "str | os.PathLike[str] | None" = None,
    qat: bool = False,
    split: str | None = None,
    settings: Settings = None,
    resume: bool = False,
    allow_over_budget: bool = False,
) -> Bundle:
    """Quantize a run to integers, with or without fine-tuning.

    Args:
        run: a finished run.
        data: folder of a dataset, or DatasetOptions, for calibration and fine-tuning.
        out: folder of the bundle. Without one it is kept until the last reference to it is gone; `save` copies it.
        qat: fine-tune with fake quantization after calibration.
        split: split whose training list is used; by default that of the training.
        settings: changed keys of the recipe's section `quantize`.
        resume: continue interrupted fine-tuning.
        allow_over_budget: accept a network over the recipe's limits.

    Raises:
        InputError: the run, the settings or the data cannot be used, or `out` is taken.
        OverBudgetError: the network is over its limits and that is not allowed.
        InterruptedRunError: Ctrl-C while fine-tuning; it can be resumed.
    """
    require("torch", "train")
    from tinyscene.train.quantize.quantize import quantize as run_quantization

    if out is not None and not resume:
        require_free(Path(out))
    start = Run(run)
    dataset, clips = open_data(data, start.recipe.features)
    with contextlib.ExitStack() as held:
        folder = Path(out) if out is not None else held.enter_context(temporary_folder()) / start.folder.resolve().name
        overrides = overrides_of(settings)
        run_quantization(start.folder, dataset, clips, folder, qat, split, overrides, resume, allow_over_budget)
        return Bundle(folder) if out is not None else Bundle.temporary(folder, held.pop_all())

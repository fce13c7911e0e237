"""Quantization of a run, or of a network that is given as it is."""

import contextlib
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, overload

from tinyscene.deploy.common.errors import InputError
from tinyscene.deploy.common.files import read_bounded, require_free, temporary_folder
from tinyscene.deploy.common.installation import require
from tinyscene.deploy.frontend.log_mel import FrontEnd
from tinyscene.interface.bundle import Bundle
from tinyscene.interface.datasets import AnyDataset, open_data
from tinyscene.interface.run import Run
from tinyscene.interface.settings import Settings, overrides_of

if TYPE_CHECKING:
    from torch import nn

    from tinyscene.train.quantize.own_network import Calibration

LONGEST_ATTRIBUTION = 64 * 1024  # bytes; a dataset of 400 recordings by many people has 30 kB


@overload
def quantize(
    run: "str | os.PathLike[str]",
    data: AnyDataset,
    out: "str | os.PathLike[str] | None" = None,
    qat: bool = False,
    split: str | None = None,
    settings: Settings = None,
    resume: bool = False,
    allow_over_budget: bool = False,
    attribution: "str | os.PathLike[str] | None" = None,
    keep: float | None = None,
    average: int | None = None,
    margin: int | None = None,
    patience: int | None = None,
) -> Bundle: ...


@overload
def quantize(
    run: "nn.Module",
    *,
    calibration: "Calibration",
    labels: Sequence[str],
    front_end: FrontEnd,
    out: "str | os.PathLike[str] | None" = None,
    settings: Settings = None,
) -> Bundle: ...


def quantize(
    run: "str | os.PathLike[str] | nn.Module",
    data: AnyDataset | None = None,
    out: "str | os.PathLike[str] | None" = None,
    qat: bool = False,
    split: str | None = None,
    settings: Settings = None,
    resume: bool = False,
    allow_over_budget: bool = False,
    attribution: "str | os.PathLike[str] | None" = None,
    keep: float | None = None,
    average: int | None = None,
    margin: int | None = None,
    patience: int | None = None,
    calibration: "Calibration | None" = None,
    labels: Sequence[str] | None = None,
    front_end: FrontEnd | None = None,
) -> Bundle:
    """Quantize a run to integers, with or without fine-tuning, or a network that is given as it is.

    Args:
        run: a finished run, or a torch.nn.Module of supported layers: log-mel (batch, 1, mel, frame) -> logits (batch,
            classes). A network takes `calibration`, `labels` and `front_end`, and of the others `out` and `settings`.
        data: folder of a dataset, or DatasetOptions, for calibration and fine-tuning.
        out: folder of the bundle. Without one it is kept until the last reference to it is gone; `save` copies it.
        qat: fine-tune with fake quantization after calibration.
        split: split whose training list is used; by default that of the training.
        settings: changed keys of the recipe's section `quantize`.
        resume: continue interrupted fine-tuning.
        allow_over_budget: accept a network over the recipe's limits.
        attribution: text file that says who made the recordings and under which terms; its lines become part of the
            model card.
        keep: share of the calibration clips that the decision rule is to keep; what is less like the known classes is
            "none of these". Without it there is no such answer.
        average: decisions whose mean logits are decided by.
        margin: steps of the logits by which another scene must lead to take the place of the one decided on.
        patience: decisions in a row in which another scene led, after which it takes that place in any case.
        calibration: sound for a network at its sample rate, int16 or float in -1 to 1: clips (clips, samples), or
            recordings (samples,), which are cut into clips.
        labels: the names of a network's classes, in the order of its logits.
        front_end: the log-mel that a network takes.

    Raises:
        InputError: the run, the settings or the data cannot be used, or `out` is taken.
        OverBudgetError: the network is over its limits and that is not allowed.
        InterruptedRunError: Ctrl-C while fine-tuning; it can be resumed.
    """
    require("torch", "train")
    from tinyscene.train.quantize.decide import RuleSettings
    from tinyscene.train.quantize.quantize import quantize as run_quantization

    rule = RuleSettings(keep, average, margin, patience)
    if not isinstance(run, str | os.PathLike):
        if data is not None or qat or split or resume or attribution is not None or rule.asked:
            raise InputError("quantize: a network takes calibration, labels, front_end, out and settings alone")
        return _quantize_network(run, calibration, labels, front_end, out, settings)
    if data is None or not (calibration is None and labels is None and front_end is None):
        raise InputError("quantize: a run takes data; calibration, labels and front_end are for a network")
    if out is not None and not resume:
        require_free(Path(out))
    start = Run(run)
    lines = () if attribution is None else read_attribution(Path(attribution))
    dataset, clips = open_data(data, start.recipe.features)
    with contextlib.ExitStack() as held:
        folder = Path(out) if out is not None else held.enter_context(temporary_folder()) / start.folder.resolve().name
        overrides = overrides_of(settings)
        source = (start.folder, dataset, clips, folder)
        run_quantization(*source, qat, split, overrides, resume, allow_over_budget, rule, lines)
        return Bundle(folder) if out is not None else Bundle._temporary(folder, held.pop_all())


def _quantize_network(
    network: "nn.Module",
    calibration: "Calibration | None",
    labels: Sequence[str] | None,
    front_end: FrontEnd | None,
    out: "str | os.PathLike[str] | None",
    settings: Settings,
) -> Bundle:
    from tinyscene.train.quantize.own_network import quantize_network
    from tinyscene.train.recipe import Recipe, override

    if calibration is None or labels is None or front_end is None:
        raise InputError("quantize: a network needs calibration, labels and front_end")
    recipe = override(Recipe(name="network"), overrides_of(settings), "quantize")
    with contextlib.ExitStack() as held:
        folder = Path(out) if out is not None else held.enter_context(temporary_folder()) / type(network).__name__
        quantize_network(network, calibration, labels, front_end, folder, recipe.quantize, recipe.seed)
        return Bundle(folder) if out is not None else Bundle._temporary(folder, held.pop_all())


def read_attribution(path: Path) -> list[str]:
    """The lines of a text that says who made the recordings, without empty ones. Raises InputError."""
    try:
        content = read_bounded(path, LONGEST_ATTRIBUTION)
        lines = [line.strip() for line in content.decode("utf-8").splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "not UTF-8"
        raise InputError(f"--attribution {path}: cannot be read as text ({reason})") from None
    if not lines:
        raise InputError(f"--attribution {path}: has to hold text")
    return lines

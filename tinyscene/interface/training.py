"""The stages that train: train, teach, logits, prune, sweep and import."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Union

from tinyscene.deploy.common.errors import InputError
from tinyscene.deploy.common.installation import require
from tinyscene.deploy.common.terminal import notice
from tinyscene.deploy.frontend.log_mel import FrontEnd
from tinyscene.interface.datasets import AnyDataset, DatasetOptions, open_data, options_of
from tinyscene.interface.names import find_model
from tinyscene.interface.paths import AnyPaths, Names, names_of, paths_of
from tinyscene.interface.run import Run
from tinyscene.interface.settings import Settings, overrides_of

if TYPE_CHECKING:
    from tinyscene.train.recipe_list import RecipeSummary
    from tinyscene.train.runs.count import Count
    from tinyscene.train.sweep.cost import SweepCost
    from tinyscene.train.sweep.status import SweepStatus
    from tinyscene.train.teachers.logits import Logits
    from tinyscene.train.training_settings import Budget

NamedDataset = Union[str, "os.PathLike[str]", DatasetOptions]


def recipes() -> "list[RecipeSummary]":
    """The recipes: name, purpose, parameters, and MACs for one clip."""
    require("torch", "train")
    from tinyscene.train.recipe_list import list_recipes

    return list_recipes()


def train(
    recipe: str,
    data: AnyDataset,
    split: str | None = None,
    out: "str | os.PathLike[str] | None" = None,
    settings: Settings = None,
    weights: "str | os.PathLike[str] | None" = None,
    resume: bool = False,
    allow_over_budget: bool = False,
) -> Run:
    """Train a recipe on a split of a dataset.

    Args:
        recipe: name of a recipe, or path of a YAML file.
        data: folder of a dataset, or DatasetOptions.
        split: name of a training split; by default the whole training list, or the first fold.
        out: folder of the run; by default runs/RECIPE-SPLIT.
        settings: changed keys of the recipe, such as {"train.epochs": 5}.
        weights: weights to start from: a run, a file, or `published`.
        resume: continue an interrupted run.
        allow_over_budget: accept a network over the recipe's limits on bytes and MACs.

    Raises:
        InputError: the recipe, the data or the folder cannot be used.
        OverBudgetError: the network is over its limits and that is not allowed.
        InterruptedRunError: Ctrl-C; the run can be resumed.
    """
    require("torch", "train")
    from tinyscene.train.data.training_data import TrainingData
    from tinyscene.train.loop.loop import train as run_training
    from tinyscene.train.recipe import load_recipe
    from tinyscene.train.runs.run import RunFolder
    from tinyscene.train.runs.transfer import find_weights

    parsed_recipe = load_recipe(str(recipe), overrides_of(settings))
    parsed_recipe.distill.require(parsed_recipe.name)
    if out is None:  # a name that cannot be used is refused before anything is prepared
        _default_folder(parsed_recipe.name, split or "")
    dataset, clips = open_data(data, parsed_recipe.features)
    name = split or dataset.default_split
    folder = _default_folder(parsed_recipe.name, name) if out is None else Path(out)
    start = find_weights(str(weights), parsed_recipe.model) if weights else None
    if parsed_recipe.augment.dir_p and not parsed_recipe.augment.dir_folder:
        notice("no augment.dir_folder is named: training without impulse responses of microphones")
    training_data = TrainingData(dataset, clips, name)
    run_training(parsed_recipe, training_data, RunFolder(folder, resume), start, allow_over_budget)
    return Run(folder)


def _default_folder(recipe: str, split: str) -> Path:
    """Where a run goes that names no folder. Raises InputError where the names would lead out of it."""
    name = f"{recipe}-{split}"
    if not name.isprintable() or any(letter in name for letter in "/\\:") or name.startswith("."):
        raise InputError(f"the recipe's name and the split, {name!r}, are no name of a folder: name one with --out")
    return Path("runs") / name


def probe(
    recipe: str,
    data: AnyDataset,
    out: "str | os.PathLike[str]",
    split: str | None = None,
    settings: Settings = None,
    weights: "str | os.PathLike[str] | None" = None,
) -> Run:
    """Fit a linear classifier on the embedding of a pretrained teacher (efficientat), in a new run."""
    require("torch", "train")
    from tinyscene.train.data.training_data import TrainingData
    from tinyscene.train.recipe import load_recipe
    from tinyscene.train.runs.transfer import find_weights
    from tinyscene.train.teachers.probe import probe as fit_probe

    parsed_recipe = load_recipe(str(recipe), overrides_of(settings))
    start = find_weights(str(weights), parsed_recipe.model) if weights else None
    dataset, clips = open_data(data, parsed_recipe.features)
    fit_probe(parsed_recipe, TrainingData(dataset, clips, split or dataset.default_split), Path(out), start)
    return Run(out)


def logits(
    teachers: AnyPaths,
    data: AnyDataset,
    out: "str | os.PathLike[str]",
    split: str | None = None,
    average: str = "mean",
    responses: "str | os.PathLike[str] | None" = None,
) -> "Logits":
    """Compute the logits of teachers on a split's training clips, and write their average to the file `out`.

    Args:
        teachers: runs, and files of logits from elsewhere.
        data: folder of a dataset, or DatasetOptions.
        out: the .safetensors file to write.
        split: name of a training split.
        average: `mean` or `bayesian`.
        responses: folder of impulse responses, for more views of each clip.
    """
    require("torch", "train")
    from tinyscene.train.teachers.logits import AVERAGES, make_logits, read_logits

    if average not in AVERAGES:
        raise InputError(f"--average {average}: must be one of {', '.join(AVERAGES)}")
    dataset, clips = open_data(data, FrontEnd())
    paths, views = paths_of(teachers), None if responses is None else Path(responses)
    name = split or dataset.default_split
    return read_logits(make_logits(paths, dataset, clips, name, Path(out), average, views))


def prune(
    run: "str | os.PathLike[str]",
    data: AnyDataset,
    out: "str | os.PathLike[str]",
    to_macs: float | None = None,
    to_bytes: float | None = None,
    split: str | None = None,
    settings: Settings = None,
    resume: bool = False,
) -> Run:
    """Remove channels from a run, step by step, until it fits a budget. Returns the new run in the folder `out`.

    Args:
        run: a finished run.
        data: folder of a dataset, or DatasetOptions.
        out: folder of the new run.
        to_macs: largest number of MACs for one second of sound; by default the limit in the run's recipe.
        to_bytes: largest size of the parameters in bytes; by default the limit in the run's recipe.
        split: split whose training list is used; by default that of the training.
        settings: changed keys of the recipe's section `prune`.
        resume: continue an interrupted pruning.

    Raises:
        InputError: the run, the goals or the data cannot be used, or `out` is taken.
        InterruptedRunError: Ctrl-C; the pruning can be resumed.
    """
    require("torch_pruning", "train")
    from tinyscene.train.fine_tuning.prune import prune as run_pruning

    for name, goal in (("--to-macs", to_macs), ("--to-bytes", to_bytes)):
        if goal is not None and not 1 <= goal < 1e18:
            raise InputError(f"{name} {goal}: must be a number of 1 or more")
    most_macs, most_bytes = (None if goal is None else int(goal) for goal in (to_macs, to_bytes))
    start = Run(run)
    dataset, clips = open_data(data, start.recipe.features)
    overrides = overrides_of(settings)
    return Run(run_pruning(start.folder, dataset, clips, Path(out), most_macs, most_bytes, split, overrides, resume))


def import_weights(
    weights: "str | os.PathLike[str]",
    out: "str | os.PathLike[str]",
    recipe: str = "baseline",
    settings: Settings = None,
) -> Run:
    """Make a run from weights that were trained elsewhere, a .safetensors file with the published parameter names."""
    require("torch", "train")
    from tinyscene.train.recipe import load_recipe
    from tinyscene.train.runs.run import import_weights as import_file

    return Run(import_file(Path(weights), load_recipe(recipe, overrides_of(settings)), Path(out)))


def budget(
    target: "str | os.PathLike[str]", recipe: str | None = None, settings: Settings = None
) -> "tuple[Count, Budget]":
    """Count parameters, bytes and MACs of a recipe, a run, a bundle or a file. Returns them and their limits."""
    require("torch", "train")
    from tinyscene.train.recipe import recipe_names
    from tinyscene.train.runs.budget import count_target

    if target in recipe_names() and Path(target).is_dir():
        notice(f"{target}: {Path(target).absolute()} is counted, not the recipe of this name")
    return count_target(os.fspath(find_model(target)), recipe, overrides_of(settings))


def open_sweep(
    file: "str | os.PathLike[str]",
    data: NamedDataset,
    out: "str | os.PathLike[str]",
    others: Mapping[str, NamedDataset] | None = None,
    settings: Settings = None,
    variants: Names = (),
    jobs: int | None = None,
) -> "tuple[SweepStatus, SweepCost]":
    """Begin or reopen a sweep in the folder `out`. Returns it, and what is left of it costs.

    Args:
        file: name of a sweep, or path of a YAML file (train/sweep/sweep_file.py).
        data: folder of a dataset, or DatasetOptions.
        out: folder of the sweep: a new one, or one to continue.
        others: folders of other datasets that the sweep names, by name.
        settings: changed keys of every recipe.
        variants: variants of the sweep, applied in order.
        jobs: jobs at a time; by default one per GPU or core.
    """
    require("torch", "train")
    from tinyscene.train.sweep.begin import begin
    from tinyscene.train.sweep.cost import estimate
    from tinyscene.train.sweep.job import Source
    from tinyscene.train.sweep.status import SweepStatus

    named = {"": data, **(others or {})}
    sources = {}
    for name, each in named.items():
        options = options_of(each)
        sources[name] = Source(
            folder=str(options.folder),
            splits=options.splits,
            fold_pattern=options.fold_pattern,
            allow_missing=options.allow_missing,
        )
    record = begin(os.fspath(file), sources, tuple(overrides_of(settings)), Path(out), tuple(names_of(variants)))
    status = SweepStatus(Path(out), record)
    return status, estimate(status, jobs)


def sweep(
    file: "str | os.PathLike[str]",
    data: NamedDataset,
    out: "str | os.PathLike[str]",
    others: Mapping[str, NamedDataset] | None = None,
    settings: Settings = None,
    variants: Names = (),
    jobs: int | None = None,
    ray: str | None = None,
) -> dict[str, Any]:
    """Train recipes on several splits and seeds into one table of results; arguments as of `open_sweep`.

    `ray` is the address of a Ray cluster, or `auto`. The same call continues an interrupted sweep.
    """
    status, _ = open_sweep(file, data, out, others, settings, variants, jobs)
    from tinyscene.train.sweep.sweep import go_on

    return go_on(status, jobs, ray)

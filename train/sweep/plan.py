"""The plan of a sweep: the jobs that come of a sweep file, each after those it needs."""

import hashlib
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from tinyscene.deploy.common.errors import InputError
from tinyscene.train.network_settings import PROBED
from tinyscene.train.recipe import Recipe, load_recipe, override
from tinyscene.train.settings import Section
from tinyscene.train.sweep.sweep_file import Sweep, SweepEntry

# The name of a job is its file or folder in the sweep's folder.


class LogitsJob(Section):
    """Make the mean logits of runs."""

    kind: Literal["logits"] = "logits"
    name: str
    needs: tuple[str, ...]  # jobs: the teachers
    data: str  # name of the dataset; "" for --data
    split: str


class TrainJob(Section):
    """Train one run, and evaluate it."""

    kind: Literal["train"] = "train"
    name: str
    needs: tuple[str, ...]
    data: str
    split: str
    run: str  # the entry
    recipe: Recipe
    weights: str | None  # a job's name, a file's path, or `published`
    probe: bool = False
    allow_over_budget: bool


class QuantizeJob(Section):
    """Quantize one run to a bundle, and evaluate that in integers."""

    kind: Literal["quantize"] = "quantize"
    name: str
    needs: tuple[str]  # the job of the run
    data: str
    split: str
    run: str  # the entry
    recipe: Recipe  # of the run, with the settings of its quantization
    settings: tuple[str, ...]  # that are not the run's
    allow_over_budget: bool


EvaluatedJob = TrainJob | QuantizeJob
Job = Annotated[LogitsJob | TrainJob | QuantizeJob, Field(discriminator="kind")]


def plan(sweep: Sweep, settings: tuple[str, ...], out: Path) -> tuple[Job, ...]:
    """The jobs of a sweep, each after those it needs. `settings` are overrides of every recipe, after all others.

    Raises InputError for a recipe that does not exist or an override that does not fit it.
    """
    jobs: dict[str, Job] = {}
    teachers = {teacher for entry in sweep.runs.values() for teacher in entry.teachers}
    for name in sweep.order():
        entry = sweep.runs[name]
        if entry.quantize:
            jobs |= _quantize_jobs(sweep, name, entry.quantize, jobs)
            continue
        asked = (f"distill.online=runs/{entry.online}",) if entry.online else ()  # which of its runs is said below
        probed = PROBED if entry.probe else ()
        recipe = _recipe(name, entry, (*asked, *sweep.set, *entry.set, *settings, *probed))
        if not entry.teachers:
            _require_teachers(name, recipe)
        for split in sweep.splits_of(name):
            logits = _logits_job(sweep, entry, split) if entry.distill else None
            if logits:
                jobs[logits.name] = logits
            for seed in sweep.seeds_of(name):
                parent = _run(entry.parent, sweep.origin(name, split), seed) if entry.parent else None
                online = _run(entry.online, split, sweep.online_seed(name, seed)) if entry.online else None
                teachers_of = {"logits": logits and logits.name, "online": online}
                paths = {key: str(out.resolve() / need) for key, need in teachers_of.items() if need}
                distill = recipe.distill.model_copy(update=paths)
                job = TrainJob(
                    name=_run(name, split, seed),
                    needs=tuple(need for need in (*teachers_of.values(), parent) if need),
                    data=entry.data or "",
                    split=split,
                    run=name,
                    recipe=recipe.model_copy(update={"seed": seed, "distill": distill}),
                    weights=parent or (str(entry.weights_file.resolve()) if entry.weights_file else entry.weights),
                    probe=entry.probe,
                    allow_over_budget=name in teachers,
                )
                jobs[job.name] = job
    return tuple(jobs.values())


def _recipe(name: str, entry: SweepEntry, settings: tuple[str, ...]) -> Recipe:
    """The recipe of an entry's runs, but for their seeds and teachers."""
    if fixed := [setting for setting in settings if setting.startswith("seed=")]:
        raise InputError(f"runs.{name}: {fixed[0]}: a sweep's seeds are listed under `seeds`")
    if entry.weights_file and not entry.weights_file.is_file():
        raise InputError(f"runs.{name}: weights {entry.weights}: no such file")
    try:
        return load_recipe(entry.recipe or "", list(settings))
    except InputError as error:
        raise InputError(f"runs.{name}: {error}") from None


def _require_teachers(name: str, recipe: Recipe) -> None:
    try:
        recipe.distill.require(recipe.name)
    except InputError as error:
        raise InputError(f"runs.{name}: {error}; in a sweep, `distill` or `online` names the teachers") from None


def _quantize_jobs(sweep: Sweep, name: str, trained: str, jobs: dict[str, Job]) -> dict[str, Job]:
    """The jobs of an entry that quantizes the runs of the entry `trained`, by their names."""
    settings, quantized = sweep.runs[name].set, {}
    if others := [setting for setting in settings if not setting.startswith("quantize.")]:
        raise InputError(f"runs.{name}: {others[0]}: only keys of the section quantize can be set here")
    for split in sweep.splits_of(name):
        for seed in sweep.seeds_of(name):
            run = jobs[_run(trained, split, seed)]
            assert isinstance(run, TrainJob)
            job = QuantizeJob(
                name=f"bundles/{name}-{split}-{seed}",
                needs=(run.name,),
                data=run.data,
                split=split,
                run=name,
                recipe=override(run.recipe, list(settings), f"runs.{name}"),
                settings=settings,
                allow_over_budget=run.allow_over_budget,
            )
            quantized[job.name] = job
    return quantized


def _run(name: str, split: str, seed: int) -> str:
    return f"runs/{name}-{split}-{seed}"


def _logits_job(sweep: Sweep, entry: SweepEntry, split: str) -> LogitsJob:
    """Its name holds a hash of its teachers: with other seeds they are other teachers."""
    needs = [_run(name, split, seed) for name in entry.teachers for seed in sweep.seeds_of(name)]
    digest = hashlib.sha256(" ".join(needs).encode()).hexdigest()[:8]
    name = f"logits/{'+'.join(entry.teachers)}-{split}-{digest}.safetensors"
    return LogitsJob(name=name, needs=tuple(needs), data=entry.data or "", split=split)

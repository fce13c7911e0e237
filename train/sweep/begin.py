"""The beginning of a sweep, or of going on with one: its plan is held to its datasets and to what its folder holds.

Runs, seeds and splits may be added to a sweep; a run or bundle that was begun with other settings is refused.
"""

from pathlib import Path
from typing import Any

from tinyscene.deploy.common.errors import InputError
from tinyscene.deploy.common.files import require_free, write_whole
from tinyscene.deploy.common.provenance import provenance
from tinyscene.deploy.common.terminal import notice
from tinyscene.deploy.frontend.log_mel import FrontEnd
from tinyscene.train.data.datasets import Dataset
from tinyscene.train.data.split_lists import named_folder
from tinyscene.train.recipe import Recipe, parse_recipe
from tinyscene.train.runs.run import RECIPE
from tinyscene.train.runs.transfer import find_weights
from tinyscene.train.settings import first_change, flat, read_settings
from tinyscene.train.sweep.job import SWEEP, Source, SweepRecord, clips_key, read_record
from tinyscene.train.sweep.plan import EvaluatedJob, Job, QuantizeJob, TrainJob, plan
from tinyscene.train.sweep.status import SweepStatus
from tinyscene.train.sweep.sweep_file import PUBLISHED, Sweep, read_sweep


def begin(
    file: str, sources: dict[str, Source], settings: tuple[str, ...], out: Path, variants: tuple[str, ...] = ()
) -> SweepRecord:
    """Read a sweep, prepare its datasets, hold it to what `out` already holds, and record it there.

    Raises InputError: the file, a recipe or a dataset cannot be used, or `out` holds something else.
    """
    sweep = read_sweep(file, variants)
    jobs = plan(sweep, settings, out)
    _require_settings(sweep, jobs)
    _say_what_is_missing(sweep, jobs)
    sources = {name: _absolute(source) for name, source in sources.items()}
    _check_sources({job.data for job in jobs}, set(sources))
    opened = {name: source.open() for name, source in sources.items()}
    front_ends: dict[str, dict[str, FrontEnd]] = {name: {} for name in sources}
    for job in jobs:
        _check_split(opened[job.data], job)
        if isinstance(job, EvaluatedJob):
            front_ends[job.data][clips_key(job.recipe.features)] = job.recipe.features
    hashes = {
        name: {key: sources[name].prepare(dataset, each).data_hash for key, each in sorted(front_ends[name].items())}
        for name, dataset in opened.items()
    }
    new = SweepRecord(
        sweep=sweep, settings=settings, sources=sources, data_hash=hashes, made_by=provenance(), jobs=jobs
    )
    if (out / SWEEP).exists():
        _check_same(read_record(out), new, out)
    else:
        require_free(out)
    write_whole(out / SWEEP, new.model_dump_json(indent=1) + "\n")
    return new


def _require_settings(sweep: Sweep, jobs: tuple[Job, ...]) -> None:
    """Raise InputError where a key that the sweep requires has no value in one of its recipes."""
    for job in jobs:
        settings = flat(job.recipe.as_dict()) if isinstance(job, TrainJob) else {}
        for key in sweep.required if settings else ():
            if settings.get(key) is None:
                raise InputError(f"sweep {sweep.name} needs a value of {key}: add --set {key}=...")


def _say_what_is_missing(sweep: Sweep, jobs: tuple[Job, ...]) -> None:
    """The notes of the variants, and which runs are trained without the impulse responses that they ask for."""
    for note in sweep.notes:
        notice(note)
    augments = {job.run: job.recipe.augment for job in jobs if isinstance(job, TrainJob)}
    if without := [run for run, augment in augments.items() if augment.dir_p and not augment.dir_folder]:
        notice(f"no augment.dir_folder is named: {', '.join(without)}: without impulse responses of microphones")


def require_weights(status: SweepStatus) -> None:
    """Fetch the published weights of the runs to come. Raises InputError if some cannot be fetched."""
    waiting = [job for job in status.sweep.jobs if isinstance(job, TrainJob) and status.state[job.name] == "waiting"]
    models = {job.recipe.model.model_dump_json(): job for job in waiting if job.weights == PUBLISHED}
    for job in models.values():
        try:
            find_weights(PUBLISHED, job.recipe.model)
        except InputError as error:
            raise InputError(f"runs.{job.run}.weights: {error}") from None


def _absolute(source: Source) -> Source:
    """For processes with another working folder. Raises InputError where no split lists have that name."""
    folder = Path(source.folder)
    splits = source.splits and str(named_folder(folder, Path(source.splits)).resolve())
    return source.model_copy(update={"folder": str(folder.resolve()), "splits": splits})


def _placed(recipe: Recipe, needs: tuple[str, ...]) -> dict[str, Any]:
    """The settings of a run, with what it needs of the sweep by its name: the sweep's folder may have been moved."""
    settings = recipe.as_dict()
    for key in ("logits", "online"):
        place = settings["distill"][key]
        settings["distill"][key] = next((need for need in needs if place and place.endswith(f"/{need}")), place)
    return settings


def _check_sources(needed: set[str], sources: set[str]) -> None:
    if missing := sorted(needed - sources):
        raise InputError(f"the sweep trains on {missing[0]!r}: name its folder with --other {missing[0]}=FOLDER")
    if unused := sorted(sources - needed - {""}):
        raise InputError(f"--other {unused[0]}: no run of the sweep is trained on it")


def _check_split(dataset: Dataset, job: Job) -> None:
    try:
        test = dataset.split(job.split)[1]
    except InputError:
        known = ", ".join(dataset.splits)
        raise InputError(f"{job.name}: {dataset.root} has no split {job.split!r}; it has {known}") from None
    if not test:
        raise InputError(f"{job.name}: split {job.split} has no test list, on which a sweep compares its runs")


def _check_same(old: SweepRecord, new: SweepRecord, out: Path) -> None:
    """What `out` holds must be of this sweep, this data and these recipes, as far as it goes."""
    if old.sweep.name != new.sweep.name:
        raise InputError(f"{out}: holds the sweep {old.sweep.name}, not {new.sweep.name}; choose another --out")
    for name, hashes in old.data_hash.items():
        for rate, data_hash in hashes.items():
            if new.data_hash.get(name, {}).get(rate, data_hash) != data_hash:
                raise InputError(
                    f"{out}: was trained on other data than {new.sources[name].folder}; choose another --out"
                )
    former = {job.name: job for job in old.jobs}
    for job in new.jobs:
        if change := _changed_since(former.get(job.name), job, out):
            raise InputError(
                f"{out / job.name}: was made with {change}; name the changed run otherwise, or choose another --out"
            )


def _changed_since(old: Job | None, new: Job, out: Path) -> str:
    """What differs between a run or bundle that is in `out` and the job, or nothing."""
    if isinstance(old, QuantizeJob) and isinstance(new, QuantizeJob) and (out / new.name).exists():
        return first_change(old.recipe.as_dict(), new.recipe.as_dict())
    path = out / new.name / RECIPE
    if not isinstance(new, TrainJob) or not path.exists():
        return ""
    made_with = parse_recipe(read_settings(path, "recipe"), str(path))
    change = first_change(_placed(made_with, new.needs), _placed(new.recipe, new.needs))
    if not change and isinstance(old, TrainJob) and old.weights != new.weights:
        change = f"weights {old.weights}, not {new.weights}"
    return change

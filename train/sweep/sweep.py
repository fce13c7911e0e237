"""A sweep: recipes by splits by seeds, from one command, with one table of results.

    tinyscene sweep SWEEP.yaml --data DATA --out OUT [--jobs N] [--other NAME=FOLDER] [--set KEY=VALUE]
    tinyscene sweep SWEEP.yaml --data DATA --out OUT --ray auto          # on a Ray cluster: train/sweep/cluster.py
    tinyscene report OUT                                                 # train/sweep/report.py

`train/sweep/sweep_file.py` says what a sweep file holds. Each job, to train and evaluate one run or to make an
ensemble's logits, is a process of its own (`train/sweep/job.py`), so that a crash or a kill for want of memory is one
failed run. On CPUs as many jobs of one thread go at a time as there are cores: on two cores that trains 1.5 times as
many clips a second as one job of two threads. With GPUs it is one job a GPU.

OUT holds `runs/NAME-SPLIT-SEED/` (run folders with `evaluation.json`), `logits/`, `logs/` with what each job wrote,
`sweep.json` and `results.csv`, which is rewritten after each job. The same command goes on with a sweep that was
stopped or killed, runs from their checkpoints, and tries again what failed. A failed run does not stop the others;
what needs it is skipped. Runs, seeds and splits may be added to a sweep; one whose recipe changed is refused.
"""

import os
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import torch

from tinyscene.deploy.common.errors import InputError, TinysceneError
from tinyscene.deploy.common.files import require_free, write_whole
from tinyscene.deploy.common.processes import available_cores, python_module
from tinyscene.deploy.common.progress import progress
from tinyscene.deploy.common.provenance import provenance
from tinyscene.train.data.datasets import Dataset
from tinyscene.train.loop.loop import StopFlag
from tinyscene.train.recipe import Recipe, parse_recipe
from tinyscene.train.runs.run import RECIPE
from tinyscene.train.settings import read_settings
from tinyscene.train.sweep.job import SWEEP, Source, SweepRecord, read_record
from tinyscene.train.sweep.plan import Job, TrainJob, plan
from tinyscene.train.sweep.status import RESULTS, SweepStatus
from tinyscene.train.sweep.sweep_file import read_sweep

POLL = 0.1  # seconds between looks at the processes
# glibc keeps the memory that a step frees for the next one, which would else fault it in anew: a CPU trains the
# baseline in 7.1 ms a clip instead of 8.9. Other allocators do not read these names.
KEEP_MEMORY = {"MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": f"{2**31 - 1}", "MALLOC_TOP_PAD_": f"{2**29}"}


class FailedRunsError(TinysceneError):
    """A sweep went to its end, and some of its runs failed (exit code 1)."""

    exit_code = 1


def run_sweep(
    file: str,
    data: Source,
    out: Path,
    others: dict[str, Source] | None = None,
    settings: list[str] | None = None,
    jobs: int | None = None,
    ray: str | None = None,
) -> dict[str, Any]:
    """Do a sweep, or go on with it, and return how many of its runs are done and where the table is.

    Args:
        file: name or path of the sweep file.
        data: the dataset of the runs that name no other.
        out: folder of the sweep.
        others: datasets by the names that the file uses.
        settings: `key=value` overrides of every recipe, after the file's.
        jobs: how many at a time; none: as the machine or the cluster has cores, or GPUs.
        ray: address of a Ray cluster, or `auto`; none: this machine.

    Raises:
        InputError: the file, a recipe or a dataset cannot be used, or `out` holds something else.
        FailedRunsError: it went to its end, and some runs failed.
        InterruptedRunError: Ctrl-C or SIGTERM; the same command goes on.
    """
    sweep = _record(file, {"": data, **(others or {})}, tuple(settings or ()), out)
    status = SweepStatus(out, sweep)
    if ray:
        from tinyscene.train.sweep.cluster import run_on_ray

        run_on_ray(status, ray, jobs)
    else:
        run_locally(status, jobs)
    rows = status.rows()
    states = {state: sum(row["state"] == state for row in rows) for state in ("done", "failed", "skipped")}
    if states["failed"] or states["skipped"]:
        raise FailedRunsError(
            f"{out}: of {len(rows)} runs {states['failed']} failed and {states['skipped']} were skipped, as "
            f"{out / RESULTS} says; the same command tries them again"
        )
    return {"sweep": str(out), "results": str(out / RESULTS), "runs": len(rows), **states}


def named_sources(others: list[str]) -> dict[str, Source]:
    """Datasets of `--other NAME=FOLDER`. Raises InputError for another form."""
    sources = {}
    for other in others:
        name, equals, folder = other.partition("=")
        if not (name and equals and folder) or name in sources:
            raise InputError(f"--other {other}: must be NAME=FOLDER, each name once")
        sources[name] = Source(folder=folder)
    return sources


def _record(file: str, sources: dict[str, Source], settings: tuple[str, ...], out: Path) -> SweepRecord:
    """Read a sweep, prepare its datasets, hold it to what `out` already holds, and record it there."""
    sweep = read_sweep(file)
    jobs = plan(sweep, settings, out)
    sources = {name: _absolute(source) for name, source in sources.items()}
    _check_sources({job.data for job in jobs}, set(sources))
    opened = {name: source.open() for name, source in sources.items()}
    rates: dict[str, set[int]] = {name: set() for name in sources}
    for job in jobs:
        _check_split(opened[job.data], job)
        if isinstance(job, TrainJob):
            rates[job.data].add(job.recipe.features.sample_rate)
    hashes = {
        name: {str(rate): sources[name].prepare(dataset, rate).data_hash for rate in sorted(rates[name])}
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


def _absolute(source: Source) -> Source:
    """For processes with another working folder."""
    paths = {"folder": source.folder, "splits": source.splits}
    return source.model_copy(update={key: path and str(Path(path).resolve()) for key, path in paths.items()})


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
    weights = {job.name: job.weights for job in old.jobs if isinstance(job, TrainJob)}
    for job in new.jobs:
        if not isinstance(job, TrainJob) or not (out / job.name / RECIPE).exists():
            continue
        path = out / job.name / RECIPE
        begun = parse_recipe(read_settings(path, "recipe"), str(path))
        change = _change(begun, job.recipe)
        if not change and weights.get(job.name, job.weights) != job.weights:
            change = f"weights {weights[job.name]}, not {job.weights}"
        if change:
            raise InputError(
                f"{out / job.name}: was trained with {change}; name the changed run otherwise, or choose another --out"
            )


def _change(old: Recipe, new: Recipe) -> str:
    """The first setting that differs, or nothing."""
    before, after = _flat(old.as_dict()), _flat(new.as_dict())
    for key in before | after:
        if before.get(key) != after.get(key):
            return f"{key}={before.get(key)}, not {after.get(key)}"
    return ""


def _flat(settings: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat = {}
    for key, value in settings.items():
        flat |= _flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {prefix + key: value}
    return flat


def run_locally(status: SweepStatus, jobs: int | None) -> None:
    """Do the jobs of a sweep on this machine, each in a process. Raises InterruptedRunError after a signal."""
    environments = slots(jobs)
    threads = max(1, available_cores() // len(environments))
    running: dict[int, tuple[Job, subprocess.Popen[bytes]]] = {}  # by slot
    (status.out / "logs").mkdir(exist_ok=True)
    read_end, write_end = os.pipe()  # jobs hear it close when this process is gone, however it went
    try:
        with StopFlag() as stop, progress(status.sweep.sweep.name, len(status.state), status.ended) as advance:
            while not status.is_over and not stop.raised:
                before = status.ended
                for slot, (job, process) in list(running.items()):
                    if process.poll() is not None:
                        del running[slot]
                        status.end(job, _failure(process.returncode, _log(status.out, job)))
                free = [slot for slot in range(len(environments)) if slot not in running]
                for slot, job in zip(free, status.ready(), strict=False):
                    running[slot] = job, _start(status.out, job, threads, environments[slot], read_end)
                    status.begin(job)
                advance(status.ended - before)
                time.sleep(POLL)
            for _, process in running.values():
                process.terminate()  # once: a run that hears it twice does not save
            for _, process in running.values():
                process.wait()
    finally:
        os.close(read_end)
        os.close(write_end)
    status.require_over()


def slots(jobs: int | None) -> list[dict[str, str]]:
    """What each of the jobs of one time finds in its environment: its GPU, where there are any."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    gpus = torch.cuda.device_count()
    names = visible.split(",")[:gpus] if visible else [str(number) for number in range(gpus)]
    return [
        {"CUDA_VISIBLE_DEVICES": names[slot % gpus]} if gpus else {}
        for slot in range(jobs or gpus or available_cores())
    ]


def _log(out: Path, job: Job) -> Path:
    return out / "logs" / f"{job.name.replace('/', '-')}.log"


def _start(out: Path, job: Job, threads: int, environment: dict[str, str], pipe: int) -> subprocess.Popen[bytes]:
    """Start a job in a session of its own, so that Ctrl-C is heard here alone and passed on once."""
    command = python_module("tinyscene.train.sweep.job", str(out), job.name)
    options = ["--threads", str(threads), "--pipe", str(pipe)]
    with _log(out, job).open("wb") as log:
        return subprocess.Popen(
            [*command, *options],
            env={**KEEP_MEMORY, **os.environ, **environment, "OMP_NUM_THREADS": str(threads)},
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            pass_fds=(pipe,),
            start_new_session=True,
        )


def _failure(code: int, log: Path) -> str:
    """Why a process failed: the signal that killed it, or the last line it wrote. Nothing if it did not."""
    if code == 0:
        return ""
    if code < 0:
        hint = " (out of memory?)" if code == -signal.SIGKILL else ""
        return f"killed by {signal.Signals(-code).name}{hint}"
    lines = [line for line in log.read_text(encoding="utf-8", errors="replace").splitlines() if line.strip()]
    return lines[-1] if lines else f"exit code {code}"

"""A sweep: recipes by splits by seeds, from one command, with one table of results.

    tinyscene sweep SWEEP.yaml --data DATA --out OUT [--jobs N] [--other NAME=FOLDER] [--set KEY=VALUE]
    tinyscene sweep SWEEP.yaml --data DATA --out OUT --ray auto          # on a Ray cluster: train/sweep/cluster.py
    tinyscene sweep SWEEP.yaml --data DATA --out OUT --dry-run           # what it costs: train/sweep/cost.py
    tinyscene report OUT                                                 # train/sweep/report.py

`train/sweep/sweep_file.py` says what a sweep file holds. Each job, to train and evaluate one run, to make an
ensemble's logits or to quantize and evaluate a run, is a process of its own (`train/sweep/job.py`), so that a crash or
a kill for want of memory is one failed run. On CPUs as many jobs of one thread go at a time as there are cores: on two
cores that trains 1.5 times as many clips a second as one job of two threads. With GPUs it is one job a GPU.

OUT holds `runs/NAME-SPLIT-SEED/` (run folders with `evaluation.json`), `logits/`, `bundles/NAME-SPLIT-SEED/`, `logs/`
with what each job wrote, `sweep.json` and `results.csv`, which is rewritten after each job. The same command goes on
with a sweep that was stopped or killed, runs from their checkpoints, and tries again what failed. A failed run does not
stop the others; what needs it is skipped. Runs, seeds and splits may be added to a sweep; one whose recipe changed is
refused (`train/sweep/begin.py`).
"""

import os
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import torch

from tinyscene.deploy.common.errors import InputError, TinysceneError
from tinyscene.deploy.common.processes import PASSIVE_THREADS, available_cores, python_module
from tinyscene.deploy.common.progress import progress
from tinyscene.train.loop.loop import StopFlag
from tinyscene.train.sweep.begin import begin, require_weights
from tinyscene.train.sweep.job import Source
from tinyscene.train.sweep.plan import Job
from tinyscene.train.sweep.status import RESULTS, SweepStatus

POLL = 0.1  # seconds between looks at the processes


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
    variants: list[str] | None = None,
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
        variants: of the file, in the order in which they are applied.

    Raises:
        InputError: the file, a recipe or a dataset cannot be used, or `out` holds something else.
        FailedRunsError: it went to its end, and some runs failed.
        InterruptedRunError: Ctrl-C or SIGTERM; the same command goes on.
    """
    sweep = begin(file, {"": data, **(others or {})}, tuple(settings or ()), out, tuple(variants or ()))
    return go_on(SweepStatus(out, sweep), jobs, ray)


def go_on(status: SweepStatus, jobs: int | None, ray: str | None) -> dict[str, Any]:
    """Do what is left of a sweep that was begun. Arguments, result and errors are those of `run_sweep`."""
    out = status.out
    require_weights(status)
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
                    command = python_module("tinyscene.train.sweep.job", str(status.out), job.name)
                    process = start(command, threads, environments[slot], _log(status.out, job), read_end)
                    running[slot] = job, process
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


def start(
    command: list[str], threads: int, environment: dict[str, str], path: Path, pipe: int
) -> subprocess.Popen[bytes]:
    """Start a job in a session of its own, so that Ctrl-C is heard here alone and passed on once. `path` is its log."""
    options = ["--threads", str(threads), "--pipe", str(pipe)]
    with path.open("wb") as log:
        return subprocess.Popen(
            [*command, *options],
            env={**PASSIVE_THREADS, **os.environ, **environment, "OMP_NUM_THREADS": str(threads)},
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

"""A sweep on a Ray cluster: the jobs of train/sweep/sweep.py, each a task of Ray.

    ray start --head                            # on one machine, and on the others: ray start --address HEAD:6379
    tinyscene sweep SWEEP.yaml --data DATA --out OUT --ray auto         # or --ray HEAD:6379

Every machine has `tinyscene[train,cluster]`, and sees OUT and the datasets, under the same paths, on a file system
that all of them share; paths within recipes, such as `augment.dir_folder`, are absolute. The prepared clips are in
each machine's own cache, made by its first job, or in a shared one if $TINYSCENE_CACHE, where `ray start` is called,
names it. A job takes one core, and one GPU if the cluster has any; `--jobs` limits how many are under way.

When a worker or a machine is lost in the middle of a job, Ray does the job again on another, up to RETRIES times,
and it goes on from its checkpoint in OUT. If the machine of the command itself is lost, the same command goes on.
"""

import contextlib
import logging
import socket
import traceback
from pathlib import Path
from types import ModuleType
from typing import Any

import torch

from tinyscene.deploy.common.errors import InputError, TinysceneError
from tinyscene.deploy.common.installation import missing
from tinyscene.deploy.common.progress import progress
from tinyscene.train.loop.loop import InterruptedRunError, StopFlag
from tinyscene.train.sweep.job import run_job
from tinyscene.train.sweep.plan import Job
from tinyscene.train.sweep.status import SweepStatus

RETRIES = 3  # of a job whose worker was lost
POLL = 1.0  # seconds that Ray is waited for at a time
SAVING = 120.0  # seconds that stopped jobs have to save


def run_on_ray(status: SweepStatus, address: str, jobs: int | None) -> None:
    """Do the jobs of a sweep on a Ray cluster.

    Raises InputError if there is no Ray or no cluster, InterruptedRunError after a signal.
    """
    ray = _connect(address, status.out)
    try:
        _run(ray, status, jobs)
    finally:
        ray.shutdown()
    status.require_over()


def _connect(address: str, folder: Path) -> ModuleType:
    """Join a cluster from `folder`: its workers import from there first, and the user's folder may hold a numpy.py."""
    try:
        import ray
    except ImportError:
        raise missing("ray", "cluster") from None
    host, _, port = address.rpartition(":")
    try:
        if host and port.isdigit():  # Ray would try for minutes
            socket.create_connection((host, int(port)), timeout=10).close()
        with contextlib.chdir(folder):
            ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
    except (OSError, ValueError, OverflowError) as error:
        reason = " ".join(str(error).split())[:200]
        raise InputError(f"--ray {address}: no Ray cluster there ({reason}); start one with `ray start`") from None
    return ray


def _run(ray: ModuleType, status: SweepStatus, jobs: int | None) -> None:
    """Do the jobs, or stop at a signal when those under way have saved."""
    task = ray.remote(
        num_cpus=1,
        num_gpus=1 if ray.cluster_resources().get("GPU") else 0,
        max_calls=1,  # a process for each, like here
        max_retries=RETRIES,
        retry_exceptions=[InterruptedRunError],  # of a worker that was told to stop
    )(_do)
    running: dict[Any, Job] = {}  # by Ray's reference to its result
    with StopFlag() as stop, progress(status.sweep.sweep.name, len(status.state), status.ended) as advance:
        while not status.is_over and not stop.raised:
            before = status.ended
            for job in status.ready():
                if jobs and len(running) >= jobs:
                    break
                running[task.remote(str(status.out.resolve()), job.name)] = job
                status.begin(job)
            ended, _ = ray.wait(list(running), timeout=POLL)
            for reference in ended:
                status.end(running.pop(reference), _failure(ray, reference))
            advance(status.ended - before)
        for reference in running:
            ray.cancel(reference)
        if running:
            ray.wait(list(running), num_returns=len(running), timeout=SAVING)


def _do(out: str, name: str) -> str:
    """A job, on a worker of Ray. Returns why it failed, or nothing."""
    torch.set_num_threads(1)
    try:
        run_job(Path(out), name)
    except InterruptedRunError:
        raise
    except TinysceneError as error:
        return str(error)
    except Exception as error:  # a failed run is recorded, whatever it failed for
        log = Path(out) / "logs" / f"{name.replace('/', '-')}.log"
        log.parent.mkdir(exist_ok=True)
        log.write_text(traceback.format_exc(), encoding="utf-8")
        return f"{type(error).__name__}: {error}"
    return ""


def _failure(ray: ModuleType, reference: Any) -> str:
    """Why a task failed: what it says itself, or what Ray says of a worker that was lost too often."""
    try:
        return ray.get(reference)
    except ray.exceptions.RayError as error:
        return f"{type(error).__name__}: {error}"

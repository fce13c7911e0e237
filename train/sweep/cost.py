"""What the rest of a sweep costs, said before anything is trained: measured rates times the work that is left.

    tinyscene sweep SWEEP.yaml --data DATA --out OUT --dry-run          # says it, and trains nothing

The work of a run is the clips of its training list in all epochs that are left, and those of the test list; a teacher
that is asked at each step is asked for each clip. Rates are those of `train/sweep/rates.py`, measured in a process like
a job's, on this machine, while it does nothing else; with a Ray cluster they hold for machines like this one.
"""

import heapq
import os
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tinyscene.deploy.common.files import read_bounded
from tinyscene.deploy.common.processes import available_cores, python_module
from tinyscene.train.runs.run import MAX_METRICS, METRICS
from tinyscene.train.sweep.job import clips_key
from tinyscene.train.sweep.plan import EvaluatedJob, Job, LogitsJob, QuantizeJob, TrainJob
from tinyscene.train.sweep.rates import Rate, measured_jobs, rate_key, read_rates, torch_device_name
from tinyscene.train.sweep.status import SweepStatus
from tinyscene.train.sweep.sweep import slots, start

LOG = "rates.log"


@dataclass(frozen=True)
class StageCost:
    """What the jobs of one entry, or those of all logits, cost."""

    stage: str
    jobs: int  # that are left
    clips: int  # that are trained on, in all epochs
    clips_per_second: float | None  # in training
    hours: float | None  # of all its jobs; none where a rate is not known


@dataclass(frozen=True)
class SweepCost:
    """What is left of a sweep costs."""

    stages: tuple[StageCost, ...]
    torch_device: str
    slots: int  # jobs at a time
    hours: float | None  # from the beginning to the end

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def estimate(status: SweepStatus, jobs: int | None) -> SweepCost:
    """What is left of a sweep costs on this machine, with so many jobs at a time; none: as many as it would have.

    Rates are those of a job that has a GPU or a core for itself: of more jobs, so many at a time are counted.
    """
    torch_device, left = torch_device_name(), [job for job in status.sweep.jobs if status.state[job.name] == "waiting"]
    environments = slots(jobs)
    keys = {job.name: rate_key(job, torch_device) for job in status.sweep.jobs if isinstance(job, EvaluatedJob)}
    if any(keys[job.name] not in read_rates(status.out) for job in measured_jobs(status.sweep, status.out)):
        _measure(status.out, environments)
    rates = read_rates(status.out)
    work = _Work(status, {name: rates.get(key) for name, key in keys.items()})
    seconds = {job.name: work.seconds(job) for job in left}
    stages = tuple(
        _stage(stage, [job for job in left if _stage_of(job) == stage], work, seconds)
        for stage in dict.fromkeys(_stage_of(job) for job in left)
    )
    known = {name: value for name, value in seconds.items() if value is not None}
    at_a_time = min(len(environments), len(slots(None)))
    hours = _makespan(left, known, at_a_time) / 3600 if len(known) == len(seconds) else None
    return SweepCost(stages, torch_device, len(environments), hours)


def _measure(out: Path, environments: list[dict[str, str]]) -> None:
    """Measure what is not known, in a process like a job's. What fails there is in its log."""
    (out / "logs").mkdir(exist_ok=True)
    command = python_module("tinyscene.train.sweep.rates", str(out), str(time.time()))
    threads = max(1, available_cores() // len(environments))
    read_end, write_end = os.pipe()  # it stops when this process is gone
    try:
        start(command, threads, environments[0], out / "logs" / LOG, read_end).wait()
    finally:
        os.close(read_end)
        os.close(write_end)


def _stage_of(job: Job) -> str:
    return "logits" if isinstance(job, LogitsJob) else job.run


def _stage(stage: str, jobs: list[Job], work: "_Work", seconds: dict[str, float | None]) -> StageCost:
    rates = [work.rates[job.name] for job in jobs if isinstance(job, TrainJob) and not job.probe]
    trained = [rate.trained for rate in rates if rate]
    values = [seconds[job.name] for job in jobs]
    known = [value for value in values if value is not None]
    hours = sum(known) / 3600 if len(known) == len(values) else None
    return StageCost(stage, len(jobs), sum(work.trained(job) for job in jobs), min(trained, default=None), hours)


class _Work:
    """The work of the jobs of a sweep, in clips, and with the rates of runs and bundles in seconds."""

    def __init__(self, status: SweepStatus, rates: dict[str, Rate | None]) -> None:
        self.rates, self._status = rates, status
        self._counts: dict[tuple[str, str, str], tuple[int, int]] = {}

    def trained(self, job: Job) -> int:
        """Clips that are trained on, in the epochs that are left."""
        if not isinstance(job, TrainJob) or job.probe:
            return 0
        metrics = self._status.out / job.name / METRICS
        done = read_bounded(metrics, MAX_METRICS).count(b"\n") if metrics.exists() else 0
        clips = self._clips(job)[0] * (2 if job.recipe.has_other_clips else 1)
        return clips * max(0, job.recipe.train.epochs - done)

    def seconds(self, job: Job) -> float | None:
        """How long a job takes; none where a rate is not known."""
        needed = [self.rates[need] for need in job.needs if need in self.rates]
        if isinstance(job, LogitsJob):
            asked = [self._asked(job, rate) for rate in needed if rate]
            return sum(asked) + needed[0].started if needed[0] and len(asked) == len(needed) else None
        rate, (train, test) = self.rates[job.name], self._clips(job)
        if rate is None:
            return None
        seconds = rate.started + test / rate.tested
        if isinstance(job, QuantizeJob):
            return seconds + rate.quantized
        if job.probe:
            return seconds + train / rate.tested
        seconds += self.trained(job) / rate.trained
        if job.recipe.distill.online:
            teacher = self.rates[next(need for need in job.needs if job.recipe.distill.online.endswith(need))]
            return seconds + self.trained(job) / teacher.tested if teacher else None
        return seconds

    def _asked(self, job: LogitsJob, rate: Rate) -> float:
        first = self._status.sweep.job(job.needs[0])
        assert isinstance(first, TrainJob)
        return self._clips(first)[0] / rate.tested

    def _clips(self, job: EvaluatedJob) -> tuple[int, int]:
        """Clips of the training and of the test list."""
        key = (job.data, job.split, clips_key(job.recipe.features))
        if key not in self._counts:
            source = self._status.sweep.sources[job.data]
            dataset = source.open()
            clips = source.prepare(dataset, job.recipe.features)
            train, test = (len(clips.select(paths)) for paths in dataset.split(job.split)[:2])
            self._counts[key] = train, test
        return self._counts[key]


def _makespan(jobs: list[Job], seconds: dict[str, float], count: int) -> float:
    """Seconds until all jobs are done, each begun in the plan's order once a slot is free and what it needs is done."""
    waiting, running, now = list(jobs), list[tuple[float, str]](), 0.0
    left = set(seconds)
    while waiting or running:
        for job in list(waiting):
            if len(running) < count and not left.intersection(job.needs):
                waiting.remove(job)
                heapq.heappush(running, (now + seconds[job.name], job.name))
        now, ended = heapq.heappop(running)
        left.remove(ended)
    return now

"""One job of a sweep: to train and evaluate a run, to make the logits of an ensemble, or to quantize and evaluate.

    python -m tinyscene.train.sweep.job OUT runs/student-5-0  # a job of the sweep in OUT, by its name, in this process

A job reads all that it needs from `OUT/sweep.json`, so that any process of any machine that sees OUT and the
dataset can do it. A run that was begun goes on from its checkpoint, and a job that is done is not done again. A
lock in `OUT/locks/` lets no two processes work on one job: one that is left over from a killed sweep is waited for.
"""

import argparse
import json
import os
import platform
import signal
import sys
import threading
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import ValidationError

from tinyscene.deploy.common.errors import InputError, TinysceneError, disk_error
from tinyscene.deploy.common.files import lock, read_bounded
from tinyscene.deploy.frontend.log_mel import ONE_SECOND, FrontEnd
from tinyscene.train.data.cache import Clips, prepare
from tinyscene.train.data.datasets import Dataset, open_dataset
from tinyscene.train.data.training_data import TrainingData
from tinyscene.train.loop.loop import train
from tinyscene.train.quantize.quantize import quantize
from tinyscene.train.runs.budget import count_target
from tinyscene.train.runs.evaluate import EvaluatedModel, count_left_out, evaluate, open_evaluated_model, record
from tinyscene.train.runs.run import RunFolder, training_seconds
from tinyscene.train.runs.transfer import find_weights
from tinyscene.train.settings import Section
from tinyscene.train.sweep.plan import EvaluatedJob, Job, LogitsJob, QuantizeJob, TrainJob
from tinyscene.train.sweep.sweep_file import Sweep
from tinyscene.train.teachers.logits import make_logits
from tinyscene.train.teachers.probe import probe

SWEEP = "sweep.json"
EVALUATION = "evaluation.json"
MAX_BYTES = 64_000_000  # of a record; a sweep of 1,000 jobs has 2 MB


class Source(Section):
    """A dataset, as the command line names it."""

    folder: str
    splits: str | None = None
    fold_pattern: str | None = None
    allow_missing: bool = False

    def open(self) -> Dataset:
        return open_dataset(Path(self.folder), self.splits, self.fold_pattern)

    def prepare(self, dataset: Dataset, front_end: FrontEnd) -> Clips:
        """The clips of the dataset that was opened."""
        rate, seconds = front_end.sample_rate, front_end.clip_seconds
        return prepare(dataset, rate, allow_missing=self.allow_missing, clip_seconds=seconds)


def clips_key(front_end: FrontEnd) -> str:
    """What tells the clips of a dataset apart: their sample rate, and their length if it is not one second."""
    length = "" if front_end.clip_seconds == ONE_SECOND else f" Hz, {front_end.clip_seconds:g} s"
    return f"{front_end.sample_rate}{length}"


class SweepRecord(Section):
    """`sweep.json`: what a sweep does, on what, and what made it."""

    format: Literal[1] = 1
    sweep: Sweep
    settings: tuple[str, ...]  # of the command line
    sources: dict[str, Source]  # "" is --data
    data_hash: dict[str, dict[str, str]]  # by source and `clips_key`
    made_by: dict[str, Any]
    jobs: tuple[Job, ...]

    def job(self, name: str) -> Job:
        for job in self.jobs:
            if job.name == name:
                return job
        raise InputError(f"{name}: no job of this sweep; its jobs are listed in {SWEEP}")

    def result(self, out: Path, job: EvaluatedJob) -> dict[str, Any] | None:
        """What a run or bundle was evaluated to; none where it is not done, or was evaluated on something else."""
        folder = out / job.name / ("evaluation" if isinstance(job, QuantizeJob) else "")
        try:
            result = json.loads(read_bounded(folder / EVALUATION, MAX_BYTES))
            if not isinstance(result, dict):
                return None
        except (OSError, ValueError, RecursionError):
            return None
        data_hash = self.data_hash[job.data][clips_key(job.recipe.features)]
        is_ours = (result.get("split"), result.get("data_hash")) == (job.split, data_hash) and "macs" in result
        return result if is_ours else None

    def is_done(self, out: Path, job: Job) -> bool:
        return (out / job.name).exists() if isinstance(job, LogitsJob) else self.result(out, job) is not None


def read_record(out: Path) -> SweepRecord:
    """The record of a sweep's folder. Raises InputError if it holds none."""
    try:
        return SweepRecord.model_validate_json(read_bounded(out / SWEEP, MAX_BYTES))
    except OSError:
        raise InputError(f"{out}: holds no {SWEEP}; it is not the folder of a sweep") from None
    except ValidationError as error:
        fault = error.errors(include_url=False)[0]
        key = ".".join(str(part) for part in fault["loc"])
        raise InputError(f"{out / SWEEP}: cannot be read ({key}: {fault['msg']})") from None


def run_job(out: Path, name: str) -> None:
    """Do a job, unless it is done. Raises what training raises, InterruptedRunError after a signal among it."""
    sweep = read_record(out)
    job = sweep.job(name)
    lock_file = out / "locks" / name.replace("/", "-")
    lock_file.parent.mkdir(exist_ok=True)
    with lock_file.open("a") as handle:
        lock(handle)
        handle.truncate(0)
        print(os.getpid(), platform.node(), file=handle, flush=True)  # who is at work
        if sweep.is_done(out, job):
            return
        source = sweep.sources[job.data]
        dataset = source.open()
        if isinstance(job, LogitsJob):
            first = sweep.job(job.needs[0])
            assert isinstance(first, TrainJob)
            clips = source.prepare(dataset, first.recipe.features)
            make_logits([out / need for need in job.needs], dataset, clips, job.split, out / job.name)
            return
        data = TrainingData(dataset, source.prepare(dataset, job.recipe.features), job.split)
        if isinstance(job, QuantizeJob):
            _quantize(out, job, data)
        else:
            _train(out, job, data)


def _train(out: Path, job: TrainJob, data: TrainingData) -> None:
    run = out / job.name
    weights = None
    if job.weights:
        weights = out / job.weights if job.weights in job.needs else find_weights(job.weights, job.recipe.model)
    if not job.probe:
        train(job.recipe, data, RunFolder.begun_or_new(run), weights, job.allow_over_budget)
    elif not run.exists():
        probe(job.recipe, data, run, weights)
    _evaluate(run, open_evaluated_model(run, "torch"), data, training_seconds(run))


def _quantize(out: Path, job: QuantizeJob, data: TrainingData) -> None:
    bundle, settings = out / job.name, list(job.settings)
    if not bundle.exists():
        quantize(
            out / job.needs[0],
            data.dataset,
            data.clips,
            bundle,
            split=job.split,
            overrides=settings,
            allow_over_budget=job.allow_over_budget,
        )
    _evaluate(bundle, open_integers(bundle), data, 0.0)


def open_integers(bundle: Path) -> EvaluatedModel:
    """A bundle, compiled for this machine; where that is not possible by the reference, which is equal but slower."""
    try:
        return open_evaluated_model(bundle, "native")
    except InputError:
        return open_evaluated_model(bundle, "reference")


def _evaluate(path: Path, model: EvaluatedModel, data: TrainingData, seconds: float) -> None:
    """Evaluate a run or a bundle on the test list, and record it. `seconds` are those of its training."""
    evaluation = evaluate(model.predict, data.clips, data.test, groups=data.dataset.device_groups(data.split))
    count = count_target(str(path), None, None)[0]
    about = {
        "model": str(path),
        "data_hash": data.clips.data_hash,
        "split": data.split,
        "runner": model.runner,
        "left_out": count_left_out(evaluation, data.split, data.test),
        "parameters": count.parameters,
        "macs": count.macs,
        "seconds": seconds,
    }
    record(path, evaluation, about)


def stop_with(pipe: int) -> None:
    """Stop as by SIGTERM when whoever holds the other end of a pipe is gone, however it went."""

    def wait() -> None:
        os.read(pipe, 1)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=wait, daemon=True).start()


def main() -> None:
    """A job in this process; one line for what the user can mend."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, help="folder of the sweep")
    parser.add_argument("job", help="name of the job")
    parser.add_argument("--threads", type=int, help="of torch")
    parser.add_argument("--pipe", type=int, help="file descriptor at whose end to stop")
    options = parser.parse_args()
    if options.pipe is not None:
        stop_with(options.pipe)
    if options.threads:
        torch.set_num_threads(options.threads)
    try:
        run_job(options.out, options.job)
    except (TinysceneError, OSError) as error:
        failure = disk_error(error) if isinstance(error, OSError) else error
        print(failure, file=sys.stderr)
        sys.exit(failure.exit_code)


if __name__ == "__main__":
    main()

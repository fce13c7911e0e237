"""How fast this machine does the jobs of a sweep: a few steps of each recipe, measured before anything is trained.

    python -m tinyscene.train.sweep.rates OUT TIME             # measures what OUT/rates.json lacks, in this process

A job's rate holds for its recipe, whatever its seed, teachers and epochs, and for a torch device. What cannot be
measured is left out, and said on stderr.
"""

import argparse
import hashlib
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from pydantic import RootModel, ValidationError

from tinyscene.deploy.common.errors import TinysceneError
from tinyscene.deploy.common.files import temporary_folder, write_whole
from tinyscene.train.data.selection import select
from tinyscene.train.data.training_data import TrainingData
from tinyscene.train.loop.checkpoint import TrainState
from tinyscene.train.loop.loop import make_card
from tinyscene.train.loop.trainer import Hardware, Trainer
from tinyscene.train.models import build, features_of, finish
from tinyscene.train.quantize.quantize import quantize
from tinyscene.train.recipe import Recipe
from tinyscene.train.runs.evaluate import BATCH, Predict, predictor
from tinyscene.train.runs.run import MODEL, save_tensors
from tinyscene.train.settings import Section
from tinyscene.train.sweep.job import SweepRecord, open_integers, read_record, stop_with
from tinyscene.train.sweep.plan import EvaluatedJob, QuantizeJob
from tinyscene.train.teachers.distill import loss_of
from tinyscene.train.training_settings import Distill

RATES = "rates.json"
CPU_BATCH = 16  # clips of a step: one of a transformer takes half a minute
CALIBRATION = 32  # clips, for the time of a quantization
SECONDS, STEPS = 1.0, 10  # of a measurement, at most, after its first step


class Rate(Section):
    """How fast jobs of one recipe go."""

    started: float  # seconds until a process is ready to work
    quantized: float = 0.0  # seconds that a quantization takes
    trained: float = 0.0  # clips a second, in training
    tested: float  # clips a second, of the trained network or of the bundle


Rates = RootModel[dict[str, Rate]]  # by `rate_key`


def read_rates(out: Path) -> dict[str, Rate]:
    """The rates that were measured for a sweep; none where there is no such file."""
    try:
        return Rates.model_validate_json((out / RATES).read_bytes()).root
    except (OSError, ValidationError):
        return {}


def rate_key(job: EvaluatedJob, torch_device: str) -> str:
    """What a job's rate depends on: its kind, its recipe without seed, teachers and epochs, and the torch device."""
    recipe = _alone(job.recipe)
    recipe = recipe.model_copy(update={"seed": 0, "train": recipe.train.model_copy(update={"epochs": 1})})
    digest = hashlib.sha256(json.dumps(recipe.as_dict(), sort_keys=True).encode()).hexdigest()[:16]
    return f"{job.kind} {digest} {torch_device}"


def measured_jobs(sweep: SweepRecord, out: Path) -> list[EvaluatedJob]:
    """The jobs whose rates the rest of a sweep needs: those to come, and the teachers that they ask."""
    left = [job for job in sweep.jobs if not sweep.is_done(out, job)]
    needed = {need for job in left for need in (job.name, *job.needs)}
    return [job for job in sweep.jobs if isinstance(job, EvaluatedJob) and job.name in needed]


def torch_device_name() -> str:
    return torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu"


def measure(out: Path, started: float) -> None:
    """Measure the rates that the jobs to come need and that are not known. `started`: seconds until it was called."""
    sweep, rates, torch_device = read_record(out), read_rates(out), torch_device_name()
    for job in measured_jobs(sweep, out):
        key = rate_key(job, torch_device)
        if key in rates:
            continue
        source = sweep.sources[job.data]
        try:
            dataset = source.open()
            data = TrainingData(dataset, source.prepare(dataset, job.recipe.features), job.split)
            measured = _bundle_rate(job, data) if isinstance(job, QuantizeJob) else _run_rate(job.recipe, data)
        except (TinysceneError, torch.cuda.OutOfMemoryError) as error:  # the others' rates can still be measured
            print(f"{job.name}: {error}", file=sys.stderr)
            continue
        rates[key] = measured.model_copy(update={"started": started})
        write_whole(out / RATES, Rates(rates).model_dump_json(indent=1) + "\n")


def _alone(recipe: Recipe) -> Recipe:
    """A recipe without teachers, which are not trained yet."""
    return recipe.model_copy(update={"distill": Distill()})


def _run_rate(recipe: Recipe, data: TrainingData) -> Rate:
    recipe, hardware = _alone(recipe), Hardware.join(recipe.train)
    if hardware.torch_device.type == "cpu":
        batch_size = min(CPU_BATCH, recipe.train.batch_size)
        recipe = recipe.model_copy(update={"train": recipe.train.model_copy(update={"batch_size": batch_size})})
    network = build(recipe.model, len(data.clips.labels)).to(hardware.torch_device)
    network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    trainer = Trainer(network, recipe, loss_of(recipe.distill), select(recipe, data), hardware)

    def step() -> int:
        state = TrainState()
        trainer.step(state, STEPS * 1000, stopping=False)  # at a low learning rate
        return state.clips

    trained = _clips_a_second(step)
    predict = predictor(network, features_of(recipe), hardware.torch_device)
    return Rate(started=0, trained=trained, tested=_tested(predict, data))


def _bundle_rate(job: QuantizeJob, data: TrainingData) -> Rate:
    """Of a network that was not trained."""
    clips = min(CALIBRATION, job.recipe.quantize.clips)
    network = finish(build(job.recipe.model, len(data.clips.labels)))
    with temporary_folder() as folder:
        run, bundle = folder / "run", folder / "bundle"
        run.mkdir()
        save_tensors(run / MODEL, network.state_dict(), make_card(job.recipe.as_dict(), data, None))
        began = time.monotonic()
        quantize(run, data.dataset, data.clips, bundle, overrides=[f"quantize.clips={clips}"], allow_over_budget=True)
        seconds = (time.monotonic() - began) * job.recipe.quantize.clips / clips
        return Rate(started=0, quantized=seconds, tested=_tested(open_integers(bundle).predict, data))


def _tested(predict: Predict, data: TrainingData) -> float:
    pcm = data.clips.pcm[data.training_clips()[:BATCH]]

    def step() -> int:
        predict(pcm)
        return len(pcm)

    return _clips_a_second(step)


def _clips_a_second(step: Callable[[], int]) -> float:
    """The rate of a step that returns how many clips it took, after one step that is not measured."""
    step()
    began, clips = time.monotonic(), 0
    for _ in range(STEPS):
        clips += step()
        if time.monotonic() - began > SECONDS:
            break
    return clips / (time.monotonic() - began)


def main() -> None:
    """Measure in this process."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, help="folder of the sweep")
    parser.add_argument("began", type=float, help="time at which the process was asked for")
    parser.add_argument("--threads", type=int, default=1, help="of torch")
    parser.add_argument("--pipe", type=int, help="file descriptor at whose end to stop")
    options = parser.parse_args()
    if options.pipe is not None:
        stop_with(options.pipe)
    torch.set_num_threads(options.threads)
    measure(options.out, max(0.0, time.time() - options.began))


if __name__ == "__main__":
    main()

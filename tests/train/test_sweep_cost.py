"""What a sweep costs: measured rates times the work that is left, against sums made by hand."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from tests.train.test_loop import QUICK
from tests.train.test_sweep import few_clips
from tests.train.test_sweep_plan import ONE, write
from tinyscene.train.recipe import Recipe, override
from tinyscene.train.runs.run import METRICS
from tinyscene.train.sweep.begin import begin
from tinyscene.train.sweep.cost import SweepCost, estimate
from tinyscene.train.sweep.job import Source
from tinyscene.train.sweep.plan import EvaluatedJob
from tinyscene.train.sweep.rates import RATES, Rate, measure, rate_key, read_rates
from tinyscene.train.sweep.status import SweepStatus

RUNS = """
  first: {recipe: nano}
  student: {recipe: nano, set: [augment.freq_mask=8], distill: [first], seeds: [0]}
  online: {recipe: nano, set: [augment.freq_mask=9], online: first, seeds: [0]}
  int8: {quantize: first}
"""
TRAIN, TEST, EPOCHS = 40, 21, 3  # clips in split 5 of the data, and epochs
RATE = Rate(started=1, quantized=5, trained=10, tested=20)
TRAINING, TESTING = TRAIN * EPOCHS / 10, TEST / 20  # seconds at this rate


@pytest.fixture(scope="module")
def data(sample: Path, tmp_path_factory: pytest.TempPathFactory) -> Source:
    return few_clips(sample, tmp_path_factory.mktemp("few") / "few")


@pytest.fixture
def status(data: Source, tmp_path: Path) -> SweepStatus:
    """A sweep that was begun and has not trained anything."""
    file, settings, out = write(tmp_path, ONE.replace("[0]", "[0, 1]") + RUNS), (*QUICK, "train.epochs=3"), tmp_path
    return SweepStatus(out / "out", begin(file, {"": data}, settings, out / "out"))


def write_rates(status: SweepStatus, *left_out: str) -> None:
    """The same rate for all entries but some."""
    jobs = [job for job in status.sweep.jobs if isinstance(job, EvaluatedJob) and job.run not in left_out]
    rates = {rate_key(job, "cpu"): RATE.model_dump() for job in jobs}
    (status.out / RATES).write_text(json.dumps(rates))


def hours_of(cost: SweepCost) -> dict[str, float | None]:
    return {stage.stage: stage.hours for stage in cost.stages}


@pytest.fixture(autouse=True)
def on_a_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)


@pytest.fixture
def unmeasured(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is measured."""
    monkeypatch.setattr("tinyscene.train.sweep.cost._measure", lambda *_: None)


@pytest.mark.usefixtures("unmeasured")
def test_a_stage_costs_its_clips_by_their_rates(status: SweepStatus) -> None:
    write_rates(status)
    cost = estimate(status, 1)
    run = 1 + TRAINING + TESTING
    seconds = {
        "first": 2 * run,
        "logits": 1 + 2 * TRAIN / 20,  # of two teachers
        "student": run,
        "online": run + TRAIN * EPOCHS / 20,  # the teacher hears each clip
        "int8": 2 * (1 + 5 + TESTING),
    }
    assert hours_of(cost) == pytest.approx({stage: value / 3600 for stage, value in seconds.items()})
    assert cost.hours == pytest.approx(sum(seconds.values()) / 3600)  # one after the other
    first = cost.stages[0]
    assert (first.stage, first.jobs, first.clips, first.clips_per_second) == ("first", 2, 2 * TRAIN * EPOCHS, 10)


@pytest.mark.usefixtures("unmeasured")
def test_jobs_at_the_same_time_wait_for_those_they_need(status: SweepStatus, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tinyscene.train.sweep.sweep.available_cores", lambda: 9)
    write_rates(status)
    run, logits, bundle = 1 + TRAINING + TESTING, 1 + 2 * TRAIN / 20, 1 + 5 + TESTING
    online = run + TRAIN * EPOCHS / 20
    # two at a time: first and first; logits, student and a bundle beside online and the other bundle
    assert estimate(status, 2).hours == pytest.approx((run + max(logits + run, online) + bundle) / 3600)
    # on many: the longest chain
    assert estimate(status, 9).hours == pytest.approx((run + max(logits + run, online, bundle)) / 3600)


@pytest.mark.usefixtures("unmeasured")
def test_more_jobs_than_cores_are_no_faster_than_as_many(status: SweepStatus, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tinyscene.train.sweep.sweep.available_cores", lambda: 2)
    write_rates(status)
    many, two = estimate(status, 9), estimate(status, 2)
    assert (many.slots, many.hours) == (9, two.hours)


@pytest.mark.usefixtures("unmeasured")
def test_epochs_that_are_done_are_not_counted_again(status: SweepStatus) -> None:
    write_rates(status)
    before = estimate(status, 1).stages[0]
    run = status.out / "runs" / "first-5-0"
    run.mkdir(parents=True)
    (run / METRICS).write_text("{}\n{}\n")
    assert before.clips - estimate(status, 1).stages[0].clips == 2 * TRAIN


@pytest.mark.usefixtures("unmeasured")
def test_what_could_not_be_measured_is_unknown_and_so_is_the_whole(status: SweepStatus) -> None:
    write_rates(status, "student")
    cost = estimate(status, 1)
    assert [stage for stage, hours in hours_of(cost).items() if hours is None] == ["student"]
    assert cost.hours is None


def test_a_rate_holds_for_other_seeds_teachers_and_epochs_of_a_recipe(status: SweepStatus) -> None:
    job = status.sweep.job("runs/first-5-0")
    assert isinstance(job, EvaluatedJob)

    def key(*settings: str) -> str:
        return rate_key(job.model_copy(update={"recipe": override(job.recipe, list(settings), "")}), "cpu")

    assert key("seed=7", "train.epochs=99", "distill.logits=x") == key()
    assert len({key(), key("augment.freq_mask=1"), key("train.batch_size=8"), key("model.base_channels=16")}) == 4
    assert rate_key(job, "another") != key()


def test_a_recipe_too_large_for_the_gpu_leaves_the_others_rates(
    status: SweepStatus, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def run_rate(recipe: Recipe, _data: object) -> Rate:
        asked.append(recipe.name)
        if len(asked) == 1:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory")
        return Rate(started=0, trained=10, tested=20)

    monkeypatch.setattr("tinyscene.train.sweep.rates._run_rate", run_rate)
    monkeypatch.setattr("tinyscene.train.sweep.rates._bundle_rate", lambda job, data: run_rate(job.recipe, data))
    measure(status.out, started=3.0)
    assert len(read_rates(status.out)) == len(asked) - 1 > 0


@pytest.mark.slow
def test_each_recipe_is_measured_once(status: SweepStatus) -> None:
    measure(status.out, started=3.0)
    rates = read_rates(status.out)
    assert rates.keys() == {rate_key(job, "cpu") for job in status.sweep.jobs if isinstance(job, EvaluatedJob)}
    assert all(rate.started == 3.0 and rate.tested > 0 for rate in rates.values())
    assert all((rate.trained > 0) == key.startswith("train") for key, rate in rates.items())
    assert all((rate.quantized > 0) == key.startswith("quantize") for key, rate in rates.items())
    written = (status.out / RATES).read_bytes()
    measure(status.out, started=4.0)
    assert (status.out / RATES).read_bytes() == written
    assert not (status.out / "runs").exists()


@pytest.mark.slow
def test_a_dry_run_says_what_the_sweep_costs_and_trains_nothing(
    data: Source, tmp_path: Path, run_cli: Callable[..., tuple[int, str, str]]
) -> None:
    file, out = write(tmp_path, ONE + "  first: {recipe: nano}\n  bad: {recipe: nano, weights: published}\n"), "out"
    arguments = ["sweep", file, "--data", data.folder, "--out", tmp_path / out, "--dry-run", "--json"]
    code, said, _ = run_cli(*arguments, *(word for setting in QUICK for word in ("--set", setting)))
    cost = json.loads(said)
    assert code == 0
    assert [stage["stage"] for stage in cost["stages"]] == ["first", "bad"]
    assert cost["hours"] > 0
    assert not (tmp_path / out / "runs").exists()

"""Sweeps: what their runs and tables hold, and that a broken sweep ends like an unbroken one."""

import csv
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.train.test_loop import QUICK, ROOT, environment, metrics_of, same_weights
from tests.train.test_sweep_plan import ONE, write
from tinyscene.benchmarks.experiments.sweep_table import main as sweep_table
from tinyscene.deploy.bundle.bundle import open_bundle
from tinyscene.deploy.common.errors import InputError
from tinyscene.train.data.cache import prepare
from tinyscene.train.data.download import DownloadError
from tinyscene.train.runs.evaluate import evaluate, open_evaluated_model
from tinyscene.train.runs.run import load_model
from tinyscene.train.sweep.job import Source, read_record
from tinyscene.train.sweep.status import SweepStatus
from tinyscene.train.sweep.sweep import FailedRunsError, named_sources, run_sweep, slots, start
from tinyscene.train.teachers.logits import read_logits


def few_clips(sample: Path, folder: Path) -> Source:
    """A copy of the sample with 40 and 60 training clips in its 5 % and 10 % splits, and 21 for the test."""
    lists = {}
    for name, source, step in (("split5", "split5", 3), ("split10", "split5", 2), ("test", "test", 20)):
        header, *lines = (sample / "evaluation_setup" / f"{source}.csv").read_text().splitlines()
        lists[name] = [header, *lines[::step]]
    kept = {line.split("\t")[0] for lines in lists.values() for line in lines}
    meta = [line for line in (sample / "meta.csv").read_text().splitlines() if line.split("\t")[0] in kept]
    (folder / "evaluation_setup").mkdir(parents=True)
    (folder / "audio").mkdir()
    for name, lines in lists.items():
        (folder / "evaluation_setup" / f"{name}.csv").write_text("\n".join(lines) + "\n")
    (folder / "meta.csv").write_text("\n".join(meta) + "\n")
    for line in meta[1:]:
        name = line.split("\t")[0]
        shutil.copy(sample / name, folder / name)
    return Source(folder=str(folder))


def table(out: Path) -> dict[str, dict[str, str]]:
    """The rows of a sweep's table by run, split and seed, without what depends on the clock."""
    with (out / "results.csv").open(encoding="utf-8") as handle:
        rows = list(csv.DictReader(handle))
    return {f"{row['run']}-{row['split']}-{row['seed']}": {**row, "seconds": ""} for row in rows}


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 120
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def worker_of(out: Path, job: str) -> int:
    """The process that is at work on a job."""
    return int((out / "locks" / job.replace("/", "-")).read_text().split()[0])


@pytest.fixture(scope="module")
def data(sample: Path, tmp_path_factory: pytest.TempPathFactory) -> Source:
    return few_clips(sample, tmp_path_factory.mktemp("few") / "few")


@pytest.fixture(scope="module")
def swept(data: Source, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Exception]:
    """The folder of a sweep with one run that fails, and what was raised at its end. Not to be changed: copy it."""
    folder = tmp_path_factory.mktemp("sweeps")
    runs = """
  student: {recipe: nano, distill: [first]}
  first: {recipe: nano, seeds: [0, 1]}
  broken: {recipe: nano, set: [augment.dir_folder=/nowhere, augment.dir_p=1]}
  after: {recipe: nano, weights: broken}
  last: {recipe: nano, weights: after}
  int8: {quantize: first, seeds: [1], set: [quantize.clips=16]}
  lost: {quantize: broken}
"""
    with pytest.raises(FailedRunsError) as raised:
        run_sweep(write(folder, ONE + runs), data, folder / "out", settings=[*QUICK, "train.epochs=2"])
    return folder / "out", raised.value


# Refusals


@pytest.mark.parametrize(
    ("runs", "line"),
    [
        ("  a: {recipe: nono}", "runs.a: there is no recipe 'nono': did you mean 'nano'"),
        ("  a: {recipe: nano, set: [train.epoch=3]}", "runs.a: .*did you mean 'train.epochs'"),
        ("  a: {recipe: nano, set: [seed=3]}", "runs.a: seed=3: .*under `seeds`"),
        ("  a: {recipe: nano, weights: gone.safetensors}", "runs.a: weights gone.safetensors: no such file"),
        ("  a: {recipe: nano, splits: ['7']}", "has no split '7'; it has 5, 10"),
        ("  a: {recipe: nano, data: other, splits: [fold1]}", "with --other other=FOLDER"),
    ],
)
def test_what_cannot_be_trained_is_found_before_anything_is(runs: str, line: str, data: Source, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=line):
        run_sweep(write(tmp_path, ONE + runs + "\n"), data, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_key_that_the_sweep_requires_is_asked_for(data: Source, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"sweep dcase2024 needs a value of augment.dir_folder: add --set augment"):
        run_sweep("dcase2024", data, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_published_weights_that_cannot_be_fetched_end_a_sweep_before_anything_is_trained(
    data: Source, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> Path:
        raise DownloadError("Timeout")

    monkeypatch.setattr("tinyscene.train.runs.transfer.download", fail)
    runs = "  a: {recipe: nano}\n  b: {recipe: passt, weights: published}\n"
    with pytest.raises(InputError, match=r"runs.b.weights: https.*cannot be downloaded \(Timeout\); get it") as raised:
        run_sweep(write(tmp_path, ONE + runs), data, tmp_path / "out")
    assert "\n" not in str(raised.value)
    assert not (tmp_path / "out" / "runs").exists()


def test_runs_without_the_responses_that_they_ask_for_are_named(
    data: Source, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("tinyscene.train.sweep.sweep.run_locally", lambda *_: None)
    runs = "  a: {recipe: nano}\n  b: {recipe: nano, set: [augment.dir_p=0.5]}\n  c: {recipe: student-scratch}\n"
    run_sweep(write(tmp_path, ONE + runs), data, tmp_path / "out")
    assert "no augment.dir_folder is named: b, c: without impulse responses" in capsys.readouterr().err


def test_other_datasets_are_named_once() -> None:
    assert named_sources(["a=x", "b=y=z"]) == {"a": Source(folder="x"), "b": Source(folder="y=z")}
    for other in (["a"], ["=x"], ["a="], ["a=x", "a=y"]):
        with pytest.raises(InputError, match="NAME=FOLDER"):
            named_sources(other)


# What a sweep does


def test_the_table_holds_what_evaluating_the_runs_gives(swept: tuple[Path, Exception], data: Source) -> None:
    out, _ = swept
    dataset = data.open()
    for name in ("first-5-0", "first-5-1", "student-5-0"):
        row = table(out)[name]
        result = evaluate(
            open_evaluated_model(out / "runs" / name, "").predict, prepare(dataset, 32_000), dataset.split("5")[1]
        )
        assert row["state"] == "done"
        assert int(row["clips"]) == result.clips == 21
        assert float(row["macro_accuracy"]) == pytest.approx(result.macro_accuracy)
        assert float(row["log_loss"]) == pytest.approx(result.log_loss, rel=1e-5)
        for column, key in (("class", "by_class"), ("device", "by_device"), ("group", "by_device_group")):
            found = {name: float(row[f"{column}.{name}"]) for name in getattr(result, key)}
            assert found == pytest.approx({name: part.accuracy for name, part in getattr(result, key).items()})
        assert int(row["parameters"]) == 12_538  # what `tinyscene budget nano` counts


def test_a_bundles_row_holds_what_the_reference_gives(swept: tuple[Path, Exception], data: Source) -> None:
    row, bundle = table(swept[0])["int8-5-1"], open_bundle(swept[0] / "bundles" / "int8-5-1")
    dataset = data.open()
    predict = open_evaluated_model(bundle.folder, "reference").predict
    result = evaluate(predict, prepare(dataset, 32_000), dataset.split("5")[1])
    assert (row["state"], row["recipe"], int(row["clips"])) == ("done", "nano", 21)
    assert float(row["macro_accuracy"]) == pytest.approx(result.macro_accuracy)
    assert float(row["log_loss"]) == pytest.approx(result.log_loss, rel=1e-5)
    assert bundle.content["quantized"]["calibration_clips"] == 16


def test_a_bundle_with_other_settings_is_refused_by_its_name(
    swept: tuple[Path, Exception], data: Source, tmp_path: Path
) -> None:
    runs = "  first: {recipe: nano, seeds: [0, 1]}\n  int8: {quantize: first, seeds: [1], set: [quantize.clips=17]}\n"
    with pytest.raises(InputError, match=r"bundles/int8-5-1: was made with quantize.clips=16, not 17"):
        run_sweep(write(tmp_path, ONE + runs), data, swept[0], settings=[*QUICK, "train.epochs=2"])


def test_a_failed_run_is_recorded_with_its_reason_and_what_needs_it_is_skipped(swept: tuple[Path, Exception]) -> None:
    rows = table(swept[0])
    assert {name: row["state"] for name, row in rows.items()} == {
        "first-5-0": "done",
        "first-5-1": "done",
        "broken-5-0": "failed",
        "after-5-0": "skipped",
        "last-5-0": "skipped",
        "student-5-0": "done",
        "int8-5-1": "done",
        "lost-5-0": "skipped",
    }
    assert rows["broken-5-0"]["reason"].startswith("/nowhere: no such folder")
    assert rows["after-5-0"]["reason"].startswith("needs runs/broken-5-0, which failed: /nowhere")
    assert rows["last-5-0"]["reason"] == "needs runs/after-5-0, which was skipped"


def test_a_sweep_with_failed_runs_ends_with_exit_code_1_and_says_how_many(swept: tuple[Path, Exception]) -> None:
    _, error = swept
    assert isinstance(error, FailedRunsError)
    assert error.exit_code == 1
    assert "of 8 runs 1 failed and 3 were skipped" in str(error)


def test_the_logits_are_the_mean_over_the_seeds(swept: tuple[Path, Exception], data: Source) -> None:
    out, _ = swept
    dataset = data.open()
    clips = prepare(dataset, 32_000)
    pcm = clips.pcm[clips.select(dataset.split("5")[0])[:8]]
    outputs = []
    for seed in (0, 1):
        probabilities = open_evaluated_model(out / "runs" / f"first-5-{seed}", "").predict(pcm)
        outputs.append(torch.from_numpy(probabilities).log())  # logits but for a constant a clip
    (file,) = (out / "logits").iterdir()
    values = read_logits(file).values[0, :8]
    torch.testing.assert_close(values.softmax(1), torch.stack(outputs).mean(0).softmax(1), rtol=1e-3, atol=1e-5)
    assert load_model(out / "runs" / "student-5-0")[1].parsed_recipe.distill.logits == str(file)


def test_a_sweep_that_is_not_done_gives_no_table_of_record(swept: tuple[Path, Exception], tmp_path: Path) -> None:
    with pytest.raises(InputError, match="4 runs are not done; go on with `tinyscene sweep`"):
        sweep_table(swept[0], tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_table_of_record_says_how_long_all_runs_trained(swept: tuple[Path, Exception], tmp_path: Path) -> None:
    out = shutil.copytree(swept[0], tmp_path / "out", ignore=shutil.ignore_patterns("runs"))
    header, *lines = (out / "results.csv").read_text().splitlines()
    done = [line for line in lines if ",done," in line]
    (out / "results.csv").write_text("\n".join([header, *done]) + "\n")
    sweep_table(out, tmp_path)
    content = json.loads((tmp_path / "one.json").read_text())
    assert len(done) == 4
    assert content["seconds"] == pytest.approx(sum(float(row["seconds"]) for row in csv.DictReader([header, *done])))
    assert content["settings"] == [*QUICK, "train.epochs=2"]


def test_the_same_command_tries_again_what_failed_and_leaves_the_rest_alone(
    swept: tuple[Path, Exception], data: Source, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    statuses: list[SweepStatus] = []
    monkeypatch.setattr("tinyscene.train.sweep.sweep.run_locally", lambda status, _: statuses.append(status))
    shutil.copytree(swept[0], out := tmp_path / "out")
    settings = [*QUICK, "train.epochs=2"]
    runs = "  first: {recipe: nano, seeds: [0, 1]}\n  broken: {recipe: nano, set: [augment.dir_folder=/nowhere]}\n"
    runs += "  after: {recipe: nano, weights: broken}\n"
    run_sweep(write(tmp_path, ONE + runs), data, out, settings=settings)
    (status,) = statuses
    assert [job.name for job in status.ready()] == ["runs/broken-5-0"]
    status.end(status.sweep.job("runs/broken-5-0"), "")  # without having done anything
    assert table(out)["broken-5-0"]["reason"] == "ended without a result"
    assert table(out)["after-5-0"]["state"] == "skipped"


def test_a_recipe_that_changed_is_refused_by_the_name_of_its_run(swept: tuple[Path, Exception], data: Source) -> None:
    out, folder = swept[0], swept[0].parent
    line = "runs/first-5-0: was made with train.epochs=2, not 3"
    with pytest.raises(InputError, match=line):
        run_sweep(str(folder / "sweep.yaml"), data, out, settings=[*QUICK, "train.epochs=3"])


def test_weights_of_another_run_are_another_recipe(
    swept: tuple[Path, Exception], data: Source, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = shutil.copytree(swept[0], tmp_path / "out")
    runs = "  first: {recipe: nano, weights: more}\n  more: {recipe: nano}\n"
    with pytest.raises(InputError, match="first-5-0: was made with weights None, not runs/more-5-0"):
        run_sweep(write(tmp_path, ONE + runs), data, out, settings=[*QUICK, "train.epochs=2"])


def test_a_sweep_goes_on_where_its_folder_was_moved_to(
    swept: tuple[Path, Exception], data: Source, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    statuses: list[SweepStatus] = []
    monkeypatch.setattr("tinyscene.train.sweep.sweep.run_locally", lambda status, _: statuses.append(status))
    out = shutil.copytree(swept[0], tmp_path / "moved")
    run_sweep(str(swept[0].parent / "sweep.yaml"), data, out, settings=[*QUICK, "train.epochs=2"])
    assert [job.name for job in statuses[0].ready()] == ["runs/broken-5-0"]
    assert table(out)["student-5-0"]["state"] == "done"


def test_runs_and_seeds_may_be_added(
    swept: tuple[Path, Exception], data: Source, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    statuses: list[SweepStatus] = []
    monkeypatch.setattr("tinyscene.train.sweep.sweep.run_locally", lambda status, _: statuses.append(status))
    out = shutil.copytree(swept[0], tmp_path / "out")
    runs = "  first: {recipe: nano, seeds: [0, 1, 2]}\n  more: {recipe: nano}\n"
    run_sweep(write(tmp_path, ONE + runs), data, out, settings=[*QUICK, "train.epochs=2"])
    assert [job.name for job in statuses[0].ready()] == ["runs/first-5-2", "runs/more-5-0"]
    assert table(out)["first-5-1"]["state"] == "done"


def test_a_folder_of_another_sweep_or_of_something_else_is_refused(
    swept: tuple[Path, Exception], data: Source, tmp_path: Path
) -> None:
    file = write(tmp_path, ONE.replace("name: one", "name: two") + "  first: {recipe: nano}\n")
    with pytest.raises(InputError, match="holds the sweep one, not two"):
        run_sweep(file, data, swept[0])
    with pytest.raises(InputError, match="not empty"):
        run_sweep(file, data, tmp_path)


def test_other_data_under_the_same_name_is_refused(swept: tuple[Path, Exception], data: Source, tmp_path: Path) -> None:
    changed = Path(shutil.copytree(data.folder, tmp_path / "changed"))
    first, second = sorted((changed / "audio").iterdir())[:2]
    shutil.copy(first, second)
    with pytest.raises(InputError, match="was trained on other data than"):
        run_sweep(
            str(swept[0].parent / "sweep.yaml"),
            Source(folder=str(changed)),
            swept[0],
            settings=[*QUICK, "train.epochs=2"],
        )


def test_an_evaluation_on_something_else_is_not_taken_for_the_runs(
    swept: tuple[Path, Exception], tmp_path: Path
) -> None:
    out = Path(shutil.copytree(swept[0], tmp_path / "out"))
    sweep = read_record(out)
    job = sweep.job("runs/first-5-0")
    assert sweep.is_done(out, job)
    path = out / job.name / "evaluation.json"
    result: dict[str, Any] = json.loads(path.read_text())
    for key, value in (("split", "10"), ("data_hash", "0")):
        path.write_text(json.dumps(result | {key: value}))
        assert not sweep.is_done(out, job)
    for content in ("{", "[]", 100_000 * "["):
        path.write_text(content)
        assert not sweep.is_done(out, job)


@pytest.mark.parametrize(
    ("visible", "jobs", "expected"),
    [(None, None, ["0", "1"]), ("3,5", None, ["3", "5"]), ("3,5", 3, ["3", "5", "3"])],
)
def test_each_job_of_a_time_has_a_gpu_of_its_own_where_there_are_enough(
    visible: str | None, jobs: int | None, expected: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert [slot["CUDA_VISIBLE_DEVICES"] for slot in slots(jobs)] == expected


def test_without_a_gpu_there_is_a_job_a_core(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.device_count", lambda: 0)
    assert slots(None) == [{}] * len(os.sched_getaffinity(0))
    assert slots(3) == [{}] * 3


def test_the_threads_of_a_job_sleep_while_they_wait(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OMP_WAIT_POLICY", raising=False)  # as where Python calls the sweep
    program = "import os; print(os.environ['OMP_WAIT_POLICY'], os.environ['OMP_NUM_THREADS'])"
    ends = os.pipe()
    assert start([sys.executable, "-c", program], 3, {}, tmp_path / "log", ends[0]).wait() == 0
    assert (tmp_path / "log").read_text() == "PASSIVE 3\n"
    for end in ends:
        os.close(end)


# Broken and resumed sweeps

LONG = [*QUICK, "train.epochs=20"]
TWO = ONE.replace("[0]", "[0, 1]") + "  first: {recipe: nano}\n  tuned: {recipe: nano, weights: first}\n"


@pytest.fixture(scope="module")
def unbroken(data: Source, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("unbroken")
    run_sweep(write(folder, TWO), data, folder / "out", settings=LONG)
    return folder / "out"


def assert_same(out: Path, other: Path) -> None:
    """Two sweeps have the same table, and their runs the same metrics and weights."""
    assert table(out) == table(other)
    for run in (path.name for path in (other / "runs").iterdir()):
        assert metrics_of(out / "runs" / run) == metrics_of(other / "runs" / run)
        assert same_weights(out / "runs" / run, other / "runs" / run)


@pytest.mark.slow
def test_a_killed_job_is_one_failed_run_and_goes_on_from_its_checkpoint(
    unbroken: Path, data: Source, tmp_path: Path
) -> None:
    out = tmp_path / "out"

    def kill() -> None:
        wait_for((out / "runs" / "first-5-0" / "checkpoint.safetensors").exists)
        os.kill(worker_of(out, "runs/first-5-0"), signal.SIGKILL)

    killer = threading.Thread(target=kill)
    killer.start()
    with pytest.raises(FailedRunsError):
        run_sweep(write(tmp_path, TWO), data, out, settings=LONG)
    killer.join()
    rows = table(out)
    assert rows["first-5-0"]["reason"] == "killed by SIGKILL (out of memory?)"
    assert rows["first-5-1"]["state"] == rows["tuned-5-1"]["state"] == "done"
    assert rows["tuned-5-0"]["state"] == "skipped"
    assert len(metrics_of(out / "runs" / "first-5-0")) < 20
    run_sweep(write(tmp_path, TWO), data, out, settings=LONG)
    assert_same(out, unbroken)


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT, signal.SIGTERM])
def test_a_stopped_sweep_goes_on_and_ends_like_an_unbroken_one(
    number: signal.Signals, unbroken: Path, data: Source, cache: Path, tmp_path: Path
) -> None:
    out, file = tmp_path / "out", write(tmp_path, TWO)
    program = (
        "import sys; from pathlib import Path; from tinyscene.deploy.common.errors import TinysceneError\n"
        "from tinyscene.train.sweep.sweep import Source, run_sweep\n"
        f"try: run_sweep({file!r}, Source(folder={data.folder!r}), Path({str(out)!r}), settings={LONG!r})\n"
        "except TinysceneError as error: print(error, file=sys.stderr); sys.exit(error.exit_code)\n"
    )
    parent = subprocess.Popen(
        [sys.executable, "-c", program], cwd=ROOT, env=environment(cache), stderr=subprocess.PIPE, text=True
    )
    wait_for((out / "runs" / "first-5-0" / "checkpoint.safetensors").exists)
    job = worker_of(out, "runs/first-5-0")
    parent.send_signal(number)
    _, errors = parent.communicate(timeout=60)
    if number == signal.SIGKILL:
        wait_for(lambda: not Path(f"/proc/{job}").exists())  # it hears that its parent is gone, and saves
    else:
        assert (parent.returncode, errors.count("\n")) == (130, 1)
        assert "the same command goes on" in errors
        assert not Path(f"/proc/{job}").exists()
        assert table(out)["first-5-0"]["state"] == "waiting"
    assert not (out / "runs" / "first-5-0" / "model.safetensors").exists()
    run_sweep(file, data, out, settings=LONG)
    assert_same(out, unbroken)


@pytest.mark.slow
def test_a_job_left_over_from_a_killed_sweep_is_waited_for(data: Source, cache: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    runs = "  first: {recipe: nano}\n"
    run_sweep(write(tmp_path, ONE + runs), data, out, settings=[*QUICK, "train.epochs=1"])
    shutil.rmtree(out / "runs" / "first-5-0")
    command = [sys.executable, "-m", "tinyscene.train.sweep.job", str(out), "runs/first-5-0"]
    jobs = [subprocess.Popen(command, cwd=ROOT, env=environment(cache)) for _ in range(2)]
    assert [job.wait(timeout=120) for job in jobs] == [0, 0]
    assert len(metrics_of(out / "runs" / "first-5-0")) == 1

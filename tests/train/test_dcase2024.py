"""The sweep dcase2024 in its small variant: each stage is killed once, and the table is that of an unbroken sweep."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import soundfile

from tests import ROOT
from tests.train.test_loop import environment
from tests.train.test_sweep import assert_same, few_clips, table
from tinyscene.train.sweep.job import Source, read_record
from tinyscene.train.sweep.report import report

STAGES = ("runs/pretrained_dir-10-0", "runs/cp_resnet_both-5-0", "logits/", "runs/student-10-1", "bundles/int8-5-1")
SECONDS = 1200  # that a sweep may take until a stage, on a busy machine


@pytest.fixture(scope="module")
def data(sample: Path, tmp_path_factory: pytest.TempPathFactory) -> Source:
    return few_clips(sample, tmp_path_factory.mktemp("few") / "few")


@pytest.fixture(scope="module")
def responses(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the impulse response of a microphone."""
    folder = tmp_path_factory.mktemp("responses")
    soundfile.write(folder / "one.wav", np.array([1.0, 0.5, -0.25, 0.1]), 32_000)
    return folder


def sweep(data: Source, responses: Path, out: Path, cache: Path) -> subprocess.Popen[str]:
    """The command, in a process."""
    arguments = ["dcase2024", "--small", "--data", data.folder, "--out", str(out), "--jobs", "2"]
    return subprocess.Popen(
        [sys.executable, "-m", "tinyscene", "sweep", *arguments, "--set", f"augment.dir_folder={responses}"],
        cwd=ROOT,
        env=environment(cache),
        stderr=subprocess.PIPE,
        text=True,
    )


def kill_in(stage: str, command: subprocess.Popen[str], out: Path) -> None:
    """Kill a sweep and the process of its job, once it is at work on a stage."""
    deadline, pattern = time.monotonic() + SECONDS, f"{stage.replace('/', '-')}*"
    while not (words := [word for lock in (out / "locks").glob(pattern) for word in lock.read_text().split()]):
        assert time.monotonic() < deadline
        assert command.poll() is None
        time.sleep(0.01)
    os.kill(int(words[0]), signal.SIGKILL)
    command.kill()
    command.communicate(timeout=60)


@pytest.mark.slow
def test_the_small_dcase_sweep_ends_with_the_same_table_when_each_stage_was_killed_once(
    data: Source, responses: Path, cache: Path, tmp_path: Path
) -> None:
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    unbroken = sweep(data, responses, whole, cache)
    _, said = unbroken.communicate(timeout=SECONDS)
    assert unbroken.returncode == 0, said
    assert "without the published weights" in said
    assert "hours with 2 at a time" in said
    for stage in STAGES:
        kill_in(stage, sweep(data, responses, broken, cache), broken)
        killed = next(job for job in read_record(broken).jobs if job.name.startswith(stage))
        assert not read_record(broken).is_done(broken, killed)
    resumed = sweep(data, responses, broken, cache)
    _, said = resumed.communicate(timeout=SECONDS)
    assert resumed.returncode == 0, said
    assert_same(broken, whole)
    assert {row["state"] for row in table(whole).values()} == {"done"}
    summary = report(broken)
    assert {(result.run, result.split) for result in summary.results} >= {("student", "10"), ("int8", "10")}
    assert "| published student of 3 PaSST and 3 CNNs (TAU) |" in (broken / "report.md").read_text()

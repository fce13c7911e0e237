"""Sweeps on a Ray cluster of two nodes on this machine: nothing is lost when a worker or a node is."""

import contextlib
import os
import shutil
import signal
import threading
from collections.abc import Iterator
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import pytest
import torch

from tests.train.test_loop import QUICK, metrics_of
from tests.train.test_sweep import assert_same, few_clips, table, wait_for, worker_of
from tests.train.test_sweep_plan import ONE, write
from tinyscene.deploy.common.errors import InputError
from tinyscene.train.loop.loop import InterruptedRunError
from tinyscene.train.sweep.job import Source, run_job
from tinyscene.train.sweep.status import SweepStatus
from tinyscene.train.sweep.sweep import FailedRunsError, run_sweep

pytest.importorskip("ray")
from ray.cluster_utils import Cluster

SETTINGS = [*QUICK, "train.epochs=12"]
RUNS = ONE.replace("[0]", "[0, 1]") + "  first: {recipe: nano}\n"


@pytest.fixture(scope="module")
def data(sample: Path, tmp_path_factory: pytest.TempPathFactory) -> Source:
    return few_clips(sample, tmp_path_factory.mktemp("few") / "few")


@pytest.fixture(scope="module")
def unbroken(data: Source, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same sweep on this machine, in this process."""
    folder = tmp_path_factory.mktemp("unbroken")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("tinyscene.train.sweep.sweep.run_locally", _in_this_process)
        run_sweep(write(folder, RUNS), data, folder / "out", settings=SETTINGS)
    return folder / "out"


def _in_this_process(status: SweepStatus, _: int | None) -> None:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    for job in status.ready():
        run_job(status.out, job.name)
        status.end(job, "")
    torch.set_num_threads(threads)


@pytest.fixture
def cluster(cache: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Two nodes of a core each, whose files are in a folder of their own and gone afterwards."""
    folder = mkdtemp(prefix="ray", dir="/tmp")  # the paths of its sockets must be short
    for name, value in (("RAY_TMPDIR", folder), ("RAY_USAGE_STATS_ENABLED", "0")):
        monkeypatch.setenv(name, value)
    nodes = Cluster()
    try:
        for _ in range(2):
            nodes.add_node(num_cpus=1, include_dashboard=False)
        yield nodes
    finally:
        started = processes_of(raylets(nodes))
        nodes.shutdown()
        wait_for(lambda: not any(Path(f"/proc/{process}").exists() for process in started))
        shutil.rmtree(folder)


def raylets(cluster: Any) -> set[int]:
    """The process of each node that starts its workers."""
    return {node.all_processes["raylet"][0].process.pid for node in cluster.list_all_nodes()}


def node_of(worker: int) -> int:
    """The process that started a worker: its node's raylet."""
    return int(Path(f"/proc/{worker}/stat").read_text().rpartition(")")[2].split()[1])


def processes_of(parents: set[int]) -> list[int]:
    """The processes that these started."""
    found = []
    for path in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):  # it may end meanwhile
            if node_of(int(path.name)) in parents:
                found.append(int(path.name))
    return found


def when_both_are_under_way(out: Path, act: Any) -> threading.Thread:
    def wait() -> None:
        for seed in (0, 1):
            wait_for((out / "runs" / f"first-5-{seed}" / "checkpoint.safetensors").exists)
        act()

    thread = threading.Thread(target=wait)
    thread.start()
    return thread


@pytest.mark.slow
def test_a_worker_that_is_killed_in_the_middle_of_its_job_loses_nothing(
    cluster: Any, unbroken: Path, data: Source, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    nodes: set[int] = set()

    def kill() -> None:
        workers = [worker_of(out, f"runs/first-5-{seed}") for seed in (0, 1)]
        nodes.update(node_of(worker) for worker in workers)
        assert len(metrics_of(out / "runs" / "first-5-0")) < 12
        os.kill(workers[0], signal.SIGKILL)

    killer = when_both_are_under_way(out, kill)
    result = run_sweep(write(tmp_path, RUNS), data, out, settings=SETTINGS, ray=cluster.address)
    killer.join()
    assert nodes == raylets(cluster)
    assert result["done"] == 2
    assert_same(out, unbroken)


@pytest.mark.slow
def test_a_node_that_is_killed_in_the_middle_of_its_job_loses_nothing(
    cluster: Any, unbroken: Path, data: Source, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    (node,) = cluster.worker_nodes
    killer = when_both_are_under_way(out, lambda: cluster.remove_node(node, allow_graceful=False))
    run_sweep(write(tmp_path, RUNS), data, out, settings=SETTINGS, ray=cluster.address)
    killer.join()
    assert_same(out, unbroken)


@pytest.mark.slow
def test_a_failed_run_on_a_cluster_is_recorded_and_does_not_stop_the_others(
    cluster: Any, data: Source, tmp_path: Path
) -> None:
    runs = """
  first: {recipe: nano}
  broken: {recipe: nano, set: [augment.dir_folder=/nowhere, augment.dir_p=1]}
  after: {recipe: nano, weights: broken}
  student: {recipe: nano, distill: [first]}
"""
    with pytest.raises(FailedRunsError, match="of 4 runs 1 failed and 1 were skipped"):
        run_sweep(
            write(tmp_path, ONE + runs),
            data,
            tmp_path / "out",
            settings=[*QUICK, "train.epochs=2"],
            ray=cluster.address,
        )
    rows = table(tmp_path / "out")
    assert rows["broken-5-0"]["reason"].startswith("/nowhere: no such folder")
    assert rows["student-5-0"]["state"] == "done"


@pytest.mark.slow
def test_ctrl_c_stops_the_jobs_of_a_cluster_which_save_and_go_on(
    cluster: Any, unbroken: Path, data: Source, tmp_path: Path
) -> None:
    out, file = tmp_path / "out", write(tmp_path, RUNS)
    thread = when_both_are_under_way(out, lambda: os.kill(os.getpid(), signal.SIGINT))
    with pytest.raises(InterruptedRunError, match="the same command goes on"):
        run_sweep(file, data, out, settings=SETTINGS, ray=cluster.address)
    thread.join()
    assert {row["state"] for row in table(out).values()} == {"waiting"}
    run_sweep(file, data, out, settings=SETTINGS, ray=cluster.address)
    assert_same(out, unbroken)


@pytest.mark.parametrize("address", ["127.0.0.1:1", "nowhere"])
def test_no_cluster_is_one_line(address: str, data: Source, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=f"--ray {address}: no Ray cluster there") as raised:
        run_sweep(write(tmp_path, RUNS), data, tmp_path / "out", ray=address)
    assert "\n" not in str(raised.value)


def test_without_ray_the_extra_is_named(data: Source, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "ray", None)
    with pytest.raises(InputError, match=r"pip install .*\[cluster\]'"):
        run_sweep(write(tmp_path, RUNS), data, tmp_path / "out", ray="auto")

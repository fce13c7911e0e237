"""Latency on this machine: every runtime that is installed, in one process, in turn.

    python -m tinyscene.benchmarks.experiments.latency BUNDLE     # writes benchmarks/results/latency.json

`tinyscene bench` measures the same.

The whole decision (PCM to logits), the network alone (features to logits) and the front end alone (PCM to features),
one clip per call, one thread, on one core. Each round calls every runtime once, in a new random order, so that
disturbances and warm caches affect all runtimes alike. No runtime is called twice in a row, because a device decides
once a second and does other work in between. Other runtimes are measured in the same process, or left out with the
reason.
"""

import contextlib
import os
import statistics
import time
from collections.abc import Hashable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from tinyscene.benchmarks.measured import Amount, Count, Measured
from tinyscene.benchmarks.runtimes import NATIVE, OURS, Call, decisions_of, front_ends_of, networks_of
from tinyscene.deploy.bundle.bundle import Bundle
from tinyscene.deploy.common.errors import InputError
from tinyscene.deploy.common.processes import load_average
from tinyscene.deploy.common.progress import progress

LEAST_ROUNDS, WARM_UP = 200, 10
MOST_SPREAD, MOST_WAITING = 1.25, 1.1  # third quartile to first, and wall to CPU time, on an idle machine
MOST_STOLEN = 0.01  # share of the time

Name = TypeVar("Name", bound=Hashable)


@dataclass(frozen=True)
class Latency(Measured):
    """Of a runtime, in milliseconds: quartiles of the wall time, and the median of the CPU time."""

    median_ms: Amount
    p25_ms: Amount
    p75_ms: Amount
    rounds: Count
    cpu_ms: Amount = 0.0  # which other processes do not lengthen
    ratio: Amount | None = None  # of the medians, to the fastest peer; not of front ends

    def as_dict(self) -> dict[str, Any]:
        content = super().as_dict()
        return content if self.ratio is not None else {k: v for k, v in content.items() if k != "ratio"}


@dataclass(frozen=True)
class HostLatency(Measured):
    """The latency of every runtime on this machine."""

    decision: dict[str, Latency] = field(default_factory=dict)
    decision_ratio: Amount | None = None  # of ours to the fastest peer's
    latency: dict[str, Latency] = field(default_factory=dict)  # of the network
    front_end: dict[str, Latency] = field(default_factory=dict)
    fastest_peer: str | None = None  # of the network
    ratio: Amount | None = None  # of our network
    missing: dict[str, str] = field(default_factory=dict)  # runtimes, and why they were not measured
    core: int | None = None  # that it ran on
    warnings: list[str] = field(default_factory=list)  # about other load on the machine

    def as_dict(self) -> dict[str, Any]:
        tables = ("decision", "latency", "front_end")
        return super().as_dict() | {key: {n: row.as_dict() for n, row in getattr(self, key).items()} for key in tables}


def host_latency(bundle: Bundle, rounds: int = LEAST_ROUNDS) -> HostLatency:
    """Measure every runtime of a bundle, in parts and whole. Raises InputError for too few rounds."""
    if rounds < LEAST_ROUNDS:
        raise InputError(f"{rounds} rounds: at least {LEAST_ROUNDS} are needed")
    with one_core() as core:
        made = {"decision": decisions_of(bundle), "network": networks_of(bundle), "front end": front_ends_of(bundle)}
        calls = {(part, name): call for part, runtimes in made.items() for name, call in runtimes.calls.items()}
        before = _stolen()
        rows = summarize(interleaved(calls, rounds))
        stolen = _stolen() - before
    parts = {part: {name: rows[part, name] for name in runtimes.calls} for part, runtimes in made.items()}
    (decision, _), (network, fastest) = (with_ratios(parts[part]) for part in ("decision", "network"))
    return HostLatency(
        decision=decision,
        decision_ratio=decision[NATIVE].ratio if NATIVE in decision else None,
        latency=network,
        front_end=parts["front end"],
        fastest_peer=fastest,
        ratio=network[NATIVE].ratio if NATIVE in network else None,
        missing={
            name if part == "network" else f"{part} {name}": reason
            for part, runtimes in made.items()
            for name, reason in runtimes.missing.items()
        },
        core=core,
        warnings=_warnings(network, stolen),
    )


def with_ratios(rows: dict[str, Latency]) -> tuple[dict[str, Latency], str | None]:
    """The rows, each with the ratio of its median to that of the fastest peer; and that peer, if there is one."""
    peers = {name: row.median_ms for name, row in rows.items() if name not in OURS}
    if not peers:
        return rows, None
    fastest = min(peers, key=peers.__getitem__)
    return {name: replace(row, ratio=row.median_ms / peers[fastest]) for name, row in rows.items()}, fastest


def interleaved(calls: Mapping[Name, Call], rounds: int) -> dict[Name, list[tuple[float, float]]]:
    """Wall and CPU milliseconds of every call, each made once a round, in a new random order."""
    names, rng = list(calls), np.random.default_rng(0)
    times: dict[Name, list[tuple[float, float]]] = {name: [] for name in names}
    with progress("measuring", rounds) as advance:
        for turn in range(-WARM_UP, rounds):
            for index in rng.permutation(len(names)):
                call = calls[names[index]]
                started = time.perf_counter(), time.process_time()
                call()
                ended = time.perf_counter(), time.process_time()
                if turn >= 0:
                    times[names[index]].append((1e3 * (ended[0] - started[0]), 1e3 * (ended[1] - started[1])))
            advance(int(turn >= 0))
    return times


def summarize(times: Mapping[Name, list[tuple[float, float]]]) -> dict[Name, Latency]:
    """The quartiles of wall and CPU milliseconds (round, 2)."""
    rows = {}
    for name, pairs in times.items():
        wall, cpu = zip(*pairs, strict=True)
        low, median, high = statistics.quantiles(wall)
        rows[name] = Latency(median, low, high, rounds=len(pairs), cpu_ms=statistics.median(cpu))
    return rows


@contextlib.contextmanager
def one_core() -> Iterator[int | None]:
    """Pin this process to one core, the last it may use, while the block runs; none where that is not possible."""
    if not hasattr(os, "sched_setaffinity"):
        yield None
        return
    allowed = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {max(allowed)})
    try:
        yield max(allowed)
    finally:
        os.sched_setaffinity(0, allowed)


def _stolen() -> float:
    """Seconds of all cores that the host of a virtual machine gave to others while this machine had work for them."""
    stat = Path("/proc/stat")
    words = stat.read_text(encoding="utf-8").split("\n", 1)[0].split() if stat.is_file() else []
    return int(words[8]) / os.sysconf("SC_CLK_TCK") if len(words) > 8 else 0.0


def _warnings(latency: Mapping[str, Latency], stolen: float) -> list[str]:
    """Signs of other load on the machine: spread, waiting for a core, stolen time, the number of processes."""
    warnings = []
    spread = {name: row.p75_ms / row.p25_ms for name, row in latency.items()}
    widest = max(spread, key=spread.__getitem__, default=None)
    if widest and spread[widest] > MOST_SPREAD:
        warnings.append(f"the third quartile of {widest} is {spread[widest]:.2f} times the first: the machine is busy")
    waiting = {name: row.median_ms / row.cpu_ms for name, row in latency.items()}
    longest = max(waiting, key=waiting.__getitem__, default=None)
    if longest and waiting[longest] > MOST_WAITING:
        warnings.append(
            f"{longest} took {waiting[longest]:.1f} times its CPU time: other processes use the core; see cpu_ms"
        )
    seconds = sum(row.median_ms * row.rounds for row in latency.values()) / 1e3
    if stolen > MOST_STOLEN * seconds:
        warnings.append(f"the host of this virtual machine took {stolen:.1f} s: the machine shares its cores")
    load, cores = load_average(), os.cpu_count() or 1
    if load and load[0] > cores:
        warnings.append(f"the load is {load[0]:.1f} on {cores} cores: stop other processes and measure again")
    return warnings

"""Latency on this machine: every runtime that is installed, in one process, in turn.

    python -m tinyscene.benchmarks.experiments.latency BUNDLE     # writes benchmarks/results/latency.json

`tinyscene bench` measures the same.

The network alone (features to logits) and the front end alone (PCM to features), one clip per call, one thread, on one
core. Each round calls every runtime once, in a new random order, so that disturbances and warm caches affect all
runtimes alike. No runtime is called twice in a row, because a device decides once a second and does other work in
between. Other runtimes are measured in the same process, or left out with the reason.
"""

import contextlib
import importlib
import os
import statistics
import time
from collections.abc import Callable, Hashable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from tinyscene.benchmarks.measured import Amount, Count, Measured
from tinyscene.deploy.bundle.bundle import Bundle
from tinyscene.deploy.bundle.exports import export
from tinyscene.deploy.bundle.runners import MICRO_ARENA, RUNNERS
from tinyscene.deploy.common.errors import InputError
from tinyscene.deploy.common.installation import missing
from tinyscene.deploy.common.processes import load_average
from tinyscene.deploy.common.progress import progress
from tinyscene.deploy.frontend.log_mel import float_pcm
from tinyscene.deploy.graph.reference import run
from tinyscene.firmware_bridge.codegen.library import make_library, make_network
from tinyscene.firmware_bridge.native import KERNELS, NativeNetwork, NativeScene

LEAST_ROUNDS, WARM_UP = 200, 10
SOUND = 4  # of the golden ones: a sweep
NATIVE = "native int8"
OURS = (NATIVE, "reference int8")  # all others are peers
MOST_SPREAD, MOST_WAITING = 1.25, 1.1  # third quartile to first, and wall to CPU time, on an idle machine
MOST_STOLEN = 0.01  # share of the time

Name = TypeVar("Name", bound=Hashable)
Call = Callable[[], object]


@dataclass(frozen=True)
class Latency(Measured):
    """Of a runtime, in milliseconds: quartiles of the wall time, and the median of the CPU time."""

    median_ms: Amount
    p25_ms: Amount
    p75_ms: Amount
    rounds: Count
    cpu_ms: Amount = 0.0  # which other processes do not lengthen
    ratio: Amount | None = None  # of the medians, to the fastest peer; of networks only

    def as_dict(self) -> dict[str, Any]:
        content = super().as_dict()
        return content if self.ratio is not None else {k: v for k, v in content.items() if k != "ratio"}


@dataclass(frozen=True)
class HostLatency(Measured):
    """The latency of every runtime on this machine."""

    latency: dict[str, Latency] = field(default_factory=dict)
    front_end: dict[str, Latency] = field(default_factory=dict)
    fastest_peer: str | None = None
    ratio: Amount | None = None  # of our network
    missing: dict[str, str] = field(default_factory=dict)  # runtimes, and why they were not measured
    core: int | None = None  # that it ran on
    warnings: list[str] = field(default_factory=list)  # about other load on the machine

    def as_dict(self) -> dict[str, Any]:
        rows = {key: {n: row.as_dict() for n, row in getattr(self, key).items()} for key in ("latency", "front_end")}
        return super().as_dict() | rows


@dataclass
class Runtimes:
    """What can be measured, by name, and why the others cannot."""

    calls: dict[str, Call] = field(default_factory=dict)
    missing: dict[str, str] = field(default_factory=dict)

    def add(self, name: str, make: Callable[[], Call]) -> None:
        """Make a runtime and run it once; or note why it cannot be."""
        try:
            call = make()
            call()
            self.calls[name] = call
        except Exception as error:  # runtimes raise what they like
            self.missing[name] = (str(error) or type(error).__name__).strip().splitlines()[0][:200]


def host_latency(bundle: Bundle, rounds: int = LEAST_ROUNDS) -> HostLatency:
    """Measure every runtime of a bundle and the front ends. Raises InputError for too few rounds."""
    if rounds < LEAST_ROUNDS:
        raise InputError(f"{rounds} rounds: at least {LEAST_ROUNDS} are needed")
    with one_core() as core:
        networks, front_ends = networks_of(bundle), front_ends_of(bundle)
        calls = {("network", name): call for name, call in networks.calls.items()}
        calls |= {("front end", name): call for name, call in front_ends.calls.items()}
        before = _stolen()
        rows = summarize(interleaved(calls, rounds))
        stolen = _stolen() - before
    latency = {name: rows["network", name] for name in networks.calls}
    peers = {name: row.median_ms for name, row in latency.items() if name not in OURS}
    fastest = min(peers, key=peers.__getitem__) if peers else None
    if fastest:
        latency = {name: replace(row, ratio=row.median_ms / peers[fastest]) for name, row in latency.items()}
    return HostLatency(
        latency=latency,
        front_end={name: rows["front end", name] for name in front_ends.calls},
        fastest_peer=fastest,
        ratio=latency[NATIVE].ratio if NATIVE in latency else None,
        missing=networks.missing | {f"front end {name}": reason for name, reason in front_ends.missing.items()},
        core=core,
        warnings=_warnings(latency, stolen),
    )


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


def networks_of(bundle: Bundle) -> Runtimes:
    """Every runtime on the features of a golden sound."""
    graph, runtimes = bundle.graph, Runtimes()
    features = bundle.vectors.features[SOUND].reshape(graph.input.shape)
    real = graph.input.q.dequantize(features)
    runtimes.add(NATIVE, lambda: _call(NativeNetwork(make_network(graph, KERNELS)), features))
    for name, runner in (("LiteRT", "litert"), ("tflite-runtime", "tflite-runtime")):
        runtimes.add(f"{name} int8", lambda runner=runner: _tflite(runner, export(bundle, "tflite", True), features))
        runtimes.add(
            f"{name} float32", lambda runner=runner: _tflite(runner, export(bundle, "tflite-float", True), real)
        )
    for name, kind, values in (("int8", "onnx-int8", features), ("float32", "onnx", real)):
        runtimes.add(f"ONNX Runtime {name}", lambda kind=kind, values=values: _onnxruntime(bundle, kind, values))
    runtimes.add("tflite-micro int8", lambda: _tflite_micro(export(bundle, "tflite"), features))
    runtimes.add("reference int8", lambda: _call(lambda values: run(graph, values), features))
    return runtimes


def front_ends_of(bundle: Bundle) -> Runtimes:
    """PCM to features: the C compiled for this machine, the fixed-point reference, and float in numpy."""
    runtimes, pcm = Runtimes(), bundle.vectors.pcm[SOUND]
    runtimes.add(NATIVE, lambda: _native_front_end(bundle, pcm))
    runtimes.add("reference int8", lambda: _call(bundle.log_mel, pcm[None]))
    runtimes.add("numpy float32", lambda: _call(bundle.front_end.log_mel, float_pcm(pcm[None])))
    return runtimes


def _call(function: Callable[[Any], object], values: NDArray[Any]) -> Call:
    return lambda: function(values)


def _native_front_end(bundle: Bundle, pcm: NDArray[np.int16]) -> Call:
    scene = NativeScene(make_library(bundle.graph, bundle.front_end, bundle.labels, KERNELS))

    def listen() -> None:  # a window that is never run
        scene.require(scene.c.tinyscene_reset(scene.instance))
        scene.push(pcm)

    return listen


def _runtime(runner: str) -> Any:
    """The module of a runner of deploy/bundle/runners.py. Raises InputError where it is not installed."""
    module, extra, _ = RUNNERS[runner]
    try:
        return importlib.import_module(module)
    except ImportError:
        raise missing(module.partition(".")[0], extra) from None


def _tflite(runner: str, content: bytes, values: NDArray[Any]) -> Call:
    interpreter = _runtime(runner).Interpreter(model_content=content, num_threads=1)
    interpreter.allocate_tensors()
    first, last = interpreter.get_input_details()[0]["index"], interpreter.get_output_details()[0]["index"]

    def call() -> object:
        interpreter.set_tensor(first, values)
        interpreter.invoke()
        return interpreter.get_tensor(last)

    return call


def _tflite_micro(content: bytes, values: NDArray[Any]) -> Call:
    interpreter = _runtime("tflite-micro").Interpreter.from_bytes(content, arena_size=MICRO_ARENA)

    def call() -> object:
        interpreter.set_input(values, 0)
        interpreter.invoke()
        return interpreter.get_output(0)

    return call


def _onnxruntime(bundle: Bundle, kind: str, values: NDArray[Any]) -> Call:
    onnxruntime = _runtime("onnxruntime")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.add_session_config_entry("session.qdqisint8allowed", "1")  # or x86 runs an int8 model in float
    content = bundle.exported(kind) or export(bundle, kind)
    session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    inputs = {bundle.graph.input.name: np.ascontiguousarray(values.transpose(0, 3, 1, 2))}
    return lambda: session.run(None, inputs)


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

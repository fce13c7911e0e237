"""Latency on this machine: every runtime that is installed, in one process, in turn.

    python -m tinyscene.benchmarks.experiments.latency BUNDLE     # writes benchmarks/results/latency.json

`tinyscene bench` measures the same.

The network alone (features to logits) and the front end alone (sound to features), a clip a call, one thread, on one
core. Each round calls everything once, in an order drawn anew, so that a disturbance hits all alike and nobody always
follows the one that leaves the caches warm. A decision is made once a second, on a host that does other things in
between: nothing is called twice in a row. Peers are measured here and now, or left out with the reason.
"""

import contextlib
import importlib
import os
import statistics
import time
from collections.abc import Callable, Hashable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from tinyscene.deploy.bundle.bundle import Bundle
from tinyscene.deploy.bundle.exports import export
from tinyscene.deploy.bundle.runners import MICRO_ARENA, RUNNERS
from tinyscene.deploy.common.errors import InputError
from tinyscene.deploy.frontend.log_mel import PCM_SCALE
from tinyscene.deploy.graph.reference import run
from tinyscene.firmware_bridge.codegen.library import make_library, make_network
from tinyscene.firmware_bridge.native import KERNELS, NativeNetwork, NativeScene
from tinyscene.train.progress import progress

LEAST_ROUNDS, WARM_UP = 200, 10
SOUND = 4  # of the golden ones: a sweep
NATIVE = "native int8"
OURS = (NATIVE, "reference int8")  # all others are peers
MOST_SPREAD, MOST_WAITING = 1.25, 1.1  # third quartile to first, and time to time on a core, of a quiet machine
MOST_STOLEN = 0.01  # share of the time that the host of a virtual machine gave to others

Name = TypeVar("Name", bound=Hashable)
Call = Callable[[], object]
Figures = dict[str, dict[str, float]]


@dataclass
class Runtimes:
    """What is measured, by name, and what could not be: the reason."""

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


def host_latency(bundle: Bundle, rounds: int = LEAST_ROUNDS) -> dict[str, Any]:
    """Measure every runtime of a bundle and the front ends.

    Returns: latency and front_end (name -> median_ms, p25_ms, p75_ms, rounds and cpu_ms, the median of the time on a
    core, which others' work does not lengthen; of the networks also ratio, of medians, to the fastest peer),
    fastest_peer, ratio (ours), missing (name -> reason), core (that it ran on, or none), warnings (why the figures may
    be worth less). Raises InputError for too few rounds.
    """
    if rounds < LEAST_ROUNDS:
        raise InputError(f"{rounds} rounds: at least {LEAST_ROUNDS} are needed")
    with one_core() as core:
        networks, fronts = networks_of(bundle), front_ends_of(bundle)
        everything = {("latency", name): call for name, call in networks.calls.items()}
        everything |= {("front_end", name): call for name, call in fronts.calls.items()}
        before = _stolen()
        figures = summarize(interleaved(everything, rounds))
        stolen = _stolen() - before
    latency = {name: figures["latency", name] for name in networks.calls}
    front_end = {name: figures["front_end", name] for name in fronts.calls}
    peers = {name: row["median_ms"] for name, row in latency.items() if name not in OURS}
    fastest = min(peers, key=peers.__getitem__) if peers else None
    for row in latency.values() if fastest else ():
        row["ratio"] = row["median_ms"] / peers[str(fastest)]
    return {
        "latency": latency,
        "front_end": front_end,
        "fastest_peer": fastest,
        "ratio": latency[NATIVE]["ratio"] if fastest and NATIVE in latency else None,
        "missing": networks.missing | {f"front end {name}": why for name, why in fronts.missing.items()},
        "core": core,
        "warnings": _warnings(latency, stolen),
    }


def interleaved(calls: Mapping[Name, Call], rounds: int) -> dict[Name, list[tuple[float, float]]]:
    """Milliseconds of every call and those of them on a core, each made once a round, in an order drawn each time."""
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


def summarize(times: Mapping[Name, list[tuple[float, float]]]) -> dict[Name, dict[str, float]]:
    """Median and quartiles of the time that passed, and the median of that on a core."""
    rows: dict[Name, dict[str, float]] = {}
    for name, each in times.items():
        passed, on_core = zip(*each, strict=True)
        rows[name] = dict(zip(("p25_ms", "median_ms", "p75_ms"), statistics.quantiles(passed), strict=True))
        rows[name] |= {"cpu_ms": statistics.median(on_core), "rounds": len(each)}
    return rows


@contextlib.contextmanager
def one_core() -> Iterator[int | None]:
    """Keep this process on one core, the last it may use, as long as the block runs; none where that cannot be done."""
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
    """Every runtime on a golden sound's features, or why not."""
    graph, made = bundle.graph, Runtimes()
    features = bundle.vectors.features[SOUND].reshape(graph.input.shape)
    real = graph.input.q.dequantize(features)
    made.add(NATIVE, lambda: _call(NativeNetwork(make_network(graph, KERNELS)), features))
    for name, runner in (("LiteRT", "litert"), ("tflite-runtime", "tflite-runtime")):
        made.add(f"{name} int8", lambda runner=runner: _tflite(runner, export(bundle, "tflite", True), features))
        made.add(f"{name} float32", lambda runner=runner: _tflite(runner, export(bundle, "tflite-float", True), real))
    for name, kind, values in (("int8", "onnx-int8", features), ("float32", "onnx", real)):
        made.add(f"ONNX Runtime {name}", lambda kind=kind, values=values: _onnxruntime(bundle, kind, values))
    made.add("tflite-micro int8", lambda: _tflite_micro(export(bundle, "tflite"), features))
    made.add("reference int8", lambda: _call(lambda values: run(graph, values), features))
    return made


def front_ends_of(bundle: Bundle) -> Runtimes:
    """Sound to features: the C as compiled for this machine, the reference in numpy, and numpy's float."""
    made, pcm = Runtimes(), bundle.vectors.pcm[SOUND]
    made.add(NATIVE, lambda: _native_front_end(bundle, pcm))
    made.add("reference int8", lambda: _call(bundle.log_mel, pcm[None]))
    made.add("numpy float32", lambda: _call(bundle.front_end.log_mel, pcm[None] / PCM_SCALE))
    return made


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
        raise InputError(f"{module.partition('.')[0]} is not installed: pip install '{extra}'") from None


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
    given = {bundle.graph.input.name: np.ascontiguousarray(values.transpose(0, 3, 1, 2))}
    return lambda: session.run(None, given)


def _stolen() -> float:
    """Seconds that a virtual machine's host gave to others while this one wanted them, of all cores."""
    stat = Path("/proc/stat")
    words = stat.read_text(encoding="utf-8").split("\n", 1)[0].split() if stat.is_file() else []
    return int(words[8]) / os.sysconf("SC_CLK_TCK") if len(words) > 8 else 0.0


def _warnings(latency: Figures, stolen: float) -> list[str]:
    """What speaks against a quiet machine: the spread of the fast ones, stolen time, others that want the cores."""
    said = []
    spread = {name: row["p75_ms"] / row["p25_ms"] for name, row in latency.items()}
    worst = max(spread, key=spread.__getitem__, default=None)
    if worst and spread[worst] > MOST_SPREAD:
        said.append(f"the third quartile of {worst} is {spread[worst]:.2f} times the first: the machine is busy")
    waiting = {name: row["median_ms"] / row["cpu_ms"] for name, row in latency.items()}
    waits = max(waiting, key=waiting.__getitem__, default=None)
    if waits and waiting[waits] > MOST_WAITING:
        said.append(
            f"{waits} took {waiting[waits]:.1f} times its time on a core: others use it; cpu_ms is without them"
        )
    whole = sum(row["median_ms"] * row["rounds"] for row in latency.values()) / 1e3  # seconds
    if stolen > MOST_STOLEN * whole:
        said.append(f"the virtual machine's host took {stolen:.1f} s away: the machine shares its cores")
    load, cores = os.getloadavg()[0], os.cpu_count() or 1
    if load > cores:
        said.append(f"{load:.1f} processes want {cores} cores: close what else runs, and measure again")
    return said

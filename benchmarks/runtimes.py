"""The runtimes that are compared: of the network alone, of the front end alone, and of the whole decision.

Peers' decisions join the fastest float log-mel that Python packages make (`fast_log_mel`) and other libraries' runtimes
of the network. What is not installed is left out with the reason.
"""

import importlib
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tinyscene.deploy.bundle.bundle import Bundle
from tinyscene.deploy.bundle.exports import export
from tinyscene.deploy.bundle.runners import MICRO_ARENA, RUNNERS
from tinyscene.deploy.common.installation import missing
from tinyscene.deploy.frontend.log_mel import PCM_SCALE, FrontEnd, float_pcm
from tinyscene.deploy.graph.reference import run
from tinyscene.firmware_bridge.codegen.library import Library, make_library, make_network
from tinyscene.firmware_bridge.native import KERNELS, NativeNetwork, native_scene

SOUND = 4  # of the golden ones: a sweep
NATIVE, REFERENCE = "native int8", "reference int8"
OURS = (NATIVE, REFERENCE)  # all others are peers
FAST = "ducc0 float32"  # features

Call = Callable[[], object]


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


def networks_of(bundle: Bundle) -> Runtimes:
    """Every runtime of the network, on the features of a golden sound."""
    features = bundle.vectors.features[SOUND].reshape(bundle.graph.input.shape)
    inputs = {np.dtype(np.int8): features, np.dtype(np.float32): bundle.graph.input.q.dequantize(features)}
    runtimes = Runtimes()
    for name, network in _networks(bundle).items():
        runtimes.add(name, lambda network=network: _call(network.make(), inputs[network.dtype]))
    return runtimes


def front_ends_of(bundle: Bundle) -> Runtimes:
    """PCM to features: the C compiled for this machine, the fixed-point reference, and float in Python packages."""
    runtimes, pcm = Runtimes(), bundle.vectors.pcm[SOUND]
    runtimes.add(NATIVE, lambda: _native_front_end(bundle, pcm))
    runtimes.add(REFERENCE, lambda: _call(bundle.log_mel, pcm[None]))
    runtimes.add("numpy float32", lambda: _call(bundle.front_end.log_mel, float_pcm(pcm[None])))
    runtimes.add(FAST, lambda: _call(fast_log_mel(bundle.front_end), pcm))
    return runtimes


def decisions_of(bundle: Bundle) -> Runtimes:
    """PCM to logits: ours, and the fastest float log-mel with each of the peers' networks that are fast."""
    graph, pcm, networks = bundle.graph, bundle.vectors.pcm[SOUND], _networks(bundle)

    def peer(network: Network) -> Call:
        log_mel, run_network = fast_log_mel(bundle.front_end), network.make()

        def decide() -> object:
            features = log_mel(pcm).reshape(graph.input.shape)
            return run_network(graph.input.q.quantize(features) if network.dtype == np.int8 else features)

        return decide

    runtimes = Runtimes()
    runtimes.add(NATIVE, lambda: _call(native_scene(_library(bundle)), pcm[None]))
    for name in ("LiteRT int8", "LiteRT float32", "ONNX Runtime float32"):
        runtimes.add(f"{FAST} + {name}", lambda name=name: peer(networks[name]))
    return runtimes


def fast_log_mel(front_end: FrontEnd) -> Callable[[NDArray[np.int16]], NDArray[np.float32]]:
    """The log-mel of FrontEnd.log_mel, as fast as Python packages make it on one thread: (samples,) -> (mel, frame).

    The transform is ducc0's, which took a third of the time of numpy's and no more than FFTW's, MKL's and scipy's; the
    filterbank is a sparse matrix of scipy. Raises InputError where they are not installed.
    """
    try:
        from ducc0.fft import r2c
        from scipy.sparse import csr_array
    except ImportError as error:
        raise missing(str(error.name).partition(".")[0], "peers") from None
    window, bins = front_end.window() / PCM_SCALE, front_end.n_fft // 2 + 1
    left = (front_end.n_fft - front_end.win_length) // 2
    framed = np.zeros((front_end.frames, front_end.n_fft), np.float32)
    spectrum = np.empty((bins, front_end.frames), np.complex64)
    filterbank = csr_array(front_end.filterbank())

    def log_mel(pcm: NDArray[np.int16]) -> NDArray[np.float32]:
        windows = front_end.framed(pcm.astype(np.float32))[:, left : left + len(window)]
        np.multiply(windows, window, out=framed[:, left : left + len(window)])
        r2c(framed.T, axes=(0,), nthreads=1, out=spectrum)  # (bin, frame)
        power = spectrum.real**2 + spectrum.imag**2
        return np.log(filterbank @ power + np.float32(front_end.log_offset))

    return log_mel


@dataclass(frozen=True)
class Network:
    """A runtime of the network: what it takes, and what makes a function of features (1, mel, frame, 1)."""

    dtype: np.dtype[Any]
    make: Callable[[], Callable[[NDArray[Any]], object]]


def _networks(bundle: Bundle) -> dict[str, Network]:
    """All that are known, whether they are installed or not."""
    graph, int8, float32 = bundle.graph, np.dtype(np.int8), np.dtype(np.float32)
    networks = {NATIVE: Network(int8, lambda: NativeNetwork(make_network(graph, KERNELS)))}
    for name, runner in (("LiteRT", "litert"), ("tflite-runtime", "tflite-runtime")):
        for dtype, kind in ((int8, "tflite"), (float32, "tflite-float")):
            make = lambda runner=runner, kind=kind: _tflite(runner, export(bundle, kind))  # noqa: E731
            networks[f"{name} {dtype}"] = Network(dtype, make)
    for dtype, kind in ((int8, "onnx-int8"), (float32, "onnx")):
        networks[f"ONNX Runtime {dtype}"] = Network(dtype, lambda kind=kind: _onnxruntime(bundle, kind))
    networks["tflite-micro int8"] = Network(int8, lambda: _tflite_micro(export(bundle, "tflite", small=True)))
    networks[REFERENCE] = Network(int8, lambda: lambda features: run(graph, features))
    return networks


def _library(bundle: Bundle) -> Library:
    return make_library(bundle.graph, bundle.front_end, bundle.labels, KERNELS, rule=bundle.rule)


def _call(function: Callable[[Any], object], values: NDArray[Any]) -> Call:
    return lambda: function(values)


def _native_front_end(bundle: Bundle, pcm: NDArray[np.int16]) -> Call:
    scene = native_scene(_library(bundle))

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


def _tflite(runner: str, content: bytes) -> Callable[[NDArray[Any]], object]:
    interpreter = _runtime(runner).Interpreter(model_content=content, num_threads=1)
    interpreter.allocate_tensors()
    first, last = interpreter.get_input_details()[0]["index"], interpreter.get_output_details()[0]["index"]

    def run_network(values: NDArray[Any]) -> object:
        interpreter.set_tensor(first, values)
        interpreter.invoke()
        return interpreter.get_tensor(last)

    return run_network


def _tflite_micro(content: bytes) -> Callable[[NDArray[Any]], object]:
    interpreter = _runtime("tflite-micro").Interpreter.from_bytes(content, arena_size=MICRO_ARENA)

    def run_network(values: NDArray[Any]) -> object:
        interpreter.set_input(values, 0)
        interpreter.invoke()
        return interpreter.get_output(0)

    return run_network


def _onnxruntime(bundle: Bundle, kind: str) -> Callable[[NDArray[Any]], object]:
    onnxruntime = _runtime("onnxruntime")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.add_session_config_entry("session.qdqisint8allowed", "1")  # or x86 runs an int8 model in float
    content = bundle.exported(kind) or export(bundle, kind)
    session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    name = bundle.graph.input.name
    return lambda values: session.run(None, {name: values.reshape(len(values), 1, *values.shape[1:3])})

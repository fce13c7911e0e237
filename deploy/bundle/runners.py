"""Runtimes that run a bundle's integer graph: int8 features in, int8 logits out.

    invoke = make_runner("litert", bundle)
    logits = invoke(features)                # (batch, mel, frame, 1) -> (batch, classes)

`reference` is the definition (numpy); `litert` runs XNNPACK, `tflite-runtime` and `onnxruntime` their own fast
int8 kernels; the names ending in `-reference`, and `tflite-micro`, run the kernels that the reference equals to
the bit and serve `tinyscene verify`. What a TFLite runtime is given is written afresh from the checked graph: no
.tflite file is ever loaded, so no hostile one can be.
"""

import contextlib
import importlib
from collections.abc import Callable, Iterator
from functools import lru_cache, partial
from importlib.metadata import EntryPoint, entry_points
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tinyscene.deploy.bundle.bundle import Bundle
from tinyscene.deploy.bundle.exports import export
from tinyscene.deploy.common.errors import InputError
from tinyscene.deploy.common.installation import missing
from tinyscene.deploy.graph.reference import run

Int8 = NDArray[np.int8]
Invoke = Callable[[Int8], Int8]

ONNX_MEMORY = 2**30  # bytes, for the tensors of ONNX models
MICRO_ARENA = 2**23  # bytes; what is needed is found out when the tensors are placed


def make_runner(name: str, bundle: Bundle) -> Invoke:
    """A runtime by name, ready to run a bundle.

    Raises MissingPackageError if it is not installed, InputError if it is unknown or cannot run the bundle, and
    what is returned raises InputError where it fails later.
    """
    if name not in RUNNERS:
        raise InputError(f"runner {name!r} is unknown: known are {', '.join((*RUNNERS, *scene_runners()))}")
    package, extra, make = RUNNERS[name]
    if package.startswith("tflite_runtime") and not np.__version__.startswith("1."):  # it would fail when it runs
        raise missing("tflite_runtime with numpy 1", extra, f"runner {name}")
    try:
        module = importlib.import_module(package)
    except ImportError:
        raise missing(package.partition(".")[0], extra, f"runner {name}") from None
    with _named(name, bundle):
        invoke = make(module, bundle)

    def checked(features: Int8) -> Int8:
        with _named(name, bundle):
            logits = invoke(features)
            if (logits.dtype, logits.shape) != (np.int8, (len(features), *bundle.graph.output.shape[1:])):
                raise TypeError(f"it gives {logits.dtype} {logits.shape}")
        return logits

    return checked


@contextlib.contextmanager
def _named(name: str, bundle: Bundle) -> Iterator[None]:
    """Turn whatever a runtime raises into one line."""
    try:
        yield
    except InputError:
        raise
    except Exception as error:  # the runtimes' exceptions share no other base
        line = (str(error) or type(error).__name__).strip().splitlines()[0][:200]
        raise InputError(f"runner {name} cannot run {bundle.folder} ({line})") from None


def _reference(_numpy: Any, bundle: Bundle) -> Invoke:
    return lambda features: run(bundle.graph, features)


def _tflite(interpreters: Any, bundle: Bundle) -> Invoke:
    return _interpreter(interpreters, bundle, interpreters.OpResolverType.BUILTIN)


def _tflite_reference(interpreters: Any, bundle: Bundle) -> Invoke:
    return _interpreter(interpreters, bundle, interpreters.OpResolverType.BUILTIN_REF)


def _interpreter(interpreters: Any, bundle: Bundle, kernels: Any) -> Invoke:
    content = export(bundle, "tflite")
    interpreter = interpreters.Interpreter(model_content=content, experimental_op_resolver_type=kernels, num_threads=1)
    interpreter.allocate_tensors()
    first, last = interpreter.get_input_details()[0]["index"], interpreter.get_output_details()[0]["index"]

    def invoke_one(features: Int8) -> Int8:
        interpreter.set_tensor(first, features)
        interpreter.invoke()
        return interpreter.get_tensor(last)

    return _one_by_one(invoke_one)


def _tflite_micro(runtime: Any, bundle: Bundle) -> Invoke:
    interpreter = runtime.Interpreter.from_bytes(export(bundle, "tflite"), arena_size=MICRO_ARENA)

    def invoke_one(features: Int8) -> Int8:
        interpreter.set_input(features, 0)
        interpreter.invoke()
        return interpreter.get_output(0)

    return _one_by_one(invoke_one)


def _onnxruntime(onnxruntime: Any, bundle: Bundle) -> Invoke:
    content = bundle.exported("onnx-int8")  # which needs no onnx to be read
    if content is None:
        content = export(bundle, "onnx-int8")
    session = onnx_session(onnxruntime, content)

    def invoke(features: Int8) -> Int8:
        return session.run(None, {bundle.graph.input.name: features.transpose(0, 3, 1, 2)})[0]

    return invoke


def onnx_session(onnxruntime: Any, content: bytes) -> Any:
    """A quiet session on the CPU within ONNX_MEMORY, of a file's bytes: so it can name no other file to be read."""
    _limit_memory(onnxruntime)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4  # what goes wrong is raised; it need not be printed too
    options.add_session_config_entry("session.use_env_allocators", "1")  # those of _limit_memory
    options.add_session_config_entry("session.qdqisint8allowed", "1")  # or x86 runs an int8 model in float
    return onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"], enable_fallback=0)


@lru_cache(maxsize=1)
def _limit_memory(onnxruntime: Any) -> None:
    """A model's file may ask for tensors of any size; let them fit ONNX_MEMORY or fail."""
    kind = onnxruntime.OrtAllocatorType.ORT_ARENA_ALLOCATOR
    memory = onnxruntime.OrtMemoryInfo("Cpu", kind, 0, onnxruntime.OrtMemType.DEFAULT)
    onnxruntime.create_and_register_allocator(memory, onnxruntime.OrtArenaCfg({"max_mem": ONNX_MEMORY}))


def _one_by_one(invoke_one: Invoke) -> Invoke:
    """A batch through a runtime whose model takes one clip."""
    return lambda features: np.concatenate([invoke_one(features[index : index + 1]) for index in range(len(features))])


RUNNERS: dict[str, tuple[str, str, Callable[[Any, Bundle], Invoke]]] = {  # name -> package, extra, how it is made
    "reference": ("numpy", "", _reference),
    "litert": ("ai_edge_litert.interpreter", "", _tflite),
    "tflite-runtime": ("tflite_runtime.interpreter", "tflite-runtime", _tflite),
    "onnxruntime": ("onnxruntime", "onnx", _onnxruntime),
    "litert-reference": ("ai_edge_litert.interpreter", "", _tflite_reference),
    "tflite-runtime-reference": ("tflite_runtime.interpreter", "tflite-runtime", _tflite_reference),
    "tflite-micro": ("tflite_micro.python.tflite_micro.runtime", "verify", _tflite_micro),
}


def scene_runners() -> dict[str, Callable[[Bundle], Callable[[NDArray[np.int16]], Int8]]]:
    """Runners with a front end of their own, int16 clips (batch, samples) -> int8 logits (batch, classes), by name.

    They are the entry points `tinyscene.runners` of what is installed, so that this package need not know them.
    """
    return {entry.name: partial(_load_scene_runner, entry) for entry in entry_points(group="tinyscene.runners")}


def _load_scene_runner(entry: EntryPoint, bundle: Bundle) -> Callable[[NDArray[np.int16]], Int8]:
    """What an entry point makes of a bundle. Raises InputError where the package that declares it is broken."""
    try:
        make = entry.load()
    except Exception as error:  # whatever a third package raises when it is imported
        reason = " ".join(str(error).split())[:200]
        raise InputError(f"runner {entry.name}: {entry.value} cannot be imported ({reason})") from None
    return make(bundle)

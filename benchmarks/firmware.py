"""The firmware beside what it is held to: every clip on every device, and the host's latency beside other runtimes.

    python -m benchmarks.firmware devices runs/quantization/imported-default --data DATA
    python -m benchmarks.firmware latency runs/quantization/imported-default

`devices` builds the bundle for each device, compares logits and layers with the reference bit for bit on clips of the
test list of split 100, counts instructions, which are not cycles, and draws the arena. A killed run goes on. `latency`
runs the network alone, features to logits, one thread, batch 1, all runtimes in turn.
"""

import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import onnxruntime
import typer
from ai_edge_litert.interpreter import Interpreter
from numpy.typing import NDArray

from benchmarks.results import read_result, write_result
from deploy.bundle import Bundle, open_bundle
from deploy.exports import export
from deploy.files import write_whole
from firmware_bridge.emit import make_library, make_network
from firmware_bridge.emulate import emulate
from firmware_bridge.image import Device, find_device
from firmware_bridge.native import KERNELS, NativeNetwork
from firmware_bridge.report import plan_picture, plan_rows
from train.cache import prepare
from train.data import open_dataset
from train.progress import progress

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, help=__doc__)

SPLIT = "100"
RESULTS = Path("benchmarks/results")
ALL = 10**6
DEVICES: list[tuple[str, str, str | None, int]] = [  # target, toolchain, kernels, clips
    ("host", "zig", None, ALL),
    ("host-native", "zig", None, ALL),
    ("cortex-m4", "zig", None, 50),
    ("cortex-m4", "gcc", None, 50),
    ("cortex-m4", "zig", "plain", 5),
    *(
        (target, toolchain, None, 5)
        for target in ("cortex-m3", "cortex-m7", "cortex-m33")
        for toolchain in ("zig", "gcc")
    ),
    *((target, toolchain, None, 5) for target in ("cortex-m55", "riscv32") for toolchain in ("zig", "gcc")),
    ("cortex-m55", "zig", "plain", 5),
]
LEVELS = ("O0", "O3", "Os")  # besides the usual one, on fewer clips
HOPS = (1.0, 0.5, 0.25)  # seconds


@app.command()
def devices(bundle: Path, data: Annotated[Path, typer.Option(help="Folder of a dataset in TAU's layout.")]) -> None:
    """Run every device and compiler; write what was equal, counted and taken."""
    out, opened = RESULTS / "firmware.json", open_bundle(bundle)
    result = read_result(out)
    clips = prepare(open_dataset(data), opened.front_end.sample_rate)
    chosen = clips.select(open_dataset(data).split(SPLIT)[1])
    result |= {"bundle": str(bundle), "data_hash": clips.data_hash, "memory": _memory(opened)}
    rows = result.setdefault("devices", {})
    for device, count in _devices():
        name = f"{device.target.name} {device.toolchain.name} {device.optimize} {device.kernels}"
        if name not in rows:
            spread = np.linspace(0, len(chosen) - 1, min(count, len(chosen))).astype(int)
            rows[name] = emulate(opened, clips.pcm[chosen[spread]], device)
            write_result(out, result)
        typer.echo(f"{name}: {rows[name]['clips']} clips {'equal' if rows[name]['equal'] else 'DIFFER'}")


def _devices() -> list[tuple[Device, int]]:
    usual = [(find_device(target, tool, kernels=kernels), clips) for target, tool, kernels, clips in DEVICES]
    more = [
        (find_device(target, tool, optimize=level), 2)
        for target in ("cortex-m4", "cortex-m55", "riscv32")
        for tool in ("zig", "gcc")
        for level in LEVELS
    ]
    return usual + more


def _memory(bundle: Bundle) -> dict[str, Any]:
    """Bytes of RAM by hop, and the plan of the arena with windows that do not overlap."""
    libraries = {hop: make_library(bundle.graph, bundle.front_end, bundle.labels, hop=hop) for hop in HOPS}
    write_whole(RESULTS / "arena.svg", plan_picture(libraries[1.0].plan))
    return {
        "bytes_by_hop": {str(hop): library.config["BYTES"] for hop, library in libraries.items()},
        "arena_of_the_network_alone": make_network(bundle.graph).config["ARENA_BYTES"],
        "plan": plan_rows(libraries[1.0].plan),
    }


@app.command()
def latency(bundle: Path, rounds: Annotated[int, typer.Option(min=200)] = 1000) -> None:
    """Time one inference of each runtime in turn, round after round."""
    opened = open_bundle(bundle)
    features = opened.vectors.features[3].reshape(opened.graph.input.shape)
    real = opened.graph.input.q.dequantize(features)
    runtimes: dict[str, Callable[[], object]] = {
        "native int8": _native(opened, features),
        "LiteRT int8": _litert(export(opened, "tflite", full=True), features),
        "LiteRT float32": _litert(export(opened, "tflite-float", full=True), real),
        "ONNX Runtime int8": _onnxruntime(export(opened, "onnx-int8"), opened.graph.input.name, features),
        "ONNX Runtime float32": _onnxruntime(export(opened, "onnx"), opened.graph.input.name, real),
    }
    times: dict[str, list[float]] = {name: [] for name in runtimes}
    with progress("measuring", rounds) as advance:
        for turn in range(-20, rounds):  # the first ones only warm up
            for name, run in runtimes.items():
                started = time.perf_counter()
                run()
                if turn >= 0:
                    times[name].append(1e3 * (time.perf_counter() - started))
            advance(1)
    figures = {
        name: dict(zip(("p25_ms", "median_ms", "p75_ms"), statistics.quantiles(each), strict=True)) | {"rounds": rounds}
        for name, each in times.items()
    }
    others = [each["median_ms"] for name, each in figures.items() if name != "native int8"]
    ratio = figures["native int8"]["median_ms"] / min(others)
    write_result(RESULTS / "latency.json", {"bundle": str(bundle), "latency": figures, "ratio": ratio})
    for name, each in figures.items():
        typer.echo(f"{name}: {each['median_ms']:.3f} ms")
    typer.echo(f"native is at {ratio:.2f} of the best other")


def _native(bundle: Bundle, features: NDArray[np.int8]) -> Callable[[], object]:
    network = NativeNetwork(make_network(bundle.graph, KERNELS))
    return lambda: network(features)


def _litert(content: bytes, values: NDArray[Any]) -> Callable[[], object]:
    interpreter = Interpreter(model_content=content, num_threads=1)
    interpreter.allocate_tensors()
    first, last = interpreter.get_input_details()[0]["index"], interpreter.get_output_details()[0]["index"]

    def run() -> object:
        interpreter.set_tensor(first, values)
        interpreter.invoke()
        return interpreter.get_tensor(last)

    return run


def _onnxruntime(content: bytes, name: str, values: NDArray[Any]) -> Callable[[], object]:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.add_session_config_entry("session.qdqisint8allowed", "1")  # or x86 runs an int8 model in float
    session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    given = {name: np.ascontiguousarray(values.transpose(0, 3, 1, 2))}
    return lambda: session.run(None, given)


if __name__ == "__main__":
    app()

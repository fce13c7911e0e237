"""The firmware beside what it is held to: every clip on every device.

    python -m tinyscene.benchmarks.experiments.firmware runs/quantization/imported-default --data DATA

Builds the bundle for each device, compares logits and layers with the reference bit for bit on clips of the test list
of split 100, counts instructions, which are not cycles, and draws the arena. A killed run goes on.
"""

from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer

from tinyscene.benchmarks.experiments.results import Out, read_result, write_result
from tinyscene.deploy.bundle.bundle import Bundle, open_bundle
from tinyscene.deploy.common.command_line import run_command_line
from tinyscene.deploy.common.files import write_whole
from tinyscene.firmware_bridge.codegen.library import make_library, make_network
from tinyscene.firmware_bridge.emulate import emulate
from tinyscene.firmware_bridge.report import plan_picture, plan_rows
from tinyscene.firmware_bridge.targets.image import BuildSettings, build_settings
from tinyscene.train.data.cache import prepare
from tinyscene.train.data.datasets import open_dataset

SPLIT = "100"
PICTURES, RESULTS = Path("docs/images"), Path("benchmarks/results")
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


def devices(
    bundle: Annotated[Path, typer.Argument(help="A bundle.")],
    data: Annotated[Path, typer.Option(help="Folder of a dataset in TAU's layout.")],
    out: Out = Path("benchmarks/results/firmware.json"),
) -> None:
    """Run every device and compiler that is not in the file yet; write what was equal, counted and taken."""
    opened, result = open_bundle(bundle), read_result(out)
    clips = prepare(open_dataset(data), opened.front_end.sample_rate)
    indices = clips.select(open_dataset(data).split(SPLIT)[1])
    result |= {"bundle": str(bundle), "data_hash": clips.data_hash, "memory": _memory(opened)}
    rows = result.setdefault("devices", {})
    for device, count in _devices():
        name = f"{device.target.name} {device.toolchain.name} {device.optimize} {device.kernels}"
        if name not in rows:
            spread = np.linspace(0, len(indices) - 1, min(count, len(indices))).astype(int)
            rows[name] = asdict(emulate(opened, clips.pcm[indices[spread]], device))
            write_result(out, result)
        typer.echo(f"{name}: {rows[name]['clips']} clips {'equal' if rows[name]['equal'] else 'DIFFER'}")


def _devices() -> list[tuple[BuildSettings, int]]:
    usual = [(build_settings(target, tool, kernels=kernels), clips) for target, tool, kernels, clips in DEVICES]
    more = [
        (build_settings(target, tool, optimize=level), 2)
        for target in ("cortex-m4", "cortex-m55", "riscv32")
        for tool in ("zig", "gcc")
        for level in LEVELS
    ]
    return usual + more


def _memory(bundle: Bundle) -> dict[str, Any]:
    """Bytes of RAM by hop, and the plan of the arena with windows that do not overlap."""
    libraries = {hop: make_library(bundle.graph, bundle.front_end, bundle.labels, hop=hop) for hop in HOPS}
    write_whole(PICTURES / "arena.svg", plan_picture(libraries[1.0].plan))
    return {
        "bytes_by_hop": {str(hop): library.config["BYTES"] for hop, library in libraries.items()},
        "arena_of_the_network_alone": make_network(bundle.graph).config["ARENA_BYTES"],
        "plan": [row.as_json() for row in plan_rows(libraries[1.0].plan)],
    }


if __name__ == "__main__":
    run_command_line(devices)

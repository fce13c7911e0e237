"""A bundle as C99: the network as calls of kernels in the order of its plan, its tables, and the runtime beside them.

    library = make_library(bundle.graph, bundle.front_end, bundle.labels)
    library.files                 # name -> content
    library.plan                  # of the arena

The C is written for a reader: one function a row of an activation, one a part of the schedule, sizes as numbers. What
each file promises stands in its head; tinyscene.h is the only one to include.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tinyscene.deploy.bundle.features import input_log_mel
from tinyscene.deploy.common.errors import InputError
from tinyscene.deploy.frontend.log_mel import FrontEnd
from tinyscene.deploy.graph.graph import Graph
from tinyscene.firmware_bridge.codegen.frontend_tables import frame_spans, frontend_config, frontend_tables
from tinyscene.firmware_bridge.codegen.network import network_files
from tinyscene.firmware_bridge.codegen.ops import steps_of
from tinyscene.firmware_bridge.memory.arena_check import check_arena
from tinyscene.firmware_bridge.memory.planner import ALWAYS, Block, Plan, aligned, make_plan, work_block
from tinyscene.firmware_bridge.memory.schedule import FIRST

RUNTIME = Path(__file__).parent.parent / "runtime"
DEVICE_KERNELS = ("plain", "dsp", "mve")  # chosen among by the compiler's feature macros
NETWORK_FILES = ("tinyscene_kernels.h", "tinyscene_network.h", "tinyscene_plain.c")  # plain has what no other has
SCENE_FILES = ("tinyscene.h", "tinyscene.c", "tinyscene_frontend.h", "tinyscene_frontend.c")
STATE_WORDS = 6  # of struct tinyscene, besides its scores

Config = dict[str, int | float | str]


@dataclass(frozen=True)
class Library:
    """C sources and what is known of them."""

    files: dict[str, str]
    plan: Plan
    config: Config  # of tinyscene_config.h, without TINYSCENE_
    kernels: tuple[str, ...]


def make_library(
    graph: Graph,
    front_end: FrontEnd,
    labels: Sequence[str],
    kernels: Sequence[str] = DEVICE_KERNELS,
    hop: float = 1.0,
    model: str = "",
) -> Library:
    """The library of a network with its front end; it decides every `hop` seconds on the last second.

    `model` names what it was made of, so that a firmware image can be traced to it: the hash of a bundle's graph.
    Raises InputError for a hop that the front end's frames do not fall on.
    """
    log_mel = input_log_mel(graph, front_end)
    sizes = frontend_config(log_mel)
    sizes |= _hop_config(front_end, sizes, hop)
    plan = _plan(graph, kernels, _scene_blocks(sizes))
    state = aligned(4 * STATE_WORDS + len(labels))
    overlaps = sizes["HOP_SAMPLES"] < sizes["CLIP_SAMPLES"]
    rows = plan.schedule.rows[graph.input.name]
    config: Config = {
        **sizes,
        "CLASSES": len(labels),
        "STATE_BYTES": state,
        "BYTES": state + plan.arena_bytes,
        "PCM": plan.offsets["\tpcm"],
        "WORK": plan.offsets["\tfft"],
        "FEATURES": plan.offsets["\tfeatures"] if overlaps else _first_value(plan, graph.input.name),
        "FEATURES_STRIDE": front_end.frames if overlaps else rows.stride,
        **({"STARTS": plan.offsets["\tstarts"]} if sizes["PENDING"] else {}),
        **_network_config(plan),
        "LOGIT_SCALE": graph.output.q.scale,
        "LOGIT_ZERO_POINT": graph.output.q.zero_point,
        "MODEL": f'"{model}"',
    }
    files = _network_library(plan, kernels) | _copied(SCENE_FILES)
    tables = '#include "tinyscene_frontend.h"\n\n' + frontend_tables(log_mel)
    files |= {"tinyscene_tables.c": tables, "tinyscene_labels.c": _labels(labels)}
    return _finished(files, plan, config, kernels)


def make_network(graph: Graph, kernels: Sequence[str] = DEVICE_KERNELS) -> Library:
    """The library of a network alone, of any integer graph: features in, output out, by tinyscene_network.h."""
    plan = _plan(graph, kernels, [])
    return _finished(_network_library(plan, kernels), plan, _network_config(plan), kernels)


def write_sources(library: Library, folder: Path) -> list[Path]:
    """Write all files of a library; those that are compiled."""
    for name, content in library.files.items():
        (folder / name).write_text(content, encoding="utf-8")
    return [folder / name for name in library.files if name.endswith(".c")]


def _plan(graph: Graph, kernels: Sequence[str], extras: Sequence[Block]) -> Plan:
    steps = [steps_of(operator, graph.sources(operator), kernels) for operator in graph.operators]
    plan = make_plan(graph, steps, extras)
    check_arena(plan)
    return plan


def _hop_config(front_end: FrontEnd, sizes: dict[str, int], hop: float) -> dict[str, int]:
    """How many frames at the starts of later windows are made before a window is complete."""
    clip = front_end.clip_samples
    samples = round(hop * front_end.sample_rate) if 0 < hop <= 1 else 0
    if not 0 < samples <= clip or (samples < clip and samples % front_end.hop_length):
        step = front_end.hop_length / front_end.sample_rate
        raise InputError(f"a hop of {hop:g} seconds: it must be 1, or less and a multiple of {step:g} (a frame)")
    spans = frame_spans(front_end)
    starts = np.arange(samples, clip + 1, samples)[:, None] + [span.due for span in spans[: sizes["START_FRAMES"]]]
    return {"HOP_SAMPLES": samples, "LEAD": -spans[0].at, "PENDING": int((starts <= clip).sum())}


def _scene_blocks(sizes: dict[str, int]) -> list[Block]:
    """Memory of the front end. Where windows overlap, features and sound outlive the network's run."""
    ring, work = 2 * sizes["RING_SAMPLES"], 4 * sizes["N_FFT"]
    if sizes["HOP_SAMPLES"] == sizes["CLIP_SAMPLES"]:
        return [work_block("\tpcm", ring, FIRST, FIRST), work_block("\tfft", work, FIRST, FIRST)]
    kept = {"pcm": ring, "features": sizes["MELS"] * sizes["FRAMES"], "starts": sizes["PENDING"] * sizes["MELS"]}
    before = FIRST - 1
    return [
        work_block("\tfft", work, before, before),
        *(work_block(f"\t{name}", size, before, ALWAYS) for name, size in kept.items() if size),
    ]


def _network_config(plan: Plan) -> Config:
    graph = plan.schedule.graph
    first, last = plan.schedule.rows[graph.input.name], plan.schedule.rows[graph.output.name]
    return {
        "TENSORS": len(graph.tensors),
        "ARENA_BYTES": plan.arena_bytes,
        "INPUT": _first_value(plan, graph.input.name),
        "INPUT_ROWS": first.size[0],
        "INPUT_ROW_BYTES": first.bytes,
        "INPUT_STRIDE": first.stride,
        "OUTPUT": _first_value(plan, graph.output.name),
        "OUTPUT_ROWS": last.size[0],
        "OUTPUT_ROW_BYTES": last.bytes,
        "OUTPUT_STRIDE": last.stride,
    }


def _first_value(plan: Plan, name: str) -> int:
    """Where the first value of a whole activation lies, after its padding."""
    rows = plan.schedule.rows[name]
    return plan.row_offset(name, rows.padding[0]) + rows.left


def _network_library(plan: Plan, kernels: Sequence[str]) -> dict[str, str]:
    faster = [path.name for each in kernels if each != "plain" for path in sorted(RUNTIME.glob(f"tinyscene_{each}*"))]
    return network_files(plan, kernels) | _copied([*NETWORK_FILES, *faster])


def _labels(labels: Sequence[str]) -> str:
    names = "".join(f"    {_c_string(label)},\n" for label in labels)
    return (
        '#include "tinyscene.h"\n\n'
        f"static const char *const labels[TINYSCENE_CLASSES] = {{\n{names}}};\n\n"
        "const char *tinyscene_label(size_t index)\n{\n"
        "    return index < TINYSCENE_CLASSES ? labels[index] : NULL;\n}\n"
    )


def _c_string(text: str) -> str:
    """Text in UTF-8, whatever is not plain in it escaped."""
    plain = re.compile(rb"[A-Za-z0-9_. -]")
    return '"' + "".join(chr(byte) if plain.match(bytes([byte])) else f"\\{byte:03o}" for byte in text.encode()) + '"'


def _copied(names: Sequence[str]) -> dict[str, str]:
    return {name: (RUNTIME / name).read_text(encoding="utf-8") for name in names}


def _finished(files: dict[str, str], plan: Plan, config: Config, kernels: Sequence[str]) -> Library:
    defines = "".join(f"#define TINYSCENE_{key} {value}\n" for key, value in config.items())
    guard = "TINYSCENE_CONFIG_H"
    head = f"/* Generated. */\n#ifndef {guard}\n#define {guard}\n\n{defines}\n#endif\n"
    return Library({**files, "tinyscene_config.h": head}, plan, config, tuple(kernels))

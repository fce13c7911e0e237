"""The C99 library of a bundle: network, front end, constants and the runtime beside them.

    library = make_library(bundle.graph, bundle.front_end, bundle.labels)
    library.files                 # name -> content
    library.plan                  # of the arena

The steps: access pattern of each operator -> plan of the arena -> check of the plan -> C. The generated C is readable:
one function per operator and one per part of the schedule, sizes as numbers. tinyscene.h is the only public header.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from tinyscene.deploy.bundle.decision import DecisionRule
from tinyscene.deploy.bundle.features import input_log_mel
from tinyscene.deploy.common.errors import InputError
from tinyscene.deploy.frontend.band_offsets import Bands
from tinyscene.deploy.frontend.log_mel import FrontEnd
from tinyscene.deploy.graph.graph import Graph
from tinyscene.firmware_bridge.codegen.bands import FILES as BANDS_FILES
from tinyscene.firmware_bridge.codegen.bands import bands_bytes, bands_config, bands_tables
from tinyscene.firmware_bridge.codegen.decision import FILES as RULE_FILES
from tinyscene.firmware_bridge.codegen.decision import (
    rule_blocks,
    rule_bytes,
    rule_config,
    rule_tables,
    summed_activation,
    unknown_label,
)
from tinyscene.firmware_bridge.codegen.frontend_simd_tables import simd_config, simd_tables
from tinyscene.firmware_bridge.codegen.frontend_tables import frontend_config, frontend_tables
from tinyscene.firmware_bridge.codegen.network import Config, network_config, network_files
from tinyscene.firmware_bridge.codegen.ops import access_of
from tinyscene.firmware_bridge.codegen.ops.mean import endless_access
from tinyscene.firmware_bridge.codegen.scene import (
    front_end_blocks,
    labels_file,
    scene_config,
    stream_config,
    window_config,
    work_bytes,
)
from tinyscene.firmware_bridge.codegen.turns import row_work
from tinyscene.firmware_bridge.memory.arena_check import check_arena
from tinyscene.firmware_bridge.memory.by_time import Order, by_time
from tinyscene.firmware_bridge.memory.pace import Pace, is_streamable, lengthened, make_pace
from tinyscene.firmware_bridge.memory.planner import Block, Plan, make_plan
from tinyscene.firmware_bridge.memory.rows import AccessPattern

RUNTIME = Path(__file__).parent.parent / "runtime"
PERIODS = 16  # beyond a window, of the schedule of a network that listens without end
DEVICE_KERNELS = ("plain", "dsp", "mve")  # the compiler's feature macros select one
NETWORK_FILES = ("tinyscene_processor.h", "tinyscene_kernels.h", "tinyscene_network.h")
FRONT_END_HEADERS = ("", "_stages", "_scalar", "_mels")
SCENE_FILES = (
    *("tinyscene.h", "tinyscene.c", "tinyscene_sound.h", "tinyscene_sound.c", "tinyscene_frontend.c"),
    *(f"tinyscene_frontend{name}.h" for name in FRONT_END_HEADERS),
)
PUBLIC = (  # constants that a program may use
    *("VERSION", "MODEL", "INIT", "BYTES", "SAMPLE_RATE", "CLIP_SAMPLES", "HOP_SAMPLES", "CLASSES"),
    "DELAY_SAMPLES",
    *("LOGIT_SCALE", "LOGIT_ZERO_POINT", "RUN_UNITS", "ROW_UNITS", "FRAME_UNITS"),
    "BANDS",
    *("AVERAGE", "MARGIN", "PATIENCE", "UNKNOWN", "UNKNOWN_THRESHOLD"),
)


@dataclass(frozen=True)
class Library:
    """C sources, and the plan and constants that they were generated from."""

    files: dict[str, str]
    plan: Plan
    config: Config  # of tinyscene_config.h and tinyscene_layout.h, without TINYSCENE_
    kernels: tuple[str, ...]


def make_library(
    graph: Graph,
    front_end: FrontEnd,
    labels: Sequence[str],
    kernels: Sequence[str] = DEVICE_KERNELS,
    hop: float | None = None,
    model: str = "",
    rule: DecisionRule | None = None,
    order: Order = "mel",
    bands: Bands | None = None,
) -> Library:
    """The library of a network with its front end, which decides every `hop` seconds on the last clip.

    Without a hop clips do not overlap, nor in the order by time. `model` identifies the model in a firmware image: the
    hash of the bundle's graph. With a decision `rule` there is tinyscene_decision; with `bands`, offsets are learned.
    Raises InputError for a hop that is not a whole number of frames.
    """
    log_mel = input_log_mel(graph, front_end)
    sizes = frontend_config(log_mel)
    vectors = simd_config(log_mel) if "simd" in kernels else {}
    sizes |= vectors
    pace = pace_of(graph, kernels) if order == "time" and streams(graph, front_end) else None
    sizes |= stream_config(front_end, pace, hop) if pace else window_config(front_end, sizes["START_FRAMES"], hop)
    if order == "time" and not pace and sizes["HOP_SAMPLES"] < sizes["CLIP_SAMPLES"]:
        raise InputError(
            f"a hop of {hop:g} seconds: in the order by time, windows of a network that pads over time do not overlap"
        )
    columns = pace.columns if pace else 0
    extras = [*front_end_blocks(sizes, order), *rule_blocks(rule, graph, columns)]
    plan = _ordered_plan(graph, kernels, order, extras, work_bytes(sizes), pace)
    config: Config = {
        **sizes,
        **scene_config(sizes, plan, len(labels), (rule_bytes(rule, len(labels)), bands_bytes(bands))),
        **network_config(plan),
        **rule_config(rule, plan),
        **bands_config(bands),
        "LOGIT_SCALE": graph.output.q.scale,
        "LOGIT_ZERO_POINT": graph.output.q.zero_point,
        "MODEL": f'"{model}"',
        "VERSION": f'"{metadata.version("tinyscene")}"',
    }
    files = {
        **network_files(plan, kernels, summed_activation(rule, graph)),
        **_runtime_files([*NETWORK_FILES, *_files_of("tinyscene", kernels), *(RULE_FILES if rule else ())]),
        **rule_tables(rule),
        **(_runtime_files(BANDS_FILES) | bands_tables(bands) if bands else {}),
        **_runtime_files([*SCENE_FILES, *_files_of("tinyscene_frontend", kernels)]),
        "tinyscene_tables.c": frontend_tables(log_mel),
        **({"tinyscene_tables_simd.c": simd_tables(log_mel)} if vectors else {}),
        "tinyscene_labels.c": labels_file(labels, unknown_label(rule)),
    }
    config["INIT"] = f"tinyscene_init_{_identity(files, config)}"
    files |= _config_headers(config)
    return Library(files, plan, config, tuple(kernels))


def make_network(graph: Graph, kernels: Sequence[str] = DEVICE_KERNELS, order: Order = "mel") -> Library:
    """The library of a network alone, for any integer graph: features in, output out, through tinyscene_network.h.

    In the order by time the input and the output have mel and frame exchanged.
    """
    plan = _ordered_plan(graph, kernels, order)
    config = network_config(plan)
    files = {
        **network_files(plan, kernels),
        **_runtime_files([*NETWORK_FILES, *_files_of("tinyscene", kernels)]),
        **_config_headers(config),
    }
    return Library(files, plan, config, tuple(kernels))


def write_sources(library: Library, folder: Path) -> list[Path]:
    """Write all files of a library; returns those to compile."""
    for name, content in library.files.items():
        (folder / name).write_text(content, encoding="utf-8")
    return [folder / name for name in library.files if name.endswith(".c")]


def streams(graph: Graph, front_end: FrontEnd) -> bool:
    """Whether frames and columns are the same in every window, so that each is computed once."""
    return front_end.edges == "none" and is_streamable(graph)


def pace_of(graph: Graph, kernels: Sequence[str]) -> Pace:
    """The pace of a streamable graph."""
    ordered = by_time(graph)
    access = access_of_all(ordered, kernels)
    mean = ordered.sources(ordered.operators[-1])[0]
    return make_pace(ordered, access, row_work(ordered, access), mean.shape[1])


def access_of_all(graph: Graph, kernels: Sequence[str]) -> list[AccessPattern]:
    """The access pattern of each operator."""
    return [access_of(operator, graph.sources(operator), kernels) for operator in graph.operators]


def _ordered_plan(
    graph: Graph,
    kernels: Sequence[str],
    order: Order,
    extras: Sequence[Block] = (),
    frame_work: int = 0,
    pace: Pace | None = None,
) -> Plan:
    """A plan that was checked; `frame_work`: bytes of working memory that the front end needs for a frame."""
    if order == "time":
        graph = by_time(graph)
    if pace:
        graph = lengthened(graph, graph.input.shape[1] + PERIODS * pace.period)
    access = access_of_all(graph, kernels)
    if pace:
        access[-1] = endless_access(graph.sources(graph.operators[-1])[0], pace.columns)
    plan = make_plan(graph, access, extras, frame_work if order == "time" else None, pace)
    check_arena(plan)
    return plan


def _files_of(part: str, kernels: Sequence[str]) -> list[str]:
    """Runtime files of a part for these kinds of processor, and the plain ones, which the others fall back to."""
    kinds = dict.fromkeys(["plain", *kernels])
    return [path.name for kind in kinds for path in sorted(RUNTIME.glob(f"{part}_{kind}*"))]


def _runtime_files(names: Sequence[str]) -> dict[str, str]:
    return {name: (RUNTIME / name).read_text(encoding="utf-8") for name in names}


def _identity(files: Mapping[str, str], config: Config) -> str:
    """A hash of all that a library consists of. A name that ends in it links its header to its own archive only."""
    parts = [*files, *files.values(), *(f"{key} {value}" for key, value in config.items())]
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:12]


def _config_headers(config: Config) -> dict[str, str]:
    """The header with the constants that a program may use, and that of all others, which may change."""
    values = config | ({"BYTES": f"({config['BYTES']} + (2 * TINYSCENE_BACKLOG_SAMPLES))"} if "BYTES" in config else {})
    public = {name: value for name, value in values.items() if name in PUBLIC}
    inner = {name: value for name, value in values.items() if name not in PUBLIC}
    return {
        "tinyscene_config.h": _header("tinyscene_config.h", "", public),
        "tinyscene_layout.h": _header("tinyscene_layout.h", '#include "tinyscene_config.h"\n\n', inner),
    }


def _header(name: str, head: str, values: Config) -> str:
    defines = "".join(f"#define TINYSCENE_{key} {value}\n" for key, value in values.items())
    guard = name.upper().replace(".", "_")
    return f"/* Generated. */\n#ifndef {guard}\n#define {guard}\n\n{head}{defines}\n#endif\n"

"""The library around the network: windows of PCM, memory of the front end, and their constants in the C."""

import re
from collections.abc import Sequence

import numpy as np

from tinyscene.deploy.common.errors import InputError
from tinyscene.deploy.frontend.frame_spans import frame_spans
from tinyscene.deploy.frontend.log_mel import FrontEnd
from tinyscene.firmware_bridge.codegen.network import Config, first_value
from tinyscene.firmware_bridge.codegen.turns import pass_units
from tinyscene.firmware_bridge.memory.by_time import Order
from tinyscene.firmware_bridge.memory.pace import Pace
from tinyscene.firmware_bridge.memory.planner import ALWAYS, Block, Plan, aligned, work_block
from tinyscene.firmware_bridge.memory.schedule import FIRST

STATE_WORDS = 7 + 1 + 2  # of struct tinyscene: its own, one of the progress of a run, those of a backlog
MOST_HOP = 10  # seconds, of a network that listens without end
FRAME_WORK = 4  # instructions of a Cortex-M4 by point and pass of the transform, all stages together


def stream_config(front_end: FrontEnd, pace: Pace, hop: float | None) -> dict[str, int]:
    """Constants of a network that listens without end and decides every `hop` seconds, by default about one.

    The library's window is a clip with the frames of the delay; or as long as a hop, if that is longer: then it begins
    with frames that the first decision does without. Raises InputError for a hop that is not a whole number of columns.
    """
    column = pace.period * front_end.hop_length  # samples
    samples = (
        column * max(1, round(front_end.sample_rate / column)) if hop is None else round(hop * front_end.sample_rate)
    )
    if not 0 < samples <= MOST_HOP * front_end.sample_rate or samples % column:
        step = column / front_end.sample_rate
        raise InputError(
            f"a hop of {hop:g} seconds: it must be a multiple of {step:g} (a column), and at most {MOST_HOP}"
        )
    delay = pace.decision - front_end.frames
    window = max(pace.decision, samples // front_end.hop_length)
    return {
        "HOP_SAMPLES": samples,
        "PENDING": 0,
        "DELAY_SAMPLES": delay * front_end.hop_length,
        "WINDOW_FRAMES": window,
        "WINDOW_SAMPLES": front_end.clip_samples + (window - front_end.frames) * front_end.hop_length,
        "LEAD_FRAMES": window - pace.decision,
        "COLUMN_SAMPLES": column,
    }


def hop_limits(config: Config) -> tuple[int, int]:
    """Samples: what hops of a library are multiples of, and the longest hop, which need not be one."""
    clip = int(config["CLIP_SAMPLES"])
    if "COLUMN_SAMPLES" in config:
        column = int(config["COLUMN_SAMPLES"])
        return column, MOST_HOP * int(config["SAMPLE_RATE"]) // column * column
    return (clip if config["BY_TIME"] else int(config["HOP_LENGTH"])), clip


def window_config(front_end: FrontEnd, start_frames: int, hop: float | None) -> dict[str, int]:
    """Constants of windows that start every `hop` seconds; None: without overlap.

    PENDING counts the frames at the starts of later windows that are computed before a window is complete.
    Raises InputError for a hop that is not a whole number of frames.
    """
    clip, longest = front_end.clip_samples, front_end.clip_seconds
    hop = longest if hop is None else hop
    samples = clip if hop == longest else round(hop * front_end.sample_rate) if 0 < hop < longest else 0
    if not 0 < samples <= clip or (samples < clip and samples % front_end.hop_length):
        step = front_end.hop_length / front_end.sample_rate
        raise InputError(
            f"a hop of {hop:g} seconds: it must be {longest:g}, or less and a multiple of {step:g} (a frame)"
        )
    spans = frame_spans(front_end)
    due = np.arange(samples, clip + 1, samples)[:, None] + [span.due for span in spans[:start_frames]]
    return {
        "HOP_SAMPLES": samples,
        "PENDING": int((due <= clip).sum()),
        "DELAY_SAMPLES": 0,
        "WINDOW_FRAMES": front_end.frames,
        "WINDOW_SAMPLES": clip,
        "LEAD_FRAMES": 0,
    }


def work_bytes(sizes: dict[str, int]) -> int:
    """TINYSCENE_WORK_BYTES."""
    return 10 * sizes["N_FFT"] + 320 if "ROTATIONS" in sizes else 4 * sizes["N_FFT"]


def front_end_blocks(sizes: dict[str, int], order: Order) -> list[Block]:
    """Memory of the front end. If windows overlap, features and PCM persist while the network runs; by time PCM does,
    and the planner itself places the working memory of a frame."""
    ring, work = 2 * sizes["RING_SAMPLES"], work_bytes(sizes)
    if order == "time":
        return [work_block("\tpcm", ring, FIRST - 1, ALWAYS)]
    if sizes["HOP_SAMPLES"] == sizes["CLIP_SAMPLES"]:
        return [work_block("\tpcm", ring, FIRST, FIRST), work_block("\tfft", work, FIRST, FIRST)]
    before = FIRST - 1
    persistent = {
        "pcm": ring,
        "features": sizes["MELS"] * sizes["FRAMES"],
        "starts": sizes["PENDING"] * sizes["MELS"],
    }
    return [
        work_block("\tfft", work, before, before),
        *(work_block(f"\t{name}", size, before, ALWAYS) for name, size in persistent.items() if size),
    ]


def scene_config(sizes: dict[str, int], plan: Plan, classes: int, parts: Sequence[int] = ()) -> Config:
    """Constants of the instance, whose state has parts of so many bytes, and where the front end's memory is."""
    name = plan.schedule.graph.input.name
    if plan.schedule.arriving:
        features = {"FEATURES_STRIDE": 1}
    elif sizes["HOP_SAMPLES"] < sizes["CLIP_SAMPLES"]:
        features = {"FEATURES": plan.offsets["\tfeatures"], "FEATURES_STRIDE": sizes["FRAMES"]}
    else:
        features = {"FEATURES": first_value(plan, name), "FEATURES_STRIDE": plan.schedule.rows[name].stride}
    turns = len(plan.schedule.graph.tensors)
    state = aligned(4 * STATE_WORDS + 2 * turns + classes + sum(3 + size for size in parts if size))
    return {
        "CLASSES": classes,
        "STATE_BYTES": state,
        "FRAME_UNITS": _frame_units(sizes, plan),
        "BYTES": state + plan.arena_bytes,
        "PCM": plan.offsets["\tpcm"],
        "WORK": plan.offsets["\tfft"],
        **features,
        **({"STARTS": plan.offsets["\tstarts"]} if sizes["PENDING"] else {}),
    }


def _frame_units(sizes: dict[str, int], plan: Plan) -> int:
    """What a frame takes of a budget; by time, with all rows that follow from it."""
    frame = max(1, FRAME_WORK * sizes["N_FFT"] * sizes["N_FFT"].bit_length() // 1000)
    return frame + (max(pass_units(plan)) if plan.schedule.arriving else 0)


def labels_file(labels: Sequence[str], unknown: str | None = None) -> str:
    """The C of tinyscene_label. `unknown` is the name of TINYSCENE_UNKNOWN, if there is one."""
    names = "".join(f"    {_c_string(label)},\n" for label in [*labels, *([unknown] if unknown else [])])
    count = "TINYSCENE_CLASSES + 1" if unknown else "TINYSCENE_CLASSES"
    return (
        '#include "tinyscene.h"\n\n'
        f"static const char *const labels[{count}] = {{\n{names}}};\n\n"
        "const char *tinyscene_label(size_t index)\n{\n"
        "    return (index < (sizeof labels / sizeof labels[0])) ? labels[index] : NULL;\n}\n"
    )


def _c_string(text: str) -> str:
    """Text as a C string in UTF-8; all but plain characters are escaped."""
    plain = re.compile(rb"[A-Za-z0-9_. -]")
    return '"' + "".join(chr(byte) if plain.match(bytes([byte])) else f"\\{byte:03o}" for byte in text.encode()) + '"'

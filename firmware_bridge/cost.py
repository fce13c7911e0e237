"""What a decision costs in instructions, and the clock and the memory for waiting sound that follow from it.

    cost = measure_cost(image, settings, library.config, clip)
    table = clock_table([cost], library.config)         # of a package's README

Sound that comes while the network runs has to wait in memory. packages/scene_cost.h.j2 has the same rule in C.
"""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from shutil import which
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tinyscene.firmware_bridge.codegen.network import Config
from tinyscene.firmware_bridge.codegen.scene import hop_limits
from tinyscene.firmware_bridge.emulate import Image, by_function, last_window, listening_job
from tinyscene.firmware_bridge.targets.image import BuildSettings

COUNTED_ON = "cortex-m4"
MIPS = 64  # millions of instructions a second, for which the examples hold sound unless they are told otherwise
RESERVE_MS = 100  # of sound, for the blocks in which it comes
CLOCKS_MHZ = (32, 48, 64, 100, 160, 240, 480)


@dataclass(frozen=True)
class Cost:
    """Thousands of instructions of a decision, rounded up, with the kernels of a kind of processor."""

    kernels: str
    run_kilo: int  # tinyscene_run
    push_kilo: int  # tinyscene_push, for the sound between two decisions
    frame_kilo: int = 0  # of those at most for one frame, where the network's rows are computed as sound comes

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True)
class ClockRow:
    """What a processor can do that executes an instruction in each period of its clock."""

    megahertz: int
    decisions: float | None  # a second at most; none if it cannot keep up with one in the length of a clip
    sound_bytes: int | None  # that wait while the network runs


def measure_cost(image: Path, settings: BuildSettings, config: Config, clip: NDArray[np.int16]) -> Cost:
    """Count instructions of an image of `build_image`, by QEMU if it is there, else by unicorn, which is slower.

    `clip`: (samples,). Raises InputError if both are missing.
    """
    job = listening_job(clip, config, 2)  # the second window for the pushes of later ones
    program = settings.target.qemu[0] if settings.target.qemu else ""
    if which(program):
        answers = Image(image, _with_emulator(settings, "qemu")).run(job)
        run, push = answers.instructions[-1].tolist()
        return _cost(settings.kernels, run, push, config)
    counter = Image(image, _with_emulator(settings, "unicorn"))
    counter.run(job)
    total = by_function(last_window(counter.calls("tinyscene_(run|push)")))
    return _cost(settings.kernels, total["tinyscene_run"], total["tinyscene_push"], config)


def _cost(kernels: str, run: float, push: float, config: Config) -> Cost:
    """The frame is estimated from the units that the library has for it; without end, all frames are much the same."""
    uneven = config["BY_TIME"] and not config["STREAMS"]
    frame = (run + push) * float(config["FRAME_UNITS"]) / float(config["RUN_UNITS"]) if uneven else 0
    return Cost(kernels, _kilo(run), _kilo(push), _kilo(frame) if uneven else 0)


def sound_ms(cost: Cost | None, hop_ms: int, mips: float = MIPS) -> int:
    """Milliseconds of sound that an example holds. A run may take as long as a hop if its cost is not known."""
    if cost is None:
        return hop_ms + RESERVE_MS
    return int(min(cost.run_kilo / mips * 1.1, hop_ms)) + math.ceil(cost.frame_kilo / mips) + RESERVE_MS


def clock_rows(cost: Cost, config: Config) -> list[ClockRow]:
    """For each clock, how often it can decide at most, and the bytes of sound that wait then."""
    rate, hop = float(config["SAMPLE_RATE"]), float(config["HOP_SAMPLES"]) / float(config["SAMPLE_RATE"])
    step, longest = hop_limits(config)
    rows = []
    for megahertz in CLOCKS_MHZ:
        run, push = cost.run_kilo / 1000 / megahertz, cost.push_kilo / 1000 / megahertz / hop  # seconds, share
        shortest = rate * run / (1 - push) if push < 1 else math.inf  # samples
        if shortest > longest:
            rows.append(ClockRow(megahertz, None, None))
            continue
        possible = min(step * math.ceil(shortest / step), longest)
        held = sound_ms(cost, round(1000 * longest / rate), megahertz)
        rows.append(ClockRow(megahertz, rate / possible, 2 * round(held * rate / 1000)))
    return rows


def clock_table(costs: Sequence[Cost], config: Config) -> str:
    """The rows of all costs as a Markdown table, or nothing without a cost."""
    if not costs:
        return ""
    titles = {"dsp": "DSP instructions", "plain": "plain C"}
    columns = [f"{titles[cost.kernels]}: decisions a second | bytes" for cost in costs]
    lines = [f"| clock | {' | '.join(columns)} |", f"|---:|{'---:|---:|' * len(costs)}"]
    for rows in zip(*(clock_rows(cost, config) for cost in costs), strict=True):
        cells = [
            "too slow | " if row.decisions is None else f"{row.decisions:.2f} | {row.sound_bytes:,}" for row in rows
        ]
        lines.append(f"| {rows[0].megahertz} MHz | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _with_emulator(settings: BuildSettings, name: str) -> BuildSettings:
    return replace(settings, emulator=name)


def _kilo(instructions: float) -> int:
    """In thousands, rounded up to three digits: emulators differ in the last ones."""
    step = 10 ** max(0, len(str(math.ceil(instructions / 1000))) - 3)
    return math.ceil(instructions / 1000 / step) * step

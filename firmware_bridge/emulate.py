"""Run the firmware on an emulated target and compare it with the reference bit for bit.

    result = emulate(bundle, pcm, build_settings("cortex-m4"))     # or any target of toolchains.py, the host among them
    require_equal([result])                           # raises EmulationError at the first layer that differs

The image is the library as a user gets it, with a small program (harness/scene_main.c) around it that reads sound from
a file, pushes it, and writes logits, checksums of every activation and counts. What is counted are instructions, not
cycles: emulators have no model of a pipeline or of flash.
"""

import re
import struct
import subprocess
import tempfile
import zlib
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tinyscene.deploy.bundle.bundle import Bundle
from tinyscene.deploy.common.errors import TinysceneError
from tinyscene.deploy.graph.reference import run_all
from tinyscene.firmware_bridge.codegen.library import Library, make_library
from tinyscene.firmware_bridge.memory.schedule import macs
from tinyscene.firmware_bridge.targets import emulators
from tinyscene.firmware_bridge.targets.image import BuildSettings, build_image, build_settings, flash_bytes

JOB = struct.Struct("<4s4I")  # magic, version, clips, samples a push, tensor to dump
RESULT = struct.Struct("<4s7I")  # magic, version, windows, classes, tensors, memory, stack, reserved
VERSION, NOTHING = 1, 0xFFFFFFFF
CHUNK = 1_000  # samples a push: no divisor of anything
ROW = re.compile(r"tinyscene_row_(\d+)(?:\.(?:constprop|isra)\.\d+)*")  # gcc renames what it specializes


class EmulationError(TinysceneError):
    """A target whose results differ from the reference (exit code 4)."""

    exit_code = 4


@dataclass(frozen=True)
class Answers:
    """What the program wrote."""

    logits: NDArray[np.int8]  # (window, classes)
    crc: NDArray[np.uint32]  # (window, tensors)
    instructions: NDArray[np.uint64]  # (window, 2): of the run, and of the pushes before it; 0 where not counted
    memory: int
    stack: int
    dumped: bytes


def emulate(bundle: Bundle, pcm: NDArray[np.int16], settings: BuildSettings) -> dict[str, Any]:
    """Run clips (clip, samples) on an emulated target and compare them with the reference.

    Returns: target, toolchain, emulator, optimize, kernels, clips, equal, difference (of the first clip that differs),
    instructions (of an inference), instructions_per_mac, frontend_instructions (of a clip), layers (instructions by
    activation), arena_bytes, state_bytes, memory_bytes (all an instance needs), stack_bytes, flash_bytes, and flash
    by code, weights and tables. Counts are none where nothing counts, as on the host. Raises InputError where the
    emulator is missing or has no such core.
    """
    library = make_library(bundle.graph, bundle.front_end, bundle.labels, (settings.kernels,))
    tensors = _reference(bundle, pcm)
    with tempfile.TemporaryDirectory(prefix="tinyscene-") as name:
        folder = Path(name)
        image, traced = (_Image(build_image(library, settings, folder, trace), settings) for trace in (False, True))
        difference = _first_difference(traced, pcm, tensors)
        counts = _count(image, pcm[:1])
        flash = flash_bytes(image.path, library) if settings.target.bare else None
    config, run_count = library.config, counts["instructions"]
    return {
        "target": settings.target.name,
        "toolchain": settings.toolchain.version(),
        "emulator": settings.emulator,
        "optimize": settings.optimize,
        "kernels": settings.kernels,
        "clips": len(pcm),
        "equal": difference is None,
        "difference": difference,
        **counts,
        "instructions_per_mac": None if run_count is None else run_count / macs(bundle.graph),
        "arena_bytes": config["ARENA_BYTES"],
        "state_bytes": config["STATE_BYTES"],
        "memory_bytes": config["BYTES"],
        "flash_bytes": None if flash is None else sum(flash.values()),
        "flash": flash,
    }


def emulate_network(library: Library, features: NDArray[np.int8], target: str) -> NDArray[np.int8]:
    """The output of a network without a front end on an emulated target: features (batch, ...) -> (batch, ...)."""
    settings = build_settings(target, kernels=library.kernels[0])
    with tempfile.TemporaryDirectory(prefix="tinyscene-") as folder:
        path = build_image(library, settings, Path(folder), program="network")
        job = JOB.pack(b"TSGN", VERSION, len(features), 0, NOTHING) + features.tobytes()
        answers = _Image(path, settings).run(job)
    return answers.logits.reshape(len(features), *library.plan.schedule.graph.output.shape[1:])


def require_equal(results: list[dict[str, Any]]) -> None:
    """Raise EmulationError if a target did not give the reference's results."""
    for result in results:
        if not result["equal"]:
            raise EmulationError(f"{result['target']}: differs from the reference: {result['difference']}")


def _reference(bundle: Bundle, pcm: NDArray[np.int16]) -> dict[str, NDArray[np.int8]]:
    return run_all(bundle.graph, bundle.features(pcm))


@dataclass(frozen=True)
class _Image:
    path: Path
    settings: BuildSettings

    def run(self, job: bytes) -> Answers:
        folder = self.path.parent
        (folder / "job.bin").write_bytes(job)
        (folder / "result.bin").unlink(missing_ok=True)
        code, console = self._execute(folder)
        if code or not (folder / "result.bin").is_file():
            raise EmulationError(f"{self.settings.target.name}: the program ended with {code}: {console.strip()}")
        return answers_of((folder / "result.bin").read_bytes())

    def _execute(self, folder: Path) -> tuple[int, str]:
        if self.settings.target.bare:
            done = emulators.run(self.path, self.settings.target, folder, self.settings.emulator)
            return done.exit_code, done.console
        done = subprocess.run([self.path], cwd=folder, capture_output=True, text=True, check=False)
        return done.returncode, done.stdout + done.stderr

    def count(self, functions: str) -> Counter[str]:
        """Instructions by function, of the job that was run last."""
        total: Counter[str] = Counter()
        counted = emulators.run(
            self.path, self.settings.target, self.path.parent, "unicorn", counting=True, by_function=functions
        )
        for call in counted.calls:
            total[call.function] += call.instructions
        return total


def job_of(pcm: NDArray[np.int16], dump: int = NOTHING) -> bytes:
    """What harness/scene_main.c reads: clips (clip, samples), and the number of an activation to write out."""
    return JOB.pack(b"TSGJ", VERSION, len(pcm), CHUNK, dump) + pcm.astype("<i2").tobytes()


def answers_of(content: bytes) -> Answers:
    """What harness/scene_main.c wrote."""
    _, _, windows, classes, tensors, memory, stack, _ = RESULT.unpack_from(content)
    row = np.dtype(
        [("count", "<u8", (2,)), ("crc", "<u4", (tensors,)), ("logits", "i1", (classes,)), ("pad", "V", -classes % 4)]
    )
    rows = np.frombuffer(content, row, windows, RESULT.size)
    rest = content[RESULT.size + windows * row.itemsize :]
    return Answers(rows["logits"], rows["crc"], rows["count"], memory, stack, rest)


def _first_difference(image: _Image, pcm: NDArray[np.int16], tensors: dict[str, NDArray[np.int8]]) -> str | None:
    """The first layer that differs in the first clip that does, with the place and both values."""
    found = image.run(job_of(pcm))
    logits = list(tensors.values())[-1]
    for clip in range(len(pcm)):
        for number, (name, values) in enumerate(tensors.items()):
            if zlib.crc32(values[clip].tobytes()) != found.crc[clip, number]:
                dumped = np.frombuffer(image.run(job_of(pcm[clip : clip + 1], number)).dumped, np.int8)
                return f"clip {clip}, {name} {_differing(values[clip], dumped[: values[clip].size])}"
        if (found.logits[clip] != logits[clip]).any():
            return f"clip {clip}: the scores that are given out are not the logits"
    return None


def _differing(expected: NDArray[np.int8], found: NDArray[np.int8]) -> str:
    places = np.flatnonzero(found != expected.ravel())
    if not len(places):
        return "has another checksum, but the same values when it is run again"
    first = tuple(int(each) for each in np.unravel_index(places[0], expected.shape))
    values = f"{found[places[0]]}, not {expected.ravel()[places[0]]}"
    return f"at {first} is {values}; {len(places)} of {expected.size} values differ"


def _count(image: _Image, pcm: NDArray[np.int16]) -> dict[str, Any]:
    """Instructions of a clip, on an image without checksums in it; and the most stack that was used."""
    answers = image.run(job_of(pcm))
    counts: dict[str, Any] = {"instructions": None, "frontend_instructions": None, "layers": None}
    if image.settings.emulator == "qemu":
        run, push = answers.instructions[0].tolist()
        counts |= {"instructions": run, "frontend_instructions": push}
    if image.settings.emulator == "unicorn":
        total = image.count(rf"tinyscene_(run|push)|{ROW.pattern}")
        layers = {int(match[1]): count for name, count in total.items() if (match := ROW.fullmatch(name))}
        counts = {
            "instructions": total["tinyscene_run"],
            "frontend_instructions": total["tinyscene_push"],
            "layers": [layers[number] for number in sorted(layers)],
        }
    return counts | {"stack_bytes": answers.stack or None}

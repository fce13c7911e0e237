"""Run the firmware on an emulated target and compare it with the reference bit for bit.

    result = emulate(bundle, pcm, build_settings("cortex-m4"))     # or any target of toolchains.py, the host among them
    require_equal({result.target: result.difference})      # raises EmulationError with the first layer that differs

The image is the library as a user gets it and a small program (harness/scene_main.c) that reads PCM from a file, pushes
it, and writes logits, checksums of every activation and counts. It counts instructions, not cycles: emulators do not
model pipelines or flash.
"""

import struct
import subprocess
import zlib
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from tinyscene.deploy.bundle.bundle import Bundle
from tinyscene.deploy.bundle.decision import Decider
from tinyscene.deploy.bundle.likeness import sums_of
from tinyscene.deploy.common.errors import InputError, TinysceneError
from tinyscene.deploy.common.files import temporary_folder
from tinyscene.deploy.graph.reference import run_all
from tinyscene.firmware_bridge.codegen.library import make_library
from tinyscene.firmware_bridge.codegen.network import Config
from tinyscene.firmware_bridge.memory.by_time import Order, rows_first
from tinyscene.firmware_bridge.profiling import ROW, ProfileRow, layer_counts, profile_image
from tinyscene.firmware_bridge.targets import emulators
from tinyscene.firmware_bridge.targets.image import BuildSettings, FlashBytes, build_image, flash_bytes

JOB = struct.Struct("<4s4I")  # magic, version, clips, samples a push, tensor to dump
RESULT = struct.Struct("<4s7I")  # magic, version, windows, classes, tensors, memory, stack, reserved
VERSION, NOTHING = 1, 0xFFFFFFFF
BATCH = 64  # clips that a program is given at a time
CHUNK = 1_000  # samples a push: no divisor of anything


class EmulationError(TinysceneError):
    """A target whose results differ from the reference (exit code 4)."""

    exit_code = 4


@dataclass(frozen=True)
class Answers:
    """The output of the program."""

    logits: NDArray[np.int8]  # (window, classes), and the class decided on after them if there is a decision rule
    crc: NDArray[np.uint32]  # (window, tensors)
    instructions: NDArray[np.uint64]  # (window, 2): of the run, and of the pushes before it; 0 where not counted
    memory: int
    stack: int
    dumped: bytes


@dataclass(frozen=True)
class EmulationResult:
    """Whether a target's results equal the reference, and what they cost. Counts are none where nothing counts."""

    target: str
    toolchain: str
    emulator: str | None
    optimize: str
    kernels: str
    order: Order
    clips: int
    equal: bool
    difference: str | None  # in the first clip that differs
    instructions: int | None  # of an inference
    frontend_instructions: int | None  # of a clip
    push_instructions: int | None  # of all that tinyscene_push does for a clip: by time, most rows of the network
    longest_push_instructions: int | None  # of a push of one frame's hop
    run_instructions: int | None  # of tinyscene_run, once the clip is complete
    layers: list[int] | None  # instructions by activation
    parts: int | None  # rows that an inference is divided into by tinyscene_step, whatever the budget
    longest_part_instructions: int | None
    stack_bytes: int | None
    instructions_per_mac: float | None
    arena_bytes: int
    state_bytes: int
    memory_bytes: int  # arena and state: all that an instance needs
    flash_bytes: int | None
    flash: FlashBytes | None
    profile: list[ProfileRow] | None = None  # if asked for


def emulate(
    bundle: Bundle, pcm: Iterable[NDArray[np.int16]], settings: BuildSettings, profile: bool = False
) -> EmulationResult:
    """Run clips, each (samples,), on an emulated target and compare them with the reference.

    The clips are taken as they come, BATCH of them in memory at a time. Raises InputError if there is none, or if the
    emulator is missing or does not support the core. `profile` counts instructions by layer and by function, too.
    """
    if profile and not settings.emulator:
        raise InputError(f"--profile: {settings.target.name} runs on this machine itself, where nothing counts")
    parts = (bundle.graph, bundle.front_end, bundle.labels, (settings.kernels,))
    library = make_library(*parts, rule=bundle.rule, order=settings.order)
    with temporary_folder() as folder:
        image, traced = (Image(build_image(library, settings, folder, trace), settings) for trace in (False, True))
        clips, difference, counts = _compare(image, traced, bundle, pcm, library.config)
        rows = profile_image(image.path, settings, bundle.graph) if profile else None
        flash = flash_bytes(image.path, library) if settings.target.bare else None
    config = library.config
    return EmulationResult(
        target=settings.target.name,
        toolchain=settings.toolchain.version(),
        emulator=settings.emulator,
        optimize=settings.optimize,
        kernels=settings.kernels,
        order=settings.order,
        clips=clips,
        equal=difference is None,
        difference=difference,
        instructions=counts.inference,
        frontend_instructions=counts.front_end,
        push_instructions=counts.push,
        longest_push_instructions=counts.longest_push,
        run_instructions=counts.run,
        layers=counts.layers or layer_counts(rows),
        parts=counts.parts,
        longest_part_instructions=counts.longest_part,
        stack_bytes=counts.stack_bytes,
        instructions_per_mac=None if counts.inference is None else counts.inference / bundle.graph.macs,
        arena_bytes=int(config["ARENA_BYTES"]),
        state_bytes=int(config["STATE_BYTES"]),
        memory_bytes=int(config["BYTES"]),
        flash_bytes=None if flash is None else flash.total,
        flash=flash,
        profile=rows,
    )


def require_equal(differences: Mapping[str, str | None]) -> None:
    """Raise EmulationError if a target differs from the reference: `differences` by target, none where it is equal."""
    for target, difference in differences.items():
        if difference is not None:
            raise EmulationError(f"{target}: differs from the reference: {difference}")


def _compare(
    image: "Image", traced: "Image", bundle: Bundle, pcm: Iterable[NDArray[np.int16]], config: Config
) -> tuple[int, str | None, "_Counts"]:
    """How many clips there are, the first difference, and the counts on the first clip."""
    rest, clips, difference, counts = iter(pcm), 0, None, None
    while batch := list(islice(rest, BATCH)):
        values = np.stack(batch)
        counts = counts or _count(image, values[0], config)
        if difference is None and config["STREAMS"]:
            difference = _first_window_that_differs(image, values.ravel(), bundle, config)
        elif difference is None:
            tensors = run_all(bundle.graph, bundle.features(values))
            decisions = _decisions(bundle, tensors)
            if image.settings.order == "time":
                tensors = {name: rows_first(each) for name, each in tensors.items()}
            difference = _first_difference(traced, values, tensors, clips, decisions)
        clips += len(batch)
    if counts is None:
        raise InputError("no clip to run")
    return clips, difference, counts


@dataclass(frozen=True)
class Image:
    """A program of harness/ that is built for a target, ready to run jobs."""

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
            outcome = emulators.run(self.path, self.settings.target, folder, self.settings.emulator)
            return outcome.exit_code, outcome.console
        process = subprocess.run([self.path], cwd=folder, capture_output=True, text=True, check=False)
        return process.returncode, process.stdout + process.stderr

    def calls(self, functions: str) -> list[emulators.Call]:
        """The calls of functions, of the last job."""
        counted = emulators.run(
            self.path, self.settings.target, self.path.parent, "unicorn", counting=True, by_function=functions
        )
        return counted.calls


def last_window(calls: list[emulators.Call]) -> list[emulators.Call]:
    """The calls, tinyscene_run among them, from the end of the last window but one on."""
    ends = [0, *(number for number, call in enumerate(calls, 1) if call.function == "tinyscene_run")]
    return calls[ends[-2] : ends[-1]]


def by_function(calls: list[emulators.Call]) -> Counter[str]:
    """Instructions by function."""
    total: Counter[str] = Counter()
    for call in calls:
        total[call.function] += call.instructions
    return total


def job_of(pcm: NDArray[np.int16], dump: int = NOTHING, chunk: int = CHUNK) -> bytes:
    """The input of harness/scene_main.c: clips (clip, samples), the number of an activation to write out, and how many
    samples are pushed at a time."""
    return _job(pcm, len(pcm), chunk, dump)


def listening_job(sound: NDArray[np.int16], config: Config, windows: int, chunk: int = CHUNK) -> bytes:
    """The same of so many windows of sound (samples,), which is repeated if it is too short."""
    hop, clip, delay = (int(config[f"{name}_SAMPLES"]) for name in ("HOP", "CLIP", "DELAY"))
    return _job(np.resize(sound, (windows - 1) * hop + clip + delay), windows, chunk)


def _job(pcm: NDArray[np.int16], windows: int, chunk: int, dump: int = NOTHING) -> bytes:
    return JOB.pack(b"TSGJ", VERSION, windows, chunk, dump) + pcm.astype("<i2").tobytes()


def answers_of(content: bytes) -> Answers:
    """Read the output of harness/scene_main.c."""
    _, _, windows, classes, tensors, memory, stack, _ = RESULT.unpack_from(content)
    row = np.dtype(
        [("count", "<u8", (2,)), ("crc", "<u4", (tensors,)), ("logits", "i1", (classes,)), ("pad", "V", -classes % 4)]
    )
    rows = np.frombuffer(content, row, windows, RESULT.size)
    rest = content[RESULT.size + windows * row.itemsize :]
    return Answers(rows["logits"], rows["crc"], rows["count"], memory, stack, rest)


def _first_difference(
    image: Image,
    pcm: NDArray[np.int16],
    tensors: dict[str, NDArray[np.int8]],
    before: int,
    decisions: Sequence[int] = (),
) -> str | None:
    """The first layer that differs in the first clip that does, with the place and both values.

    The clips are counted from `before`, the number of clips before these. `decisions` are those of a decision rule.
    """
    answers = image.run(job_of(pcm))
    logits = list(tensors.values())[-1]
    for clip in range(len(pcm)):
        for number, (name, values) in enumerate(tensors.items()):
            if zlib.crc32(values[clip].tobytes()) != answers.crc[clip, number]:
                dumped = np.frombuffer(image.run(job_of(pcm[clip : clip + 1], number)).dumped, np.int8)
                return f"clip {before + clip}, {name} {_differing(values[clip], dumped[: values[clip].size])}"
        decided = np.array(decisions[clip : clip + 1]).astype(np.int8)
        if (answers.logits[clip, : logits.shape[1]] != logits[clip]).any():
            return f"clip {before + clip}: the scores differ from the logits"
        if (answers.logits[clip, logits.shape[1] :] != decided).any():
            return f"clip {before + clip}: the decision differs from the rule's"
    return None


def _decisions(bundle: Bundle, tensors: dict[str, NDArray[np.int8]]) -> list[int]:
    """What a bundle's decision rule decides on, clip after clip, by the tensors of the clips; nothing without one."""
    rule, logits = bundle.rule, tensors[bundle.graph.output.name]
    if rule is None:
        return []
    likeness = rule.unknown.of(sums_of(bundle.graph, tensors)).tolist() if rule.unknown else [0] * len(logits)
    decider = Decider(rule, len(bundle.labels))
    return [decider.push(*clip) for clip in zip(logits, likeness, strict=True)]


def _differing(expected: NDArray[np.int8], actual: NDArray[np.int8]) -> str:
    places = np.flatnonzero(actual != expected.ravel())
    if not len(places):
        return "has another checksum, but the same values when it is run again"
    first = tuple(int(index) for index in np.unravel_index(places[0], expected.shape))
    values = f"{actual[places[0]]}, not {expected.ravel()[places[0]]}"
    return f"at {first} is {values}; {len(places)} of {expected.size} values differ"


class _Counts(NamedTuple):
    """Instructions of a clip, and the bytes of stack that were used at most."""

    inference: int | None = None
    front_end: int | None = None
    push: int | None = None
    longest_push: int | None = None
    run: int | None = None
    layers: list[int] | None = None
    parts: int | None = None
    longest_part: int | None = None
    stack_bytes: int | None = None


def _count(image: Image, sound: NDArray[np.int16], config: Config) -> _Counts:
    """Count on an image without checksums, a frame's hop of samples pushed at a time: of the first window; or, where
    columns are computed once, of the second, which adds a hop of sound to the first."""
    windows = 2 if config["STREAMS"] else 1
    answers = image.run(listening_job(sound, config, windows, int(config["HOP_LENGTH"])))
    stack = answers.stack or None
    if image.settings.emulator == "qemu":
        run, push = answers.instructions[-1].tolist()
        parts = (run, push) if image.settings.order == "mel" else (None, None)
        return _Counts(*parts, push=push, run=run, stack_bytes=stack)
    if image.settings.emulator == "unicorn":
        calls = image.calls(rf"tinyscene_(run|push|network_step)|{ROW.pattern}")
        calls = last_window(calls)
        total = by_function(calls)
        layers = {int(match[1]): count for name, count in total.items() if (match := ROW.fullmatch(name))}
        rows = [call.instructions for call in calls if ROW.fullmatch(call.function)]
        run, push = total["tinyscene_run"], total["tinyscene_push"]
        inference = run if image.settings.order == "mel" else total["tinyscene_network_step"]
        return _Counts(
            inference=inference,
            front_end=push + run - inference,
            push=push,
            longest_push=max(call.instructions for call in calls if call.function == "tinyscene_push"),
            run=run,
            layers=[layers[number] for number in sorted(layers)],
            parts=len(rows),
            longest_part=max(rows),
            stack_bytes=stack,
        )
    return _Counts(stack_bytes=stack)


def _first_window_that_differs(image: Image, sound: NDArray[np.int16], bundle: Bundle, config: Config) -> str | None:
    """The first window of sound (samples,) whose logits or decision differ from the reference's, computed by itself."""
    hop, clip, delay = (int(config[f"{name}_SAMPLES"]) for name in ("HOP", "CLIP", "DELAY"))
    sound = np.pad(sound, (0, max(0, clip + delay - len(sound))))
    starts = range(0, len(sound) - clip - delay + 1, hop)
    pcm = np.stack([sound[start : start + clip] for start in starts])
    tensors = run_all(bundle.graph, bundle.features(pcm))
    decisions, logits = _decisions(bundle, tensors), tensors[bundle.graph.output.name]
    answers = image.run(listening_job(sound, config, len(starts)))
    for window, start in enumerate(starts):
        expected = [*logits[window].tolist(), *decisions[window : window + 1]]
        if answers.logits[window].tolist() != expected:
            what = (
                "scores"
                if answers.logits[window].tolist()[: logits.shape[1]] != expected[: logits.shape[1]]
                else "decision"
            )
            return f"the window from sample {start} on: the {what} are not the reference's of that window"
    return None

"""The test programs of firmware_bridge/harness on a stand-in for the library whose answers numpy knows."""

import functools
import shutil
import struct
import subprocess
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import numpy as np
import pytest

from tests import ROOT
from tinyscene.firmware_bridge.targets.emulators import Run, run
from tinyscene.firmware_bridge.targets.toolchains import TARGETS, build, find_toolchain, harness_sources

RUNTIME = ROOT / "firmware_bridge" / "runtime"
CLIP, HOP, NO_DUMP = 100, 40, 0xFFFFFFFF
CONFIG = """
#define TINYSCENE_CLIP_SAMPLES 100
#define TINYSCENE_HOP_SAMPLES 40
#define TINYSCENE_DELAY_SAMPLES 0
#define TINYSCENE_CLASSES 3
#define TINYSCENE_BYTES 224
#define TINYSCENE_TENSORS 2
#define TINYSCENE_ARENA_BYTES 64
#define TINYSCENE_INPUT 3
#define TINYSCENE_INPUT_ROWS 4
#define TINYSCENE_INPUT_ROW_BYTES 5
#define TINYSCENE_INPUT_STRIDE 7
#define TINYSCENE_OUTPUT 33
#define TINYSCENE_OUTPUT_ROWS 2
#define TINYSCENE_OUTPUT_ROW_BYTES 5
#define TINYSCENE_OUTPUT_STRIDE 8
"""
# Scores are the sum of a window, its first and its last sample; its tensor 0 are its samples, 25 a row.
SCENE = """
#include <string.h>
#include "tinyscene.h"
#if !defined(EXCESS)
#define EXCESS 0 /* bytes */
#endif
#include "tinyscene_network.h"

struct tinyscene { int16_t pcm[TINYSCENE_CLIP_SAMPLES]; uint32_t filled; int8_t scores[3]; };

size_t tinyscene_memory_bytes(void) { return TINYSCENE_BYTES; }
tinyscene_status tinyscene_init(void *memory, size_t bytes, tinyscene **scene)
{
    memset(memory, 0, bytes + EXCESS);
    *scene = memory;
    return (uintptr_t)memory % 16 == 0 ? TINYSCENE_OK : TINYSCENE_ERROR_ALIGNMENT;
}
tinyscene_status tinyscene_push(tinyscene *s, const int16_t *pcm, size_t samples, size_t *taken)
{
    for (*taken = 0; *taken < samples && s->filled < TINYSCENE_CLIP_SAMPLES; ++*taken)
        s->pcm[s->filled++] = pcm[*taken];
    return s->filled == TINYSCENE_CLIP_SAMPLES ? TINYSCENE_READY : TINYSCENE_OK;
}
tinyscene_status tinyscene_run(tinyscene *s)
{
    int32_t sum = 0;
    for (int i = 0; i < TINYSCENE_CLIP_SAMPLES; i++)
        sum += s->pcm[i];
    s->scores[0] = (int8_t)sum;
    s->scores[1] = (int8_t)s->pcm[0];
    s->scores[2] = (int8_t)s->pcm[TINYSCENE_CLIP_SAMPLES - 1];
#if defined(TINYSCENE_TRACE)
    for (int i = 0; i < 4; i++)
        tinyscene_trace_row(0, i, (const int8_t *)(s->pcm + 25 * i), 50);
    tinyscene_trace_row(1, 0, s->scores, 3);
#endif
    memmove(s->pcm, s->pcm + TINYSCENE_HOP_SAMPLES, sizeof s->pcm - 2 * TINYSCENE_HOP_SAMPLES);
    s->filled -= TINYSCENE_HOP_SAMPLES;
    return TINYSCENE_OK;
}
tinyscene_status tinyscene_scores(const tinyscene *s, int8_t *scores, size_t count)
{
    memcpy(scores, s->scores, count);
    return TINYSCENE_OK;
}
"""
# The output is the input's first ten bytes and one, and what clear wrote before them.
NETWORK = """
#include <string.h>
#include "tinyscene_network.h"

void tinyscene_network_clear(int8_t *arena) { memset(arena, 9, TINYSCENE_ARENA_BYTES); }
void tinyscene_network_run(int8_t *arena)
{
    for (int row = 0; row < 2; row++)
        for (int i = 0; i < 5; i++)
            arena[33 + 8 * row + i] = (int8_t)(arena[3 + 7 * row + i] + arena[2]);
}
"""


class Program:
    """A program of the harness with the stand-in, on a target."""

    def __init__(self, folder: Path, which: Literal["scene", "network"], target: str, define: str) -> None:
        self.folder, self.target = folder, TARGETS[target]
        (folder / "tinyscene_config.h").write_text(CONFIG)
        (folder / "tinyscene_layout.h").write_text('#include "tinyscene_config.h"\n')
        (folder / "stand_in.c").write_text(SCENE if which == "scene" else NETWORK)
        sources = [folder / "stand_in.c", *harness_sources(self.target, which)]
        self.image = build(
            find_toolchain("zig", self.target),
            self.target,
            sources,
            folder / "program",
            includes=[folder, RUNTIME],
            defines=[define],
        )

    def __call__(self, job: bytes) -> tuple[int, str, bytes]:
        """Exit code, console, result."""
        ran = self.run(job)
        result = self.folder / "result.bin"
        return ran.exit_code, ran.console, result.read_bytes() if result.is_file() else b""

    def run(self, job: bytes, emulator: str | None = None, counting: bool = False) -> Run:
        (self.folder / "job.bin").write_bytes(job)
        if self.target.bare:
            return run(self.image, self.target, self.folder, emulator, counting)
        done = subprocess.run([self.image], cwd=self.folder, capture_output=True, text=True, check=False)
        return Run(done.returncode, done.stdout)


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Program]:
    @functools.cache
    def make(which: Literal["scene", "network"], target: str = "host", define: str = "EXCESS=0") -> Program:
        return Program(tmp_path_factory.mktemp(which), which, target, define)

    return make


def scene_job(windows: int, chunk: int = 0, dump: int = NO_DUMP) -> tuple[bytes, list[np.ndarray]]:
    """A job, and the sound of its windows."""
    pcm = np.random.default_rng(windows).integers(-(2**15), 2**15, (windows - 1) * HOP + CLIP).astype("<i2")
    head = b"TSGJ" + struct.pack("<4I", 1, windows, chunk, dump)
    return head + pcm.tobytes(), [pcm[k * HOP : k * HOP + CLIP] for k in range(windows)]


def scores(window: np.ndarray) -> bytes:
    values = np.array([window.sum(dtype=np.int64), window[0], window[-1]]).astype(np.int8)
    return values.tobytes()


@pytest.mark.parametrize("target", ["host", "cortex-m4"])
@pytest.mark.parametrize("chunk", [0, 1, 33, 16384])
def test_windows_overlap_however_sound_is_cut(target: str, chunk: int, program) -> None:
    job, windows = scene_job(700, chunk)  # more samples than the program holds at once
    code, console, result = program("scene", target)(job)
    assert (code, console) == (0, "")
    assert struct.unpack("<4s5I", result[:24]) == (b"TSGR", 1, 700, 3, 2, 224)
    rows = [result[at : at + 28] for at in range(32, len(result), 28)]
    assert rows == [bytes(24) + scores(window) + b"\0" for window in windows]


def test_a_trace_has_checksums_and_a_tensor(program) -> None:
    job, windows = scene_job(2, dump=0)
    _, _, result = program("scene", define="TINYSCENE_TRACE")(job)
    for window, at in zip(windows, (32, 60), strict=True):
        sums = struct.unpack("<2I", result[at + 16 : at + 24])
        assert sums == (zlib.crc32(window.tobytes()), zlib.crc32(scores(window)))
    assert result[88:] == windows[0].tobytes()


def test_what_writes_outside_of_its_memory_is_found_out(program) -> None:
    job, _ = scene_job(1)
    code, console, _ = program("scene", define="EXCESS=1")(job)
    assert (code, console) == (1, "something was written outside of the memory that was given\n")


@pytest.mark.parametrize(
    ("change", "line"),
    [
        (lambda job: b"TSGN" + job[4:], "job.bin is not for this program\n"),
        (lambda job: job[:-2], "job.bin is too short\n"),
        (lambda job: job[:12] + struct.pack("<I", 16385) + job[16:], "the job's chunk is too large\n"),
    ],
)
def test_a_bad_job_is_refused(change: Callable[[bytes], bytes], line: str, program) -> None:
    job, _ = scene_job(2)
    code, console, _ = program("scene")(change(job))
    assert (code, console) == (1, line)


@pytest.mark.parametrize("target", ["host", "cortex-m4"])
def test_a_network_takes_its_rows_and_gives_its_own(target: str, program) -> None:
    rows = np.random.default_rng(2).integers(-100, 100, (3, 4, 5)).astype(np.int8)
    job = b"TSGN" + struct.pack("<4I", 1, 3, 0, NO_DUMP) + rows.tobytes()
    code, console, result = program("network", target)(job)
    assert (code, console) == (0, "")
    assert struct.unpack("<4s5I", result[:24]) == (b"TSGR", 1, 3, 10, 2, 64)
    answers = [result[at + 24 : at + 36] for at in range(32, len(result), 36)]
    assert answers == [(one[:2] + 9).astype(np.int8).tobytes() + b"\0\0" for one in rows]


def test_the_stack_of_a_scene_is_measured_on_a_processor(program) -> None:
    job, _ = scene_job(2)
    _, _, result = program("scene", "cortex-m4")(job)
    assert 64 <= struct.unpack("<I", result[24:28])[0] < 500


@pytest.mark.skipif(shutil.which("qemu-system-arm") is None, reason="qemu-system-arm is not installed")
def test_programs_report_instructions_under_qemu(program) -> None:
    made, (job, _) = program("scene", "cortex-m4"), scene_job(1)
    made.run(job, "qemu")
    running, filling = struct.unpack("<2Q", (made.folder / "result.bin").read_bytes()[32:48])
    counted = dict(made.run(job, counting=True).calls)
    assert abs(running - counted["tinyscene_run"]) <= 80  # two readings of a clock that ticks every 40
    assert abs(filling - counted["tinyscene_push"]) <= 80

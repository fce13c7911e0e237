"""The kernels of every variant, in C, against the reference's arithmetic: on this machine, under unicorn and QEMU.

One program runs all cases of a test. It puts an input at the very end of memory, so that a byte read too many is a
fault, and outputs and working memory between bytes that must stay.
"""

import itertools
import struct
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from tests import ROOT
from tinyscene.deploy.common.errors import InputError
from tinyscene.deploy.graph.reference import rescale
from tinyscene.firmware_bridge.codegen.weight_layouts import (
    Rescaling,
    depthwise_scratch,
    depthwise_table,
    pointwise_scratch,
    pointwise_table,
)
from tinyscene.firmware_bridge.targets.emulators import run
from tinyscene.firmware_bridge.targets.toolchains import TARGETS, build, find_toolchain, harness_sources

RUNTIME = ROOT / "firmware_bridge" / "runtime"
SOURCES = [path for name in ("plain", "dsp", "mve") for path in sorted(RUNTIME.glob(f"tinyscene_{name}*.c"))]
DEEPEST = 516  # of a pointwise convolution with the largest weights: 516 * 128 * 127 < 2**23
MEMORY_END = {"cortex-m3": 0x20400000, "cortex-m4": 0x20400000, "cortex-m55": 0x31400000, "riscv32": 0x81000000}
GUARD, POISON = 64, 0x5A
WARNINGS = ("-Wall", "-Wextra", "-Wconversion", "-Wshadow", "-pedantic", "-Werror")
SANITIZERS = ("-fsanitize=address,undefined", "-fno-sanitize-recover=all")

PROGRAM = r"""
#define _DEFAULT_SOURCE /* for mmap */
#include "harness.h"
#include "tinyscene_kernels.h"

enum { GUARD = 64, POISON = 0x5a };

static int8_t weights[1 << 16], output[1 << 16], shift[512];
static int32_t bias[512], multiplier[512], scratch[1 << 12];

#if defined(MEMORY_END)
static int8_t *memory_end(void)
{
    return (int8_t *)MEMORY_END;
}
#else
#include <sys/mman.h>
static int8_t *memory_end(void)
{
    static int8_t *end;
    if (!end) {
        end = (int8_t *)mmap(0, 1 << 17, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0) + (1 << 16);
        mprotect(end, 1 << 16, PROT_NONE);
    }
    return end;
}
#endif

int main(void)
{
    const int32_t in = harness_open("cases.bin", 0), out = harness_open("results.bin", 1);
    struct {
        int32_t depth, outputs, pixels, step, rounding, weights, input;
    } a;
    while (harness_read(in, &a, sizeof a) == sizeof a) {
        const uint32_t channels = (uint32_t)a.outputs, bytes = (uint32_t)(a.pixels * a.outputs);
        int8_t *const x = memory_end() - a.input, *const y = output + GUARD;
        int8_t *const working = (int8_t *)scratch + GUARD;
        harness_read(in, weights, (uint32_t)a.weights);
        harness_read(in, bias, 4 * channels);
        harness_read(in, multiplier, 4 * channels);
        harness_read(in, shift, channels);
        harness_read(in, x, (uint32_t)a.input);
        for (uint32_t i = 0; i < bytes + 2 * GUARD; i++)
            output[i] = POISON;
        for (uint32_t i = 0; i < sizeof scratch; i++)
            ((int8_t *)scratch)[i] = POISON;
        const tinyscene_conv conv = {weights, bias, multiplier, shift, a.depth, a.outputs, a.rounding, -128};
        const uint64_t before = harness_instructions();
        int32_t used = 0;
        if (a.step == 0) {
            used = TINYSCENE_POINTWISE_SCRATCH(a.depth, a.pixels);
            tinyscene_pointwise(&conv, x, a.pixels, y, working);
        } else {
            const int8_t *const rows[3] = {x, x + a.input / 3, x + a.input / 3 * 2};
            used = TINYSCENE_DEPTHWISE_SCRATCH((a.pixels - 1) * (a.step / a.outputs) + 3);
            tinyscene_depthwise(&conv, rows, a.pixels, a.step, y, working);
        }
        const uint32_t counted = (uint32_t)(harness_instructions() - before);
        int32_t spoilt = 0;
        for (int32_t i = 0; i < (int32_t)sizeof scratch; i++)
            spoilt += (i < GUARD || i >= GUARD + used) && ((int8_t *)scratch)[i] != POISON;
        const int32_t report[3] = {used, spoilt, (int32_t)counted};
        harness_write(out, report, sizeof report);
        harness_write(out, output, bytes + 2 * GUARD);
    }
    harness_close(out);
    return 0;
}
"""


@dataclass(frozen=True)
class Case:
    """A pointwise convolution, weights (outputs, depth) and x (pixels, depth); or, where there is a step in pixels, a
    depthwise one, weights (9, channels) and x (3, columns, channels)."""

    weights: NDArray[np.int8]
    bias: NDArray[np.int64]
    multiplier: NDArray[np.int64]
    shift: NDArray[np.int64]
    zero_point: int
    x: NDArray[np.int8]
    step: int = 0

    @property
    def pixels(self) -> int:
        return (self.x.shape[1] - 3) // self.step + 1 if self.step else len(self.x)

    @property
    def outputs(self) -> int:
        return len(self.bias)

    def expected(self) -> NDArray[np.int8]:
        """(pixels, outputs)."""
        x, weights = self.x.astype(np.int64), self.weights.astype(np.int64)
        if self.step:
            last = (self.pixels - 1) * self.step + 1
            taps = [x[row, column : column + last : self.step] for row in range(3) for column in range(3)]
            sums = sum(tap * weight for tap, weight in zip(taps, weights, strict=True))
        else:
            sums = x @ weights.T
        y = rescale(sums + self.bias, self.multiplier, -self.shift) + self.zero_point
        return np.clip(y, -128, 127).astype(np.int8)

    def scratch(self, kernels: str) -> int:
        """Bytes of working memory."""
        if self.step:
            return depthwise_scratch(kernels, (self.pixels - 1) * self.step + 3)
        return pointwise_scratch(kernels, self.x.shape[1], self.pixels)

    def job(self, kernels: str) -> bytes:
        rescaling = Rescaling(self.bias, self.multiplier, self.shift, self.zero_point)
        weights = (depthwise_table if self.step else pointwise_table)(kernels, self.weights, rescaling)
        head = struct.pack(
            "<7i",
            9 if self.step else self.x.shape[1],
            self.outputs,
            self.pixels,
            self.step * self.outputs,
            2 * self.zero_point + 1,
            weights.nbytes,
            self.x.nbytes,
        )
        tables = (weights, self.bias.astype("<i4"), self.multiplier.astype("<i4"), self.shift.astype(np.int8), self.x)
        return b"".join([head, *(table.tobytes() for table in tables)])


@dataclass(frozen=True)
class Result:
    output: NDArray[np.int8]  # between what must stay
    scratch: int  # bytes, as the header has it
    spoilt: int  # bytes outside of it
    instructions: int  # where the machine counts


@dataclass(frozen=True)
class Machine:
    """A program on a processor: cases in, results out."""

    image: Path
    target: str

    @property
    def kernels(self) -> str:
        return TARGETS[self.target].kernels

    def __call__(self, cases: list[Case]) -> list[Result]:
        return self._results(cases, self.answer(b"".join(case.job(self.kernels) for case in cases)))

    def answer(self, cases: bytes) -> bytes:
        folder = self.image.parent
        (folder / "cases.bin").write_bytes(cases)
        if TARGETS[self.target].bare:
            run(self.image, TARGETS[self.target], folder)
        else:
            subprocess.run([self.image], cwd=folder, check=True)
        return (folder / "results.bin").read_bytes()

    def _results(self, cases: list[Case], data: bytes) -> list[Result]:
        results = []
        for case in cases:
            size = case.pixels * case.outputs + 2 * GUARD
            head, output, data = data[:12], data[12 : 12 + size], data[12 + size :]
            results.append(Result(np.frombuffer(output, np.int8), *struct.unpack("<3i", head)))
        assert not data
        return results


def make_machine(
    folder: Path, target: str, compiler: str, flags: tuple[str, ...] = (), program: str = PROGRAM
) -> Machine:
    processor = TARGETS[target]
    (folder / "kernels_main.c").write_text(program)
    sources = [folder / "kernels_main.c", *SOURCES, *harness_sources(processor)]
    defines = ["TINYSCENE_PLAIN"] if target == "host" else []
    if target in MEMORY_END:
        defines.append(f"MEMORY_END={MEMORY_END[target]}")
    try:
        toolchain = find_toolchain(compiler, processor)
        image = build(
            toolchain, processor, sources, folder / "kernels", includes=[RUNTIME], defines=defines, flags=flags
        )
        machine = Machine(image, target)
        machine.answer(b"")
    except InputError as error:
        if "not installed" in str(error):
            pytest.skip(str(error))
        raise
    return machine


QUICK = [("host", "gcc"), ("cortex-m4", "zig"), ("cortex-m55", "zig")]
MACHINES = [
    pytest.param(each, id="-".join(each), marks=() if each in QUICK else pytest.mark.slow)
    for each in itertools.product(("host", *MEMORY_END), ("zig", "gcc"))
]


@pytest.fixture(scope="module", params=MACHINES)
def machine(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Machine:
    target, compiler = request.param
    flags = (*WARNINGS, *SANITIZERS) if request.param == ("host", "gcc") else WARNINGS
    return make_machine(tmp_path_factory.mktemp(f"{target}-{compiler}"), target, compiler, flags)


def rescaling(
    rng: np.random.Generator, sums: NDArray[np.int64], zero_point: int, shift: int | None = None
) -> dict[str, Any]:
    """Bias, multiplier, shift and zero point for sums (channels,) of weights' magnitudes."""
    count, bound = len(sums), sums * 128
    fitting = np.clip(np.ceil(np.log2(np.maximum(bound, 1) / 128)).astype(np.int64), 1, 22)
    shifts = fitting + rng.integers(-2, 1, count) if shift is None else np.full(count, shift)
    room = 2**23 - 1 - bound  # an accumulator has to fit 24 bits
    reach = np.minimum(room, np.maximum(bound, 2))
    return {
        "bias": rng.integers(-reach, reach + 1),
        "multiplier": rng.integers(2**30, 2**31, count),
        "shift": np.clip(shifts, 1, 22),
        "zero_point": zero_point,
    }


def bytes_of(rng: np.random.Generator, shape: tuple[int, ...], style: str, least: int) -> NDArray[np.int8]:
    if style == "extreme":
        return rng.choice(np.array([least, 127], np.int8), shape)
    if style in ("least", "most"):
        return np.full(shape, least if style == "least" else 127, np.int8)
    return rng.integers(least, 128, shape).astype(np.int8)


def pointwise(seed: int, pixels: int, depth: int, outputs: int, style: str = "random", **fixed: int) -> Case:
    rng = np.random.default_rng(seed)
    weights = bytes_of(rng, (outputs, depth), style if style != "least" else "extreme", -127)
    scale = rescaling(rng, np.abs(weights.astype(np.int64)).sum(1), int(rng.integers(-128, 128)), **fixed)
    return Case(weights, x=bytes_of(rng, (pixels, depth), style, -128), **scale)


def depthwise(
    seed: int, pixels: int, channels: int, step: int = 1, style: str = "random", extra: int = 0, **fixed: int
) -> Case:
    rng = np.random.default_rng(seed)
    weights = bytes_of(rng, (9, channels), style if style != "least" else "extreme", -127)
    scale = rescaling(rng, np.abs(weights.astype(np.int64)).sum(0), int(rng.integers(-128, 128)), **fixed)
    x = bytes_of(rng, (3, (pixels - 1) * step + 3 + extra, channels), style, -128)
    return Case(weights, x=x, step=step, **scale)


def check(machine: Machine, cases: list[Case]) -> None:
    for case, result in zip(cases, machine(cases), strict=True):
        what = f"weights {case.weights.shape}, x {case.x.shape}, step {case.step}"
        guards = np.concatenate([result.output[:GUARD], result.output[-GUARD:]])
        assert (guards == POISON).all(), f"bytes next to the output changed: {what}"
        expected = case.expected()
        np.testing.assert_array_equal(result.output[GUARD:-GUARD].reshape(expected.shape), expected, what)
        assert result.spoilt == 0, f"bytes outside of the working memory changed: {what}"
        assert result.scratch == case.scratch(machine.kernels), what


def test_pointwise_takes_any_depth_and_number_of_outputs(machine):
    depths = [*range(1, 19), 31, 32, 33, 56, 72]
    check(machine, [pointwise(depth, 1 + depth % 5, depth, 1 + depth * 7 % 11) for depth in depths])


def test_pointwise_takes_any_number_of_pixels(machine):
    check(machine, [pointwise(pixels, pixels, 20, 5) for pixels in range(1, 9)])


def test_pointwise_layers_of_the_baseline_network(machine):
    sizes = [(2, 9, 8), (2, 72, 32), (17, 32, 64), (17, 64, 32), (9, 64, 56), (9, 56, 120), (9, 120, 104), (9, 104, 10)]
    check(machine, [pointwise(seed, *size) for seed, size in enumerate(sizes)])


@pytest.mark.parametrize("style", ["extreme", "least", "most"])
def test_extreme_values_fit_every_accumulator(machine, style):
    pointwises = [pointwise(seed, 3, depth, 4, style) for seed, depth in enumerate([1, 16, 120, DEEPEST])]
    check(machine, [*pointwises, depthwise(1, 3, 12, 1, style), depthwise(2, 2, 24, 2, style)])


def test_every_shift_of_the_fast_kernels(machine):
    shifts = range(1, 23)
    pointwises = [pointwise(shift, 3, 40, 6, shift=shift) for shift in shifts]
    check(machine, [*pointwises, *(depthwise(shift, 2, 12, shift=shift) for shift in shifts)])


def test_depthwise_takes_any_number_of_channels(machine):
    check(machine, [depthwise(channels, 3, channels) for channels in [*range(4, 20), 64, 120]])


def test_depthwise_takes_any_step_and_number_of_pixels(machine):
    cases = [depthwise(pixels, pixels, 12, step) for pixels in range(1, 6) for step in (1, 2, 3)]
    check(machine, [*cases, depthwise(9, 4, 12, 2, extra=1)])


def test_products_halfway_between_integers_round_away_from_zero(machine):
    """Sums -50 to 50 by 1 / 2 and by 1 / 4, from a weight of 1 and inputs of 1 pixel a sum."""
    x = np.arange(-50, 51, dtype=np.int8)[:, None]
    ones, half = np.ones((2, 1), np.int8), np.full(2, 2**30)
    cases = [Case(ones, np.zeros(2, np.int64), half, np.array([1, 2]), zero_point, x) for zero_point in (-128, 0, 127)]
    check(machine, cases)

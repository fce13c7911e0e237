"""The host's kernels, on each of their instruction sets: equal to the reference, and nothing beyond their rows touched.

A small program runs the kernels on operands from a pipe. Each operand lies against a page that may not be touched,
first behind it, then before it.
"""

import struct
import subprocess
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from tests import ROOT
from tests.firmware_bridge.instruction_sets import ALL_MACHINES, compile_or_skip
from tinyscene.deploy.graph.operators import Add
from tinyscene.deploy.graph.reference import rescale, run_integer
from tinyscene.deploy.graph.tensor import Quantization, Tensor, quantize_multiplier
from tinyscene.firmware_bridge.codegen.floats import bits, convolution_floats, sum_floats
from tinyscene.firmware_bridge.codegen.weight_layouts import Rescaling, pointwise_scratch, simd

Array = NDArray[Any]
RUNTIME = ROOT / "firmware_bridge" / "runtime"
PROGRAM = r"""
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "tinyscene_kernels.h"

#if !defined(TINYSCENE_SIMD)
#error "other kernels than those that are tested"
#endif

#if defined(__wasm__) /* which has no pages of its own */
static void *take(size_t bytes, int at_start)
{
    (void)at_start;
    return malloc(bytes);
}
#else
#include <sys/mman.h>

enum { PAGE = 65536 };

static void *take(size_t bytes, int at_start)
{
    const size_t pages = (bytes + PAGE - 1) / PAGE * PAGE;
    char *map = mmap(NULL, pages + 2 * PAGE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (map == MAP_FAILED || (pages && mprotect(map + PAGE, pages, PROT_READ | PROT_WRITE)))
        exit(2);
    return map + PAGE + (at_start ? 0 : pages - bytes);
}
#endif

int main(void)
{
    int32_t n[16], bytes; /* kernel, at_start, its arguments; then each operand with its size; the last is written */
    while (fread(n, 4, 16, stdin) == 16) {
        int8_t *operand[8];
        for (int i = 0; i < 8; i++) {
            if (fread(&bytes, 4, 1, stdin) != 1)
                return 3;
            operand[i] = take((size_t)bytes, n[1]);
            if (fread(operand[i], 1, (size_t)bytes, stdin) != (size_t)bytes)
                return 4;
        }
        const int8_t *rows[64];
        for (int i = 0; i < 64; i++)
            rows[i] = operand[0] + (n[0] == 1 || n[0] == 3 || n[0] == 4 ? i * n[9] : 0);
        int8_t *y = operand[7];
        tinyscene_conv c = {.weights = operand[1], .bias = (int32_t *)operand[2], .multiplier = (int32_t *)operand[3]};
        c.shift = operand[4], c.depth = n[2], c.outputs = n[3], c.rounding = n[4], c.activation_min = -128;
        tinyscene_sum s = {.zero_point = {n[2], n[3]}, .multiplier = n[4], .shift = n[5], .out_multiplier = n[6]};
        s.out_shift = n[7], s.out_zero_point = n[8], s.activation_min = n[9];
#if defined(TINYSCENE_FLOATS)
        if (n[15] && n[0] != 2) {
            c.factor = (int32_t *)operand[5];
            c.addend = (int32_t *)operand[6];
        } else if (n[15]) {
            memcpy(s.factor, operand[5], sizeof s.factor);
            memcpy(&s.addend, operand[6], sizeof s.addend);
        }
#endif
        const int is_pointwise = n[0] == 0 || n[0] == 5;
        void *scratch = take(is_pointwise ? (size_t)n[9] : 0, n[1]);
        if (is_pointwise && n[9] != TINYSCENE_POINTWISE_SCRATCH(n[2], n[5]))
            return 5;
        switch (n[0]) {
        case 0: tinyscene_pointwise(&c, operand[0], n[5], y, scratch); break;
        case 1: tinyscene_depthwise(&c, rows, n[5], n[6], y, NULL); break;
        case 2: tinyscene_add(&s, operand[0], operand[1], bytes, y); break;
        case 3: tinyscene_pool(rows, n[2], n[3], n[4], n[5], n[6], y); break;
        case 5: tinyscene_pointwise_wide(&c, operand[0], n[5], y, scratch); break;
        case 4: tinyscene_gather(rows, n[2], n[3], n[4], n[5], n[6], y); break;
        }
        fwrite(y, 1, (size_t)bytes, stdout);
    }
    return 0;
}
"""


@pytest.fixture(scope="module", params=ALL_MACHINES)
def program(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """The command that runs the kernels."""
    folder = tmp_path_factory.mktemp("simd")
    (folder / "main.c").write_text(PROGRAM)
    sources = [folder / "main.c", *sorted(RUNTIME.glob("tinyscene_simd*.c"))]
    return compile_or_skip(request.param, sources, [RUNTIME], folder / "main")


@dataclass(frozen=True)
class Case:
    """A call of a kernel: its number in PROGRAM, its arguments, its operands but the output, and what is expected."""

    kernel: int
    arguments: tuple[int, ...]
    operands: tuple[Array, ...]
    expected: Array
    floats: tuple[Array, Array] | None = None  # factors and addends

    def encode(self, at_start: bool) -> bytes:
        numbers = [self.kernel, int(at_start), *self.arguments]
        nothing = np.zeros(0, np.int8)
        operands = [*self.operands, *[nothing] * (5 - len(self.operands)), *(self.floats or [nothing] * 2)]
        operands.append(np.zeros_like(self.expected))
        parts = [struct.pack("<i", each.nbytes) + np.ascontiguousarray(each).tobytes() for each in operands]
        return struct.pack("<16i", *numbers, *[0] * (15 - len(numbers)), int(self.floats is not None)) + b"".join(parts)


def require_equal(program: list[str], cases: list[Case]) -> None:
    for at_start in (False, True):
        stream = b"".join(case.encode(at_start) for case in cases)
        done = subprocess.run(program, input=stream, capture_output=True, check=False)
        assert done.returncode == 0, f"{done.returncode}: {done.stderr.decode()[-500:]}"
        found = np.frombuffer(done.stdout, np.int8)
        assert len(found) == sum(case.expected.size for case in cases)
        for case in cases:
            np.testing.assert_array_equal(found[: case.expected.size], case.expected.ravel(), f"{case.arguments}")
            found = found[case.expected.size :]


def random_values(draw: np.random.Generator, size: tuple[int, ...], style: int, most: int) -> Array:
    """int8 values: of any size, small, or nothing but the extremes."""
    low = (-most - 1, -2, -most - 1, most, -most - 1)[style]
    values = draw.integers(low, (most, 2, -most - 1, most, most)[style] + 1, size)
    return (np.where(values < 0, low, most) if style == 4 else values).astype(np.int8)


def requantized(sums: Array, conv: tuple[Array, Array, Array], zero_point: int) -> Array:
    """What a convolution makes of its sums (pixels, outputs)."""
    bias, multiplier, shift = (each.astype(np.int64) for each in conv)
    return np.clip(rescale(sums + bias, multiplier, -shift) + zero_point, -128, 127).astype(np.int8)


def random_scaling(draw: np.random.Generator, outputs: int, least: int = 1) -> tuple[Array, Array, Array]:
    """Biases, multipliers and shifts from the least on. Half of the multipliers are powers of two, so that sums lie
    between outputs."""
    shift = draw.integers(least, 23, outputs)
    bias = draw.integers(-(2**29), 2**29, outputs) >> draw.integers(0, 30, outputs)
    bias >>= 2 * np.maximum(-shift, 0)  # which leaves room for shifts to the left
    multiplier = np.where(draw.random(outputs) < 0.5, 2**30, draw.integers(2**30, 2**31, outputs))
    multiplier[draw.random(outputs) < 0.1] = 2**31 - 1
    return bias.astype(np.int32), multiplier.astype(np.int32), shift.astype(np.int8)


def moderate_scaling(draw: np.random.Generator, outputs: int) -> tuple[Array, Array, Array]:
    """As in networks, so that rescaling in float32 is exact with a zero point of -128."""
    bias, multiplier, _ = random_scaling(draw, outputs)
    return bias >> 16, multiplier, draw.integers(1, 6, outputs).astype(np.int8)


def in_floats(conv: tuple[Array, Array, Array], weights: Array) -> tuple[Array, Array]:
    """Factors and addends of a convolution with weights (outputs, others)."""
    bias, multiplier, shift = (each.astype(np.int64) for each in conv)
    largest = 128 * np.abs(weights.astype(np.int64)).sum(1) + np.abs(bias)
    factors = convolution_floats(Rescaling(bias, multiplier, shift, -128), largest)
    assert factors is not None
    return bits(factors[0]), bits(factors[1])


def pointwise(
    draw: np.random.Generator,
    depth: int,
    outputs: int,
    pixels: int,
    style: int,
    wide: bool = False,
    floats: bool = False,
) -> Case:
    x = random_values(draw, (pixels, depth), style, 127)
    weights = np.maximum(random_values(draw, (outputs, depth), int(draw.integers(5)), 127), -127)
    conv = moderate_scaling(draw, outputs) if floats else random_scaling(draw, outputs, -6 if wide else 1)
    zero_point = -128 if floats else int(draw.integers(-128, 128))
    scratch = pointwise_scratch("simd", depth, pixels)
    expected = requantized(x.astype(np.int64) @ weights.astype(np.int64).T, conv, zero_point)
    arguments = (depth, outputs, 2 * zero_point + 1, pixels, 0, 0, 0, scratch)
    factors = in_floats(conv, weights) if floats else None
    return Case(5 if wide else 0, arguments, (x, simd(weights), *conv), expected, factors)


def depthwise(
    draw: np.random.Generator, channels: int, pixels: int, step: int, style: int, floats: bool = False
) -> Case:
    row = (pixels - 1) * step + 3 * channels
    rows = random_values(draw, (3, row), style, 127)
    weights = np.maximum(random_values(draw, (3, 3, channels), int(draw.integers(5)), 127), -127)
    conv = moderate_scaling(draw, channels) if floats else random_scaling(draw, channels)
    zero_point = -128 if floats else int(draw.integers(-128, 128))
    windows = windows_of(rows, 3 * channels, pixels, step).reshape(pixels, 3, 3, channels)
    expected = requantized((windows * weights.astype(np.int64)).sum((1, 2)), conv, zero_point)
    arguments = (9, channels, 2 * zero_point + 1, pixels, step, 0, 0, row)
    factors = in_floats(conv, weights.reshape(9, channels).T) if floats else None
    return Case(1, arguments, (rows, weights, *conv), expected, factors)


def windows_of(rows: Array, width: int, pixels: int, step: int) -> Array:
    """(pixel, row, byte), in int64."""
    return np.stack([rows[:, at * step : at * step + width] for at in range(pixels)]).astype(np.int64)


def addition(
    draw: np.random.Generator, scales: tuple[float, float, float], relu: bool, count: int, floats: bool = False
) -> Case:
    names = ("a", "b", "y")
    points = [*draw.integers(-128, 128, 2), -128 if floats else draw.integers(-128, 128)]
    quantizations = [Quantization(float(np.float32(s)), int(p)) for s, p in zip(scales, points, strict=True)]
    tensors = [Tensor(name, (1, 1, 1, count), each) for name, each in zip(names, quantizations, strict=True)]
    operator = Add(inputs=("a", "b"), output=tensors[2], relu=relu)
    operator.check_integers(*tensors[:2])
    a, b = (random_values(draw, (1, 1, 1, count), 0, 127) for _ in range(2))
    twice = 2.0 * quantizations[0].scale
    zero_points = [each.zero_point for each in quantizations]
    scaled = quantize_multiplier(quantizations[1].scale / twice)
    last = quantize_multiplier(twice / (2**20 * quantizations[2].scale))
    arguments = (*zero_points[:2], scaled[0], -scaled[1], last[0], -last[1])
    activation_min = zero_points[2] if relu else -128
    expected = run_integer(operator, tensors[:2], [a, b])
    found = sum_floats(operator, tensors[:2], (0, 1)) if floats else None
    factors = None if found is None else (bits(found[:2]), bits(found[2:]))
    return Case(2, (*arguments, zero_points[2], activation_min), (a, b), expected, factors)


def pool(draw: np.random.Generator, window: tuple[int, int], channels: int, pixels: int, step: int) -> Case:
    tall, wide = window
    row = (pixels - 1) * step + wide * channels
    rows = random_values(draw, (tall, row), int(draw.integers(5)), 127)
    total = windows_of(rows, wide * channels, pixels, step).reshape(pixels, -1, channels).sum(1)
    count = tall * wide
    rounded = np.where(total > 0, 1, -1) * ((2 * np.abs(total) + count) // (2 * count))  # half away from zero
    return Case(3, (tall, wide, channels, pixels, step, 0, 0, row), (rows,), rounded.astype(np.int8))


def gather(draw: np.random.Generator, tall: int, width: int, pixels: int, step: int, first: int) -> Case:
    row = (first + pixels - 1) * step + width
    rows = random_values(draw, (tall, row), 0, 127)
    expected = windows_of(rows[:, first * step :], width, pixels, step).astype(np.int8)
    return Case(4, (tall, width, first, pixels, step, 0, 0, row), (rows,), expected)


def test_pointwise_convolutions_equal_the_reference(program: list[str]) -> None:
    draw = np.random.default_rng(1)
    shapes = [
        (int(draw.choice([1, 2, 3, 4, 7, 8, 9, 15, 16, 17, 33, 64, 72, 120, 516])), outputs, pixels)
        for outputs in (1, 7, 8, 10, 16, 17, 31, 32, 33, 56, 64, 104, 120, 264)
        for pixels in (1, 2, 3, 4, 5, 6, 9, 17, 33)
    ]
    require_equal(program, [pointwise(draw, *shape, index % 5) for index, shape in enumerate(shapes)])


def test_pointwise_convolutions_that_shift_to_the_left_equal_the_reference(program: list[str]) -> None:
    draw = np.random.default_rng(6)
    cases = [
        pointwise(draw, depth, outputs, pixels, style, wide=True)
        for style, depth in enumerate((3, 32, 56, 120, 516))
        for outputs in (1, 8, 16, 33, 64, 120)
        for pixels in (1, 4, 9)
    ]
    require_equal(program, cases)


def test_depthwise_convolutions_equal_the_reference(program: list[str]) -> None:
    draw = np.random.default_rng(2)
    cases = [
        depthwise(draw, channels, pixels, step * channels + (step == 3), int(draw.integers(5)))
        for channels in (1, 3, 8, 15, 16, 17, 32, 33, 56, 63, 64, 65, 120, 256, 259)
        for pixels in (1, 2, 3, 5, 17)
        for step in (1, 2, 3)
    ]
    require_equal(program, cases)


def test_additions_equal_the_reference(program: list[str]) -> None:
    draw = np.random.default_rng(3)
    scales = [  # of the inputs, the larger first, and of the output, as far apart as they may be
        *((0.1, 0.1, 0.2), (0.1, 0.03, 0.1), (0.1, 0.03, 0.05), (0.01, 0.0099999, 0.02)),
        *((1.0, 2.0**-29, 1.0), (2.0**-20, 2.0**-21, 2.0**-8), (1.0, 0.5, 2.0**-17), (1.0, 0.3, 2.0**-18)),
    ]
    cases = [
        addition(draw, each, bool(index % 2), count)
        for index, each in enumerate(scales)
        for count in (1, 7, 15, 16, 17, 100, 256, 544)
    ]
    require_equal(program, cases)


def test_convolutions_in_floats_equal_the_reference(program: list[str]) -> None:
    draw, cases = np.random.default_rng(7), []
    for index, outputs in enumerate((1, 8, 15, 16, 24, 33, 64, 120)):
        cases += [pointwise(draw, 8 + outputs, outputs, pixels, index % 5, floats=True) for pixels in (1, 2, 5, 17)]
        cases += [depthwise(draw, outputs, 5, step * outputs, index % 5, floats=True) for step in (1, 2)]
    require_equal(program, cases)


def test_additions_in_floats_equal_the_reference(program: list[str]) -> None:
    draw, scales = np.random.default_rng(8), ((0.09592653, 0.06012358, 0.07141421), (0.11347, 0.04013, 0.09053))
    cases = [addition(draw, each, False, count, floats=True) for each in scales for count in (1, 15, 16, 17, 544)]
    assert all(case.floats for case in cases)
    require_equal(program, cases)


def test_pools_equal_the_reference(program: list[str]) -> None:
    draw = np.random.default_rng(4)
    cases = [
        pool(draw, window, channels, pixels, step * channels)
        for window in ((1, 1), (3, 3), (2, 2), (1, 2), (4, 7), (2, 16), (5, 3), (64, 17))
        for channels, pixels in ((1, 3), (8, 2), (16, 1), (32, 9), (56, 4), (264, 2))
        for step in (1, 2)
    ]
    require_equal(program, cases)


def test_windows_are_gathered_side_by_side(program: list[str]) -> None:
    draw = np.random.default_rng(5)
    cases = [
        gather(draw, tall, width, pixels, step, first)
        for width in (*range(1, 20), 31, 32, 33, 48, 72)
        for tall, pixels, step, first in ((3, 5, 1, 0), (1, 1, 2, 3), (2, 9, 24, 1))
    ]
    require_equal(program, cases)

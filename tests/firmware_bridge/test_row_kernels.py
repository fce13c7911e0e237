"""The microcontrollers' other kernels, in C: sums, pools, patches and means, against the reference's arithmetic.

One program runs all cases of a test, those of test_simd_kernels.py and more. One operand lies at the very end of
memory, so that a byte read too many is a fault, and outputs lie between bytes that must stay.
"""

import itertools
import struct

import numpy as np
import pytest

from tests.firmware_bridge.test_kernels import (
    GUARD,
    MACHINES,
    POISON,
    QUICK,
    SANITIZERS,
    WARNINGS,
    Machine,
    make_machine,
)
from tests.firmware_bridge.test_simd_kernels import Case, addition, gather, pool
from tinyscene.deploy.graph.operators import MaxPool2D
from tinyscene.deploy.graph.reference import rescale, run_integer
from tinyscene.deploy.graph.tensor import Quantization, Tensor

PROGRAM = r"""
#define _DEFAULT_SOURCE /* for mmap */
#include "harness.h"
#include "tinyscene_kernels.h"

enum { GUARD = 64, POISON = 0x5a, MOST = 1 << 16, OPERANDS = 8 };

static int32_t memory[OPERANDS][MOST / 4];

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
        end = (int8_t *)mmap(0, 2 * MOST, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0) + MOST;
        mprotect(end, MOST, PROT_NONE);
    }
    return end;
}
#endif

int main(void)
{
    const int32_t in = harness_open("cases.bin", 0), out = harness_open("results.bin", 1);
    int32_t n[16], bytes = 0; /* kernel, place, its arguments; then each operand with its size; the last is written */
    while (harness_read(in, n, sizeof n) == sizeof n) {
        int8_t *operand[OPERANDS];
        for (int32_t i = 0; i < OPERANDS; i++) {
            harness_read(in, &bytes, 4);
            operand[i] = i == n[1] ? memory_end() - bytes : (int8_t *)memory[i] + GUARD;
            for (int32_t at = -GUARD; i != n[1] && at < bytes + GUARD; at++)
                operand[i][at] = POISON;
            harness_read(in, operand[i], (uint32_t)bytes);
        }
        const int32_t alias = n[1] - OPERANDS; /* the operand that is written, too */
        int8_t *const y = operand[alias >= 0 ? alias : OPERANDS - 1];
        const int8_t *rows[64];
        for (int32_t i = 0; i < 64; i++)
            rows[i] = operand[0] + (n[0] == 3 || n[0] == 4 || n[0] == 7 || n[0] == 9 ? i * n[9] : 0);
        const tinyscene_sum s = {{n[2], n[3]}, n[4], n[5], n[6], n[7], n[8], n[9]};
        const tinyscene_windows w = {n[2], n[3], n[4], n[5], n[6], n[7], n[8], n[10], n[11], n[12]};
        const tinyscene_average m = {n[2], n[3], n[4], n[5]};
        switch (n[0]) {
        case 2:
            if (n[5] >= 1 && n[7] >= 1 && n[7] <= 21)
                tinyscene_add(&s, operand[0], operand[1], bytes, y);
            else
                tinyscene_add_any(&s, operand[0], operand[1], bytes, y);
            break;
        case 3: tinyscene_pool(rows, n[2], n[3], n[4], n[5], n[6], y); break;
        case 4: tinyscene_gather(rows, n[2], n[3], n[4], n[5], n[6], y); break;
        case 5: tinyscene_mean_row(operand[0], n[2], n[3], (int32_t *)(void *)y); break;
        case 6: tinyscene_mean_end(&m, (const int32_t *)(const void *)operand[0], bytes, y); break;
        case 7: tinyscene_pool_any(rows, n[2], n[3], n[4], n[5], n[6], y); break;
        case 8: tinyscene_fill(y, n[2], bytes); break;
        case 9: tinyscene_max_pool(&w, rows, n[13], y); break;
        case 10: tinyscene_clamp(y, bytes, n[2], n[3]); break;
        case 11: tinyscene_copy(operand[0], bytes, y); break;
        default: return 1;
        }
        harness_write(out, y - GUARD, (uint32_t)bytes + 2 * GUARD);
    }
    harness_close(out);
    return 0;
}
"""
END_OF_MEMORY, SAME = (0, 1), 8  # places: this operand lies there; y is an operand


@pytest.fixture(scope="module", params=MACHINES)
def machine(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Machine:
    target, compiler = request.param
    flags = (*WARNINGS, *SANITIZERS) if request.param == QUICK[0] else WARNINGS
    return make_machine(tmp_path_factory.mktemp(f"{target}-{compiler}"), target, compiler, flags, PROGRAM)


def job(case: Case, place: int) -> bytes:
    data = case.encode(at_start=False)
    return data[:4] + struct.pack("<i", place) + data[8:]


def check(machine: Machine, cases: list[Case], places: tuple[int, ...] = (0,)) -> None:
    jobs = list(itertools.product(cases, places))
    found = np.frombuffer(machine.answer(b"".join(job(*each) for each in jobs)), np.int8)
    for case, place in jobs:
        what, size = f"kernel {case.kernel} {case.arguments}, {case.expected.shape}, {place}", case.expected.nbytes
        y, found = found[: size + 2 * GUARD], found[size + 2 * GUARD :]
        assert (np.concatenate([y[:GUARD], y[-GUARD:]]) == POISON).all(), f"bytes next to the output: {what}"
        values = y[GUARD:-GUARD].view(case.expected.dtype)
        np.testing.assert_array_equal(values, case.expected.ravel(), what)
    assert not found.size


SCALES = [  # of the inputs, the larger first, and of the output, as far apart as they may be
    *((0.1, 0.1, 0.2), (0.1, 0.03, 0.1), (0.1, 0.03, 0.05), (0.01, 0.0099999, 0.02)),
    *((1.0, 2.0**-29, 1.0), (2.0**-20, 2.0**-21, 2.0**-8), (1.0, 0.5, 2.0**-17), (1.0, 0.3, 2.0**-18)),
]


def test_sums_equal_the_reference(machine: Machine) -> None:
    draw = np.random.default_rng(3)
    sizes = [(1, 2, 3), (7, 8, 9), (15, 16, 17), (544,)]
    cases = [
        addition(draw, each, bool(index % 2), count)
        for index, each in enumerate(SCALES * 2)
        for count in sizes[index % len(sizes)]
    ]
    check(machine, cases, (*END_OF_MEMORY, SAME, SAME + 1))


def test_sums_equal_the_reference_for_every_pair_of_values(machine: Machine) -> None:
    a, b = (each.astype(np.int8) for each in np.meshgrid(np.arange(-128, 128), np.arange(-128, 128, 5)))
    draw = np.random.default_rng(4)
    cases = []
    for scales in (SCALES[0], SCALES[1], SCALES[5]):
        case = addition(draw, scales, False, 1)
        cases.append(Case(2, case.arguments, (a, b), summed(case.arguments, a, b)))
    check(machine, cases)


def summed(arguments: tuple[int, ...], a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """What an addition makes of its values, by the arguments of its kernel."""
    zero_a, zero_b, multiplier, shift, out_multiplier, out_shift, zero_point, activation_min = arguments
    scaled = rescale((b.astype(np.int64) - zero_b) << 20, multiplier, -shift)
    sums = rescale(((a.astype(np.int64) - zero_a) << 19) + scaled, out_multiplier, -out_shift)
    return np.clip(sums + zero_point, activation_min, 127).astype(np.int8)


def test_sums_take_every_shift(machine: Machine) -> None:
    """Sums stay below 2^29, as they have to. Powers of two leave halves to be rounded."""
    draw = np.random.default_rng(5)
    cases = []
    for shift in range(31):
        for multiplier in (2**30, int(draw.integers(2**30, 2**31)), 2**31 - 1):
            first, second = (draw.integers(-128, 128, 33).astype(np.int8) for _ in range(2))
            zeros = tuple(map(int, draw.integers(-128, 128, 3)))
            inner = (multiplier, max(shift, 1)) if multiplier > 2**30 else (multiplier, shift)
            for scaling in ((*inner, 2**30, 18), (2**30, 1, multiplier, shift)):
                arguments = (*zeros[:2], *scaling, zeros[2], -128 if shift % 2 else zeros[2])
                cases.append(Case(2, arguments, (first, second), summed(arguments, first, second)))
    check(machine, cases)


def test_sums_round_small_numbers_by_every_shift(machine: Machine) -> None:
    """Of one input, shifted so far that the output shows how sums of every size are rounded; then, ties of both."""
    draw = np.random.default_rng(6)
    second = np.arange(-128, 128).astype(np.int8)
    cases = []
    for shift in range(31):
        scaling = (int(draw.integers(2**30, 2**31)), max(19 - shift, 1), 2**30, shift)
        arguments = (-3, 1, *scaling, 5, -128)
        first = np.full(256, -3, np.int8)
        cases.append(Case(2, arguments, (first, second), summed(arguments, first, second)))
    first = draw.integers(-128, 128, 256).astype(np.int8)
    arguments = (0, 0, 2**30, 0, 3 * 2**29, 18, 0, -128)
    check(machine, [*cases, Case(2, arguments, (first, second), summed(arguments, first, second))])


def test_pools_equal_the_reference(machine: Machine) -> None:
    draw = np.random.default_rng(4)
    cases = [
        pool(draw, window, channels, pixels, step * channels)
        for window in ((1, 1), (3, 3), (2, 2), (1, 2), (4, 7), (15, 17))
        for channels, pixels in ((4, 3), (5, 2), (7, 1), (8, 2), (32, 3), (56, 2))
        for step in (1, 2)
    ]
    check(machine, cases)


def test_any_pools_equal_the_reference(machine: Machine) -> None:
    draw = np.random.default_rng(5)
    windows = [((1, 1), 1), ((3, 3), 3), ((2, 2), 5), ((64, 17), 2)]
    cases = [pool(draw, window, channels, 3, channels) for window, channels in windows]
    check(machine, [Case(7, case.arguments, case.operands, case.expected) for case in cases])


@pytest.mark.parametrize("channels", [1, 3, 32])
def test_largest_values_equal_the_reference_and_leave_padding_out(machine: Machine, channels: int) -> None:
    draw, cases = np.random.default_rng(7), []
    for window, stride, padding in (
        ((1, 1), (1, 1), (0, 0, 0, 0)),
        ((2, 2), (2, 2), (0, 0, 0, 0)),
        ((3, 2), (1, 2), (2, 2, 1, 1)),
        ((4, 5), (3, 1), (3, 0, 4, 2)),
        ((9, 9), (2, 3), (4, 4, 4, 4)),
    ):
        top, bottom, left, right = padding
        x = draw.integers(-128, 128, (1, 5, 6, channels)).astype(np.int8)
        x[:, :, :2] = -128  # what padding must not beat
        height, width = (
            (size - span) // step + 1
            for size, span, step in zip((5 + top + bottom, 6 + left + right), window, stride, strict=True)
        )
        q = Quantization(0.5, 3)
        output = Tensor("y", (1, height, width, channels), q)
        operator = MaxPool2D(inputs=("x",), output=output, window=window, stride=stride, padding=padding)
        expected = run_integer(operator, [Tensor("x", x.shape, q)], [x])
        around = np.pad(
            x[0], (padding[:2], padding[2:], (0, 0)), constant_values=3
        )  # zeros, as other readers need them
        for row in range(height):
            rows = around[row * stride[0] :][: window[0]]
            arguments = (*window, *stride, top, left, 5, rows[0].size, 6, channels, width, row)
            cases.append(Case(9, arguments, (rows,), expected[0, row]))
    check(machine, cases)


def test_values_are_brought_to_bounds(machine: Machine) -> None:
    x = np.arange(-128, 128).astype(np.int8)
    bounds = ((-128, 127), (0, 6), (-5, 127), (127, 127), (-128, -128))
    check(machine, [Case(10, each, (x,), np.clip(x, *each).astype(np.int8)) for each in bounds], (SAME,))


def test_values_are_copied(machine: Machine) -> None:
    x = np.arange(-128, 128).astype(np.int8)
    check(machine, [Case(11, (), (x[:count],), x[:count]) for count in (1, 3, 64, 255)])


def test_means_of_every_sum_of_nine_are_rounded_away_from_zero(machine: Machine) -> None:
    """Sums -1152 to 1143, each by a channel."""
    sums = np.arange(-9 * 128, 9 * 127 + 1)
    values = np.stack([(sums + 9 * 128 + tap) // 9 - 128 for tap in range(9)]).astype(np.int8)
    assert (values.astype(np.int64).sum(0) == sums).all()
    expected = np.where(sums > 0, 1, -1) * ((2 * np.abs(sums) + 9) // 18)
    count = len(sums)
    check(machine, [Case(3, (3, 3, count, 1, count, 0, 0, 3 * count), (values,), expected.astype(np.int8))])


def test_windows_are_gathered_side_by_side(machine: Machine) -> None:
    draw = np.random.default_rng(5)
    cases = [
        gather(draw, tall, width, pixels, step, first)
        for width in (*range(1, 20), 31, 32, 33, 48, 72)
        for tall, pixels, step, first in ((3, 5, 1, 0), (1, 1, 2, 3), (2, 9, 24, 1))
    ]
    check(machine, cases)


def test_means_add_up_rows_and_are_rescaled(machine: Machine) -> None:
    draw = np.random.default_rng(6)
    cases = []
    for channels, pixels in ((1, 1), (10, 9), (3, 17), (33, 4)):
        x = draw.integers(-128, 128, (pixels, channels)).astype(np.int8)
        cases.append(Case(5, (pixels, channels), (x,), x.astype(np.int32).sum(0, dtype=np.int32)))
    for shift in range(-3, 32):
        sums = draw.integers(-(2**18), 2**18, 10).astype(np.int32)
        arguments = (int(draw.integers(-(2**17), 2**17)), int(draw.integers(2**29, 2**31)), shift, -5)
        y = rescale(sums.astype(np.int64) - arguments[0], arguments[1], -shift) - 5
        cases.append(Case(6, arguments, (sums,), np.clip(y, -128, 127).astype(np.int8)))
    check(machine, cases)


def test_padding_is_filled_to_the_byte(machine: Machine) -> None:
    cases = [Case(8, (value,), (), np.full(size, value, np.int8)) for size in (0, 1, 3, 16, 67) for value in (-128, 5)]
    check(machine, cases)

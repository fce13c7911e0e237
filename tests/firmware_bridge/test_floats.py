"""Rescaling in float32 is claimed only where it is exact."""

import numpy as np
import pytest

from tinyscene.deploy.graph.operators import Add
from tinyscene.deploy.graph.reference import rescale
from tinyscene.deploy.graph.tensor import Quantization, Tensor
from tinyscene.firmware_bridge.codegen.floats import convolution_floats, sum_floats
from tinyscene.firmware_bridge.codegen.weight_layouts import Rescaling

LARGEST = 30_000


def fused(product: np.ndarray, addend: np.ndarray) -> np.ndarray:
    """One rounding to float32: float64 holds these sums exactly."""
    return (product + addend).astype(np.float32)


@pytest.mark.parametrize(("zero_point", "least_proven"), [(-128, 24), (-3, 4)])
def test_every_sum_is_rescaled_as_by_integers(zero_point: int, least_proven: int) -> None:
    draw, proven = np.random.default_rng(zero_point + 128), 0
    sums = np.arange(-LARGEST, LARGEST + 1)
    for _ in range(24):
        multiplier, shift = draw.choice([2**30, 2**31 - 1, *draw.integers(2**30, 2**31, 4)], 1), draw.integers(1, 9, 1)
        rescaling = Rescaling(np.zeros(1, np.int64), multiplier, shift, zero_point)
        floats = convolution_floats(rescaling, np.full(1, LARGEST))
        if floats is not None:
            proven += 1
            expected = np.clip(rescale(sums, multiplier, -shift) + zero_point, -128, 127)
            found = np.clip(np.rint(fused(sums * floats[0], floats[1])), -128, 127)
            np.testing.assert_array_equal(found, expected)
    assert proven >= least_proven


@pytest.mark.parametrize("scale", [0.75, 2.0**20])
@pytest.mark.parametrize("zero_point", [-128, 127])
def test_an_addition_ends_at_its_bounds_within_whole_numbers(scale: float, zero_point: int) -> None:
    tensors = [Tensor(name, (1, 1, 1, 1), Quantization(each, 0)) for name, each in (("a", scale), ("b", scale / 2))]
    output = Tensor("y", (1, 1, 1, 1), Quantization(2.0**-6, zero_point))
    floats = sum_floats(Add(inputs=("a", "b"), output=output, relu=True), tensors, (0, 1))
    if scale > 1:
        assert floats is None
    elif floats is not None:
        assert np.isfinite(floats).all()


def test_sums_that_float32_cannot_hold_are_left_to_integers() -> None:
    one = np.ones(1, np.int64)
    assert convolution_floats(Rescaling(0 * one, one << 30, 16 * one, 0), one << 23) is None


def test_outputs_that_change_between_neighbouring_float32_are_left_to_integers() -> None:
    one = np.ones(1, np.int64)
    assert convolution_floats(Rescaling(0 * one, 1_500_000_001 * one, 14 * one, -128), one << 22) is None

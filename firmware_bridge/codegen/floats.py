"""Rescaling in float32, where it is proven to give what integers give: for hosts with a fused multiply-add.

    floats = convolution_floats(rescaling, largest_sums)      # (2, channels): factors and addends; or None
    floats = sum_floats(operator, sources, order)             # (3,): factors of both inputs, the addend; or None

A convolution's output is round(sum * factor + addend), clamped: one rounding to float32, then one to a whole number,
both to nearest, ties to even. Neither this nor the integers' rule ever falls where the sum grows. So they are equal for
all sums if they are at the least sum of each output and at the one below it. An addition is tried on all pairs of int8.
Factors are sought near the real ones; where none fits, kernels compute in integers. So it mostly is where negative
outputs are not clamped, for their halves are rounded the other way.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from tinyscene.deploy.graph.operators import Add
from tinyscene.deploy.graph.reference import rescale, run_integer
from tinyscene.deploy.graph.tensor import INT8_MAX, INT8_MIN, Tensor
from tinyscene.firmware_bridge.codegen.weight_layouts import Rescaling

OUTPUTS = np.arange(INT8_MIN + 1, INT8_MAX + 1)  # those that a sum can reach or miss
NEAR = 32  # float32 to either side of a real factor that are tried
NEAR_IN_SUMS = 3  # of either factor of an addition
EXACT_SUMS = 2**23  # whole numbers that float32 holds, and some room

WHOLE = 2**31  # int32 are below

Floats = NDArray[np.float64]  # every value is a float32


def convolution_floats(rescaling: Rescaling, largest_sums: NDArray[np.int64]) -> Floats | None:
    """Factor and addend of each channel, (2, channel), for sums of up to `largest_sums` with either sign."""
    if largest_sums.max() >= EXACT_SUMS:
        return None
    least = _least_sums(rescaling, largest_sums)  # (channel, output)
    reached, missed = least <= largest_sums[:, None], least > -largest_sums[:, None]
    real = (rescaling.multiplier / 2.0**31 / 2.0**rescaling.shift).astype(np.float32)
    found, open_ = np.zeros((2, len(real))), np.arange(len(real))  # channels that are still sought
    for steps in sorted(range(-NEAR, NEAR + 1), key=abs):
        factor = _neighbours(real[open_], steps)
        at, below = least[open_] * factor[:, None], (least[open_] - 1) * factor[:, None]  # exact: 24 bits by 24
        lowest = np.where(reached[open_], OUTPUTS - 0.5 - at, -np.inf).max(1)
        highest = np.where(missed[open_], OUTPUTS - 0.5 - below, np.inf).min(1)
        addend = _middle(lowest, highest)
        right = (_rounded(at, addend) >= OUTPUTS) | ~reached[open_]
        right &= (_rounded(below, addend) < OUTPUTS) | ~missed[open_]
        proven = right.all(1)
        found[:, open_[proven]] = factor[proven], addend[proven]
        open_ = open_[~proven]
        if not len(open_):
            return found
    return None


def sum_floats(operator: Add, sources: Sequence[Tensor], order: Sequence[int]) -> Floats | None:
    """Factors of the sources in this order, in which the kernel adds them, and the addend, (3,)."""
    values = np.arange(INT8_MIN, INT8_MAX + 1, dtype=np.int8)
    pairs = [each.reshape(1, 1, -1, 1) for each in np.meshgrid(values, values)]
    expected = run_integer(operator, list(sources), pairs).ravel().astype(np.int64)
    a, b = (pairs[index].ravel().astype(np.float64) for index in order)
    real = [np.float32(sources[index].q.scale / operator.output.q.scale) for index in order]
    near = sorted(range(-NEAR_IN_SUMS, NEAR_IN_SUMS + 1), key=abs)
    for first, second in ((i, j) for i in near for j in near):
        factors = [float(_neighbours(each, steps)) for each, steps in zip(real, (first, second), strict=True)]
        sums = a * factors[0] + b * factors[1]
        lowest = (expected - 0.5 - sums)[expected > INT8_MIN].max(initial=-np.inf)
        highest = (expected + 0.5 - sums)[expected < INT8_MAX].min(initial=np.inf)
        addend = _middle(np.array([lowest]), np.array([highest]))
        partial = (a * factors[0] + addend).astype(np.float32)
        found = np.rint((b * factors[1] + partial).astype(np.float32))
        if abs(found).max() < WHOLE and (np.clip(found, INT8_MIN, INT8_MAX) == expected).all():
            return np.array([*factors, addend[0]])
    return None


def bits(floats: Floats) -> NDArray[np.int32]:
    """How C's tables have them."""
    return floats.astype(np.float32).view(np.int32)


def _least_sums(rescaling: Rescaling, largest: NDArray[np.int64]) -> NDArray[np.int64]:
    """The least sum for each channel and output, (channel, output); one more than the largest where none reaches it."""
    multiplier, exponent = rescaling.multiplier[:, None], -rescaling.shift[:, None]
    low, high = (np.repeat(each[:, None], len(OUTPUTS), axis=1) for each in (-largest, largest + 1))
    while (low < high).any():
        middle = (low + high) >> 1
        reaches = rescale(middle, multiplier, exponent) + rescaling.zero_point >= OUTPUTS
        low, high = np.where(reaches, low, np.minimum(middle + 1, high)), np.where(reaches, middle, high)
    return low


def _neighbours(values: NDArray[np.float32] | np.float32, steps: int) -> Floats:
    """The float32 so many steps further from 0."""
    return (np.asarray(values).view(np.int32) + np.int32(steps)).view(np.float32).astype(np.float64)


def _middle(lowest: Floats, highest: Floats) -> Floats:
    """A float32 between bounds of which one may be infinite."""
    least, most = np.where(np.isinf(lowest), highest - 2, lowest), np.where(np.isinf(highest), lowest + 2, highest)
    return ((least + most) / 2).astype(np.float32).astype(np.float64)


def _rounded(products: Floats, addend: Floats) -> Floats:
    """What a fused multiply-add and a rounding make of exact products (channel, output); never of what float64 does not
    hold exactly."""
    total = products + addend[:, None]
    share = total - products
    inexact = (products - (total - share)) + (addend[:, None] - share) != 0
    return np.where(inexact, np.nan, np.rint(total.astype(np.float32)))

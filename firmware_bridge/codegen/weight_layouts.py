"""Weights in the layout of each set of kernels, and the working memory that the kernels need.

A layout maps int8 weights (outputs, depth) to a flat array of the type that the kernel reads. Those for "dsp" and "mve"
hold what rescales the sums, too, in the order that it is read.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

KERNELS = ("plain", "dsp", "mve", "simd")
ROUNDED_UP = 1  # in a table's first word for "dsp": halves may be rounded up
MAX_SHIFT_ROUNDED_UP = 16  # beyond, a rounding term and a product do not fit 32 bits together
STRIP = 26  # columns of a depthwise convolution that the kernels for "dsp" pack at once


class Rescaling(NamedTuple):
    """What turns sums into outputs."""

    bias: NDArray[np.int64]  # by channel
    multiplier: NDArray[np.int64]
    shift: NDArray[np.int64]  # to the right
    zero_point: int

    @property
    def rounds_up(self) -> bool:
        """Whether halves may be rounded up, not away from zero: where the zero point is the least output, all negative
        numbers come out as that."""
        return self.zero_point == -128 and int(self.shift.max()) <= MAX_SHIFT_ROUNDED_UP


def pointwise_table(kernels: str, weights: NDArray[np.int8], rescaling: Rescaling) -> NDArray[Any]:
    """The table of a pointwise convolution, from weights (outputs, depth)."""
    with_scales = {"dsp": dsp_pointwise, "mve": mve_pointwise}.get(kernels)
    return with_scales(weights, rescaling) if with_scales else LAYOUTS[kernels](weights)


def depthwise_table(kernels: str, weights: NDArray[np.int8], rescaling: Rescaling) -> NDArray[Any]:
    """The table of a depthwise convolution, from weights (9, channels)."""
    return dsp_depthwise(weights, rescaling) if kernels == "dsp" else weights.reshape(-1)


def plain(weights: NDArray[np.int8]) -> NDArray[Any]:
    """For two outputs and four of the depth: output by output."""
    padded = _padded(weights, 2, 4)
    return padded.reshape(len(padded) // 2, 2, -1, 4).swapaxes(1, 2).reshape(-1)


def dsp_pointwise(weights: NDArray[np.int8], rescaling: Rescaling) -> NDArray[Any]:
    """How halves are rounded; then for two outputs (the last may be alone): 256 * the first bias + the second, the
    second bias; words of two lanes, 256 * first + second output, for inputs 0 and 2, then for 1 and 3; the first
    multiplier, both shifts as bytes, the second multiplier."""
    padded = _padded(weights, 2, 4).astype(np.int16)
    lanes = 256 * padded[0::2] + padded[1::2]  # (pairs of outputs, depth), in -32639..32639
    low, high = lanes.reshape(len(lanes), -1, 2, 2).transpose(2, 0, 1, 3).astype(np.int64)  # inputs 0 and 1, 2 and 3
    words = (high * 2**16 + (low & 0xFFFF)).reshape(len(lanes), -1)
    first_shift = 6 if rescaling.rounds_up else -1
    bias, multiplier, shift = (np.pad(values, (0, len(values) % 2)) for values in rescaling[:3])
    shifts = np.maximum(shift[0::2] + first_shift, 0) + 256 * np.maximum(shift[1::2] - 1, 0)
    pairs = [256 * bias[0::2] + bias[1::2], bias[1::2], *words.T, multiplier[0::2], shifts, multiplier[1::2]]
    return _int32([int(rescaling.rounds_up), *np.stack(pairs, 1).reshape(-1)])


def dsp_depthwise(weights: NDArray[np.int8], rescaling: Rescaling) -> NDArray[Any]:
    """How halves are rounded; then for four channels: 256 * bias; for each column of a window, rows 0 and 1 of
    channels 0 and 1, of channels 2 and 3, and row 2; multipliers; shifts as bytes. The last four may overlap those
    before."""
    channels = weights.shape[1]
    table = [int(rescaling.rounds_up)]
    shifts = rescaling.shift + (6 if rescaling.rounds_up else -1)
    for start in range(0, channels, 4):
        four = slice(min(start, channels - 4), min(start, channels - 4) + 4)
        columns = weights[:, four].reshape(3, 3, 4).swapaxes(0, 1)  # (column, row, channel)
        pairs = [columns[:, :2, :2], columns[:, :2, 2:], columns[:, 2:]]
        taps = np.concatenate([pair.reshape(3, 4) for pair in pairs], axis=1)
        table += [*(256 * rescaling.bias[four]), *taps.reshape(-1).view("<i4")]
        table += [*rescaling.multiplier[four], *shifts[four].astype(np.int8).view("<i4")]
    return _int32(table)


def mve_pointwise(weights: NDArray[np.int8], rescaling: Rescaling) -> NDArray[Any]:
    """For four outputs: biases, multipliers and shifts to the left, as bytes of an int32; weights for sixteen of the
    depth, output by output. The last of the depth may be just eight; the kernel reads sixteen of them, too, hence eight
    more zeros."""
    short = 0 < weights.shape[1] % 16 <= 8
    padded = _padded(weights, 4, 8 if short else 16)
    groups, whole = len(padded) // 4, padded.shape[1] // 16 * 16
    blocks = padded.reshape(groups, 4, -1)
    sixteens = blocks[:, :, :whole].reshape(groups, 4, -1, 16).swapaxes(1, 2).reshape(groups, -1)
    eights = blocks[:, :, whole:].reshape(groups, -1)
    scales = np.stack([rescaling.bias, rescaling.multiplier, -rescaling.shift])
    scales = np.pad(scales, [(0, 0), (0, -len(weights) % 4)]).reshape(3, groups, 4).swapaxes(0, 1)
    words = np.ascontiguousarray(scales.reshape(groups, 12).astype("<i4")).view(np.int8)
    return np.pad(np.concatenate([words, sixteens, eights], axis=1).reshape(-1), (0, 8 if short else 0))


def simd(weights: NDArray[np.int8]) -> NDArray[Any]:
    """For sixteen outputs: -128 * the sum of weights of each, as bytes of an int32; then, for four of the depth, output
    by output."""
    padded = _padded(weights, 16, 4)
    blocks = padded.reshape(-1, 16, padded.shape[1] // 4, 4)
    corrections = -128 * blocks.sum((2, 3), dtype=np.int32)
    values = blocks.swapaxes(1, 2).reshape(len(blocks), -1)
    return np.concatenate([corrections.astype("<i4").view(np.int8), values], axis=1).reshape(-1)


def _int32(values: Sequence[int]) -> NDArray[np.int32]:
    """Whole numbers modulo 2**32."""
    return np.array(values, np.int64).astype(np.uint64).astype(np.uint32).astype(np.int32)


def _padded(weights: NDArray[np.int8], outputs: int, depth: int) -> NDArray[np.int8]:
    """Weights with zeros up to multiples of `outputs` and `depth`."""
    return np.pad(weights, [(0, -weights.shape[0] % outputs), (0, -weights.shape[1] % depth)])


LAYOUTS: dict[str, Callable[[NDArray[np.int8]], NDArray[Any]]] = {"plain": plain, "simd": simd}


def pointwise_scratch(kernels: str, depth: int, pixels: int) -> int:
    """Bytes of TINYSCENE_POINTWISE_SCRATCH(depth, pixels) for a set of kernels."""
    if kernels == "dsp":
        return ((depth + 3) // 4 * 24 + 15) // 16 * 16
    if kernels == "plain":
        return (depth + 3) // 4 * 32
    if kernels == "simd":
        return (depth + 3) // 4 * 8 * pixels // 16 * 16 + 16
    return 0


def depthwise_scratch(kernels: str, columns: int) -> int:
    """Bytes of TINYSCENE_DEPTHWISE_SCRATCH(columns) for a set of kernels."""
    return (min(columns, STRIP) * 24 + 136 + 15) // 16 * 16 if kernels == "dsp" else 0

"""Weights in the layout of each set of kernels, and the working memory that the kernels need.

A layout maps int8 weights (outputs, depth) to a flat array of the type that the kernel reads.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

MAX_DEPTH = 516  # of a fast pointwise convolution: 516 * 128 * 127 < 2**23, see tinyscene_dsp.c


def plain(weights: NDArray[np.int8]) -> NDArray[Any]:
    """For two outputs and four of the depth: output by output."""
    padded = _padded(weights, 2, 4)
    return padded.reshape(len(padded) // 2, 2, -1, 4).swapaxes(1, 2).reshape(-1)


def dsp(weights: NDArray[np.int8]) -> NDArray[Any]:
    """For two outputs (the last may be alone) and four of the depth: words of two lanes, 256 * first + second output,
    for inputs 0 and 2, then for 1 and 3."""
    padded = _padded(weights, 2, 4).astype(np.int16)
    lanes = 256 * padded[0::2] + padded[1::2]  # (pairs of outputs, depth), in -32639..32639
    low, high = lanes.reshape(-1, 2, 2).swapaxes(0, 1).astype(np.int32)  # inputs 0 and 1, 2 and 3
    return (high * 2**16 + (low & 0xFFFF)).reshape(-1)


def mve(weights: NDArray[np.int8]) -> NDArray[Any]:
    """For four outputs and sixteen of the depth: output by output. The last of the depth may be just eight; the kernel
    reads sixteen of them, too, hence eight more zeros."""
    short = 0 < weights.shape[1] % 16 <= 8
    padded = _padded(weights, 4, 8 if short else 16)
    blocks = padded.reshape(len(padded) // 4, 4, -1)
    whole = padded.shape[1] // 16 * 16
    sixteens = blocks[:, :, :whole].reshape(len(blocks), 4, -1, 16).swapaxes(1, 2).reshape(len(blocks), -1)
    eights = blocks[:, :, whole:].reshape(len(blocks), -1)
    return np.pad(np.concatenate([sixteens, eights], axis=1).reshape(-1), (0, 8 if short else 0))


def simd(weights: NDArray[np.int8]) -> NDArray[Any]:
    """For sixteen outputs: -128 * the sum of weights of each, as bytes of an int32; then, for four of the depth, output
    by output."""
    padded = _padded(weights, 16, 4)
    blocks = padded.reshape(-1, 16, padded.shape[1] // 4, 4)
    corrections = -128 * blocks.sum((2, 3), dtype=np.int32)
    values = blocks.swapaxes(1, 2).reshape(len(blocks), -1)
    return np.concatenate([corrections.astype("<i4").view(np.int8), values], axis=1).reshape(-1)


def _padded(weights: NDArray[np.int8], outputs: int, depth: int) -> NDArray[np.int8]:
    """Weights with zeros up to multiples of `outputs` and `depth`."""
    return np.pad(weights, [(0, -weights.shape[0] % outputs), (0, -weights.shape[1] % depth)])


LAYOUTS: dict[str, Callable[[NDArray[np.int8]], NDArray[Any]]] = {"plain": plain, "dsp": dsp, "mve": mve, "simd": simd}


def pointwise_scratch(kernels: str, depth: int, pixels: int) -> int:
    """Bytes of TINYSCENE_POINTWISE_SCRATCH(depth, pixels) for a set of kernels."""
    if kernels == "dsp":
        return ((depth + 3) // 4 * 24 + 15) // 16 * 16
    if kernels == "plain":
        return (depth + 3) // 4 * 32
    if kernels == "simd":
        return (depth + 3) // 4 * 4 * pixels // 16 * 16 + 16
    return 0

"""Resampling by windowed sinc, exact: every processor, and the web page, give the same samples.

The filter is that of torchaudio's `Resample` with its defaults (golden values in the tests). The order in which a
library for linear algebra sums depends on the processor, so nothing here may round while it sums:

1. Samples are rounded to multiples of 2^-23 and limited to -4 to 4, taps are rounded to multiples of 2^-24.
2. An output sample has at most 12 source / base + 1 taps, none above base / source < 1 (the names are those of
   `sinc_filter`), so the magnitudes of its taps add up to less than 13.
3. Every product and every partial sum is then an integer, counted in 2^-47, below 4 * 13 * 2^47 < 2^53. float64 holds
   such integers exactly: the order of the sum does not matter, nor whether products and sums are fused.

The taps come from additions, multiplications and divisions in float64, in the order written here, because sines and
cosines of a library differ between processors and between browsers. `firmware_bridge/packages/web/resample.mjs`
repeats the same steps.
"""

import math
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from tinyscene.deploy.common.errors import InputError

Float64 = NDArray[np.float64]

SOURCE_RATES = (1_000, 768_000)  # Hz a recording may have: beyond is a broken header, not sound

ZERO_CROSSINGS = 6  # torchaudio's lowpass_filter_width
ROLLOFF = 0.99
SAMPLE_ONE = 2.0**23  # 24-bit PCM is exact
LARGEST_SAMPLE = 4 * SAMPLE_ONE
TAP_ONE = 2.0**24
PHASES_A_BLOCK = 32  # phases computed in one matrix product
# Series in x^2, highest power first, for |x| <= pi / 2. float64 holds the factorials exactly, up to 22!
SINE = [(-1) ** k / math.factorial(2 * k + 1) for k in range(10, -1, -1)]
COSINE = [(-1) ** k / math.factorial(2 * k) for k in range(11, -1, -1)]


def resample(signal: NDArray[np.float32], source_rate: int, target_rate: int) -> Float64:
    """Resample a signal (samples,); ceil(samples * target / source) samples come back, exact sums in float64.

    Raises InputError for a source rate outside `SOURCE_RATES`.
    """
    low, high = SOURCE_RATES
    if not low <= source_rate <= high:
        raise InputError(f"a sample rate of {source_rate} Hz: it must lie in {low:,} to {high:,} Hz")
    if source_rate == target_rate:
        return signal.astype(np.float64)
    divisor = math.gcd(source_rate, target_rate)
    source, target = source_rate // divisor, target_rate // divisor
    width, blocks = sinc_filter(source, target)
    steps = len(signal) // source + 1  # each step makes `target` samples from `source` new ones
    widest = max(first + len(taps) for first, taps in blocks)
    padded = np.zeros(width + len(signal) + steps * source + widest)
    samples = padded[width : width + len(signal)]
    np.rint(signal.astype(np.float64) * SAMPLE_ONE, out=samples)
    np.clip(samples, -LARGEST_SAMPLE, LARGEST_SAMPLE, out=samples)
    sums = np.empty((steps, target))
    for index, (first, taps) in enumerate(blocks):
        phase = index * PHASES_A_BLOCK
        windows = np.lib.stride_tricks.as_strided(
            padded[first:], (steps, len(taps)), (padded.strides[0] * source, padded.strides[0])
        )
        sums[:, phase : phase + taps.shape[1]] = windows @ taps
    return sums.reshape(-1)[: math.ceil(len(signal) * target / source)] / (SAMPLE_ONE * TAP_ONE)


@lru_cache(maxsize=16)
def sinc_filter(source: int, target: int) -> tuple[int, list[tuple[int, Float64]]]:
    """The filter for the reduced ratio source:target.

    Returns the padding on the left and, for each block of phases, the first tap used and the taps (tap, phase),
    integers that count `1 / TAP_ONE`. A phase has few taps that are not zero, so a block of neighbours is narrow,
    and even a ratio without common factors costs little memory.
    """
    base = min(source, target) * ROLLOFF
    width = math.ceil(ZERO_CROSSINGS * source / base)
    # torchaudio divides the phase in float32 and everything else in float64
    phases = (-np.arange(target, dtype=np.float32) / np.float32(target)).astype(np.float64)
    blocks = []
    for index in range(0, target, PHASES_A_BLOCK):
        phase = phases[index : index + PHASES_A_BLOCK]
        first = math.floor(-phase[0] * source)  # the earliest tap of the block, counted from -width
        end = math.ceil(-phase[-1] * source) + 2 * width + 1
        taps = np.arange(first - width, end - width, dtype=np.float64) / source
        t = np.clip((phase[None, :] + taps[:, None]) * base, -ZERO_CROSSINGS, ZERO_CROSSINGS)  # (tap, phase)
        hann = _series(COSINE, t * (math.pi / (2 * ZERO_CROSSINGS)))
        blocks.append((first, np.rint(_sinc(t) * (hann * hann) * base / source * TAP_ONE)))
    return width, blocks


def _sinc(t: Float64) -> Float64:
    """sin(pi t) / (pi t), from the sine of the angle to the nearest multiple of pi."""
    nearest = np.rint(t)
    angle = (t - nearest) * math.pi
    sine = angle * _series(SINE, angle) * (1 - 2 * (nearest % 2))
    return np.divide(sine, t * math.pi, out=np.ones_like(t), where=t != 0)


def _series(coefficients: list[float], x: Float64) -> Float64:
    """A polynomial in x^2 by Horner's rule, each product and sum rounded to float64."""
    square = x * x
    total = np.full_like(x, coefficients[0])
    for coefficient in coefficients[1:]:
        total = total * square + coefficient
    return total

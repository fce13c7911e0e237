"""The fixed-point log-mel: int16 PCM in, int8 features out, integers only. What the firmware computes, bit for bit.

It follows `FrontEnd.log_mel` without floating point. Floats only make the tables, once, here; a C port prints them
and repeats the steps. `>>` rounds down (arithmetic shift), every sum is exact, no value leaves the type named, and
  mulr(x, w) = (x * w + 2^31) >> 32, the product in 64 bits, is the Cortex-M4's SMMULR (SMMLAR and SMMLSR with a sum).

Frame f holds samples f * hop - n_fft / 2 + i, 0 <= i < n_fft, reflected at the ends without repeating the end itself.
With `edges: none` its window begins at sample f * hop instead, and nothing is reflected.

1. Window. x = mulr(sample << (fraction_bits + 1), window), int32 with `fraction_bits` below the binary point.
   `window_table` is Q31, for the middle win_length samples; those beside them are zero. (A window in Q15 costs
   the device the same, and near a full-scale tone puts silent bands 12 steps of int8 off.)
2. Complex FFT of N = n_fft / 2 points z[n] = x[2n] + i x[2n+1], int32, in place, never scaled. Position p of the
   work area is loaded with z[order[p]]. If log2 N is odd, neighbours (a, b) first become (a + b, a - b). Then, while
   the transforms of length m are shorter than N, four neighbours a, b, c, d make one of length 4m (decimation in time):
     b, c, d at 0 < k < m are rotated by angles k, 2k, 3k times 2 pi / 4m; at k = 0 they stay as they are;
     y[k] = (a+c) + (b+d)   y[k+m] = (a-c) - i(b-d)   y[k+2m] = (a+c) - (b+d)   y[k+3m] = (a-c) + i(b-d).
   A rotation by angle 2 pi j / n_fft takes (cosine, sine) = twiddles[j], Q31, and is twice
     re: mulr(re, cosine) + mulr(im, sine)   im: mulr(im, cosine) + mulr(re, -sine)
   The doubling comes after the sum.
3. Real spectrum, as Y = 2 X. For 0 < k < N/2: E = Z[k] + conj Z[N-k], O = -i (Z[k] - conj Z[N-k]); T is O rotated
   by angle 2 pi k / n_fft, not doubled; Y[k] = E + 2T, Y[N-k] = conj(E - 2T). Y[N/2] = 2 conj Z[N/2]. Bins 0 and N
   lie outside every triangle and are not computed.
4. Power. p = (re^2 + im^2 + half) >> power_shift of Y, half of 2^power_shift (0 for 1), in 64 bits.
5. Mel. Neighbouring triangles sum to one between their centres, so the n_mels + 2 edges part the bins into
   n_mels + 1 segments, s the bins from segment_starts[s] up to segment_starts[s+1], each with one weight w, Q16, the
   rising one. P[s] = sum p, R[s] = sum w p; energy[m] = R[m] + (P[m+1] << 16) - R[m+1]. In 64 bits.
6. Feature = (how many of the 255 `thresholds` are <= energy) - 128. The thresholds are the energies at which
   round(ln(energy / unit + log_offset) / scale) + zero_point changes, unit = 2^(48 + 2 fraction_bits - power_shift):
   logarithm, rounding and clamping to int8 at once, exactly.

The tables are symmetric by construction, so that half of the window, window_table[win_length - i] being
window_table[i], and the cosines of a quarter of the circle are all that a port stores.

fraction_bits is the most for which win_length * 2^fraction_bits < 2^16. A Hann window's sum is half its length, so
every sum of samples that the FFT makes stays below 2^30, and Y below 2^31. power_shift is the least for which
Parseval's bound on all p together, times 2^16, is below 2^63.
"""

import math
from collections.abc import Iterator
from decimal import ROUND_CEILING, Decimal, localcontext
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from tinyscene.deploy.common.errors import InputError
from tinyscene.deploy.frontend.log_mel import FrontEnd

Int64 = NDArray[np.int64]

LOWEST_FFT = 64
Q31_ONE = 2**31 - 1  # one is stored as this, the largest of int32; its negative fits too
INT8_MIN = -128
THRESHOLDS = 255  # between the 256 values of int8
FINE_STEP = 2.0**-9  # of the log-mel, where it is not rounded to int8: about a fiftieth of a step of int8


def mulr(x: Int64, w: Int64) -> Int64:
    """The upper 32 bits of the 64-bit product of two int32 values, rounded to nearest, a tie upwards."""
    return (x * w + (1 << 31)) >> 32


class FixedPointLogMel:
    """int16 clips -> int8 features, integers only.

    `scale` (rounded to float32) and `zero_point` quantize the log-mel: feature = log-mel / scale + zero_point.
    Raises InputError for a front end or a quantization that the integers cannot follow.
    """

    def __init__(self, front_end: FrontEnd, scale: float, zero_point: int) -> None:
        n_fft, win_length = front_end.n_fft, front_end.win_length
        if n_fft < LOWEST_FFT or n_fft & (n_fft - 1):
            raise InputError(
                f"features.n_fft is {n_fft}: in fixed point it must be a power of two from {LOWEST_FFT} on"
            )
        if not 0 < np.float32(scale) <= 1:
            raise InputError(f"a feature scale of {scale}: it must be above 0 and at most 1")
        if not -128 <= zero_point <= 127:
            raise InputError(f"a feature zero point of {zero_point}: it must lie in -128 to 127")
        self.front_end = front_end
        self.scale, self.zero_point = float(np.float32(scale)), zero_point

        rising = _q31(front_end.window()[: win_length // 2 + 1])
        self.window_table = np.concatenate([rising, rising[(win_length - 1) // 2 : 0 : -1]])  # (win_length,)
        self.fraction_bits = 16 - win_length.bit_length()
        energy = sum(value**2 for value in self.window_table.tolist())  # of the window, Q62
        # The bound is 2 n_fft energy 2^-62 (2^15 2^fraction_bits)^2: twice, as Y is 2 X and half the bins are kept
        self.power_shift = max(0, (2 * n_fft * energy).bit_length() - 62 + 30 + 2 * self.fraction_bits + 16 - 63)

        self.order = _digit_reversal(n_fft // 2)  # (N,)
        quarter = _q31(np.cos(2 * np.pi * np.arange(n_fft // 4 + 1) / n_fft))
        cosine = np.concatenate([quarter, -quarter[-2::-1]])  # of half the circle
        angles = np.arange(3 * n_fft // 4)
        self.twiddles = np.stack([cosine[np.minimum(angles, n_fft - angles)], cosine[np.abs(angles - n_fft // 4)]], 1)

        self.segment_starts, self.mel_weights = _segments(front_end)  # (n_mels + 2,), (bin,)
        self.thresholds = self._least_energies(INT8_MIN - zero_point, self.scale, THRESHOLDS)  # (255,)

    def __call__(self, pcm: NDArray[np.int16]) -> NDArray[np.int8]:
        """Clips of the front end's rate and length: (batch, samples) -> (batch, mel, frame)."""
        features = np.empty((len(pcm), *self.front_end.shape), np.int8)
        for feature, energy in zip(features, self._mel_energies(pcm), strict=True):
            feature[:] = self._quantized(energy)
        return features

    def next_clip(
        self, clip: NDArray[np.int16], former: tuple[NDArray[np.int16], NDArray[np.int8]], advance: int
    ) -> NDArray[np.int8]:
        """The features (mel, frame) of a clip (samples,), given another that began `advance` samples before, and its.

        They are those of a call. Frames whose samples are the same in both clips are not computed again.
        """
        places, rest = divmod(advance, self.front_end.hop_length)
        shared = 0 if rest else max(0, self.front_end.frames - places)
        framed, changed = self._framed(clip), np.ones(self.front_end.frames, bool)
        changed[:shared] = (framed[:shared] != self._framed(former[0])[places : places + shared]).any(1)
        features = np.empty(self.front_end.shape, np.int8)
        features[:, :shared] = former[1][:, places : places + shared]
        if changed.any():
            windowed = self._through_window(framed[changed])
            features[:, changed] = self._quantized(self.mel_energy(self.power(self.spectrum(windowed))))
        return features

    def log_mel(self, pcm: NDArray[np.int16]) -> NDArray[np.float32]:
        """The log-mel in steps of 2**-9 for those of `scale`, still by integers alone: the same on every processor.

        Clips (batch, samples) -> (batch, mel, frame).
        """
        lowest, thresholds = self._fine_thresholds
        features = np.empty((len(pcm), *self.front_end.shape), np.float32)
        for feature, energy in zip(features, self._mel_energies(pcm), strict=True):
            feature[:] = (np.searchsorted(thresholds, energy, side="right") + lowest) * FINE_STEP
        return features

    def _mel_energies(self, pcm: NDArray[np.int16]) -> Iterator[Int64]:
        """Steps 1 to 5, one clip at a time, so that memory stays small and in the cache: (mel, frame) each."""
        if pcm.dtype != np.int16 or pcm.shape[1:] != (self.front_end.clip_samples,):
            raise InputError(
                f"clips of {pcm.dtype} {pcm.shape}: they must be int16 (batch, {self.front_end.clip_samples})"
            )
        return (self.mel_energy(self.power(self.spectrum(self.windowed(clip)))) for clip in pcm)

    def windowed(self, clip: NDArray[np.int16]) -> Int64:
        """Step 1: a clip (samples,) -> its windowed frames (frame, n_fft)."""
        return self._through_window(self._framed(clip))

    def _framed(self, clip: NDArray[np.int16]) -> NDArray[np.int16]:
        """The samples under the window, (frame, win_length)."""
        left = (self.front_end.n_fft - self.front_end.win_length) // 2
        return self.front_end.framed(clip)[:, left : left + self.front_end.win_length]

    def _through_window(self, framed: NDArray[np.int16]) -> Int64:
        """Samples (frame, win_length) -> windowed frames (frame, n_fft)."""
        n_fft, win_length = self.front_end.n_fft, self.front_end.win_length
        left = (n_fft - win_length) // 2
        frames = np.zeros((len(framed), n_fft), np.int64)
        samples = framed.astype(np.int64) << (self.fraction_bits + 1)
        frames[:, left : left + win_length] = mulr(samples, self.window_table.astype(np.int64))
        return frames

    def spectrum(self, frames: Int64) -> Int64:
        """Steps 2 and 3: windowed frames (frame, n_fft) -> twice their spectrum (re and im, bins 1 to N - 1, frame).

        The upper half comes as its complex conjugate, which has the same power.
        """
        points = frames.shape[1] // 2
        z = frames.reshape(len(frames), points, 2)[:, self.order].transpose(2, 1, 0).copy()  # (re and im, N, frame)
        self._fft(z)
        half = points // 2
        (re, im), (mirror_re, mirror_im) = z[:, 1:half], z[:, :half:-1]  # each (k, frame): Z[k] and Z[N-k]
        even = np.stack([re + mirror_re, im - mirror_im])  # E
        odd = np.stack([im + mirror_im, mirror_re - re])  # O
        turned = 2 * self._rotated(odd, np.arange(1, half))  # 2T
        return np.concatenate([even + turned, 2 * z[:, half : half + 1], (even - turned)[:, ::-1]], axis=1)

    def power(self, spectrum: Int64) -> Int64:
        """Step 4: twice a spectrum (re and im, bin, frame) -> its shifted power (bin, frame)."""
        half = (1 << self.power_shift) >> 1
        return (spectrum[0] ** 2 + spectrum[1] ** 2 + half) >> self.power_shift

    def mel_energy(self, power: Int64) -> Int64:
        """Step 5: the power of bins 1 to N - 1, (bin, frame) -> mel energy in `unit`s (mel, frame)."""
        first, last = self.segment_starts[0], self.segment_starts[-1]
        inside = power[first - 1 : last - 1]  # bin 1 comes first
        whole = self._segment_sums(inside) << 16  # P
        rising = self._segment_sums(inside * self.mel_weights[:, None].astype(np.int64))  # R
        return rising[:-1] + whole[1:] - rising[1:]

    def _quantized(self, energy: Int64) -> NDArray[np.int8]:
        """Step 6: mel energy in `unit`s -> features, of any shape."""
        return (np.searchsorted(self.thresholds, energy, side="right") + INT8_MIN).astype(np.int8)

    def _fft(self, z: Int64) -> None:
        """Step 2, in place: digit-reversed points (re and im, N, frame) become their transform."""
        _, points, frames = z.shape
        length = 1  # of the transforms that are done
        if points.bit_length() % 2 == 0:  # log2 N is odd
            pairs = z.reshape(2, -1, 2, frames)
            a, b = pairs[:, :, 0].copy(), pairs[:, :, 1]
            pairs[:, :, 0] += b
            np.subtract(a, b, out=pairs[:, :, 1])
            length = 2
        while length < points:
            quads = z.reshape(2, -1, 4, length, frames)  # (re and im, block, quarter, k, frame)
            k = np.arange(1, length) * (self.front_end.n_fft // (4 * length))
            for quarter in (1, 2, 3) if length > 1 else ():
                quads[:, :, quarter, 1:] = 2 * self._rotated(quads[:, :, quarter, 1:], quarter * k)
            a, b, c, d = (quads[:, :, quarter] for quarter in range(4))
            sum_ac, difference_ac, sum_bd, difference_bd = a + c, a - c, b + d, b - d
            turned = np.stack([difference_bd[1], -difference_bd[0]])  # -i (b - d)
            quads[:, :, 0] = sum_ac + sum_bd
            quads[:, :, 1] = difference_ac + turned
            quads[:, :, 2] = sum_ac - sum_bd
            quads[:, :, 3] = difference_ac - turned
            length *= 4

    def _rotated(self, z: Int64, index: Int64) -> Int64:
        """Half of z (re and im, ..., k, frame) times exp(-2 pi i index / n_fft), index (k,)."""
        cosine, sine = self.twiddles[index].astype(np.int64).T[..., None]  # each (k, 1)
        re, im = z
        return np.stack([mulr(re, cosine) + mulr(im, sine), mulr(im, cosine) + mulr(re, -sine)])

    def _segment_sums(self, values: Int64) -> Int64:
        """(bin, frame) -> sums (segment, frame); a segment without bins sums to nothing."""
        running = np.zeros((len(values) + 1, values.shape[1]), np.int64)
        np.cumsum(values, axis=0, out=running[1:])
        return np.diff(running[self.segment_starts - self.segment_starts[0]], axis=0)

    @cached_property
    def _fine_thresholds(self) -> tuple[int, Int64]:
        """The log-mel of silence in steps of 2**-9, or less, and the least energy for each step above it."""
        offset = self.front_end.log_offset
        lowest, highest = (math.floor(math.log(power) / FINE_STEP) for power in (offset, 2**63 / self._unit + offset))
        return lowest, self._least_energies(lowest, FINE_STEP, highest - lowest + 1)

    @property
    def _unit(self) -> int:
        """The mel energy of a log-mel of zero, but for the offset."""
        return 1 << (48 + 2 * self.fraction_bits - self.power_shift)

    def _least_energies(self, lowest: int, step: float, count: int) -> Int64:
        """The least energies (count,) whose log-mel is nearer to lowest + 1, + 2 and so on than to one less, in steps.

        In decimal: float64 would round those above 2**53.
        """
        with localcontext() as context:
            context.prec = 60
            offset, unit, ratio = Decimal(self.front_end.log_offset), self._unit, Decimal(step).exp()
            power = ((lowest + Decimal("0.5")) * Decimal(step)).exp()
            least = []
            for _ in range(count):
                least.append(int(((power - offset) * unit).to_integral_value(ROUND_CEILING)))
                power *= ratio
        return np.array([min(max(energy, 0), 2**63 - 1) for energy in least], np.int64)


def _q31(values: NDArray[np.floating]) -> NDArray[np.int32]:
    """Values within +-1 as multiples of 2^-31."""
    return np.clip(np.rint(values.astype(np.float64) * 2**31), -Q31_ONE, Q31_ONE).astype(np.int32)


def _digit_reversal(points: int) -> NDArray[np.uint16]:
    """For each position before the first stage, the point that it takes: radix 4, with one radix 2 innermost if odd."""
    stages = points.bit_length() - 1
    digits = [2] * (stages % 2) + [4] * (stages // 2)
    return np.arange(points, dtype=np.uint16).reshape(digits).T.reshape(-1)


def _segments(front_end: FrontEnd) -> tuple[NDArray[np.int64], NDArray[np.uint16]]:
    """The first bin of each segment, with the bin after the last, and the rising weight of every bin between."""
    edges = front_end.mel_edges()
    bins = np.linspace(0, front_end.sample_rate / 2, front_end.n_fft // 2 + 1)[1:-1]  # Hz
    # Whole part: the segment. Fraction: the weight. A weight that rounds to one is nought in the segment above.
    places = np.rint(np.interp(bins, edges, np.arange(len(edges))) * 2**16).astype(np.int64)
    firsts = np.maximum(np.arange(len(edges)) << 16, 1)  # a bin at nought has no part in the lowest triangle
    starts = np.searchsorted(places, firsts)
    return starts + 1, (places[starts[0] : starts[-1]] & 0xFFFF).astype(np.uint16)

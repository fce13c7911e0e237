"""Tensors of a graph and their quantization, by TFLite's 8-bit specification."""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tinyscene.deploy.common.errors import InputError

MAX_ELEMENTS = 2**22  # of an activation
INT8_MIN, INT8_MAX = -128, 127


def quantize_multiplier(real: float) -> tuple[int, int]:
    """A positive real as (multiplier, exponent): multiplier / 2**31 * 2**exponent, multiplier in 2**30 .. 2**31 - 1."""
    fraction, exponent = math.frexp(real)
    multiplier = math.floor(fraction * 2**31 + 0.5)
    return (2**30, exponent + 1) if multiplier == 2**31 else (multiplier, exponent)


def quantize_multipliers(reals: NDArray[np.float64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The same of several, (n,)."""
    fractions, exponents = np.frexp(reals)
    multipliers = np.floor(fractions * 2**31 + 0.5).astype(np.int64)
    full = multipliers == 2**31
    return np.where(full, 2**30, multipliers), exponents.astype(np.int64) + full


@dataclass(frozen=True)
class Quantization:
    """real = scale * (int8 - zero_point)."""

    scale: float  # a float32 value
    zero_point: int

    def __post_init__(self) -> None:
        if type(self.scale) is not float or not 2.0**-40 <= self.scale <= 2.0**20:
            raise InputError(f"a scale of {self.scale!r}: it must lie in 2**-40 to 2**20")
        if float(np.float32(self.scale)) != self.scale:
            raise InputError(f"a scale of {self.scale!r} is no float32 value")
        if type(self.zero_point) is not int or not INT8_MIN <= self.zero_point <= INT8_MAX:
            raise InputError(f"a zero point of {self.zero_point!r}: it must be a whole number in -128 to 127")

    @property
    def reach(self) -> int:
        """The largest magnitude of int8 - zero_point."""
        return max(INT8_MAX - self.zero_point, self.zero_point - INT8_MIN)

    def quantize(self, real: NDArray[np.floating[Any]]) -> NDArray[np.int8]:
        """Nearest int8 values, of any shape."""
        return np.clip(np.rint(real / self.scale) + self.zero_point, INT8_MIN, INT8_MAX).astype(np.int8)

    def dequantize(self, quantized: NDArray[np.int8] | NDArray[np.float32]) -> NDArray[np.float32]:
        """Real values of int8 values, or of means of them, of any shape."""
        return (quantized.astype(np.float32) - self.zero_point) * np.float32(self.scale)


@dataclass(frozen=True)
class Tensor:
    """An activation: (1, mel, frame, channels) or (1, channels); float32 where it has no quantization."""

    name: str
    shape: tuple[int, ...]
    quantization: Quantization | None = None

    def __post_init__(self) -> None:
        if type(self.name) is not str or not self.name.isprintable() or not 1 <= len(self.name) <= 200:
            raise InputError("a tensor's name must be 1 to 200 printable characters")
        whole_numbers(self.shape, (2, 4), 1, f"shape of {self.name}")
        if self.shape[0] != 1 or math.prod(self.shape) > MAX_ELEMENTS:
            raise InputError(f"shape of {self.name} is {self.shape}: a batch of 1 and {MAX_ELEMENTS:,} values at most")

    @property
    def q(self) -> Quantization:
        """The quantization of an integer graph's tensor."""
        assert self.quantization is not None
        return self.quantization


def whole_numbers(values: object, lengths: tuple[int, ...], least: int, name: str) -> None:
    """Raise InputError unless these are whole numbers from `least` up, in a tuple of one of these lengths."""
    good = isinstance(values, tuple) and len(values) in lengths
    if not good or not all(type(value) is int and least <= value < 2**31 for value in values):  # type: ignore[union-attr]
        shown = ascii(values)[:100]
        raise InputError(f"{name} is {shown}: it must be {' or '.join(map(str, lengths))} numbers from {least}")

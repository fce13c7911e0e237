"""The operators of a graph, a class each, float32 or integer: `deploy/graph/graph.py` joins them.

An operator that exists has sound settings; `output_shape` and `check_integers` check it against its inputs. Integers
are those of TFLite's 8-bit quantization specification. Padding belongs to the operator that reads it and holds real
zeros, which the mean of a pool counts; the maximum of a pool passes over it.
"""

import math
from dataclasses import dataclass
from typing import ClassVar

from tinyscene.deploy.graph.operator import Activated, Convolution, Kept, Operator, Pool
from tinyscene.deploy.graph.tensor import (
    MAX_ELEMENTS,
    Tensor,
    whole_numbers,
)


@dataclass(frozen=True, kw_only=True, eq=False)
class Conv2D(Convolution):
    """Convolution; weights (outputs, height, width, inputs)."""

    def output_shape(self, *inputs: Tensor) -> tuple[int, ...]:
        shape = super().output_shape(*inputs)
        self.require(self.weights.shape[3] == shape[3], f"weights for {self.weights.shape[3]} of {shape[3]} inputs")
        return (*shape[:3], self.weights.shape[0])


@dataclass(frozen=True, kw_only=True, eq=False)
class DepthwiseConv2D(Convolution):
    """A convolution for each channel by itself; weights (1, height, width, channels)."""

    channel_axis: ClassVar[int] = 3

    def output_shape(self, *inputs: Tensor) -> tuple[int, ...]:
        shape = super().output_shape(*inputs)
        expected = (1, *self.size, shape[3])
        self.require(self.weights.shape == expected, f"weights are {self.weights.shape}, not {expected}")
        return shape


@dataclass(frozen=True, kw_only=True, eq=False)
class Add(Activated):
    """The sum of two activations of the same shape."""

    arity: ClassVar[int] = 2

    def output_shape(self, *inputs: Tensor) -> tuple[int, ...]:
        first, second = (tensor.shape for tensor in inputs)
        self.require(first == second, f"adds {first} and {second}")
        return first

    def check_integers(self, *inputs: Tensor) -> None:
        self.check_clamp()
        low, high = sorted(tensor.q.scale for tensor in inputs)
        self.require_multiplier(low / (2 * high), 2.0**28)
        last = 2 * high / (2**20 * self.output.q.scale)
        self.require(last < 1.0, "its output scale is less than 2**-19 of its inputs'")
        self.require_multiplier(last, 2.0**28)


@dataclass(frozen=True, kw_only=True, eq=False)
class AveragePool2D(Pool):
    """The mean of a window, padding included."""


@dataclass(frozen=True, kw_only=True, eq=False)
class MaxPool2D(Pool):
    """The largest value of a window, padding left out: each window has a value that is none."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Crop(Kept):
    """The input without its outermost bands and frames."""

    crop: tuple[int, int, int, int]  # cut off at top, bottom (mel), left, right (frame)

    def __post_init__(self) -> None:
        super().__post_init__()
        whole_numbers(self.crop, (4,), 0, f"crop of {self.label}")
        self.require(any(self.crop), "cuts nothing off")

    def output_shape(self, *inputs: Tensor) -> tuple[int, ...]:
        self.require(len(inputs[0].shape) == 4, f"needs (1, mel, frame, channels), not {inputs[0].shape}")
        _, height, width, channels = inputs[0].shape
        top, bottom, left, right = self.crop
        height, width = height - top - bottom, width - left - right
        self.require(height > 0 and width > 0, f"cuts {self.crop} off {inputs[0].shape}, which leaves nothing")
        return (1, height, width, channels)


@dataclass(frozen=True, kw_only=True, eq=False)
class Repeat(Kept):
    """One band or one frame, repeated for an addition to read."""

    times: tuple[int, int]  # mel, frame: how often; one of them is 1

    def __post_init__(self) -> None:
        super().__post_init__()
        whole_numbers(self.times, (2,), 1, f"times of {self.label}")
        self.require(min(self.times) == 1 < max(self.times), f"repeats {self.times} times: bands or frames, not both")

    def output_shape(self, *inputs: Tensor) -> tuple[int, ...]:
        shape = inputs[0].shape
        axis = 1 if self.times[0] > 1 else 2
        self.require(len(shape) == 4 and shape[axis] == 1, f"repeats more than one band or frame of {shape}")
        made = (1, shape[1] * self.times[0], shape[2] * self.times[1], shape[3])
        self.require(math.prod(made) <= MAX_ELEMENTS, f"makes too many values, {made}")
        return made


@dataclass(frozen=True, kw_only=True, eq=False)
class Channels(Kept):
    """Some of the channels, those from `first` on."""

    first: int

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require(type(self.first) is int and self.first >= 0, f"begins at channel {ascii(self.first)[:100]}")

    def output_shape(self, *inputs: Tensor) -> tuple[int, ...]:
        shape, count = inputs[0].shape, self.output.shape[-1]
        fits = len(shape) == 4 and self.first + count <= shape[-1] and count < shape[-1]
        self.require(fits, f"takes {count} channels from {self.first} on, of {shape}")
        return (*shape[:3], count)


@dataclass(frozen=True, kw_only=True, eq=False)
class Concat(Kept):
    """The channels of two activations, those of the second behind those of the first."""

    arity: ClassVar[int] = 2

    def output_shape(self, *inputs: Tensor) -> tuple[int, ...]:
        first, second = (tensor.shape for tensor in inputs)
        self.require(len(first) == 4 and first[:3] == second[:3], f"joins {first} and {second}")
        return (*first[:3], first[3] + second[3])


@dataclass(frozen=True, kw_only=True, eq=False)
class Mean(Operator):
    """The mean over mel and frame: (1, mel, frame, channels) -> (1, channels), or (1, 1, 1, channels)."""

    def output_shape(self, *inputs: Tensor) -> tuple[int, ...]:
        self.require(len(inputs[0].shape) == 4, f"needs (1, mel, frame, channels), not {inputs[0].shape}")
        between = (1, 1) if len(self.output.shape) == 4 else ()
        return (1, *between, inputs[0].shape[3])

    def check_integers(self, *inputs: Tensor) -> None:
        count = inputs[0].shape[1] * inputs[0].shape[2]
        multiplier = inputs[0].q.scale / self.output.q.scale
        exponent = math.frexp(multiplier)[1] - (count.bit_length() - 1)
        self.require(multiplier >= 2.0**-20, f"its rescaling by {multiplier:.3g} is below 2**-20")
        self.require(count * 255 * 2.0 ** max(exponent, 0) < 2.0**31, "its accumulator can overflow")


Kind = Conv2D | DepthwiseConv2D | Add | AveragePool2D | MaxPool2D | Crop | Repeat | Channels | Concat | Mean

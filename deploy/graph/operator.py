"""What the operators of a graph have in common: bounds, windows, weights, and a quantization that is kept."""

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from tinyscene.deploy.common.errors import InputError
from tinyscene.deploy.graph.tensor import (
    INT8_MAX,
    INT8_MIN,
    MAX_ELEMENTS,
    Tensor,
    quantize_multiplier,
    whole_numbers,
)

WEIGHT_MAX = 127  # symmetric: -128 is not used
ARRAYS = ("weights", "bias", "weight_scales")  # of a convolution
ZERO_POINT_MARGIN = 128  # that is added to an accumulator once it is rescaled
MAX_CLAMP = 2.0**20  # real value of a clamp's bound
MAX_CLAMP_STEPS = 2**30  # of its output that a clamp's bound is from zero: TFLite counts them in 32 bits


@dataclass(frozen=True, kw_only=True, eq=False)
class Operator(ABC):
    """One step: named inputs, one output."""

    inputs: tuple[str, ...]
    output: Tensor
    arity: ClassVar[int] = 1

    def __post_init__(self) -> None:
        names = self.inputs
        if type(names) is not tuple or len(names) != self.arity or not all(type(name) is str for name in names):
            raise InputError(f"{self.label}: needs {self.arity} named inputs")

    @property
    def kind(self) -> str:
        return type(self).__name__

    @property
    def label(self) -> str:
        return f"{self.kind} {self.output.name}"

    @abstractmethod
    def output_shape(self, *inputs: Tensor) -> tuple[int, ...]: ...

    @abstractmethod
    def check_integers(self, *inputs: Tensor) -> None:
        """Raise InputError where the arithmetic of an integer operator could leave its bounds."""

    def require(self, condition: bool, fault: str) -> None:
        if not condition:
            raise InputError(f"{self.label}: {fault}")

    def require_multiplier(self, multiplier: float, largest: float) -> None:
        """Make sure that a rescaling by `multiplier` of values up to `largest` stays within 32 bits."""
        self.require(multiplier >= 2.0**-31, f"its rescaling by {multiplier:.3g} is below 2**-31")
        exponent = quantize_multiplier(multiplier)[1]
        highest = largest * 2.0 ** max(exponent, 0) + ZERO_POINT_MARGIN
        self.require(exponent <= 30 and highest < 2.0**31, "its accumulator can overflow")


@dataclass(frozen=True, kw_only=True, eq=False)
class Activated(Operator):
    """An operator whose output is kept within bounds: from zero up (relu), or those of a clamp, with zero in them."""

    relu: bool = False
    clamp: tuple[float, float] | None = None  # float32 values

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require(type(self.relu) is bool, "relu must be true or false")
        if self.clamp is not None:
            pair = type(self.clamp) is tuple and len(self.clamp) == 2 and all(type(end) is float for end in self.clamp)
            self.require(pair, f"has a clamp of {ascii(self.clamp)[:100]}: it must be two numbers")
            low, high = self.clamp
            fits = -MAX_CLAMP <= low <= 0.0 <= high <= MAX_CLAMP and low < high
            self.require(fits, f"has a clamp of {low} to {high}: zero and 2**20 at most must be in it")
            exact = all(float(np.float32(end)) == end for end in self.clamp)
            self.require(exact and not self.relu, "has a clamp that is no float32 value, or a ReLU beside it")

    @property
    def bounds(self) -> tuple[float, float]:
        """The least and the highest real output."""
        return self.clamp or (0.0 if self.relu else -math.inf, math.inf)

    @property
    def integer_bounds(self) -> tuple[int, int]:
        """The same of an integer graph, rounded as TFLite does: a quotient in float32, half away from zero."""
        if self.clamp is None:
            return (self.output.q.zero_point if self.relu else INT8_MIN), INT8_MAX
        steps = [float(np.float32(end) / np.float32(self.output.q.scale)) for end in self.clamp]
        low, high = (self.output.q.zero_point + int(math.copysign(math.floor(abs(end) + 0.5), end)) for end in steps)
        return max(low, INT8_MIN), min(high, INT8_MAX)

    def check_clamp(self) -> None:
        """Raise InputError where an integer graph's clamp is too far from zero."""
        if self.clamp is not None:
            steps = max(map(abs, self.clamp)) / self.output.q.scale
            self.require(steps < MAX_CLAMP_STEPS, "its clamp is 2**30 steps of its output or more")


@dataclass(frozen=True, kw_only=True, eq=False)
class Window(Operator):
    """An operator that slides a window over mel and frame."""

    stride: tuple[int, int] = (1, 1)  # mel, frame
    padding: tuple[int, int, int, int] = (0, 0, 0, 0)  # top, bottom (mel), left, right (frame)

    def __post_init__(self) -> None:
        super().__post_init__()
        whole_numbers(self.stride, (2,), 1, f"stride of {self.label}")
        whole_numbers(self.padding, (4,), 0, f"padding of {self.label}")

    @property
    @abstractmethod
    def size(self) -> tuple[int, int]: ...

    def output_shape(self, *inputs: Tensor) -> tuple[int, ...]:
        self.require(len(inputs[0].shape) == 4, f"needs (1, mel, frame, channels), not {inputs[0].shape}")
        _, height, width, channels = inputs[0].shape
        top, bottom, left, right = self.padding
        tall, wide = self.size
        self.require(max(top, bottom) < tall and max(left, right) < wide, f"padding {self.padding} exceeds its window")
        height, width = height + top + bottom, width + left + right
        self.require(height * width * channels <= MAX_ELEMENTS, f"padding {self.padding} makes too many values")
        height, width = height - tall, width - wide
        self.require(height >= 0 and width >= 0, f"window {self.size} is larger than its input {inputs[0].shape}")
        return (1, height // self.stride[0] + 1, width // self.stride[1] + 1, channels)


@dataclass(frozen=True, kw_only=True, eq=False)
class Convolution(Activated, Window):
    """An operator with weights and a bias: float32, or int8 and int32 with the weights' scales."""

    weights: NDArray[Any]
    bias: NDArray[Any]  # (outputs,)
    weight_scales: NDArray[np.float32] | None = None  # (outputs,)

    channel_axis: ClassVar[int] = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ARRAYS:  # copies, in C order: nobody else can write to them
            if (values := getattr(self, name)) is not None:
                object.__setattr__(self, name, np.array(values, order="C"))
        weights, bias, scales = self.weights, self.bias, self.weight_scales
        kinds = (np.float32, np.float32) if scales is None else (np.int8, np.int32)
        self.require((weights.dtype, bias.dtype) == kinds, f"has weights of {weights.dtype} and a bias of {bias.dtype}")
        self.require(weights.ndim == 4 and 0 not in weights.shape, f"has weights {weights.shape}")
        outputs = weights.shape[self.channel_axis]
        self.require(bias.shape == (outputs,), f"has a bias {bias.shape} for {outputs} outputs")
        if scales is None:
            self.require(bool(np.isfinite(weights).all() and np.isfinite(bias).all()), "holds NaN or infinite values")
        else:
            self.require(scales.dtype == np.float32 and scales.shape == (outputs,), f"needs {outputs} float32 scales")
            self.require(bool(((scales >= 2.0**-40) & (scales <= 2.0**20)).all()), "has scales outside 2**-40 to 2**20")
            self.require(int(weights.min()) >= -WEIGHT_MAX, "has a weight of -128, which symmetric weights never are")
        for array in (weights, bias, scales):
            if array is not None:
                array.flags.writeable = False

    @property
    def scales(self) -> NDArray[np.float32]:
        """The weights' scales in an integer graph, (outputs,)."""
        assert self.weight_scales is not None
        return self.weight_scales

    @property
    def size(self) -> tuple[int, int]:
        return self.weights.shape[1], self.weights.shape[2]

    @property
    def macs(self) -> int:
        """Multiplications of one inference."""
        depth = self.weights.size // self.weights.shape[self.channel_axis]
        return math.prod(self.output.shape) * depth

    def along_channels(self, values: NDArray[Any]) -> NDArray[Any]:
        """Values (outputs,) in a shape that multiplies the weights of their channel."""
        return np.expand_dims(values, self.other_axes)

    @property
    def other_axes(self) -> tuple[int, ...]:
        """The axes of the weights but that of the output channels."""
        return tuple(axis for axis in range(4) if axis != self.channel_axis)

    def accumulator_bounds(self, reach: int) -> NDArray[np.int64]:
        """The largest magnitude of each output channel's accumulator, (outputs,)."""
        return np.abs(self.weights.astype(np.int16)).sum(self.other_axes, dtype=np.int64) * reach + np.abs(
            self.bias.astype(np.int64)
        )

    def multipliers(self, source: Tensor) -> NDArray[np.float64]:
        """What accumulators are multiplied by, (outputs,): input scale * weight scale / output scale."""
        return source.q.scale * self.scales.astype(np.float64) / self.output.q.scale

    def check_integers(self, *inputs: Tensor) -> None:
        self.check_clamp()
        bounds, multipliers = self.accumulator_bounds(inputs[0].q.reach), self.multipliers(inputs[0])
        for bound, multiplier in zip(bounds, multipliers, strict=True):
            self.require_multiplier(float(multiplier), float(bound))


@dataclass(frozen=True, kw_only=True, eq=False)
class Kept(Operator):
    """An operator whose output has the quantization of its input."""

    def check_integers(self, *inputs: Tensor) -> None:
        kept = all(tensor.quantization == self.output.quantization for tensor in inputs)
        self.require(kept, "must keep its input's scale and zero point")


@dataclass(frozen=True, kw_only=True, eq=False)
class Pool(Kept, Window):
    """An operator that makes one value of a window, by channel, in the quantization of its input."""

    window: tuple[int, int]

    def __post_init__(self) -> None:
        super().__post_init__()
        whole_numbers(self.window, (2,), 1, f"window of {self.label}")

    @property
    def size(self) -> tuple[int, int]:
        return self.window

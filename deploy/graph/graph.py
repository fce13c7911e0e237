"""The graph: what a network computes, in float or in integers. `deploy/graph/storage.py` stores it.

Activations are NHWC with height = mel and width = frame; convolution weights are TFLite's, (outputs, height,
width, inputs). A graph is float32 throughout, or integer throughout by TFLite's 8-bit quantization
specification: activations int8 with one scale and zero point, weights int8 in -127..127 with a scale an
output channel and zero point 0, bias int32 at input scale * weight
scale. Padding belongs to the operator that reads it and holds real zeros, which the mean of a pool counts.

A Graph that exists is valid: shapes fit, nothing dangles, and no accumulator can leave 32 bits, so every
runtime and every kernel may rely on it. Nothing read from a file is trusted before that is checked.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from tinyscene.deploy.common.errors import InputError

MAX_OPERATORS = 1_000
MAX_ELEMENTS = 2**22  # of an activation
INT8_MIN, INT8_MAX = -128, 127
WEIGHT_MAX = 127  # symmetric: -128 is not used
ARRAYS = ("weights", "bias", "weight_scales")  # of a convolution
ZERO_POINT_MARGIN = 128  # that is added to an accumulator once it is rescaled


def quantize_multiplier(real: float) -> tuple[int, int]:
    """A positive real as (multiplier, exponent): multiplier / 2**31 * 2**exponent, multiplier in 2**30 .. 2**31 - 1."""
    fraction, exponent = math.frexp(real)
    multiplier = math.floor(fraction * 2**31 + 0.5)
    return (2**30, exponent + 1) if multiplier == 2**31 else (multiplier, exponent)


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
        _whole_numbers(self.shape, (2, 4), 1, f"shape of {self.name}")
        if self.shape[0] != 1 or math.prod(self.shape) > MAX_ELEMENTS:
            raise InputError(f"shape of {self.name} is {self.shape}: a batch of 1 and {MAX_ELEMENTS:,} values at most")

    @property
    def q(self) -> Quantization:
        """The quantization of an integer graph's tensor."""
        assert self.quantization is not None
        return self.quantization


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
class Window(Operator):
    """An operator that slides a window over mel and frame."""

    stride: tuple[int, int] = (1, 1)  # mel, frame
    padding: tuple[int, int, int, int] = (0, 0, 0, 0)  # top, bottom (mel), left, right (frame)

    def __post_init__(self) -> None:
        super().__post_init__()
        _whole_numbers(self.stride, (2,), 1, f"stride of {self.label}")
        _whole_numbers(self.padding, (4,), 0, f"padding of {self.label}")

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
class Convolution(Window):
    """An operator with weights and a bias: float32, or int8 and int32 with the weights' scales."""

    weights: NDArray[Any]
    bias: NDArray[Any]  # (outputs,)
    weight_scales: NDArray[np.float32] | None = None  # (outputs,)
    relu: bool = False

    channel_axis: ClassVar[int] = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require(type(self.relu) is bool, "relu must be true or false")
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
        bounds, multipliers = self.accumulator_bounds(inputs[0].q.reach), self.multipliers(inputs[0])
        for bound, multiplier in zip(bounds, multipliers, strict=True):
            self.require_multiplier(float(multiplier), float(bound))


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
class Add(Operator):
    """The sum of two activations of the same shape."""

    relu: bool = False
    arity: ClassVar[int] = 2

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require(type(self.relu) is bool, "relu must be true or false")

    def output_shape(self, *inputs: Tensor) -> tuple[int, ...]:
        first, second = (tensor.shape for tensor in inputs)
        self.require(first == second, f"adds {first} and {second}")
        return first

    def check_integers(self, *inputs: Tensor) -> None:
        low, high = sorted(tensor.q.scale for tensor in inputs)
        self.require_multiplier(low / (2 * high), 2.0**28)
        last = 2 * high / (2**20 * self.output.q.scale)
        self.require(last < 1.0, "its output scale is less than 2**-19 of its inputs'")
        self.require_multiplier(last, 2.0**28)


@dataclass(frozen=True, kw_only=True, eq=False)
class AveragePool2D(Window):
    """The mean of a window, padding included, in the quantization of its input."""

    window: tuple[int, int]

    def __post_init__(self) -> None:
        super().__post_init__()
        _whole_numbers(self.window, (2,), 1, f"window of {self.label}")

    @property
    def size(self) -> tuple[int, int]:
        return self.window

    def check_integers(self, *inputs: Tensor) -> None:
        self.require(inputs[0].quantization == self.output.quantization, "must keep its input's scale and zero point")


@dataclass(frozen=True, kw_only=True, eq=False)
class Mean(Operator):
    """The mean over mel and frame: (1, mel, frame, channels) -> (1, channels)."""

    def output_shape(self, *inputs: Tensor) -> tuple[int, ...]:
        self.require(len(inputs[0].shape) == 4, f"needs (1, mel, frame, channels), not {inputs[0].shape}")
        return (1, inputs[0].shape[3])

    def check_integers(self, *inputs: Tensor) -> None:
        count = inputs[0].shape[1] * inputs[0].shape[2]
        multiplier = inputs[0].q.scale / self.output.q.scale
        exponent = math.frexp(multiplier)[1] - (count.bit_length() - 1)
        self.require(multiplier >= 2.0**-20, f"its rescaling by {multiplier:.3g} is below 2**-20")
        self.require(count * 255 * 2.0 ** max(exponent, 0) < 2.0**31, "its accumulator can overflow")


Kind = Conv2D | DepthwiseConv2D | Add | AveragePool2D | Mean


@dataclass(frozen=True, eq=False)
class Graph:
    """Operators in the order they run; the last one's output is the graph's. Raises InputError if not valid."""

    input: Tensor
    operators: tuple[Kind, ...]
    tensors: Mapping[str, Tensor] = field(init=False)  # by name, in order

    def __post_init__(self) -> None:
        object.__setattr__(self, "operators", tuple(self.operators))
        if not 1 <= len(self.operators) <= MAX_OPERATORS:
            raise InputError(f"a graph of {len(self.operators)} operators: it must have 1 to {MAX_OPERATORS:,}")
        tensors, unread = {self.input.name: self.input}, {self.input.name}
        for operator in self.operators:
            for name in operator.inputs:
                operator.require(name in tensors, f"its input {name!r} is not made before it")
            operator.require(operator.output.name not in tensors, "its name is taken")
            self._check(operator, [tensors[name] for name in operator.inputs])
            tensors[operator.output.name] = operator.output
            unread = (unread - {*operator.inputs}) | {operator.output.name}
        if dangling := sorted(unread - {self.output.name}):
            raise InputError(f"nothing reads tensor {dangling[0]!r}")
        object.__setattr__(self, "tensors", tensors)

    def _check(self, operator: Kind, inputs: list[Tensor]) -> None:
        shape = operator.output_shape(*inputs)
        operator.require(shape == operator.output.shape, f"makes {shape}, not {operator.output.shape}")
        quantized = operator.output.quantization is not None
        operator.require(quantized == self.is_integer, "mixes float and integer tensors")
        if isinstance(operator, Convolution):
            operator.require((operator.weight_scales is not None) == quantized, "mixes float and integer weights")
        if quantized:
            operator.check_integers(*inputs)

    @property
    def is_integer(self) -> bool:
        return self.input.quantization is not None

    @property
    def output(self) -> Tensor:
        return self.operators[-1].output

    @property
    def macs(self) -> int:
        """Multiplications of one inference."""
        return sum(getattr(operator, "macs", 0) for operator in self.operators)

    def sources(self, operator: Kind) -> list[Tensor]:
        """The tensors that an operator reads."""
        return [self.tensors[name] for name in operator.inputs]

    def last_reads(self) -> list[set[str]]:
        """For each operator the tensors that none after it reads."""
        read_later: set[str] = set()
        last: list[set[str]] = []
        for operator in reversed(self.operators):
            last.append({*operator.inputs} - read_later)
            read_later.update(operator.inputs)
        return last[::-1]


def _whole_numbers(values: object, lengths: tuple[int, ...], least: int, name: str) -> None:
    good = isinstance(values, tuple) and len(values) in lengths
    if not good or not all(type(value) is int and least <= value < 2**31 for value in values):  # type: ignore[union-attr]
        shown = ascii(values)[:100]
        raise InputError(f"{name} is {shown}: it must be {' or '.join(map(str, lengths))} numbers from {least}")

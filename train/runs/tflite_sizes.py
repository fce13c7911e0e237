"""Sizes in a TFLite graph: what an operator makes follows from what it takes, whatever the file declares.

An interpreter works sizes out like this, too, when it loads a model: the rules are TFLite's.
"""

from collections.abc import Callable
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

Size = tuple[int, ...]
PADDED = 0  # of TFLite's Padding: SAME


@dataclass(frozen=True)
class Operand:
    """A tensor that an operator takes: its size, and its values where they are constant."""

    size: Size
    values: NDArray[Any] | None = None

    @property
    def constant(self) -> list[int]:
        """Its values. Raises ValueError where they are known only when the model runs."""
        if self.values is None:
            raise ValueError("a size depends on values that are no constants")
        return [int(value) for value in self.values.flatten()]


def made(kind: str, options: Any, operands: list[Operand]) -> list[Size]:
    """Sizes of an operator's outputs. Raises an error of any kind where they cannot be known, or do not fit."""
    if kind in UNCHANGED:
        return [operands[0].size]
    if kind in BROADCAST:
        return [tuple(np.broadcast_shapes(*(operand.size for operand in operands)))]
    if kind == "CONCATENATION":
        return [_concatenated([operand.size for operand in operands], options.axis)]
    if kind == "SPLIT":
        return _split(operands[1].size, operands[0].constant[0], options.numSplits)
    return [RULES[kind](options, *operands)]


_UNCHANGED = "DEQUANTIZE HARD_SWISH LEAKY_RELU LOGISTIC LOG_SOFTMAX QUANTIZE RELU RELU6 SOFTMAX TANH"
_BROADCAST = "ADD MAXIMUM MINIMUM MUL PRELU SUB"
UNCHANGED, BROADCAST = frozenset(_UNCHANGED.split()), frozenset(_BROADCAST.split())


def _windows(size: Size, kernel: Size, options: Any, dilation: Size = (1, 1)) -> Size:
    """How often a window fits into rows and columns."""
    strides = options.strideH, options.strideW
    if options.padding == PADDED:
        return tuple(-(-length // stride) for length, stride in zip(size, strides, strict=True))
    return tuple(
        (length - (width - 1) * step - 1) // stride + 1
        for length, width, step, stride in zip(size, kernel, dilation, strides, strict=True)
    )


def _conv(options: Any, values: Operand, weights: Operand, *_: Operand) -> Size:
    batch, *size, channels = values.size
    outputs, *kernel, inputs = weights.size
    if channels % inputs:
        raise ValueError(f"CONV_2D takes {channels} channels by weights for {inputs}")
    dilation = options.dilationHFactor, options.dilationWFactor
    return (batch, *_windows(tuple(size), tuple(kernel), options, dilation), outputs)


def _depthwise(options: Any, values: Operand, weights: Operand, *_: Operand) -> Size:
    batch, *size, channels = values.size
    one, *kernel, outputs = weights.size
    if one != 1 or outputs % channels:
        raise ValueError(f"DEPTHWISE_CONV_2D takes {channels} channels by weights for {outputs}")
    dilation = options.dilationHFactor, options.dilationWFactor
    return (batch, *_windows(tuple(size), tuple(kernel), options, dilation), outputs)


def _pool(options: Any, values: Operand) -> Size:
    batch, *size, channels = values.size
    return (batch, *_windows(tuple(size), (options.filterHeight, options.filterWidth), options), channels)


def _fully_connected(options: Any, values: Operand, weights: Operand, *_: Operand) -> Size:
    outputs, inputs = weights.size
    if prod(values.size) % inputs or (options.keepNumDims and values.size[-1] != inputs):
        raise ValueError(f"FULLY_CONNECTED takes {list(values.size)} by weights for {inputs}")
    return (*values.size[:-1], outputs) if options.keepNumDims else (prod(values.size) // inputs, outputs)


def _reduced(options: Any, values: Operand, axes: Operand) -> Size:
    gone = {axis % len(values.size) for axis in axes.constant}
    if options.keepDims:
        return tuple(1 if axis in gone else length for axis, length in enumerate(values.size))
    return tuple(length for axis, length in enumerate(values.size) if axis not in gone)


def _padded(_: Any, values: Operand, padding: Operand, *_more: Operand) -> Size:
    both = np.reshape(padding.constant, (len(values.size), 2)).sum(1).tolist()
    return tuple(length + more for length, more in zip(values.size, both, strict=True))


def _reshaped(options: Any, values: Operand, *size: Operand) -> Size:
    wanted = size[0].constant if size else [int(length) for length in options.newShape]
    rest = prod(values.size) // max(1, prod(length for length in wanted if length != -1))
    shape = tuple(rest if length == -1 else length for length in wanted)
    if wanted.count(-1) > 1 or prod(shape) != prod(values.size):
        raise ValueError(f"RESHAPE makes {list(shape)} of {list(values.size)}")
    return shape


def _sliced(_: Any, values: Operand, begin: Operand, size: Operand) -> Size:
    return tuple(
        length - first if count == -1 else count
        for length, first, count in zip(values.size, begin.constant, size.constant, strict=True)
    )


def _strided(options: Any, values: Operand, begin: Operand, end: Operand, strides: Operand) -> Size:
    index: list[Any] = []
    for axis, (first, last, stride) in enumerate(zip(begin.constant, end.constant, strides.constant, strict=True)):
        bit = 1 << axis
        if options.ellipsisMask & bit:
            index.append(Ellipsis)
        elif options.newAxisMask & bit:
            index.append(None)
        elif options.shrinkAxisMask & bit:
            index.append(first)
        else:
            index.append(
                slice(None if options.beginMask & bit else first, None if options.endMask & bit else last, stride)
            )
    return np.broadcast_to(np.int8(0), values.size)[tuple(index)].shape


def _squeezed(options: Any, values: Operand) -> Size:
    named = () if options.squeezeDims is None else options.squeezeDims
    axes = {int(axis) % len(values.size) for axis in named} or {
        axis for axis, length in enumerate(values.size) if length == 1
    }
    return np.broadcast_to(np.int8(0), values.size).squeeze(tuple(axes)).shape


def _transposed(_: Any, values: Operand, order: Operand) -> Size:
    return np.broadcast_to(np.int8(0), values.size).transpose(order.constant).shape


def _concatenated(sizes: list[Size], axis: int) -> Size:
    axis %= len(sizes[0])
    before, after = sizes[0][:axis], sizes[0][axis + 1 :]
    for size in sizes:
        if (size[:axis], size[axis + 1 :]) != (before, after):
            raise ValueError(f"CONCATENATION takes {list(size)} and {list(sizes[0])}")
    return (*before, sum(size[axis] for size in sizes), *after)


def _split(size: Size, axis: int, parts: int) -> list[Size]:
    if size[axis] % parts:
        raise ValueError(f"SPLIT makes {parts} parts of {size[axis]}")
    part = list(size)
    part[axis] //= parts
    return [tuple(part)] * parts


RULES: dict[str, Callable[..., Size]] = {
    "AVERAGE_POOL_2D": _pool,
    "CONV_2D": _conv,
    "DEPTHWISE_CONV_2D": _depthwise,
    "FULLY_CONNECTED": _fully_connected,
    "MAX_POOL_2D": _pool,
    "MEAN": _reduced,
    "PAD": _padded,
    "PADV2": _padded,
    "RESHAPE": _reshaped,
    "SHAPE": lambda _, values: (len(values.size),),
    "SLICE": _sliced,
    "SQUEEZE": _squeezed,
    "STRIDED_SLICE": _strided,
    "SUM": _reduced,
    "TRANSPOSE": _transposed,
}

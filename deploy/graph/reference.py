"""The reference: what a graph computes, in numpy. The definition of right for everything else.

    logits = run(graph, features)            # int8 in, int8 out; or float32 both, for a float graph
    layers = run_all(graph, features)        # every tensor, by name

Integers follow TFLite's reference kernels to the bit: 32-bit multipliers with a shift, two roundings, and
truncating divisions where the kernels have them. Sources: tensorflow/lite/kernels/internal/{common,
quantization_util, reference/integer_ops, reference/add, reference/reduce} and gemmlowp's fixedpoint.h.

Floats are the same on every processor, too. A sum of floats depends on the order of its terms, which depends on the
vectors and threads of the BLAS. So sums are taken of multiples of one power of two, few enough bits wide that float64
holds every partial sum exactly: then any order gives the same bits.
"""

import math
from collections.abc import Collection
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tinyscene.deploy.common.errors import InputError
from tinyscene.deploy.graph.graph import Graph
from tinyscene.deploy.graph.operator import Activated, Convolution, Window
from tinyscene.deploy.graph.operators import (
    Add,
    AveragePool2D,
    Channels,
    Concat,
    Conv2D,
    Crop,
    DepthwiseConv2D,
    Kind,
    MaxPool2D,
    Mean,
    Repeat,
)
from tinyscene.deploy.graph.tensor import (
    INT8_MAX,
    INT8_MIN,
    Quantization,
    Tensor,
    quantize_multiplier,
    quantize_multipliers,
)

Values = NDArray[Any]  # int8 or float32, (batch, mel, frame, channels) or (batch, channels)

ADD_SHIFT = 20  # TFLite's left shift of both inputs of an ADD
EXACT_IN_FLOAT32 = 2**24
FLOAT64_BITS = 53  # of an integer that float64 holds exactly


def run(graph: Graph, features: Values) -> Values:
    """Features (batch, mel, frame, channels) of the graph's type -> its output, (batch, ...)."""
    return run_keeping(graph, features)[graph.output.name]


def run_all(graph: Graph, features: Values) -> dict[str, Values]:
    """The same, with every tensor by name, in order."""
    return run_keeping(graph, features, graph.tensors)


def run_keeping(graph: Graph, features: Values, names: Collection[str] = ()) -> dict[str, Values]:
    """The same, with the output and the tensors of these names."""
    require_features(graph, features)
    values = {graph.input.name: features}
    run_one = run_integer if graph.is_integer else run_float
    for operator, last_read in zip(graph.operators, graph.last_reads(), strict=True):
        arguments = [values[name] for name in operator.inputs]
        values[operator.output.name] = run_one(operator, graph.sources(operator), arguments)
        for name in last_read - set(names):
            del values[name]
    return values


def require_features(graph: Graph, features: Values) -> None:
    """Raise InputError for features that are not those of a graph."""
    dtype = np.int8 if graph.is_integer else np.float32
    if features.dtype != dtype or features.shape[1:] != graph.input.shape[1:]:
        expected = " x ".join(map(str, graph.input.shape[1:]))
        raise InputError(
            f"features are {features.dtype} {features.shape}: needed are {dtype.__name__}, (batch, {expected})"
        )


def run_float(operator: Kind, _sources: list[Tensor], arguments: list[Values]) -> Values:
    """One operator of a float graph."""
    match operator:
        case Conv2D():
            y = _convolve_floats(operator, arguments[0])
        case DepthwiseConv2D():  # sums in the order of the taps
            y = _accumulate(operator, _pad(operator, arguments[0], 0), operator.weights) + operator.bias
        case Add():
            y = arguments[0] + arguments[1]
        case AveragePool2D():
            y = _window_sum(operator, arguments[0], 0) / np.float32(math.prod(operator.window))
        case Mean():
            y = exact_mean(arguments[0], (1, 2)).reshape(-1, *operator.output.shape[1:])
        case MaxPool2D():
            y = _window_max(operator, arguments[0], -math.inf)
        case Crop() | Repeat() | Channels() | Concat():
            y = _moved(operator, arguments)
    return activated(operator, y)


def activated(operator: Kind, y: NDArray[np.float32]) -> NDArray[np.float32]:
    """What an operator of a float graph makes of its values before its activation."""
    low, high = operator.bounds if isinstance(operator, Activated) else (-math.inf, math.inf)
    y = np.maximum(y, np.float32(low)) if low > -math.inf else y
    return np.minimum(y, np.float32(high)) if high < math.inf else y


def run_integer(operator: Kind, sources: list[Tensor], arguments: list[Values]) -> Values:
    """One operator of an integer graph, of inputs of any number of frames."""
    output = operator.output.q
    match operator:
        case Conv2D() | DepthwiseConv2D():
            y = _convolve(operator, sources[0], arguments[0]) + output.zero_point
        case Add():
            y = _add(operator, sources, arguments) + output.zero_point
        case AveragePool2D():
            y = _divide(_window_sum(operator, arguments[0], sources[0].q.zero_point), math.prod(operator.window))
        case Mean():
            y = (_mean(sources[0].q, output, arguments[0]) + output.zero_point).reshape(-1, *operator.output.shape[1:])
        case MaxPool2D():
            y = _window_max(operator, arguments[0], INT8_MIN)
        case Crop() | Repeat() | Channels() | Concat():
            y = _moved(operator, arguments)
    bounds = operator.integer_bounds if isinstance(operator, Activated) else (INT8_MIN, INT8_MAX)
    return np.clip(y, *bounds).astype(np.int8)


def exact_mean(x: NDArray[np.floating[Any]], axes: tuple[int, ...]) -> NDArray[np.float32]:
    """The mean over some axes of an array (batch, ...), the same on every processor."""
    count = math.prod(x.shape[axis] for axis in axes)
    return (_on_grid(x, FLOAT64_BITS - count.bit_length()).sum(axes) / count).astype(np.float32)


def _on_grid(x: NDArray[np.floating[Any]], bits: int) -> NDArray[np.float64]:
    """x (n, ...) rounded to multiples of a power of two, one for each of the n, that are below 2**bits + 1."""
    peak = np.abs(x).max(tuple(range(1, x.ndim)), keepdims=True)  # (n, 1, ...)
    step = np.ldexp(1.0, np.frexp(peak)[1] - bits)
    return np.rint(x / step) * step


def rescale(x: NDArray[np.int64], multiplier: Any, exponent: Any) -> NDArray[np.int64]:
    """x * multiplier / 2**31 * 2**exponent, rounded twice: TFLite's MultiplyByQuantizedMultiplier.

    The doubling high product rounds half up, the shift that follows rounds half away from zero. Multiplier
    and exponent are whole numbers or int64 arrays, one a channel.
    """
    left, right = np.maximum(exponent, 0), np.maximum(np.negative(exponent), 0)
    high = ((x << left) * multiplier + (1 << 30)) >> 31
    half = (1 << right) >> 1
    return (high + half - ((high < 0) & (right > 0)).astype(np.int64)) >> right


def _convolve(operator: Convolution, source: Tensor, x: Values) -> NDArray[np.int64]:
    exact = operator.accumulator_bounds(source.q.reach).max() < EXACT_IN_FLOAT32
    dtype, zero = np.float32 if exact else np.float64, source.q.zero_point
    padded = _pad(operator, x, zero).astype(dtype) - dtype(zero)
    accumulator = _accumulate(operator, padded, operator.weights.astype(dtype))
    return rescale(accumulator.astype(np.int64) + operator.bias, *quantize_multipliers(operator.multipliers(source)))


def _convolve_floats(operator: Conv2D, x: Values) -> NDArray[np.float32]:
    depth = operator.weights[0].size  # products in a sum
    bits = (FLOAT64_BITS - depth.bit_length()) // 2  # of either factor
    padded = _pad(operator, _on_grid(x, bits), 0)
    return (_accumulate(operator, padded, _on_grid(operator.weights, bits)) + operator.bias).astype(np.float32)


def _accumulate(
    operator: Convolution, padded: NDArray[np.floating[Any]], weights: NDArray[np.floating[Any]]
) -> NDArray[np.floating[Any]]:
    """Sums of products in the type given: exact, if they are integers below 2**24 or 2**53."""
    total = np.zeros((len(padded), *_places(operator, padded), operator.output.shape[3]), padded.dtype)
    for row, column, part in _taps(operator, padded):
        if isinstance(operator, DepthwiseConv2D):
            total += part * weights[0, row, column]  # (batch, mel, frame, channels)
        else:
            total += part @ weights[:, row, column].T  # (batch, mel, frame, outputs)
    return total


def _window_sum(operator: AveragePool2D, x: Values, zero: int) -> Values:
    padded = _pad(operator, x, zero)
    total = np.zeros((len(x), *_places(operator, padded), x.shape[3]), np.int64 if x.dtype == np.int8 else x.dtype)
    for _, _, part in _taps(operator, padded):
        total += part
    return total


def _window_max(operator: MaxPool2D, x: Values, least: float) -> Values:
    """The largest value of each window, in the type of x, of which none is below `least`."""
    taps = (part for _, _, part in _taps(operator, _pad(operator, x, least)))
    most = next(taps).copy()
    for part in taps:
        np.maximum(most, part, out=most)
    return most


def _moved(operator: Crop | Repeat | Channels | Concat, arguments: list[Values]) -> Values:
    """Values that are taken, repeated or joined as they are."""
    match operator:
        case Crop():
            top, bottom, left, right = operator.crop
            return arguments[0][:, top : arguments[0].shape[1] - bottom, left : arguments[0].shape[2] - right]
        case Repeat():
            return np.tile(arguments[0], (1, *operator.times, 1))
        case Channels():
            return arguments[0][..., operator.first : operator.first + operator.output.shape[3]]
        case Concat():
            return np.concatenate(arguments, 3)


def windows(operator: Window, x: Values) -> Values:
    """What each place of an operator's window meets of real values (batch, mel, frame, channels).

    (places, batch, mel', frame', channels), row by row; padding is zero.
    """
    return np.stack([part for _, _, part in _taps(operator, _pad(operator, x, 0))])


def _pad(operator: Window, x: Values, value: float) -> Values:
    top, bottom, left, right = operator.padding
    if not any(operator.padding):
        return x
    batch, height, width, channels = x.shape
    padded = np.full((batch, top + height + bottom, left + width + right, channels), value, x.dtype)
    padded[:, top : top + height, left : left + width] = x
    return padded


def _places(operator: Window, padded: Values) -> tuple[int, int]:
    """The bands and frames that a window makes."""
    (tall, wide), (down, across) = operator.size, operator.stride
    return (padded.shape[1] - tall) // down + 1, (padded.shape[2] - wide) // across + 1


def _taps(operator: Window, padded: Values):
    """For each place in the window: what it sees, (batch, mel', frame', channels)."""
    (tall, wide), (down, across) = operator.size, operator.stride
    height, width = _places(operator, padded)
    for row in range(tall):
        for column in range(wide):
            rows = slice(row, row + (height - 1) * down + 1, down)
            columns = slice(column, column + (width - 1) * across + 1, across)
            yield row, column, padded[:, rows, columns]


def _add(operator: Add, sources: list[Tensor], arguments: list[Values]) -> NDArray[np.int64]:
    scale = 2.0 * max(tensor.q.scale for tensor in sources)
    terms = [
        rescale((x.astype(np.int64) - tensor.q.zero_point) << ADD_SHIFT, *quantize_multiplier(tensor.q.scale / scale))
        for tensor, x in zip(sources, arguments, strict=True)
    ]
    return rescale(terms[0] + terms[1], *quantize_multiplier(scale / (2**ADD_SHIFT * operator.output.q.scale)))


def _divide(total: NDArray[np.int64], count: int) -> NDArray[np.int64]:
    """Division that rounds half away from zero."""
    magnitude = (np.abs(total) + count // 2) // count
    return np.where(total > 0, magnitude, -magnitude)


def _mean(source: Quantization, output: Quantization, x: Values) -> NDArray[np.int64]:
    count = x.shape[1] * x.shape[2]
    multiplier, exponent = quantize_multiplier(source.scale / output.scale)
    shift = min(count.bit_length() - 1, 31 + exponent)  # keeps the multiplier's precision when divided
    total = x.sum((1, 2), dtype=np.int64) - count * source.zero_point  # (batch, channels)
    return rescale(total, (multiplier << shift) // count, exponent - shift)

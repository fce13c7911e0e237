"""The reference against closed forms and slow definitions, with no runtime in sight."""

import itertools
import math
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from tests.graphs import float32s, float_graph, inputs_of, integer_graphs, quantizations
from tinyscene.deploy.common.errors import InputError
from tinyscene.deploy.graph import reference
from tinyscene.deploy.graph.graph import Graph
from tinyscene.deploy.graph.operator import Window
from tinyscene.deploy.graph.operators import Add, AveragePool2D, Conv2D, DepthwiseConv2D, Kind, MaxPool2D, Mean
from tinyscene.deploy.graph.reference import (
    EXACT_IN_FLOAT32,
    quantize_multiplier,
    quantize_multipliers,
    rescale,
    run,
    run_all,
)
from tinyscene.deploy.graph.tensor import Quantization, Tensor

QUICK = settings(max_examples=100, deadline=None, derandomize=True)
SEEDS = st.integers(0, 2**16)
INT32_MAX = 2**31 - 1


def doubling_high(a: int, b: int) -> int:
    """gemmlowp's SaturatingRoundingDoublingHighMul: the high half of 2 * a * b, of int32; `/` of C truncates."""
    if a == b == -(2**31):
        return INT32_MAX
    product = a * b
    nudged = product + (2**30 if product >= 0 else 1 - 2**30)
    return nudged // 2**31 if nudged >= 0 else -(-nudged // 2**31)


def divide_by_power(x: int, exponent: int) -> int:
    """gemmlowp's RoundingDivideByPOT: x / 2**exponent, half away from zero."""
    mask = (1 << exponent) - 1
    return (x >> exponent) + int((x & mask) > (mask >> 1) + (x < 0))


def slow_rescale(x: int, multiplier: int, exponent: int) -> int:
    """TFLite's MultiplyByQuantizedMultiplier."""
    return divide_by_power(doubling_high(x * 2 ** max(exponent, 0), multiplier), max(-exponent, 0))


def half_away(value: Fraction) -> int:
    return int(math.copysign(math.floor(abs(value) + Fraction(1, 2)), value))


def tap(x: NDArray[Any], operator: Any, place: tuple[int, ...], zero: int) -> int:
    """A padded input at (row, column, channel) of the padded frame, less the zero point."""
    row, column = place[0] - operator.padding[0], place[1] - operator.padding[2]
    inside = 0 <= row < x.shape[0] and 0 <= column < x.shape[1]
    return int(x[row, column, place[2]]) - zero if inside else 0


def slow_convolution(operator: Conv2D | DepthwiseConv2D, x: NDArray[np.int8], source: Tensor) -> NDArray[np.int8]:
    """A convolution of one (mel, frame, channels) in Python's whole numbers and fractions."""
    y = np.empty(operator.output.shape[1:], np.int8)
    depthwise = isinstance(operator, DepthwiseConv2D)
    (tall, wide), (down, across), output = operator.size, operator.stride, operator.output.q
    for row, column, channel in np.ndindex(*y.shape):
        total = int(operator.bias[channel])
        for i, j, k in itertools.product(range(tall), range(wide), [channel] if depthwise else range(x.shape[2])):
            weight = operator.weights[0, i, j, channel] if depthwise else operator.weights[channel, i, j, k]
            total += int(weight) * tap(x, operator, (row * down + i, column * across + j, k), source.q.zero_point)
        scale = source.q.scale * float(operator.scales[channel]) / output.scale
        value = slow_rescale(total, *quantize_multiplier(scale)) + output.zero_point
        low, high = slow_bounds(operator)
        y[row, column, channel] = min(max(value, low), high)
    return y


def slow_bounds(operator: Conv2D | DepthwiseConv2D) -> tuple[int, int]:
    """What TFLite's kernels clamp to: the bounds over the scale in float32, rounded half away from zero."""
    output = operator.output.q
    if operator.clamp is None:
        return (output.zero_point if operator.relu else -128), 127
    low, high = (half_away(Fraction(float(np.float32(end) / np.float32(output.scale)))) for end in operator.clamp)
    return max(output.zero_point + low, -128), min(output.zero_point + high, 127)


def slow_pool(operator: AveragePool2D, x: NDArray[np.int8], source: Tensor) -> NDArray[np.int8]:
    """An average pool of one (mel, frame, channels): the mean of int8, the padding at the zero point."""
    y = np.empty(operator.output.shape[1:], np.int8)
    zero = source.q.zero_point
    for row, column, channel in np.ndindex(*y.shape):
        places = itertools.product(range(operator.window[0]), range(operator.window[1]))
        start = (row * operator.stride[0], column * operator.stride[1])
        seen = [tap(x, operator, (start[0] + i, start[1] + j, channel), zero) + zero for i, j in places]
        y[row, column, channel] = half_away(Fraction(sum(seen), len(seen)))
    return y


def slow_max_pool(operator: MaxPool2D, x: NDArray[np.int8], _source: Tensor) -> NDArray[np.int8]:
    """The largest value of a window of one (mel, frame, channels) that lies on the input."""
    y = np.empty(operator.output.shape[1:], np.int8)
    for row, column, channel in np.ndindex(*y.shape):
        top = row * operator.stride[0] - operator.padding[0]
        left = column * operator.stride[1] - operator.padding[2]
        rows, columns = (slice(max(at, 0), at + size) for at, size in zip((top, left), operator.window, strict=True))
        y[row, column, channel] = x[rows, columns, channel].max()
    return y


# Numbers


@given(st.floats(2.0**-40, 2.0**30))
@example(1 - 2.0**-53)
@example(1 - 2.0**-33)
@example(0.5)
@QUICK
def test_a_multiplier_is_the_nearest_of_31_bits(real: float) -> None:
    multiplier, exponent = quantize_multiplier(real)
    assert 2**30 <= multiplier < 2**31
    unit = Fraction(2) ** (exponent - 31)
    assert abs(Fraction(real) - multiplier * unit) <= unit / 2
    several = quantize_multipliers(np.array([0.25, real]))
    assert [each.tolist() for each in several] == [[2**30, multiplier], [-1, exponent]]


@pytest.mark.parametrize("whole", [2**30, 2**30 + 1, 2**31 - 2])
def test_a_multiplier_between_two_is_rounded_up(whole: int) -> None:
    assert quantize_multiplier((whole + 0.5) / 2**31) == (whole + 1, 0)


def test_a_multiplier_that_rounds_to_one_is_a_half_shifted() -> None:
    assert quantize_multiplier(1 - 2.0**-33) == (2**30, 1)


@given(st.integers(-INT32_MAX, INT32_MAX), st.integers(2**30, INT32_MAX), st.integers(-31, 30))
@example(2**30, 2**30, -1)
@example(-(2**30) - 1, 2**30, -1)
@example(INT32_MAX, INT32_MAX, 0)
@settings(QUICK, max_examples=1_000)
def test_rescaling_is_gemmlowps_to_the_bit(x: int, multiplier: int, exponent: int) -> None:
    x >>= max(exponent, 0)  # what a Graph allows
    assert rescale(np.array([x]), multiplier, exponent)[0] == slow_rescale(x, multiplier, exponent)


@pytest.mark.parametrize("exponent", [-16, -3, -1, 0, 3])
def test_rescaling_of_numbers_around_halves_is_gemmlowps(exponent: int) -> None:
    x = np.arange(-999, 1_000) * 2 ** max(-exponent - 2, 0)
    expected = [slow_rescale(int(each), 2**30, exponent) for each in x]
    np.testing.assert_array_equal(rescale(x, 2**30, exponent), expected)


def test_rescaling_by_channel_is_rescaling_each() -> None:
    x, pairs = np.arange(-6, 6).reshape(4, 3) * 10_000_019, [(2**30, 0), (INT32_MAX, -3), (1_500_000_001, 4)]
    together = rescale(x, *np.array(pairs).T)
    for channel, pair in enumerate(pairs):
        np.testing.assert_array_equal(together[:, channel], rescale(x[:, channel], *pair))


# Operators


@given(graph=integer_graphs(most_steps=2), seed=SEEDS)
@settings(QUICK, max_examples=40)
def test_convolutions_and_pools_are_the_naive_loops(graph: Graph, seed: int) -> None:
    tensors = run_all(graph, inputs_of(graph, seed, batch=3)[2:])
    for operator in graph.operators:
        slow: Any = {"AveragePool2D": slow_pool, "MaxPool2D": slow_max_pool}.get(operator.kind, slow_convolution)
        if isinstance(operator, Window) and operator.output.shape[3] <= 8:
            expected = slow(operator, tensors[operator.inputs[0]][0], graph.sources(operator)[0])
            np.testing.assert_array_equal(tensors[operator.output.name][0], expected, operator.label)


@pytest.mark.parametrize(
    ("values", "mean"),
    [((0, 1), 1), ((0, -1), -1), ((127, 126), 127), ((-128, -127), -128), ((3, -2), 1), ((2, -3), -1), ((0, 0), 0)],
)
def test_a_pool_rounds_halves_away_from_zero(values: tuple[int, int], mean: int) -> None:
    pool = {"window": (1, 2), "output": Tensor("pool", (1, 1, 1, 1), Quantization(1.0, 9))}
    graph = alone(Tensor("input", (1, 1, 2, 1), Quantization(1.0, 9)), AveragePool2D(inputs=("input",), **pool))
    assert run(graph, np.array(values, np.int8).reshape(1, 1, 2, 1)).item() == mean


def test_a_pool_counts_its_padding() -> None:
    pool = AveragePool2D(inputs=("input",), output=Tensor("pool", (1, 1, 1, 1)), window=(3, 3), padding=(1, 1, 1, 1))
    assert run(alone(Tensor("input", (1, 1, 1, 1)), pool), np.full((1, 1, 1, 1), 9, np.float32)).item() == 1


@given(quantizations(), quantizations(), st.booleans(), SEEDS)
@QUICK
def test_a_sum_is_the_nearest_to_the_real_one_in_either_order(
    one: Quantization, two: Quantization, relu: bool, seed: int
) -> None:
    sums = []
    x = np.random.default_rng(seed).integers(-128, 128, (2, 1, 1, 64)).astype(np.int8)
    output = Quantization(float(np.float32((one.scale + two.scale) * 0.8)), 3)
    for first, second, inputs in ((one, two, x), (two, one, x[::-1])):
        add = Add(inputs=("first", "second"), output=Tensor("sum", (1, 1, 1, 64), output), relu=relu)
        sources = [Tensor("first", (1, 1, 1, 64), first), Tensor("second", (1, 1, 1, 64), second)]
        add.check_integers(*sources)
        sums.append(reference.run_integer(add, sources, list(inputs[:, None])).astype(int))
    real = (one.dequantize(x[0]).astype(float) + two.dequantize(x[1])) / output.scale + output.zero_point
    assert np.abs(sums[0] - np.clip(real, 3 if relu else -128, 127)).max() <= 0.51
    np.testing.assert_array_equal(sums[0], sums[1])


@given(st.integers(1, 40), st.integers(1, 40), float32s(2.0**-6, 2.0**4), st.sampled_from([-128, 0, 127]), SEEDS)
@QUICK
def test_a_mean_is_within_a_step_of_the_real_one(mel: int, frame: int, scale: float, zero: int, seed: int) -> None:
    source = Tensor("input", (1, mel, frame, 5), Quantization(scale, 100))
    mean = Tensor("mean", (1, 5), Quantization(float(np.float32(0.3)), zero))
    graph = alone(source, Mean(inputs=("input",), output=mean))
    x = inputs_of(graph, seed)
    real = source.q.dequantize(x).astype(float).mean((1, 2)) / mean.q.scale + zero
    assert np.abs(run(graph, x) - np.clip(real, -128, 127)).max() <= 0.76  # rounded to halves, then to wholes


@pytest.mark.parametrize(("bias", "dtype"), [(-1, np.float32), (0, np.float64)])
def test_accumulation_is_exact_on_either_side_of_float32s_bound(
    bias: int, dtype: type, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen, accumulate = [], reference._accumulate
    monkeypatch.setattr(reference, "_accumulate", lambda *args: seen.append(args[1].dtype) or accumulate(*args))
    weights = np.full((1, 1, 1, 518), 127, np.int8)  # 518 * 127 * 255 is just below 2**24
    rest = EXACT_IN_FLOAT32 - 518 * 127 * 255 + bias
    scales = {"weight_scales": np.ones(1, np.float32), "bias": np.array([-rest], np.int32)}
    output = Tensor("output", (1, 1, 1, 1), Quantization(2.0, 0))
    operator = Conv2D(inputs=("input",), output=output, weights=weights, **scales)
    x = np.full((1, 1, 1, 518), 127, np.int8)
    x[..., 0] = 126  # an odd sum
    source = Tensor("input", (1, 1, 1, 518), Quantization(1.0, -128))
    alone(source, operator)
    total = reference._convolve(operator, source, x).item()
    assert (total, seen) == (half_away(Fraction(518 * 127 * 255 - 127 - rest, 2)), [dtype])


# Floats


@pytest.mark.parametrize("channels", [1, 7, 300, 3000])
def test_a_float_convolution_does_not_depend_on_the_order_of_its_inputs(channels: int) -> None:
    rng = np.random.default_rng(channels)
    x = rng.normal(0, 1, (2, 3, 5, channels)).astype(np.float32) * 10.0 ** rng.integers(-6, 6, channels)
    weights = rng.normal(0, 1, (4, 1, 1, channels)).astype(np.float32)

    def run_in(order: NDArray[np.int64]) -> NDArray[np.float32]:
        operator = Conv2D(
            inputs=("x",),
            output=Tensor("y", (1, 3, 5, 4)),
            weights=weights[..., order],
            bias=np.ones(4, np.float32),
        )
        return run(Graph(Tensor("x", (1, 3, 5, channels)), (operator,)), x[..., order].astype(np.float32))

    for _ in range(5):
        np.testing.assert_array_equal(run_in(rng.permutation(channels)), run_in(np.arange(channels)))


def test_a_float_mean_does_not_depend_on_the_order_of_its_values() -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(0, 1, (2, 40 * 30, 3)).astype(np.float32) * np.float32(10.0) ** rng.integers(-6, 6, (1200, 1))
    mean = Mean(inputs=("x",), output=Tensor("y", (1, 3)))
    graph = Graph(Tensor("x", (1, 40, 30, 3)), (mean,))
    first, second = (
        run(graph, x[:, order].reshape(2, 40, 30, 3).astype(np.float32))
        for order in (np.arange(1200), rng.permutation(1200))
    )
    np.testing.assert_array_equal(first, second)


# Graphs


@given(graph=integer_graphs(), seed=SEEDS)
@settings(QUICK, max_examples=20)
def test_a_batch_is_its_clips_one_by_one(graph: Graph, seed: int) -> None:
    x = inputs_of(graph, seed)
    np.testing.assert_array_equal(run(graph, x), np.concatenate([run(graph, each[None]) for each in x]))


@given(graph=integer_graphs(), seed=SEEDS)
@settings(QUICK, max_examples=20)
def test_every_tensor_is_held_in_order_and_in_its_shape(graph: Graph, seed: int) -> None:
    x = inputs_of(graph, seed)
    tensors = run_all(graph, x)
    assert [(name, each.shape[1:], each.dtype.name) for name, each in tensors.items()] == [
        (name, tensor.shape[1:], "int8") for name, tensor in graph.tensors.items()
    ]
    np.testing.assert_array_equal(tensors[graph.output.name], run(graph, x))


def test_floats_stay_float32() -> None:
    graph = float_graph(0)
    assert {each.dtype for each in run_all(graph, inputs_of(graph, 0)).values()} == {np.dtype(np.float32)}


@pytest.mark.parametrize(
    ("dtype", "shape"),
    [
        ("float32", (2, 3, 4, 5)),
        ("uint8", (2, 3, 4, 5)),
        ("int8", (2, 3, 4)),
        ("int8", (3, 4, 5)),
        ("int8", (2, 4, 3, 5)),
    ],
)
def test_features_of_another_type_or_shape_are_refused(dtype: str, shape: tuple[int, ...]) -> None:
    mean = Mean(inputs=("input",), output=Tensor("mean", (1, 5), Quantization(1.0, 0)))
    graph = alone(Tensor("input", (1, 3, 4, 5), Quantization(1.0, 0)), mean)
    with pytest.raises(InputError, match=r"needed are int8, \(batch, 3 x 4 x 5\)") as refused:
        run(graph, np.zeros(shape, dtype))
    assert "\n" not in str(refused.value)


def alone(source: Tensor, operator: Kind) -> Graph:
    return Graph(source, (operator,))

"""Calibration against closed forms, bias correction on networks, integers by exact fractions."""

from dataclasses import replace
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from tests.graphs import conv, float_graph, inputs_of
from tests.train.test_fake_quantize import extremes, nchw
from tinyscene.deploy.graph.graph import Graph
from tinyscene.deploy.graph.operator import Convolution
from tinyscene.deploy.graph.operators import AveragePool2D, Crop
from tinyscene.deploy.graph.reference import run
from tinyscene.deploy.graph.tensor import Quantization
from tinyscene.deploy.graph.tensor import Tensor as Activation
from tinyscene.train.quantize.calibrate import Ranges, calibrate, to_integers
from tinyscene.train.quantize.correct import correct
from tinyscene.train.quantize.fake_quantize import FakeQuantGraph
from tinyscene.train.training_settings import Quantize

MILLION = 1_000_000
SIDE = 1000  # SIDE * SIDE values a batch
SEEDS = range(8)


def ranges_of(values: NDArray[np.float64], **settings: Any) -> tuple[float, float]:
    """The calibrated range of these million values, half of them in each of two batches."""
    half = Activation("x", (1, SIDE // 2, SIDE, 1))
    graph = Graph(half, (AveragePool2D(inputs=("x",), output=replace(half, name="y"), window=(1, 1)),))
    batches = list(values.astype(np.float32).reshape(2, *half.shape))
    return calibrate(graph, batches, Quantize(**settings))["y"]


UNIFORM = np.random.default_rng(0).uniform(-3, 5, MILLION)


@pytest.mark.parametrize("calibration", ["minmax", "percentile", "mse"])
def test_the_range_of_uniform_values_is_all_of_it(calibration: str) -> None:
    assert ranges_of(UNIFORM, calibration=calibration) == pytest.approx((-3, 5), abs=8 / 1000)


def test_minmax_is_the_extremes_of_all_batches() -> None:
    values = UNIFORM.copy()
    values[[0, -1]] = -40, 70
    assert ranges_of(values, calibration="minmax") == (-40, 70)


@pytest.mark.parametrize(("percentile", "expected"), [(99.0, (-2.92, 4.92)), (90.0, (-2.2, 4.2)), (100.0, (-3, 5))])
def test_percentiles_leave_out_that_share_at_each_end(percentile: float, expected: tuple[float, float]) -> None:
    found = ranges_of(np.sort(UNIFORM), calibration="percentile", percentile=percentile)  # the batches differ
    assert found == pytest.approx(expected, abs=0.01)


@pytest.mark.parametrize("outlier", [-20.0, 20.0])
def test_a_percentile_leaves_out_one_outlier_in_a_million(outlier: float) -> None:
    values = UNIFORM.copy()
    values[MILLION // 3] = outlier
    assert ranges_of(values, calibration="percentile") == pytest.approx((-3, 5), abs=0.02)


@pytest.mark.parametrize(("name", "share"), [("laplace", 9.89), ("normal", 3.92)])
def test_the_range_of_least_error_is_the_published_one(name: str, share: float) -> None:
    # R. Banner et al., "Post training 4-bit quantization of convolutional networks", NeurIPS 2019: 8 bits clip there
    values = getattr(np.random.default_rng(0), name)(0, 1, MILLION)
    low, high = ranges_of(values, calibration="mse")
    assert (-low, high) == pytest.approx((share, share), rel=0.08)
    assert high < 0.9 * values.max()


def test_a_range_contains_zero() -> None:
    for calibration in ("minmax", "percentile", "mse"):
        assert ranges_of(UNIFORM + 10, calibration=calibration)[0] == 0
        low, high = ranges_of(UNIFORM - 10, calibration=calibration)
        assert low < -12.9
        assert 0 <= high < 1e-3


@pytest.mark.parametrize("calibration", ["minmax", "percentile", "mse"])
def test_a_tensor_of_zeros_has_a_usable_scale(calibration: Any) -> None:
    dead = conv("x", "y", [[0.5]], [-50.0], relu=True)
    graph = Graph(Activation("x", (1, 4, 4, 1)), (dead, conv("y", "z", [[0.5]], [0.3])))
    features = inputs_of(graph, 0)
    integer = to_integers(graph, calibrate(graph, [features], Quantize(calibration=calibration)))
    logits = integer.output.q.dequantize(run(integer, integer.input.q.quantize(features)))
    np.testing.assert_allclose(logits, 0.3, atol=0.01)


# Bias correction


def means(graph: Graph, features: NDArray[np.float32], ranges: Ranges | None = None) -> list[NDArray[np.float32]]:
    """Channel means of each convolution before its activation, by torch; with ranges, those of the rounded graph."""
    module = FakeQuantGraph(graph)
    module.round_in(ranges or {})
    values = dict(module.tensors(nchw(features)))
    return [
        module.apply_operator(each, [values[name] for name in each.inputs]).mean((0, 2, 3)).detach().numpy()
        for each in graph.operators
        if isinstance(each, Convolution)
    ]


def clipped(ranges: Ranges) -> Ranges:
    """A third of the ranges: so much is lost that the means move."""
    return {name: (low / 3, high / 3) for name, (low, high) in ranges.items()}


@pytest.mark.parametrize("seed", SEEDS)
def test_corrected_biases_bring_the_means_back(seed: int) -> None:
    graph = float_graph(seed)
    features = inputs_of(graph, seed)
    ranges = clipped(extremes(graph, features))
    corrected, _ = correct(graph, ranges, [features[:2], features[2:]], rounding=False)
    wanted = means(graph, features)
    before, after = (
        [np.abs(each - want).max() for each, want in zip(means(rounded, features, ranges), wanted, strict=True)]
        for rounded in (graph, corrected)
    )
    assert min(before) > 1e-3
    assert (np.array(after) < 0.01 * np.array(before)).all()


def test_correction_changes_biases_only() -> None:
    graph = float_graph(0)
    features = inputs_of(graph, 0)
    corrected, _ = correct(graph, extremes(graph, features), [features], rounding=False)
    assert corrected.tensors.keys() == graph.tensors.keys()
    for was, now in zip(graph.operators, corrected.operators, strict=True):
        if isinstance(was, Convolution):
            assert isinstance(now, Convolution)
            np.testing.assert_array_equal(now.weights, was.weights)
            assert (now.bias != was.bias).any()


# Integers


def finite(low: float, high: float) -> st.SearchStrategy[float]:
    return st.floats(low, high, width=32)


@settings(max_examples=200, deadline=None, derandomize=True)
@given(
    ends=st.tuples(finite(-100, 0), finite(2**-4, 100)),
    weights=st.lists(st.tuples(finite(-4, 4), finite(-4, 4)), min_size=1, max_size=4),
    bias=finite(-10, 10),
)
def test_integers_follow_the_formulas_of_tflite(
    ends: tuple[float, float], weights: list[tuple[float, float]], bias: float
) -> None:
    weights = [(a, b if abs(b) > 0.01 else 1.0) for a, b in weights]  # a channel of zeros is a test of its own
    graph = Graph(Activation("x", (1, 4, 4, 2)), (conv("x", "y", weights, [bias] * len(weights)),))
    integer = to_integers(graph, {"x": ends, "y": (-ends[1], -ends[0] + 1)})
    low, high = (Fraction(each) for each in ends)
    q, operator = integer.input.q, integer.operators[0]
    assert isinstance(operator, Convolution)
    scale = Fraction(q.scale)
    assert abs(scale / ((high - low) / 255) - 1) <= Fraction(1001, 1000) / 2**24  # the nearest float32
    assert abs(q.zero_point - (-128 - low / scale)) <= Fraction(1, 2)
    assert q.quantize(np.zeros(1)).tolist() == [q.zero_point]
    for row, integers, bias_integer, each in zip(
        weights, operator.weights[:, 0, 0].tolist(), operator.bias.tolist(), operator.scales.tolist(), strict=True
    ):
        step = Fraction(each)
        assert abs(step / (Fraction(max(map(abs, row))) / 127) - 1) <= Fraction(1001, 1000) / 2**24
        assert max(map(abs, integers)) == 127
        for real, whole in zip(row, integers, strict=True):
            assert abs(Fraction(real) / step - whole) <= Fraction(1, 2) + Fraction(1, 2**16)
        assert abs(Fraction(bias) / (scale * step) - bias_integer) <= Fraction(1, 2) + abs(bias_integer) / 2**50


def test_a_pool_shares_its_inputs_quantization() -> None:
    graph = float_graph(0)
    integer = to_integers(graph, extremes(graph, inputs_of(graph, 0)))
    pools = [each for each in integer.operators if isinstance(each, AveragePool2D)]
    assert pools
    assert all(each.output.quantization == integer.tensors[each.inputs[0]].quantization for each in pools)


def test_a_crop_shares_its_inputs_quantization_however_little_it_keeps() -> None:
    crop = Crop(inputs=("y",), output=Activation("z", (1, 1, 1, 2)), crop=(3, 0, 3, 0))
    graph = Graph(Activation("x", (1, 4, 4, 1)), (conv("x", "y", [[1], [-2]], [0, 0]), crop))
    features = np.arange(16, dtype=np.float32).reshape(1, 4, 4, 1)
    integer = to_integers(graph, calibrate(graph, [features], Quantize(calibration="minmax")))
    assert integer.output.q == integer.tensors["y"].q == Quantization(float(np.float32(45 / 255)), 42)


@pytest.mark.parametrize("weight", [0.0, 1e-9, 1e-6])
def test_a_channel_almost_without_weights_keeps_its_bias(weight: float) -> None:
    graph = Graph(Activation("x", (1, 4, 4, 1)), (conv("x", "y", [[0.5], [weight]], [0.0, 1.0]),))
    features = np.clip(inputs_of(graph, 0), -1, 1)
    integer = to_integers(graph, {"x": (-1.0, 1.0), "y": (-0.5, 1.0)})
    made = integer.output.q.dequantize(run(integer, integer.input.q.quantize(features)))
    np.testing.assert_allclose(made[..., 1], 1.0, atol=0.01)


def test_a_channel_of_zeros_is_no_reason_to_refuse_a_wide_output() -> None:
    graph = Graph(Activation("x", (1, 4, 4, 1)), (conv("x", "y", [[50.0], [0.0]], [0.0, 0.0]),))
    integer = to_integers(graph, {"x": (-1.0, 1.0), "y": (-50.0, 50.0)})
    made = run(integer, integer.input.q.quantize(inputs_of(graph, 0)))
    assert (made[..., 1] == integer.output.q.zero_point).all()

"""Weights rounded for the least error of the output, against brute force and rounding to nearest; warnings."""

from dataclasses import replace
from itertools import product

import numpy as np
import pytest
from numpy.typing import NDArray

from tests.graphs import float_graph, inputs_of
from tests.train.test_fake_quantize import extremes
from tinyscene.deploy.graph.operator import Convolution
from tinyscene.train.data.cache import Clips
from tinyscene.train.data.datasets import Dataset
from tinyscene.train.data.training_data import TrainingData
from tinyscene.train.quantize.calibrate import to_integers
from tinyscene.train.quantize.clips import FEW, warnings
from tinyscene.train.quantize.correct import correct
from tinyscene.train.quantize.rounding import STRETCHES, round_weights
from tinyscene.train.runs.recording_devices import part_of

Float64 = NDArray[np.float64]
OUTPUTS, WEIGHTS = 40, 4
SPLIT = "100"


def problem(correlation: float) -> tuple[Float64, Float64, Float64]:
    """Weights (1, outputs, weights), covariance of inputs that have this correlation, and steps."""
    rng = np.random.default_rng(0)
    weights = rng.normal(0, 1, (1, OUTPUTS, WEIGHTS))
    covariance = np.full((1, WEIGHTS, WEIGHTS), correlation) + (1 - correlation) * np.eye(WEIGHTS)
    return weights, covariance, np.abs(weights).max(2) / 127


def variance(error: Float64, covariance: Float64) -> Float64:
    return np.einsum("goi,gij,goj->go", error, covariance, error)


def nearest(weights: Float64, scales: Float64) -> Float64:
    return np.rint(weights / scales[..., None]) * scales[..., None]


@pytest.mark.parametrize("correlation", [0.0, 0.9, 0.999])
def test_the_error_is_nearly_the_least_there_is(correlation: float) -> None:
    weights, covariance, scales = problem(correlation)
    integers, steps = round_weights(weights, covariance, scales)
    found = variance(integers * steps[..., None] - weights, covariance)
    least = np.full(found.shape, np.inf)
    for stretch in STRETCHES:
        tried = scales[..., None] * stretch
        for offset in product((-1, 0, 1, 2), repeat=WEIGHTS):
            error = np.clip(np.floor(weights / tried) + offset, -127, 127) * tried - weights
            least = np.minimum(least, variance(error, covariance))
    assert (found >= 0.99 * least).all()
    assert found.mean() < 1.1 * least.mean()


def test_correlated_inputs_have_a_fraction_of_the_error_of_rounding_to_nearest() -> None:
    weights, covariance, scales = problem(0.999)
    integers, steps = round_weights(weights, covariance, scales)
    found = variance(integers * steps[..., None] - weights, covariance)
    assert found.mean() < 0.1 * variance(nearest(weights, scales) - weights, covariance).mean()


def test_integers_and_scales_are_those_of_int8() -> None:
    weights, covariance, scales = problem(0.9)
    integers, steps = round_weights(weights, covariance, scales)
    assert (integers == np.rint(integers)).all()
    assert np.abs(integers).max() <= 127
    assert (steps >= scales).all()


def test_inputs_that_never_change_leave_weights_nearly_as_they_are() -> None:
    weights, _, scales = problem(0.0)
    integers, steps = round_weights(weights, np.zeros((1, WEIGHTS, WEIGHTS)), scales)
    assert np.abs(integers * steps[..., None] - weights).max() <= steps.max()


@pytest.mark.parametrize("seed", range(4))
def test_the_integer_graph_has_the_rounded_weights(seed: int) -> None:
    graph = float_graph(seed)
    features = inputs_of(graph, seed)
    ranges = extremes(graph, features)
    corrected, scales = correct(graph, ranges, [features], rounding=True)
    integer = to_integers(corrected, ranges, scales)
    convolutions = [each for each in corrected.operators if isinstance(each, Convolution)]
    assert scales.keys() == {each.output.name for each in convolutions}
    for each, whole in zip(corrected.operators, integer.operators, strict=True):
        if isinstance(each, Convolution) and isinstance(whole, Convolution):
            np.testing.assert_array_equal(each.weights, whole.weights * whole.along_channels(whole.scales))


# Calibration clips


@pytest.fixture
def data(sample_dataset: Dataset, sample_clips: Clips) -> TrainingData:
    return TrainingData(sample_dataset, sample_clips, SPLIT)


@pytest.mark.parametrize(("count", "lines"), [(FEW, 0), (FEW - 1, 1)])
def test_few_clips_are_a_warning(count: int, lines: int, data: TrainingData) -> None:
    assert len(warnings(data, count)) == lines


def test_one_recording_device_of_several_is_a_warning(data: TrainingData) -> None:
    (line,) = warnings(replace(data, dataset=part_of(data.dataset, SPLIT, "a")), FEW)
    assert "device a" in line

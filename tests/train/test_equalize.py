"""Equalization: the same function, with the channels of tensors as the closed form says."""

from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray

from tests.graphs import conv, depthwise, float_graph, inputs_of
from tests.train.test_fake_quantize import lowered
from tinyscene.deploy.graph.graph import Graph
from tinyscene.deploy.graph.operator import Convolution
from tinyscene.deploy.graph.operators import Add, AveragePool2D, Crop, DepthwiseConv2D, Kind, Mean
from tinyscene.deploy.graph.reference import run, run_all
from tinyscene.deploy.graph.tensor import Tensor
from tinyscene.train.quantize.equalize import equalize

Float32 = NDArray[np.float32]
SEEDS = range(8)
INPUT = Tensor("x", (1, 4, 4, 1))
SPREAD = ([[1.0], [0.1]], [0.0, 0.0])  # weights and biases of a second channel that reaches a tenth as far


@pytest.fixture(params=["nano", *SEEDS])
def network(request: pytest.FixtureRequest) -> tuple[Graph, Float32]:
    """A recipe's network or a random one, and features for it."""
    graph = lowered("nano") if request.param == "nano" else float_graph(request.param)
    return graph, inputs_of(graph, 0)


def before_and_after(graph: Graph, features: Float32) -> list[dict[str, Float32]]:
    """Every tensor of a graph and of the same equalized, in batches of one clip."""
    return [run_all(each, features) for each in (graph, equalize(graph, list(features[:, None])))]


def reach(values: Float32) -> Float32:
    """The largest magnitude of each channel."""
    return np.abs(values).max(tuple(range(values.ndim - 1)))


def test_an_equalized_network_is_the_same_function(network: tuple[Graph, Float32]) -> None:
    graph, features = network
    equalized = run(equalize(graph, [features]), features)
    expected = run(graph, features)
    np.testing.assert_allclose(equalized, expected, rtol=0, atol=1e-4 * max(1.0, float(np.abs(expected).max())))


def test_channels_that_depthwise_convolutions_alone_read_reach_equally_far(network: tuple[Graph, Float32]) -> None:
    graph, features = network
    before, after = before_and_after(graph, features)
    readers = {name: [each for each in graph.operators if name in each.inputs] for name in graph.tensors}
    makers = {each.output.name: each for each in graph.operators}
    names = [
        name
        for name, operators in readers.items()
        if operators and all(isinstance(each, DepthwiseConv2D) for each in operators)
        if isinstance(makers.get(name), Convolution) and getattr(makers[name], "relu", False)
    ]
    assert names
    for name in names:
        was, now = reach(before[name]), reach(after[name])
        alive = was > 1.1e-3 * was.max()
        np.testing.assert_allclose(now[alive], was.max(), rtol=1e-3)


def test_no_tensor_reaches_further_than_before(network: tuple[Graph, Float32]) -> None:
    before, after = before_and_after(*network)
    for name, values in before.items():
        lowest, highest = min(float(values.min()), 0.0), max(float(values.max()), 0.0)
        room = 1e-4 * max(1.0, highest - lowest)
        assert lowest - room <= after[name].min()
        assert after[name].max() <= highest + room


def test_what_a_convolution_mixes_is_divided_by_its_share_to_the_three_quarters() -> None:
    graph = Graph(INPUT, (conv("x", "y", *SPREAD, relu=True), conv("y", "z", [[1, 1]], [0])))
    before, after = before_and_after(graph, np.abs(inputs_of(graph, 0)))
    np.testing.assert_allclose(after["y"], before["y"] / np.array([1, 0.1**0.75]), rtol=1e-5)


def test_tensors_that_an_addition_a_pool_or_a_crop_joins_have_the_same_factors() -> None:
    operators: tuple[Kind, ...] = (
        conv("x", "first", [[1.0], [0.1], [0.5]], [0, 0, 0], relu=True),
        conv("x", "second", [[0.3], [0.1], [0.01]], [0, 0, 0]),
        Add(inputs=("first", "second"), output=Tensor("sum", (1, 4, 4, 3)), relu=True),
        AveragePool2D(inputs=("sum",), output=Tensor("pool", (1, 2, 2, 3)), window=(2, 2), stride=(2, 2)),
        Crop(inputs=("pool",), output=Tensor("cut", (1, 1, 2, 3)), crop=(0, 1, 0, 0)),
        replace(conv("cut", "z", [[1, 1, 1]], [0], size=2), output=Tensor("z", (1, 1, 2, 1))),
    )
    before, after = before_and_after(Graph(INPUT, operators), np.abs(inputs_of(Graph(INPUT, operators), 0)))
    factors = [reach(before[name]) / reach(after[name]) for name in ("first", "second", "sum", "pool", "cut")]
    np.testing.assert_allclose(factors, np.tile(factors[0], (5, 1)), rtol=1e-5)
    # Of the largest channel, the three reach (1, .1, .5), (1, 1/3, 1/30) and (1, 2/13, 51/130)
    np.testing.assert_allclose(factors[0], np.array([1, 1 / 3, 0.5]) ** 0.75, rtol=1e-5)


@pytest.mark.parametrize(
    "chain",
    [
        (conv("x", "y", *SPREAD),),
        (conv("x", "y", *SPREAD, relu=True), Mean(inputs=("y",), output=Tensor("z", (1, 2)))),
        (
            conv("x", "y", *SPREAD, relu=True),
            depthwise("y", "z", [1, 1]),
            Add(inputs=("y", "z"), output=Tensor("w", (1, 4, 4, 2))),
        ),
    ],
    ids=["output", "mean", "joined to the output"],
)
def test_what_cannot_be_scaled_is_left_alone(chain: tuple[Kind, ...]) -> None:
    graph = Graph(INPUT, chain)
    equalized = equalize(graph, [inputs_of(graph, 0)])
    for was, now in zip(graph.operators, equalized.operators, strict=True):
        if isinstance(was, Convolution) and isinstance(now, Convolution):
            np.testing.assert_array_equal(now.weights, was.weights)
            np.testing.assert_array_equal(now.bias, was.bias)


@pytest.mark.parametrize("bias", [[0.0, -50.0], [-50.0, -50.0]])
def test_dead_channels_are_equalized_too(bias: list[float]) -> None:
    chain = (conv("x", "y", [[1.0], [0.1]], bias, relu=True), depthwise("y", "z", [1, -2]))
    graph = Graph(INPUT, chain)
    features = inputs_of(graph, 0)
    equalized = equalize(graph, [features])
    np.testing.assert_allclose(run(equalized, features), run(graph, features), atol=1e-5)

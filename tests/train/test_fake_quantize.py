"""The float graph in torch: the reference's function, the integers' rounding, and gradients in closed form."""

import copy
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import Tensor

from tests.graphs import float_graph, inputs_of
from tests.train.test_lower import SMALL, trained
from tinyscene.deploy.graph.graph import Graph
from tinyscene.deploy.graph.operator import Convolution
from tinyscene.deploy.graph.operators import AveragePool2D, Conv2D, DepthwiseConv2D
from tinyscene.deploy.graph.reference import run, run_all, run_float, run_integer
from tinyscene.deploy.graph.tensor import Tensor as Activation
from tinyscene.train.models import build
from tinyscene.train.quantize.calibrate import Ranges, to_integers
from tinyscene.train.quantize.fake_quantize import FakeQuantGraph, FakeQuantize
from tinyscene.train.quantize.lower import lower
from tinyscene.train.recipe import load_recipe, recipe_names

SEEDS = range(12)
EQUAL = {
    "Mean": 0.7
}  # share of values that are equal; of others 0.98. TFLite's MEAN rounds twice, first to 1/8 LSB here
LSB_OF_LOGITS = 2


def nchw(values: NDArray[Any]) -> Tensor:
    return torch.tensor(values.transpose(0, 3, 1, 2) if values.ndim == 4 else values)


def nhwc(values: Tensor) -> NDArray[np.float32]:
    values = values.detach()
    return values.permute(0, 2, 3, 1).numpy() if values.ndim == 4 else values.numpy()


def lowered(name: str) -> Graph:
    recipe = load_recipe(name)
    shape = SMALL if recipe.features.edges == "reflect" else (SMALL[0], recipe.features.frames)
    return lower(trained(build(recipe.model, 10)), shape)


def extremes(graph: Graph, features: NDArray[np.float32]) -> Ranges:
    """What the reference makes of these features lies in these ranges."""
    found = {name: (float(each.min()), float(each.max())) for name, each in run_all(graph, features).items()}
    return {name: (min(low, 0.0), max(high, 0.0)) for name, (low, high) in found.items()}


def rounded(graph: Graph, features: NDArray[np.float32]) -> FakeQuantGraph:
    module = FakeQuantGraph(graph)
    module.round_in(extremes(graph, features))
    return module


def small() -> tuple[Graph, NDArray[np.float32]]:
    graph = float_graph(0, blocks=1)
    return graph, inputs_of(graph, 0)


def step(module: FakeQuantGraph, features: NDArray[np.float32]) -> None:
    """One step of training that moves everything."""
    optimizer = torch.optim.SGD(module.parameters(), lr=0.1)
    module(nchw(features)).square().sum().backward()
    optimizer.step()


def assert_same_tensors(graph: Graph, features: NDArray[np.float32]) -> None:
    expected = run_all(graph, features)
    actual = {name: nhwc(values) for name, values in FakeQuantGraph(graph).tensors(nchw(features))}
    assert list(actual) == list(expected)
    for name, values in expected.items():
        np.testing.assert_allclose(actual[name], values, rtol=0, atol=1e-4 * max(1.0, float(np.abs(values).max())))


@pytest.mark.parametrize("name", recipe_names("cp_mobile"))
def test_every_tensor_of_a_recipe_is_the_references(name: str) -> None:
    graph = lowered(name)
    assert_same_tensors(graph, inputs_of(graph, 1, batch=2))


@pytest.mark.parametrize("seed", SEEDS)
def test_every_tensor_of_a_random_graph_is_the_references(seed: int) -> None:
    graph = float_graph(seed)
    assert_same_tensors(graph, inputs_of(graph, seed))


@pytest.mark.parametrize("seed", SEEDS)
def test_a_rounded_operator_is_at_most_one_lsb_from_the_integer_one(seed: int) -> None:
    graph = float_graph(seed)
    features = inputs_of(graph, seed)
    module = rounded(graph, features)
    integer = to_integers(module.graph(), module.ranges())
    values = dict(module.tensors(nchw(features)))
    for operator in integer.operators:
        arguments = [each.q.quantize(nhwc(values[each.name])) for each in integer.sources(operator)]
        made = run_integer(operator, integer.sources(operator), arguments).astype(int)
        difference = np.abs(made - operator.output.q.quantize(nhwc(values[operator.output.name])))
        assert difference.max() <= 1, operator.label
        assert (difference == 0).mean() > EQUAL.get(operator.kind, 0.98), operator.label


@pytest.mark.parametrize("name", ["nano", "baseline"])
def test_rounded_logits_are_a_few_lsb_from_those_of_the_integer_graph(name: str) -> None:
    graph = lowered(name)
    features = inputs_of(graph, 1)
    module = rounded(graph, features)
    integer = to_integers(module.graph(), module.ranges())
    made = run(integer, integer.input.q.quantize(features)).astype(int)
    difference = np.abs(made - integer.output.q.quantize(nhwc(module(nchw(features)))))
    assert difference.max() <= LSB_OF_LOGITS
    assert difference.mean() < 1


@pytest.mark.parametrize("seed", SEEDS)
def test_a_rounded_tensor_holds_nothing_between_its_256_values(seed: int) -> None:
    graph = float_graph(seed)
    module = rounded(graph, inputs_of(graph, seed))
    integer = to_integers(module.graph(), module.ranges())
    for name, values in module.tensors(nchw(inputs_of(graph, seed + 1))):
        q = integer.tensors[name].q
        steps = nhwc(values) / q.scale + q.zero_point
        np.testing.assert_allclose(steps, np.rint(steps), atol=1e-2)
        assert -128.01 < steps.min() <= steps.max() < 127.01


def pointwise(kind: type[Conv2D | DepthwiseConv2D], weights: NDArray[Any]) -> Conv2D | DepthwiseConv2D:
    outputs = weights.shape[kind.channel_axis]
    output, bias = Activation("y", (1, 1, 1, outputs)), np.zeros(outputs, np.float32)
    return kind(inputs=("x",), output=output, weights=weights.astype(np.float32), bias=bias)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    kind=st.sampled_from([Conv2D, DepthwiseConv2D]),
    style=st.sampled_from(["normal", "halves", "tiny", "one channel of zeros"]),
    channels=st.integers(1, 8),
    seed=st.integers(0, 2**16),
)
def test_weights_are_rounded_to_those_of_the_integer_graph_exactly(
    kind: type[Conv2D | DepthwiseConv2D], style: str, channels: int, seed: int
) -> None:
    depthwise = kind is DepthwiseConv2D
    weights = np.random.default_rng(seed).normal(0, 1, (1 if depthwise else 5, 1, 1, channels))
    if style == "halves":  # which lie between two values
        weights = np.rint(weights * 40) / 2
        weights[..., 0] = 127 / 2
    elif style == "tiny":
        weights *= 1e-4
    elif style == "one channel of zeros":
        weights[-1 if kind is Conv2D else slice(None), ..., -1] = 0
    operator = pointwise(kind, weights)
    graph = Graph(Activation("x", (1, 1, 1, channels)), (operator,))
    module = FakeQuantGraph(graph)
    module.round_in({"x": (-1.0, 1.0), "y": (-1e-3, 1e-3)})
    integer = to_integers(graph, module.ranges()).operators[0]
    assert isinstance(integer, Convolution)
    along = integer.scales if depthwise else integer.scales[:, None, None, None]
    expected = (integer.weights * along).reshape(len(integer.scales), -1)  # (outputs, inputs or 1)
    ones = torch.ones(1, channels) if depthwise else torch.eye(channels)
    seen = module.apply_operator(operator, [ones[..., None, None]])[..., 0, 0]
    np.testing.assert_array_equal(seen.detach().numpy().T, expected)


# Gradients: of a range from -1.28 to 1.27, whose scale is 0.01 and zero point 0


def test_the_gradient_of_a_rounded_value_is_one_inside_its_range_and_zero_outside() -> None:
    x = torch.linspace(-2.0, 2.0, 4001, requires_grad=True)
    FakeQuantize(-1.28, 1.27)(x).sum().backward()
    values = x.detach()
    assert x.grad is not None
    assert (x.grad[(values > -1.28) & (values < 1.27)] == 1).all()
    assert (x.grad[(values < -1.29) | (values > 1.28)] == 0).all()


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (5.0, (0.0, 1.27)),  # clipped to the upper end, which is the end times the exponential of its stretch
        (-5.0, (-1.28, 0.0)),
        (0.003, (-1.28 * 0.3 / 255, -1.27 * 0.3 / 255)),  # rounded down by 0.3 of a step of (high - low) / 255
        (0.5074, (-1.28 * -0.26 / 255, 1.27 * 0.26 / 255)),
    ],
)
def test_the_ends_of_a_range_learn_from_what_is_clipped_and_rounded(
    value: float, expected: tuple[float, float]
) -> None:
    rounding = FakeQuantize(-1.28, 1.27)
    rounding(torch.tensor([value])).sum().backward()
    assert rounding.stretch.grad is not None
    assert rounding.stretch.grad.tolist() == pytest.approx(expected, abs=2e-5)


def test_the_gradient_of_rounded_weights_is_that_of_exact_ones() -> None:
    graph, features = small()
    operator = graph.operators[0]
    assert isinstance(operator, Conv2D)
    module = rounded(graph, features)
    module.apply_operator(operator, [nchw(features)]).sum().backward()
    gradient = next(iter(module.weights.values())).grad
    assert gradient is not None
    for row, column in ((0, 0), (1, 2)):  # of a sum of products by a weight: the sum of what it is multiplied by
        probe = np.zeros_like(operator.weights)
        probe[:, row, column, 0] = 1
        single = replace(operator, weights=probe, bias=np.zeros_like(operator.bias), relu=False)
        expected = run_float(single, [graph.input], [features]).sum((0, 1, 2))
        np.testing.assert_allclose(gradient[:, 0, row, column].numpy(), expected, rtol=1e-3, atol=1e-3)


# What is trained is the graph


def test_training_reaches_every_weight_bias_and_range() -> None:
    graph, features = small()
    module = rounded(graph, features)
    step(module, 1.5 * features)
    still = [name for name, each in module.named_parameters() if each.grad is None or not each.grad.any()]
    assert still == []


def test_the_graph_holds_the_weights_trained() -> None:
    graph, features = small()
    module = FakeQuantGraph(graph)
    step(module, features)
    logits = module(nchw(features)).detach().numpy()
    assert np.abs(logits - run(graph, features)).max() > 0.01
    np.testing.assert_allclose(run(module.graph(), features), logits, rtol=1e-4, atol=1e-4)


def test_training_changes_no_graph_made_before_it() -> None:
    source, features = small()
    module = FakeQuantGraph(source).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    made = module.graph()
    before = [run(each, features) for each in (source, made)]
    step(module, features)
    for each, logits in zip((source, made), before, strict=True):
        np.testing.assert_array_equal(run(each, features), logits)


# Ranges


def test_ranges_are_those_given_without_the_pools() -> None:
    graph, features = small()
    given_ranges = extremes(graph, features)
    pools = {each.output.name for each in graph.operators if isinstance(each, AveragePool2D)}
    found = rounded(graph, features).ranges()
    assert pools
    assert found.keys() == given_ranges.keys() - pools
    for name, ends in found.items():
        assert ends == pytest.approx(given_ranges[name], rel=1e-6)


@pytest.mark.parametrize("ends", [(0.5, 2.0), (-2.0, -0.5), (0.0, 0.0), (-1.0, 1.0)])
def test_a_range_contains_zero_and_is_not_empty_however_it_is_trained(ends: tuple[float, float]) -> None:
    rounding = FakeQuantize(*ends)
    for _ in range(3):
        low, high = rounding.range().tolist()
        assert low <= 0 <= high
        assert low < high
        with torch.no_grad():
            rounding.stretch.add_(torch.tensor([2.0, -3.0]))


def test_a_pool_of_a_pool_keeps_the_values_of_the_first_ones_input() -> None:
    shape = (1, 6, 6, 2)
    settings_of = {"window": (3, 3), "padding": (1, 1, 1, 1)}
    pools = [AveragePool2D(inputs=(a,), output=Activation(b, shape), **settings_of) for a, b in ("xy", "yz")]
    graph = Graph(Activation("x", shape), tuple(pools))
    features = inputs_of(graph, 0)
    module = rounded(graph, features)
    q = to_integers(graph, module.ranges()).output.q
    steps = nhwc(module(nchw(features))) / q.scale
    np.testing.assert_allclose(steps, np.rint(steps), atol=1e-3)


@pytest.mark.parametrize("how", ["deep copy", "state_dict"])
def test_rounding_survives_being_copied(how: str) -> None:
    graph, features = small()
    module = rounded(graph, features)
    step(module, features)
    if how == "deep copy":
        copied = copy.deepcopy(module)
    else:
        copied = FakeQuantGraph(graph)
        copied.round_in(dict.fromkeys(graph.tensors, (-1.0, 1.0)))
        copied.load_state_dict(module.state_dict())
    assert copied.ranges() == module.ranges()
    assert torch.equal(copied(nchw(features)), module(nchw(features)))
    step(module, features)
    assert copied.ranges() != module.ranges()

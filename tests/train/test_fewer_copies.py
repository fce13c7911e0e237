"""Rewritten graphs: the same values, bit for bit, in fewer copies."""

import numpy as np
import pytest

from tinyscene.deploy.graph.graph import Graph
from tinyscene.deploy.graph.operators import AveragePool2D, Channels, Concat, Conv2D, DepthwiseConv2D, Kind, Mean
from tinyscene.deploy.graph.reference import run
from tinyscene.deploy.graph.tensor import Tensor
from tinyscene.train.quantize.fewer_copies import with_fewer_copies

MAP = (1, 4, 6)  # batch, mel, frame
INPUT = Tensor("input", (*MAP, 4))


def channels(source: str, name: str, first: int, count: int) -> Kind:
    return Channels(inputs=(source,), output=Tensor(name, (*MAP, count)), first=first)


def join(first: str, second: str, name: str, count: int) -> Kind:
    return Concat(inputs=(first, second), output=Tensor(name, (*MAP, count)))


def pixel(source: str, name: str, inputs: int, outputs: int) -> Kind:
    weights = np.random.default_rng(len(name)).normal(size=(outputs, 1, 1, inputs)).astype(np.float32)
    output = Tensor(name, (*MAP, outputs))
    return Conv2D(inputs=(source,), output=output, weights=weights, bias=np.arange(outputs, dtype=np.float32))


def rewritten(*operators: Kind) -> list[str]:
    """The kinds of the operators, once the graph is rewritten; it computes what it did."""
    graph = Graph(INPUT, operators)
    ours, x = with_fewer_copies(graph), np.random.default_rng(0).normal(size=(2, *INPUT.shape[1:])).astype(np.float32)
    assert np.array_equal(run(ours, x), run(graph, x))
    assert ours.output.name == graph.output.name
    return [operator.kind for operator in ours.operators]


def test_channels_of_joined_channels_are_taken_of_the_part_that_holds_them() -> None:
    a, b, both = pixel("input", "a", 4, 3), pixel("input", "bb", 4, 5), join("a", "bb", "both", 8)
    last = pixel("taken", "last", 2, 4)
    assert rewritten(a, b, both, channels("both", "taken", 4, 2), last) == ["Conv2D", "Channels", "Conv2D"]


def test_whole_parts_are_read_in_place_of_their_copies() -> None:
    a, b = pixel("input", "a", 4, 3), pixel("input", "bb", 4, 5)
    halves = channels("both", "first", 0, 3), channels("both", "second", 3, 5)
    sums = pixel("first", "x", 3, 4), pixel("second", "yy", 5, 4), join("x", "yy", "end", 8)
    assert rewritten(a, b, join("a", "bb", "both", 8), *halves, *sums) == ["Conv2D"] * 4 + ["Concat"]


def test_channels_of_channels_are_taken_once() -> None:
    once = channels("input", "three", 1, 3), channels("three", "two", 1, 2)
    assert rewritten(*once, pixel("two", "end", 2, 4)) == ["Channels", "Conv2D"]


def test_a_shuffle_of_halves_copies_each_value_twice() -> None:
    quarters = [channels("input", f"q{quarter}", quarter, 1) for quarter in (0, 2, 1, 3)]
    joins = join("q0", "q2", "j2", 2), join("j2", "q1", "j3", 3), join("j3", "q3", "shuffled", 4)
    halves = channels("shuffled", "first", 0, 2), channels("shuffled", "second", 2, 2)
    kinds = rewritten(*quarters, *joins, *halves, pixel("first", "a", 2, 3), pixel("second", "bb", 2, 3),
                      join("a", "bb", "end", 6))  # fmt: skip
    assert kinds.count("Channels") == 4
    assert kinds.count("Concat") == 3


@pytest.mark.parametrize("depthwise", [False, True])
def test_what_makes_joined_channels_smaller_stands_before_they_are_joined(depthwise: bool) -> None:
    output = Tensor("smaller", (1, 2, 3, 8))
    weights = np.random.default_rng(1).normal(size=(1, 2, 2, 8)).astype(np.float32)
    smaller: Kind = AveragePool2D(inputs=("both",), output=output, stride=(2, 2), window=(2, 2))
    if depthwise:
        bias = np.arange(8, dtype=np.float32)
        smaller = DepthwiseConv2D(inputs=("both",), output=output, stride=(2, 2), weights=weights, bias=bias)
    a, both = pixel("input", "a", 4, 4), join("input", "a", "both", 8)
    assert rewritten(a, both, smaller) == ["Conv2D", smaller.kind, smaller.kind, "Concat"]


def test_joined_channels_that_others_read_too_are_joined_once() -> None:
    both, pooled = join("input", "input", "both", 8), Tensor("pooled", (1, 2, 3, 8))
    smaller = AveragePool2D(inputs=("both",), output=pooled, stride=(2, 2), window=(2, 2))
    mean = Mean(inputs=("pooled",), output=Tensor("mean", (1, 1, 1, 8)))
    wide = AveragePool2D(inputs=("both",), output=Tensor("wide", (1, 1, 1, 8)), window=MAP[1:])
    end = Concat(inputs=("mean", "wide"), output=Tensor("end", (1, 1, 1, 16)))
    assert rewritten(both, smaller, mean, wide, end).count("Concat") == 2


def test_channels_that_others_take_apart_stay_where_a_part_is_not_whole() -> None:
    a, both = pixel("input", "a", 4, 4), join("input", "a", "both", 8)
    kinds = rewritten(a, both, channels("both", "middle", 2, 4), pixel("middle", "end", 4, 3))
    assert kinds == ["Conv2D", "Concat", "Channels", "Conv2D"]


def test_a_mean_that_a_padded_window_may_not_read_is_still_copied() -> None:
    both, one = Tensor("both", (1, 1, 1, 8)), Tensor("one", (1, 1, 1, 4))
    means = [Mean(inputs=("input",), output=Tensor(name, (1, 1, 1, 4))) for name in ("m", "n")]
    taken = Concat(inputs=("m", "n"), output=both), Channels(inputs=("both",), output=one, first=0)
    window, bias = np.ones((1, 3, 3, 4), np.float32), np.zeros(4, np.float32)
    end = Tensor("end", one.shape)
    padded = DepthwiseConv2D(inputs=("one",), output=end, padding=(1, 1, 1, 1), weights=window, bias=bias)
    assert rewritten(*means, *taken, padded) == ["Mean", "Mean", "Concat", "Channels", "DepthwiseConv2D"]


def test_channels_that_are_the_output_keep_its_name() -> None:
    a, b, both = pixel("input", "a", 4, 3), pixel("input", "bb", 4, 5), join("a", "bb", "both", 8)
    assert rewritten(a, b, both, channels("both", "end", 0, 3)) == ["Conv2D", "Conv2D", "Concat", "Channels"]


def test_a_long_chain_of_joins_is_followed_to_its_start() -> None:
    count = 450
    joins = [
        join("input" if step == 0 else f"j{step}", "input", f"j{step + 1}", 4 * (step + 2)) for step in range(count)
    ]
    first = channels(f"j{count}", "first", 0, 3)
    assert rewritten(*joins, first, pixel("first", "end", 3, 2)) == ["Channels", "Conv2D"]

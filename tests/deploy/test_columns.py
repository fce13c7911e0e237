"""Windows of a stream, of which no column is computed twice, are those that are computed whole."""

from collections.abc import Mapping

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.graphs import Builder, Draw, convolutions, inputs_of, integer_graphs, pools, quantizations
from tests.streamable import STRIDES, front_end, receptive_frames, streamable
from tinyscene.deploy.graph import columns
from tinyscene.deploy.graph.columns import run_next
from tinyscene.deploy.graph.graph import Graph
from tinyscene.deploy.graph.operators import Kind
from tinyscene.deploy.graph.reference import Values, run_all, run_integer
from tinyscene.deploy.graph.tensor import Tensor


def require_equal(values: Mapping[str, Values], graph: Graph, features: Values) -> None:
    wanted = run_all(graph, features)
    assert values.keys() == wanted.keys()
    assert [name for name in wanted if not np.array_equal(values[name], wanted[name])] == []


def require_windows(graph: Graph, moves: list[tuple[int, list[int]]]) -> None:
    """Windows so many frames apart, in each of which some frames of the former are others."""
    features = inputs_of(graph, 0)[2:]
    values = run_next(graph, features)
    require_equal(values, graph, features)
    for turn, (advance, others) in enumerate(moves):
        shared, features = features[:, :, advance:], inputs_of(graph, 1 + turn)[2:]
        for frame in set(range(shared.shape[2])).difference(others):
            features[:, :, frame] = shared[:, :, frame]
        values = run_next(graph, features, values, advance)
        require_equal(values, graph, features)


MOVES = st.lists(st.tuples(st.integers(0, 13), st.lists(st.integers(0, 11), max_size=2)), max_size=5)


@settings(max_examples=40)
@given(integer_graphs(most_steps=8), MOVES)
def test_windows_of_any_graph_any_way_apart_are_those_computed_whole(
    graph: Graph, moves: list[tuple[int, list[int]]]
) -> None:
    require_windows(graph, moves)


@st.composite
def wide_graphs(draw: Draw) -> Graph:
    """Few bands, many frames, and windows of any stride and padding."""
    builder = Builder(Tensor("input", (1, 2, draw(st.integers(12, 30)), 2), draw(quantizations())))
    for kind in draw(st.lists(st.sampled_from([convolutions, convolutions, pools]), min_size=1, max_size=3)):
        builder.operators.append(draw(kind(builder)))
    return builder.graph()


@settings(max_examples=60)
@given(wide_graphs(), st.lists(st.tuples(st.integers(1, 6), st.sampled_from([[], [0]])), min_size=1, max_size=3))
def test_columns_away_from_the_ends_of_a_window_are_those_of_the_former(
    graph: Graph, moves: list[tuple[int, list[int]]]
) -> None:
    require_windows(graph, moves)


def stream_of(strides: list[tuple[int, int]], more: int, frames: int) -> tuple[Graph, Values, int]:
    """A network without padding over time, features that last longer than its windows, and its last layer's step."""
    heard, period = receptive_frames(strides)
    graph = streamable(front_end(heard + (more + -(-15 // period)) * period), strides, 0)
    rng, (_, mel, _, _) = np.random.default_rng(1), graph.input.shape
    return graph, rng.integers(-128, 128, (1, mel, frames, 1)).astype(np.int8), period


@settings(max_examples=10, deadline=None)
@given(STRIDES, st.integers(0, 6), st.integers(1, 12))
def test_a_network_without_padding_computes_each_column_once(
    strides: list[tuple[int, int]], more: int, hop: int
) -> None:
    graph, sound, period = stream_of(strides, more, 300)
    frames, advance = graph.input.shape[2], hop * period
    computed = dict.fromkeys(graph.tensors, 0)

    def counted(operator: Kind, sources: list[Tensor], arguments: list[Values]) -> Values:
        made = run_integer(operator, sources, arguments)
        computed[operator.output.name] += made.shape[2] if made.ndim == 4 else 0
        return made

    values, starts = None, range(0, sound.shape[2] - frames + 1, advance)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(columns, "run_integer", counted)
        for start in starts:
            values = run_next(graph, sound[:, :, start : start + frames], values, advance)
    assert values is not None
    require_equal(values, graph, sound[:, :, starts[-1] : starts[-1] + frames])
    for name, step in columns.column_steps(graph).items():
        width = graph.tensors[name].shape[2]
        new = min(width, advance // step)
        assert computed[name] == (width + new * (len(starts) - 1) if name != graph.input.name else 0)


def test_a_stream_goes_on_from_values_that_were_kept() -> None:
    graph, sound, period = stream_of([(1, 1), (1, 2)], 3, 200)
    frames = graph.input.shape[2]

    def decided(values: Mapping[str, Values] | None, starts: range) -> tuple[Mapping[str, Values], list[list[int]]]:
        logits = []
        for start in starts:
            values = run_next(graph, sound[:, :, start : start + frames], values, period)
            logits.append(values[graph.output.name][0].tolist())
        assert values is not None
        return values, logits

    middle, _ = decided(None, range(0, 10 * period, period))
    kept = {name: value.copy() for name, value in middle.items()}
    later = range(10 * period, sound.shape[2] - frames + 1, period)
    first, second = decided(middle, later)[1], decided(kept, later)[1]
    assert first == second == decided(None, later)[1]
    assert all(np.array_equal(middle[name], kept[name]) for name in kept)
    assert len({tuple(each) for each in first}) > 5

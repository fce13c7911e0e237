"""The plan of the arena: what it needs in cases that can be worked out by hand, and that its proof finds faults."""

import dataclasses

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from tests.graphs import integer_graphs
from tinyscene.deploy.graph.graph import Graph
from tinyscene.deploy.graph.operators import Add, AveragePool2D, Concat, Conv2D, DepthwiseConv2D, Mean, Repeat
from tinyscene.deploy.graph.tensor import Quantization, Tensor
from tinyscene.firmware_bridge.codegen.ops import access_of
from tinyscene.firmware_bridge.memory.arena_check import ArenaError, check_arena
from tinyscene.firmware_bridge.memory.planner import ALWAYS, Plan, make_plan, work_block
from tinyscene.firmware_bridge.memory.schedule import ARRIVAL, FIRST, make_schedule

Q = Quantization(0.5, 0)
KERNELS = ("mve",)  # which need no working memory


def activation(name: str, height: int, width: int, channels: int) -> Tensor:
    return Tensor(name, (1, height, width, channels), Q)


def pointwise(source: Tensor, name: str, outputs: int) -> Conv2D:
    _, height, width, inputs = source.shape
    return Conv2D(
        inputs=(source.name,),
        output=activation(name, height, width, outputs),
        weights=np.ones((outputs, 1, 1, inputs), np.int8),
        bias=np.zeros(outputs, np.int32),
        weight_scales=np.full(outputs, 2.0**-8, np.float32),
    )


def depthwise(source: Tensor, name: str, stride: int = 1) -> DepthwiseConv2D:
    _, height, width, channels = source.shape
    return DepthwiseConv2D(
        inputs=(source.name,),
        output=activation(name, (height - 1) // stride + 1, (width - 1) // stride + 1, channels),
        stride=(stride, stride),
        padding=(1, 1, 1, 1),
        weights=np.ones((1, 3, 3, channels), np.int8),
        bias=np.zeros(channels, np.int32),
        weight_scales=np.full(channels, 2.0**-8, np.float32),
    )


def plan_of(graph: Graph, extras: tuple = (), arrival: int | None = None) -> Plan:
    access = [access_of(operator, graph.sources(operator), KERNELS) for operator in graph.operators]
    return make_plan(graph, access, extras, arrival)


def block(height: int = 32, width: int = 8, channels: int = 4, expansion: int = 6) -> Graph:
    """An inverted residual: expand, depthwise, project, add."""
    source = activation("x", height, width, channels)
    expand = pointwise(source, "expand", channels * expansion)
    deep = depthwise(expand.output, "deep")
    project = pointwise(deep.output, "project", channels)
    return Graph(
        source, (expand, deep, project, Add(inputs=("x", "project"), output=activation("y", height, width, channels)))
    )


def test_a_branch_that_another_waits_for_does_not_run_ahead() -> None:
    """The sum waits for the mean over all rows; were the wide branch computed meanwhile, it would be held whole."""
    height, width, channels, wide = 32, 8, 4, 24
    source = activation("x", height, width, channels)
    mean = AveragePool2D(inputs=("x",), output=activation("mean", 1, width, channels), window=(height, 1))
    repeated = Repeat(inputs=("mean",), output=activation("all", height, width, channels), times=(height, 1))
    whole = Add(inputs=("x", "all"), output=activation("sum", height, width, channels))
    branch = pointwise(source, "branch", wide)
    joined = Concat(inputs=("sum", "branch"), output=activation("joined", height, width, channels + wide))
    end = Mean(inputs=("joined",), output=Tensor("end", (1, channels + wide), Q))
    plan = plan_of(Graph(source, (mean, repeated, whole, branch, joined, end)))
    check_arena(plan)
    assert plan.arena_bytes < height * width * (channels + wide / 2)


def test_a_chain_of_pointwise_convolutions_holds_a_row_of_each() -> None:
    source = activation("x", 32, 8, 4)
    first = pointwise(source, "a", 16)
    second = pointwise(first.output, "b", 16)
    plan = plan_of(Graph(source, (first, second, pointwise(second.output, "y", 4))))
    assert (plan.slots["a"], plan.slots["b"]) == (1, 1)


def test_a_window_of_three_rows_is_read_from_a_ring_of_three() -> None:
    plan = plan_of(block())
    assert (plan.slots["expand"], plan.slots["deep"], plan.slots["project"]) == (3, 1, 1)


def test_an_output_is_written_over_input_rows_that_nobody_reads_any_more() -> None:
    graph = block()
    plan = plan_of(graph)
    held = 32 * 8 * 4
    rings = 3 * 10 * 24 + 8 * 24 + 8 * 4  # with a pixel of padding on both sides
    apart = 8 * 4  # a row of the sum is written while that row of the input is still read
    assert plan.arena_bytes == held + rings + apart


def test_a_mean_holds_one_row_of_its_input() -> None:
    source = activation("x", 64, 16, 4)
    last = pointwise(source, "a", 8)
    plan = plan_of(Graph(source, (last, Mean(inputs=("a",), output=Tensor("y", (1, 8), Q)))))
    assert plan.arena_bytes == 64 * 16 * 4 + 16 * 8  # sums and result lie where the input's first rows were


def test_a_shortcut_is_held_as_far_as_the_windows_beside_it_reach() -> None:
    source = activation("x", 32, 8, 4)
    start = pointwise(source, "start", 4)
    first = depthwise(start.output, "a")
    second = depthwise(first.output, "b")
    third = depthwise(second.output, "c")
    add = Add(inputs=("start", "c"), output=activation("y", 32, 8, 4))
    assert plan_of(Graph(source, (start, first, second, third, add))).slots["start"] == 1 + 3


@settings(max_examples=25, deadline=None, derandomize=True)
@given(integer_graphs(), st.sampled_from([None, 0, 64]))
def test_plans_of_random_graphs_are_proven(graph: Graph, arrival: int | None) -> None:
    check_arena(plan_of(graph, (), arrival))


def test_rows_that_arrive_and_are_not_read_have_their_place() -> None:
    source = activation("x", 6, 4, 2)
    pool = AveragePool2D(inputs=("x",), output=activation("y", 2, 4, 2), window=(1, 1), stride=(3, 1))
    plan = plan_of(Graph(source, (pool,)), (), 0)
    check_arena(plan)
    assert [step.turn for step in plan.schedule.order if step.operator == ARRIVAL] == [*range(6)]


def test_an_input_that_arrives_row_by_row_is_held_as_far_as_its_readers_are_behind() -> None:
    plan = plan_of(block(), (), arrival=0)
    assert (plan.slots["x"], plan.slots["expand"], plan.slots["deep"]) == (3, 3, 1)


@settings(max_examples=25, deadline=None, derandomize=True)
@given(integer_graphs(), st.data())
def test_a_plan_where_a_row_is_written_over_one_that_is_still_read_is_refuted(
    graph: Graph, data: st.DataObject
) -> None:
    plan = plan_of(graph)
    schedule = plan.schedule
    rows = [(name, row) for name in graph.tensors for row in range(schedule.rows[name].count)]
    first_use = {(name, row): schedule.first_use[name][row] for name, row in rows}
    last_use = {(name, row): schedule.last_use[name][row] for name, row in rows}
    harmed = [
        (x, y)
        for x in rows
        for y in rows
        if x[0] != y[0] and first_use[x] < first_use[y] < last_use[x] < len(schedule.order)
    ]
    assume(harmed)
    (name, row), (other, other_row) = data.draw(st.sampled_from(harmed))
    start, _ = plan.read_bytes(schedule.order[last_use[name, row]].operator, name)
    moved = plan.row_offset(name, row) + start - (plan.row_offset(other, other_row) - plan.offsets[other])
    with pytest.raises(ArenaError):
        check_arena(dataclasses.replace(plan, offsets={**plan.offsets, other: moved}))


def test_a_ring_that_is_a_row_too_short_is_refuted() -> None:
    plan = plan_of(block())
    plan.slots["expand"] = 2
    with pytest.raises(ArenaError, match="expand row"):
        check_arena(plan)


def test_an_arena_that_is_too_small_is_refuted() -> None:
    plan = plan_of(block())
    plan.__dict__["arena_bytes"] = plan.arena_bytes - 16
    with pytest.raises(ArenaError, match="outside an arena"):
        check_arena(plan)


def test_reading_before_a_row_is_made_is_refuted() -> None:
    plan = plan_of(block())
    order = plan.schedule.order
    order.insert(0, order.pop(next(index for index, step in enumerate(order) if step.operator == 2)))
    with pytest.raises(ArenaError, match="deep row 0"):
        check_arena(plan)


def test_a_front_end_shares_memory_with_the_network_but_not_with_its_input() -> None:
    graph = block()
    without = plan_of(graph).arena_bytes
    small, large = (plan_of(graph, (work_block("\tfft", size, FIRST, FIRST),)) for size in (512, 4096))
    assert small.arena_bytes == without
    assert large.arena_bytes == 32 * 8 * 4 + 4096


def test_what_lives_always_shares_memory_with_nothing() -> None:
    graph = block()
    plan = plan_of(graph, (work_block("\tkept", 256, FIRST - 1, ALWAYS),))
    assert plan.arena_bytes == plan_of(graph).arena_bytes + 256


def test_every_operator_ends_and_none_is_cut_short() -> None:
    graph = block()
    access = [access_of(operator, graph.sources(operator), KERNELS) for operator in graph.operators]
    for cuts in [(0,), (0, 1), (0, 1, 2, 3)]:
        schedule = make_schedule(graph, access, cuts)
        for index in range(len(graph.operators)):
            assert sum(step.operator == index for step in schedule.order) == schedule.turns(index)

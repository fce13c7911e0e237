"""The generated network, compiled for this machine: every row of every activation against the reference."""

import ctypes
import zlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from tests.graphs import inputs_of, integer_graphs
from tinyscene.deploy.bundle.bundle import Bundle
from tinyscene.deploy.graph.graph import Graph
from tinyscene.deploy.graph.operators import Conv2D, DepthwiseConv2D, Kind, Mean
from tinyscene.deploy.graph.reference import run, run_all
from tinyscene.deploy.graph.tensor import Quantization, Tensor
from tinyscene.firmware_bridge.codegen.library import Library, make_network
from tinyscene.firmware_bridge.memory.by_time import Order, rows_first
from tinyscene.firmware_bridge.memory.planner import SCRATCH, accumulator_block
from tinyscene.firmware_bridge.native import NativeNetwork, compile_native

HOOKS = Path(__file__).parent / "trace_hooks.c"
ROW_HOOK = ctypes.CFUNCTYPE(None, ctypes.c_int32, ctypes.c_int32, ctypes.c_void_p, ctypes.c_int32)
STEP_HOOK = ctypes.CFUNCTYPE(None, ctypes.c_int32, ctypes.c_int32)
KERNELS = [("plain",), ("simd", "plain")]
ORDERS: list[Order] = ["mel", "time"]
SEEDS = st.integers(0, 2**16)
QUICK = settings(max_examples=4, deadline=None, derandomize=True)
SLOW = settings(max_examples=100, deadline=None)


def traced(library: Library) -> NativeNetwork:
    return NativeNetwork(library, compile_native(library, [HOOKS], ["TINYSCENE_TRACE"], "O1"))


def hook(network: NativeNetwork, name: str, function: object) -> None:
    """Have a hook of trace_hooks.c call a Python function, which must outlive it."""
    ctypes.c_void_p.in_dll(network.c, name).value = ctypes.cast(function, ctypes.c_void_p).value  # type: ignore[arg-type]


def rows_of(network: NativeNetwork, features: NDArray[np.int8]) -> dict[int, list[bytes]]:
    """Every row in the order of making, by tensor."""
    rows: dict[int, list[bytes]] = {}

    @ROW_HOOK
    def take(tensor: int, row: int, values: int, size: int) -> None:
        assert row == len(rows.setdefault(tensor, []))
        rows[tensor].append(ctypes.string_at(values, size))

    hook(network, "trace_row", take)
    network(features[None])
    hook(network, "trace_row", None)
    return rows


def ordered(values: NDArray[np.int8], order: Order) -> NDArray[np.int8]:
    """Values (batch, mel, frame, channels) as a network of that order has them: rows first."""
    return rows_first(values) if order == "time" else values


def require_equal(graph: Graph, kernels: tuple[str, ...], seed: int, order: Order = "mel") -> None:
    """Every tensor, and the output again with nobody watching."""
    network, features = traced(make_network(graph, kernels, order)), inputs_of(graph, seed)
    expected = {name: ordered(values, order) for name, values in run_all(graph, features).items()}
    features = ordered(features, order)
    for index, each in enumerate(features):
        rows = rows_of(network, each)
        for number, (name, values) in enumerate(expected.items()):
            assert b"".join(rows[number]) == values[index].tobytes(), name
    assert (network(features) == expected[graph.output.name]).all()


@QUICK
@given(integer_graphs(), st.sampled_from(KERNELS), st.sampled_from(ORDERS), SEEDS)
def test_random_graphs_equal_the_reference(graph: Graph, kernels: tuple[str, ...], order: Order, seed: int) -> None:
    require_equal(graph, kernels, seed, order)


@pytest.mark.slow
@SLOW
@given(integer_graphs(), st.sampled_from(KERNELS), st.sampled_from(ORDERS), SEEDS)
def test_a_hundred_random_graphs_equal_the_reference(
    graph: Graph, kernels: tuple[str, ...], order: Order, seed: int
) -> None:
    require_equal(graph, kernels, seed, order)


def test_an_input_of_one_row_is_run_in_the_order_by_time() -> None:
    source = Tensor("x", (1, 3, 1, 2), Quantization(0.5, 0))
    mean = Mean(inputs=("x",), output=Tensor("y", (1, 2), Quantization(0.25, 1)))
    require_equal(Graph(source, (mean,)), ("plain",), 0, "time")


@pytest.mark.parametrize("kernels", KERNELS)
def test_every_tensor_of_a_bundle_is_the_same_in_the_order_by_time(bundle: Bundle, kernels: tuple[str, ...]) -> None:
    require_equal(bundle.graph, kernels, 0, "time")


@pytest.mark.parametrize("kernels", KERNELS)
def test_every_tensor_of_a_bundle_has_the_golden_checksum(bundle: Bundle, kernels: tuple[str, ...]) -> None:
    network = traced(make_network(bundle.graph, kernels))
    features = bundle.vectors.features.reshape(-1, *bundle.graph.input.shape[1:])
    for each, golden in zip(features, bundle.vectors.crc, strict=True):
        rows = rows_of(network, each)
        assert [zlib.crc32(b"".join(rows[number])) for number in range(len(golden))] == golden.tolist()


def amplifying(bundle: Bundle) -> Graph:
    """The graph of a bundle whose pointwise convolutions multiply some sums by more than 1, as trained ones may; and
    whose depthwise ones have a large bias in some channels."""

    def changed(operator: Kind) -> Kind:
        if isinstance(operator, DepthwiseConv2D):
            bias = operator.bias.copy()
            bias[::3] = 2**28
            return replace(operator, bias=bias)
        if isinstance(operator, Conv2D) and operator.size == (1, 1) and operator.weight_scales is not None:
            scales = operator.weight_scales.copy()
            scales[::2] = 5 * operator.output.q.scale / bundle.graph.sources(operator)[0].q.scale
            return replace(operator, weight_scales=scales)
        return operator

    return Graph(bundle.graph.input, tuple(map(changed, bundle.graph.operators)))


@pytest.mark.parametrize("kernels", KERNELS)
def test_convolutions_outside_the_devices_fast_range_equal_the_reference(
    bundle: Bundle, kernels: tuple[str, ...]
) -> None:
    graph = amplifying(bundle)
    source = make_network(graph, kernels).files["tinyscene_network.c"]
    for kernel in ("pointwise_wide", "depthwise_wide"):
        assert (f"tinyscene_{kernel}(" in source) == ("simd" in kernels)
    require_equal(graph, kernels, 0)


class Poison:
    """Before each step, bytes that the plan holds dead are garbage; after it, only those that it may write differ."""

    def __init__(self, library: Library, network: NativeNetwork, seed: int) -> None:
        self.plan, self.arena = library.plan, network.arena
        self.rng = np.random.default_rng(seed)
        self.shadow = self.arena.copy()
        self.time = 0
        self.faults: list[str] = []
        schedule = self.plan.schedule
        self.live = np.zeros(len(self.arena), bool)
        self.events: dict[int, list[tuple[bool, int, int]]] = {}
        for name, rows in schedule.rows.items():
            for row in range(rows.count):
                span = self.plan.row_offset(name, row), rows.stride
                self.events.setdefault(schedule.first_use[name][row], []).append((True, *span))
                self.events.setdefault(schedule.last_use[name][row], []).append((False, *span))
        for operator in schedule.graph.operators:
            block = self.plan.blocks.get(accumulator_block(operator))
            if block:
                span = self.plan.offsets[block.name], block.bytes
                self.events.setdefault(block.first_use, []).append((True, *span))
                self.events.setdefault(block.last_use, []).append((False, *span))
        self.advance(-1)

    def advance(self, time: int) -> None:
        """Ranges that end are removed before others start."""
        for starts, start, size in sorted(self.events.get(time, []), key=lambda event: event[0]):
            self.live[start : start + size] = starts

    def before_step(self, tensor: int, turn: int) -> None:
        step = self.plan.schedule.order[self.time]
        if (step.operator + 1, step.turn) != (tensor, turn):
            self.faults.append(f"step {self.time} is {(tensor, turn)}, planned was {step}")
        if self.time:
            self.check_writes(self.time - 1)
            self.advance(self.time - 1)
        self.arena[~self.live] = self.rng.integers(-128, 128, int((~self.live).sum()), np.int8)
        self.shadow[:] = self.arena
        self.time += 1

    def check_writes(self, time: int) -> None:
        schedule = self.plan.schedule
        step = schedule.order[time]
        allowed = np.zeros(len(self.arena), bool)
        row, output = schedule.output_row(step), schedule.output(step)
        if row is not None:
            start = self.plan.row_offset(output, row)
            allowed[start : start + schedule.rows[output].stride] = True
        operator, access = schedule.graph.operators[step.operator], schedule.access[step.operator]
        for name, size in ((SCRATCH, access.scratch), (accumulator_block(operator), access.accumulators)):
            if size:
                allowed[self.plan.offsets[name] :][:size] = True
        if (self.arena != self.shadow)[~allowed].any():
            self.faults.append(f"step {time}, {step}, writes what is not its own")


def require_poison_harmless(graph: Graph, kernels: tuple[str, ...], features: NDArray[np.int8], order: Order) -> None:
    library = make_network(graph, kernels, order)
    network = traced(library)
    poison = Poison(library, network, seed=1)
    step = STEP_HOOK(poison.before_step)
    hook(network, "trace_step", step)
    output = network(ordered(features[:1], order))
    assert not poison.faults
    assert poison.time == len(library.plan.schedule.order)
    assert (output == ordered(run(graph, features[:1]), order)).all()


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("kernels", KERNELS)
def test_a_bundle_runs_right_while_all_dead_memory_is_poisoned(
    bundle: Bundle, kernels: tuple[str, ...], order: Order
) -> None:
    features = bundle.vectors.features.reshape(-1, *bundle.graph.input.shape[1:])
    require_poison_harmless(bundle.graph, kernels, features[3:], order)


@QUICK
@given(integer_graphs(), st.sampled_from(KERNELS), st.sampled_from(ORDERS), SEEDS)
def test_random_graphs_run_right_in_poisoned_memory(
    graph: Graph, kernels: tuple[str, ...], order: Order, seed: int
) -> None:
    require_poison_harmless(graph, kernels, inputs_of(graph, seed), order)

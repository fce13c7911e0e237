"""Random graphs: the reference equals the reference kernels of LiteRT, tflite-runtime and tflite-micro, bit for bit."""

import contextlib
import importlib
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from tests.graphs import float_graph, inputs_of, integer_graphs
from tinyscene.deploy.common.errors import InputError
from tinyscene.deploy.graph.graph import Graph
from tinyscene.deploy.graph.operators import Add, Conv2D, Mean, Repeat
from tinyscene.deploy.graph.reference import run_all
from tinyscene.deploy.graph.tensor import Quantization, Tensor
from tinyscene.deploy.graph.tflite_writer import write_tflite

Values = dict[str, NDArray[Any]]  # tensors by name, a batch each
RUNTIMES = {  # a package, and why it may be missing
    "ai_edge_litert.interpreter": "ai-edge-litert is not installed",
    "tflite_runtime.interpreter": "tflite-runtime needs numpy 1 and Python 3.11: make test-tflite-runtime",
    "tflite_micro.python.tflite_micro.runtime": "tflite-micro is not installed",
}
ARENA = 2**21  # bytes for tflite-micro
SEEDS = st.integers(0, 2**16)
QUICK = settings(max_examples=20, deadline=None, derandomize=True)
SLOW = settings(max_examples=400, deadline=None)


def tflite_tensors(module: Any, graph: Graph, features: NDArray[Any]) -> Values:
    """Every tensor of a graph, run by an interpreter with TFLite's reference kernels.

    But tflite-runtime overwrites what an ADD reads, even when asked to keep all: those are left out.
    """
    in_place = module.__name__.startswith("tflite_runtime")
    gone = {name for each in graph.operators if in_place and isinstance(each, Add) for name in each.inputs}
    repeats = {each.output.name: each.inputs[0] for each in graph.operators if isinstance(each, Repeat)}
    gone |= {repeats[name] for name in gone & repeats.keys()} | repeats.keys()  # an ADD repeats as it reads
    interpreter = module.Interpreter(
        model_content=write_tflite(graph, {}),
        experimental_op_resolver_type=module.OpResolverType.BUILTIN_REF,
        experimental_preserve_all_tensors=True,
        num_threads=1,
    )
    interpreter.allocate_tensors()
    index = {each["name"]: each["index"] for each in interpreter.get_tensor_details()}
    found = {name: [] for name in graph.tensors if name not in gone}
    for each in features:
        interpreter.set_tensor(index[graph.input.name], each[None])
        interpreter.invoke()
        for name, batch in found.items():
            batch.append(interpreter.get_tensor(index[name]))
    return {name: np.concatenate(batch) for name, batch in found.items()}


def micro_tensors(module: Any, graph: Graph, features: NDArray[Any]) -> Values:
    """The output of a graph, run by tflite-micro, which shows no other tensor."""
    interpreter = module.Interpreter.from_bytes(write_tflite(graph, {}), arena_size=ARENA)
    batch = []
    for each in features:
        interpreter.set_input(each[None], 0)
        interpreter.invoke()
        batch.append(interpreter.get_output(0).copy())
    return {graph.output.name: np.concatenate(batch)}


@pytest.fixture(scope="module", params=RUNTIMES, ids=lambda package: package.split(".")[0])
def tensors(request: pytest.FixtureRequest) -> Callable[[Graph, NDArray[Any]], Values]:
    """A runtime: (graph, features) -> the tensors it shows."""
    try:
        module = importlib.import_module(request.param)
        if "tflite_runtime" in request.param and not np.__version__.startswith("1."):
            raise ImportError("numpy is 2")
    except ImportError:
        pytest.skip(f"{request.param} cannot be imported: {RUNTIMES[request.param]}")
    read = micro_tensors if "micro" in request.param else tflite_tensors
    return lambda graph, features: read(module, graph, features)


Tensors = Callable[[Graph, NDArray[Any]], Values]


def assert_equal(graph: Graph, features: NDArray[Any], tensors: Tensors) -> None:
    expected = run_all(graph, features)
    for name, values in tensors(graph, features).items():
        np.testing.assert_array_equal(values, expected[name], f"{name} of {[each.kind for each in graph.operators]}")


@QUICK
@given(graph=integer_graphs(), seed=SEEDS)
def test_every_integer_is_the_runtimes(tensors: Tensors, graph: Graph, seed: int) -> None:
    assert_equal(graph, inputs_of(graph, seed), tensors)


@pytest.mark.slow
@SLOW
@given(graph=integer_graphs(most_steps=8), seed=SEEDS)
def test_every_integer_of_many_graphs_is_the_runtimes(tensors: Tensors, graph: Graph, seed: int) -> None:
    assert_equal(graph, inputs_of(graph, seed), tensors)


@pytest.mark.parametrize("seed", range(8))
def test_floats_are_the_runtimes(tensors: Tensors, seed: int) -> None:
    graph = float_graph(seed)
    features = inputs_of(graph, seed)
    expected = run_all(graph, features)
    for name, values in tensors(graph, features).items():
        np.testing.assert_allclose(values, expected[name], rtol=1e-5, atol=1e-5)


# Edges that random graphs seldom reach


def one_convolution(scales: tuple[float, float], bias: list[int], zero_point: int = 127) -> Graph:
    """A bias alone, rescaled by the product of two scales."""
    convolution = Conv2D(
        inputs=("input",),
        output=Tensor("output", (1, 1, 1, len(bias)), Quantization(1.0, zero_point)),
        weights=np.zeros((len(bias), 1, 1, 1), np.int8),
        bias=np.array(bias, np.int32),
        weight_scales=np.full(len(bias), scales[1], np.float32),
    )
    return Graph(Tensor("input", (1, 1, 1, 1), Quantization(scales[0], 0)), (convolution,))


@pytest.mark.parametrize("zero_point", [-128, 127])
@pytest.mark.parametrize(
    "scales",
    [
        pytest.param((1 + 2.0**-15, 1 - 2.0**-15), id="rounds to itself"),
        pytest.param((1 + 2.0**-17, 1 - 2.0**-17), id="rounds to 1, a shift to the left"),
        pytest.param((1.0, 0.5), id="one half"),
    ],
)
def test_the_largest_accumulator_a_graph_takes_is_the_runtimes(
    tensors: Tensors, scales: tuple[float, float], zero_point: int
) -> None:
    graph = None
    for below in (0, 64, 128, 256, 2**10, 2**30, 2**30 + 2**10):  # the first that is not refused
        with contextlib.suppress(InputError):
            most = 2**31 - 1 - below
            graph = one_convolution(scales, [most, -most, most - 200, 200 - most], zero_point)
            break
    assert graph
    assert_equal(graph, inputs_of(graph, 0), tensors)


@pytest.mark.parametrize(
    ("shape", "source", "output"),
    [
        pytest.param((100, 61), 2.0**-19, 0.7, id="a thousandth of a step"),
        pytest.param((100, 61), 1.0, 1.0, id="same scale"),
        pytest.param((100, 61), 1.0, 0.001, id="saturated"),
        pytest.param((7, 3), 2.0**20 - 2**-4, 1.0, id="2**20"),
    ],
)
def test_a_mean_of_any_count_and_multiplier_is_the_runtimes(
    tensors: Tensors, shape: tuple[int, int], source: float, output: float
) -> None:
    mean = Tensor("mean", (1, 2), Quantization(float(np.float32(output)), -3))
    graph = Graph(
        Tensor("input", (1, *shape, 2), Quantization(source, 5)),
        (Mean(inputs=("input",), output=mean),),
    )
    assert_equal(graph, inputs_of(graph, 0), tensors)


@pytest.mark.parametrize("order", [("input", "small"), ("small", "input")])
def test_a_term_that_only_breaks_ties_is_the_runtimes(tensors: Tensors, order: tuple[str, str]) -> None:
    source = Tensor("input", (1, 4, 4, 3), Quantization(1.0, 7))
    convolution = Conv2D(  # -1, 0, 1 everywhere, a millionth of the input's step each
        inputs=("input",),
        output=Tensor("small", (1, 4, 4, 3), Quantization(2.0**-20, 9)),
        weights=np.zeros((3, 1, 1, 3), np.int8),
        bias=np.array([-1, 0, 1], np.int32),
        weight_scales=np.full(3, 2.0**-20, np.float32),
    )
    total = Add(inputs=order, output=Tensor("sum", (1, 4, 4, 3), Quantization(2.0, 0)))
    graph = Graph(source, (convolution, total))
    assert_equal(graph, inputs_of(graph, 0), tensors)

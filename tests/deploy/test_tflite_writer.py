"""What is written into a .tflite: few operators, no names, all that was in the graph. Its values: test_runtimes.py."""

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ai_edge_litert import schema_py_generated as schema
from ai_edge_litert.interpreter import Interpreter
from hypothesis import given, settings
from hypothesis import strategies as st

from tests import ROOT
from tests.graphs import float_graph, inputs_of, integer_graphs
from tinyscene.deploy.graph.graph import Graph
from tinyscene.deploy.graph.operator import Convolution
from tinyscene.deploy.graph.operators import (
    Add,
    AveragePool2D,
    Channels,
    Concat,
    Conv2D,
    Crop,
    DepthwiseConv2D,
    MaxPool2D,
    Mean,
    Repeat,
)
from tinyscene.deploy.graph.reference import run
from tinyscene.deploy.graph.tensor import Quantization, Tensor
from tinyscene.deploy.graph.tflite_writer import write_tflite
from tinyscene.train.runs.model_files import count_tflite

ALLOWED = {"PAD", "CONV_2D", "DEPTHWISE_CONV_2D", "ADD", "AVERAGE_POOL_2D", "MAX_POOL_2D", "MEAN", "RESHAPE", "SLICE"}
ALLOWED |= {"CONCATENATION"}
BESIDE = {"PAD", "PADV2", "MAXIMUM", "MINIMUM", "RESHAPE"}  # the operators of the graph
# The files of tensorflow/lite/micro/kernels/cmsis_nn in github.com/tensorflow/tflite-micro, with two kinds of pooling
CMSIS_NN = {
    "ADD",
    "BATCH_MATMUL",
    "CONV_2D",
    "DEPTHWISE_CONV_2D",
    "FULLY_CONNECTED",
    "MAXIMUM",
    "MINIMUM",
    "MUL",
    "PAD",
}
CMSIS_NN |= {"AVERAGE_POOL_2D", "MAX_POOL_2D", "SOFTMAX", "SVDF", "TRANSPOSE", "TRANSPOSE_CONV"}
CMSIS_NN |= {"UNIDIRECTIONAL_SEQUENCE_LSTM"}
CODES = {code: name for name, code in vars(schema.BuiltinOperator).items() if isinstance(code, int)}
SAME, VALID = schema.Padding.SAME, schema.Padding.VALID
METADATA = {"labels": ["bus", "métro"], "front_end": {"sample_rate": 32_000, "top_db": None}}
QUICK = settings(max_examples=25, deadline=None, derandomize=True)
Q = Quantization(0.5, 3)


def parse(content: bytes) -> Any:
    return schema.ModelT.InitFromPackedBuf(content, 0)


def kinds(model: Any) -> list[str]:
    """The operators by name, in order."""
    return [CODES[model.operatorCodes[each.opcodeIndex].builtinCode] for each in model.subgraphs[0].operators]


def tensors(model: Any, indices: Any) -> list[Any]:
    return [model.subgraphs[0].tensors[index] for index in indices]


def values(model: Any, tensor: Any, dtype: type) -> Any:
    return np.frombuffer(model.buffers[tensor.buffer].data.tobytes(), dtype).reshape(tensor.shape)


def convolution(
    size: tuple[int, int], window: tuple[int, int], stride: int, padding: tuple[int, int, int, int]
) -> Graph:
    """A depthwise convolution with the same stride in mel and frame."""
    sums = (padding[0] + padding[1], padding[2] + padding[3])
    outputs = ((size[axis] + sums[axis] - window[axis]) // stride + 1 for axis in (0, 1))
    operator = DepthwiseConv2D(
        inputs=("input",),
        output=Tensor("output", (1, *outputs, 3)),
        weights=np.ones((1, *window, 3), np.float32),
        bias=np.zeros(3, np.float32),
        stride=(stride, stride),
        padding=padding,
    )
    return Graph(Tensor("input", (1, *size, 3)), (operator,))


def written(graph: Graph) -> tuple[list[str], int]:
    """The operators of a graph's file, and the padding of the last."""
    model = parse(write_tflite(graph, {}))
    return kinds(model), model.subgraphs[0].operators[-1].builtinOptions.padding


@pytest.fixture(scope="module")
def small() -> Graph:
    """An integer graph of every operator, with paddings that are SAME, and that are not, and a linear layer."""
    rng, shape, half = np.random.default_rng(0), (1, 8, 12, 4), (1, 4, 6, 4)
    arrays: Any = {"bias": np.arange(4, dtype=np.int32), "weight_scales": np.full(4, 0.25, np.float32)}
    arrays["padding"] = (1, 1, 1, 1)
    first, second = (rng.integers(-9, 10, shape).astype(np.int8) for shape in ((4, 3, 3, 4), (1, 3, 3, 4)))
    pool: Any = {"window": (3, 3), "stride": (2, 2), "padding": (1, 1, 1, 1)}
    unpadded: Any = {"padding": (0, 0, 0, 0)}
    operators = (
        Conv2D(inputs=("input",), output=Tensor("conv", shape, Q), weights=first, relu=True, **arrays),
        Add(inputs=("input", "conv"), output=Tensor("sum", shape, Q), clamp=(0.0, 6.0)),
        DepthwiseConv2D(inputs=("sum",), output=Tensor("deep", half, Q), weights=second, stride=(2, 2), **arrays),
        Crop(inputs=("deep",), output=Tensor("cut", (1, 4, 5, 4), Q), crop=(0, 0, 1, 0)),
        Channels(inputs=("cut",), output=Tensor("left", (1, 4, 5, 2), Q), first=0),
        Channels(inputs=("cut",), output=Tensor("right", (1, 4, 5, 2), Q), first=2),
        Concat(inputs=("right", "left"), output=Tensor("turned", (1, 4, 5, 4), Q)),
        AveragePool2D(inputs=("turned",), output=Tensor("bands", (1, 4, 1, 4), Q), window=(1, 5)),
        Repeat(inputs=("bands",), output=Tensor("wide", (1, 4, 5, 4), Q), times=(1, 5)),
        Add(inputs=("turned", "wide"), output=Tensor("more", (1, 4, 5, 4), Q)),
        AveragePool2D(inputs=("more",), output=Tensor("pool", (1, 2, 3, 4), Q), **pool),
        MaxPool2D(inputs=("pool",), output=Tensor("most", (1, 1, 1, 4), Q), window=(2, 3)),
        Mean(inputs=("most",), output=Tensor("mean", (1, 1, 1, 4), Q)),
        Conv2D(
            inputs=("mean",), output=Tensor("linear", (1, 1, 1, 4), Q), weights=first[:, :1, :1], **arrays | unpadded
        ),
        Mean(inputs=("linear",), output=Tensor("logits", (1, 4), Q)),
    )
    return Graph(Tensor("input", shape, Q), operators)


# Operators


@given(integer_graphs())
@QUICK
def test_each_operator_is_written_as_one_of_its_kind_and_pads(graph: Graph) -> None:
    found = kinds(parse(write_tflite(graph, {})))
    assert set(found) <= ALLOWED | BESIDE
    names = {"Conv2D": "CONV_2D", "DepthwiseConv2D": "DEPTHWISE_CONV_2D", "AveragePool2D": "AVERAGE_POOL_2D"}
    names |= {"MaxPool2D": "MAX_POOL_2D", "Crop": "SLICE", "Channels": "SLICE", "Concat": "CONCATENATION"}
    kept = [each for each in found if each not in BESIDE]
    assert kept == [names.get(it.kind, it.kind.upper()) for it in graph.operators if it.kind != "Repeat"]


def test_cmsis_nn_has_a_kernel_for_all_that_computes_but_the_mean() -> None:
    assert ALLOWED.difference(CMSIS_NN, {"RESHAPE", "SLICE", "CONCATENATION"}) == {"MEAN"}


def test_tflite_micro_runs_every_operator(small: Graph) -> None:
    runtime = pytest.importorskip("tflite_micro.python.tflite_micro.runtime", reason="tflite-micro is not installed")
    content = write_tflite(small, METADATA)
    assert set(kinds(parse(content))) == ALLOWED
    interpreter, features = runtime.Interpreter.from_bytes(content, arena_size=2**16), inputs_of(small, 0)[-1:]
    interpreter.set_input(features, 0)
    interpreter.invoke()
    np.testing.assert_array_equal(interpreter.get_output(0), run(small, features))


def test_vela_leaves_no_operator_on_the_cpu(small: Graph, tmp_path: Path) -> None:
    vela = shutil.which("vela", path=Path(sys.executable).parent) or shutil.which("vela")
    if vela is None:
        pytest.skip("vela is not installed")
    (tmp_path / "small.tflite").write_bytes(write_tflite(small, METADATA))
    command = [vela, "small.tflite", "--accelerator-config", "ethos-u55-128", "--output-dir", "compiled"]
    ended = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr
    assert "CPU operators = 0 (0.0%)" in ended.stdout
    compiled = parse((tmp_path / "compiled/small_vela.tflite").read_bytes())
    assert kinds(compiled) == ["CUSTOM"]  # all in one for the NPU


# Padding


@pytest.mark.parametrize(
    ("size", "window", "stride", "padding", "expected"),
    [
        pytest.param((8, 9), (3, 3), 1, (1, 1, 1, 1), SAME, id="stride 1"),
        pytest.param((7, 9), (3, 3), 2, (1, 1, 1, 1), SAME, id="stride 2, odd"),
        pytest.param((8, 9), (3, 3), 2, (1, 1, 1, 1), VALID, id="stride 2, even mel"),
        pytest.param((9, 8), (3, 3), 2, (1, 1, 1, 1), VALID, id="stride 2, even frame"),
        pytest.param((8, 8), (3, 3), 2, (0, 1, 0, 1), SAME, id="stride 2, even, TFLite's own"),
        pytest.param((8, 8), (5, 3), 1, (2, 2, 1, 1), SAME, id="5 x 3"),
        pytest.param((8, 8), (3, 3), 1, (1, 1, 0, 0), VALID, id="mel only"),
        pytest.param((8, 8), (3, 1), 1, (1, 1, 0, 0), SAME, id="3 x 1"),
        pytest.param((8, 8), (3, 3), 1, (2, 2, 2, 2), VALID, id="more than needed"),
        pytest.param((8, 8), (2, 2), 1, (1, 0, 1, 0), VALID, id="before, not after"),
        pytest.param((8, 8), (2, 2), 1, (0, 1, 0, 1), SAME, id="after"),
    ],
)
def test_same_is_used_where_it_is_the_padding(size: Any, window: Any, stride: int, padding: Any, expected: int) -> None:
    pads = ["PAD"] * (expected == VALID)
    assert written(convolution(size, window, stride, padding)) == ([*pads, "DEPTHWISE_CONV_2D"], expected)


@given(st.integers(1, 12), st.integers(1, 5), st.integers(1, 4), st.data())
@settings(QUICK, max_examples=150)
def test_same_is_used_exactly_where_it_is_the_padding(size: int, window: int, stride: int, data: st.DataObject) -> None:
    before = data.draw(st.integers(0, window - 1))
    after = data.draw(st.integers(max(window - size - before, 0), window - 1))
    outputs = -(-size // stride)  # of SAME, which then pads the least that makes so many, more of it after
    least = next(total for total in range(99) if size + total >= window + (outputs - 1) * stride)
    expected = SAME if (before, after) == (least // 2, (least + 1) // 2) and least else VALID
    pads = ["PAD"] * (expected == VALID and before + after > 0)
    graph = convolution((size, 1), (window, 1), stride, (before, after, 0, 0))
    assert written(graph) == ([*pads, "DEPTHWISE_CONV_2D"], expected)


def test_a_pool_is_never_same_which_would_not_count_its_padding() -> None:
    pool: Any = {"window": (3, 3), "padding": (1, 1, 1, 1)}
    operator = AveragePool2D(inputs=("input",), output=Tensor("pool", (1, 8, 8, 3)), **pool)
    assert written(Graph(Tensor("input", (1, 8, 8, 3)), (operator,))) == (["PAD", "AVERAGE_POOL_2D"], VALID)


def pooled(padding: Any, zero_point: int | None) -> Graph:
    source = Tensor("input", (1, 8, 8, 3), None if zero_point is None else Quantization(0.5, zero_point))
    output = Tensor("pool", (1, 8, 8, 3), source.quantization)
    return Graph(source, (MaxPool2D(inputs=("input",), output=output, window=(3, 3), padding=padding),))


def test_a_maximum_is_padded_with_what_is_less_than_any_value() -> None:
    assert written(pooled((1, 1, 1, 1), 3)) == (["MAX_POOL_2D"], SAME)  # which passes over its padding
    assert written(pooled((2, 0, 1, 1), -128)) == (["PAD", "MAX_POOL_2D"], VALID)
    for zero_point, least in ((3, -128), (None, np.finfo(np.float32).min)):
        graph = pooled((2, 0, 1, 1), zero_point)
        assert written(graph) == (["PADV2", "MAX_POOL_2D"], VALID)
        model = parse(write_tflite(graph, {}))
        constant = tensors(model, model.subgraphs[0].operators[0].inputs)[2]
        assert values(model, constant, np.int8 if zero_point else np.float32) == least


@pytest.mark.parametrize(
    ("clamp", "expected", "fused"),
    [
        ((0.0, 6.0), [], schema.ActivationFunctionType.RELU6),
        ((-1.0, 1.0), [], schema.ActivationFunctionType.RELU_N1_TO_1),
        ((-2.0, 6.0), ["MAXIMUM", "MINIMUM"], schema.ActivationFunctionType.NONE),
        ((-2.0, 64.0), ["MAXIMUM"], schema.ActivationFunctionType.NONE),  # 131 steps: int8 ends before
        ((-66.0, 64.0), [], schema.ActivationFunctionType.NONE),
    ],
)
def test_bounds_are_fused_or_compared_or_int8s_own(clamp: Any, expected: list[str], fused: int) -> None:
    source = Tensor("input", (1, 4, 4, 3), Q)
    addition = Add(inputs=("input", "input"), output=Tensor("sum", (1, 4, 4, 3), Q), clamp=clamp)
    model = parse(write_tflite(Graph(source, (addition,)), {}))
    assert kinds(model) == ["ADD", *expected]
    assert model.subgraphs[0].operators[0].builtinOptions.fusedActivationFunction == fused


# Content


@given(integer_graphs())
@QUICK
def test_weights_scales_and_zero_points_are_the_graphs(graph: Graph) -> None:
    model = parse(write_tflite(graph, {}, small=True))
    steps = [
        each
        for each in model.subgraphs[0].operators
        if CODES[model.operatorCodes[each.opcodeIndex].builtinCode] not in BESIDE
    ]
    written_ones = [operator for operator in graph.operators if operator.kind != "Repeat"]
    for operator, step in zip(written_ones, steps, strict=True):
        output = tensors(model, step.outputs)[0]
        shape = (1, operator.output.shape[-1]) if operator.kind == "Mean" else operator.output.shape
        assert (tuple(output.shape), output.type) == (shape, schema.TensorType.INT8)
        assert output.quantization.scale.tolist() == [operator.output.q.scale]
        assert output.quantization.zeroPoint.tolist() == [operator.output.q.zero_point]
        if isinstance(operator, Convolution):
            _, weights, bias = tensors(model, step.inputs)
            np.testing.assert_array_equal(values(model, weights, np.int8), operator.weights)
            np.testing.assert_array_equal(values(model, bias, np.int32), operator.bias)
            np.testing.assert_array_equal(weights.quantization.scale, operator.scales)
            assert weights.quantization.quantizedDimension == operator.channel_axis
            assert not np.any(weights.quantization.zeroPoint)
            assert bias.quantization is None  # it follows from the others and would cost a device flash


@given(integer_graphs())
@QUICK
def test_a_bias_has_the_scales_that_follow_from_the_others(graph: Graph) -> None:
    model = parse(write_tflite(graph, {}))
    codes = [CODES[each.builtinCode] for each in model.operatorCodes]
    steps = [each for each in model.subgraphs[0].operators if "CONV_2D" in codes[each.opcodeIndex]]
    convolutions = [each for each in graph.operators if isinstance(each, Convolution)]
    for operator, step in zip(convolutions, steps, strict=True):
        _, _, bias = tensors(model, step.inputs)
        expected = operator.scales * np.float32(graph.sources(operator)[0].q.scale)
        np.testing.assert_array_equal(bias.quantization.scale, expected)
        assert not np.any(bias.quantization.zeroPoint)


@pytest.mark.parametrize("integer", [True, False])
def test_input_and_output_have_the_graphs_type(integer: bool, small: Graph) -> None:
    graph = small if integer else float_graph(0)
    interpreter = Interpreter(model_content=write_tflite(graph, {}))
    for tensor, details in (
        (graph.input, interpreter.get_input_details()),
        (graph.output, interpreter.get_output_details()),
    ):
        assert [(tuple(each["shape"]), each["dtype"]) for each in details] == [
            (tensor.shape, np.int8 if integer else np.float32)
        ]
        assert details[0]["quantization"] == ((Q.scale, Q.zero_point) if integer else (0.0, 0))


def test_names_are_left_out_of_a_small_file(small: Graph) -> None:
    without, named = (write_tflite(small, METADATA, small=left_out) for left_out in (True, False))
    assert len(without) < len(named)
    assert not any(each.name for each in parse(without).subgraphs[0].tensors)
    names = {each.name.decode() for each in parse(named).subgraphs[0].tensors}
    assert names > set(small.tensors) - {"wide"}  # which ADD makes as it adds


def test_metadata_comes_back_from_the_file(small: Graph) -> None:
    model = parse(write_tflite(small, METADATA))
    found = {each.name.decode(): model.buffers[each.buffer].data.tobytes() for each in model.metadata}
    assert json.loads(found["tinyscene"]) == METADATA


def test_a_graph_makes_the_same_bytes_in_another_process() -> None:
    program = """import sys; from tinyscene.deploy.graph.tflite_writer import write_tflite
from tests.graphs import float_graph
sys.stdout.buffer.write(write_tflite(float_graph(7), {"b": 1, "a": 2}))"""
    other = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, check=True).stdout
    assert write_tflite(float_graph(7), {"b": 1, "a": 2}) == other


def test_constants_lie_at_multiples_of_four_bytes(small: Graph) -> None:
    content = write_tflite(small, METADATA)
    for operator in small.operators:
        if isinstance(operator, Convolution):
            assert content.index(operator.bias.tobytes()) % 4 == 0


@given(integer_graphs())
@QUICK
def test_the_budget_counts_the_graphs_own_macs(tmp_path_factory: pytest.TempPathFactory, graph: Graph) -> None:
    (path := tmp_path_factory.getbasetemp() / "counted.tflite").write_bytes(write_tflite(graph, {}))
    convolutions = [each for each in graph.operators if isinstance(each, Convolution)]
    count = count_tflite(path)
    assert count.macs == sum(each.macs for each in convolutions)
    assert count.parameters == sum(each.weights.size + each.bias.size for each in convolutions)

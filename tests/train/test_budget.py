"""The budget: counts worked out by hand, the limits of the challenge, and files that are not what they claim."""

import contextlib
import json
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import flatbuffers
import numpy as np
import onnx
import pytest
import safetensors.torch
from ai_edge_litert import schema_py_generated as tflite
from ai_edge_litert.interpreter import Interpreter
from onnx import helper, numpy_helper

from tests.deploy.test_bundle import reindexed
from tinyscene.deploy.bundle.bundle import Bundle
from tinyscene.deploy.common.errors import InputError
from tinyscene.train.data.datasets import SCENES
from tinyscene.train.models import build
from tinyscene.train.recipe import load_recipe
from tinyscene.train.runs.budget import count_recipe, count_target, least_macs
from tinyscene.train.runs.model_files import count_onnx, count_tflite
from tinyscene.train.runs.run import Card, save_tensors
from tinyscene.train.training_settings import Budget

RunCli = Callable[..., tuple[int, str, str]]
Shape = Sequence[int | str]
MUTATIONS = 500  # of each small file
INT8_WEIGHTS = np.ones((6, 4, 3, 3), np.int8)


def random(*shape: int) -> np.ndarray:
    return np.random.default_rng(5).standard_normal(shape).astype(np.float32)


def onnx_file(path: Path, nodes: list[onnx.NodeProto], shapes: dict[str, Shape], **weights: np.ndarray) -> Path:
    first, last = (helper.make_tensor_value_info(name, 1, shapes[name]) for name in (min(shapes), max(shapes)))
    constants = [numpy_helper.from_array(np.asarray(array), name) for name, array in weights.items()]
    graph = helper.make_graph(nodes, "small", [first], [last], constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    path.write_bytes(model.SerializeToString())
    return path


def small_onnx(path: Path) -> Path:
    nodes = [
        helper.make_node("Conv", ["a", "w1", "b1"], ["c"], group=2, pads=[1, 1, 1, 1], strides=[2, 2]),
        helper.make_node("GlobalAveragePool", ["c"], ["p"]),
        helper.make_node("Flatten", ["p"], ["f"]),
        helper.make_node("Gemm", ["f", "w2", "b2"], ["g"], transB=1),
        helper.make_node("MatMul", ["g", "w3"], ["z"]),
    ]
    weights = {"w1": random(6, 2, 3, 3), "b1": random(6), "w2": random(10, 6), "b2": random(10), "w3": random(10, 3)}
    return onnx_file(path, nodes, {"a": ("batch", 4, 8, 10), "z": ("batch", 3)}, **weights)


TFLITE_LAYERS = (  # from 8 x 10 x 3: kind, options, shapes of the weights and of the output
    ("CONV_2D", tflite.Conv2DOptionsT(strideW=2, strideH=2), (4, 3, 3, 3), (1, 4, 5, 4)),
    ("DEPTHWISE_CONV_2D", tflite.DepthwiseConv2DOptionsT(0, 1, 1, depthMultiplier=1), (1, 3, 3, 4), (1, 4, 5, 4)),
    ("FULLY_CONNECTED", tflite.FullyConnectedOptionsT(), (6, 80), (1, 6)),
)


def small_tflite(path: Path, weight_type: str = "float32", bias_type: str = "float32") -> Path:
    tensors, buffers, operators, codes = [], [tflite.BufferT()], [], []

    def tensor(shape: tuple[int, ...], kind: str, content: np.ndarray | None = None) -> int:
        if content is not None:
            buffers.append(tflite.BufferT(np.frombuffer(content.astype(kind).tobytes(), np.uint8)))
        number, buffer = getattr(tflite.TensorType, kind.upper()), 0 if content is None else len(buffers) - 1
        tensors.append(tflite.TensorT(list(shape), number, buffer, f"t{len(tensors)}".encode()))
        return len(tensors) - 1

    last = tensor((1, 8, 10, 3), weight_type)
    for kind, options, weights, output in TFLITE_LAYERS:
        biases, number = output[-1:], getattr(tflite.BuiltinOperator, kind)
        inputs = [last, tensor(weights, weight_type, random(*weights)), tensor(biases, bias_type, random(*biases))]
        last = tensor(output, weight_type)
        options_kind = getattr(tflite.BuiltinOptions, type(options).__name__.removesuffix("T"))
        operators.append(tflite.OperatorT(len(codes), inputs, [last], options_kind, options))
        codes.append(tflite.OperatorCodeT(number, builtinCode=number))
    graph = tflite.SubGraphT(tensors, [0], [last], operators)
    builder = flatbuffers.Builder()
    builder.Finish(tflite.ModelT(3, codes, [graph], buffers=buffers).Pack(builder), b"TFL3")
    path.write_bytes(builder.Output())
    return path


def test_onnx_layers_are_counted_by_hand(tmp_path: Path) -> None:
    count = count_onnx(small_onnx(tmp_path / "small.onnx"))
    # 6 x 4 x 5 values of 2 x 3 x 3 products, 10 of 6, 3 of 10
    assert [layer.macs for layer in count.layers] == [2160, 0, 0, 60, 30]
    assert [layer.parameters for layer in count.layers] == [108 + 6, 0, 0, 60 + 10, 30]
    assert (count.parameters, count.macs, count.bytes, count.precision) == (214, 2250, 4 * 214, "float")


PRODUCTS = [("wa", [7, 2], [5, 7], [5, 2]), ("aw", [4, 5, 7], [4, 7, 2], [4, 5, 2])]  # constant on the left; stacked


@pytest.mark.parametrize(("order", "a", "w", "z"), PRODUCTS)
def test_a_product_takes_seven_multiplications_a_value(order: str, a: list, w: list, z: list, tmp_path: Path) -> None:
    node = helper.make_node("MatMul", list(order), ["z"])
    assert count_onnx(onnx_file(tmp_path / "x.onnx", [node], {"a": a, "z": z}, w=random(*w))).macs == 7 * np.prod(z)


@pytest.mark.parametrize(
    ("source", "constants", "size"),
    [
        (helper.make_node("Constant", [], ["w"], value=numpy_helper.from_array(random(6, 4, 3, 3))), {}, 4 * 216),
        (helper.make_node("DequantizeLinear", ["q", "s"], ["w"]), {"q": INT8_WEIGHTS, "s": np.float32(0.1)}, 216 + 4),
    ],
)
def test_weights_behind_a_node_are_counted(source: onnx.NodeProto, constants: dict, size: int, tmp_path: Path) -> None:
    nodes = [source, helper.make_node("Conv", ["a", "w"], ["z"])]
    count = count_onnx(onnx_file(tmp_path / "x.onnx", nodes, {"a": (1, 4, 3, 3), "z": (1, 6, 1, 1)}, **constants))
    assert (count.macs, count.bytes) == (216, size)


@pytest.mark.parametrize(("weights", "biases", "size"), [("float32", "float32", 4 * 638), ("int8", "int32", 680)])
def test_tflite_layers_are_counted_by_hand(weights: str, biases: str, size: int, tmp_path: Path) -> None:
    count = count_tflite(small_tflite(tmp_path / "small.tflite", weights, biases))
    # 4 x 5 x 4 values of 3 x 3 x 3 products, as many of 3 x 3, 6 of 80
    assert [layer.macs for layer in count.layers] == [2160, 720, 480]
    assert [layer.parameters for layer in count.layers] == [108 + 4, 36 + 4, 480 + 6]
    assert (count.parameters, count.macs, count.bytes) == (638, 3360, size)  # in int8: 624 weights, 14 biases of 4


def test_the_small_tflite_file_is_one_that_runs(tmp_path: Path) -> None:
    interpreter = Interpreter(model_path=str(small_tflite(tmp_path / "small.tflite")))
    interpreter.allocate_tensors()
    interpreter.set_tensor(0, random(1, 8, 10, 3))
    interpreter.invoke()
    assert np.ptp(interpreter.get_tensor(interpreter.get_output_details()[0]["index"])) > 0


@pytest.mark.parametrize(("make", "count"), [(small_onnx, count_onnx), (small_tflite, count_tflite)])
def test_a_damaged_file_is_counted_or_refused(make: Callable, count: Callable, tmp_path: Path) -> None:
    whole, path = make(tmp_path / "whole").read_bytes(), tmp_path / "damaged"
    random_bytes, counted = np.random.default_rng(6), 0
    for number in range(MUTATIONS):
        damaged, at = bytearray(whole), random_bytes.integers(0, len(whole), 1 + number % 4)
        for where in at:
            damaged[where] = random_bytes.integers(0, 256)
        path.write_bytes(damaged if number % 10 else damaged[: at[0]])
        with contextlib.suppress(InputError):
            result = count(path)
            counted += 1
            assert min(result.macs, result.bytes, result.parameters) >= 0
    assert 0 < counted < MUTATIONS


@pytest.mark.parametrize("name", ["x.onnx", "x.tflite", "x.safetensors"])
@pytest.mark.parametrize("content", [b"", b"garbage", b"\x1c\x00\x00\x00TFL3" + bytes(range(256))])
def test_a_file_that_is_no_model_is_one_line(name: str, content: bytes, tmp_path: Path, run_cli: RunCli) -> None:
    (tmp_path / name).write_bytes(content)
    code, out, err = run_cli("budget", tmp_path / name)
    assert (code, out, err.count("\n"), name in err) == (2, "", 1, True)


def saved_run(folder: Path, settings: list[str] | None = None) -> int:
    """Write a run of four classes; returns its parameters."""
    recipe = load_recipe("nano", settings)
    network = build(recipe.model, 4)
    card = Card(recipe=recipe.as_dict(), labels=SCENES[:4], split=None, data_hash=None, micro_batch=None, made_by={})
    save_tensors(folder / "model.safetensors", network.state_dict(), card)
    return sum(each.numel() for each in network.parameters())


def test_a_run_is_counted_with_its_own_number_of_classes(tmp_path: Path) -> None:
    parameters = saved_run(tmp_path)
    targets = (str(tmp_path), str(tmp_path / "model.safetensors"))
    assert [count_target(target, None, None)[0].parameters for target in targets] == [parameters] * 2


def test_the_recipe_of_weights_without_a_card_is_found(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    safetensors.torch.save_file(build(load_recipe("micro").model, 10).state_dict(), path)
    assert count_target(str(path), None, None)[0].layers == count_target("micro", None, None)[0].layers


@pytest.mark.parametrize("option", [("--recipe", "nano"), ("--set", "model.base_channels=16")])
def test_a_model_that_says_what_it_is_takes_no_recipe(
    option: tuple[str, str], tmp_path: Path, bundle: Bundle, run_cli: RunCli
) -> None:
    saved_run(tmp_path)
    for target in (tmp_path, bundle.folder, small_onnx(tmp_path / "small.onnx")):
        code, out, err = run_cli("budget", target, *option)
        assert (code, out, err.count("\n")) == (2, "", 1)
        assert f"{option[0]}: {target} already says which network it is" in err


def test_a_recipe_is_named_once(run_cli: RunCli) -> None:
    code, out, err = run_cli("budget", "micro", "--recipe", "nano")
    assert (code, out) == (2, "")
    assert "--recipe: micro names a recipe itself" in err


def test_the_published_weights_cost_what_is_published(baseline_weights: Path) -> None:
    count = count_target(str(baseline_weights), None, None)[0]
    assert (count.parameters, count.macs) == (61_148, 29_419_156)


@pytest.mark.parametrize(
    ("options", "code"),
    [("macs 2250", 0), ("macs 2249", 3), ("bytes 856", 0), ("bytes 855", 3), ("bytes 855 --allow-over-budget", 0)],
)
def test_exit_code_three_is_over_a_limit(options: str, code: int, tmp_path: Path, run_cli: RunCli) -> None:
    assert run_cli("budget", small_onnx(tmp_path / "small.onnx"), *f"--max-{options}".split())[0] == code


@pytest.mark.parametrize(("limit", "code"), [("macs=29419156", 0), ("macs=29419155", 3), ("bytes=122295", 3)])
def test_a_recipe_sets_its_own_limits(limit: str, code: int, run_cli: RunCli) -> None:
    assert run_cli("budget", "baseline", "--set", f"budget.max_{limit}")[0] == code


@pytest.mark.parametrize(("precision", "size"), [("float32", 4), ("float16", 2), ("int8", 1)])
def test_json_is_one_object_in_the_precision_of_the_recipe(precision: str, size: int, run_cli: RunCli) -> None:
    code, out, _ = run_cli("budget", "baseline", "--set", f"budget.precision={precision}", "--json")
    result = json.loads(out)
    assert (result["parameters"], result["macs"], result["bytes"]) == (61_148, 29_419_156, 61_148 * size)
    assert (code == 0) is result["within_budget"] is (61_148 * size <= 128_000)


def test_an_operator_that_cannot_be_counted_is_an_error(tmp_path: Path) -> None:
    node = helper.make_node("ConvTranspose", ["a", "w"], ["z"])
    path = onnx_file(tmp_path / "x.onnx", [node], {"a": (1, 4, 3, 3), "z": (1, 6, 5, 5)}, w=random(4, 6, 3, 3))
    with pytest.raises(InputError, match="ConvTranspose '' is an operator that is not counted here"):
        count_onnx(path)


def test_an_operator_of_another_domain_is_an_error(tmp_path: Path) -> None:
    node = helper.make_node("Conv", ["a", "w"], ["z"], domain="com.example")
    path = onnx_file(tmp_path / "x.onnx", [node], {"a": (1, 4, 3, 3), "z": (1, 6, 1, 1)}, w=random(6, 4, 3, 3))
    with pytest.raises(InputError):
        count_onnx(path)


def test_sizes_are_inferred_and_not_believed(tmp_path: Path) -> None:
    node = helper.make_node("Conv", ["a", "w"], ["c"])
    nodes = [node, helper.make_node("GlobalAveragePool", ["c"], ["z"])]
    path = onnx_file(tmp_path / "x.onnx", nodes, {"a": (1, 4, 99, 99), "z": ("n", 6, "h", "w")}, w=random(6, 4, 1, 1))
    model = onnx.load(path)
    model.graph.value_info.append(helper.make_tensor_value_info("c", 1, ("n", 6, "h", "w")))
    onnx.save(model, path)
    assert count_onnx(path).macs == 99 * 99 * 6 * 4


def test_a_size_that_is_not_known_is_an_error(tmp_path: Path) -> None:
    node = helper.make_node("Conv", ["a", "w"], ["z"])
    shapes: dict[str, Shape] = {"a": (1, 4, "h", "w"), "z": (1, 6, "h", "w")}
    with pytest.raises(InputError, match="the size of what Conv '' makes is not known"):
        count_onnx(onnx_file(tmp_path / "x.onnx", [node], shapes, w=random(6, 4, 1, 1)))


def test_products_that_are_written_as_multiplications_are_counted(tmp_path: Path) -> None:
    nodes = [helper.make_node("Mul", ["a", "w"], ["m"]), helper.make_node("ReduceSum", ["m"], ["z"], keepdims=0)]
    path = onnx_file(tmp_path / "x.onnx", nodes, {"a": (1, 1, 100), "z": ()}, w=random(1, 50, 100))
    assert count_onnx(path).macs == 5_000


def changed_tflite(path: Path, change: Callable[[tflite.SubGraphT], object]) -> Path:
    """The small file with a change of its graph."""
    model: Any = tflite.ModelT.InitFromPackedBuf(small_tflite(path).read_bytes(), 0)
    change(model.subgraphs[0])
    builder = flatbuffers.Builder()
    builder.Finish(model.Pack(builder), b"TFL3")
    path.write_bytes(builder.Output())
    return path


@pytest.mark.parametrize(
    ("reason", "change"),
    [
        (r"makes \[1, 4, 5, 4\], and the file says \[1, 1, 1, 1\]", lambda g: setattr(g.tensors[3], "shape", [1] * 4)),
        (r"makes \[1, 6\], and the file says \[1, 1\]", lambda g: setattr(g.tensors[9], "shape", [1, 1])),
        ("cannot reshape", lambda g: setattr(g.tensors[1], "shape", [4, 1, 1, 1])),
        ("takes tensor 0, which nothing makes before", lambda g: setattr(g, "inputs", [])),
        ("takes tensor 6, which nothing makes before", lambda g: g.operators.reverse()),
        ("takes 4 channels by weights for 3", lambda g: setattr(g.tensors[0], "shape", [1, 8, 10, 4])),
    ],
)
def test_a_tflite_file_cannot_tell_other_sizes_than_its_operators_make(
    reason: str, change: Callable[[tflite.SubGraphT], object], tmp_path: Path
) -> None:
    with pytest.raises(InputError, match=reason):
        count_tflite(changed_tflite(tmp_path / "x.tflite", change))


def test_a_tflite_operator_that_cannot_be_counted_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tests.train.test_budget.TFLITE_LAYERS", (("BATCH_MATMUL", *TFLITE_LAYERS[2][1:]),))
    with pytest.raises(InputError, match="BATCH_MATMUL is an operator that is not counted here"):
        count_tflite(small_tflite(tmp_path / "x.tflite"))


@pytest.mark.parametrize("key", ["macs", "parameters", "deployed_bytes", "deployed_macs"])
def test_a_bundle_cannot_tell_a_smaller_budget_than_its_graph_has(key: str, bundle: Bundle, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(bundle.folder, tmp_path / "copy"))
    reindexed(folder, budget=bundle.content["budget"] | {key: 1})
    with pytest.raises(InputError, match="make the bundle again"):
        count_target(str(folder), None, None)


def test_a_bundle_of_seconds_cannot_hide_its_macs_behind_those_of_another_clip(bundle: Bundle, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(bundle.folder, tmp_path / "copy"))
    reindexed(folder, budget=bundle.content["budget"] | {"macs": 1, "clip_macs": 10**12})
    with pytest.raises(InputError, match="make the bundle again"):
        count_target(str(folder), None, None)


@pytest.mark.parametrize(
    ("recipe", "settings"),
    [("nano", ["features.clip_seconds=0.5"]), ("nano", ["features.clip_seconds=4"]), ("micro16k-stream", [])],
)
def test_a_second_has_no_fewer_macs_than_a_bundle_may_tell(recipe: str, settings: list[str]) -> None:
    count = count_recipe(load_recipe(recipe, settings))
    assert count.deployed is not None
    assert count.macs >= least_macs(count.deployed.macs, count.clip_seconds)


def test_a_bundle_and_a_run_do_not_bring_their_own_limits(bundle: Bundle, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(bundle.folder, tmp_path / "copy"))
    limits = {"max_macs": 10**12, "max_bytes": 10**12}
    reindexed(folder, recipe=bundle.content["recipe"] | {"budget": limits})
    assert count_target(str(folder), None, None)[1] == Budget()
    saved_run(tmp_path, ["budget.max_macs=1000000000000"])
    assert count_target(str(tmp_path / "model.safetensors"), None, None)[1] == Budget()

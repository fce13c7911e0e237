"""Graphs on disk: what is saved comes back; any other file is refused in one line, or is a graph that runs."""

import json
import shutil
import tracemalloc
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.graphs import float_graph, inputs_of, integer_graphs
from tinyscene.deploy.common.errors import InputError
from tinyscene.deploy.graph.graph import Graph
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
from tinyscene.deploy.graph.storage import FORMAT, load_graph, save_graph
from tinyscene.deploy.graph.tensor import Quantization, Tensor

MB = 2**20
JUNK: list[Any] = [None, True, 0, -1, 1, 2, 3, 2**31, 10**30, 0.5, 1e300, float("nan"), "", "a", "input", "Mean"]
JUNK += ["\ud800", "a\nb", [], [1, 1], [[]], [2**31 - 1] * 4, [1] * 3, ["input"], {}, {"scale": 0.5, "zero_point": 0}]


def assert_same(one: Any, two: Any) -> None:
    """Equal in every field, arrays in type too."""
    assert type(one) is type(two)
    for each in fields(one):
        here, there = getattr(one, each.name), getattr(two, each.name)
        if isinstance(here, np.ndarray):
            assert here.dtype == there.dtype
            np.testing.assert_array_equal(here, there)
        else:
            assert here == there


def assert_comes_back(made: Graph, folder: Path) -> None:
    save_graph(made, folder, "graph")
    loaded = load_graph(folder, "graph")
    assert loaded.tensors == made.tensors
    for one, two in zip(made.operators, loaded.operators, strict=True):
        assert_same(one, two)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a small graph of every operator, `whole`."""
    q, shape = Quantization(0.5, 3), (1, 4, 5, 2)
    arrays: Any = {"bias": np.array([9, -9], np.int32), "weight_scales": np.array([0.25, 0.5], np.float32)}
    pool: Any = {"window": (2, 2), "stride": (2, 2), "padding": (0, 0, 0, 1)}
    operators = (
        Conv2D(inputs=("input",), output=Tensor("a", shape, q), weights=np.ones((2, 1, 1, 2), np.int8), **arrays),
        Add(inputs=("input", "a"), output=Tensor("b", shape, q), relu=True),
        DepthwiseConv2D(inputs=("b",), output=Tensor("c", shape, q), weights=np.ones((1, 1, 1, 2), np.int8), **arrays),
        AveragePool2D(inputs=("c",), output=Tensor("d", (1, 2, 3, 2), q), **pool),
        MaxPool2D(inputs=("d",), output=Tensor("e", (1, 1, 2, 2), q), window=(2, 2)),
        Add(inputs=("e", "e"), output=Tensor("f", (1, 1, 2, 2), q), clamp=(-1.0, 6.0)),
        Crop(inputs=("f",), output=Tensor("g", (1, 1, 1, 2), q), crop=(0, 0, 1, 0)),
        Repeat(inputs=("g",), output=Tensor("h", (1, 3, 1, 2), q), times=(3, 1)),
        Add(inputs=("h", "h"), output=Tensor("i", (1, 3, 1, 2), q)),
        Channels(inputs=("i",), output=Tensor("j", (1, 3, 1, 1), q), first=1),
        Concat(inputs=("j", "j"), output=Tensor("k", (1, 3, 1, 2), q)),
        Mean(inputs=("k",), output=Tensor("mean", (1, 2), q)),
    )
    path = tmp_path_factory.mktemp("graphs")
    save_graph(Graph(Tensor("input", shape, q), operators), path, "whole")
    return path


@given(made=integer_graphs())
@settings(max_examples=50, deadline=None, derandomize=True)
def test_a_graph_comes_back_from_its_files(folder: Path, made: Graph) -> None:
    assert_comes_back(made, folder)


def test_a_float_graph_comes_back_from_its_files(tmp_path: Path) -> None:
    assert_comes_back(float_graph(0), tmp_path)


@pytest.mark.parametrize("view", ["transposed", "fortran", "strided", "reversed"])
def test_weights_in_any_memory_order_come_back(view: str, tmp_path: Path) -> None:
    weights = np.arange(4 * 3 * 2 * 2, dtype=np.float32).reshape(4, 3, 2, 2)
    views = {
        "transposed": weights.T,
        "fortran": np.asfortranarray(weights),
        "strided": weights[::2],
        "reversed": weights[::-1],
    }
    weights = views[view]
    outputs, tall, wide, inputs = weights.shape
    output = Tensor("output", (1, 5 - tall, 6 - wide, outputs))
    operator = Conv2D(inputs=("input",), output=output, weights=weights, bias=np.zeros(outputs, np.float32))
    assert_comes_back(Graph(Tensor("input", (1, 4, 5, inputs)), (operator,)), tmp_path)


def damaged(content: bytes) -> st.SearchStrategy[bytes]:
    """Bytes with up to three of: a byte changed, a part taken out, bytes put in, the end cut off."""

    def apply(edits: list[tuple[str, int, bytes]]) -> bytes:
        damaged = content
        for kind, where, new in edits:
            place = where % (len(damaged) + 1)
            end = {"change": place + len(new), "remove": place + 5, "insert": place, "cut": len(damaged)}[kind]
            damaged = damaged[:place] + (b"" if kind in ("remove", "cut") else new) + damaged[end:]
        return damaged

    kinds = st.sampled_from(["change", "change", "insert", "remove", "cut"])
    return st.lists(
        st.tuples(kinds, st.integers(0, len(content)), st.binary(min_size=1, max_size=3)), min_size=1, max_size=3
    ).map(apply)


@st.composite
def mutated(draw: Any, content: bytes) -> bytes:
    """JSON with up to four values replaced, keys removed, renamed, or given twice."""
    whole = json.loads(content)
    for _ in range(draw(st.integers(1, 4))):
        places, waiting = [], [whole]
        while waiting:
            each = waiting.pop()
            keys = list(each) if isinstance(each, dict) else list(range(len(each)))
            places += [(each, key) for key in keys]
            waiting += [each[key] for key in keys if isinstance(each[key], dict | list)]
        if not places:
            break
        holder, key = draw(st.sampled_from(places))
        junk = json.loads(json.dumps(draw(st.sampled_from(JUNK))))
        match draw(st.sampled_from(["replace", "replace", "remove", "twice", "rename"])):
            case "remove":
                del holder[key]
            case "rename" if isinstance(holder, dict):
                holder[draw(st.sampled_from(["a\nb", "\ud800", "stride", "weights"]))] = holder.pop(key)
            case "twice" if isinstance(holder, dict):
                holder[f"\0{key}"] = junk
            case _:
                holder[key] = junk
    return json.dumps(whole).replace('"\\u0000', '"').encode()


@pytest.mark.parametrize("tries", [300, pytest.param(5_000, marks=pytest.mark.slow)])
@pytest.mark.parametrize(("suffix", "damage"), [("json", damaged), ("json", mutated), ("safetensors", damaged)])
def test_a_damaged_file_is_refused_in_one_line_or_a_graph_that_runs(
    suffix: str, damage: Callable[[bytes], st.SearchStrategy[bytes]], tries: int, folder: Path, tmp_path: Path
) -> None:
    contents = {each: (folder / f"whole.{each}").read_bytes() for each in ("json", "safetensors")}

    @settings(max_examples=tries, deadline=None, derandomize=True)
    @given(damage(contents[suffix]))
    def attempt(content: bytes) -> None:
        for each, whole in contents.items():
            (tmp_path / f"damaged.{each}").write_bytes(content if each == suffix else whole)
        line = ""
        tracemalloc.start()
        try:
            loaded = load_graph(tmp_path, "damaged")
            assert run(loaded, inputs_of(loaded, 0)).shape[1:] == loaded.output.shape[1:]
        except InputError as error:
            line = str(error)
        finally:
            peak = tracemalloc.get_traced_memory()[1]
            tracemalloc.stop()
        assert line.isprintable()
        assert len(line) < 1_000
        assert peak < 200 * MB

    attempt()


def replaced(old: str, new: str) -> Callable[[bytes], bytes]:
    def replace(content: bytes) -> bytes:
        assert old.encode() in content
        return content.replace(old.encode(), new.encode("latin-1"), 1)

    return replace


def rearranged(change: Callable[[dict[str, Any]], object]) -> Callable[[bytes], bytes]:
    def rearrange(content: bytes) -> bytes:
        arrays = safetensors.numpy.load(content)
        change(arrays)
        return safetensors.numpy.save(arrays)

    return rearrange


BAD_FILES: dict[str, tuple[str, Callable[[bytes], bytes], str]] = {  # the file, what is done to it, and what is said
    "newer": ("json", replaced(f'"format": {FORMAT}', f'"format": {FORMAT + 1}'), f"format {FORMAT + 1}: .*upgrade"),
    "older": ("json", replaced(f'"format": {FORMAT}', '"format": 0'), "format 0: this tinyscene reads 1"),
    "no format": ("json", replaced("format", "forma"), "not a graph .*'format'"),
    "operator": ("json", replaced("Conv2D", "LSTM"), "operator 'LSTM' is unknown: known are Conv2D"),
    "setting": ("json", replaced('"relu"', '"gelu"'), "not a graph .*gelu"),
    "cut short": ("json", lambda content: content[:-9], "not a graph"),
    "empty": ("json", lambda _: b"", "not a graph"),
    "not an object": ("json", lambda _: b"[]", "not a graph"),
    "NaN": ("json", replaced("0.5", "NaN"), "a scale of nan"),
    "infinity": ("json", replaced("0.5", "1e999"), "a scale of inf"),
    "huge number": ("json", replaced("4,", "9" * 5_000 + ","), "not a graph"),
    "huge shape": ("json", replaced("4,", "2147483647,"), "a batch of 1"),
    "long shape": ("json", replaced("4,", "4," * 99_999), "shape of input .{,200}$"),
    "deep": ("json", replaced("4,", "[" * 99_999), "not a graph"),
    "not UTF-8": ("json", replaced('"input"', '"inp\xff"'), "not a graph"),
    "words": ("safetensors", lambda _: b"not a tensor", "not a graph"),
    "cut": ("safetensors", lambda content: content[:-1], "not a graph"),
    "huge header": ("safetensors", lambda content: b"\xff" * 7 + b"\x3f" + content[8:], "not a graph"),
    "missing": ("safetensors", rearranged(lambda arrays: arrays.pop("a/bias")), "not a graph .*'bias'"),
    "extra": ("safetensors", rearranged(lambda arrays: arrays.update(b=np.zeros(1))), "no operator has the array 'b'"),
    "a setting": ("safetensors", rearranged(lambda arrays: arrays.update({"a/stride": np.eye(3)})), "no operator has"),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD_FILES)
def test_a_bad_file_is_named_in_one_short_line(name: str, folder: Path, tmp_path: Path) -> None:
    bad, change, line = BAD_FILES[name]
    for suffix in ("json", "safetensors"):
        content = (folder / f"whole.{suffix}").read_bytes()
        (tmp_path / f"bad.{suffix}").write_bytes(change(content) if suffix == bad else content)
    with pytest.raises(InputError, match=line) as refused:
        load_graph(tmp_path, "bad")
    assert str(refused.value).startswith(f"{tmp_path / 'bad'}")
    assert str(refused.value).isprintable()
    assert len(str(refused.value)) < 1_000


@pytest.mark.parametrize("suffix", ["json", "safetensors"])
def test_a_file_that_is_not_there_is_named(suffix: str, folder: Path, tmp_path: Path) -> None:
    (tmp_path / "graph.json").write_bytes((folder / "whole.json").read_bytes())
    (tmp_path / f"graph.{suffix}").unlink(missing_ok=True)
    with pytest.raises(InputError, match=f"graph.{suffix}: No such file"):
        load_graph(tmp_path, "graph")


def test_a_file_too_large_is_not_read(folder: Path, tmp_path: Path) -> None:
    for suffix in ("json", "safetensors"):
        (tmp_path / f"graph.{suffix}").write_bytes((folder / f"whole.{suffix}").read_bytes())
    with (tmp_path / "graph.safetensors").open("ab") as file:
        file.truncate(2**40)  # sparse
    with pytest.raises(InputError, match=r"graph\.safetensors is larger than 64 MB"):
        load_graph(tmp_path, "graph")


def test_a_graph_of_4_mb_is_read_and_a_larger_one_is_not(folder: Path, tmp_path: Path) -> None:
    shutil.copy(folder / "whole.safetensors", tmp_path / "graph.safetensors")
    content = (folder / "whole.json").read_text()
    (tmp_path / "graph.json").write_text(content.ljust(4 * MB))
    assert load_graph(tmp_path, "graph").operators
    (tmp_path / "graph.json").write_text(content.ljust(4 * MB + 1))
    with pytest.raises(InputError, match=r"graph\.json is larger than 4 MB"):
        load_graph(tmp_path, "graph")

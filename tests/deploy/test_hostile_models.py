"""Hostile model files: refused in one line, without a crash, a traceback or memory without bound.

ONNX Runtime is C++, so its tries run in a process of their own: a crash there is seen as a failure here.
"""

import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from tests import ROOT
from tinyscene.deploy.common.errors import InputError
from tinyscene.deploy.graph.onnx_writer import write_onnx
from tinyscene.deploy.graph.tflite_writer import write_tflite
from tinyscene.deploy.live.classifier import OnnxClassifier
from tinyscene.train.data.datasets import SCENES
from tinyscene.train.models import build
from tinyscene.train.quantize.lower import lower
from tinyscene.train.recipe import load_recipe
from tinyscene.train.runs.model_files import count_tflite

MEMORY = 1_500  # MB that a process may have used at its peak

# Arguments: the model, the folder for broken copies, the first seed, how many
FUZZ = f"""
import resource, sys
from pathlib import Path
import numpy as np
from tinyscene.deploy.live.classifier import OnnxClassifier
from tinyscene.deploy.common.errors import InputError
from tests.deploy.test_hostile_models import broken
from tinyscene.train.runs.budget import count_onnx
content, copy = Path(sys.argv[1]).read_bytes(), Path(sys.argv[2]) / "broken.onnx"
refused = 0
for seed in range(int(sys.argv[3]), int(sys.argv[3]) + int(sys.argv[4])):
    copy.write_bytes(broken(content, seed))
    for read in (OnnxClassifier, count_onnx):
        try:
            read(copy)
        except InputError as error:
            refused += 1
            assert str(error).isprintable(), (seed, str(error))
assert refused, "no copy was broken enough"
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
assert peak < {MEMORY}, f"{{peak}} MB"
"""


def broken(content: bytes, seed: int) -> bytes:
    """A file cut short, or with a few bytes changed, put in or taken out, half of them in its first part."""
    rng = np.random.default_rng(seed)
    if seed % 4 == 0:
        return content[: rng.integers(len(content))]
    changed = bytearray(content)
    for _ in range(rng.integers(1, 6)):
        place = int(rng.integers(min(1500, len(changed)) if rng.integers(2) else len(changed)))
        if seed % 4 == 1:
            changed[place] = int(rng.integers(256))
        elif seed % 4 == 2:
            changed[place : place + 1] = rng.bytes(int(rng.integers(6)))
        else:
            changed[place] ^= 1 << int(rng.integers(8))
    return bytes(changed)


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the smallest recipe's network as nano.onnx and nano.tflite, its weights untrained."""
    folder = tmp_path_factory.mktemp("models")
    recipe = load_recipe("nano")
    graph = lower(build(recipe.model, len(SCENES)).eval(), recipe.features.shape)
    metadata = {"labels": list(SCENES), "front_end": recipe.features.as_dict()}
    (folder / "nano.onnx").write_bytes(write_onnx(graph, metadata))
    (folder / "nano.tflite").write_bytes(write_tflite(graph, metadata))
    return folder


def fuzz_onnx(models: Path, folder: Path, first: int, tries: int) -> None:
    arguments = [str(models / "nano.onnx"), str(folder), str(first), str(tries)]
    command = [sys.executable, "-c", FUZZ, *arguments]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr, done.stdout) == (0, "", "")


def fuzz_tflite(models: Path, folder: Path, tries: int) -> None:
    content, refusals = (models / "nano.tflite").read_bytes(), []
    for seed in range(tries):
        (folder / "broken.tflite").write_bytes(broken(content, seed))
        try:
            count_tflite(folder / "broken.tflite")
        except InputError as error:
            refusals.append(str(error))
    assert refusals
    assert all(line.isprintable() for line in refusals)


def test_100_broken_onnx_files_are_read_or_refused(models: Path, tmp_path: Path) -> None:
    fuzz_onnx(models, tmp_path, 0, 100)


def test_300_broken_tflite_files_are_counted_or_refused(models: Path, tmp_path: Path) -> None:
    fuzz_tflite(models, tmp_path, 300)


@pytest.mark.slow
def test_3000_broken_onnx_files_are_read_or_refused(models: Path, tmp_path: Path) -> None:
    fuzz_onnx(models, tmp_path, 1_000, 3_000)


@pytest.mark.slow
def test_5000_broken_tflite_files_are_counted_or_refused(models: Path, tmp_path: Path) -> None:
    fuzz_tflite(models, tmp_path, 5_000)


@pytest.mark.parametrize("size", [2**40, 2**30 + 2**20])  # no machine has that, and most have
def test_an_onnx_file_that_asks_for_more_than_its_memory_is_refused(size: int, models: Path, tmp_path: Path) -> None:
    model = onnx.load(models / "nano.onnx")
    shape = helper.make_tensor("huge", TensorProto.INT64, [1], [size])
    one = helper.make_tensor("one", TensorProto.UINT8, [1], [1])
    first = model.graph.node[0]
    nodes = [
        helper.make_node("ConstantOfShape", ["huge"], ["ones"], value=one),
        helper.make_node("ReduceMax", ["ones"], ["top"], keepdims=0),
        helper.make_node("Cast", ["top"], ["factor"], to=TensorProto.FLOAT),
        helper.make_node("Mul", [first.input[0], "factor"], ["scaled"]),
        *model.graph.node,
    ]
    first.input[0] = "scaled"
    nodes[4] = first
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    model.graph.initializer.append(shape)
    onnx.save(model, tmp_path / "huge.onnx")
    with pytest.raises(InputError, match="ONNX Runtime"):
        OnnxClassifier(tmp_path / "huge.onnx")


def test_an_onnx_file_that_names_another_file_is_refused(models: Path, tmp_path: Path) -> None:
    model = onnx.load(models / "nano.onnx")
    secret = tmp_path / "secret"
    secret.write_bytes(bytes(10_000))
    weights = model.graph.initializer[0]
    del weights.external_data[:]
    weights.ClearField("raw_data")
    weights.data_location = TensorProto.EXTERNAL
    weights.external_data.add(key="location", value=secret.name)
    (tmp_path / "other.onnx").write_bytes(model.SerializeToString())
    with pytest.raises(InputError, match="not a model that ONNX Runtime can run"):
        OnnxClassifier(tmp_path / "other.onnx")


def test_the_intact_model_is_read(models: Path) -> None:
    assert OnnxClassifier(models / "nano.onnx").labels == SCENES

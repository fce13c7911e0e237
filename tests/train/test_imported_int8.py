"""The published baseline made integer and held to real recordings: accuracy, size, operators, every runtime."""

import json
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ai_edge_litert import schema_py_generated as schema
from numpy.typing import NDArray

from tinyscene.deploy.bundle.bundle import Bundle
from tinyscene.deploy.bundle.exports import export
from tinyscene.deploy.bundle.verify import Verification, verify
from tinyscene.deploy.live.classifier import BundleClassifier
from tinyscene.train.data.cache import Clips
from tinyscene.train.data.datasets import Dataset
from tinyscene.train.data.features import LogMel
from tinyscene.train.runs.evaluate import predictor
from tinyscene.train.runs.model_files import count_tflite
from tinyscene.train.runs.run import load_model

CLIPS = 1_088  # on the test list of the development recordings
CORRECT = 656  # of the published weights in float
LOST = 0.005  # of accuracy, at most
MAX_BYTES = 90_000  # of the .tflite
OPERATORS = {"CONV_2D": 15, "DEPTHWISE_CONV_2D": 6, "ADD": 4, "AVERAGE_POOL_2D": 1, "MEAN": 1}


@pytest.fixture(scope="module")
def run(imported_run: Path) -> Path:
    return imported_run


@pytest.fixture(scope="module")
def bundle(imported_bundle: Bundle) -> Bundle:
    return imported_bundle


@pytest.fixture(scope="module")
def tflite(bundle: Bundle) -> bytes:
    return export(bundle, "tflite")


def test_a_tflite_is_counted_as_nessi_counts_it(tflite: bytes, tmp_path: Path) -> None:
    """29,689,408 is what NeSsi printed for the baseline."""
    (tmp_path / "model.tflite").write_bytes(tflite)
    assert count_tflite(tmp_path / "model.tflite").nessi_macs == 29_689_408


@pytest.fixture(scope="module")
def verified(bundle: Bundle, recordings: tuple[Dataset, Clips], tested: NDArray[np.int64]) -> Verification:
    _, clips = recordings
    return verify(bundle, clips.pcm[tested], clips.label[tested])


def test_nine_of_ten_clips_keep_their_scene(
    run: Path, bundle: Bundle, recordings: tuple[Dataset, Clips], tested: NDArray[np.int64]
) -> None:
    pcm = recordings[1].pcm[tested[:: len(tested) // 100]]
    integers = BundleClassifier(bundle, "reference").probabilities(pcm)
    network = predictor(load_model(run)[0], LogMel(bundle.front_end))(pcm)
    assert len(pcm) >= 100
    assert len({*network.argmax(1).tolist()}) >= 8
    assert (integers.argmax(1) == network.argmax(1)).mean() >= 0.9


def parse(tflite: bytes) -> Any:
    return schema.ModelT.InitFromPackedBuf(tflite, 0)


def test_the_file_for_devices_is_small(bundle: Bundle) -> None:
    assert len(export(bundle, "tflite", small=True)) <= MAX_BYTES


def test_the_operators_are_those_of_the_network_and_pads(tflite: bytes) -> None:
    names = {code: name for name, code in vars(schema.BuiltinOperator).items() if isinstance(code, int)}
    model = parse(tflite)
    codes = [code.builtinCode for code in model.operatorCodes]
    kinds = Counter(names[codes[operator.opcodeIndex]] for operator in model.subgraphs[0].operators)
    del kinds["PAD"]
    assert kinds == OPERATORS


def test_the_file_takes_and_gives_int8(tflite: bytes) -> None:
    graph = parse(tflite).subgraphs[0]
    ends = [graph.tensors[index] for index in (*graph.inputs, *graph.outputs)]
    assert [each.type for each in ends] == [schema.TensorType.INT8] * 2
    assert [each.shape.tolist() for each in ends] == [[1, 256, 65, 1], [1, 10]]


def test_vela_leaves_no_operator_on_the_cpu(tflite: bytes, tmp_path: Path) -> None:
    vela = shutil.which("vela", path=Path(sys.executable).parent) or shutil.which("vela")
    if vela is None:
        pytest.skip("vela is not installed")
    (tmp_path / "model.tflite").write_bytes(tflite)
    command = [vela, "model.tflite", "--accelerator-config", "ethos-u55-128", "--output-dir", "compiled"]
    ended = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr
    assert "CPU operators = 0 (0.0%)" in ended.stdout


def test_the_budget_is_the_published_one(bundle: Bundle) -> None:
    budget = bundle.content["budget"]
    assert (budget["parameters"], budget["macs"]) == (61_148, 29_419_156)
    assert json.loads((bundle.folder / "bundle.json").read_text())["budget"] == budget


@pytest.mark.slow
def test_the_integers_are_as_accurate_as_the_float_network_within_half_a_point(verified: Verification) -> None:
    runners = verified.as_dict()["runners"]
    assert round(runners["float"]["accuracy"] * CLIPS) == pytest.approx(CORRECT, abs=3)
    assert runners["reference"]["accuracy"] >= 0.594
    assert runners["reference"]["accuracy"] >= runners["float"]["accuracy"] - LOST


@pytest.mark.slow
def test_nineteen_of_twenty_clips_keep_their_scene(verified: Verification) -> None:
    assert verified.clips >= CLIPS
    assert (verified.runners["float"].same_scene or 0) >= 0.96


@pytest.mark.slow
@pytest.mark.parametrize("runner", ["litert", "onnxruntime"])
def test_a_fast_runtime_is_as_accurate_as_the_reference(runner: str, verified: Verification) -> None:
    found = verified.as_dict()["runners"][runner]
    if "missing" in found:
        pytest.skip(found["missing"])
    assert abs(found["accuracy"] - (verified.runners["reference"].accuracy or 0)) <= LOST


@pytest.mark.slow
@pytest.mark.parametrize("runner", ["litert-reference", "tflite-runtime-reference", "tflite-micro"])
def test_a_runtime_with_reference_kernels_is_equal(runner: str, verified: Verification) -> None:
    found = verified.as_dict()["runners"][runner]
    if "missing" in found:
        pytest.skip(found["missing"])
    assert (found["max_lsb"], found["equal"]) == (0, 1.0)


@pytest.mark.slow
def test_verification_finds_nothing_wrong(verified: Verification) -> None:
    assert verified.golden_equal
    verified.require()

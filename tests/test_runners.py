"""Classification: closed forms over handmade models, hostile files, and machines without torch or a runtime."""

import json
import math
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import soundfile
import torch
from onnx import helper, numpy_helper

import tinyscene
from deploy.classifier import onnx_classifier
from deploy.errors import InputError
from tests.test_export import TINY, run_of
from train.cache import Clips
from train.data import SCENES
from train.evaluate import predictor

RunCli = Callable[..., tuple[int, str, str]]
ROOT = Path(__file__).parent.parent
LABELS = ["wind", "bells", "rain"]
FRONT_END = {"sample_rate": 8_000, "n_fft": 512, "win_length": 400, "hop_length": 400, "n_mels": 16}  # 16 x 21
CARD: dict[str, Any] = {"labels": LABELS, "front_end": FRONT_END}
UNFIT_LABELS = (LABELS[:2], "abc", [1, 2, 3], ["wind", "wind", "rain"])
UNFIT_SETTINGS = (
    *({"surprise": 1}, {"n_mels": 32}, {"sample_rate": "8000"}, {"sample_rate": 10**12}),
    *({"log_offset": math.nan}, {"n_fft": 512.0}, {"hop_length": 400.0}),
)
UNFIT = (  # metadata
    *(None, "not JSON", "[" * 200_000, "[]", "null", json.dumps(CARD | {"front_end": None})),
    *(json.dumps(CARD | {"labels": labels}) for labels in UNFIT_LABELS),
    *(json.dumps(CARD | {"front_end": FRONT_END | setting}) for setting in UNFIT_SETTINGS),
)


def handmade(path: Path, metadata: str | None, batch: str | int = "batch", kind: int = 1) -> Path:
    """A model that gives every sound the probabilities 0.1, 0.7 and 0.2."""
    nodes = [
        helper.make_node("ReduceMean", ["x", "axes"], ["mean"], keepdims=0),
        helper.make_node("Gemm", ["mean", "none", "bias"], ["y"]),
    ]
    weights = {"none": np.zeros((1, 3)), "bias": np.log([1.0, 7.0, 2.0])}
    number = helper.tensor_dtype_to_np_dtype(kind)
    constants = [numpy_helper.from_array(each.astype(number), name) for name, each in weights.items()]
    constants.append(numpy_helper.from_array(np.array([2, 3]), "axes"))
    shapes = {"x": [batch, 1, 16, 21], "y": [batch, 3]}
    x, y = (helper.make_tensor_value_info(name, kind, shape) for name, shape in shapes.items())
    graph = helper.make_graph(nodes, "handmade", [x], [y], constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    if metadata is not None:
        helper.set_model_props(model, {"tinyscene": metadata})
    path.write_bytes(model.SerializeToString())
    return path


def command(*arguments: object, without: str) -> subprocess.CompletedProcess[str]:
    """The command line in a process that cannot import a module."""
    program = f"import sys; sys.modules[{without!r}] = None; import tinyscene; tinyscene.main()"
    line = [sys.executable, "-c", program, *map(str, arguments)]
    return subprocess.run(line, capture_output=True, text=True, cwd=ROOT, check=False)


@pytest.fixture(scope="module")
def noise(tmp_path_factory: pytest.TempPathFactory) -> Path:  # three seconds that differ
    path = tmp_path_factory.mktemp("noise") / "noise.wav"
    samples = np.random.default_rng(1).normal(0, 1, 3 * 32_000) * np.repeat([0.001, 0.01, 0.1], 32_000)
    soundfile.write(path, samples, 32_000, "PCM_16")
    return path


@pytest.fixture(scope="module")
def exported_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    run, _ = run_of(tmp_path_factory.mktemp("runners"), "nano", TINY)
    tinyscene.load(run)
    return run


@pytest.fixture
def run(exported_run: Path, tmp_path: Path) -> Path:  # one to change
    return shutil.copytree(exported_run, tmp_path / "run")


def test_a_run_is_exported_once(run: Path) -> None:
    before = (run / "model.onnx").stat()
    tinyscene.load(run)
    after = (run / "model.onnx").stat()
    assert (after.st_ino, after.st_mtime_ns) == (before.st_ino, before.st_mtime_ns)


def test_a_run_whose_weights_changed_is_exported_again(run: Path, tmp_path: Path, sample_clips: Clips) -> None:
    other, network = run_of(tmp_path, "nano", TINY, seed=1)
    shutil.copy(other / "model.safetensors", run / "model.safetensors")
    pcm = sample_clips.pcm[[0, 100, 200]]
    stale = onnx_classifier(run / "model.onnx").probabilities(pcm)
    classifier = tinyscene.load(run)
    expected = predictor(network, classifier.front_end, torch.device("cpu"))(pcm)
    np.testing.assert_allclose(classifier.probabilities(pcm), expected, atol=1e-4)
    assert np.abs(stale - expected).max() > 0.01


def test_every_second_has_its_own_scores(exported_run: Path, noise: Path) -> None:
    result = tinyscene.load(exported_run).classify(noise)
    assert [second["start"] for second in result["seconds"]] == [0, 1, 2]
    scores = np.array([[second["scores"][label] for label in SCENES] for second in result["seconds"]])
    assert scores.sum(axis=1) == pytest.approx(1.0, abs=1e-6)
    assert np.ptp(scores, axis=0).max() > 0.01
    assert [second["scene"] for second in result["seconds"]] == [SCENES[index] for index in scores.argmax(axis=1)]


def test_a_recording_scores_the_mean_of_its_seconds(exported_run: Path, noise: Path) -> None:
    result = tinyscene.load(exported_run).classify(noise)
    for label in SCENES:
        mean = sum(second["scores"][label] for second in result["seconds"]) / 3
        assert result["scores"][label] == pytest.approx(mean, abs=1e-6)
    assert result["scene"] == max(SCENES, key=result["scores"].__getitem__)


def test_a_long_recording_is_classified_whole(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "long.wav", np.full(8_000 * 35, 0.1), 8_000)
    result = onnx_classifier(handmade(tmp_path / "model.onnx", json.dumps(CARD))).classify(tmp_path / "long.wav")
    assert [second["start"] for second in result["seconds"]] == list(range(35))


def test_two_channels_are_classified_as_their_mean(exported_run: Path, tmp_path: Path) -> None:
    left = np.random.default_rng(2).integers(-3_000, 3_000, int(2.6 * 48_000)).astype(np.int16) * 2
    soundfile.write(tmp_path / "stereo.wav", np.stack([left, np.zeros_like(left)], axis=1), 48_000)
    soundfile.write(tmp_path / "mono.wav", left // 2, 48_000)
    classifier = tinyscene.load(exported_run)
    stereo, mono = (classifier.classify(tmp_path / name) for name in ("stereo.wav", "mono.wav"))
    assert [second["start"] for second in stereo["seconds"]] == [0, 1, 2]  # the last 0.6 s make a second
    assert stereo["scores"] == pytest.approx(mono["scores"], abs=1e-6)
    assert len(stereo["notes"]) == len(mono["notes"]) + 1


def test_scores_are_the_softmax_in_the_order_of_the_labels(tmp_path: Path, noise: Path) -> None:
    result = onnx_classifier(handmade(tmp_path / "model.onnx", json.dumps(CARD))).classify(noise)
    assert result["scores"] == pytest.approx({"wind": 0.1, "bells": 0.7, "rain": 0.2}, abs=1e-6)
    assert result["scene"] == "bells"


@pytest.mark.parametrize("metadata", UNFIT, ids=lambda metadata: str(metadata)[:150])
def test_metadata_that_does_not_fit_is_refused(metadata: str | None, tmp_path: Path, noise: Path) -> None:
    with pytest.raises(InputError, match=r"model\.onnx"):
        onnx_classifier(handmade(tmp_path / "model.onnx", metadata)).classify(noise)


@pytest.mark.parametrize("change", [{"batch": 1}, {"batch": 2}, {"kind": onnx.TensorProto.DOUBLE}], ids=str)
def test_a_model_that_cannot_take_float_seconds_is_refused(change: dict[str, int], tmp_path: Path, noise: Path) -> None:
    with pytest.raises(InputError, match=r"model\.onnx"):
        onnx_classifier(handmade(tmp_path / "model.onnx", json.dumps(CARD), **change)).classify(noise)


@pytest.mark.parametrize("content", [b"", b"garbage", None], ids=["empty", "garbage", "missing"])
def test_a_file_that_is_no_model_is_refused(content: bytes | None, tmp_path: Path) -> None:
    if content is not None:
        (tmp_path / "model.onnx").write_bytes(content)
    with pytest.raises(InputError, match=r"model\.onnx"):
        tinyscene.load(tmp_path / "model.onnx")


def test_a_folder_without_a_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="neither"):
        tinyscene.load(tmp_path)


def test_json_is_one_list_with_an_entry_a_file(exported_run: Path, noise: Path, run_cli: RunCli) -> None:
    code, out, _ = run_cli("classify", exported_run, noise, noise, "--json")
    assert (code, [result["file"] for result in json.loads(out)]) == (0, [str(noise)] * 2)


def test_an_exported_run_needs_no_torch(exported_run: Path, noise: Path) -> None:
    done = command("classify", exported_run, noise, "--json", without="torch")
    assert (done.returncode, done.stderr) == (0, "")
    assert json.loads(done.stdout) == [tinyscene.load(exported_run).classify(noise)]


@pytest.mark.parametrize("state", ["unexported", "stale"])
def test_a_run_without_an_export_of_its_weights_needs_torch(state: str, run: Path, noise: Path) -> None:
    if state == "unexported":
        (run / "model.onnx").unlink()
    else:
        (run / "model.safetensors").write_bytes(b"other weights")
    done = command("classify", run, noise, without="torch")
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)
    assert f"tinyscene export {run}" in done.stderr


def test_a_missing_runtime_is_one_line_that_names_the_extra(exported_run: Path, noise: Path) -> None:
    done = command("classify", exported_run, noise, without="onnxruntime")
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)
    assert "tinyscene[onnx]" in done.stderr

"""Classification of files and of streams: closed forms over handmade models, and hostile files."""

import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import soundfile
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from onnx import helper, numpy_helper

import tinyscene
from tests.train.test_export import TINY, run_of
from tinyscene.deploy.bundle.bundle import Bundle
from tinyscene.deploy.common.errors import InputError
from tinyscene.deploy.common.installation import missing
from tinyscene.deploy.frontend.log_mel import FrontEnd
from tinyscene.deploy.graph import reference
from tinyscene.deploy.live import classifier as classifiers
from tinyscene.deploy.live.classifier import BundleClassifier, OnnxClassifier, SceneClassifier, open_classifier
from tinyscene.train.data.cache import Clips
from tinyscene.train.data.datasets import SCENES
from tinyscene.train.data.features import LogMel
from tinyscene.train.runs.evaluate import predictor

RunCli = Callable[..., tuple[int, str, str]]
LABELS = ["wind", "bells", "rain"]
FRONT_END: dict[str, Any] = {
    "sample_rate": 8_000,
    "n_fft": 512,
    "win_length": 400,
    "hop_length": 400,
    "n_mels": 16,
}  # 16 x 21
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


def handmade(
    path: Path, metadata: str | None, batch: str | int = "batch", kind: int = 1, first: str = "ReduceMean"
) -> Path:
    """A model that gives every sound the probabilities 0.1, 0.7 and 0.2, if its first operator gives numbers."""
    nodes = [
        helper.make_node(first, ["x", "axes"], ["mean"], keepdims=0),
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
    stale = OnnxClassifier(run / "model.onnx").probabilities(pcm)
    classifier = tinyscene.load(run)
    expected = predictor(network, LogMel(classifier.front_end), torch.device("cpu"))(pcm)
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
    result = OnnxClassifier(handmade(tmp_path / "model.onnx", json.dumps(CARD))).classify(tmp_path / "long.wav")
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
    result = OnnxClassifier(handmade(tmp_path / "model.onnx", json.dumps(CARD))).classify(noise)
    assert result["scores"] == pytest.approx({"wind": 0.1, "bells": 0.7, "rain": 0.2}, abs=1e-6)
    assert result["scene"] == "bells"


@pytest.mark.parametrize("metadata", UNFIT, ids=lambda metadata: str(metadata)[:150])
def test_metadata_that_does_not_fit_is_refused(metadata: str | None, tmp_path: Path, noise: Path) -> None:
    with pytest.raises(InputError, match=r"model\.onnx"):
        OnnxClassifier(handmade(tmp_path / "model.onnx", metadata)).classify(noise)


@pytest.mark.parametrize("change", [{"batch": 1}, {"batch": 2}, {"kind": onnx.TensorProto.DOUBLE}], ids=str)
def test_a_model_that_cannot_take_float_seconds_is_refused(change: dict[str, Any], tmp_path: Path, noise: Path) -> None:
    with pytest.raises(InputError, match=r"model\.onnx"):
        OnnxClassifier(handmade(tmp_path / "model.onnx", json.dumps(CARD), **change)).classify(noise)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_model_that_answers_no_numbers_is_refused(value: float, tmp_path: Path, noise: Path) -> None:
    path = handmade(tmp_path / "x.onnx", json.dumps(CARD))
    model = onnx.load(path)
    bias = next(each for each in model.graph.initializer if each.name == "bias")
    bias.CopyFrom(numpy_helper.from_array(np.array([1, value, 2], np.float32), "bias"))
    onnx.save(model, path)
    with pytest.raises(InputError, match=r"x\.onnx: gives NaN"):
        OnnxClassifier(path)


def test_a_model_that_answers_no_numbers_to_some_sounds_is_refused(tmp_path: Path, noise: Path) -> None:
    path = handmade(tmp_path / "x.onnx", json.dumps(CARD), first="ReduceLogSum")  # of log-mels: negative in silence
    model = onnx.load(path)
    negative = helper.make_node("Neg", ["x"], ["negative"])
    model.graph.node[0].input[0] = "negative"
    model.graph.node.insert(0, negative)
    onnx.save(model, path)
    classifier = OnnxClassifier(path)  # silence is -11.5 in each band
    loud = np.random.default_rng(0).integers(-32_768, 32_767, (1, 8_000)).astype(np.int16)
    with pytest.raises(InputError, match="gives NaN"):
        classifier.logits(loud)


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


# Streams


def checksums(pcm: NDArray[np.int16]) -> NDArray[np.float32]:
    """Logits that any change of any sample changes."""
    weights = np.random.default_rng(3).integers(1, 1_000, (8_000, 3))
    return ((pcm.astype(np.int64) @ weights) % 997 / 200).astype(np.float32)


class Checksums(SceneClassifier):
    labels, front_end, metadata = ("wind", "bells", "rain"), FrontEnd(**FRONT_END), {}

    def logits(self, pcm: NDArray[np.int16]) -> NDArray[np.float32]:
        return checksums(pcm)


LISTENER = Checksums()


def noise_of(count: int, kind: str, channels: int, seed: int = 4) -> NDArray[Any]:
    """Samples (count, channels), or (count,) of one channel, of type int16 or float32."""
    values = np.random.default_rng(seed).uniform(-0.9, 0.9, (count, channels)).astype(np.float32)
    samples = np.rint(values * 32768).astype(np.int16) if kind == "int16" else values
    return samples if channels > 1 else samples[:, 0]


def decided(classifier: SceneClassifier, rate: int, parts: list[NDArray[Any]], hop: float = 1.0) -> list[Any]:
    """All decisions of a stream that these parts are pushed into."""
    stream = classifier.stream(rate, hop)
    return [*(decision for part in parts for decision in stream.push(part)), *stream.finish()]


def heard(classifier: SceneClassifier, rate: int, samples: NDArray[Any], folder: Path) -> list[Any]:
    """The decisions of `classify` on a file of the same samples."""
    soundfile.write(folder / "same.wav", samples, rate, "PCM_16" if samples.dtype == np.int16 else "FLOAT")
    return classifier.classify(folder / "same.wav")["seconds"]


@settings(max_examples=60, deadline=None)
@given(
    rate=st.sampled_from([8_000, 11_025, 16_000]),
    length=st.integers(1, 40_000),
    cuts=st.lists(st.integers(0, 40_000), max_size=6),
    kind=st.sampled_from(["int16", "float32"]),
    channels=st.integers(1, 3),
    inverted=st.sampled_from([0.0, 0.6, 1.0]),  # share of the second of two channels that is the first, inverted
)
def test_a_stream_pushed_in_any_parts_is_decided_as_its_file(
    rate: int,
    length: int,
    cuts: list[int],
    kind: str,
    channels: int,
    inverted: float,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    samples = noise_of(length, kind, channels)
    if channels == 2:
        samples[: round(inverted * length), 1] = -samples[: round(inverted * length), 0]
    parts = np.split(samples, sorted(min(cut, length) for cut in cuts))
    assert decided(LISTENER, rate, parts) == heard(LISTENER, rate, samples, tmp_path_factory.getbasetemp())


@pytest.mark.parametrize("channels", [1, 2])
@pytest.mark.parametrize("kind", ["int16", "float32"])
@pytest.mark.parametrize("rate", [32_000, 44_100])
@pytest.mark.parametrize("seconds", [2.4, 2.5, 0.3])
def test_a_bundle_decides_a_stream_as_its_file(
    seconds: float, rate: int, kind: str, channels: int, bundle: Bundle, tmp_path: Path
) -> None:
    samples = noise_of(round(seconds * rate), kind, channels)
    classifier = BundleClassifier(bundle, "reference")
    decisions = decided(classifier, rate, np.array_split(samples, 11))
    assert decisions == heard(classifier, rate, samples, tmp_path)
    assert len(decisions) == {2.4: 2, 2.5: 3, 0.3: 1}[seconds]


def test_samples_and_rates_of_numpy_are_taken_as_pythons() -> None:
    samples, rate = noise_of(8_000, "int16", 1), np.array([8_000])[0]
    assert LISTENER.stream(rate).push(samples.astype(">i2")) == decided(LISTENER, 8_000, [samples])


def test_a_decision_comes_with_the_last_sample_of_its_second() -> None:
    stream, samples = LISTENER.stream(8_000), noise_of(24_000, "int16", 1)
    assert [len(stream.push(part)) for part in (samples[:7_999], samples[7_999:8_000], samples[8_000:])] == [0, 1, 2]


@pytest.mark.parametrize("rate", [8_000, 11_025])
def test_a_hop_of_a_quarter_decides_on_the_file_cut_each_quarter_second(rate: int, tmp_path: Path) -> None:
    samples = noise_of(round(2.6 * rate), "int16", 1)
    stream, first = LISTENER.stream(rate, 0.25), [round(index * 0.25 * rate) for index in range(7)]
    decisions = [decision for part in np.array_split(samples, 13) for decision in stream.push(part)]
    assert [decision["start"] for decision in decisions] == [sample / rate for sample in first]
    for sample, decision in zip(first, decisions, strict=True):
        cut = heard(LISTENER, rate, samples[sample : sample + rate], tmp_path)
        assert decision["scores"] == cut[0]["scores"]


@pytest.mark.parametrize(("rest", "count"), [(999, 0), (1_000, 1)])
def test_half_a_hop_that_is_new_is_decided_on_at_the_end(rest: int, count: int) -> None:
    stream = LISTENER.stream(8_000, 0.25)
    stream.push(noise_of(10_000 + rest, "int16", 1))
    assert [decision["start"] for decision in stream.finish()] == [0.5] * count


def test_a_stream_of_nothing_ends_without_a_decision() -> None:
    assert decided(LISTENER, 8_000, []) == decided(LISTENER, 8_000, [np.zeros(0, np.int16)]) == []


def test_a_stream_is_finished_once() -> None:
    stream = LISTENER.stream(8_000)
    stream.push(noise_of(100, "int16", 1))
    assert (len(stream.finish()), stream.finish()) == (1, [])


@pytest.mark.parametrize("rate", [0, -8_000, 999, 10**6, 8_000.0, "8000", None, math.nan, True], ids=repr)
def test_an_unusable_rate_of_a_stream_is_refused(rate: Any) -> None:
    with pytest.raises(InputError, match=r"^a sample rate of .*$"):
        LISTENER.stream(rate)


@pytest.mark.parametrize("hop", [0, -1, 1.01, 1e-9, math.nan, math.inf])
def test_an_unusable_hop_is_refused(hop: float) -> None:
    with pytest.raises(InputError, match=r"^a hop of .*$"):
        LISTENER.stream(8_000, hop)


UNUSABLE = {
    "NaN": np.array([0.0, np.nan]),
    "infinity": np.array([np.inf], np.float32),
    "beyond float32": np.array([1e300]),
    "int32": np.zeros(10, np.int32),
    "bool": np.zeros(10, bool),
    "complex": np.zeros(10, complex),
    "text": np.array(["sound"]),
    "one number": np.float32(0.0),
    "three axes": np.zeros((2, 2, 2), np.int16),
    "no channels": np.zeros((5, 0), np.float32),
    "other channels": np.zeros((5, 2), np.float32),
}


@pytest.mark.parametrize("fault", UNUSABLE)
def test_unusable_samples_are_refused_and_leave_the_stream_as_it_was(fault: str) -> None:
    samples = noise_of(8_000, "float32", 1)
    stream = LISTENER.stream(8_000)
    stream.push(samples[:3_000])
    with pytest.raises(InputError, match=r"^samples .*$"):
        stream.push(UNUSABLE[fault])
    assert stream.push(samples[3_000:]) == decided(LISTENER, 8_000, [samples])


# the default runner


def given_native(monkeypatch: pytest.MonkeyPatch, make: Callable[[Bundle], Any]) -> None:
    monkeypatch.setattr(classifiers, "scene_runners", lambda: {"native": make})


def reference_of(bundle: Bundle) -> Callable[[NDArray[np.int16]], NDArray[np.int8]]:
    return lambda pcm: reference.run(bundle.graph, bundle.features(pcm))


def test_by_default_a_bundle_is_run_by_the_native_runner(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    given_native(monkeypatch, reference_of)
    assert open_classifier(bundle).runner == "native"
    assert open_classifier(bundle, "reference").runner == "reference"
    assert capsys.readouterr().err == ""


def test_without_a_compiler_the_reference_runs_silently(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def without(_: Bundle) -> None:
        raise missing("a C compiler", "firmware", "runner native")

    given_native(monkeypatch, without)
    assert open_classifier(bundle).runner == "reference"
    monkeypatch.setattr(classifiers, "scene_runners", dict)
    assert open_classifier(bundle).runner == "reference"
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("error", [InputError("zig cannot compile"), OSError(30, "Read-only file system")])
def test_a_compiler_that_fails_is_one_line_and_the_reference_runs(
    error: Exception, bundle: Bundle, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def failing(_: Bundle) -> None:
        raise error

    given_native(monkeypatch, failing)
    assert open_classifier(bundle).runner == "reference"
    assert capsys.readouterr().err == f"runner native cannot be used, reference is: {error}\n"


def test_a_compiled_network_with_other_logits_is_not_used(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    given_native(monkeypatch, lambda bundle: lambda pcm: reference_of(bundle)(pcm)[:, ::-1])
    assert open_classifier(bundle).runner == "reference"
    said = capsys.readouterr().err
    assert "runner native does not give the golden logits" in said
    assert said.count("\n") == 1

"""Verification, inspection, evaluation and export of a bundle at the command line, and what makes them fail."""

import json
import math
import shutil
import sys
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy
import soundfile

import tinyscene.deploy.bundle.runners
from tests.deploy.folders import reindexed
from tinyscene.cli.failures import Failures
from tinyscene.deploy.bundle import verify as verification
from tinyscene.deploy.bundle.bundle import Bundle, open_bundle
from tinyscene.deploy.bundle.exports import export
from tinyscene.deploy.bundle.golden import read_vectors
from tinyscene.deploy.bundle.index import EXPORTS
from tinyscene.deploy.bundle.inspection import TensorErrors, inspect_errors
from tinyscene.deploy.bundle.verify import _batches, verify
from tinyscene.deploy.common.errors import InputError
from tinyscene.deploy.common.installation import MissingPackageError
from tinyscene.deploy.frontend.log_mel import FrontEnd, float_pcm
from tinyscene.deploy.graph.graph import Graph
from tinyscene.deploy.graph.operators import Conv2D, Mean
from tinyscene.deploy.graph.reference import run
from tinyscene.deploy.graph.tensor import Quantization, Tensor
from tinyscene.deploy.live.classifier import BundleClassifier
from tinyscene.interface.recordings import clips_of, some_clips_of
from tinyscene.train.data.cache import Clips, prepare
from tinyscene.train.data.datasets import open_dataset

RunCli = Callable[..., tuple[int, str, str]]
EXACT = {
    "litert_reference_equal": "litert-reference",
    "tflite_runtime_reference_equal": "tflite-runtime-reference",
    "tflite_micro_equal": "tflite-micro",
}
NEAR = {"xnnpack": "litert", "onnxruntime": "onnxruntime"}
FIGURES = {"max_lsb", "equal", "same_scene"}
KEYS = {
    *EXACT,
    *(f"{prefix}_{figure}" for prefix in NEAR for figure in FIGURES),
    *("bundle", "golden_equal", "exports", "clips", "runners"),
}
ROW_KEYS = {
    "name",
    "kind",
    "shape",
    "scale",
    "zero_point",
    "low",
    "high",
    "parameters",
    "macs",
    "bytes",
    "sqnr_db",
    "alone",
}
SOUNDS = FrontEnd(sample_rate=8_000, n_fft=512, win_length=400, hop_length=400, n_mels=16)  # 16 x 21


@pytest.fixture
def folder(bundle: Bundle, tmp_path: Path) -> Path:  # one to change
    return shutil.copytree(bundle.folder, tmp_path / "copy")


@pytest.fixture
def no_runtime(monkeypatch: pytest.MonkeyPatch) -> None:
    """Runtimes, which take the time of a verification, are missing."""

    def missing(name: str, _bundle: Bundle) -> Any:
        raise MissingPackageError(name)

    monkeypatch.setattr(verification, "make_runner", missing)


@pytest.fixture(scope="module")
def recording(tmp_path_factory: pytest.TempPathFactory) -> Path:  # three seconds
    path = tmp_path_factory.mktemp("recording") / "noise.flac"
    soundfile.write(path, np.random.default_rng(7).normal(0, 0.1, (int(2.7 * 44_100), 2)), 44_100, "PCM_16")
    return path


def lines(err: str) -> list[str]:
    """What is said, without LiteRT's own news."""
    return [line for line in err.splitlines() if not line.startswith("INFO: ")]


def changed(folder: Path, name: str, content: bytes) -> Path:
    """Another content of a file of a bundle, and its hash."""
    (folder / name).write_bytes(content)
    return reindexed(folder)


# verify


def test_everything_installed_equals_the_reference(bundle: Bundle, run_cli: RunCli) -> None:
    code, out, err = run_cli("verify", bundle.folder, "--json")
    result = json.loads(out)
    assert (code, lines(err), result.keys()) == (0, [], KEYS)
    assert result["golden_equal"] is True
    assert (result["exports"], result["clips"]) == ({}, 8)
    for key, name in EXACT.items():
        assert result[key] is (None if "missing" in result["runners"][name] else True)
    assert result["runners"].keys() == {*EXACT.values(), *NEAR.values(), "tflite-runtime", "reference", "float"}


def test_the_figures_of_the_fast_kernels_are_their_runners(bundle: Bundle, run_cli: RunCli) -> None:
    result = json.loads(run_cli("verify", bundle.folder, "--json")[1])
    for prefix, name in NEAR.items():
        row = result["runners"][name]
        assert {figure: result[f"{prefix}_{figure}"] for figure in FIGURES} == {
            figure: row.get(figure) for figure in FIGURES
        }
        assert "missing" in row or (row["max_lsb"] <= 2 and row["equal"] > 0.9)


def test_recordings_are_compared_on_too(bundle: Bundle, recording: Path, run_cli: RunCli) -> None:
    code, out, _ = run_cli("verify", bundle.folder, recording, recording, "--json")
    assert (code, json.loads(out)["clips"]) == (0, 8 + 2 * 3)


def test_a_dataset_of_other_labels_is_refused(bundle: Bundle, tmp_path: Path, run_cli: RunCli) -> None:
    for label in ("dog", "rain"):
        (tmp_path / label).mkdir()
        for fold in range(1, 6):
            soundfile.write(tmp_path / label / f"{fold}.wav", np.full(32_000, 0.1), 32_000)
    code, out, err = run_cli("verify", bundle.folder, "--data", tmp_path, "--split", "fold1")
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert "dog, rain" in err


def test_a_dataset_gives_accuracies_of_its_clips_alone(bundle: Bundle, small_dataset: Path, run_cli: RunCli) -> None:
    code, out, err = run_cli("verify", bundle.folder, "--data", small_dataset, "--json")
    assert code == 0, err
    result, (pcm, truth) = json.loads(out), judged(small_dataset)
    answers = BundleClassifier(bundle, "reference").probabilities(pcm).argmax(axis=1)
    assert result["clips"] == 8 + len(pcm)
    assert result["runners"]["reference"]["accuracy"] == np.mean(answers == truth)
    assert "accuracy" in result["runners"]["float"]


def test_accuracies_are_of_each_clip_with_its_own_class(bundle: Bundle, sample_clips: Clips) -> None:
    pcm = sample_clips.pcm[::20]
    truth = BundleClassifier(bundle, "reference").probabilities(pcm).argmax(axis=1)
    assert len(set(truth.tolist())) > 1
    truth[:9] += 1
    assert verify(bundle, pcm, truth).runners["reference"].accuracy == 36 / 45


def test_the_table_has_a_row_or_a_reason_for_each_runner(bundle: Bundle, run_cli: RunCli) -> None:
    code, out, _ = run_cli("verify", bundle.folder)
    names = [line.removeprefix("runner ").split()[0].rstrip(":") for line in out.splitlines()[1:-1]]  # or why none
    assert (code, len(names), {*EXACT.values(), *NEAR.values(), "float"} <= {*names}) == (0, 8, True)
    assert "golden vectors equal" in out


def test_logits_are_compared_one_by_one_and_scenes_by_clip() -> None:
    totals = verification._Totals()
    logits, expected = np.array([[0, 5], [5, 0], [0, 5]], np.int8), np.array([[127, 0], [0, 5], [1, 5]], np.int8)
    totals.add(logits, expected, np.array([1, 1, 0]))
    totals.add_int8(logits, expected)
    counted = {"logits": 6, "max_lsb": 127, "equal": 1, "same_scene": 1, "right": 1}  # the last clip, the first clip
    assert vars(totals) == counted | {"clips": 3, "error": 0.0}


@pytest.mark.parametrize("clips", [0, 17])
def test_the_error_of_the_integers_is_that_of_the_clips_if_there_are_any(
    clips: int, bundle: Bundle, no_runtime: None
) -> None:
    pcm = np.random.default_rng(0).normal(0, 1, (clips, 32_000)) * np.geomspace(1, 9_000, clips)[:, None]
    result = verify(bundle, pcm.astype(np.int16))
    sounds = pcm.astype(np.int16) if clips else bundle.vectors.pcm
    integers, q = run(bundle.graph, bundle.features(sounds)).astype(int), bundle.graph.output.q
    real = run(bundle.float_graph, bundle.front_end.log_mel(float_pcm(sounds))[..., None])
    row = result.runners["float"]
    assert row.mean_error == pytest.approx(np.abs(q.scale * (integers - q.zero_point) - real).mean(), rel=1e-5)
    assert row.same_scene == np.mean(integers.argmax(1) == real.argmax(1))
    assert (result.clips, row.accuracy) == (8 + clips, None)
    assert result.runners["reference"].as_dict() == {"max_lsb": 0, "equal": 1.0, "same_scene": 1.0}


@pytest.mark.parametrize("part", ["pcm", "features", "crc", "logits"])
def test_a_wrong_golden_vector_is_not_verified(part: str, folder: Path, run_cli: RunCli, no_runtime: None) -> None:
    path = folder / "golden" / "vectors.bin"
    vectors = read_vectors(path.read_bytes())
    array = getattr(vectors, part)
    values = array.copy()
    values[-1, -1] ^= 1
    object.__setattr__(vectors, part, values)
    code, out, err = run_cli("verify", changed(folder, "golden/vectors.bin", vectors.to_bytes()), "--json")
    assert (code, json.loads(out)["golden_equal"], len(lines(err))) == (4, False, 1)
    assert "golden vectors" in err
    assert "runners" not in err


@pytest.mark.parametrize("kind", EXPORTS)
def test_an_export_of_something_else_is_not_verified(
    kind: str, folder: Path, run_cli: RunCli, no_runtime: None
) -> None:
    opened = open_bundle(folder)
    content = export(opened, kind)
    opened.add_export(kind, content)
    changed(folder, EXPORTS[kind], content[:-1] + bytes([content[-1] ^ 1]))
    code, out, err = run_cli("verify", folder, "--json")
    assert (code, json.loads(out)["exports"], len(lines(err))) == (4, {kind: False}, 1)
    assert f"the export {kind} " in err


def test_an_export_without_names_is_verified(folder: Path, run_cli: RunCli, no_runtime: None) -> None:
    assert run_cli("export", folder, "--to", "tflite,tflite-float", "--small")[0] == 0
    code, out, _ = run_cli("verify", folder, "--json")
    assert (code, json.loads(out)["exports"]) == (0, {"tflite": True, "tflite-float": True})


def replaced(monkeypatch: pytest.MonkeyPatch, name: str, wrong: Callable[[Any], Any]) -> None:
    """Make a runner give something else."""
    package, extra, make = tinyscene.deploy.bundle.runners.RUNNERS[name]

    def made(module: Any, bundle: Bundle) -> Any:
        invoke = make(module, bundle)
        return lambda features: wrong(invoke(features))

    monkeypatch.setitem(tinyscene.deploy.bundle.runners.RUNNERS, name, (package, extra, made))


@pytest.mark.parametrize("key", EXACT)
def test_a_runtime_one_step_off_is_not_verified(
    key: str, bundle: Bundle, run_cli: RunCli, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip(tinyscene.deploy.bundle.runners.RUNNERS[EXACT[key]][0], exc_type=ImportError)
    replaced(monkeypatch, EXACT[key], lambda logits: logits ^ np.eye(1, 10, 4, dtype=np.int8))
    code, out, err = run_cli("verify", bundle.folder, "--json")
    result = json.loads(out)
    assert (code, result[key], len(lines(err))) == (4, False, 1)
    assert result["runners"][EXACT[key]] == {"max_lsb": 1, "equal": 0.9, "same_scene": pytest.approx(1, abs=1)}
    assert [other for other in EXACT if other != key and result[other] is False] == []
    assert f"{EXACT[key]} " in err


def test_a_fast_kernel_may_be_off_and_is_measured(
    bundle: Bundle, run_cli: RunCli, monkeypatch: pytest.MonkeyPatch
) -> None:
    replaced(monkeypatch, "litert", lambda logits: np.clip(logits.astype(int) + 3, -128, 127).astype(np.int8))
    result = json.loads(run_cli("verify", bundle.folder, "--json")[1])
    assert result["xnnpack_max_lsb"] in (2, 3, 4)
    assert result["xnnpack_equal"] < 0.1


def test_a_missing_runtime_is_no_failure(bundle: Bundle, run_cli: RunCli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tflite_micro.python.tflite_micro.runtime", None)
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    code, out, err = run_cli("verify", bundle.folder, "--json")
    result = json.loads(out)
    assert (code, lines(err)) == (0, [])
    assert [result[key] for key in ("tflite_micro_equal", "onnxruntime_max_lsb", "onnxruntime_equal")] == [None] * 3
    assert "pip install" in result["runners"]["tflite-micro"]["missing"]


def test_an_installed_runtime_that_cannot_run_the_bundle_is_not_verified(
    bundle: Bundle, run_cli: RunCli, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(_module: object, _bundle: Bundle) -> Any:
        raise RuntimeError("no")

    monkeypatch.setitem(tinyscene.deploy.bundle.runners.RUNNERS, "litert-reference", ("numpy", "tinyscene", broken))
    assert run_cli("verify", bundle.folder, "--json")[0] == 4


# inspect


def test_each_tensor_has_a_row(bundle: Bundle, run_cli: RunCli) -> None:
    code, out, _ = run_cli("inspect", bundle.folder, "--json")
    rows = json.loads(out)["tensors"]
    assert (code, [row["name"] for row in rows]) == (0, [*bundle.graph.tensors])
    assert [row.keys() for row in rows] == [ROW_KEYS] * len(rows)
    for row in rows:
        assert row["low"] == row["scale"] * (-128 - row["zero_point"])
        assert row["high"] == row["scale"] * (127 - row["zero_point"])
        assert row["sqnr_db"] > 10
        assert row["alone"] >= 0


def test_the_bytes_are_those_of_weights_and_biases(bundle: Bundle, run_cli: RunCli) -> None:
    arrays = safetensors.numpy.load_file(bundle.folder / "graph.safetensors")
    sizes = {
        name: array.size * {"int8": 1, "int32": 4, "float32": 0}[array.dtype.name] for name, array in arrays.items()
    }
    rows = json.loads(run_cli("inspect", bundle.folder, "--json")[1])["tensors"]
    assert sum(row["bytes"] for row in rows) == sum(sizes.values()) == bundle.content["budget"]["deployed_bytes"]
    for row in rows:
        assert row["bytes"] == sum(size for name, size in sizes.items() if name.rpartition("/")[0] == row["name"])
    assert sum(row["parameters"] for row in rows) == sum(
        array.size for name, array in arrays.items() if not name.endswith("/weight_scales")
    )
    assert sum(row["macs"] for row in rows) == bundle.content["budget"]["deployed_macs"]


def test_the_table_shows_each_tensor_and_the_sums(bundle: Bundle, run_cli: RunCli) -> None:
    code, out, _ = run_cli("inspect", bundle.folder)
    shown = out.splitlines()
    assert [line.split()[0] for line in shown[1 : 1 + len(bundle.graph.tensors)]] == [*bundle.graph.tensors]
    budget = bundle.content["budget"]
    assert (code, f"{budget['deployed_bytes']:,} bytes of weights and biases" in out) == (0, True)
    assert f"{budget['deployed_macs']:,} MACs" in out


def test_recordings_given_are_measured(bundle: Bundle, recording: Path, run_cli: RunCli) -> None:
    stored, measured = (
        json.loads(run_cli("inspect", *line, "--json")[1])["tensors"]
        for line in ([bundle.folder], [bundle.folder, recording])
    )
    assert [row["bytes"] for row in stored] == [row["bytes"] for row in measured]
    assert [row["sqnr_db"] for row in stored] != [row["sqnr_db"] for row in measured]


def test_of_many_clips_some_are_measured_evenly_spaced(
    recording: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    soundfile.write(tmp_path / "long.wav", np.repeat(np.arange(100, dtype=np.int16), 32_000), 32_000)
    soundfile.write(tmp_path / "damaged.flac", np.random.default_rng(0).normal(0, 0.1, 900_000), 32_000)
    content = (tmp_path / "damaged.flac").read_bytes()
    (tmp_path / "damaged.flac").write_bytes(content[:200] + bytes(len(content) - 200))
    files = [tmp_path / "damaged.flac", tmp_path / "long.wav"]
    first = [int(clip[0]) for clip in some_clips_of(files, FrontEnd(), 10, Failures().kept)]
    assert first == sorted(set(first))
    assert len(first) == 10
    assert max(np.diff([*first, 100])) <= 2 * 100 / 10
    assert "10 of 100 clips are measured, evenly spaced" in capsys.readouterr().err
    assert len(some_clips_of([recording], FrontEnd(), 10)) == len(list(clips_of([recording], FrontEnd())))


def test_errors_that_were_not_measured_are_not_shown(bundle: Bundle, tmp_path: Path, run_cli: RunCli) -> None:
    (tmp_path / "broken.wav").write_bytes(b"RIFF")
    code, out, err = run_cli("inspect", bundle.folder, tmp_path / "broken.wav")
    assert (code, out) == (2, "")
    assert "broken.wav: " in err


def constant(value: float, step: float | None = None) -> Graph:
    """A graph whose logits are `value` whatever the sound: floats, or integers in steps of `step`."""
    source, made = (Quantization(2.0**-3, 0), Quantization(step, 0)) if step else (None, None)
    bias = np.full(3, round(value * 2**13), np.int32) if step else np.full(3, value, np.float32)
    convolution = Conv2D(
        inputs=("log_mel",),
        output=Tensor("flat", (1, 16, 21, 3), made),
        weights=np.zeros((3, 1, 1, 1), np.int8 if step else np.float32),
        bias=bias,
        weight_scales=np.full(3, 2.0**-10, np.float32) if step else None,
    )
    mean = Mean(inputs=("flat",), output=Tensor("logits", (1, 3), made))
    return Graph(Tensor("log_mel", (1, 16, 21, 1), source), (convolution, mean))


def errors_of(value: float) -> dict[str, TensorErrors]:
    """The errors of that constant in quarters."""
    pcm = np.random.default_rng(8).integers(-9_000, 9_000, (3, 8_000)).astype(np.int16)
    return inspect_errors(constant(value, 0.25), constant(value), SOUNDS, pcm)


@pytest.mark.parametrize(("value", "rounded"), [(5.3, 5.25), (-3.9, -4.0), (0.2, 0.25)])
def test_the_error_of_a_constant_is_its_rounding(value: float, rounded: float) -> None:
    errors = errors_of(value)
    for name in ("flat", "logits"):
        assert errors[name].sqnr_db == pytest.approx(20 * math.log10(abs(value / (value - rounded))), abs=0.01)
        assert errors[name].alone == pytest.approx(abs(value - rounded), abs=1e-4)
    assert errors["log_mel"].alone == 0


def test_what_int8_holds_exactly_has_no_error() -> None:
    errors = errors_of(4.5)
    assert errors["logits"].sqnr_db == pytest.approx(10 * math.log10(3 * 3 * 4.5**2 / 1e-30))
    assert [errors[name].alone for name in ("log_mel", "flat", "logits")] == [0, 0, 0]


# evaluate and export


def judged(dataset: Path) -> tuple[Any, Any]:
    """The clips of a dataset's test list and their true classes."""
    opened = open_dataset(dataset)
    clips = prepare(opened, 32_000)
    chosen = clips.select(opened.split("5")[1])
    return clips.pcm[chosen], clips.label[chosen]


@pytest.mark.parametrize("name", ["reference", "litert"])
def test_a_bundle_is_evaluated_as_counted_by_hand(
    name: str, folder: Path, small_dataset: Path, run_cli: RunCli
) -> None:
    files = {path.name for path in folder.rglob("*")}
    code, out, err = run_cli("evaluate", folder, "--data", small_dataset, "--runner", name, "--json")
    assert code == 0, err
    result, (pcm, truth) = json.loads(out), judged(small_dataset)
    right = BundleClassifier(open_bundle(folder), name).probabilities(pcm).argmax(axis=1) == truth
    assert (result["split"], result["clips"], result["correct"]) == ("5", len(pcm), int(right.sum()))
    assert result["accuracy"] == np.mean(right)
    measured = {key: result[key] for key in ("clips", "correct", "accuracy", "split", "data_hash")} | {"runner": name}
    assert measured.items() <= open_bundle(folder).content["metrics"].items()
    assert json.loads((folder / "evaluation" / "evaluation.json").read_text())["correct"] == result["correct"]
    written = {"evaluation", "evaluation.json", "evaluation.png"}
    assert {path.name for path in folder.rglob("*")} == files | written
    assert list(folder.parent.glob("copy*")) == [folder]


def test_each_format_is_written_into_the_bundle(folder: Path, run_cli: RunCli) -> None:
    code, out, _ = run_cli("export", folder, "--to", "tflite,onnx,onnx-int8,tflite-float", "--json")
    files = json.loads(out)
    assert (code, [Path(each["file"]).name for each in files]) == (
        0,
        ["model.tflite", "model.onnx", "model-int8.onnx", "model-float.tflite"],
    )
    index = json.loads((folder / "bundle.json").read_text())["files"]
    for each in files:
        path = Path(each["file"])
        assert (each["bytes"], each["sha256"]) == (path.stat().st_size, index[path.name])
    code, out, _ = run_cli("verify", folder, "--json")
    assert (code, json.loads(out)["exports"]) == (0, dict.fromkeys(EXPORTS, True))


def test_one_format_is_written_where_it_is_asked_for(bundle: Bundle, tmp_path: Path, run_cli: RunCli) -> None:
    code, out, _ = run_cli("export", bundle.folder, "--to", "tflite", "--out", tmp_path / "new.tflite", "--json")
    assert (code, json.loads(out)["file"]) == (0, str(tmp_path / "new.tflite"))
    assert (tmp_path / "new.tflite").read_bytes() == export(bundle, "tflite")
    assert not (bundle.folder / "model.tflite").exists()


@pytest.mark.parametrize(
    "options", ["--to uf2", "--to tflite,uf2", "--to ,", "--to tflite,onnx --out one.bin", "--to uf2 --out one.bin"]
)
def test_an_export_that_cannot_be_written_writes_nothing(
    options: str, folder: Path, run_cli: RunCli, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder)
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    code, out, err = run_cli("export", folder, *options.split())
    assert (code, out, len(lines(err))) == (2, "", 1)
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before


@pytest.mark.parametrize("command", ["verify", "inspect"])
def test_what_is_no_bundle_is_refused(command: str, tmp_path: Path, run_cli: RunCli) -> None:
    code, out, err = run_cli(command, tmp_path)
    assert (code, out, err) == (2, "", err)
    assert f"{tmp_path}: not a bundle" in err


# clips as they come


def endless(count: int) -> Iterator[np.ndarray]:
    """Clips that are made when they are asked for, and gone when they have been used."""
    for index in range(count):
        yield np.random.default_rng(index).integers(-9_000, 9_000, 8_000).astype(np.int16)


def test_errors_are_those_of_all_clips_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    graphs = constant(5.3, 0.25), constant(5.3)
    in_batches = inspect_errors(*graphs, SOUNDS, endless(37))
    monkeypatch.setattr("tinyscene.deploy.bundle.inspection.BATCH", 37)
    assert inspect_errors(*graphs, SOUNDS, endless(37)) == in_batches


def test_the_error_of_no_clip_is_refused() -> None:
    with pytest.raises(InputError, match="no clip"):
        inspect_errors(constant(5.3, 0.25), constant(5.3), SOUNDS, [])


def test_no_more_than_a_batch_of_clips_is_in_memory() -> None:
    graphs = constant(5.3, 0.25), constant(5.3)

    def peak(count: int) -> int:
        tracemalloc.start()
        try:
            inspect_errors(*graphs, SOUNDS, endless(count))
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    peak(16)
    assert peak(160) < 1.2 * peak(16)


def test_verification_holds_a_batch_of_clips_at_a_time() -> None:
    held = [(start, len(batch)) for start, batch in _batches(np.zeros(8, np.int16) for _ in range(40))]
    assert held == [(0, 16), (16, 16), (32, 8)]


def test_verification_takes_clips_as_they_come(bundle: Bundle, sample_clips: Clips) -> None:
    pcm = sample_clips.pcm[:40]
    taken: list[int] = []

    def clips() -> Iterator[np.ndarray]:
        for index in range(40):
            taken.append(index)
            yield pcm[index]

    result = verify(bundle, clips(), sample_clips.label[:40])
    assert (result.clips, taken) == (48, list(range(40)))
    assert result.runners["reference"] == verify(bundle, pcm, sample_clips.label[:40]).runners["reference"]

"""Runners: every runtime on a bundle, runtimes that are missing or fail, and machines without torch."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import pytest
import soundfile
from numpy.typing import NDArray
from onnx import helper, numpy_helper

import tinyscene
import tinyscene.deploy.bundle.runners
from tests import ROOT
from tests.train.test_export import TINY, run_of
from tinyscene.deploy.bundle.bundle import Bundle, open_bundle
from tinyscene.deploy.bundle.exports import export
from tinyscene.deploy.bundle.runners import make_runner
from tinyscene.deploy.common.errors import InputError
from tinyscene.deploy.common.installation import MissingPackageError, requirement
from tinyscene.deploy.live.classifier import BundleClassifier

RunCli = Callable[..., tuple[int, str, str]]
EXACT = ("reference", "litert-reference", "tflite-runtime-reference", "tflite-micro")
NEAR = ("litert", "tflite-runtime", "onnxruntime")
INT8, FLOAT, STRING = onnx.TensorProto.INT8, onnx.TensorProto.FLOAT, onnx.TensorProto.STRING
EXTRAS = {
    "litert": ("ai_edge_litert.interpreter", ""),
    "litert-reference": ("ai_edge_litert.interpreter", ""),
    "tflite-runtime": ("tflite_runtime.interpreter", "tflite-runtime"),
    "tflite-runtime-reference": ("tflite_runtime.interpreter", "tflite-runtime"),
    "tflite-micro": ("tflite_micro.python.tflite_micro.runtime", "verify"),
    "onnxruntime": ("onnxruntime", "onnx"),
}


@pytest.fixture(scope="module")
def features(bundle: Bundle) -> NDArray[np.int8]:
    """The golden features, all lowest, all highest, and random ones."""
    golden = bundle.vectors.features.reshape(-1, *bundle.graph.input.shape[1:])
    random = np.random.default_rng(5).integers(-128, 128, (4, *golden.shape[1:])).astype(np.int8)
    random[0], random[1] = -128, 127
    return np.concatenate([golden, random])


@pytest.fixture(scope="module")
def expected(bundle: Bundle, features: NDArray[np.int8]) -> NDArray[np.int8]:
    return make_runner("reference", bundle)(features)


@pytest.fixture(scope="module")
def noise(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("noise") / "noise.wav"
    soundfile.write(path, np.random.default_rng(6).normal(0, 0.1, 5 * 22_050), 44_100, "PCM_16")
    return path


@pytest.fixture
def folder(bundle: Bundle, tmp_path: Path) -> Path:  # one to change
    return shutil.copytree(bundle.folder, tmp_path / "copy")


@pytest.fixture(scope="module")
def exported_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    run, _ = run_of(tmp_path_factory.mktemp("runners"), "nano", TINY)
    tinyscene.load(run)
    return run


def runner(name: str, bundle: Bundle) -> Callable[[NDArray[np.int8]], NDArray[np.int8]]:
    try:
        return make_runner(name, bundle)
    except MissingPackageError as error:
        pytest.skip(str(error))


def with_int8_onnx(folder: Path, content: bytes) -> Bundle:
    """A bundle with this export, and its hash."""
    open_bundle(folder).add_export("onnx-int8", content)
    return open_bundle(folder)


def without(modules: tuple[str, ...], *arguments: object) -> subprocess.CompletedProcess[str]:
    """The command line in a process where nothing can import these modules."""
    program = f"import sys; sys.modules |= dict.fromkeys({modules}); from tinyscene.cli import main; main()"
    line = [sys.executable, "-c", program, *map(str, arguments)]
    return subprocess.run(line, capture_output=True, text=True, cwd=ROOT, check=False)


# On a bundle


@pytest.mark.parametrize("name", EXACT)
def test_the_reference_kernels_equal_the_reference(
    name: str, bundle: Bundle, features: NDArray[np.int8], expected: NDArray[np.int8]
) -> None:
    logits = runner(name, bundle)(features)
    assert logits.dtype == np.int8
    np.testing.assert_array_equal(logits, expected)


@pytest.mark.parametrize("name", NEAR)
def test_the_fast_kernels_are_within_two_steps_of_the_reference(
    name: str, bundle: Bundle, features: NDArray[np.int8], expected: NDArray[np.int8]
) -> None:
    logits = runner(name, bundle)(features)
    assert (logits.dtype, logits.shape) == (np.int8, expected.shape)
    assert np.abs(logits.astype(int) - expected).max() <= 2  # 1 was seen
    assert np.mean(logits == expected) >= 0.95
    assert np.ptp(expected, axis=0).max() > 20


@pytest.mark.parametrize("name", [*EXACT, *NEAR])
def test_a_batch_is_its_clips_one_by_one(name: str, bundle: Bundle, features: NDArray[np.int8]) -> None:
    invoke = runner(name, bundle)
    np.testing.assert_array_equal(invoke(features[:5]), np.concatenate([invoke(each[None]) for each in features[:5]]))


@pytest.mark.parametrize("name", EXACT[1:])
def test_logits_are_the_callers_to_keep(name: str, bundle: Bundle, features: NDArray[np.int8]) -> None:
    invoke = runner(name, bundle)
    first = invoke(features[:1])
    kept = first.copy()
    invoke(features[-1:])
    np.testing.assert_array_equal(first, kept)


def test_onnx_runtime_runs_the_export_in_the_bundle(bundle: Bundle, folder: Path, features: NDArray[np.int8]) -> None:
    pytest.importorskip("onnxruntime")
    afresh = make_runner("onnxruntime", bundle)(features)
    exported = make_runner("onnxruntime", with_int8_onnx(folder, export(bundle, "onnx-int8")))(features)
    np.testing.assert_array_equal(exported, afresh)


def test_a_tflite_file_in_the_bundle_is_never_loaded(folder: Path, features: NDArray[np.int8]) -> None:
    open_bundle(folder).add_export("tflite", b"\x1c\0\0\0TFL3" + np.random.default_rng(0).bytes(3_000))
    make_runner("litert", open_bundle(folder))(features[:1])


# What is missing, or fails


def test_an_unknown_runner_names_those_that_are_known(bundle: Bundle, noise: Path, run_cli: RunCli) -> None:
    code, out, err = run_cli("classify", bundle.folder, noise, "--runner", "tensorrt")
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert [name for name in ("'tensorrt'", *EXACT, *NEAR) if name not in err] == []


@pytest.mark.parametrize("name", EXTRAS)
def test_a_missing_package_names_its_extra(
    name: str, bundle: Bundle, noise: Path, run_cli: RunCli, monkeypatch: pytest.MonkeyPatch
) -> None:
    package, extra = EXTRAS[name]
    monkeypatch.setitem(sys.modules, package, None)
    code, out, err = run_cli("classify", bundle.folder, noise, "--runner", name)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert err.endswith(f": pip install {requirement(extra)}\n")


@pytest.mark.parametrize("name", ["tflite-runtime", "tflite-runtime-reference"])
def test_tflite_runtime_is_missing_where_numpy_is_2(name: str, bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tflite_runtime.interpreter", SimpleNamespace())
    monkeypatch.setattr(np, "__version__", "2.4.6")
    with pytest.raises(MissingPackageError, match="with numpy 1 is not installed: pip install"):
        make_runner(name, bundle)


def broken(_module: object, _bundle: Bundle) -> Any:
    raise RuntimeError("first line\nsecond line")


def broken_later(_module: object, _bundle: Bundle) -> Any:
    def invoke(_features: object) -> NDArray[np.int8]:
        raise RuntimeError("first line\nsecond line")

    return invoke


@pytest.mark.parametrize("make", [broken, broken_later])
def test_a_runner_that_fails_is_one_line(
    make: Any, bundle: Bundle, noise: Path, run_cli: RunCli, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(tinyscene.deploy.bundle.runners.RUNNERS, "litert", ("numpy", "tinyscene", make))
    code, out, err = run_cli("classify", bundle.folder, noise, "--runner", "litert")
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert "runner litert" in err
    assert "first line" in err


@pytest.mark.parametrize(("name", "kernels"), [("litert", "BUILTIN"), ("litert-reference", "BUILTIN_REF")])
def test_a_runner_asks_for_the_kernels_of_its_name(
    name: str, kernels: str, bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    interpreters: Any = pytest.importorskip("ai_edge_litert.interpreter")
    asked, make = [], interpreters.Interpreter
    monkeypatch.setattr(interpreters, "Interpreter", lambda **options: asked.append(options) or make(**options))
    make_runner(name, bundle)
    assert [each["experimental_op_resolver_type"].name for each in asked] == [kernels]


def test_a_runtime_that_refuses_the_model_is_one_line(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(**_: object) -> None:
        raise ValueError("did not like it\nat all")

    kinds = SimpleNamespace(BUILTIN=1, BUILTIN_REF=2)
    module: Any = SimpleNamespace(OpResolverType=kinds, Interpreter=refuse)
    monkeypatch.setitem(sys.modules, "ai_edge_litert.interpreter", module)
    with pytest.raises(InputError, match=r"^runner litert cannot run .* \(did not like it\)$"):
        make_runner("litert", bundle)


def model(nodes: list[onnx.NodeProto], first: tuple[Any, ...], last: tuple[Any, ...]) -> bytes:
    """A well-formed model; `first` and `last` are the name, type and shape of its input and output."""
    x, y = (helper.make_tensor_value_info(*each) for each in (first, last))
    constants = [numpy_helper.from_array(np.array(each), str(each)) for each in ([0], [10], [1])]
    graph = helper.make_graph(nodes, "g", [x], [y], constants)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10).SerializeToString()


def identity(name: str, kind: int, operator: str = "Identity", **settings: Any) -> bytes:
    """A model that gives its input."""
    shape, output = ["batch", 1, 256, 65], settings.get("to", kind)
    nodes = [helper.make_node(operator, [name], ["y"], **settings)]
    return model(nodes, (name, kind, shape), ("y", output, shape))


def first_ten(batch: int | str) -> bytes:
    """A model that gives the first ten features of its input."""
    flat = helper.make_node("Flatten", ["log_mel"], ["flat"])
    cut = helper.make_node("Slice", ["flat", "[0]", "[10]", "[1]"], ["y"])
    return model([flat, cut], ("log_mel", INT8, [batch, 1, 256, 65]), ("y", INT8, [batch, 10]))


@pytest.mark.parametrize("command", ["classify", "verify"])
@pytest.mark.parametrize(
    "content",
    [
        pytest.param(np.random.default_rng(0).bytes(3_000), id="random bytes"),
        pytest.param(b"", id="empty"),
        pytest.param(identity("log_mel", FLOAT), id="takes floats"),
        pytest.param(identity("other", INT8), id="takes another name"),
        pytest.param(identity("log_mel", INT8), id="gives another shape"),
        pytest.param(identity("log_mel", INT8, "Cast", to=STRING), id="gives text"),
        pytest.param(first_ten(1), id="takes one clip"),
    ],
)
def test_a_hostile_int8_onnx_in_a_bundle_is_one_line(
    content: bytes, command: str, folder: Path, noise: Path, run_cli: RunCli
) -> None:
    pytest.importorskip("onnxruntime")
    with_int8_onnx(folder, content)
    more = ["--runner", "onnxruntime"] if command == "classify" else ["--json"]
    code, out, err = run_cli(command, folder, noise, *more)
    assert (code, bool(out)) == ((2, False) if command == "classify" else (4, True))
    assert len([line for line in err.splitlines() if not line.startswith("INFO: ")]) == 1


def test_another_int8_onnx_that_fits_is_run_and_not_verified(folder: Path, noise: Path, run_cli: RunCli) -> None:
    pytest.importorskip("onnxruntime")
    with_int8_onnx(folder, first_ten("batch"))
    assert run_cli("classify", folder, noise, "--runner", "onnxruntime")[0] == 0
    assert run_cli("verify", folder)[0] == 4


# Machines without torch or a runtime


@pytest.mark.parametrize("name", ["reference", "litert"])
def test_a_bundle_needs_neither_torch_nor_onnx(name: str, bundle: Bundle, noise: Path) -> None:
    blocked = ("torch", "onnx", "onnxruntime", "torchinfo", "yaml", "matplotlib", "requests")
    done = without(blocked, "classify", bundle.folder, noise, "--runner", name, "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == [BundleClassifier(bundle, name).classify(noise)]


def test_an_int8_onnx_in_a_bundle_is_run_without_onnx(folder: Path, noise: Path) -> None:
    pytest.importorskip("onnxruntime")
    exported = with_int8_onnx(folder, export(open_bundle(folder), "onnx-int8"))
    done = without(("torch", "onnx"), "classify", folder, noise, "--runner", "onnxruntime", "--json")
    assert (done.returncode, done.stderr) == (0, "")
    assert json.loads(done.stdout) == [BundleClassifier(exported, "onnxruntime").classify(noise)]


@pytest.mark.parametrize(("kind", "package"), [("onnx", "onnx"), ("onnx-int8", "onnx"), ("tflite", "flatbuffers")])
def test_an_export_without_its_package_is_one_line(kind: str, package: str, folder: Path) -> None:
    done = without((package,), "export", folder, "--to", kind)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)
    assert "pip install" in done.stderr


def test_a_bundle_is_verified_by_what_is_there(bundle: Bundle) -> None:
    blocked = ("torch", "onnx", "onnxruntime", "tflite_runtime", "tflite_micro", "ai_edge_litert")
    done = without(blocked, "verify", bundle.folder, "--json")
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert [result[key] for key in ("litert_reference_equal", "tflite_micro_equal", "xnnpack_max_lsb")] == [None] * 3
    assert result["golden_equal"] is True


def test_an_exported_run_needs_no_torch(exported_run: Path, noise: Path) -> None:
    done = without(("torch",), "classify", exported_run, noise, "--json")
    assert (done.returncode, done.stderr) == (0, "")
    assert json.loads(done.stdout) == [tinyscene.load(exported_run).classify(noise)]


@pytest.mark.parametrize("state", ["unexported", "stale"])
def test_a_run_without_an_export_of_its_weights_needs_torch(
    state: str, exported_run: Path, noise: Path, tmp_path: Path
) -> None:
    run = shutil.copytree(exported_run, tmp_path / "run")
    if state == "unexported":
        (run / "model.onnx").unlink()
    else:
        (run / "model.safetensors").write_bytes(b"other weights")
    done = without(("torch",), "classify", run, noise)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)
    assert f"tinyscene export {run}" in done.stderr


def test_a_run_without_onnx_runtime_names_the_extra(exported_run: Path, noise: Path) -> None:
    done = without(("onnxruntime",), "classify", exported_run, noise)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)
    assert "[onnx]'" in done.stderr


def project(folder: Path) -> Path:
    """A copy of what is installed, for pip to build in."""
    folder.mkdir()
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, folder / name)
    for name in ("tinyscene", "deploy", "train", "firmware_bridge", "benchmarks"):
        shutil.copytree(ROOT / name, folder / name, symlinks=True, ignore=shutil.ignore_patterns("__pycache__"))
    return folder


@pytest.mark.slow
def test_a_bundle_is_classified_in_an_environment_made_without_torch(
    bundle: Bundle, noise: Path, tmp_path: Path
) -> None:
    def run(*line: object) -> subprocess.CompletedProcess[str]:
        return subprocess.run([*map(str, line)], capture_output=True, text=True, cwd=tmp_path, check=False)

    binaries = tmp_path / "venv" / "bin"
    assert run(sys.executable, "-m", "venv", tmp_path / "venv").returncode == 0
    if (probe := run(binaries / "pip", "install", "--quiet", "setuptools>=77")).returncode:
        pytest.skip(f"pip reaches no package index: {probe.stderr[-200:]}")
    done = run(binaries / "pip", "install", "--quiet", project(tmp_path / "source"), "-c", ROOT / "constraints.txt")
    assert done.returncode == 0, done.stderr
    for package in ("torch", "onnx", "onnxruntime"):
        assert "ModuleNotFoundError" in run(binaries / "python", "-c", f"import {package}").stderr
    modules = ("live.classifier", "graph.tflite_writer", "bundle.verify")
    program = "; ".join(f"import tinyscene.deploy.{name}" for name in modules) + "; print(tinyscene.__file__)"
    done = run(binaries / "python", "-I", "-c", program)
    assert (done.returncode, done.stdout.startswith(str(tmp_path / "venv")), done.stderr) == (0, True, "")
    expected = BundleClassifier(bundle, "reference").classify(noise)
    for name, tolerance in (("reference", 1e-6), ("litert", 0.05)):  # less than one step of a logit, and ten
        done = run(binaries / "tinyscene", "classify", bundle.folder, noise, "--runner", name, "--json")
        assert done.returncode == 0, done.stderr
        [result] = json.loads(done.stdout)
        assert result["scene"] == expected["scene"]
        assert [second["scores"] for second in result["seconds"]] == [
            pytest.approx(second["scores"], abs=tolerance) for second in expected["seconds"]
        ]


def test_onnx_runtime_keeps_no_identifier_of_the_machine(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    folders = {name: str(tmp_path) for name in ("HOME", "TMPDIR", "XDG_CACHE_HOME")}
    kept = {name: value for name, value in os.environ.items() if name != "ORT_DISABLE_TELEMETRY"}
    line = [sys.executable, "-c", "import tinyscene.deploy.live.classifier, onnxruntime"]
    subprocess.run(line, env=kept | folders, cwd=ROOT, check=True)
    assert list(tmp_path.iterdir()) == []

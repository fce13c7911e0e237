"""Export to ONNX: the same function under another runtime, whole files only, and nothing in them but the model."""

import hashlib
import json
import resource
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from tests import ROOT
from tests.train.test_cp_mobile import trained
from tinyscene.deploy.live.classifier import OnnxClassifier
from tinyscene.train.data.cache import Clips
from tinyscene.train.data.datasets import SCENES
from tinyscene.train.data.features import LogMel
from tinyscene.train.export import export_onnx
from tinyscene.train.network_settings import CPMobileModel
from tinyscene.train.recipe import load_recipe
from tinyscene.train.runs.evaluate import predictor
from tinyscene.train.runs.model_files import count_onnx
from tinyscene.train.runs.run import import_weights

RunCli = Callable[..., tuple[int, str, str]]
TINY = ["model.n_blocks=[1]", "model.strides={}"]  # quick to export
OPERATORS = {"Conv", "Relu", "Add", "AveragePool", "ReduceMean", "GlobalAveragePool", "Reshape", "Flatten", "Pad"}


@dataclass
class Exported:
    network: nn.Module
    run: Path
    file: Path

    def logits(self, log_mel: np.ndarray) -> np.ndarray:
        session = onnxruntime.InferenceSession(self.file, providers=["CPUExecutionProvider"])
        return np.asarray(session.run(["logits"], {"log_mel": log_mel})[0])


def run_of(folder: Path, recipe: str, settings: list[str] | None = None, seed: int = 0) -> tuple[Path, nn.Module]:
    """A run of a network that was not trained, but has BatchNorm statistics of its own."""
    folder.mkdir(exist_ok=True)
    chosen = load_recipe(recipe, settings)
    assert isinstance(chosen.model, CPMobileModel)
    network, _ = trained(chosen.model, seed, (64, 33))
    save_file(network.state_dict(), folder / "weights.safetensors")
    return import_weights(folder / "weights.safetensors", chosen, folder / f"run{seed}"), network


@pytest.fixture(scope="module", params=["nano", "baseline"])
def exported(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Exported:
    run, network = run_of(tmp_path_factory.mktemp("exported"), request.param)
    return Exported(network, run, export_onnx(run))


@pytest.fixture(scope="module")
def proto(exported: Exported) -> onnx.ModelProto:
    return onnx.load(exported.file)


@pytest.mark.parametrize("batch", [1, 5])
def test_onnx_runtime_agrees_with_torch_on_random_log_mel(batch: int, exported: Exported) -> None:
    log_mel = np.random.default_rng(batch).normal(-5, 3, (batch, 1, 256, 65)).astype(np.float32)
    with torch.inference_mode():
        expected = exported.network(torch.from_numpy(log_mel)).numpy()
    assert expected.std(axis=1).min() > 0.1
    np.testing.assert_allclose(exported.logits(log_mel), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("batch", [1, 5])
def test_the_deployed_chain_agrees_with_torch_on_clips(batch: int, exported: Exported, sample_clips: Clips) -> None:
    pcm = sample_clips.pcm[np.arange(batch) * 90]
    classifier = OnnxClassifier(exported.file)
    expected = predictor(exported.network, LogMel(classifier.front_end), torch.device("cpu"))(pcm)
    np.testing.assert_allclose(classifier.probabilities(pcm), expected, atol=1e-4)


def test_the_file_carries_labels_front_end_and_the_hash_of_its_weights(exported: Exported) -> None:
    session = onnxruntime.InferenceSession(exported.file, providers=["CPUExecutionProvider"])
    card = json.loads(session.get_modelmeta().custom_metadata_map["tinyscene"])
    assert card["labels"] == list(SCENES)
    assert {"sample_rate": 32_000, "n_fft": 4096, "hop_length": 500, "n_mels": 256}.items() <= card["front_end"].items()
    assert card["weights_sha256"] == hashlib.sha256((exported.run / "model.safetensors").read_bytes()).hexdigest()
    assert card["recipe"] == load_recipe(card["recipe"]["name"]).as_dict()


def test_the_file_passes_the_checker_of_onnx(proto: onnx.ModelProto) -> None:
    onnx.checker.check_model(proto, full_check=True)


def test_the_operators_are_those_of_a_plain_convolutional_network(proto: onnx.ModelProto) -> None:
    assert {node.op_type for node in proto.graph.node} <= OPERATORS
    assert [(each.domain, each.version) for each in proto.opset_import] == [("", 19)]
    assert len(proto.functions) == 0


def test_one_log_mel_of_any_batch_goes_in_and_logits_come_out(exported: Exported) -> None:
    session = onnxruntime.InferenceSession(exported.file, providers=["CPUExecutionProvider"])
    shapes = {each.name: each.shape for each in (*session.get_inputs(), *session.get_outputs())}
    assert {name: shape[1:] for name, shape in shapes.items()} == {"log_mel": [1, 256, 65], "logits": [10]}
    assert all(isinstance(shape[0], str) for shape in shapes.values())


def test_the_file_says_nothing_of_the_machine_that_made_it(exported: Exported) -> None:
    content = exported.file.read_bytes()
    assert [path for path in (ROOT, exported.run, Path(torch.__file__).parent) if str(path).encode() in content] == []


def test_the_file_has_the_weights_biases_and_products_of_the_convolutions_alone(exported: Exported) -> None:
    parameters, macs = [], []

    def count(module: nn.Module, _: object, output: torch.Tensor) -> None:
        assert isinstance(module, nn.Conv2d)
        parameters.append(module.weight.numel() + module.out_channels)
        macs.append(output.numel() * module.weight[0].numel())

    convolutions = [module for module in exported.network.modules() if isinstance(module, nn.Conv2d)]
    hooks = [module.register_forward_hook(count) for module in convolutions]
    exported.network(torch.zeros(1, 1, 256, 65))
    for hook in hooks:
        hook.remove()
    layers = [layer for layer in count_onnx(exported.file).layers if layer.kind == "Conv"]
    assert [(layer.parameters, layer.macs) for layer in layers] == [*zip(parameters, macs, strict=True)]


def test_an_export_adds_one_file_to_the_run(exported: Exported) -> None:
    names = {path.name for path in exported.run.iterdir()}
    assert names == {"model.onnx", "model.safetensors", "recipe.yaml"}


def test_a_network_over_its_budget_is_not_exported(tmp_path: Path, run_cli: RunCli) -> None:
    run, _ = run_of(tmp_path, "nano", [*TINY, "budget.max_macs=1000"])
    code, out, err = run_cli("export", run, "--out", tmp_path / "new" / "model.onnx")
    assert (code, out) == (3, "")
    assert "MACs" in err
    assert not (tmp_path / "new").exists()
    assert not (run / "model.onnx").exists()


def test_a_network_over_its_budget_is_exported_if_that_is_allowed(tmp_path: Path, run_cli: RunCli) -> None:
    run, _ = run_of(tmp_path, "nano", [*TINY, "budget.max_macs=1000"])
    code, out, _ = run_cli("export", run, "--out", tmp_path / "named.onnx", "--allow-over-budget", "--json")
    content = (tmp_path / "named.onnx").read_bytes()
    expected = {"file": str(tmp_path / "named.onnx"), "bytes": len(content)}
    assert (code, json.loads(out)) == (0, {**expected, "sha256": hashlib.sha256(content).hexdigest()})


def test_an_unknown_format_is_refused(tmp_path: Path, run_cli: RunCli) -> None:
    run, _ = run_of(tmp_path, "nano", TINY)
    assert run_cli("export", run, "--to", "tensorflow")[:2] == (2, "")
    assert not (run / "model.onnx").exists()


@pytest.mark.parametrize("fault", ["damaged weights", "no room for the file"])
def test_a_failing_export_leaves_the_older_file(fault: str, tmp_path: Path, run_cli: RunCli) -> None:
    run, _ = run_of(tmp_path, "nano", TINY)
    (run / "model.onnx").write_bytes(b"older")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    if fault == "damaged weights":
        (run / "model.safetensors").write_bytes((run / "model.safetensors").read_bytes()[:-100])
    else:
        resource.setrlimit(resource.RLIMIT_FSIZE, (4_000, hard))  # bytes; the model has 6,600
    try:
        code, _, err = run_cli("export", run)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert (code, err.count("\n")) == (2, 1)
    assert (run / "model.onnx").read_bytes() == b"older"
    assert {path.name for path in run.iterdir()} == {"model.onnx", "model.safetensors", "recipe.yaml"}

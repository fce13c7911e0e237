"""Networks without padding over time: their columns, what they cost, and the same integers in every rendering."""

from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
from torch import nn

from tests.graphs import conv
from tests.train.test_cp_mobile import trained
from tests.train.test_export import run_of
from tinyscene.deploy.bundle.bundle import Bundle
from tinyscene.deploy.bundle.golden import probe_sounds
from tinyscene.deploy.bundle.verify import verify
from tinyscene.deploy.common.errors import InputError
from tinyscene.deploy.frontend.log_mel import FrontEnd
from tinyscene.deploy.graph.graph import Graph
from tinyscene.deploy.graph.operators import Crop, Mean
from tinyscene.deploy.graph.reference import run
from tinyscene.deploy.graph.streaming import stream_cost
from tinyscene.deploy.graph.tensor import Tensor
from tinyscene.deploy.live.classifier import BundleClassifier
from tinyscene.firmware_bridge.codegen.library import make_library
from tinyscene.firmware_bridge.native import READY, native_scene
from tinyscene.train.data.datasets import SCENES
from tinyscene.train.export import export_onnx
from tinyscene.train.models import build
from tinyscene.train.models.cp_mobile import CPMobile
from tinyscene.train.network_settings import CPMobileModel
from tinyscene.train.quantize.lower import lower
from tinyscene.train.quantize.own_network import quantize_network
from tinyscene.train.recipe import load_recipe, parse_recipe
from tinyscene.train.runs.budget import count_bundle, count_recipe

SECONDS, HOP = 0.93975, 0.125  # of a clip of 55 frames and of its 8 frames from column to column
SMALL = ["features.n_mels=48", "features.edges=none", f"features.clip_seconds={SECONDS}", "model.time_padding=none"]
SMALL += ["model.n_blocks=[2, 1]", "model.strides={b2: [1, 2]}", "model.time_kernels={b3: 1}"]
MODELS: list[tuple[dict[str, Any], int, int]] = [  # settings, receptive field and frames a column, by hand
    ({}, 79, 8),
    ({"time_kernels": {"b5": 1, "b6": 1}}, 47, 8),
    ({"n_blocks": (1,), "strides": {}}, 15, 4),
    ({"n_blocks": (2, 2), "strides": {"b1": (2, 2), "b4": (1, 3)}, "time_kernels": {"b2": 1, "b4": 1}}, 31, 24),
    ({"time_kernels": {"b5": 1, "b6": 1}, "antialias": True}, 61, 8),
    ({"n_blocks": (1, 1), "strides": {"b1": (2, 1), "b2": (1, 2)}, "antialias": True}, 37, 8),
    (vars(load_recipe("micro").model), 207, 16),
]


def network_of(settings: dict[str, Any], seed: int = 0) -> CPMobile:
    """Narrow, so that it is quick, with weights and statistics of its own."""
    narrow = {key: value for key, value in settings.items() if key != "family"} | {"base_channels": 8}
    model = CPMobileModel.model_validate(narrow | {"time_padding": "none"})
    return trained(model, seed, (16, model.receptive_frames))[0]


def columns(network: CPMobile, x: torch.Tensor) -> torch.Tensor:
    """The map below the classifier's mean, (batch, channels, mel, column)."""
    return network.stages(network.in_c(x))


@pytest.mark.parametrize(("settings", "heard", "step"), MODELS)
def test_a_column_hears_its_frames_and_no_others(settings: dict[str, Any], heard: int, step: int) -> None:
    network = network_of(settings).double()
    for module in network.modules():  # so that no ReLU hides a frame
        if isinstance(module, nn.Conv2d):
            nn.init.uniform_(module.weight, 0.5, 1.0)
        if isinstance(module, nn.BatchNorm2d):
            module.reset_running_stats()
            nn.init.ones_(module.weight)
            nn.init.zeros_(module.bias)
    assert (network.settings.receptive_frames, network.settings.column_frames) == (heard, step)
    x = torch.ones(1, 1, 16, heard + 2 * step + step - 1, dtype=torch.float64, requires_grad=True)
    made = columns(network, x)
    assert made.shape[3] == 3  # what is left of a fourth column makes none
    for column in range(3):
        (gradient,) = torch.autograd.grad(made[..., column].sum(), x, retain_graph=True)
        frames = gradient.abs().sum((0, 1, 2)).nonzero().flatten().tolist()
        assert frames == list(range(step * column, step * column + heard))


@pytest.mark.parametrize(("settings", "heard", "step"), MODELS[:-1])
def test_a_column_is_the_same_in_every_clip(settings: dict[str, Any], heard: int, step: int) -> None:
    network, x = network_of(settings), torch.randn(2, 1, 16, heard + 3 * step)
    with torch.inference_mode():
        whole = columns(network, x)
        for column in range(4):
            alone = columns(network, x[..., step * column :][..., :heard])
            torch.testing.assert_close(alone, whole[..., column : column + 1], rtol=0, atol=1e-5)


def test_padding_changes_no_name_and_no_shape_of_a_weight() -> None:
    padded, free = (CPMobile(CPMobileModel(time_padding=padding), 10) for padding in ("same", "none"))
    shapes = [{name: each.shape for name, each in network.state_dict().items()} for network in (padded, free)]
    assert shapes[0] == shapes[1]


def test_defaults_are_not_written_down() -> None:
    keys = {"family", "base_channels", "channels_multiplier", "expansion_rate", "n_blocks", "strides", "branches"}
    assert load_recipe("baseline").as_dict()["model"].keys() == keys | {"channels"}
    kept = load_recipe("baseline-stream").as_dict()
    assert kept["model"].keys() == keys | {"channels", "time_padding", "time_kernels"}
    assert parse_recipe(kept, "kept") == load_recipe("baseline-stream")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (["model.time_padding=none"], "model.time_padding: without padding, frames must lie in the clip: set featu"),
        (["model.time_kernels={b7: 1}"], "model.time_kernels names block 'b7': the model has b1 to b6"),
        (["model.time_kernels={b5: 2}"], "model.time_kernels.b5: Input should be 1 or 3 (given: 2)"),
        (["model.time_pading=none"], "unknown key 'model.time_pading': did you mean 'model.time_padding'?"),
        ([*SMALL, "features.clip_seconds=1"], "has 58 frames, and model.time_padding: none needs 23 and whole columns"),
        ([*SMALL, "features.clip_seconds=1"], "whole columns of 8: 0.93975 or 1.06475 s fit"),
        ([*SMALL, "features.clip_seconds=0.3"], "a clip of 0.3 s has 14 frames, and model.time_padding: none needs 23"),
        ([*SMALL, "features.clip_seconds=0.3"], "whole columns of 8: 0.43975 s fit"),
    ],
)
def test_what_makes_no_whole_columns_is_refused(settings: list[str], message: str) -> None:
    with pytest.raises(InputError) as error:
        build(load_recipe("baseline", settings).model, 10)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("frames", [55, 56, 63])
@pytest.mark.parametrize("rate", [22_050, 16_000, 192_000])
def test_the_seconds_that_fit_have_the_frames(rate: int, frames: int) -> None:
    front_end = FrontEnd(sample_rate=rate, hop_seconds=0.0156, n_mels=40, edges="none")
    seconds = float(f"{front_end.seconds_of(frames):.8g}")
    settings: Any = {**front_end.as_dict(), "clip_seconds": seconds}
    assert FrontEnd(**settings).frames == frames


# Cost


@pytest.mark.parametrize("recipe", ["baseline-stream", "micro-stream", "micro16k-stream"])
def test_a_second_of_columns_costs_what_its_layers_do(recipe: str) -> None:
    loaded = load_recipe(recipe)
    cost = stream_cost(lower(build(loaded.model, 10).eval(), loaded.features.shape))
    listening = count_recipe(loaded).listening
    assert cost is not None
    assert cost.decision == 0
    assert listening is not None
    assert listening.streams
    assert set(listening.macs.values()) == {cost.frame * 64}


def test_a_padded_network_computes_each_window_anew() -> None:
    count = count_recipe(load_recipe("micro", ["features.clip_seconds=2"]))
    assert count.listening is not None
    assert count.clip_macs is not None
    assert not count.listening.streams
    assert count.listening.macs == {decisions: decisions * count.clip_macs for decisions in (1, 2, 4, 10)}
    recipe = load_recipe("nano")
    assert stream_cost(lower(build(recipe.model, 10).eval(), recipe.features.shape)) is None


def test_a_network_that_hears_more_than_a_second_is_counted_by_what_a_second_adds() -> None:
    settings = ["model.time_kernels={}", "features.clip_seconds=2.06475"]
    count = count_recipe(load_recipe("baseline-stream", settings))
    assert count.listening is not None
    assert count.macs == count.listening.macs[1] == 26_951_680
    assert sum(layer.macs for layer in count.layers) == count.clip_macs == 41_131_156


def test_what_reads_a_mean_costs_by_decision() -> None:
    source, mean = Tensor("x", (1, 4, 4, 1)), Mean(inputs=("y",), output=Tensor("m", (1, 1, 1, 2)))
    last = Mean(inputs=("z",), output=Tensor("logits", (1, 3)))
    linear = conv("m", "z", [[1, 1]] * 3, [0] * 3, size=1)
    cost = stream_cost(Graph(source, (conv("x", "y", [[1], [1]], [0, 0]), mean, linear, last)))
    assert cost is not None
    assert (cost.frame, cost.decision) == (Fraction(8), 6)
    assert cost.of_second(Fraction(5, 2), 10) == 80


# A bundle


@pytest.fixture(scope="module")
def streaming(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return streaming_bundle(tmp_path_factory.mktemp("streaming") / "bundle")


def streaming_bundle(out: Path) -> Bundle:
    recipe = load_recipe("nano", SMALL)
    assert isinstance(recipe.model, CPMobileModel)
    noise = probe_sounds(recipe.features)
    return quantize_network(trained(recipe.model, 3, (48, 55))[0], noise, SCENES, recipe.features, out)


def test_a_column_of_the_integers_is_the_same_in_every_clip(streaming: Bundle) -> None:
    graph = streaming.graph
    assert any(isinstance(operator, Crop) for operator in graph.operators)
    below = Graph(graph.input, graph.operators[:-1])
    features = np.random.default_rng(0).integers(-128, 128, (2, 48, 55 + 8, 1)).astype(np.int8)
    first, second = (run(below, np.ascontiguousarray(features[:, :, at : at + 55])) for at in (0, 8))
    np.testing.assert_array_equal(first[:, :, 1:], second[:, :, :-1])


def test_a_streaming_bundle_is_the_same_in_other_runtimes(streaming: Bundle) -> None:
    result = verify(streaming, streaming.vectors.pcm[:3])
    result.require()
    assert result.as_dict()["litert_reference_equal"] is True


@pytest.mark.slow
@pytest.mark.parametrize("hop", [None, HOP])
def test_the_c_decides_as_the_reference_does_on_every_window(streaming: Bundle, hop: float | None) -> None:
    scene = native_scene(make_library(streaming.graph, streaming.front_end, streaming.labels, ("plain",), hop))
    clip, step = streaming.front_end.clip_samples, round((hop or SECONDS) * 32_000)
    pcm = np.concatenate([*streaming.vectors.pcm[3:7]])
    windows = np.stack([pcm[at : at + clip] for at in range(0, len(pcm) - clip + 1, step)])
    decided, at = [], 0
    while at < len(pcm):
        status, taken = scene.push(pcm[at : at + 777])
        at += taken
        if status == READY:
            decided.append(scene.decide().tolist())
    q = streaming.graph.output.q
    logits = BundleClassifier(streaming, "reference").logits(windows)
    np.testing.assert_array_equal(decided, np.rint(logits / np.float32(q.scale)) + q.zero_point)


def test_onnx_runtime_agrees_with_torch_without_padding(tmp_path: Path) -> None:
    run, network = run_of(tmp_path, "nano", SMALL)
    session = onnxruntime.InferenceSession(export_onnx(run), providers=["CPUExecutionProvider"])
    log_mel = np.random.default_rng(0).normal(-5, 3, (2, 1, 48, 55)).astype(np.float32)
    with torch.inference_mode():
        expected = network(torch.from_numpy(log_mel)).numpy()
    (logits,) = session.run(["logits"], {"log_mel": log_mel})
    np.testing.assert_allclose(np.asarray(logits), expected, rtol=1e-4, atol=1e-4)


def test_a_streaming_bundle_is_counted_as_its_recipe_is(streaming: Bundle) -> None:
    assert count_bundle(streaming.folder).listening == count_recipe(load_recipe("nano", SMALL)).listening

"""A network from elsewhere, of linear layers, maxima and ReLU6: from the float module to every runtime and a device."""

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from tests import ROOT
from tests.firmware_bridge.test_emulate import require_tools
from tests.test_docs import blocks
from tinyscene.deploy.bundle.bundle import Bundle, open_bundle
from tinyscene.deploy.bundle.verify import verify
from tinyscene.deploy.common.errors import InputError
from tinyscene.deploy.frontend.log_mel import FrontEnd
from tinyscene.deploy.graph.reference import run
from tinyscene.deploy.live.classifier import BundleClassifier
from tinyscene.firmware_bridge.emulate import emulate
from tinyscene.firmware_bridge.targets.image import build_settings
from tinyscene.train.quantize.own_network import calibration_clips, quantize_network
from tinyscene.train.runs.budget import count_bundle
from tinyscene.train.training_settings import Quantize

FRONT_END = FrontEnd(sample_rate=16_000, n_fft=1024, win_length=1024, hop_length=1000, n_mels=32)
LABELS = ("door", "rain", "speech")
SETTINGS = Quantize(clips=8)


class Elsewhere(nn.Module):
    """As others write networks: nested, functions among the modules, a head of two linear layers."""

    def __init__(self, classes: int = 3) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(1)
        self.stem = nn.Sequential(nn.Conv2d(1, 8, 3, padding=1), nn.Sequential(nn.BatchNorm2d(8), nn.ReLU6()))
        self.path = nn.Sequential(nn.Conv2d(8, 8, 3, padding=1, groups=8), nn.ReLU6(), nn.Conv2d(8, 8, 1))
        self.last = nn.Conv2d(8, 12, 3, stride=2)
        self.head = nn.Sequential(
            nn.Linear(12, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Dropout(), nn.Linear(16, classes)
        )

    def forward(self, x: Tensor) -> Tensor:
        x = F.max_pool2d(self.stem(self.norm(x)), 3, stride=2, padding=1)
        x = F.hardtanh(x + self.path(x), -0.5, 4.0)
        x = F.relu(F.max_pool2d(self.last(x), (1, 2)))
        return self.head(F.adaptive_avg_pool2d(x, 1).view(x.size(0), -1))


def sounds(count: int) -> NDArray[np.int16]:
    """Noise of different loudness and colour, (count, samples)."""
    draw = np.random.default_rng(1)
    drift = draw.normal(0, 1, (count, FRONT_END.clip_samples)).cumsum(1) * np.geomspace(0.5, 50, count)[:, None]
    return (drift + draw.normal(0, 2_000, drift.shape)).clip(-32768, 32767).astype(np.int16)


@pytest.fixture(scope="module")
def network() -> nn.Module:
    torch.manual_seed(5)
    made = Elsewhere()
    made.norm.running_mean.fill_(-40.0)  # type: ignore[union-attr] - as log-mel has
    made.norm.running_var.fill_(400.0)  # type: ignore[union-attr]
    return made


@pytest.fixture(scope="module")
def bundle(network: nn.Module, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    out = tmp_path_factory.mktemp("own") / "mine"
    return quantize_network(network, sounds(12), LABELS, FRONT_END, out, SETTINGS)


def test_the_bundle_answers_nearly_what_the_network_does(bundle: Bundle, network: nn.Module) -> None:
    assert network.training  # it was not changed
    pcm = sounds(12)
    log_mel = torch.tensor(bundle.log_mel.log_mel(pcm))[:, None]
    with torch.inference_mode():
        expected = network.eval()(log_mel).numpy()
    network.train()
    floats = run(bundle.float_graph, np.moveaxis(log_mel.numpy(), 1, -1))
    np.testing.assert_allclose(floats, expected, atol=1e-3 * np.abs(expected).max())
    integers = BundleClassifier(bundle, "reference").logits(pcm)
    assert np.abs(integers - expected).max() < 0.15 * np.ptp(expected)


def test_it_is_equal_in_every_runtime_and_on_a_device_to_the_bit(bundle: Bundle) -> None:
    kinds = {operator.kind for operator in bundle.graph.operators}
    assert kinds == {"Conv2D", "DepthwiseConv2D", "Add", "MaxPool2D", "Mean"}
    found = verify(bundle, sounds(4))
    found.require()
    assert [found.is_equal(name) for name in ("litert-reference", "tflite-micro")] == [True, True]
    require_tools("cortex-m4")
    result = emulate(bundle, sounds(4), build_settings("cortex-m4"))
    assert (result.equal, result.clips) == (True, 4)


def test_the_index_says_that_the_weights_were_given_and_what_they_cost(bundle: Bundle) -> None:
    opened = open_bundle(bundle.folder)
    assert opened.labels == LABELS
    assert opened.content["trained"]["source"] == "given by the caller"
    assert opened.content["quantized"]["calibration_clips"] == 8
    count = count_bundle(bundle.folder)
    assert (count.deployed and count.deployed.macs) == bundle.graph.macs <= count.macs
    assert "given by the caller" in (bundle.folder / "MODEL_CARD.md").read_text(encoding="utf-8")


def test_a_network_that_takes_clips_of_half_a_second_alone_is_counted_too(tmp_path: Path) -> None:
    front_end = FrontEnd(sample_rate=8_000, n_fft=512, win_length=512, hop_length=500, n_mels=16, clip_seconds=0.5)
    mel, frames = front_end.shape
    network = nn.Sequential(nn.Flatten(), nn.Linear(mel * frames, 2))
    made = quantize_network(network, sounds(2), ("a", "b"), front_end, tmp_path / "half", SETTINGS)
    assert made.content["budget"]["clip_macs"] == made.graph.macs == 2 * mel * frames
    assert count_bundle(made.folder).macs == 2 * made.graph.macs


def test_calibration_takes_clips_recordings_and_floats_alike() -> None:
    pcm, length = sounds(3), FRONT_END.clip_samples
    clips = calibration_clips(pcm, FRONT_END)
    np.testing.assert_array_equal(clips, pcm)
    np.testing.assert_array_equal(calibration_clips(pcm / np.float32(32768), FRONT_END), pcm)
    recordings = [pcm[:2].ravel()[: 2 * length], np.append(pcm[2], pcm[0][:100])]
    np.testing.assert_array_equal(calibration_clips(recordings, FRONT_END), pcm)


def test_the_documented_example_runs(capsys: pytest.CaptureFixture[str]) -> None:
    (block,) = [each for each in blocks(ROOT / "docs" / "quantization.md", "python") if "Linear" in each]
    exec(block, {})
    assert capsys.readouterr().out


SHORT = np.zeros((2, 100), np.int16)
FAULTS = {
    "network: is a str; a torch.nn.Module is needed": {"network": "net"},
    "network: makes 4 values for 3 labels; needed are \\(batch, 3\\)": {"network": Elsewhere(4)},
    "network: makes 32 x 17 x 3 values for 3 labels": {"network": nn.Sequential(nn.Conv2d(1, 3, 1))},
    "network: torch.fx cannot trace it on a log-mel of \\(32, 17\\)": {"network": nn.Conv1d(32, 3, 1)},
    "1: Sigmoid cannot be lowered; supported: Conv2d, Linear": {
        "network": nn.Sequential(nn.Conv2d(1, 3, 1), nn.Sigmoid())
    },
    "labels must be a list of names": {"labels": []},
    "a label stands twice": {"labels": ["a", "a", "b"]},
    "calibration: item 0 is \\(100,\\); needed are clips or recordings": {"calibration": SHORT},
    "calibration: holds no clip": {"calibration": []},
    "calibration: item 0 reaches 2;": {"calibration": np.full((1, 16_000), 2.0)},
    "calibration: item 0 is int64; needed are int16": {"calibration": np.zeros((1, 16_000), np.int64)},
}


@pytest.mark.parametrize("message", FAULTS)
def test_what_does_not_fit_is_refused_in_one_line(message: str, tmp_path: Path) -> None:
    arguments = {"network": Elsewhere(), "calibration": sounds(2), "labels": LABELS, "front_end": FRONT_END}
    with pytest.raises(InputError, match=message) as refused:
        quantize_network(**arguments | FAULTS[message], out=tmp_path / "new")  # type: ignore[arg-type]
    assert "\n" not in str(refused.value)
    assert not (tmp_path / "new").exists()

"""The teachers' front ends: AST's against transformers' own, PaSST's against its definition written out in numpy."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import ASTFeatureExtractor
from transformers.audio_utils import mel_filter_bank

from tinyscene.deploy.common.errors import InputError
from tinyscene.deploy.frontend.log_mel import FrontEnd
from tinyscene.train.data.augment import Draw, draw, log_mel
from tinyscene.train.data.kaldi_features import AstMel, KaldiMel, PasstMel, kaldi_filterbank
from tinyscene.train.models import features_of
from tinyscene.train.recipe import load_recipe

PASST = FrontEnd(n_fft=1024, win_length=800, hop_length=320, n_mels=128, f_max=15_000.0)
AST = FrontEnd(sample_rate=16_000, n_fft=512, win_length=400, hop_length=160, n_mels=128, f_min=20.0)
BOTH = [PasstMel(PASST), AstMel(AST)]


def clips(front_end: FrontEnd, batch: int = 3) -> Tensor:
    """Noise of falling level, down to the last bit of 16, around a constant, with a tone."""
    generator = torch.Generator().manual_seed(0)
    sounds = torch.randn(batch, front_end.clip_samples, generator=generator) * torch.logspace(0, -4, batch)[:, None]
    tone = torch.sin(2 * torch.pi * 440 * torch.arange(front_end.clip_samples) / front_end.sample_rate)
    return (0.1 * sounds + 0.01 + 0.001 * tone).clamp(-1, 1)


def written_out(batch: NDArray[np.float64]) -> NDArray[np.float64]:
    """PaSST's log-mel of clips at 32 kHz, (batch, mel, frame)."""
    emphasized = np.stack([clip[1:] - 0.97 * clip[:-1] for clip in batch])
    padded = np.pad(emphasized, ((0, 0), (512, 512)), mode="reflect")
    window = np.pad(0.5 - 0.5 * np.cos(2 * np.pi * np.arange(800) / 799), 112)
    frames = np.stack([padded[:, start : start + 1024] * window for start in range(0, emphasized.shape[1] + 1, 320)], 1)
    power = np.abs(np.fft.rfft(frames)) ** 2  # (batch, frame, bin)
    mel = 1127 * np.log(1 + np.arange(513) * 32_000 / 1024 / 700)
    edges = np.linspace(0, 1127 * np.log(1 + 15_000 / 700), 130)
    weights = np.stack([np.interp(mel, edges[band : band + 3], [0, 1, 0]) for band in range(128)])
    return (np.log(np.swapaxes(power @ weights.T, 1, 2) + 0.00001) + 4.5) / 5


def test_passts_is_its_definition() -> None:
    batch = clips(PASST)
    expected = written_out(batch.double().numpy())
    assert expected.shape == (3, 128, 100)
    np.testing.assert_allclose(PasstMel(PASST)(batch)[:, 0].numpy(), expected, rtol=0, atol=1e-4)


@pytest.mark.filterwarnings("ignore:At least one mel filter")
def test_asts_is_that_of_transformers() -> None:
    batch = clips(AST)
    extractor = ASTFeatureExtractor(max_length=98)
    expected = extractor(list(batch.numpy()), sampling_rate=16_000, return_tensors="np")["input_values"]
    ours = AstMel(AST)(batch)
    assert ours.shape == (3, 1, 128, 98)
    np.testing.assert_allclose(ours[:, 0].numpy(), np.swapaxes(expected, 1, 2), rtol=0, atol=1e-4)


@pytest.mark.parametrize("front_end", [PASST, AST, FrontEnd(n_mels=40, f_min=50.0, f_max=14_000.0)], ids=repr)
@pytest.mark.filterwarnings("ignore:At least one mel filter")
def test_the_triangles_are_kaldis(front_end: FrontEnd) -> None:
    expected = mel_filter_bank(
        num_frequency_bins=front_end.n_fft // 2 + 1,
        num_mel_filters=front_end.n_mels,
        min_frequency=front_end.f_min,
        max_frequency=front_end.top_frequency,
        sampling_rate=front_end.sample_rate,
        mel_scale="kaldi",
        triangularize_in_mel_space=True,
    )
    np.testing.assert_allclose(kaldi_filterbank(front_end).numpy(), expected.T, rtol=0, atol=1e-6)


def test_the_recipe_has_the_features_of_the_published_weights() -> None:
    """All but the highest frequency, which is that of the fine-tuning: 15,500 Hz with a jitter of 1,000 Hz."""
    assert replace(load_recipe("passt").features, f_max=15_000.0) == PASST
    assert (load_recipe("passt").features.f_max, load_recipe("passt").augment.f_max_jitter) == (15_500, 1_000)
    assert load_recipe("efficientat").features == PASST


@pytest.mark.parametrize("front_end", BOTH, ids=lambda each: type(each).__name__)
def test_it_is_the_logarithm_of_its_power(front_end: KaldiMel) -> None:
    batch = clips(front_end.front_end)
    power = front_end.power(batch)
    assert (power >= 0).all()
    torch.testing.assert_close(front_end(batch), front_end.log(power), rtol=0, atol=0)


@pytest.mark.parametrize(("front_end", "floor"), [(BOTH[0], np.log(1e-5)), (BOTH[1], np.log(2.0**-23))])
def test_silence_is_the_floor_of_the_logarithm(front_end: KaldiMel, floor: float) -> None:
    normal = (floor + 4.5) / 5 if isinstance(front_end, PasstMel) else (floor + 4.2677393) / (2 * 4.5689974)
    silent = front_end(torch.zeros(1, front_end.front_end.clip_samples))
    torch.testing.assert_close(silent, torch.full_like(silent, normal))
    assert float(front_end.log(torch.zeros(()))) == pytest.approx(normal, abs=1e-6)


@pytest.mark.parametrize("front_end", BOTH, ids=lambda each: type(each).__name__)
def test_a_clip_does_not_hear_its_neighbours_in_the_batch(front_end: KaldiMel) -> None:
    batch = clips(front_end.front_end)
    one_by_one = torch.cat([front_end(clip[None]) for clip in batch])
    torch.testing.assert_close(front_end(batch), one_by_one, rtol=0, atol=1e-5)


@pytest.mark.parametrize("front_end", BOTH, ids=lambda each: type(each).__name__)
def test_the_constants_are_no_parameters_of_a_model(front_end: KaldiMel) -> None:
    assert list(front_end.parameters()) == []
    assert front_end.state_dict() == {}


@pytest.mark.parametrize(("recipe", "value"), [("passt", 0.9), ("cp_resnet", 0.9), ("ast", 4.2677393 / 9.1379948)])
def test_masks_put_zeros_into_the_log_mel_before_it_is_normalised(recipe: str, value: float) -> None:
    features = features_of(load_recipe(recipe))
    clips = torch.randn(2, features.front_end.clip_samples) / 10
    twice = torch.ones(2, dtype=torch.long)
    drawn = Draw(freq_mask=(5 * twice, 20 * twice), time_mask=(3 * twice, 7 * twice))
    plain, masked = log_mel(features, clips, Draw()), log_mel(features, clips, drawn)
    hidden = torch.zeros_like(plain, dtype=torch.bool)
    hidden[:, :, 5:25] = True
    hidden[:, :, :, 3:10] = True
    assert masked[hidden].numpy() == pytest.approx(value)
    assert torch.equal(masked[~hidden], plain[~hidden])


def test_the_highest_frequency_of_a_batch_is_drawn_around_its_own() -> None:
    recipe, rng = load_recipe("passt"), np.random.default_rng(0)
    drawn = [draw(recipe.augment, recipe.features, np.array(["a"]), 0, rng, torch.device("cpu")) for _ in range(200)]
    frequencies = [each.f_max for each in drawn if each.f_max]
    assert len(frequencies) == 200
    assert 15_000 < min(frequencies) < 15_050
    assert 15_950 < max(frequencies) <= 16_000  # as published: 15,500 + 500 - randint(1,000)


def test_a_drawn_highest_frequency_moves_the_bands() -> None:
    features = features_of(load_recipe("passt"))
    clips = torch.randn(1, 32_000)
    assert torch.equal(features.power(clips, 15_500.0), features.power(clips))  # type: ignore[call-arg]
    lower = PasstMel(load_recipe("passt", ["features.f_max=15001"]).features)
    assert torch.equal(features.power(clips, 15_001.0), lower.power(clips))  # type: ignore[call-arg]


def test_a_jitter_without_kaldi_features_is_refused() -> None:
    with pytest.raises(InputError, match=r"augment\.f_max_jitter"):
        features_of(load_recipe("nano", ["augment.f_max_jitter=1000"]))

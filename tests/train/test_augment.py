"""Augmentation: each transform against its definition written out, and the statistics of what is drawn."""

import math
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from torch import Tensor

from tinyscene.deploy.common.errors import InputError
from tinyscene.deploy.frontend.log_mel import FrontEnd
from tinyscene.train.data.augment import (
    Draw,
    convolve,
    draw,
    freq_mixstyle,
    load_responses,
    mixup,
    on_log_mel,
    on_power,
    on_waveform,
)
from tinyscene.train.data.augment import roll as roll_clips
from tinyscene.train.training_settings import Augment

FRONT_END = FrontEnd()
ON: dict[str, Any] = {"roll_seconds": 0.1, "freq_mask": 48, "time_mask": 10, "mixstyle_p": 1.0, "dir_p": 1.0}
ON |= {"mixup_alpha": 0.3, "gain_db": 6.0, "f_max_jitter": 1_000.0}
OFF = {"shift": "roll_seconds", "response": "dir_p", "mixstyle": "mixstyle_p", "mixup": "mixup_alpha"}
OFF |= {"gain": "gain_db", "f_max": "f_max_jitter"}  # where zero


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def drawn(batch: int = 8, seed: int = 0, devices: str = "a", responses: int = 3, **settings: object) -> Draw:
    names = np.array(list(devices) * batch)[:batch]
    recipe, rng = Augment.model_validate(settings), np.random.default_rng(seed)
    return draw(recipe, FRONT_END, names, responses, rng, torch.device("cpu"))


def numbers(given: Tensor | tuple[Tensor, Tensor] | None) -> np.ndarray:
    assert given is not None
    return given.numpy() if isinstance(given, Tensor) else torch.stack(list(given)).numpy()


def test_freq_mixstyle_follows_its_definition() -> None:
    x = (3 * random(3, 2, 4, 5) + 1) * torch.tensor([1, 3e-4, 1]).view(3, 1, 1, 1)  # one so quiet that epsilon tells
    share, partner = torch.tensor([0.2, 0.9, 0.5]), torch.tensor([2, 0, 2])
    expected = np.empty(x.shape)
    for i, j, lam in zip(range(3), partner.tolist(), share.tolist(), strict=True):
        for band in range(4):
            own, other = x[i, :, band].double().numpy(), x[j, :, band].double().numpy()
            deviation, spread = ((part.var(ddof=1) + 1e-6) ** 0.5 for part in (own, other))
            whitened = (own - own.mean()) / deviation
            mean = lam * own.mean() + (1 - lam) * other.mean()
            expected[i, :, band] = whitened * (lam * deviation + (1 - lam) * spread) + mean
    np.testing.assert_allclose(freq_mixstyle(x, share, partner).numpy(), expected, rtol=1e-5, atol=1e-5)


def test_a_share_of_none_gives_the_partners_statistics_and_a_share_of_one_its_own() -> None:
    x = random(2, 1, 6, 50) * torch.tensor([0.5, 4.0]).view(2, 1, 1, 1) + torch.arange(6.0).view(1, 1, 6, 1)
    mixed = freq_mixstyle(x, torch.tensor([0.0, 1.0]), torch.tensor([1, 0]))
    torch.testing.assert_close(mixed[0].mean((0, 2)), x[1].mean((0, 2)), rtol=0, atol=1e-4)
    torch.testing.assert_close(mixed[0].std((0, 2)), x[1].std((0, 2)), rtol=1e-4, atol=0)
    torch.testing.assert_close(mixed[1], x[1], rtol=0, atol=1e-5)


def test_no_gradient_flows_through_the_statistics() -> None:
    x, share, partner, weight = random(2, 1, 3, 7), torch.tensor([0.3, 0.6]), torch.tensor([1, 0]), random(2, 1, 3, 7)
    leaf = x.clone().requires_grad_()
    (freq_mixstyle(leaf, share, partner) * weight).sum().backward()
    spread, lam = (x.var((1, 3), keepdim=True) + 1e-6).sqrt(), share.view(2, 1, 1, 1)
    expected = weight * (lam * spread + (1 - lam) * spread.flip(0)) / spread  # as if they were constants
    torch.testing.assert_close(leaf.grad, expected)


def test_mixup_mixes_examples_and_targets_alike() -> None:
    x, targets = random(3, 1, 4, 5), torch.eye(3)
    share, partner = torch.tensor([0.25, 1.0, 0.0]), torch.tensor([1, 2, 0])
    mixed, soft = mixup(x, share, partner), mixup(targets, share, partner)
    torch.testing.assert_close(mixed, torch.stack([0.25 * x[0] + 0.75 * x[1], x[1], x[0]]))
    assert soft.tolist() == [[0.25, 0.75, 0.0], [0.0, 1.0, 0.0], [1.0, 0.0, 0.0]]


def test_mixstyle_comes_before_mixup() -> None:
    x, half = random(2, 1, 4, 5), (torch.tensor([0.5, 0.5]), torch.tensor([1, 0]))
    styled = on_log_mel(x, Draw(mixstyle=half))
    both = on_log_mel(x, Draw(mixstyle=half, mixup=half))
    torch.testing.assert_close(both, styled.mean(0, keepdim=True).expand(2, -1, -1, -1))


def test_roll_equals_torch_roll_of_each_clip() -> None:
    clips, shift = random(5, 11), torch.tensor([0, 3, -4, 11, -10])
    expected = torch.stack([clip.roll(int(by)) for clip, by in zip(clips, shift, strict=True)])
    assert torch.equal(roll_clips(clips, shift), expected)


def test_masks_zero_their_stretch_and_nothing_else() -> None:
    power = random(3, 1, 12, 9).abs() + 0.1
    bands, frames = torch.tensor([[0, 10, 5], [3, 2, 0]]), torch.tensor([[8, 0, 2], [1, 9, 4]])  # first, width
    expected = power.numpy().copy()
    for example, (low, many, start, long) in enumerate(torch.cat([bands, frames]).T.tolist()):
        expected[example, :, low : low + many] = 0
        expected[example, :, :, start : start + long] = 0
    masked = on_power(power, Draw(freq_mask=(bands[0], bands[1]), time_mask=(frames[0], frames[1])))
    np.testing.assert_array_equal(masked.numpy(), expected)


def test_convolution_equals_numpy_and_leaves_the_others_alone() -> None:
    clips, responses, chosen = random(4, 40), random(2, 40, seed=1), torch.tensor([1, -1, 0, 1])
    convolved = convolve(clips, torch.fft.rfft(responses, n=80), chosen)
    for i, j in ((0, 1), (2, 0), (3, 1)):
        expected = np.convolve(clips[i].numpy(), responses[j].numpy())[:40]
        np.testing.assert_allclose(convolved[i].numpy(), expected, rtol=0, atol=1e-4)
    assert torch.equal(convolved[1], clips[1])


def test_a_batch_without_any_response_drawn_stays_as_it_is() -> None:
    clips = random(2, 40)
    assert torch.equal(convolve(clips, torch.fft.rfft(random(1, 40), n=80), torch.tensor([-1, -1])), clips)


def test_a_response_comes_before_the_roll() -> None:
    clips, response = random(1, 40), random(1, 40, seed=1)
    both = Draw(shift=torch.tensor([7]), response=torch.tensor([0]))
    moved = on_waveform(clips, both, torch.fft.rfft(response, n=80))
    expected = np.roll(np.convolve(clips[0].numpy(), response[0].numpy())[:40], 7)
    np.testing.assert_allclose(moved[0].numpy(), expected, rtol=0, atol=1e-4)


def test_responses_have_unit_energy_at_any_level_and_rate(tmp_path: Path) -> None:
    response = (3_000 * random(4_000).numpy() * np.exp(-np.arange(4_000) / 300)).astype(np.int16)
    soundfile.write(tmp_path / "a.wav", 2 * response, 32_000)
    soundfile.write(tmp_path / "b.wav", response, 32_000)
    soundfile.write(tmp_path / "c.flac", response, 48_000)
    (tmp_path / "notes.txt").write_text("not a response")
    spectra = load_responses(tmp_path, FRONT_END)
    assert spectra.shape == (3, 32_001)
    energy = torch.fft.irfft(spectra, n=64_000).double().square().sum(1)
    torch.testing.assert_close(energy, torch.ones(3, dtype=torch.float64), rtol=1e-5, atol=0)
    torch.testing.assert_close(spectra[0], spectra[1], rtol=0, atol=1e-5)


@pytest.mark.parametrize("gain", [1e-4, 0.01, 20.0])
def test_a_response_is_the_same_at_any_gain_of_a_file_of_floats(gain: float, tmp_path: Path) -> None:
    response = (0.8 * random(4_000) / random(4_000).abs().max()).numpy() * np.exp(-np.arange(4_000) / 300)
    soundfile.write(tmp_path / "a.wav", response, 44_100, "FLOAT")
    soundfile.write(tmp_path / "b.wav", gain * response, 44_100, "FLOAT")
    one, other = load_responses(tmp_path, FRONT_END)
    torch.testing.assert_close(other, one, rtol=0, atol=1e-5)


def test_a_click_as_response_leaves_a_clip_unchanged(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "click.wav", np.eye(1, 100)[0] * 0.25, 32_000)
    clips, response = random(2, 32_000), load_responses(tmp_path, FRONT_END)
    torch.testing.assert_close(convolve(clips, response, torch.tensor([0, 0])), clips, rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", ["empty", "missing", "silent"])
def test_a_folder_without_a_response_is_refused(name: str, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "silent").mkdir()
    soundfile.write(tmp_path / "silent" / "a.wav", np.zeros(100), 32_000)
    with pytest.raises(InputError, match=rf"{name}.*(no impulse responses|silent)"):
        load_responses(tmp_path / name, FRONT_END)


def test_rolls_stay_within_a_tenth_of_a_second_either_way() -> None:
    shift = numbers(drawn(50_000, roll_seconds=0.1).shift)
    assert (shift.min(), shift.max()) == (-3200, 3200)
    assert abs(shift.mean()) < 50


@pytest.mark.parametrize(
    ("key", "most", "size"), [("freq_mask", 48, 256), ("freq_mask", 999, 256), ("time_mask", 9, 65)]
)
def test_masks_are_of_any_width_up_to_the_most_and_lie_within(key: str, most: int, size: int) -> None:
    first, width = numbers(getattr(drawn(20_000, freq_mask=most, time_mask=most), key))
    widest = min(most, size)
    assert (width.min(), first.min()) == (0, 0)
    assert widest - 1 <= width.max() <= widest
    assert size - 1 <= (first + width).max() <= size
    assert width.mean() == pytest.approx((widest - 1) / 2, rel=0.02)


def test_responses_are_drawn_for_a_share_of_the_named_devices_alone() -> None:
    response = numbers(drawn(30_000, devices="abc", dir_p=0.6, dir_devices=("a", "c")).response).reshape(-1, 3)
    assert set(response[:, 1].tolist()) == {-1}
    assert set(response[:, [0, 2]].ravel().tolist()) == {-1, 0, 1, 2}
    assert (response[:, [0, 2]] >= 0).mean() == pytest.approx(0.6, abs=0.02)


def test_no_named_devices_means_every_device() -> None:
    response = numbers(drawn(900, devices="abc", dir_p=1.0, dir_devices=()).response)
    assert set(response.tolist()) == {0, 1, 2}


def decibels(**settings: Any) -> np.ndarray:
    return 10 * np.log10(numbers(drawn(4_000, **settings).gain).astype(float))  # (clip, mel)


def test_a_level_is_one_for_all_bands_and_uniform_either_way() -> None:
    gain = decibels(gain_db=6.0)
    np.testing.assert_allclose(gain, gain[:, :1].repeat(256, axis=1), atol=1e-4)
    assert (gain.min(), gain.max()) == pytest.approx((-6, 6), abs=0.05)
    assert gain[:, 0].std() == pytest.approx(12 / math.sqrt(12), rel=0.03)


def test_a_frequency_response_is_linear_in_decibels_between_at_most_seven_knots() -> None:
    gain = decibels(filter_db=6.0)
    bends = np.abs(np.diff(gain, 2, axis=1)) > 1e-3  # a knot between two bands bends at both
    runs = (np.diff(bends.astype(int), axis=1) == 1).sum(1)
    assert np.abs(gain).max() <= 6.0001
    assert runs.max() <= 5
    assert 2 < runs.mean() < 5


def test_a_gain_multiplies_the_power_of_its_band() -> None:
    power, gain = random(2, 1, 3, 4).square(), random(2, 3).square()
    found = on_power(power, Draw(gain=gain))
    np.testing.assert_allclose(found.numpy(), np.einsum("bcmf,bm->bcmf", power.numpy(), gain.numpy()), rtol=1e-6)


def test_mixstyle_is_drawn_for_the_share_of_batches_asked_for() -> None:
    share = np.mean([drawn(2, seed, mixstyle_p=0.4).mixstyle is not None for seed in range(2_000)])
    assert share == pytest.approx(0.4, abs=0.04)


@pytest.mark.parametrize(("kind", "settings"), [("mixstyle", {"mixstyle_p": 1.0}), ("mixup", {"mixup_alpha": 0.3})])
def test_shares_are_beta_distributed_and_partners_a_permutation(kind: str, settings: dict[str, Any]) -> None:
    share, partner = numbers(getattr(drawn(20_000, **settings), kind))
    assert share.mean() == pytest.approx(0.5, abs=0.01)
    assert share.var() == pytest.approx(1 / (4 * (2 * 0.3 + 1)), abs=0.003)
    assert sorted(partner.tolist()) == list(range(20_000))


@pytest.mark.parametrize("name", [field.name for field in fields(Draw)])
def test_zero_turns_one_augmentation_off(name: str) -> None:
    off = drawn(**{**ON, OFF.get(name, name): 0})
    assert [field.name for field in fields(Draw) if getattr(off, field.name) is None] == [name]


def test_the_same_seed_draws_the_same_and_another_does_not() -> None:
    assert repr(drawn(seed=1, **ON)) == repr(drawn(seed=1, **ON)) != repr(drawn(seed=2, **ON))

"""The numpy front end, against torchaudio's golden values and the closed forms of its definitions."""

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from tinyscene.deploy.common.errors import InputError
from tinyscene.deploy.frontend.log_mel import FrontEnd

WIDE = [FrontEnd(n_mels=40), FrontEnd(n_mels=23, f_min=300.0, f_max=8000.0), FrontEnd(sample_rate=16_000, n_mels=64)]


def htk_centres(front_end: FrontEnd) -> list[float]:
    """Centres of the bands in Hz, with the edges of the first and the last at either end."""
    low, high = (2595 * math.log10(1 + f / 700) for f in (front_end.f_min, front_end.top_frequency))
    step = (high - low) / (front_end.n_mels + 1)
    return [700 * (10 ** ((low + k * step) / 2595) - 1) for k in range(front_end.n_mels + 2)]


def sine(frequency: float, rate: int, samples: int) -> np.ndarray:
    return 0.5 * np.sin(2 * np.pi * frequency * np.arange(samples) / rate)


def test_log_mel_equals_torchaudio(golden: dict[str, np.ndarray]) -> None:
    np.testing.assert_allclose(FrontEnd().log_mel(golden["r"]), np.log(golden["m"] + 1e-5), rtol=0, atol=1e-4)


def test_the_defaults_give_256_bands_of_65_frames() -> None:
    features = FrontEnd().log_mel(np.zeros((2, 32_000), np.float32))
    assert FrontEnd().shape == (256, 65)
    assert features.shape == (2, 256, 65)
    assert features.dtype == np.float32


@pytest.mark.parametrize(("hop_length", "frames"), [(320, 101), (500, 65), (501, 64), (32_000, 2)])
def test_frames_are_one_more_than_the_whole_hops(hop_length: int, frames: int) -> None:
    front_end = FrontEnd(hop_length=hop_length, n_mels=4)
    assert front_end.log_mel(np.zeros((1, 32_000), np.float32)).shape == (1, 4, frames)
    assert front_end.frames == frames


def test_silence_is_the_logarithm_of_the_offset() -> None:
    features = FrontEnd(log_offset=1e-3).log_mel(np.zeros((1, 32_000), np.float32))
    np.testing.assert_allclose(features, math.log(1e-3), rtol=1e-6)


def test_a_tone_is_loudest_in_the_band_that_holds_it() -> None:
    front_end = FrontEnd(n_mels=40)
    centres = htk_centres(front_end)
    tones = np.stack([sine(centres[band + 1], 32_000, 32_000) for band in (3, 17, 38)]).astype(np.float32)
    assert front_end.log_mel(tones)[:, :, 30].argmax(axis=1).tolist() == [3, 17, 38]


def test_a_clip_alone_gives_what_it_gives_in_a_batch(golden: dict[str, np.ndarray]) -> None:
    clips = np.concatenate([golden["r"], golden["r"][:, ::-1] * np.float32(0.1)])
    alone = [FrontEnd().log_mel(clips[[index]])[0] for index in range(2)]
    np.testing.assert_array_equal(FrontEnd().log_mel(clips), np.stack(alone))


@pytest.mark.parametrize(
    ("key", "settings"),
    [
        ("sample_rate", {"sample_rate": 3_999}),
        ("sample_rate", {"sample_rate": 192_001}),
        ("n_fft", {"n_fft": 14, "win_length": 14}),
        ("n_fft", {"n_fft": 65_538}),
        ("n_fft", {"n_fft": 4097}),
        ("n_fft", {"sample_rate": 4_000, "n_fft": 8_000}),
        ("win_length", {"win_length": 0}),
        ("win_length", {"win_length": 4097, "n_fft": 4096}),
        ("hop_length", {"hop_length": 0}),
        ("hop_length", {"hop_length": 32_001}),
        ("hop_length", {"hop_length": 8_001, "clip_seconds": 0.25}),
        ("clip_seconds", {"clip_seconds": 0.249}),
        ("clip_seconds", {"clip_seconds": 10.1}),
        ("clip_seconds", {"clip_seconds": math.nan}),
        ("window_seconds", {"window_seconds": 0.0}),
        ("window_seconds", {"window_seconds": math.inf}),
        ("hop_seconds", {"hop_seconds": -0.1}),
        ("n_mels", {"n_mels": 0}),
        ("n_mels", {"n_mels": 1025}),
        ("log_offset", {"log_offset": 0.0}),
        ("log_offset", {"log_offset": 1.5}),
        ("log_offset", {"log_offset": math.nan}),
        ("f_min", {"f_min": -1.0}),
        ("f_min", {"f_min": 16_000.0}),
        ("f_min", {"f_min": 5_000.0, "f_max": 5_000.0}),
        ("f_min", {"f_min": math.nan}),
        ("f_max", {"f_max": 16_001.0}),
        ("f_max", {"f_max": math.inf}),
        ("f_max", {"f_max": 0.5}),
        ("f_max", {"f_max": -100.0}),
        ("f_max", {"f_max": math.nan}),
    ],
)
def test_a_bad_setting_is_refused_by_its_name(key: str, settings: dict[str, Any]) -> None:
    with pytest.raises(InputError, match=rf"^features\.{key} is {settings[key]}: "):
        FrontEnd(**settings)


@pytest.mark.parametrize("front_end", [FrontEnd(), *WIDE], ids=repr)
def test_every_band_is_a_triangle_no_higher_than_one(front_end: FrontEnd) -> None:
    for weights in front_end.filterbank():
        peak = int(weights.argmax())
        used = weights.nonzero()[0]
        assert 0 < weights[peak] <= 1
        assert weights.min() == 0
        assert len(used) == used[-1] - used[0] + 1
        assert (np.diff(weights[used[0] : peak + 1]) > 0).all()
        assert (np.diff(weights[peak : used[-1] + 1]) < 0).all()


@pytest.mark.parametrize("front_end", WIDE, ids=repr)
def test_bands_rise_from_the_htk_centre_below_to_their_own(front_end: FrontEnd) -> None:
    hertz_a_bin = front_end.sample_rate / front_end.n_fft
    centres = htk_centres(front_end)
    for band, weights in enumerate(front_end.filterbank()):
        rising = np.arange(weights.nonzero()[0][0], weights.argmax())
        slope, offset = np.polyfit(rising * hertz_a_bin, weights[rising], 1)
        assert -offset / slope == pytest.approx(centres[band], abs=0.1)
        assert (1 - offset) / slope == pytest.approx(centres[band + 1], abs=0.1)


@pytest.mark.parametrize("front_end", [FrontEnd(), *WIDE], ids=repr)
def test_neighbouring_bands_add_up_to_one(front_end: FrontEnd) -> None:
    hertz = np.arange(front_end.n_fft // 2 + 1) * front_end.sample_rate / front_end.n_fft
    centres = htk_centres(front_end)
    between = (hertz > centres[1]) & (hertz < centres[-2])
    np.testing.assert_allclose(front_end.filterbank().sum(axis=0)[between], 1.0, atol=1e-5)


@pytest.mark.parametrize("length", [1, 2, 401, 3072])
def test_the_window_is_a_squared_sine_of_one_period(length: int) -> None:
    expected = np.sin(np.pi * np.arange(length) / length) ** 2
    np.testing.assert_allclose(FrontEnd(win_length=length).window(), expected, rtol=0, atol=1e-7)


@pytest.mark.parametrize(
    ("which", "settings"),
    [
        ("frames and n_fft", {"hop_length": 1, "n_fft": 1024, "win_length": 1024, "n_mels": 8}),
        ("n_mels and frames", {"hop_length": 20, "n_mels": 1024, "n_fft": 64, "win_length": 64}),
        ("n_mels and n_fft", {"sample_rate": 192_000, "n_fft": 65_536, "n_mels": 1024, "hop_length": 192_000}),
    ],
)
def test_sizes_that_multiply_to_gigabytes_are_refused(which: str, settings: dict[str, Any]) -> None:
    with pytest.raises(InputError, match=rf"^features: {which} multiply to .*; choose other sizes"):
        FrontEnd(**settings)


@pytest.mark.parametrize(("rate", "lengths"), [(16_000, (2048, 1536, 250)), (32_000, (4096, 3072, 500))])
def test_window_hop_and_transform_last_as_long_at_any_rate(rate: int, lengths: tuple[int, int, int]) -> None:
    front_end = FrontEnd(sample_rate=rate)
    assert (front_end.n_fft, front_end.win_length, front_end.hop_length) == lengths


@pytest.mark.parametrize(
    ("settings", "lengths"),
    [
        ({"sample_rate": 44_100, "window_seconds": 0.025, "hop_seconds": 0.01}, (2048, 1102, 441)),  # 1102.5 to even
        ({"sample_rate": 16_000, "window_seconds": 0.064}, (1024, 1024, 250)),
        ({"sample_rate": 16_000, "window_seconds": 0.001}, (64, 16, 250)),
        ({"win_length": 1025, "hop_seconds": 0.5}, (2048, 1025, 16_000)),
        ({"window_seconds": 0.05, "n_fft": 8192}, (8192, 1600, 500)),
    ],
)
def test_lengths_in_seconds_are_rounded_to_samples(settings: dict[str, Any], lengths: tuple[int, int, int]) -> None:
    front_end = FrontEnd(**settings)
    assert (front_end.n_fft, front_end.win_length, front_end.hop_length) == lengths


@pytest.mark.parametrize(
    "both", [{"window_seconds": 0.096, "win_length": 3072}, {"hop_seconds": 0.015625, "hop_length": 500}]
)
def test_a_length_in_seconds_and_in_samples_is_refused(both: dict[str, Any]) -> None:
    with pytest.raises(
        InputError, match=r"^features\.(\w+) and features\.(\w+) are the same length: give one of them$"
    ):
        FrontEnd(**both)


def test_a_clip_of_one_second_is_not_written_down() -> None:
    before = {"sample_rate": 32_000, "n_fft": 4096, "win_length": 3072, "hop_length": 500, "n_mels": 256}
    assert FrontEnd().as_dict() == before | {"f_min": 0.0, "f_max": None, "log_offset": 1e-5}
    assert "clip_seconds" not in FrontEnd(clip_seconds=1).as_dict()
    settings = FrontEnd(clip_seconds=2).as_dict()
    assert settings["clip_seconds"] == 2.0
    assert FrontEnd(**settings) == FrontEnd(clip_seconds=2)  # pyright: ignore[reportArgumentType]


def test_edges_are_written_down_where_there_are_none() -> None:
    assert "edges" not in FrontEnd(edges="reflect").as_dict()
    settings = FrontEnd(edges="none").as_dict()
    assert settings["edges"] == "none"
    assert FrontEnd(**settings) == FrontEnd(edges="none")  # pyright: ignore[reportArgumentType]


WITHIN = [
    FrontEnd(n_mels=20, edges="none"),
    FrontEnd(sample_rate=8_000, n_fft=256, win_length=201, hop_length=97, n_mels=20, edges="none"),
    FrontEnd(sample_rate=8_000, n_fft=8192, win_length=8000, hop_length=97, n_mels=20, edges="none"),
]


@pytest.mark.parametrize("front_end", WITHIN, ids=repr)
def test_without_edges_a_frame_is_that_of_any_clip_with_its_samples(front_end: FrontEnd) -> None:
    reach = (front_end.n_fft - front_end.win_length) // 2
    sound = np.random.default_rng(0).normal(0, 0.1, (1, 3 * front_end.clip_samples)).astype(np.float32)
    reflected = replace(front_end, edges="reflect", clip_seconds=3.0)
    first = front_end.hop_length * -(-front_end.n_fft // 2 // front_end.hop_length)  # frame of no reflection
    clip = sound[:, first - front_end.n_fft // 2 + reach :][:, : front_end.clip_samples]
    expected = reflected.log_mel(sound)[:, :, first // front_end.hop_length :][:, :, : front_end.frames]
    assert front_end.frames == 1 + (front_end.clip_samples - front_end.win_length) // front_end.hop_length
    np.testing.assert_allclose(front_end.log_mel(clip), expected, rtol=0, atol=1e-4)


def test_without_edges_a_window_must_fit_the_clip() -> None:
    FrontEnd(sample_rate=8_000, win_length=2_000, clip_seconds=0.25, edges="none")
    with pytest.raises(InputError, match=r"^features\.win_length is 2001: without edges it must be at most 2,000 samp"):
        FrontEnd(sample_rate=8_000, win_length=2_001, clip_seconds=0.25, edges="none")
    with pytest.raises(InputError, match=r"^features\.edges is 'zero': it must be one of reflect, none$"):
        FrontEnd(edges="zero")  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize("seconds", [0.25, 0.5, 2.0, 10.0])
def test_frames_cover_a_clip_of_any_length(seconds: float) -> None:
    front_end = FrontEnd(sample_rate=8_000, n_mels=4, clip_seconds=seconds)
    assert front_end.clip_samples == 8_000 * seconds
    assert front_end.log_mel(np.zeros((1, front_end.clip_samples), np.float32)).shape == (1, *front_end.shape)
    assert front_end.frames == 1 + int(64 * seconds)


def test_a_window_must_fit_twice_the_shortest_clip() -> None:
    FrontEnd(sample_rate=8_000, n_fft=2048, clip_seconds=0.25)
    with pytest.raises(InputError, match=r"^features\.n_fft is 4096: it must be even and less than 4,000 samples"):
        FrontEnd(sample_rate=8_000, n_fft=4096, clip_seconds=0.25)
    with pytest.raises(InputError, match=r"^features\.n_fft is 16384: it must be even and less than 16,000 samples"):
        FrontEnd(sample_rate=8_000, n_fft=16384, clip_seconds=10)

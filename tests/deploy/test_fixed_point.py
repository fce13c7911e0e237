"""The fixed-point log-mel, against numpy's FFT, the float front end, decimal arithmetic and a checksum of its own."""

import math
import zlib
from dataclasses import replace
from decimal import Decimal, localcontext
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tinyscene.deploy.common.errors import InputError
from tinyscene.deploy.frontend import fixed_point
from tinyscene.deploy.frontend.audio import Recording
from tinyscene.deploy.frontend.fixed_point import FixedPointLogMel
from tinyscene.deploy.frontend.log_mel import FrontEnd, float_pcm

SCALE = float(np.float32((6 + 11.52) / 255))  # features from -11.52, just below silence, to 6
ZERO_POINT = 40
SIZES = [64, 256, 512, 1024, 2048, 4096]  # log2 of half of it both even and odd
MULR = fixed_point.mulr
OTHERS = [
    FrontEnd(sample_rate=16_000, n_fft=1024, win_length=1024, hop_length=160, n_mels=64, f_min=50.0, f_max=7600.0),
    FrontEnd(sample_rate=16_000, n_fft=512, win_length=401, hop_length=160, n_mels=40),
    FrontEnd(n_fft=2048, win_length=2048, n_mels=128),
]


def sized(n_fft: int, win_length: int | None = None) -> FixedPointLogMel:
    return FixedPointLogMel(FrontEnd(n_fft=n_fft, win_length=win_length or n_fft, n_mels=8), SCALE, ZERO_POINT)


def noise(samples: int, level: float, seed: int = 0) -> np.ndarray:
    normal = np.random.default_rng(seed).normal(size=samples) * level
    return np.clip(np.rint(normal), -32768, 32767).astype(np.int16)


def square(samples: int, period: int) -> np.ndarray:
    return np.where(np.arange(samples) % period < period // 2, 32767, -32768).astype(np.int16)


def loudest() -> dict[str, np.ndarray]:
    """Clips that are as loud as int16 can be, in as many ways as the transform has paths."""
    clips = {f"square of {period}": square(32_000, period) for period in (2, 3, 4, 5, 8, 16, 63, 500, 4096)}
    clips["lowest"] = np.full(32_000, -32768, np.int16)
    clips["highest"] = np.full(32_000, 32767, np.int16)
    clips["impulses"] = np.where(np.arange(32_000) % 997, 0, -32768).astype(np.int16)
    clips["signs"] = np.where(noise(32_000, 1000.0) < 0, -32768, 32767).astype(np.int16)
    return clips


def float_features(front_end: FrontEnd, pcm: np.ndarray) -> np.ndarray:
    log_mel = front_end.log_mel(float_pcm(pcm)).astype(np.float64)
    return np.clip(np.rint(log_mel / SCALE + ZERO_POINT), -128, 127)


def differences(fixed: FixedPointLogMel, pcm: np.ndarray) -> np.ndarray:
    return np.abs(fixed(pcm) - float_features(fixed.front_end, pcm))


@pytest.fixture(scope="module")
def recordings(tau_mini: Path) -> np.ndarray:
    """24 clips of real recordings, (24, samples)."""
    paths = sorted((tau_mini / "audio").iterdir())
    return np.stack([next(Recording(path, 32_000).clips()) for path in paths[:: len(paths) // 24][:24]])


def test_the_tables_hold_the_window_and_the_circle_in_q31() -> None:
    fixed = sized(4096, 3072)
    window = np.sin(np.pi * np.arange(3072) / 3072) ** 2
    circle = np.exp(2j * np.pi * np.arange(3072) / 4096)
    np.testing.assert_allclose(fixed.window_table / 2**31, window, rtol=0, atol=1e-7)  # the window is float32
    expected = np.stack([np.real(circle), np.imag(circle)], 1)
    np.testing.assert_allclose(fixed.twiddles / 2**31, expected, rtol=0, atol=2**-31)
    assert fixed.twiddles.min() == -(2**31 - 1)  # so that every negative exists


def test_a_frame_is_the_reflected_signal_under_the_window() -> None:
    fixed, clip = sized(4096, 3072), noise(32_000, 5000.0)
    window = np.zeros(4096)
    window[512:3584] = np.sin(np.pi * np.arange(3072) / 3072) ** 2
    for frame in (0, 3, 32, 64):
        at = np.arange(4096) + 500 * frame - 2048
        reflected = np.where(at < 0, -at, np.where(at > 31_999, 2 * 31_999 - at, at))
        expected = clip[reflected] * window * 2**fixed.fraction_bits
        np.testing.assert_allclose(fixed.windowed(clip)[frame], expected, rtol=0, atol=0.5 + 0.05)


@pytest.mark.parametrize(("n_fft", "win_length"), [(4096, 3072), (512, 401)])
def test_without_edges_a_frame_is_one_within_a_reflected_clip(n_fft: int, win_length: int) -> None:
    front_end = replace(sized(n_fft, win_length).front_end, edges="none")
    edge, sound = n_fft // 2, noise(64_000, 5000.0)
    reflected = FixedPointLogMel(replace(front_end, edges="reflect", clip_seconds=2.0), SCALE, ZERO_POINT)
    first = -(-edge // 500)  # frame that nothing is reflected into; its window begins at:
    at = 500 * first - edge + (n_fft - win_length) // 2
    features = FixedPointLogMel(front_end, SCALE, ZERO_POINT)(sound[None, at : at + 32_000])
    assert features.shape == (1, 8, 1 + (32_000 - win_length) // 500)
    np.testing.assert_array_equal(features, reflected(sound[None])[:, :, first : first + front_end.frames])


@pytest.mark.parametrize("n_fft", SIZES)
@pytest.mark.parametrize("signal", ["noise", "faint noise", "tone", "impulse", "square"])
def test_the_spectrum_is_twice_numpys_to_its_rounding(n_fft: int, signal: str) -> None:
    fixed = sized(n_fft)
    clip = {
        "noise": noise(32_000, 8000.0),
        "faint noise": noise(32_000, 3.0),
        "tone": np.rint(32_767 * np.sin(0.3 * np.arange(32_000))).astype(np.int16),
        "impulse": np.where(np.arange(32_000) % 1000, 0, 32767).astype(np.int16),
        "square": square(32_000, 7),
    }[signal]
    frames = fixed.windowed(clip)[:20]
    expected = 2 * np.fft.rfft(frames)[:, 1:-1].T  # (bin, frame)
    expected[n_fft // 4 - 1 :] = expected[n_fft // 4 - 1 :].conj()  # the upper half comes conjugated
    re, im = fixed.spectrum(frames)
    error = np.concatenate([re - expected.real, im - expected.imag])
    # Each doubled product is off by up to 1, the later stages add the errors of n_fft / 2 points like noise
    assert np.sqrt((error**2).mean()) < math.sqrt(n_fft)
    assert np.abs(error).max() < 12 * math.sqrt(n_fft)
    assert np.abs(error.mean()) < 0.1 * math.sqrt(n_fft)


class Int32(np.ndarray):
    """int64 values that must stay within int32, whatever is added, subtracted or doubled."""

    def __array_ufunc__(self, ufunc: np.ufunc, method: str, *inputs: Any, out: Any = None, **options: Any) -> Any:
        plain = [np.asarray(value) if isinstance(value, Int32) else value for value in inputs]
        target = {"out": tuple(np.asarray(value) for value in out)} if out else {}
        result = getattr(ufunc, method)(*plain, **target, **options)
        assert result.min(initial=0) >= -(2**31)
        assert result.max(initial=0) < 2**31
        return np.asarray(result).view(Int32)

    def __array_function__(self, *call: Any) -> Any:
        return super().__array_function__(*call).view(Int32)


def checked_mulr(x: np.ndarray, w: np.ndarray) -> np.ndarray:
    for factor in (np.asarray(x), np.asarray(w)):
        assert factor.min() >= -(2**31)
        assert factor.max() < 2**31
    return MULR(np.asarray(x), np.asarray(w)).view(Int32)


@pytest.mark.parametrize("n_fft", SIZES)
@pytest.mark.parametrize("share", ["whole", "three quarters", "two samples"])
def test_no_step_leaves_int32(n_fft: int, share: str, monkeypatch: pytest.MonkeyPatch) -> None:
    fixed = sized(n_fft, {"whole": n_fft, "three quarters": 3 * n_fft // 4, "two samples": 2}[share])
    monkeypatch.setattr(fixed_point, "mulr", checked_mulr)
    for clip in loudest().values():
        assert isinstance(fixed.spectrum(fixed.windowed(clip)[:12].view(Int32)), Int32)


def test_two_more_bits_would_leave_int32(monkeypatch: pytest.MonkeyPatch) -> None:
    fixed = sized(1024)
    fixed.fraction_bits += 2
    monkeypatch.setattr(fixed_point, "mulr", checked_mulr)
    with pytest.raises(AssertionError):
        fixed.spectrum(fixed.windowed(loudest()["square of 16"])[:12].view(Int32))


@pytest.mark.parametrize("win_length", [1, 2, 1000, 1024])
def test_the_fraction_bits_are_the_most_that_fit(win_length: int) -> None:
    bits = sized(1024, win_length).fraction_bits
    assert win_length * 2**bits < 2**16 <= win_length * 2 ** (bits + 1)


@pytest.mark.parametrize("n_fft", SIZES)
def test_the_power_of_all_bins_times_a_weight_of_one_fits_64_bits(n_fft: int) -> None:
    fixed = sized(n_fft)
    largest = max(
        int(fixed.power(fixed.spectrum(fixed.windowed(clip))).sum(axis=0).max()) for clip in loudest().values()
    )
    assert largest * 2**16 < 2**63
    assert largest * 2**16 > 2**60  # nor is precision given away


@pytest.mark.parametrize(("product", "rounded"), [(2**31 - 1, 0), (2**31, 1), (-(2**31), 0), (-(2**31) - 1, -1)])
def test_mulr_rounds_to_nearest_and_a_tie_upwards(product: int, rounded: int) -> None:
    assert MULR(np.array([product]), np.array([1])).tolist() == [rounded]


def test_a_rotation_rounds_the_product_with_the_negative_sine() -> None:
    fixed = sized(4096)
    sines = fixed.twiddles[1:1024, 1].tolist()
    even, k = max((sine & -sine, k) for k, sine in enumerate(sines, start=1))  # the power of two within the sine
    frame = np.zeros((1, 4096), np.int64)
    frame[0, 1] = 2**31 // even // 2  # becomes O = twice that at every k, and its product with the sine a tie
    product = 2 * frame[0, 1].item() * -sines[k - 1]
    assert product % 2**32 == 2**31
    assert fixed.spectrum(frame)[1, k - 1, 0] == 2 * math.ceil(product / 2**32)


@pytest.mark.parametrize("front_end", [FrontEnd(), *OTHERS], ids=repr)
def test_the_segments_rebuild_the_filterbank(front_end: FrontEnd) -> None:
    fixed = FixedPointLogMel(front_end, SCALE, ZERO_POINT)
    one = np.eye(front_end.n_fft // 2 - 1, dtype=np.int64)  # (bin, frame): each frame holds one bin
    filterbank = front_end.filterbank()[:, 1:-1]
    np.testing.assert_allclose(fixed.mel_energy(one) / 2**16, filterbank, rtol=0, atol=2**-17 + 1e-6)


def test_every_bin_under_a_triangle_has_a_weight_and_none_beside() -> None:
    front_end = FrontEnd(n_mels=20, f_min=300.0, f_max=8000.0)
    fixed = FixedPointLogMel(front_end, SCALE, ZERO_POINT)
    covered = np.flatnonzero((front_end.filterbank() > 2**-17).any(axis=0))
    assert fixed.segment_starts[[0, -1]].tolist() == [covered[0], covered[-1] + 1]
    assert len(fixed.mel_weights) == len(covered)


@pytest.mark.parametrize("zero_point", [-128, 40, 127])
@pytest.mark.parametrize("scale", [SCALE, 0.01, 0.5])
def test_a_feature_changes_exactly_where_the_rounded_logarithm_does(scale: float, zero_point: int) -> None:
    fixed = FixedPointLogMel(FrontEnd(), scale, zero_point)
    reached = 0
    with localcontext() as context:
        context.prec = 50
        unit = Decimal(2) ** (48 + 2 * fixed.fraction_bits - fixed.power_shift)

        def place(energy: int) -> Decimal:
            """Where an energy lies among the features, before rounding."""
            return (Decimal(energy) / unit + Decimal(FrontEnd().log_offset)).ln() / Decimal(
                float(np.float32(scale))
            ) + zero_point

        for index, threshold in enumerate(fixed.thresholds.tolist()):
            boundary = Decimal(index - 127) - Decimal("0.5")
            if threshold < 2**63 - 1:
                assert place(threshold) >= boundary
            if threshold > 0:
                assert place(threshold - 1) < boundary
                reached += 1
    assert reached > 0


@pytest.mark.parametrize("zero_point", [-100, 40, 100])
def test_thresholds_rise_wherever_they_are_not_clamped(zero_point: int) -> None:
    thresholds = FixedPointLogMel(FrontEnd(), SCALE, zero_point).thresholds
    assert len(thresholds) == 255
    assert thresholds.min() >= 0
    assert (np.diff(thresholds[(thresholds > 0) & (thresholds < 2**63 - 1)]) > 0).all()
    assert (np.diff(thresholds) >= 0).all()


def test_a_threshold_is_reached_by_the_energy_that_equals_it(monkeypatch: pytest.MonkeyPatch) -> None:
    fixed = FixedPointLogMel(FrontEnd(), SCALE, ZERO_POINT)
    energies = np.tile(fixed.thresholds[200] - np.array([1, 0, -1])[:, None], (1, 65))
    monkeypatch.setattr(fixed, "mel_energy", lambda power: np.resize(energies, (256, 65)))
    assert fixed(np.zeros((1, 32_000), np.int16))[0, :3, 0].tolist() == [72, 73, 73]


@pytest.mark.parametrize("zero_point", [0, 40, 100])
def test_silence_is_the_logarithm_of_the_offset(zero_point: int) -> None:
    features = FixedPointLogMel(FrontEnd(), SCALE, zero_point)(np.zeros((1, 32_000), np.int16))
    assert features.shape == (1, 256, 65)
    assert features.dtype == np.int8
    assert set(features.flat) == {max(round(math.log(1e-5) / SCALE) + zero_point, -128)}


@pytest.mark.parametrize(("level", "equal"), [("as recorded", 0.98), ("at -40 dB", 0.9), ("at full scale", 0.99)])
def test_features_of_recordings_are_within_one_of_the_float_front_ends(
    recordings: np.ndarray, level: str, equal: float
) -> None:
    peaks = np.abs(recordings.astype(np.float64)).max(axis=1, keepdims=True)
    gain = {"as recorded": 1.0, "at -40 dB": 0.01, "at full scale": 32_767 / peaks}[level]
    pcm = np.rint(recordings * gain).astype(np.int16)
    difference = differences(FixedPointLogMel(FrontEnd(), SCALE, ZERO_POINT), pcm)
    assert difference.max() <= 1
    assert (difference == 0).mean() > equal


@pytest.mark.parametrize("front_end", OTHERS, ids=repr)
@pytest.mark.parametrize("level", [3.0, 300.0, 10_000.0])
def test_other_settings_are_within_one_of_the_float_front_end(front_end: FrontEnd, level: float) -> None:
    pcm = noise(front_end.clip_samples, level)[None]
    difference = differences(FixedPointLogMel(front_end, SCALE, ZERO_POINT), pcm)
    assert difference.max() <= 1
    assert (difference == 0).mean() > 0.9


@pytest.mark.parametrize("clip", loudest())
def test_silent_bands_beside_the_loudest_are_within_one_of_the_float_front_end(clip: str) -> None:
    assert differences(FixedPointLogMel(FrontEnd(), SCALE, ZERO_POINT), loudest()[clip][None]).max() <= 1


def test_a_batch_equals_its_clips_one_by_one() -> None:
    fixed = FixedPointLogMel(FrontEnd(), SCALE, ZERO_POINT)
    batch = np.stack([noise(32_000, level, seed) for seed, level in enumerate((10.0, 1000.0, 20_000.0))])
    np.testing.assert_array_equal(fixed(batch), np.concatenate([fixed(clip[None]) for clip in batch]))
    assert fixed(batch[:0]).shape == (0, 256, 65)


def test_the_features_of_version_1_have_this_checksum() -> None:
    """The firmware computes them bit for bit: whoever changes the definition changes its version and the firmware."""
    state, samples = 1, []
    for index in range(32_000):
        state = (1_664_525 * state + 1_013_904_223) % 2**32
        samples.append(((state >> 16) - 2**15) >> (index // 2_500))  # noise that fades from full scale to nothing
    features = FixedPointLogMel(FrontEnd(), SCALE, ZERO_POINT)(np.array([samples], np.int16))
    assert len(np.unique(features)) > 100
    assert zlib.crc32(features.tobytes()) == 266_055_955


def test_the_log_mel_is_the_logarithm_of_the_energy_to_a_512th() -> None:
    front_end = FrontEnd(n_fft=1024, win_length=800)
    fixed = FixedPointLogMel(front_end, SCALE, 0)
    pcm = np.stack([noise(front_end.clip_samples, level, seed=1) for level in (0.0, 3.0, 10_000.0)]).astype(np.int16)
    found = fixed.log_mel(pcm)
    unit = 2.0 ** (48 + 2 * fixed.fraction_bits - fixed.power_shift)
    for clip, log_mel in zip(pcm, found, strict=True):
        energy = fixed.mel_energy(fixed.power(fixed.spectrum(fixed.windowed(clip))))
        np.testing.assert_allclose(log_mel, np.log(energy / unit + front_end.log_offset), rtol=0, atol=2**-10 + 1e-6)
    np.testing.assert_array_equal(found * 512, np.rint(found * 512))


@pytest.mark.parametrize("n_fft", [32, 96, 1000, 4094])
def test_an_n_fft_that_is_no_power_of_two_from_64_on_is_refused(n_fft: int) -> None:
    with pytest.raises(InputError, match=rf"^features\.n_fft is {n_fft}: "):
        sized(n_fft)


@pytest.mark.parametrize("scale", [0.0, -0.1, 1.5, math.inf, math.nan, 1e-50])
def test_a_scale_that_is_none_is_refused(scale: float) -> None:
    with pytest.raises(InputError, match="scale"):
        FixedPointLogMel(FrontEnd(), scale, ZERO_POINT)


@pytest.mark.parametrize("zero_point", [-129, 128])
def test_a_zero_point_outside_int8_is_refused(zero_point: int) -> None:
    with pytest.raises(InputError, match=str(zero_point)):
        FixedPointLogMel(FrontEnd(), SCALE, zero_point)


@pytest.mark.parametrize("pcm", [np.zeros((1, 32_000), np.float32), np.zeros((1, 31_999), np.int16)])
def test_clips_of_another_type_or_length_are_refused(pcm: np.ndarray) -> None:
    with pytest.raises(InputError, match="int16"):
        FixedPointLogMel(FrontEnd(), SCALE, ZERO_POINT)(pcm)

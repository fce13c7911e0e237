"""The resampler: torchaudio's filter, and the same samples on every processor."""

import json
import math
import os
import subprocess
import sys
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from tests import ROOT
from tests.deploy.decoded import (
    GOLDEN,
    PAIRS,
    filter_hashes,
    folder_hash,
    noise,
    recording_hashes,
    signal_hashes,
)
from tinyscene.deploy.common.errors import InputError
from tinyscene.deploy.frontend.resample import (
    LARGEST_SAMPLE,
    PHASES_A_BLOCK,
    SAMPLE_ONE,
    SOURCE_RATES,
    TAP_ONE,
    ZERO_CROSSINGS,
    resample,
    sinc_filter,
)

PROCESSORS = {  # how libraries are told to take a processor for another: OpenBLAS, numpy and the C library
    "Prescott": {"OPENBLAS_CORETYPE": "Prescott"},
    "Haswell": {"OPENBLAS_CORETYPE": "Haswell"},
    "Zen": {"OPENBLAS_CORETYPE": "Zen"},
    "no AVX2": {
        "NPY_DISABLE_CPU_FEATURES": "AVX2 FMA3 AVX512F",
        "GLIBC_TUNABLES": "glibc.cpu.hwcaps=-AVX2,-FMA,-AVX2_Usable,-FMA_Usable",
    },
}


def reduced(source: int, target: int) -> tuple[int, int]:
    divisor = math.gcd(source, target)
    return source // divisor, target // divisor


def run_as(processor: str, *arguments: str) -> str:
    """What Python prints in a process whose libraries take the processor for this one."""
    environment = {**os.environ, **PROCESSORS[processor]}
    return subprocess.run(
        [sys.executable, *arguments], cwd=ROOT, env=environment, capture_output=True, text=True, check=True
    ).stdout


def test_resampling_equals_torchaudio(golden: dict[str, np.ndarray]) -> None:
    np.testing.assert_allclose(resample(golden["x"][0], 44_100, 32_000), golden["r"][0], rtol=0, atol=1e-6)


def sine(frequency: float, rate: int, samples: int) -> np.ndarray:
    return 0.5 * np.sin(2 * np.pi * frequency * np.arange(samples) / rate)


@pytest.mark.parametrize("frequency", [440, 1000])
@pytest.mark.parametrize("rate", [8_000, 16_000, 22_050, 44_101, 48_000, 96_000])
def test_a_sine_keeps_frequency_and_amplitude(rate: int, frequency: int) -> None:
    resampled = resample(sine(frequency, rate, rate).astype(np.float32), rate, 32_000)
    expected = sine(frequency, 32_000, 32_000)
    np.testing.assert_allclose(resampled[500:-500], expected[500:-500], rtol=0, atol=1e-3)


def test_a_sine_beyond_the_new_nyquist_frequency_is_gone() -> None:
    resampled = resample(sine(30_000, 96_000, 96_000).astype(np.float32), 96_000, 32_000)
    assert np.abs(resampled[500:-500]).max() < 1e-3


@pytest.mark.parametrize(
    ("samples", "source", "target", "expected"),
    [
        (44_100, 44_100, 32_000, 32_000),
        (1000, 48_000, 32_000, 667),
        (441, 44_100, 32_000, 320),
        (442, 44_100, 32_000, 321),
        (3, 8_000, 32_000, 12),
        (1, 96_000, 32_000, 1),
        (1, 44_101, 32_000, 1),
        (0, 44_100, 32_000, 0),
    ],
)
def test_the_resampled_length_is_rounded_up(samples: int, source: int, target: int, expected: int) -> None:
    assert len(resample(np.ones(samples, np.float32), source, target)) == expected


def test_equal_rates_return_the_signal(golden: dict[str, np.ndarray]) -> None:
    np.testing.assert_array_equal(resample(golden["x"][0], 44_100, 44_100), golden["x"][0])


@pytest.mark.parametrize("rate", [-44_100, 0, 999, 768_001])
def test_a_source_rate_that_is_not_sound_is_refused(rate: int) -> None:
    with pytest.raises(InputError, match=str(rate)):
        resample(np.zeros(10, np.float32), rate, rate)


@pytest.mark.parametrize("rate", [1_000, 768_000])
def test_the_extreme_source_rates_resample(rate: int) -> None:
    resampled = resample(np.ones(rate, np.float32), rate, 32_000)
    np.testing.assert_allclose(resampled[500:-500], 1.0, atol=2e-3)


# exact sums


@pytest.mark.parametrize(("source", "target"), [(441, 320), (3, 2), (6, 1), (80, 441)])
def test_samples_are_the_exact_sums_of_pythons_integers(source: int, target: int) -> None:
    integers = (4 * noise(2_000, 24, 7)).tolist()  # as large as samples may be, and exact in float32
    signal = np.array(integers, np.float32) / np.float32(SAMPLE_ONE)
    width, blocks = sinc_filter(source, target)
    resampled = resample(signal, 1_000 * source, 1_000 * target)
    for index in range(0, len(resampled), 13):
        step, phase = divmod(index, target)
        first, taps = blocks[phase // PHASES_A_BLOCK]
        start = step * source + first - width
        used = [integers[at] if 0 <= at < len(integers) else 0 for at in range(start, start + len(taps))]
        column = taps[:, phase % PHASES_A_BLOCK].tolist()
        total = sum(round(used_sample) * round(tap) for used_sample, tap in zip(used, column, strict=True))
        assert Fraction(resampled[index]) == Fraction(total, round(SAMPLE_ONE * TAP_ONE))


@pytest.mark.parametrize("source_rate", [*SOURCE_RATES, 8_000, 11_025, 44_100, 96_000])
@pytest.mark.parametrize("target_rate", [4_000, 32_000, 192_000])
def test_no_sum_leaves_the_integers_that_float64_holds(source_rate: int, target_rate: int) -> None:
    _, blocks = sinc_filter(*reduced(source_rate, target_rate))
    assert max(np.abs(taps).sum(axis=0).max() for _, taps in blocks) * LARGEST_SAMPLE < 2**53


@pytest.mark.parametrize(("source_rate", "target_rate"), PAIRS)
def test_taps_are_the_windowed_sinc_of_numpys_sines(source_rate: int, target_rate: int) -> None:
    source, target = reduced(source_rate, target_rate)
    base = 0.99 * min(source, target)
    width, blocks = sinc_filter(source, target)
    for index, (first, taps) in enumerate(blocks):
        phases = index * PHASES_A_BLOCK + np.arange(taps.shape[1])
        places = np.arange(first - width, first - width + len(taps))
        t = (places[:, None] / source - phases / target) * base  # (tap, phase)
        hann = np.where(np.abs(t) < ZERO_CROSSINGS, np.cos(np.pi * t / 12) ** 2, 0)
        # torchaudio's phase is in float32, which moves a tap by up to 2^-24 of the distance of two samples or so
        np.testing.assert_allclose(taps / TAP_ONE, np.sinc(t) * hann * base / source, rtol=0, atol=1e-6 * base)


def test_samples_far_beyond_full_scale_are_limited() -> None:
    loud = np.full(4_410, 1e30, np.float32)
    np.testing.assert_array_equal(resample(loud, 44_100, 32_000), resample(np.full_like(loud, 4), 44_100, 32_000))


# the same everywhere


def test_the_filters_are_the_golden_ones() -> None:
    assert filter_hashes() == GOLDEN["filters"]


def test_signals_become_the_golden_clips() -> None:
    assert signal_hashes() == GOLDEN["signals"]


def test_real_recordings_become_the_golden_clips(tau_mini: Path) -> None:
    assert recording_hashes(tau_mini) == GOLDEN["recordings"]


@pytest.mark.slow
@pytest.mark.parametrize("pattern", GOLDEN["folders"])
def test_all_real_recordings_become_the_golden_clips(pattern: str, tau_mini: Path) -> None:
    assert folder_hash(tau_mini.parent, pattern) == GOLDEN["folders"][pattern]


@pytest.mark.parametrize("processor", PROCESSORS)
def test_another_processor_gives_the_golden_clips(processor: str) -> None:
    found = json.loads(run_as(processor, "-m", "tests.deploy.decoded"))
    assert found == {key: GOLDEN[key] for key in found}


@pytest.fixture(scope="module")
def lossy_hash(esc10: Path) -> str:
    return folder_hash(esc10, "*/*.ogg")


@pytest.mark.slow
@pytest.mark.parametrize("processor", PROCESSORS)
def test_another_processor_makes_the_same_clips_of_lossy_recordings(
    processor: str, esc10: Path, lossy_hash: str
) -> None:
    code = "import sys; from tests.deploy.decoded import *; print(folder_hash(Path(sys.argv[1]), '*/*.ogg'))"
    assert run_as(processor, "-c", code, str(esc10)).strip() == lossy_hash

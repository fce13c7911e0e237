"""The front end in C on emulated processors of every kind, against the numpy that defines it."""

from pathlib import Path

import numpy as np
import pytest

from tests.firmware_bridge.test_firmware_frontend import (
    WARNINGS,
    fixed_point,
    noise,
    run_on,
    run_on_this_machine,
    write_sources,
)
from tinyscene.deploy.frontend.fixed_point import FixedPointLogMel
from tinyscene.deploy.frontend.log_mel import FrontEnd

MACHINES = ("cortex-m4", "cortex-m55", "riscv32")  # DSP, vectors, plain C
DEVICES = [
    *(pytest.param(name, "zig", id=f"{name}-zig") for name in MACHINES),
    *(
        pytest.param(name, compiler, id=f"{name}-{compiler}", marks=pytest.mark.slow)
        for name, compiler in (("cortex-m4", "gcc"), ("cortex-m55", "gcc"), ("cortex-m3", "zig"), ("cortex-m3", "gcc"))
    ),
]
# One for each way to begin: 4 points, 8 of which the window leaves 6, all 8; windows of odd length; rings that wrap
# within a pair of samples
SHAPES = [
    FrontEnd(sample_rate=16_000, n_fft=512, win_length=401, hop_length=1_601, n_mels=40, f_min=20.0, f_max=7_600.0),
    FrontEnd(sample_rate=16_000, n_fft=1_024, win_length=768, hop_length=1_999, n_mels=63),
    FrontEnd(sample_rate=16_000, n_fft=1_024, win_length=767, hop_length=2_000, n_mels=128),
    FrontEnd(sample_rate=16_000, n_fft=256, win_length=256, hop_length=777, n_mels=31),
    FrontEnd(sample_rate=16_000, n_fft=128, win_length=77, hop_length=999, n_mels=14, f_min=300.0),
    FrontEnd(sample_rate=44_100, n_fft=8_192, win_length=8_000, hop_length=9_000, n_mels=250),
    FrontEnd(sample_rate=8_000, n_fft=64, win_length=50, hop_length=700, n_mels=5),
    FrontEnd(sample_rate=16_000, n_fft=2_048, win_length=16, hop_length=4_000, n_mels=9),  # unusual: sums of 64 bits
]
# Instructions a second of sound, in millions, for the default front end
MOST = {"cortex-m4": 13, "cortex-m3": 24, "riscv32": 29}


def extreme_sounds(front_end: FrontEnd) -> np.ndarray:
    """Clips (clip, samples): the least sample, full scale at half the sampling rate, silence, one sample, noise."""
    samples = front_end.clip_samples
    clips = np.zeros((8, samples))
    clips[0] = -32768
    clips[1] = np.where(np.arange(samples) % 2, 32767, -32768)
    clips[3, samples // 2] = 32767
    levels = np.array([[1.0], [30.0], [3_000.0], [30_000.0]])
    clips[4:] = np.random.default_rng(1).normal(size=(4, samples)) * levels
    return np.clip(np.rint(clips), -32768, 32767).astype(np.int16)


def check_on(target: str, log_mel: FixedPointLogMel, folder: Path, compiler: str, optimize: str = "O2") -> None:
    """Features of extreme sounds on a target are numpy's."""
    clips = extreme_sounds(log_mel.front_end)
    run_on(target, write_sources(log_mel, folder), folder, clips.tobytes(), compiler, optimize)
    features = np.frombuffer((folder / "result.bin").read_bytes(), np.int8).reshape(-1, *log_mel.front_end.shape)
    np.testing.assert_array_equal(features, log_mel(clips))


def random_front_end(seed: int) -> FrontEnd:
    """FFT of 64 to 8192 points; windows that leave segments out and others; any hop and number of bands."""
    draw = np.random.default_rng(seed)
    n_fft = 64 << seed % 8
    rate = int(draw.integers(max(4_000, n_fft // 2 + 2), 20_000))
    shortest = draw.choice([n_fft // 8, n_fft // 2, n_fft * 3 // 4 + 1])
    return FrontEnd(
        sample_rate=rate,
        n_fft=n_fft,
        win_length=int(draw.integers(shortest, n_fft + 1)),
        hop_length=int(draw.integers(rate // 12, rate // 4)),
        n_mels=int(draw.integers(1, 100)),
        f_min=float(draw.integers(0, rate // 8)),
        f_max=float(draw.integers(rate // 4, rate // 2 + 1)),
    )


@pytest.mark.parametrize(("target", "compiler"), DEVICES)
def test_extreme_sounds_have_numpys_features(target: str, compiler: str, tmp_path: Path) -> None:
    check_on(target, fixed_point(FrontEnd()), tmp_path, compiler)


def test_extreme_sounds_have_numpys_features_on_this_machine(tmp_path: Path) -> None:
    log_mel, clips = fixed_point(FrontEnd()), extreme_sounds(FrontEnd())
    run_on_this_machine(write_sources(log_mel, tmp_path), tmp_path, clips.tobytes(), WARNINGS)
    assert (tmp_path / "result.bin").read_bytes() == log_mel(clips).tobytes()


@pytest.mark.slow
@pytest.mark.parametrize("front_end", SHAPES, ids=repr)
@pytest.mark.parametrize("target", MACHINES)
@pytest.mark.parametrize("compiler", ["zig", "gcc"])
def test_every_shape_has_numpys_features(target: str, compiler: str, front_end: FrontEnd, tmp_path: Path) -> None:
    check_on(target, fixed_point(front_end), tmp_path, compiler)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(16))
@pytest.mark.parametrize("target", MACHINES)
def test_random_front_ends_have_numpys_features(target: str, seed: int, tmp_path: Path) -> None:
    scale = (0.005, 0.02, 0.0687, 0.3)[seed % 4]  # the smaller, the more thresholds in a cell of the logarithm
    check_on(target, FixedPointLogMel(random_front_end(seed), scale, 7 * seed - 60), tmp_path, "zig")


@pytest.mark.slow
@pytest.mark.parametrize("optimize", ["O0", "Os", "O3"])
@pytest.mark.parametrize("compiler", ["zig", "gcc"])
@pytest.mark.parametrize("target", MACHINES)
def test_every_level_of_optimization_gives_numpys_features(
    target: str, compiler: str, optimize: str, tmp_path: Path
) -> None:
    check_on(target, fixed_point(SHAPES[1]), tmp_path, compiler, optimize)


@pytest.mark.slow
@pytest.mark.parametrize("compiler", ["zig", "gcc"])
@pytest.mark.parametrize("target", MOST)
def test_a_second_of_sound_takes_few_instructions(target: str, compiler: str, tmp_path: Path) -> None:
    sources, job = write_sources(fixed_point(FrontEnd()), tmp_path), noise(FrontEnd())[2].tobytes()
    calls = run_on(target, sources, tmp_path, job, compiler, counting=True).calls
    assert len(calls) == 65
    assert sum(call.instructions for call in calls) <= 1e6 * MOST[target]

"""The front end in the vectors of a host, on each of its instruction sets: equal to the numpy that defines it."""

import subprocess
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.firmware_bridge.instruction_sets import ALL_MACHINES, MACHINES, compile_or_skip
from tests.firmware_bridge.test_firmware_frontend import CLIP_IN_C, RUNTIME, STAGES, front_ends, noise
from tinyscene.deploy.bundle.golden import probe_sounds
from tinyscene.deploy.frontend.fixed_point import FixedPointLogMel
from tinyscene.deploy.frontend.log_mel import FrontEnd
from tinyscene.firmware_bridge.codegen.frontend_simd_tables import simd_config, simd_tables
from tinyscene.firmware_bridge.codegen.frontend_tables import frontend_config, frontend_tables
from tinyscene.firmware_bridge.targets.toolchains import HARNESS

SCALE, ZERO_POINT = (6 + 11.52) / 255, 40
FRONT_ENDS = [
    FrontEnd(),  # POINTS is an odd power of two, a quarter of the frame is not in the window
    FrontEnd(sample_rate=16_000, n_fft=512, win_length=401, hop_length=160, n_mels=40, f_min=20.0, f_max=7_600.0),
    FrontEnd(sample_rate=16_000, n_fft=1024, win_length=1, hop_length=500, n_mels=3),
    FrontEnd(sample_rate=16_000, n_fft=1024, win_length=1023, hop_length=16_000, n_mels=300),  # more bands than bins
    FrontEnd(sample_rate=22_050, n_fft=2048, win_length=2048, hop_length=1_024, n_mels=128),
    FrontEnd(sample_rate=48_000, n_fft=8192, win_length=8192, hop_length=4_800, n_mels=64),
    FrontEnd(sample_rate=33_000, n_fft=32_768, win_length=32_767, hop_length=9_000, n_mels=64),
]
WITHOUT_VECTORS = [
    FrontEnd(sample_rate=4_000, n_fft=256, win_length=256, hop_length=100, n_mels=5),
    FrontEnd(sample_rate=33_000, n_fft=65_536, win_length=65_536, hop_length=9_000, n_mels=64),
    FrontEnd(sample_rate=33_000, n_fft=32_768, win_length=32_768, hop_length=9_000, n_mels=64),  # no fraction bits
]


def extremes(front_end: FrontEnd) -> np.ndarray:
    """Constants, the highest frequency at full scale, silence, an impulse, noise at four levels: (clip, samples)."""
    count = front_end.clip_samples
    alternating = np.where(np.arange(count) % 2, 32767, -32768)
    impulse = np.zeros(count)
    impulse[count // 3] = -32768
    normal = np.random.default_rng(0).normal(size=(4, count)) * [[1.0], [30.0], [1_000.0], [40_000.0]]
    clips = [np.full(count, -32768), np.full(count, 32767), alternating, np.zeros(count), impulse, *normal]
    return np.clip(np.rint(clips), -32768, 32767).astype(np.int16)


def features_in_c(machine: str, log_mel: FixedPointLogMel, clips: np.ndarray, folder: Path) -> np.ndarray:
    config = frontend_config(log_mel) | simd_config(log_mel)
    (folder / "tinyscene_layout.h").write_text("".join(f"#define TINYSCENE_{k} {v}\n" for k, v in config.items()))
    (folder / "tinyscene_tables.c").write_text(frontend_tables(log_mel))
    (folder / "tinyscene_tables_simd.c").write_text(simd_tables(log_mel))
    (folder / "clip.c").write_text(CLIP_IN_C)
    sources = [*STAGES, RUNTIME / "tinyscene_frontend.c", *folder.glob("*.c"), HARNESS / "host.c"]
    command = compile_or_skip(machine, sources, [folder, RUNTIME, HARNESS], folder / "program")
    (folder / "job.bin").write_bytes(clips.tobytes())
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    return np.fromfile(folder / "result.bin", np.int8).reshape(-1, *log_mel.front_end.shape)


@pytest.mark.parametrize("machine", ALL_MACHINES)
@pytest.mark.parametrize(
    "front_end", [FRONT_ENDS[0], *(pytest.param(each, marks=pytest.mark.slow) for each in FRONT_ENDS[1:])], ids=repr
)
def test_features_are_numpys_bit_for_bit(machine: str, front_end: FrontEnd, tmp_path: Path) -> None:
    log_mel = FixedPointLogMel(front_end, SCALE, ZERO_POINT)
    assert simd_config(log_mel)
    clips = np.concatenate([probe_sounds(front_end), noise(front_end), extremes(front_end)])
    np.testing.assert_array_equal(features_in_c(machine, log_mel, clips, tmp_path), log_mel(clips))


@pytest.mark.parametrize("scale", [1.0, 0.01, 0.0001])
@pytest.mark.parametrize("zero_point", [-128, 127])
@pytest.mark.slow
def test_thresholds_of_any_scale_are_found(scale: float, zero_point: int, tmp_path: Path) -> None:
    front_end = FRONT_ENDS[1]
    log_mel, clips = FixedPointLogMel(front_end, scale, zero_point), noise(front_end)
    np.testing.assert_array_equal(features_in_c("avx2", log_mel, clips, tmp_path), log_mel(clips))


@pytest.mark.slow
@pytest.mark.parametrize("front_end", WITHOUT_VECTORS, ids=repr)
def test_front_ends_that_vectors_cannot_compute_are_left_to_the_plain_code(front_end: FrontEnd, tmp_path: Path) -> None:
    log_mel, clips = FixedPointLogMel(front_end, SCALE, ZERO_POINT), noise(front_end)
    assert simd_config(log_mel) == {}
    np.testing.assert_array_equal(features_in_c("avx2", log_mel, clips, tmp_path), log_mel(clips))


@pytest.mark.slow
@pytest.mark.parametrize("machine", MACHINES)
@settings(deadline=None, max_examples=12, suppress_health_check=[HealthCheck.too_slow])
@given(front_end=front_ends(), seed=st.integers(0, 2**32))
def test_any_front_end_is_numpys_bit_for_bit(
    machine: str, front_end: FrontEnd, seed: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    log_mel, clips = FixedPointLogMel(front_end, SCALE, ZERO_POINT), noise(front_end, seed)
    folder = tmp_path_factory.mktemp("any")
    np.testing.assert_array_equal(features_in_c(machine, log_mel, clips, folder), log_mel(clips))

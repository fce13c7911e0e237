"""The front end in C, compiled for this machine and for a Cortex-M4, against the numpy that defines it."""

import re
import subprocess
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests import ROOT
from tinyscene.deploy.bundle.golden import probe_sounds
from tinyscene.deploy.common.errors import InputError
from tinyscene.deploy.frontend.fixed_point import FixedPointLogMel, mulr
from tinyscene.deploy.frontend.frame_spans import frame_spans
from tinyscene.deploy.frontend.log_mel import FrontEnd
from tinyscene.firmware_bridge.codegen.frontend_tables import frontend_config, frontend_tables
from tinyscene.firmware_bridge.targets import emulators
from tinyscene.firmware_bridge.targets.toolchains import TARGETS, Toolchain, build, find_toolchain, harness_sources

RUNTIME = ROOT / "firmware_bridge" / "runtime"
STAGES = sorted(RUNTIME.glob("tinyscene_frontend_*.c"))
SCALE, ZERO_POINT = (6 + 11.52) / 255, 40
WARNINGS = ("-Wall", "-Wextra", "-Wconversion", "-Wshadow", "-pedantic", "-Werror")
SANITIZERS = ("-g", "-fsanitize=address,undefined", "-fno-sanitize-recover=all")
OTHERS = [
    FrontEnd(sample_rate=4_000, n_fft=64, win_length=64, hop_length=100, n_mels=5),
    FrontEnd(sample_rate=8_000, n_fft=256, win_length=201, hop_length=97, n_mels=1, f_min=100.0),
    FrontEnd(sample_rate=16_000, n_fft=512, win_length=401, hop_length=160, n_mels=40, f_min=20.0, f_max=7_600.0),
    FrontEnd(sample_rate=16_000, n_fft=1024, win_length=1, hop_length=500, n_mels=3),
    FrontEnd(sample_rate=16_000, n_fft=1024, win_length=1023, hop_length=16_000, n_mels=300),  # more bands than bins
    FrontEnd(sample_rate=8_000, n_fft=128, n_mels=2, win_length=100, f_min=1_010.0, f_max=1_020.0),  # between two bins
    FrontEnd(sample_rate=16_000, n_fft=512, win_length=401, hop_length=160, n_mels=40, edges="none"),
    FrontEnd(sample_rate=33_000, n_fft=65_536, win_length=65_536, hop_length=9_000, n_mels=64),  # longer than the clip
]

# Every frame as soon as its samples have arrived in the ring, which held something else before
CLIP_IN_C = """
#include "harness.h"
#include "tinyscene_frontend.h"

static int16_t clip[TINYSCENE_CLIP_SAMPLES], ring[TINYSCENE_RING_SAMPLES];
static int64_t work[TINYSCENE_WORK_BYTES / 8];
static int8_t features[TINYSCENE_MELS * TINYSCENE_FRAMES];

static void clip_features(int32_t start)
{
    int32_t arrived = 0;
    for (int32_t i = 0; i < TINYSCENE_RING_SAMPLES; i++)
        ring[i] = 0x5555;
    for (int32_t frame = 0; frame < TINYSCENE_FRAMES; frame++) {
        const int32_t at = frame * TINYSCENE_HOP_LENGTH - TINYSCENE_LEAD;
        int32_t due = at + TINYSCENE_WIN_LENGTH > 1 - at ? at + TINYSCENE_WIN_LENGTH : 1 - at;
        if (due > TINYSCENE_CLIP_SAMPLES)
            due = TINYSCENE_CLIP_SAMPLES;
        for (; arrived < due; arrived++)
            ring[(start + arrived) % TINYSCENE_RING_SAMPLES] = clip[arrived];
        tinyscene_frame(ring, start, at, work, features + frame, TINYSCENE_FRAMES);
    }
}

int main(void)
{
    const int32_t in = harness_open("job.bin", 0), out = harness_open("result.bin", 1);
    for (int32_t start = 0; harness_read(in, clip, sizeof clip) == sizeof clip; start += 1237) {
        clip_features(start % TINYSCENE_RING_SAMPLES);
        harness_write(out, features, sizeof features);
    }
    return 0;
}
"""

# The static functions within
PRODUCTS_IN_C = """
#include "harness.h"
#if defined(__arm__)
#include "tinyscene_frontend_dsp.c"
#else
#include "tinyscene_frontend_plain.c"
#endif

int main(void)
{
    const int32_t in = harness_open("job.bin", 0), out = harness_open("result.bin", 1);
    int32_t from[3], to[3];
    while (harness_read(in, from, sizeof from) == sizeof from) {
        to[0] = product(from[1], from[2]);
        to[1] = add_product(from[0], from[1], from[2]);
        to[2] = subtract_product(from[0], from[1], from[2]);
        harness_write(out, to, sizeof to);
    }
    return 0;
}
"""


def fixed_point(front_end: FrontEnd, zero_point: int = ZERO_POINT) -> FixedPointLogMel:
    return FixedPointLogMel(front_end, SCALE, zero_point)


def toolchain(name: str, target: str) -> Toolchain:
    try:
        return find_toolchain(name, TARGETS[target])
    except InputError as error:
        pytest.skip(str(error))


def write_sources(log_mel: FixedPointLogMel, folder: Path) -> list[Path]:
    lead = log_mel.front_end.n_fft // 2 - (log_mel.front_end.n_fft - log_mel.front_end.win_length) // 2
    sizes = frontend_config(log_mel)
    assert sizes["LEAD"] == (lead if log_mel.front_end.edges == "reflect" else 0)
    config = "".join(f"#define TINYSCENE_{name} {value}\n" for name, value in sizes.items())
    (folder / "tinyscene_layout.h").write_text(config)
    (folder / "tinyscene_tables.c").write_text(frontend_tables(log_mel))
    (folder / "clip.c").write_text(CLIP_IN_C)
    return [*STAGES, RUNTIME / "tinyscene_frontend.c", folder / "tinyscene_tables.c", folder / "clip.c"]


def run_on_this_machine(sources: list[Path], folder: Path, job: bytes, flags: tuple[str, ...] = ()) -> None:
    """Compile a program and run it on job.bin; it writes result.bin."""
    target = TARGETS["host"]
    tools, sources = toolchain("gcc", "host"), [*sources, *harness_sources(target)]
    program = build(tools, target, sources, folder / "test", includes=[folder, RUNTIME], flags=flags)
    (folder / "job.bin").write_bytes(job)
    done = subprocess.run([program], cwd=folder, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def run_on(
    target_name: str,
    sources: list[Path],
    folder: Path,
    job: bytes,
    compiler: str,
    optimize: str = "O2",
    counting: bool = False,
) -> emulators.Run:
    """Compile a program for an emulated target and run it on job.bin; it writes result.bin."""
    target = TARGETS[target_name]
    tools, sources = toolchain(compiler, target_name), [*sources, *harness_sources(target)]
    image = build(tools, target, sources, folder / "test.elf", includes=[folder, RUNTIME], optimize=optimize)
    (folder / "job.bin").write_bytes(job)
    try:
        run = emulators.run(image, target, folder, counting=counting, by_function="tinyscene_frame")
    except InputError as error:
        if "not installed" not in str(error):
            raise
        pytest.skip(str(error))
    assert run.exit_code == 0
    return run


def noise(front_end: FrontEnd, seed: int = 0) -> np.ndarray:
    """Clips of every loudness, (clip, samples)."""
    normal = np.random.default_rng(seed).normal(size=(3, front_end.clip_samples)) * [[3.0], [500.0], [30_000.0]]
    return np.clip(np.rint(normal), -32768, 32767).astype(np.int16)


@pytest.mark.parametrize("front_end", [FrontEnd(), *OTHERS], ids=repr)
def test_features_are_numpys_bit_for_bit(front_end: FrontEnd, tmp_path: Path) -> None:
    log_mel = fixed_point(front_end)
    clips = np.concatenate([probe_sounds(front_end), noise(front_end)])
    run_on_this_machine(write_sources(log_mel, tmp_path), tmp_path, clips.tobytes(), WARNINGS)
    assert (tmp_path / "result.bin").read_bytes() == log_mel(clips).tobytes()


@pytest.mark.parametrize("zero_point", [-128, 100, 127])
def test_energies_that_equal_a_threshold_reach_it(zero_point: int, tmp_path: Path) -> None:
    log_mel, silence = fixed_point(OTHERS[0], zero_point), np.zeros((1, OTHERS[0].clip_samples), np.int16)
    run_on_this_machine(write_sources(log_mel, tmp_path), tmp_path, silence.tobytes())
    assert (tmp_path / "result.bin").read_bytes() == log_mel(silence).tobytes()


@st.composite
def front_ends(draw: st.DrawFn) -> FrontEnd:
    n_fft = 2 ** draw(st.integers(6, 12))
    rate = draw(st.integers(max(4_000, n_fft // 2 + 1), 20_000))
    f_min = draw(st.integers(0, rate // 4))
    return FrontEnd(
        sample_rate=rate,
        n_fft=n_fft,
        win_length=draw(st.integers(1, n_fft)),
        hop_length=draw(st.integers(rate // 20, rate)),
        n_mels=draw(st.integers(1, 100)),
        f_min=float(f_min),
        f_max=draw(st.none() | st.integers(f_min + 1, rate // 2).map(float)),
    )


@pytest.mark.slow
@settings(deadline=None, max_examples=40, suppress_health_check=[HealthCheck.too_slow])
@given(front_end=front_ends(), seed=st.integers(0, 2**32))
def test_any_front_end_is_numpys_bit_for_bit(
    front_end: FrontEnd, seed: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    log_mel, clips, folder = fixed_point(front_end), noise(front_end, seed), tmp_path_factory.mktemp("any")
    run_on_this_machine(write_sources(log_mel, folder), folder, clips.tobytes())
    assert (folder / "result.bin").read_bytes() == log_mel(clips).tobytes()


@pytest.mark.parametrize("where", ["this machine", "a Cortex-M4"])
def test_products_are_rounded_to_nearest_and_a_tie_upwards(where: str, tmp_path: Path) -> None:
    feature, tables, _ = write_sources(fixed_point(FrontEnd()), tmp_path)[-3:]
    (tmp_path / "products.c").write_text(PRODUCTS_IN_C)
    generator = np.random.default_rng(0)
    total = generator.integers(-(2**29), 2**29, 400)
    x, w = generator.integers(-(2**31) + 1, 2**31, (2, 400))
    shift = generator.integers(5, 27, 200)
    x[:200] = ((x[:200] >> shift) | 1) << shift
    w[:200] = ((w[:200] >> (31 - shift)) | 1) << (31 - shift)
    assert ((x * w % 2**32 == 2**31)[:200]).all()  # ties
    job = np.stack([total, x, w], 1).astype("<i4").tobytes()
    if where == "a Cortex-M4":
        run_on("cortex-m4", [tmp_path / "products.c", feature, tables], tmp_path, job, "zig")
    else:
        run_on_this_machine([tmp_path / "products.c", feature, tables], tmp_path, job)
    product, more, less = np.frombuffer((tmp_path / "result.bin").read_bytes(), "<i4").reshape(-1, 3).T
    np.testing.assert_array_equal(product, mulr(x, w))
    np.testing.assert_array_equal(more, total + mulr(x, w))
    np.testing.assert_array_equal(less, total + mulr(x, -w))


@pytest.mark.slow
@pytest.mark.parametrize("front_end", [FrontEnd(), *OTHERS], ids=repr)
def test_no_sanitizer_complains(front_end: FrontEnd, tmp_path: Path) -> None:
    log_mel, clips = fixed_point(front_end), np.concatenate([probe_sounds(front_end), noise(front_end)])
    run_on_this_machine(write_sources(log_mel, tmp_path), tmp_path, clips.tobytes(), SANITIZERS)
    assert (tmp_path / "result.bin").read_bytes() == log_mel(clips).tobytes()


@pytest.mark.parametrize(("vectors", "most"), [(False, 25_000), (True, 41_000)])
def test_the_tables_of_the_default_front_end_take_25_kilobytes_and_41_for_vectors(vectors: bool, most: int) -> None:
    text = frontend_tables(fixed_point(FrontEnd()))
    before, of_vectors, others, after = re.split(r"#if .*\n|#else\n|#endif\n", text)
    compiled = before + (of_vectors if vectors else others) + after
    arrays = re.findall(r"const u?int(\d+)_t \w+\[[^]]*\] = \{([^}]*)\};", compiled)
    sizes = [int(bits) // 8 * len(values.split(",")) for bits, values in arrays]
    assert len(sizes) == 8
    assert sum(sizes) <= most
    assert [int(size.replace(",", "")) for size in re.findall(r": ([\d,]+) bytes\. \*/", compiled)] == sizes
    assert max(map(len, text.splitlines())) <= 120


@pytest.mark.parametrize("n_fft", [2**bits for bits in range(6, 17)])
@pytest.mark.parametrize("win_length", ["whole", "odd"])
def test_half_the_window_and_a_quarter_of_the_circle_are_enough(n_fft: int, win_length: str) -> None:
    length = n_fft if win_length == "whole" else n_fft * 3 // 4 + 1
    log_mel = fixed_point(FrontEnd(sample_rate=48_000, n_fft=n_fft, win_length=length, hop_length=4_800, n_mels=8))
    assert (log_mel.window_table[1:] == log_mel.window_table[:0:-1]).all()
    cosine, sine = log_mel.twiddles.T
    quarter = n_fft // 4
    assert (sine[: quarter + 1] == cosine[quarter::-1]).all()
    assert (cosine[quarter : 2 * quarter + 1] == -cosine[quarter::-1]).all()
    assert (cosine[2 * quarter :] == -cosine[:quarter]).all()
    assert (sine[quarter:] == cosine[: 2 * quarter]).all()


@pytest.mark.parametrize(
    "front_end",
    [FrontEnd(), FrontEnd(4_000, 64, 1, hop_length=1, n_mels=5), FrontEnd(4_000, 64, 64, hop_length=32), *OTHERS],
    ids=repr,
)
def test_the_ring_is_the_least_that_holds_what_every_frame_needs(front_end: FrontEnd) -> None:
    edge, clip = 0 if front_end.edges == "none" else front_end.n_fft // 2, front_end.clip_samples
    ramp = np.pad(np.arange(clip), edge, mode="reflect")
    spans, config = frame_spans(front_end), frontend_config(fixed_point(front_end))
    newest, needed, before, after = 0, 0, 0, 0
    for frame, span in enumerate(spans):
        first = frame * front_end.hop_length  # in the padded clip
        first += (front_end.n_fft - front_end.win_length) // 2 if edge else 0
        samples = ramp[first : first + front_end.win_length]
        assert span == (first - edge, samples.min(), samples.max() + 1)
        newest = max(newest, span.due)  # frames are computed in order
        needed = max(needed, newest - span.first)
        before += first < edge
        after += first + front_end.win_length > edge + clip
    assert config["RING_SAMPLES"] == needed
    assert (config["START_FRAMES"], config["END_FRAME"]) == (before, front_end.frames - after)
    assert len(spans) == config["FRAMES"] == front_end.frames


def test_the_default_front_end_reflects_four_frames_at_each_end() -> None:
    config = frontend_config(fixed_point(FrontEnd()))
    assert (config["START_FRAMES"], config["END_FRAME"], config["FRAMES"]) == (4, 61, 65)
    within = frontend_config(fixed_point(FrontEnd(edges="none")))
    assert (within["START_FRAMES"], within["END_FRAME"], within["FRAMES"]) == (0, 58, 58)
    assert within["RING_SAMPLES"] == 3072

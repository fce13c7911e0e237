"""Golden vectors: the documented bytes, read without our reader, and whatever bytes, read with it."""

import contextlib
import shutil
import struct
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from tests.deploy.folders import reindexed
from tinyscene.deploy.bundle.bundle import Bundle
from tinyscene.deploy.bundle.golden import Vectors, make_vectors, probe_sounds, read_vectors
from tinyscene.deploy.common.errors import InputError
from tinyscene.deploy.frontend.fixed_point import FixedPointLogMel
from tinyscene.deploy.frontend.log_mel import FrontEnd
from tinyscene.deploy.graph.reference import run_all

RunCli = Callable[..., tuple[int, str, str]]
HEADER_BYTES = 28
SMALL = Vectors(
    pcm=np.array([[1, -32768, 32767], [0, 5, -5]], np.int16),
    features=np.array([[-128, 127], [3, 4]], np.int8),
    crc=np.array([[0xDEADBEEF], [7]], np.uint32),
    logits=np.array([[-1, 1, 2, 3], [9, 8, 7, 6]], np.int8),
)
SMALL_BYTES = bytes.fromhex(
    "54534756 01000000 02000000 03000000 02000000 01000000 04000000"  # TSGV, version, five counts
    "0100 0080 ff7f  80 7f  efbeadde  ff 01 02 03"
    "0000 0500 fbff  03 04  07000000  09 08 07 06"
)


@dataclass
class Vector:
    pcm: tuple[int, ...]
    features: tuple[int, ...]
    crc: tuple[int, ...]
    logits: tuple[int, ...]


@pytest.fixture(scope="module")
def content(bundle: Bundle) -> bytes:
    return (bundle.folder / "golden" / "vectors.bin").read_bytes()


@pytest.fixture(scope="module")
def unpacked(content: bytes) -> list[Vector]:
    """The vectors, read as the layout is documented."""
    magic, version, vectors, samples, features, tensors, logits = struct.unpack_from("<4s6I", content)
    assert (magic, version) == (b"TSGV", 1)
    counts = {
        f"<{samples}h": samples * 2,
        f"<{features}b": features,
        f"<{tensors}I": tensors * 4,
        f"<{logits}b": logits,
    }
    at, rows = HEADER_BYTES, []
    for _ in range(vectors):
        parts = []
        for layout, size in counts.items():
            parts.append(struct.unpack_from(layout, content, at))
            at += size
        rows.append(Vector(*parts))
    assert at == len(content)
    return rows


@pytest.fixture(scope="module")
def tensors(bundle: Bundle) -> dict[str, NDArray[np.int8]]:
    """What the reference makes of the test sounds."""
    quantization = bundle.graph.input.q
    log_mel = FixedPointLogMel(bundle.front_end, quantization.scale, quantization.zero_point)
    return run_all(bundle.graph, log_mel(probe_sounds(bundle.front_end))[..., None])


def same(first: Vectors, second: Vectors) -> bool:
    names = ("pcm", "features", "crc", "logits")
    return all(np.array_equal(getattr(first, name), getattr(second, name)) for name in names)


def rewritten(bundle: Bundle, tmp_path: Path, content: bytes) -> Path:
    """A copy of the bundle with other vectors, and their hash."""
    folder = shutil.copytree(bundle.folder, tmp_path / "copy")
    (folder / "golden" / "vectors.bin").write_bytes(content)
    return reindexed(folder)


# What a file says


def test_the_bytes_are_the_documented_ones() -> None:
    assert SMALL.to_bytes() == SMALL_BYTES
    assert same(read_vectors(SMALL_BYTES), SMALL)


def test_what_is_written_is_read_again(bundle: Bundle, content: bytes) -> None:
    vectors = make_vectors(bundle.front_end, bundle.graph)
    assert vectors.to_bytes() == content
    assert same(read_vectors(content), vectors)
    assert read_vectors(content).to_bytes() == content


def test_each_vector_has_the_sizes_of_the_bundle(bundle: Bundle, unpacked: list[Vector]) -> None:
    first = unpacked[0]
    assert (len(first.pcm), len(first.features)) == (32_000, 256 * 65)
    assert (len(first.crc), len(first.logits)) == (1 + len(bundle.graph.operators), 10)


def test_the_features_are_those_of_the_sounds_mel_first(
    unpacked: list[Vector], tensors: dict[str, NDArray[np.int8]]
) -> None:
    features = np.array([vector.features for vector in unpacked]).reshape(-1, 256, 65)
    np.testing.assert_array_equal(features, next(iter(tensors.values()))[..., 0])


def test_each_crc_is_zlibs_of_a_tensor_in_the_graphs_order(
    bundle: Bundle, unpacked: list[Vector], tensors: dict[str, NDArray[np.int8]]
) -> None:
    names = [bundle.graph.input.name, *(operator.output.name for operator in bundle.graph.operators)]
    for index, vector in enumerate(unpacked):
        assert vector.crc == tuple(zlib.crc32(bytes(tensors[name][index].reshape(-1).data)) for name in names)


def test_the_logits_are_the_references(
    bundle: Bundle, unpacked: list[Vector], tensors: dict[str, NDArray[np.int8]]
) -> None:
    np.testing.assert_array_equal([vector.logits for vector in unpacked], tensors[bundle.graph.output.name])


# The sounds


def test_the_sounds_reach_silence_and_both_ends_of_full_scale(unpacked: list[Vector]) -> None:
    sounds = np.array([vector.pcm for vector in unpacked])
    assert (np.abs(sounds).max(axis=1) == 0).any()
    assert (sounds == 32767).any(axis=1).sum() >= 3
    assert (sounds == -32768).all(axis=1).any()
    assert (np.abs(sounds).max(axis=1) < 10).sum() >= 2  # silence, and the converter's last bits


def test_the_sounds_differ(unpacked: list[Vector]) -> None:
    assert len({vector.pcm for vector in unpacked}) == len(unpacked) >= 8


@pytest.mark.parametrize("rate", [4_000, 8_000, 44_100])
def test_every_front_end_has_sounds_of_a_second(rate: int) -> None:
    front_end = FrontEnd(sample_rate=rate, n_fft=512, win_length=512)
    assert probe_sounds(front_end).shape == (8, rate)
    assert probe_sounds(front_end).tobytes() == probe_sounds(front_end).tobytes()


# Other bytes


@pytest.mark.parametrize("length", [0, 1, HEADER_BYTES - 1, HEADER_BYTES, len(SMALL_BYTES) - 1])
def test_truncated_vectors_are_refused(length: int) -> None:
    with pytest.raises(InputError, match=r"^golden vectors .*$"):
        read_vectors(SMALL_BYTES[:length])


@pytest.mark.parametrize("more", [b"\0", SMALL_BYTES])
def test_trailing_bytes_are_refused(more: bytes) -> None:
    with pytest.raises(InputError, match=f"bytes, not {len(SMALL_BYTES)}$"):
        read_vectors(SMALL_BYTES + more)


@pytest.mark.parametrize("magic", [b"TSGU", b"TSGW"])
def test_another_magic_is_refused(magic: bytes) -> None:
    with pytest.raises(InputError, match="magic TSGV"):
        read_vectors(magic + SMALL_BYTES[4:])


@pytest.mark.parametrize("version", [0, 2])
def test_another_version_asks_for_an_upgrade(version: int) -> None:
    with pytest.raises(InputError, match=rf"version {version}: .*upgrade"):
        read_vectors(b"TSGV" + struct.pack("<I", version) + SMALL_BYTES[8:])


COUNTS = st.integers(0, 4) | st.sampled_from([2**31, 2**32 - 1]) | st.integers(0, 2**32 - 1)


@st.composite
def headed(draw: st.DrawFn) -> bytes:
    """Bytes behind a good magic and version and any counts, often as many as the counts ask for."""
    counts = draw(st.tuples(*[COUNTS] * 5))
    vectors, samples, features, tensors, logits = counts
    wanted = vectors * (2 * samples + features + 4 * tensors + logits)
    size = wanted if wanted < 1_000 else draw(st.integers(0, 100))
    return struct.pack("<4s6I", b"TSGV", 1, *counts) + draw(st.binary(min_size=size, max_size=size))


@settings(max_examples=300, deadline=None, derandomize=True)
@given(content=st.binary(max_size=100) | st.binary(max_size=100).map(lambda rest: b"TSGV\1\0\0\0" + rest) | headed())
def test_any_bytes_are_vectors_or_refused(content: bytes) -> None:
    with contextlib.suppress(InputError):
        assert read_vectors(content).to_bytes() == content


@pytest.mark.parametrize(
    "counts",
    [
        pytest.param((1, 0, 0, 0, 0), id="vectors of nothing"),
        pytest.param((2**32 - 1,) * 5, id="more than there is"),
        pytest.param((0, 2**32 - 1, 0, 0, 0), id="none, but long"),
    ],
)
def test_counts_without_their_bytes_are_refused(counts: tuple[int, ...]) -> None:
    with pytest.raises(InputError):
        read_vectors(struct.pack("<4s6I", b"TSGV", 1, *counts))


UNFIT = {  # vectors that are well formed
    "none": struct.pack("<4s6I", b"TSGV", 1, 0, 32_000, 256 * 65, 9, 10),
    "of other sounds": SMALL_BYTES,
}


@pytest.mark.parametrize("fault", UNFIT)
def test_vectors_that_do_not_fit_the_bundle_are_refused(
    fault: str, bundle: Bundle, tmp_path: Path, run_cli: RunCli
) -> None:
    folder = rewritten(bundle, tmp_path, UNFIT[fault])
    code, out, err = run_cli("verify", folder)
    assert (code, out, err.count("\n")) == (2, "", 1)


def test_vectors_that_cannot_be_read_are_named(bundle: Bundle, tmp_path: Path, run_cli: RunCli) -> None:
    folder = rewritten(bundle, tmp_path, SMALL_BYTES[:-1])
    code, _, err = run_cli("verify", folder)
    assert (code, err.count("\n")) == (2, 1)
    assert str(folder) in err


def test_probe_sounds_reach_the_corners_of_the_arithmetic() -> None:
    silence, lowest, square, impulses, sweep, last_bits, quiet, clipped = probe_sounds(FrontEnd()).astype(int)
    assert (silence == 0).all()
    assert (lowest == -32768).all()
    assert square[:128].tolist() == 2 * (32 * [32767] + 32 * [-32768])
    assert np.flatnonzero(impulses).tolist() == [0, 8_000, 16_000, 24_000]
    crossings = np.diff(np.signbit(sweep[:-320].reshape(-1, 320)), axis=1).sum(1)  # in each hundredth of a second
    assert crossings[0] <= 4
    assert crossings[-1] >= 310  # of 320 at the Nyquist frequency
    assert (last_bits.std().round(1), quiet.std().round(-1)) == (1.0, 100.0)
    share = np.isin(clipped, (-32768, 32767)).mean()
    assert share == pytest.approx(0.617, abs=0.01)  # of a normal distribution beyond half its deviation

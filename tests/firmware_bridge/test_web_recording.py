"""The page's decoding and resampling, in a browser: the same int16 clips as `deploy/frontend/audio.py`, bit for bit."""

import base64
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from tests.browser import browser_or_skip
from tests.deploy.decoded import GOLDEN, RATE, digest, signals
from tinyscene.deploy.frontend.audio import Recording
from tinyscene.deploy.frontend.resample import resample
from tinyscene.firmware_bridge.web import PAGE, join_modules

SIGNALS = signals()
AS_BASE64 = "(bytes) => btoa(Array.from(bytes, (byte) => String.fromCharCode(byte)).join(''))"
# Bytes of a file -> its clips, as the page makes them, and its notes
READ = """async ([url, content, target, samples]) => {
    const { readRecording, makeClips } = await import(url);
    const bytes = Uint8Array.from(atob(content), (letter) => letter.charCodeAt(0));
    const recording = await readRecording(new File([bytes], "recording"), target, samples);
    const clips = [...makeClips(recording, target, samples)].map((clip) => (AS_BASE64)(new Uint8Array(clip.buffer)));
    return [clips, recording.notes];
}""".replace("AS_BASE64", AS_BASE64)
# Channels, float32 -> the clip that the page makes of them
MAKE = """async ([url, contents, rate, target]) => {
    const { makeClips } = await import(url);
    const channels = contents.map((content) =>
        new Float32Array(Uint8Array.from(atob(content), (letter) => letter.charCodeAt(0)).buffer));
    const [clip] = makeClips({ channels, rate, notes: [] }, target);
    return (AS_BASE64)(new Uint8Array(clip.buffer));
}""".replace("AS_BASE64", AS_BASE64)
# A signal -> its samples at another rate, at once and in parts
STREAM = """async ([url, noise, rate, target]) => {
    const { Resampler } = await import(url);
    const signal = Float32Array.from(noise);
    const stream = new Resampler(rate, target);
    const parts = [];
    for (let at = 0; at < signal.length; at += 777) parts.push(...stream.push(signal.subarray(at, at + 777)));
    return [[...new Resampler(rate, target).whole(signal)], parts];
}"""


def data_url(script: str) -> str:
    return f"data:text/javascript;base64,{base64.b64encode(script.encode()).decode()}"


@pytest.fixture(scope="module")
def page() -> Iterator[Any]:
    with browser_or_skip() as browser:
        yield browser.new_page()


@pytest.fixture(scope="module")
def module() -> str:
    """The page's modules for recordings as one, at a URL."""
    sources = [(PAGE / name).read_text(encoding="utf-8") for name in ("resample.mjs", "header.mjs", "recording.mjs")]
    return data_url(join_modules(sources) + "\nexport { Resampler, readRecording, makeClips };\n")


def read(page: Any, module: str, path: Path, samples: int = RATE) -> tuple[np.ndarray, list[str]]:
    """What the page makes of a file, (clip, sample), and its notes."""
    clips, notes = page.evaluate(READ, [module, base64.b64encode(path.read_bytes()).decode(), RATE, samples])
    return np.stack([np.frombuffer(base64.b64decode(clip), "<i2") for clip in clips]), notes


def clips_of(page: Any, module: str, path: Path) -> np.ndarray:
    return read(page, module, path)[0]


def write(path: Path, samples: np.ndarray, changes: dict[int, bytes] | None = None, keep: float = 1.0) -> Path:
    """A recording with other bytes at some places, of which a share is kept."""
    soundfile.write(path, samples, 8_000)
    content = bytearray(path.read_bytes())
    for at, value in (changes or {}).items():
        content[at : at + len(value)] = value
    path.write_bytes(content[: int(keep * len(content))])
    return path


def noise(seconds: float = 2.75) -> np.ndarray:
    return np.random.default_rng(1).integers(-9_000, 9_000, (round(8_000 * seconds), 1)).astype(np.int16)


def odd_file(kind: str, folder: Path) -> Path:
    """A file whose header does not say what is in it, or whose channels cancel each other."""
    mono = noise()
    if kind == "inverted":
        return write(folder / "a.wav", np.concatenate([mono, -mono], 1))
    if kind == "inverted for a second":
        sign = np.where(np.arange(len(mono)) < 8_000, -1, 1).astype(np.int16)[:, None]
        return write(folder / "a.wav", np.concatenate([mono, sign * mono], 1))
    if kind == "streamed flac":
        return write(folder / "a.flac", mono, {21: b"\xf0\0\0\0\0"})
    if kind == "wav of size 0":
        return write(folder / "a.wav", mono, {40: bytes(4)})
    if kind == "streamed wav":
        return write(folder / "a.wav", mono, {4: b"\xff" * 4, 40: b"\xff" * 4})
    if kind == "wav with a chunk behind its sound":
        path = write(folder / "a.wav", mono, {4: (36 + 2 * len(mono) + 12).to_bytes(4, "little")})
        path.write_bytes(path.read_bytes() + b"LIST\x04\0\0\0INFO")
        return path
    assert kind == "cut wav"
    return write(folder / "a.wav", mono, keep=0.8)


ODD = ["inverted", "inverted for a second", "streamed flac", "wav of size 0", "streamed wav", "cut wav"]


@pytest.mark.parametrize("kind", [*ODD, "wav with a chunk behind its sound"])
def test_odd_files_become_the_clips_and_the_notes_of_the_command_line(
    kind: str, page: Any, module: str, tmp_path: Path
) -> None:
    path = odd_file(kind, tmp_path)
    clips, notes = read(page, module, path)
    recording = Recording(path, RATE)
    np.testing.assert_array_equal(clips, np.stack(list(recording.clips())))
    assert sorted(notes) == sorted(recording.notes)


@pytest.mark.parametrize("seconds", [0.25, 0.3, 2.0])
@pytest.mark.parametrize("keep", [1.0, 0.6], ids=["whole", "cut"])
def test_clips_of_another_length_are_those_of_the_command_line(
    seconds: float, keep: float, page: Any, module: str, tmp_path: Path
) -> None:
    samples = np.random.default_rng(0).integers(-9_000, 9_000, 5 * 44_100 - 7_000).astype(np.int16)
    path = write(tmp_path / "a.flac", samples, keep=keep)
    recording = Recording(path, RATE, seconds)
    clips, notes = read(page, module, path, recording.clip_samples)
    np.testing.assert_array_equal(clips, np.stack(list(recording.clips())))
    assert len(notes) == len(recording.notes)
    if keep == 1.0:  # why a FLAC cannot be read on is told in other words
        assert notes == recording.notes


@pytest.mark.parametrize("total", [160_000, 2**36 - 1])
def test_a_flac_that_promises_too_much_is_used_as_far_as_it_goes(
    total: int, page: Any, module: str, tmp_path: Path
) -> None:
    head = write(tmp_path / "a.flac", noise(3)).read_bytes()[21] & 0xF0
    path = write(tmp_path / "a.flac", noise(3), {21: bytes([head | total >> 32]) + (total % 2**32).to_bytes(4, "big")})
    clips, notes = read(page, module, path)
    np.testing.assert_array_equal(clips, np.stack(list(Recording(path, RATE).clips())))
    assert notes == ["damaged: ends before its header says; the first 3.00 s are used"]


def test_a_cut_flac_has_the_whole_seconds_of_the_command_line(page: Any, module: str, tmp_path: Path) -> None:
    path = write(tmp_path / "a.flac", noise(), keep=0.6)
    clips, notes = read(page, module, path)
    np.testing.assert_array_equal(clips, np.stack(list(Recording(path, RATE).clips())))
    assert notes == ["damaged: ends before its header says; the first 1.00 s are used"]


@pytest.mark.parametrize("subtype", ["VORBIS", "OPUS"])
def test_an_ogg_that_was_cut_is_noted(subtype: str, page: Any, module: str, tmp_path: Path) -> None:
    path = tmp_path / "a.ogg"
    soundfile.write(path, np.random.default_rng(0).normal(0, 0.1, 4 * 48_000), 48_000, subtype, format="OGG")
    assert not any("truncated" in note for note in read(page, module, path)[1])
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 3 // 5])
    assert read(page, module, path)[1][0].startswith("truncated: ")


@pytest.mark.parametrize("name", SIGNALS)
def test_signals_become_the_golden_clips(name: str, page: Any, module: str) -> None:
    samples, rate, target = SIGNALS[name]
    real = samples / np.float32(32768) if samples.dtype == np.int16 else samples
    channels = [base64.b64encode(np.ascontiguousarray(each).tobytes()).decode() for each in np.atleast_2d(real.T)]
    clip = page.evaluate(MAKE, [module, channels, rate, target])
    assert digest(np.frombuffer(base64.b64decode(clip), "<i2")) == GOLDEN["signals"][name]


def test_real_recordings_become_the_golden_clips(page: Any, module: str, tau_mini: Path) -> None:
    assert {name: digest(clips_of(page, module, tau_mini / name)) for name in GOLDEN["recordings"]} == GOLDEN[
        "recordings"
    ]


@pytest.mark.slow
@pytest.mark.parametrize("pattern", GOLDEN["folders"])
def test_all_real_recordings_become_the_golden_clips(pattern: str, page: Any, module: str, tau_mini: Path) -> None:
    clips = [clips_of(page, module, path) for path in sorted(tau_mini.parent.glob(pattern))]
    assert digest(*clips) == GOLDEN["folders"][pattern]


@pytest.mark.parametrize(("rate", "target"), [(44_100, 32_000), (48_000, 32_000), (8_000, 32_000), (11_025, 16_000)])
def test_a_stream_becomes_the_samples_of_the_whole(rate: int, target: int, page: Any, module: str) -> None:
    noise = np.random.default_rng(0).standard_normal(4_001).astype(np.float32)
    whole, streamed = page.evaluate(STREAM, [module, noise.tolist(), rate, target])
    np.testing.assert_array_equal(whole, resample(noise, rate, target))
    assert 0 < len(streamed) <= len(whole)
    assert streamed == whole[: len(streamed)], "of which the end is still to come"

"""The page's decoding and resampling, in a browser: the same int16 clips as `deploy/frontend/audio.py`, bit for bit."""

import base64
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.browser import browser_or_skip
from tests.deploy.decoded import GOLDEN, RATE, digest, signals
from tinyscene.deploy.frontend.resample import resample
from tinyscene.firmware_bridge.web import PAGE, join_modules

SIGNALS = signals()
AS_BASE64 = "(bytes) => btoa(Array.from(bytes, (byte) => String.fromCharCode(byte)).join(''))"
# Bytes of a file -> its clips, as the page makes them
READ = """async ([url, content, target]) => {
    const { readRecording, makeClips } = await import(url);
    const bytes = Uint8Array.from(atob(content), (letter) => letter.charCodeAt(0));
    const recording = await readRecording(new File([bytes], "recording"), target);
    return [...makeClips(recording, target)].map((clip) => (AS_BASE64)(new Uint8Array(clip.buffer)));
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
    sources = [(PAGE / name).read_text(encoding="utf-8") for name in ("resample.mjs", "recording.mjs")]
    return data_url(join_modules(sources) + "\nexport { Resampler, readRecording, makeClips };\n")


def clips_of(page: Any, module: str, path: Path) -> np.ndarray:
    """What the page makes of a file: (clip, sample)."""
    clips = page.evaluate(READ, [module, base64.b64encode(path.read_bytes()).decode(), RATE])
    return np.stack([np.frombuffer(base64.b64decode(clip), "<i2") for clip in clips])


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

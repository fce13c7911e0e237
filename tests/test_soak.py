"""An hour of sound, as fast as it goes: memory stays where it is, no decision drifts, and the last is like the first.

The hour is noise whose every second is made of its number, so that any of them can be had again alone.
"""

import gc
import os
import tracemalloc
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import soundfile
from numpy.typing import NDArray
from rich.console import Console

from tinyscene.deploy.bundle.bundle import Bundle
from tinyscene.deploy.frontend.fixed_point import FixedPointLogMel
from tinyscene.deploy.frontend.log_mel import FrontEnd
from tinyscene.deploy.graph.reference import run
from tinyscene.deploy.live.classifier import BundleClassifier, SceneClassifier
from tinyscene.deploy.live.listen_view import picture_of
from tinyscene.deploy.live.listener import Listener
from tinyscene.deploy.live.sound import FileSource
from tinyscene.firmware_bridge.codegen.library import make_library
from tinyscene.firmware_bridge.native import READY, native_scene

HOUR, MINUTE = 3600, 60  # seconds
GROWTH, RESIDENT_GROWTH = 2**17, 2**24  # bytes that Python, and that the process, may have more of after the hour


def second(number: int, rate: int) -> NDArray[np.int16]:
    """Noise of a loudness of its own."""
    rng = np.random.default_rng(number)
    return (rng.standard_normal(rate) * 10 ** rng.uniform(1, 4)).clip(-32768, 32767).astype(np.int16)


def between(start: int, stop: int, rate: int) -> NDArray[np.int16]:
    """Samples `start` to `stop` of the hour."""
    whole = np.concatenate([second(number, rate) for number in range(start // rate, -(-stop // rate))])
    return whole[start % rate :][: stop - start]


class Memory:
    """What Python and the process hold after an hour, against what they held after two minutes."""

    def __enter__(self) -> "Memory":
        tracemalloc.start()
        return self

    def __exit__(self, *_: object) -> None:
        tracemalloc.stop()

    def settle(self) -> None:
        """From here on nothing may grow: whatever is made once has been made."""
        gc.collect()
        self._python, self._resident = tracemalloc.get_traced_memory()[0], resident()

    def require_the_same(self) -> None:
        gc.collect()
        assert tracemalloc.get_traced_memory()[0] - self._python < GROWTH
        assert resident() - self._resident < RESIDENT_GROWTH


def resident() -> int:
    """Bytes of the process that are in memory."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


@pytest.fixture(scope="module")
def scene(bundle: Bundle) -> SceneClassifier:
    return BundleClassifier(bundle, "native")


class Zeros(SceneClassifier):
    labels, front_end, metadata = ("a", "b"), FrontEnd(), {}

    def logits(self, pcm: NDArray[np.int16]) -> NDArray[np.float32]:
        return np.zeros((len(pcm), 2), np.float32)


def portions(rate: int, sizes: tuple[int, ...]) -> Iterator[NDArray[np.int16]]:
    """The hour in portions of these sizes, over and over."""
    left, turn = np.zeros(0, np.int16), 0
    for number in range(HOUR):
        left = np.concatenate([left, second(number, rate)])
        while len(left) >= (size := sizes[turn % len(sizes)]):
            yield left[:size]
            left, turn = left[size:], turn + 1
    yield left


def test_no_decision_is_half_a_sample_from_where_its_hop_puts_it() -> None:
    rate, hop = 11_025, 0.3  # seconds: 3307.5 samples, which rounded would be 50 ms late after five minutes
    stream = Zeros().stream(rate, hop)
    starts = [each["start"] for _ in range(60) for each in stream.push(np.zeros(rate, np.int16))]
    assert len(starts) == 1 + (60 * rate - rate) * 10 // (3 * rate)
    assert np.abs(np.array(starts) - hop * np.arange(len(starts))).max() <= 0.5 / rate + 1e-9


@pytest.mark.slow
def test_a_stream_of_an_hour_neither_grows_nor_drifts(scene: SceneClassifier) -> None:
    rate, hop, count, last = 8_000, 0.70003, 0, {}  # 5,600.24 samples, which rounded would be 0.15 s early at the end
    stream = scene.stream(rate, hop)
    with Memory() as memory:
        for portion in portions(rate, (997, 20_000, 1, 441)):
            for last in stream.push(portion):
                assert abs(last["start"] - count * hop) <= 0.5 / rate + 1e-9
                count += 1
                if count == 2 * MINUTE:
                    memory.settle()
        memory.require_the_same()
    assert count == int((HOUR - 1) / hop) + 1
    start = round(last["start"] * rate)
    (alone,) = scene.stream(rate).push(between(start, start + rate, rate))
    assert (last["scene"], last["scores"]) == (alone["scene"], alone["scores"])


@pytest.mark.slow
def test_listening_for_an_hour_neither_grows_nor_drifts(scene: SceneClassifier, tmp_path: Path) -> None:
    rate, path, found = 8_000, tmp_path / "hour.wav", []
    with soundfile.SoundFile(path, "w", rate, 1, "PCM_16") as file:
        for number in range(HOUR):
            file.write(second(number, rate))
    listener, console = Listener(scene, FileSource(path, fast=True), 1.0, ""), Console(width=80, height=24)
    with Memory() as memory:
        for block in listener.sound.blocks():
            for decision in listener.hear(block):
                assert decision["start"] == listener.decisions - 1
                found = [decision]
                if listener.decisions % MINUTE == 0:
                    picture_of(listener, console)
                if listener.decisions == 2 * MINUTE:
                    memory.settle()
        memory.require_the_same()
    assert (listener.decisions, listener.finish(), listener.sound.lost) == (HOUR, [], 0)
    (alone,) = scene.stream(rate).push(second(HOUR - 1, rate))
    assert (found[0]["scene"], found[0]["scores"]) == (alone["scene"], alone["scores"])


@pytest.mark.slow
def test_the_c_library_after_an_hour_still_equals_the_reference(bundle: Bundle) -> None:
    rate, hop, q = bundle.front_end.sample_rate, 0.25, bundle.graph.input.q
    library = make_library(bundle.graph, bundle.front_end, bundle.labels, ("simd", "plain"), hop)
    native, reference = native_scene(library), FixedPointLogMel(bundle.front_end, q.scale, q.zero_point)
    count = 0
    for portion in portions(rate, (997, 20_000, 1, 441)):
        at = 0
        while at < len(portion):
            status, taken = native.push(np.ascontiguousarray(portion[at:]))
            at += taken
            if status != READY:
                continue
            found, start = native.decide(), round(count * hop * rate)
            count += 1
            if start % (10 * MINUTE * rate) == 0 or start == (HOUR - 1) * rate:
                pcm = between(start, start + rate, rate)
                assert np.array_equal(found, run(bundle.graph, reference(pcm[None])[..., None])[0])
    assert count == (HOUR - 1) * 4 + 1

"""A sound decided on as it goes, with its level and what each decision took."""

import math
import statistics
import time
from collections import deque
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tinyscene.deploy.frontend.audio import mix_down, source_samples
from tinyscene.deploy.frontend.band_offsets import BandOffsets
from tinyscene.deploy.frontend.log_mel import PCM_SCALE
from tinyscene.deploy.live.classifier import SceneClassifier
from tinyscene.deploy.live.sound import SoundSource

FULL_SCALE = 32767 / 32768  # from here on a sample counts as clipped


@dataclass
class Listener:
    """A sound decided on every hop, and what a picture of it needs."""

    classifier: SceneClassifier
    sound: SoundSource
    hop: float  # seconds
    title: str
    offsets: BandOffsets | None = None  # of the mel bands, to be learned
    decisions: int = 0
    samples: int = 0  # of the sound so far
    level: float | None = None  # dBFS, of the last block; none for digital silence
    peak: float | None = None  # dBFS, of the last clip
    clipped: bool = False  # in the last clip
    last: dict[str, Any] | None = None  # decision
    times: deque[float] = field(default_factory=lambda: deque(maxlen=50))  # ms, of the last decisions

    def __post_init__(self) -> None:
        self._stream = self.classifier.stream(self.sound.sample_rate, self.hop, self.offsets)
        self.clip = np.zeros(0, np.float32)  # the last one, at the sound's own rate
        front_end = self.classifier.front_end
        self.clip_samples = source_samples(front_end.clip_samples, self.sound.sample_rate, front_end.sample_rate)

    def hear(self, block: NDArray[Any]) -> list[dict[str, Any]]:
        """Take a block of samples; the decisions that are due, with what `_note` adds."""
        mono = mix_down(block)
        self.samples += len(mono)
        self.clip = np.concatenate([self.clip, mono])[-self.clip_samples :]
        loudest = float(np.abs(self.clip).max(initial=0.0))
        self.level = _level(mono)
        self.peak, self.clipped = _decibels(loudest), loudest >= FULL_SCALE
        started = time.perf_counter()
        return self._note(self._stream.push(block), started)

    def finish(self) -> list[dict[str, Any]]:
        """End the sound: the decision on what is left of it, if any."""
        started = time.perf_counter()
        return self._note(self._stream.finish(), started)

    def _note(self, decisions: list[dict[str, Any]], started: float) -> list[dict[str, Any]]:
        """Add to decisions what they took, and what was wrong with the sound."""
        elapsed = 1000 * (time.perf_counter() - started)
        for decision in decisions:
            decision |= {
                "latency_ms": round(elapsed / len(decisions), 3),
                "level_dbfs": _level(self.clip),
                "peak_dbfs": self.peak,
                "clipped": self.clipped,
                "lost_samples": self.sound.lost,
                "overflows": self.sound.overflows,
            }
            self.times.append(decision["latency_ms"])
            self.last = decision
        self.decisions += len(decisions)
        return decisions

    @property
    def summary(self) -> str:
        """One line on all of it."""
        lost, overflows = self.sound.lost, self.sound.overflows
        line = f"{self.samples / self.sound.sample_rate:.1f} s heard, {self.decisions} decisions"
        if self.times:
            line += f", {statistics.median(self.times):.1f} ms each"
        return line + (f"; {lost:,} samples lost, {overflows} overflows of the driver" if lost or overflows else "")


def _level(samples: NDArray[np.float32]) -> float | None:
    """Root of the mean square in dBFS; none for digital silence, and for no samples."""
    return _decibels(math.sqrt(float(np.square(samples, dtype=np.float64).sum()) / max(1, len(samples))))


def _decibels(amplitude: float) -> float | None:
    return round(20 * math.log10(amplitude), 2) if amplitude * PCM_SCALE > 0.5 else None

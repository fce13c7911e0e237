"""Streams of sound: samples pushed in as they come, a decision each hop."""

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from tinyscene.deploy.common.errors import InputError
from tinyscene.deploy.frontend.audio import float_channels, make_clip, mix_down, source_samples
from tinyscene.deploy.frontend.band_offsets import BandOffsets, OffsetWindows
from tinyscene.deploy.frontend.log_mel import CLIP_SECONDS, FrontEnd
from tinyscene.deploy.frontend.resample import SOURCE_RATES


def require_hop(hop: float, sample_rate: int, clip_seconds: float | None = None) -> None:
    """Raise InputError for a hop, in seconds, that no stream can have, or none of clips of this length."""
    if not 0 < hop <= (clip_seconds or CLIP_SECONDS[1]) or round(hop * sample_rate) < 1:
        most = "a clip's length" + (f", {clip_seconds:g}" if clip_seconds else "")
        raise InputError(f"a hop of {hop} seconds: it must be above 0 and at most {most}")


class Heard(NamedTuple):
    """What a model makes of clips."""

    logits: NDArray[np.float32]  # (batch, classes)
    likeness: NDArray[np.int64]  # (batch,), to the known classes; 0 where no rule asks for it


# A stream's next clip (samples,), and how many samples after the former one it begins, or 0 if that is no whole number
Follower = Callable[[NDArray[np.int16], int], Heard]


class Hearer(Protocol):
    """What a stream takes of a classifier."""

    front_end: FrontEnd

    def follow(self, windows: OffsetWindows | None) -> Follower: ...

    def band_offsets(self) -> BandOffsets: ...

    def decider(self) -> Callable[[NDArray[np.float32], int], str]: ...

    def scores(self, logits: NDArray[np.float32]) -> dict[str, float]: ...


class SceneStream:
    """Samples pushed in as they come; a decision on the last clip of them each hop."""

    def __init__(
        self,
        classifier: Hearer,
        sample_rate: int,
        hop: float | None,
        offsets: BandOffsets | None = None,
    ) -> None:
        low, high = SOURCE_RATES
        is_whole = isinstance(sample_rate, int | np.integer) and not isinstance(sample_rate, bool)
        if not is_whole or not low <= sample_rate <= high:
            raise InputError(f"a sample rate of {sample_rate} Hz: it must be a whole number in {low:,} to {high:,}")
        front_end = classifier.front_end
        self.classifier, self.sample_rate = classifier, int(sample_rate)
        self._clip = source_samples(front_end.clip_samples, self.sample_rate, front_end.sample_rate)
        self._hop = float(self._clip)  # samples, and not always a whole number of them
        if hop is not None and hop != front_end.clip_seconds:
            require_hop(hop, sample_rate, front_end.clip_seconds)
            self._hop = hop * sample_rate
        self._decided = 0  # clips
        self._buffer = np.zeros((0, 1), np.float32)  # (samples, channels): which cancel each other, a clip tells
        self._decider = classifier.decider()
        self._offsets = offsets
        self._follower = classifier.follow(self._new_windows())

    def push(self, samples: NDArray[Any]) -> list[dict[str, Any]]:
        """Take more samples, (samples,) or (samples, channels), int16 or float within +-1, of any number.

        Returns a decision (start in seconds, scene, scores) for each clip that is complete. Raises InputError for
        other samples, and for other channels than those that wait for a decision have.
        """
        pushed = float_channels(samples)
        if len(self._buffer) and pushed.shape[1] != self._buffer.shape[1]:
            before = self._buffer.shape[1]
            raise InputError(
                f"samples of {pushed.shape[1]} channels after samples of {before}: finish() the stream first"
            )
        self._buffer = np.concatenate([self._buffer, pushed]) if len(self._buffer) else pushed
        decisions = []
        while len(self._buffer) >= self._clip:
            decisions.append(self._decide(self._buffer[: self._clip]))
            self._decided += 1
            self._buffer = self._buffer[self._advance :]
        return decisions

    def finish(self) -> list[dict[str, Any]]:
        """End the stream: what is left is padded and decided on if half a hop of it is new, or if it is all.

        What is pushed after that is a new stream.
        """
        left = self._buffer
        new = len(left) - (self._clip - self._hop if self._decided else 0)
        is_all = self._decided == 0 and len(left) > 0
        decisions = [self._decide(left, padded=True)] if is_all or (self._decided and 2 * new >= self._hop) else []
        self._buffer, self._decided, self._decider = left[:0], 0, self.classifier.decider()
        self._follower = self.classifier.follow(self._new_windows())
        return decisions

    @property
    def _start(self) -> int:
        """Where the buffer starts in the stream, in samples: rounded anew for each decision, so that none drifts."""
        return round(self._decided * self._hop)

    @property
    def _advance(self) -> int:
        """Samples from the former clip's start to there."""
        return self._start - round((self._decided - 1) * self._hop)

    def _decide(self, samples: NDArray[np.float32], padded: bool = False) -> dict[str, Any]:
        front_end = self.classifier.front_end
        clip, _ = make_clip(mix_down(samples), self.sample_rate, front_end.sample_rate, front_end.clip_samples)
        advance, rest = divmod(self._advance * front_end.sample_rate, self.sample_rate)
        logits, likeness = self._follower(clip, 0 if rest else advance)
        if self._offsets is not None and not padded:
            self._offsets.learn(int(logits[0].argmax()))
        return {
            "start": self._start / self.sample_rate,
            "scene": self._decider(logits[0], int(likeness[0])),
            "scores": self.classifier.scores(logits[0]),
        }

    def _new_windows(self) -> OffsetWindows | None:
        """The windows of a new stream, where there are offsets. What a former one did not decide on is forgotten."""
        if self._offsets is None:
            return None
        if self._offsets.bands != self.classifier.band_offsets().bands:
            raise InputError("band offsets of another model: take those that the classifier's own band_offsets() gives")
        self._offsets.drop()
        front_end = self.classifier.front_end
        hop = round(self._hop * front_end.sample_rate / self.sample_rate)
        return OffsetWindows(self._offsets, front_end, max(1, hop))

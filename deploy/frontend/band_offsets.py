"""The microphone's colour, learned while listening: an offset for each mel band of the int8 log-mel. Integers only.

    offsets = BandOffsets(bands)                      # of one device; `state` is what it has learned
    windows = OffsetWindows(offsets, front_end, hop)  # of one stream of sound
    moved = windows.take(features)                    # int8 (mel, frame) of its next window, with offsets
    offsets.learn(decided)                            # the class that was decided on

This is the definition; `firmware_bridge/runtime/tinyscene_bands.c` follows it bit for bit.

1. **Sums.** s[m] is the sum of the features of band m over k frames: those that were computed since the last decision,
   but those that are reflected at a window's end, those of digital silence, whose features are all the lowest, and
   those beyond MOST / 2. Features are summed as they were before an offset was added.
2. **What is missing.** After a decision for class c, missing[m] += k * means[c][m] - 256 * s[m], n += k, and the sums
   begin anew. `means` are those of training clips, by class, in steps of 1/256. So a device that stays in one place
   does not take the colour of that place for its own, as long as it decides for the place that it is in.
   While n > horizon, an eighth is forgotten: n -= n / 8, missing[m] -= missing[m] / 8, both truncated towards zero.
3. **Offsets.** offset[m] = missing[m] / (256 * (n + prior)), rounded to nearest, halves away from zero, at most 127 and
   at least -127. The prior is a number of frames in which nothing was missing: little is moved while little was heard.
4. **Features.** To a frame the offsets are added that are in force when it is computed, which is once for all windows
   that hold it; the result is clamped to int8. The older frames of a window may have older offsets than the newest.

No value leaves 32 bits. While nothing was learned all offsets are zero.
"""

import hashlib
import json
import os
import struct
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tinyscene.deploy.common.errors import InputError
from tinyscene.deploy.common.files import read_bounded, write_whole
from tinyscene.deploy.frontend.fixed_point import INT8_MIN, FixedPointLogMel
from tinyscene.deploy.frontend.frame_spans import frame_spans
from tinyscene.deploy.frontend.log_mel import FrontEnd

INT8_MAX = 127
STEPS = 256  # of a mean to a step of the features
MOST = 2**15  # frames
MOST_MISSING = STEPS * (INT8_MAX - INT8_MIN)  # for each frame
PRIOR_SECONDS, HORIZON_SECONDS = 30, 240
FORGOTTEN = 8  # one part in so many
VERSION = 0x31425354  # of the state: "TSB1" in a file
HEAD = struct.Struct("<IIi")  # version, identity, n

Int8 = NDArray[np.int8]


@dataclass(frozen=True)
class Bands:
    """What learning takes of a bundle."""

    means: tuple[tuple[int, ...], ...]  # (class, mel), of training clips, in steps of 1/256
    silence: int  # the feature of no energy
    prior: int  # frames
    horizon: int  # frames
    identity: int  # of all that gives a state its meaning, 32 bits

    @classmethod
    def of(cls, means: Sequence[Sequence[int]], log_mel: FixedPointLogMel) -> "Bands":
        """The bands of a front end with these means."""
        front_end, rows = log_mel.front_end, tuple(map(tuple, means))
        prior, horizon = (
            min(MOST // 2, max(1, round(seconds * front_end.sample_rate / front_end.hop_length)))
            for seconds in (PRIOR_SECONDS, HORIZON_SECONDS)
        )
        meaning = json.dumps([front_end.as_dict(), log_mel.scale, log_mel.zero_point, rows, prior, horizon])
        identity = int.from_bytes(hashlib.sha256(meaning.encode()).digest()[:4], "big")
        return cls(rows, int((log_mel.thresholds <= 0).sum()) + INT8_MIN, prior, horizon, identity)


class BandOffsets:
    """What was learned of a device's microphone, and the offsets that follow from it."""

    def __init__(self, bands: Bands) -> None:
        self.bands, self.frames, mels = bands, 0, len(bands.means[0])
        self._means = np.array(bands.means, np.int64)  # (class, mel)
        self._missing, self._sums, self._heard = np.zeros(mels, np.int64), np.zeros(mels, np.int64), 0
        self.values = np.zeros(mels, np.int64)  # (mel,), the offsets in force

    def hear(self, features: Int8) -> None:
        """Add frames (mel, frame) to the sums, without those of digital silence."""
        sound = features[:, (features != self.bands.silence).any(0)][:, : MOST // 2 - self._heard]
        self._sums += sound.sum(1, dtype=np.int64)
        self._heard += sound.shape[1]

    def learn(self, decided: int) -> None:
        """Take in the frames since the last decision, of a class."""
        self._missing += self._heard * self._means[decided] - STEPS * self._sums
        self.frames += self._heard
        self.drop()
        while self.frames > self.bands.horizon:
            self.frames -= self.frames // FORGOTTEN
            self._missing -= _divided(self._missing, FORGOTTEN)
        self._update()

    def drop(self) -> None:
        """Forget the frames since the last decision: there will be none on them."""
        self._sums[:], self._heard = 0, 0

    @property
    def state(self) -> bytes:
        """What was learned by decisions, as C's struct tinyscene_bands has it on a little-endian processor."""
        return HEAD.pack(VERSION, self.bands.identity, self.frames) + self._missing.astype("<i4").tobytes()

    def save(self, file: Path | str) -> None:
        """Write the state, whole or not at all; through a link, into the file that it leads to."""
        write_whole(Path(os.path.realpath(file)), self.state)

    def load(self, file: Path | str) -> None:
        """Go on from a file that `save` wrote. Raises InputError for any other."""
        try:
            content = read_bounded(Path(file), len(self.state))
        except OSError as error:
            raise InputError(f"{file}: {error.strerror}") from None
        try:
            self.restore(content)
        except InputError as error:
            raise InputError(f"{file}: {error}") from None

    def restore(self, state: bytes) -> None:
        """Go on from a state. Raises InputError for one that is spoiled, or of another model."""
        if len(state) != len(self.state):
            raise InputError(f"not the size of a state of {len(self.values)} band offsets")
        version, identity, frames = HEAD.unpack_from(state)
        missing = np.frombuffer(state, "<i4", offset=HEAD.size).astype(np.int64)
        if version != VERSION or not 0 <= frames <= MOST or (np.abs(missing) > MOST_MISSING * frames).any():
            raise InputError("not a state of band offsets, or a spoiled one")
        if identity != self.bands.identity:
            raise InputError("band offsets of another model: learn them anew")
        self.frames, self._missing = frames, missing
        self.drop()
        self._update()

    def _update(self) -> None:
        """Have the offsets follow from what is missing."""
        divisor = STEPS * (self.frames + self.bands.prior)
        rounded = self._missing + np.sign(self._missing) * (divisor // 2)
        self.values = _divided(rounded, divisor).clip(-INT8_MAX, INT8_MAX)


class OffsetWindows:
    """The windows of a stream of sound, `hop` samples apart at the front end's rate, with their offsets."""

    def __init__(self, offsets: BandOffsets, front_end: FrontEnd, hop: int) -> None:
        spans = frame_spans(front_end)
        due = np.maximum.accumulate([span.due for span in spans])  # a frame also waits for the one before it
        self._ages = (due[-1] - due) // hop  # (frame,): decisions between it and that on its window
        whole = [span.at >= 0 and span.at + front_end.win_length <= front_end.clip_samples for span in spans]
        self._whole, self._offsets = np.array(whole), offsets
        self._past = deque[NDArray[np.int64]](maxlen=int(self._ages.max()) + 1)  # the latest offsets first

    def take(self, features: Int8) -> Int8:
        """The next window's features (mel, frame), with offsets."""
        self._offsets.hear(features[:, self._whole & ((self._ages == 0) | (not self._past))])
        self._past.appendleft(self._offsets.values)
        ages = np.minimum(self._ages, len(self._past) - 1)
        return (features + np.stack(self._past)[ages].T).clip(INT8_MIN, INT8_MAX).astype(np.int8)


def class_means(features: Int8, labels: NDArray[np.int64], classes: int) -> list[list[int]]:
    """The means of clips (clip, mel, frame, 1) by class, (class, mel), in steps of 1/256.

    A class without clips has the mean of all.
    """
    sums = features.sum((2, 3), dtype=np.int64)  # (clip, mel)
    rows = [sums[labels == index] if (labels == index).any() else sums for index in range(classes)]
    return [np.rint(STEPS * row.mean(0) / features[0, 0].size).astype(int).tolist() for row in rows]


def read_means(stored: object, classes: int, n_mels: int) -> tuple[tuple[int, ...], ...]:
    """Means that may come from anyone. Raises InputError for what are none."""
    low, high = STEPS * INT8_MIN, STEPS * INT8_MAX
    if not isinstance(stored, list) or len(stored) != classes:
        raise InputError(f"band means: not those of {classes} classes")
    for row in stored:
        if not isinstance(row, list) or len(row) != n_mels:
            raise InputError(f"band means: not those of {n_mels} mel bands")
        if not all(type(mean) is int and low <= mean <= high for mean in row):
            raise InputError(f"band means: must be whole numbers in {low} to {high}")
    return tuple(map(tuple, stored))


def _divided(values: NDArray[np.int64], divisor: int) -> NDArray[np.int64]:
    """Truncated towards zero."""
    return np.sign(values) * (np.abs(values) // divisor)

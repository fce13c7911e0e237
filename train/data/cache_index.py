"""The index of a waveform cache: what it says of each recording, and whether the cache is what it says."""

import contextlib
import hashlib
import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, ValidationError

from tinyscene.deploy.frontend.log_mel import ONE_SECOND, clip_samples
from tinyscene.train.data.datasets import Dataset

FORMAT = 3  # of the cache and of how it is decoded; part of its key. 1 resampled in float32, 2 mixed to silence


class CachedRecording(BaseModel):
    """One line of the journal and of the index."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    path: str
    label: str
    device: str
    first_clip: int
    clips: int  # 0: left out
    silent: tuple[int, ...]  # its clips that are all zeros, when it has others; they are not used
    rate: int  # Hz, of the file
    sha256: str  # of its clips
    notes: tuple[str, ...]


class Index(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    format: Literal[3]
    sample_rate: int
    clip_seconds: float = ONE_SECOND  # caches that were made before lack it
    labels: tuple[str, ...]
    total_clips: int  # room in pcm.i16
    data_hash: str
    recordings: tuple[CachedRecording, ...]


@dataclass(frozen=True)
class ClipFormat:
    """What a recording is cut into: its rate in Hz, its length."""

    sample_rate: int
    clip_seconds: float = ONE_SECOND

    @property
    def samples(self) -> int:
        return clip_samples(self.sample_rate, self.clip_seconds)


def read_journal(path: Path) -> dict[str, CachedRecording]:
    """What an earlier, interrupted build finished. A last line cut short is not counted."""
    done = {}
    for line in path.read_bytes().split(b"\n") if path.exists() else []:
        with contextlib.suppress(ValidationError):
            item = CachedRecording.model_validate_json(line)
            done[item.path] = item
    return done


def data_hash_of(recordings: tuple[CachedRecording, ...]) -> str:
    """Hash of what was decoded: the same for the same sounds and labels, wherever and whenever they were copied."""
    lines = sorted(f"{item.path} {item.label} {item.device} {item.clips} {item.sha256}" for item in recordings)
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def check_index(index: Index, dataset: Dataset, form: ClipFormat) -> None:
    """Raise ValueError for an index that is not of these recordings, or whose numbers do not fit one another."""
    listed = [(recording.path, recording.label, recording.device) for recording in dataset.recordings]
    made = ClipFormat(index.sample_rate, index.clip_seconds)
    if (made, index.labels) != (form, dataset.labels) or listed != [
        (item.path, item.label, item.device) for item in index.recordings
    ]:
        raise ValueError("its index is of other recordings")
    end = 0
    for item in index.recordings:
        if item.first_clip < end or item.clips < 0:
            raise ValueError(f"its index places {item.path} where others are")
        if any(not 0 <= number < item.clips for number in item.silent) or len(set(item.silent)) < len(item.silent):
            raise ValueError(f"its index lists silence of {item.path} that is not there")
        end = item.first_clip + item.clips
    if end > index.total_clips:
        raise ValueError("its index has more clips than room for them")
    if data_hash_of(index.recordings) != index.data_hash:
        raise ValueError("its index is damaged")


def check_sound(index: Index, pcm: NDArray[np.int16]) -> None:
    """Raise ValueError where the clips are not those whose hashes the index holds."""

    def is_damaged(item: CachedRecording) -> bool:
        clips = pcm[item.first_clip : item.first_clip + item.clips]
        return bool(item.clips) and hashlib.sha256(clips.data).hexdigest() != item.sha256

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for item, damaged in zip(index.recordings, pool.map(is_damaged, index.recordings), strict=True):
            if damaged:
                raise ValueError(f"the clips of {item.path} are damaged")

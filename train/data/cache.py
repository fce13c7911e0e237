"""The waveform cache: every recording decoded and resampled once, into one memory map of int16 clips.

    tinyscene prepare DATA

A cache is a folder `NAME-KEY/` with `pcm.i16` (clip, sample) and `index.json`. The key is a hash of the
list of recordings with their sizes and times, of the sample rate and of the length of clips, so a changed dataset
makes a new cache. It is built in `NAME-KEY.partial/`, where a journal lists what is done: a killed `prepare` goes on
from there, and the folder is renamed only when it is whole. Recordings that cannot be used are left out
and named in the report, as is whatever was done to the others. Clips of digital silence (datasets pad
with it) say nothing of their label and are not used, unless a recording has no others.
"""

import contextlib
import hashlib
import os
import shutil
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tinyscene.deploy.common.errors import InputError
from tinyscene.deploy.common.files import cache_folder, lock, reserve, write_whole
from tinyscene.deploy.common.progress import progress
from tinyscene.deploy.common.terminal import notice
from tinyscene.deploy.frontend.audio import Recording
from tinyscene.deploy.frontend.log_mel import ONE_SECOND
from tinyscene.train.data.cache_index import (
    FORMAT,
    CachedRecording,
    ClipFormat,
    Index,
    check_index,
    check_sound,
    data_hash_of,
    read_journal,
)
from tinyscene.train.data.datasets import Dataset, ListedRecording


@dataclass(frozen=True)
class Clips:
    """A prepared dataset. Arrays by clip; `recordings` by recording."""

    folder: Path
    pcm: NDArray[np.int16]  # (clip, sample), memory mapped
    label: NDArray[np.int64]  # (clip,)
    recording: NDArray[np.int64]  # (clip,), index into `recordings`; -1 where nothing was decoded
    recordings: tuple[CachedRecording, ...]
    labels: tuple[str, ...]
    data_hash: str
    sample_rate: int
    clip_seconds: float = ONE_SECOND
    allow_missing: bool = False  # whether more than half of a list may be missing

    def select(self, paths: tuple[str, ...]) -> NDArray[np.int64]:
        """Indices of the clips of these recordings; those left out have none.

        Raises InputError if none is left, or fewer than half of them and that is not allowed.
        """
        names = set(paths)
        if not names:
            raise InputError("the list of this split is empty: `all` has no test list; name another split with --split")
        ranges = [
            np.delete(np.arange(item.first_clip, item.first_clip + item.clips), item.silent)
            for item in self.recordings
            if item.path in names and item.clips
        ]
        if not ranges:
            raise InputError(f"none of the {len(names)} recordings of the list can be used; see `tinyscene prepare`")
        if 2 * len(ranges) < len(names) and not self.allow_missing:
            raise InputError(
                f"{len(names) - len(ranges):,} of the {len(names):,} recordings of the list cannot be used; `tinyscene "
                "prepare` names them; --allow-missing goes on with the others"
            )
        return np.concatenate(ranges)

    @property
    def left_out(self) -> frozenset[str]:
        """Paths of the recordings that cannot be decoded."""
        return frozenset(item.path for item in self.recordings if not item.clips)

    def require_labels(self, labels: tuple[str, ...], model: Path) -> None:
        """Make sure that these are the labels a model knows. Raises InputError."""
        if labels != self.labels:
            raise InputError(f"{model} knows the labels {', '.join(labels)}; the dataset has {', '.join(self.labels)}")

    def recording_devices(self, clips: NDArray[np.int64]) -> NDArray[np.str_]:
        """The recording device of each clip."""
        return np.array([item.device for item in self.recordings])[self.recording[clips]]

    def names(self, clips: NDArray[np.int64]) -> list[str]:
        """The name of each clip: its recording's path, with `#N` for clip N where that has several."""
        items = [(self.recordings[self.recording[clip]], int(clip)) for clip in clips]
        return [item.path if item.clips == 1 else f"{item.path}#{clip - item.first_clip}" for item, clip in items]

    def report(self) -> dict[str, object]:
        """What was done to the recordings: counts, and each one that needed anything, by name."""
        rates = Counter(item.rate for item in self.recordings if item.clips)
        usual = rates.most_common(1)[0][0]
        notes = {item.path: list(item.notes) for item in self.recordings if item.notes}
        for item in self.recordings:
            if item.clips and item.rate != usual:
                notes.setdefault(item.path, []).append(f"resampled from {item.rate} Hz, unlike most ({usual} Hz)")
        return {
            "cache": str(self.folder),
            "data_hash": self.data_hash,
            "recordings": len(self.recordings),
            "used": sum(item.clips > 0 for item in self.recordings),
            "left_out": sum(item.clips == 0 for item in self.recordings),
            "clips": sum(item.clips - len(item.silent) for item in self.recordings),
            "source_rate": usual,
            "sample_rate": self.sample_rate,
            "clip_seconds": self.clip_seconds,
            "notes": notes,
        }


def prepare(
    dataset: Dataset,
    sample_rate: int,
    cache: Path | None = None,
    allow_missing: bool = False,
    clip_seconds: float = ONE_SECOND,
) -> Clips:
    """Open the cache of a dataset at a sample rate and a length of clips, building it first if it is not there.

    Says in one line how many recordings are left out, and which files are no recordings. `allow_missing`: more than
    half of a list may be left out.
    """
    form = ClipFormat(sample_rate, clip_seconds)
    folder = (cache or cache_folder()) / f"{dataset.root.resolve().name}-{_key(dataset, form)}"
    if not folder.exists():
        folder.parent.mkdir(parents=True, exist_ok=True)
        with _locked(folder.parent / ".lock"):
            if not folder.exists():
                _build(dataset, form, folder)
    clips = replace(_open(folder, dataset, form), allow_missing=allow_missing)
    if clips.left_out:
        notice(
            f"{dataset.root}: {len(clips.left_out):,} of {len(clips.recordings):,} recordings cannot be used and are "
            "left out; `tinyscene prepare` names them"
        )
    if dataset.ignored:
        notice(f"{dataset.root}: ignored as no recordings of a class: {dataset.ignored}")
    return clips


def in_other_form(clips: Clips, dataset: Dataset, sample_rate: int, clip_seconds: float) -> Clips:
    """The clips of the same dataset at another sample rate or of another length, with what is allowed to be missing."""
    return prepare(dataset, sample_rate, clips.folder.parent, clips.allow_missing, clip_seconds)


def _key(dataset: Dataset, form: ClipFormat) -> str:
    """Hash of everything a cache depends on that can be known without decoding."""
    length = "" if form.clip_seconds == ONE_SECOND else f" {form.clip_seconds!r}"
    digest = hashlib.sha256(f"{FORMAT} {form.sample_rate}{length} {dataset.labels}".encode())
    for recording in dataset.recordings:
        path = dataset.root / recording.path
        stat = path.stat() if path.is_file() else None
        known = (stat.st_size, stat.st_mtime_ns) if stat else None
        digest.update(f"{recording.path!r} {recording.label!r} {recording.device!r} {known}\n".encode())
    return digest.hexdigest()[:16]


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Hold a lock file, so that of two processes one builds and the other waits."""
    with path.open("w") as handle:
        lock(handle)
        yield


def _build(dataset: Dataset, form: ClipFormat, folder: Path) -> None:
    partial = folder.with_name(folder.name + ".partial")
    partial.mkdir(exist_ok=True)
    first_clips, total = _plan(dataset, form)
    try:
        with (partial / "pcm.i16").open("ab") as handle:
            reserve(handle, max(1, total) * form.samples * 2)
    except OSError as error:
        shutil.rmtree(partial)
        raise OSError(error.errno, error.strerror, str(partial)) from None
    pcm = np.memmap(partial / "pcm.i16", np.int16, "r+", shape=(max(1, total), form.samples))
    done = read_journal(partial / "journal.jsonl")
    waiting = [
        (recording, first)
        for recording, first in zip(dataset.recordings, first_clips, strict=True)
        if recording.path not in done
    ]
    with (
        (partial / "journal.jsonl").open("a", encoding="utf-8") as journal,
        ThreadPoolExecutor(os.cpu_count()) as pool,
        progress("preparing", len(dataset.recordings), len(done)) as advance,
    ):
        jobs = [pool.submit(_decode, dataset.root, recording, first, form, pcm) for recording, first in waiting]
        try:
            for job in as_completed(jobs):
                item = job.result()
                journal.write(item.model_dump_json() + "\n")
                journal.flush()
                done[item.path] = item
                advance(1)
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
    if not any(item.clips for item in done.values()):
        shutil.rmtree(partial)
        raise InputError(f"{dataset.root}: not one of its {len(dataset.recordings)} recordings can be used")
    pcm.flush()
    recordings = tuple(done[recording.path] for recording in dataset.recordings)
    index = Index(
        format=FORMAT,
        sample_rate=form.sample_rate,
        clip_seconds=form.clip_seconds,
        labels=dataset.labels,
        total_clips=total,
        data_hash=data_hash_of(recordings),
        recordings=recordings,
    )
    write_whole(partial / "index.json", index.model_dump_json())
    (partial / "journal.jsonl").unlink()
    partial.rename(folder)


def _plan(dataset: Dataset, form: ClipFormat) -> tuple[list[int], int]:
    """The first clip of each recording, from the headers, and the room that all of them need."""

    def count(recording: ListedRecording) -> int:
        try:
            return Recording(dataset.root / recording.path, form.sample_rate, form.clip_seconds).clip_count
        except InputError:
            return 0  # _decode says why

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        counts = list(pool.map(count, dataset.recordings))
    ends = np.cumsum(counts)
    return [int(end) - count for end, count in zip(ends, counts, strict=True)], int(ends[-1])


def _decode(
    root: Path, listed: ListedRecording, first: int, form: ClipFormat, pcm: NDArray[np.int16]
) -> CachedRecording:
    """Write one recording's clips into the memory map and say what was done."""
    digest, count, rate, silent = hashlib.sha256(), 0, 0, []
    try:
        if listed.fault:
            raise InputError(listed.fault)
        recording = Recording(root / listed.path, form.sample_rate, form.clip_seconds)
        rate = recording.rate
        for clip in recording.clips():
            pcm[first + count] = clip
            digest.update(clip.tobytes())
            if not clip.any():
                silent.append(count)
            count += 1
        notes = recording.notes
        if len(silent) == count:
            silent = []
            notes.append("digital silence throughout")
        elif silent:
            notes.append(f"{len(silent) * form.clip_seconds:g} s of digital silence not used")
    except InputError as error:
        count, silent, notes = 0, [], [f"left out: {str(error).removeprefix(f'{root / listed.path}: ')}"]
    return CachedRecording(
        path=listed.path,
        label=listed.label,
        device=listed.device,
        first_clip=first,
        clips=count,
        silent=tuple(silent),
        rate=rate,
        sha256=digest.hexdigest(),
        notes=tuple(notes),
    )


def _open(folder: Path, dataset: Dataset, form: ClipFormat) -> Clips:
    try:
        index = Index.model_validate_json((folder / "index.json").read_bytes())
        check_index(index, dataset, form)
        pcm = np.memmap(folder / "pcm.i16", np.int16, "r", shape=(max(1, index.total_clips), form.samples))
        check_sound(index, pcm)
        label = np.full(len(pcm), -1, np.int64)
        recording = np.full(len(pcm), -1, np.int64)
        for number, item in enumerate(index.recordings):
            span = slice(item.first_clip, item.first_clip + item.clips)
            label[span], recording[span] = index.labels.index(item.label), number
    except (OSError, ValueError, OverflowError) as error:  # pydantic's errors are ValueErrors
        reason = str(error).splitlines()[0]
        raise InputError(f"{folder}: not a cache that can be read ({reason}); remove it and prepare again") from None
    return Clips(
        folder=folder,
        pcm=pcm,
        label=label,
        recording=recording,
        recordings=index.recordings,
        labels=index.labels,
        data_hash=index.data_hash,
        sample_rate=form.sample_rate,
        clip_seconds=form.clip_seconds,
    )

"""Audio files as libsndfile opens them, and how long they are: as long as the sound in them, whatever a header says.

Encoders that write to a pipe do not know the length beforehand. They leave 0 or the largest number in its place (FLAC,
WAV), or no last page (Ogg). A damaged or hostile header promises any length. So a promise that a file can hardly keep
is checked by decoding it once, a block at a time.
"""

import contextlib
import io
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import soundfile

from tinyscene.deploy.common.errors import InputError

MAX_SECONDS = 86_400  # of a recording
SAMPLES_A_BYTE = 16  # in ordinary files; beyond, the header is not believed
MAX_COUNTED = 2**28  # samples that are decoded to check a header, of a file that is small for them
BLOCK = 2**16  # samples, of all channels
UNKNOWN = 2**62  # frames: libsndfile gives the largest number for a length that a FLAC leaves out
STREAMED = 0x7FFFF000  # bytes: with this much or more as its size, a WAV was written to a pipe
WAV_DATA = re.compile(r"data : (\d+) \(should be")  # libsndfile's words
OGG_PAGE = 27 + 255 + 255 * 255  # bytes, at most


@dataclass(frozen=True)
class Sound:
    """The length of an open file's sound, and what is to be said of it."""

    frames: int
    note: str | None = None


class _Sequential(soundfile.SoundFile):
    """A file that is read from its start to its end. soundfile would seek after each read, which fails at the end of a
    FLAC of unknown length."""

    def seekable(self) -> bool:
        return False


@contextlib.contextmanager
def open_file(path: Path) -> Iterator[soundfile.SoundFile]:
    """Open an audio file, whatever bytes its name consists of. Raises what soundfile raises."""
    with contextlib.ExitStack() as stack:
        source: Any = os.fsencode(path) if os.name == "posix" else path
        if (size_at := _streamed_wav(path)) is not None:
            source = stack.enter_context(_Streamed(path, size_at))
        yield stack.enter_context(_Sequential(source))


def measure(path: Path, sound: soundfile.SoundFile) -> Sound:
    """How long a file's sound is. Raises InputError if it is too long."""
    claimed, rate, size, log = sound.frames, sound.samplerate, path.stat().st_size, sound.extra_info
    frames, most = claimed, MAX_SECONDS * rate
    if claimed > SAMPLES_A_BYTE * size:
        most = min(most, max(MAX_COUNTED, SAMPLES_A_BYTE * size))
        frames = _count(sound, most)
    if frames > most:
        raise InputError(f"{path}: lasts longer than {most / rate / 3600:.3g} hours: cut it into parts")
    length = f"{frames / rate:.2f} s"
    declared = WAV_DATA.search(log)
    if claimed >= UNKNOWN or (declared and int(declared[1]) >= STREAMED):
        return Sound(frames, f"its header gives no length: {length} are there")
    if frames < claimed:
        return Sound(frames, f"damaged: its header promises {claimed / rate:.2f} s; the first {length} are used")
    if "(should be" in log or "ended unexpectedly" in log or _is_cut_ogg(path):
        return Sound(frames, f"truncated: {length} are left")
    return Sound(frames)


def _count(sound: soundfile.SoundFile, most: int) -> int:
    """Frames that can be decoded, from the first on; a few more than `most` where there are more."""
    block = np.empty((max(1, BLOCK // sound.channels), sound.channels), np.int16)
    count = 0
    try:
        while count <= most and (read := len(sound.read(dtype="int16", out=block))):
            count += read
    except soundfile.SoundFileError:
        return min(max(count, sound.tell()), count + len(block))  # the sound ends where the damage begins
    return count


def _streamed_wav(path: Path) -> int | None:
    """Where a WAV has the size of its sound, if that is 0 and sound follows."""
    with path.open("rb") as handle:
        head, end = handle.read(12), path.stat().st_size
        if head[:4] != b"RIFF" or head[8:] != b"WAVE":
            return None
        while (chunk := _chunk(handle)) is not None and chunk[0] != b"data":
            handle.seek(chunk[1], io.SEEK_CUR)
        start = handle.tell()
        if chunk is None or chunk[1] or _is_chunks(handle, end):
            return None
        return start - 4


def _chunk(handle: io.BufferedReader) -> tuple[bytes, int] | None:
    """The name and the padded size of the chunk that begins here."""
    head = handle.read(8)
    size = int.from_bytes(head[4:], "little")
    return (head[:4], size + size % 2) if len(head) == 8 else None


def _is_chunks(handle: io.BufferedReader, end: int) -> bool:
    """Whether what follows are chunks up to the end, and no sound."""
    while handle.tell() < end:
        chunk = _chunk(handle)
        if chunk is None or not re.fullmatch(rb"[ -~]{4}", chunk[0]):
            return False
        handle.seek(chunk[1], io.SEEK_CUR)
    return handle.tell() <= end + 1


class _Streamed(io.FileIO):
    """A WAV with the largest size in place of 0, which libsndfile reads as up to the end of the file."""

    def __init__(self, path: Path, size_at: int) -> None:
        super().__init__(path)
        self.size_at = size_at

    def readinto(self, buffer: Any) -> int:
        start = self.tell()
        count = super().readinto(buffer)
        for at in range(max(start, self.size_at), min(start + count, self.size_at + 4)):
            memoryview(buffer)[at - start : at - start + 1] = b"\xff"
        return count


def _is_cut_ogg(path: Path) -> bool:
    """Whether a file is an Ogg whose last page is not there: it would be marked as the last, and whole."""
    with path.open("rb") as handle:
        if handle.read(4) != b"OggS":
            return False
        handle.seek(max(0, path.stat().st_size - OGG_PAGE))
        tail = handle.read()
    page = tail[tail.rfind(b"OggS") :]
    sizes = page[27 : 27 + page[26]] if len(page) > 26 else b""
    is_whole = len(page) >= 27 + len(sizes) + sum(sizes)
    return not (sizes and page[5] & 4 and is_whole)

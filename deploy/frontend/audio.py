"""Audio files as int16 clips of equal length, for training and for classification.

A recording is cut into clips at its own rate, then each of them is mixed down to mono, resampled and rounded to
int16, so every clip is treated as a file of this length, such as the one-second files of TAU, is. What is left at the
end is padded with zeros to a clip if it lasts half a clip or more, or if it is the whole recording; otherwise dropped.
At its own rate a clip is the fewest samples that give enough of them at the rate of the clips.

The clips of a lossless file (WAV, FLAC, AIFF) are the same on every processor, and those of WAV and FLAC in the web
page, because every step is exact or rounds elementwise: mixing down (`mix_down`), resampling (`resample.py`), and
rounding to int16, a tie to the even value. Lossy files (MP3, Ogg) are decoded to floating point by libsndfile's codecs,
whose last bits may depend on its version and on the processor; from there on the same holds.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
from numpy.typing import NDArray

from tinyscene.deploy.common.errors import InputError
from tinyscene.deploy.common.files import require_file
from tinyscene.deploy.frontend.audio_file import measure, open_file
from tinyscene.deploy.frontend.log_mel import ONE_SECOND, PCM_SCALE, clip_samples, float_pcm
from tinyscene.deploy.frontend.resample import SOURCE_RATES, resample

BLOCK = 2**20  # samples of all channels that are decoded at a time
SHORT = "ends before its header says"
CANCELLED = "its channels cancel each other: the first is used where they do"
CANCELLING = 16  # channels cancel each other if they are this many times louder than their mean


def clip_count(frames: int, length: int) -> int:
    """Clips cut from `frames` samples, each of `length` of them, by the rule above."""
    whole, rest = divmod(frames, length)
    return whole + (2 * rest >= length or (whole == 0 and rest > 0))


def source_samples(samples: int, rate: int, sample_rate: int) -> int:
    """The fewest samples at `rate` Hz that `samples` at `sample_rate` Hz come of."""
    return -(-samples * rate // sample_rate)


@dataclass
class Recording:
    """An open audio file. Iterate over `clips`, then read in `notes` what had to be done to it."""

    path: Path
    sample_rate: int  # Hz, of the clips
    clip_seconds: float = ONE_SECOND
    notes: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        require_file(self.path)
        if self.path.stat().st_size == 0:
            raise InputError(f"{self.path}: the file is empty")
        try:
            with open_file(self.path) as sound:
                self.rate, self.channels = sound.samplerate, sound.channels
                if not SOURCE_RATES[0] <= self.rate <= SOURCE_RATES[1]:
                    raise InputError(f"{self.path}: its sample rate of {self.rate} Hz cannot be used")
                measured = measure(self.path, sound)
        except (soundfile.SoundFileError, OSError) as error:
            raise InputError(f"{self.path}: not an audio file that can be read ({_reason(error)})") from None
        self.frames = measured.frames
        if self.frames <= 0:
            raise InputError(f"{self.path}: holds no samples")
        if measured.note:
            self.notes.append(measured.note)
        if self.channels > 1:
            self.notes.append(f"{self.channels} channels mixed down")

    @property
    def clip_samples(self) -> int:
        """Samples in a clip."""
        return clip_samples(self.sample_rate, self.clip_seconds)

    @property
    def clip_count(self) -> int:
        """Clips of the file's length; a damaged file has fewer."""
        return clip_count(self.frames, self._length)

    @property
    def _length(self) -> int:
        """Of a clip, in samples of the file."""
        return source_samples(self.clip_samples, self.rate, self.sample_rate)

    def clips(self) -> Iterator[NDArray[np.int16]]:
        """Yield clips (samples,), one clip of the file in memory at a time.

        Raises InputError if nothing at the start decodes or it holds NaN or infinity. Damage further on
        ends the recording there, with a note.
        """
        for mono in self._segments(self._length):
            clip, clipped = make_clip(mono, self.rate, self.sample_rate, self.clip_samples)
            if clipped and "clipped at full scale" not in self.notes:
                self.notes.append("clipped at full scale")
            yield clip

    def first_second(self) -> NDArray[np.float64]:
        """The first second (sample_rate,) in floating point, scaled to a peak of 1 before it is resampled.

        The resampler rounds to 24 bits and limits to +-4, so that only samples of a known scale keep their precision.
        """
        mono = next(self._segments(self.rate))
        peak = np.abs(mono).max() or np.float32(1)  # digital silence stays what it is
        signal = resample(mono / peak, self.rate, self.sample_rate)[: self.sample_rate]
        return np.pad(signal, (0, self.sample_rate - len(signal)))

    def _segments(self, length: int) -> Iterator[NDArray[np.float32]]:
        """Yield the mono samples (length,) of each segment that becomes a clip, fewer where the file ends in it."""
        with open_file(self.path) as sound:
            for index in range(clip_count(self.frames, length)):
                segment, cancels, fault = read_mono(sound, min(length, self.frames - index * length))
                if fault:
                    if index == 0 and len(segment) == 0:
                        raise InputError(f"{self.path}: damaged: {fault}")
                    if index and 2 * len(segment) < length:
                        segment = segment[:0]
                    used = round((index * length + len(segment)) / self.rate, 2)
                    self.notes.append(f"damaged: {fault}; the first {used:g} s are used")
                    if len(segment) == 0:
                        return
                if len(segment) < length:
                    left = f"{len(segment) / self.rate:.2f} s"
                    self.notes.append(f"the last {left} padded to {describe_seconds(self.clip_seconds)}")
                if cancels and CANCELLED not in self.notes:
                    self.notes.append(CANCELLED)
                yield segment
                if fault:
                    return


def describe_seconds(seconds: float) -> str:
    """A length of clips in words."""
    return "one second" if seconds == ONE_SECOND else f"{seconds:g} seconds"


def mix_down(samples: NDArray[Any]) -> NDArray[np.float32]:
    """Samples of a clip, as `float_channels` takes them -> mono float32 (samples,).

    Channels are added in float64, one after the other, and their mean is rounded to float32. Where they cancel each
    other, as they do when one of two is inverted, the first is taken instead.
    """
    real = float_channels(samples)
    mono = _mean(real)
    return real[:, 0] if _cancels(mono, _peak(real)) else mono


def float_channels(samples: NDArray[Any]) -> NDArray[np.float32]:
    """Samples (samples,) or (samples, channels), int16 or float within +-1 -> float32 (samples, channels).

    Raises InputError for any other shape or type, and for NaN or infinite samples.
    """
    samples = np.asarray(samples)
    is_pcm = samples.dtype.kind == "i" and samples.dtype.itemsize == 2
    if samples.ndim not in (1, 2) or not (is_pcm or samples.dtype.kind == "f"):
        raise InputError(f"samples are {samples.dtype} {samples.shape}: needed are int16 or float, (samples, channels)")
    if 0 in samples.shape[1:]:
        raise InputError("samples of no channel")
    with np.errstate(over="ignore"):  # what is too large becomes infinite
        real = float_pcm(samples.astype(np.int16)) if is_pcm else samples.astype(np.float32)
    if not np.isfinite(real).all():
        raise InputError("samples hold NaN or infinite values")
    return real[:, None] if real.ndim == 1 else real


def _mean(samples: NDArray[np.float32]) -> NDArray[np.float32]:
    """The mean of the channels, (samples, channels) -> (samples,)."""
    total = np.zeros(len(samples))
    for channel in samples.T:
        total += channel
    return (total / samples.shape[1]).astype(np.float32)


def _peak(samples: NDArray[np.float32]) -> float:
    return float(max(samples.max(initial=0.0), -samples.min(initial=0.0)))


def _cancels(mono: NDArray[np.float32], peak: float) -> bool:
    """Whether channels with this peak cancel each other; a comparison of peaks, which is the same everywhere."""
    return CANCELLING * _peak(mono) < peak


def make_clip(mono: NDArray[np.float32], rate: int, sample_rate: int, samples: int) -> tuple[NDArray[np.int16], bool]:
    """A clip or less at `rate` Hz as an int16 clip (samples,) at `sample_rate` Hz, and whether it was clipped."""
    signal = resample(mono, rate, sample_rate)[:samples]
    clip = np.zeros(samples, np.int16)
    clip[: len(signal)] = np.clip(np.rint(signal * PCM_SCALE), -32768, 32767)
    return clip, bool(np.abs(signal).max() > 1.0)


def read_mono(sound: soundfile.SoundFile, frames: int) -> tuple[NDArray[np.float32], bool, str]:
    """Mono samples (frames,), whether their channels cancel each other, and what is wrong with them, if anything.

    Channels are mixed down block by block, so that a thousand of them need no more memory than one.
    """
    mono, first = np.zeros(frames, np.float32), np.zeros(frames, np.float32)
    block, done, peak, fault = max(1, BLOCK // sound.channels), 0, 0.0, ""
    while done < frames and not fault:
        samples, fault = _read_frames(sound, min(block, frames - done))
        if fault and fault != SHORT:
            done = 0
            break
        span = slice(done, done + len(samples))
        mono[span], first[span] = _mean(samples) if sound.channels > 1 else samples[:, 0], samples[:, 0]
        peak, done = max(peak, _peak(samples)), done + len(samples)
    mono, first = mono[:done], first[:done]
    cancels = sound.channels > 1 and _cancels(mono, peak)
    return (first if cancels else mono), cancels, fault


def _read_frames(sound: soundfile.SoundFile, frames: int) -> tuple[NDArray[np.float32], str]:
    """Samples (frames, channels) and what is wrong with them, if anything."""
    nothing = np.zeros((0, sound.channels), np.float32)
    try:
        samples = np.asarray(sound.read(frames, dtype="float32", always_2d=True), np.float32)
    except soundfile.SoundFileError as error:
        return nothing, _reason(error)
    if not np.isfinite(samples).all():
        return nothing, "holds NaN or infinite samples"
    return samples, "" if len(samples) == frames else SHORT


def _reason(error: Exception) -> str:
    """libsndfile's own words on one line, without the path that the caller names."""
    words = str(getattr(error, "error_string", error)).removeprefix("Error : ")
    return words.strip().rstrip(".").replace("\n", " ")

"""Where `tinyscene listen` takes its samples from: the sound card, or a recording in its place.

A card is heard at its own sample rate. Its samples wait in a queue of QUEUED seconds; what does not fit is lost, as is
what the driver drops, and both are counted.
"""

import queue
import time
from collections.abc import Generator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from tinyscene.deploy.common.errors import InputError
from tinyscene.deploy.common.installation import missing
from tinyscene.deploy.common.terminal import messages
from tinyscene.deploy.frontend.audio import CANCELLED, Recording, read_mono
from tinyscene.deploy.frontend.audio_file import open_file

BLOCK = 0.05  # seconds of sound at a time
QUEUED = 2.0  # seconds of a card's sound that may wait
PATIENCE = 5.0  # seconds without a sample before a card is given up

Blocks = Generator[NDArray[Any], None, None]


class SoundSource(Protocol):
    """Where samples come from."""

    name: str
    sample_rate: int  # Hz
    lost: int  # samples, so far
    overflows: int  # times that the driver said it had dropped some, nobody knows how many

    def blocks(self) -> Blocks:
        """Samples (samples,) or (samples, channels), int16 or float, as they come."""
        ...


@dataclass
class FileSource:
    """A recording, in real time or as fast as it is taken. Raises InputError if it cannot be read."""

    path: Path
    fast: bool
    lost: int = 0
    overflows: int = 0

    def __post_init__(self) -> None:
        recording = Recording(self.path, sample_rate=1)  # of the clips, which are not asked for
        self.sample_rate, self._frames = recording.rate, recording.frames
        notes = "".join(f", {note}" for note in recording.notes)
        self.name = f"{self.path.name}, {self.sample_rate:,} Hz{notes}{', as fast as it goes' if self.fast else ''}"

    def blocks(self) -> Blocks:
        size, started, position, noted = round(BLOCK * self.sample_rate), time.monotonic(), 0, False
        with open_file(self.path) as sound:
            while position < self._frames:  # a second at a time, which is mixed down as in any other command
                mono, cancels, fault = read_mono(sound, min(self.sample_rate, self._frames - position))
                if fault and not position + len(mono):
                    raise InputError(f"{self.path}: damaged: {fault}")
                if cancels and not noted:
                    messages.print(f"{self.path}: {CANCELLED}", soft_wrap=True)
                    noted = True
                for block in np.split(mono, range(size, len(mono), size)):
                    position += len(block)
                    if not self.fast:
                        time.sleep(max(0.0, started + position / self.sample_rate - time.monotonic()))
                    yield block
                if fault:
                    seconds = position / self.sample_rate
                    messages.print(
                        f"{self.path}: damaged: {fault}; the first {seconds:.2f} s were heard",
                        soft_wrap=True,
                    )
                    return


class SoundCard:
    """A sound card. Raises InputError if there is none, or none of that name, or it cannot be opened."""

    def __init__(self, device: str | None) -> None:
        self._library = _sounddevice()
        number = int(device) if device and device.isdigit() else device
        try:
            settings = self._library.query_devices(number, "input")
        except (ValueError, self._library.PortAudioError) as error:
            raise InputError(self._none_of(device, error)) from None
        self.sample_rate = round(settings["default_samplerate"])
        self.name = f"{settings['name']}, {self.sample_rate:,} Hz"
        self.lost, self.overflows = 0, 0
        self._index, self._channels = settings["index"], settings["max_input_channels"]
        # no queue.Queue: Ctrl-C can interrupt its get() with the lock held, and the driver's thread waits for ever
        self._queue: queue.SimpleQueue[NDArray[np.int16]] = queue.SimpleQueue()

    def blocks(self) -> Blocks:
        try:
            stream = self._open()
        except self._library.PortAudioError as error:
            raise InputError(f"{self.name}: cannot be opened ({_reason(error)})") from None
        with stream:
            waited = 0.0
            while waited < PATIENCE and (stream.active or not self._queue.empty()):
                try:
                    yield self._queue.get(timeout=BLOCK)
                    waited = 0.0
                except queue.Empty:
                    waited += BLOCK
        raise InputError(f"{self.name}: delivers no more sound; see whether it is still plugged in")

    def _open(self) -> Any:
        """An input stream of one channel or, where the card has no such, of all."""
        settings = {
            "device": self._index,
            "samplerate": self.sample_rate,
            "blocksize": round(BLOCK * self.sample_rate),
            "dtype": "int16",
            "callback": self._take,
        }
        try:
            return self._library.InputStream(channels=1, **settings)
        except self._library.PortAudioError:
            return self._library.InputStream(channels=self._channels, **settings)

    def _take(self, samples: NDArray[np.int16], frames: int, _time: object, status: Any) -> None:
        """Called by the driver's thread, which must not wait."""
        self.overflows += bool(status.input_overflow)
        if self._queue.qsize() < round(QUEUED / BLOCK):
            self._queue.put(samples.copy())
        else:
            self.lost += frames

    def _none_of(self, device: str | None, error: Exception) -> str:
        inputs = [device for device in self._library.query_devices() if device["max_input_channels"]]
        if not inputs:
            return "no sound card has an input: plug in a microphone, or name a recording with --source FILE"
        known = ", ".join(f"{device['index']} ({device['name']})" for device in inputs)
        return f"--input {device}: {_reason(error)}; known are {known}"


def open_sound(source: Path | None, device: str | None, fast: bool) -> SoundSource:
    """The sound that the command line names. Raises InputError where it names none that can be had."""
    if source is None:
        if fast:
            raise InputError("--fast: a sound card has its own time; name a recording with --source FILE")
        return SoundCard(device)
    if device is not None:
        raise InputError(f"--input {device}: --source {source} is named already; choose one")
    return FileSource(source, fast)


def _sounddevice() -> Any:
    """The library for sound cards. Raises InputError where it is not installed."""
    try:
        import sounddevice
    except ImportError:
        raise missing("sounddevice", "listen") from None
    except OSError:
        raise InputError(
            "PortAudio, which sounddevice needs, is not installed: apt install libportaudio2, or as your system does"
        ) from None
    return sounddevice


def _reason(error: Exception) -> str:
    """PortAudio's or sounddevice's words on one line."""
    return str(error).splitlines()[0].rstrip(".:")

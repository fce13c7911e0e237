"""Listening: the sound card, or a recording in its place, decided on as it goes.

    tinyscene listen BUNDLE                                # the sound card, until Ctrl-C
    tinyscene listen BUNDLE --input "USB" --hop 0.25       # another card; four decisions a second
    tinyscene listen BUNDLE --source some.wav [--fast]     # a file in real time, or as fast as it can be decided on
    tinyscene listen BUNDLE --json | jq .scene             # a JSON line a decision, as without a terminal

The decisions are those of `SceneClassifier.stream` on the same samples. A card is heard at its own sample rate, so
that its sound is resampled as recordings are. Its samples wait in a queue of QUEUED seconds; what does not fit is
lost, as is what the driver drops, and both are counted and shown. Ctrl-C is how listening to a card ends, with exit
code 0, as `ping` does; a file that was not heard to its end leaves with 130, as whatever else was interrupted.
"""

import contextlib
import json
import math
import os
import queue
import signal
import statistics
import sys
import time
from collections import deque
from collections.abc import Generator, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import soundfile
from numpy.typing import NDArray
from rich.live import Live

from deploy.audio import Recording, mix_down, read_frames
from deploy.classifier import SceneClassifier
from deploy.errors import InputError
from deploy.frontend import PCM_SCALE
from deploy.listen_view import picture_of
from deploy.terminal import console, messages

BLOCK = 0.05  # seconds of sound at a time
QUEUED = 2.0  # seconds of a card's sound that may wait
PATIENCE = 5.0  # seconds without a sample before a card is given up
FRAME = 0.1  # seconds between pictures
FULL_SCALE = 32767 / 32768  # from here on a sample is taken to be clipped


Blocks = Generator[NDArray[Any], None, None]


class Sound(Protocol):
    """Where samples come from."""

    name: str
    sample_rate: int  # Hz
    lost: int  # samples, so far
    overflows: int  # times that the driver said it had dropped some, nobody knows how many

    def blocks(self) -> Blocks:
        """Samples (samples, channels), int16 or float, as they come."""
        ...


@dataclass
class File:
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
        size, started, position = round(BLOCK * self.sample_rate), time.monotonic(), 0
        with soundfile.SoundFile(self.path) as sound:
            while position < self._frames:
                samples, fault = read_frames(sound, min(size, self._frames - position))
                position += len(samples)
                if not self.fast:
                    time.sleep(max(0.0, started + position / self.sample_rate - time.monotonic()))
                yield samples
                if fault and not position:
                    raise InputError(f"{self.path}: damaged: {fault}")
                if fault:
                    heard = position / self.sample_rate
                    messages.print(
                        f"{self.path}: damaged: {fault}; the first {heard:.2f} s were heard",
                        soft_wrap=True,
                        markup=False,
                    )
                    return


class Card:
    """A sound card. Raises InputError if there is none, or none of that name, or it cannot be opened."""

    def __init__(self, device: str | None) -> None:
        self._library = _sounddevice()
        number = int(device) if device and device.isdigit() else device
        try:
            found = self._library.query_devices(number, "input")
        except (ValueError, self._library.PortAudioError) as error:
            raise InputError(self._none_of(device, error)) from None
        self.sample_rate = round(found["default_samplerate"])
        self.name = f"{found['name']}, {self.sample_rate:,} Hz"
        self.lost, self.overflows = 0, 0
        self._index, self._channels = found["index"], found["max_input_channels"]
        self._queue: queue.Queue[NDArray[np.int16]] = queue.Queue(round(QUEUED / BLOCK))

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
        try:
            self._queue.put_nowait(samples.copy())
        except queue.Full:
            self.lost += frames

    def _none_of(self, device: str | None, error: Exception) -> str:
        inputs = [each for each in self._library.query_devices() if each["max_input_channels"]]
        if not inputs:
            return "no sound card has an input: plug in a microphone, or name a recording with --source FILE"
        known = ", ".join(f"{each['index']} ({each['name']})" for each in inputs)
        return f"--input {device}: {_reason(error)}; known are {known}"


def open_sound(source: Path | None, device: str | None, fast: bool) -> Sound:
    """The sound that the command line names. Raises InputError where it names none that can be had."""
    if source is None:
        if fast:
            raise InputError("--fast: a sound card has its own time; name a recording with --source FILE")
        return Card(device)
    if device is not None:
        raise InputError(f"--input {device}: --source {source} is named already; choose one")
    return File(source, fast)


@dataclass
class Listener:
    """A sound decided on every hop, and what a picture of it needs."""

    classifier: SceneClassifier
    sound: Sound
    hop: float  # seconds
    title: str
    decisions: int = 0
    heard: int = 0  # samples
    level: float | None = None  # dBFS, of the last block; none for digital silence
    peak: float | None = None  # dBFS, of the last second
    clipped: bool = False  # in the last second
    last: dict[str, Any] | None = None  # decision
    times: deque[float] = field(default_factory=lambda: deque(maxlen=50))  # ms, of the last decisions

    def __post_init__(self) -> None:
        self._stream = self.classifier.stream(self.sound.sample_rate, self.hop)
        self.second = np.zeros(0, np.float32)  # the last one, at the sound's own rate

    def hear(self, block: NDArray[Any]) -> list[dict[str, Any]]:
        """Take a block of samples; the decisions that are due, with what `_note` adds."""
        mono = mix_down(block)
        self.heard += len(mono)
        self.second = np.concatenate([self.second, mono])[-self.sound.sample_rate :]
        loudest = float(np.abs(self.second).max(initial=0.0))
        self.level = _level(mono)
        self.peak, self.clipped = _decibels(loudest), loudest >= FULL_SCALE
        started = time.perf_counter()
        return self._note(self._stream.push(mono), started)

    def finish(self) -> list[dict[str, Any]]:
        """End the sound: the decision on what is left of it, if any."""
        started = time.perf_counter()
        return self._note(self._stream.finish(), started)

    def _note(self, decisions: list[dict[str, Any]], started: float) -> list[dict[str, Any]]:
        """Add to decisions what they took, and what was wrong with the sound."""
        taken = 1000 * (time.perf_counter() - started)
        for decision in decisions:
            decision |= {
                "latency_ms": round(taken / len(decisions), 3),
                "level_dbfs": _level(self.second),
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
        line = f"{self.heard / self.sound.sample_rate:.1f} s heard, {self.decisions} decisions"
        if self.times:
            line += f", {statistics.median(self.times):.1f} ms each"
        return line + (f"; {lost:,} samples lost, {overflows} overflows of the driver" if lost or overflows else "")


def listen(listener: Listener, as_json: bool) -> int:
    """Listen to the end of the sound, or until Ctrl-C. Returns the exit code.

    On a terminal it is shown; elsewhere, or where that is asked for, each decision is a line of JSON.
    """
    # SIGTERM, or it would leave a terminal without cursor; SIGINT, as whoever starts us may have it ignored
    former = {each: signal.signal(each, signal.default_int_handler) for each in (signal.SIGTERM, signal.SIGINT)}
    try:
        if as_json or not console.is_terminal or console.is_dumb_terminal:
            _write_lines(listener)
        else:
            _show(listener)
    except KeyboardInterrupt:
        messages.print(listener.summary, soft_wrap=True, highlight=False)
        return 130 if isinstance(listener.sound, File) else 0
    except BrokenPipeError:  # whoever reads has enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    finally:
        for number, handler in former.items():
            signal.signal(number, handler)
    messages.print(listener.summary, soft_wrap=True, highlight=False)
    return 0


def _decisions(listener: Listener) -> Iterator[list[dict[str, Any]]]:
    """The decisions that each block of the sound makes due, mostly none."""
    with contextlib.closing(listener.sound.blocks()) as blocks:
        for block in blocks:
            yield listener.hear(block)
    yield listener.finish()


def _write_lines(listener: Listener) -> None:
    for decisions in _decisions(listener):
        for decision in decisions:
            sys.stdout.write(json.dumps(decision) + "\n")
        sys.stdout.flush()


def _show(listener: Listener) -> None:
    with Live(console=console, auto_refresh=False, vertical_overflow="crop") as live:
        drawn = 0.0
        for _ in _decisions(listener):
            if time.monotonic() - drawn >= FRAME:
                drawn = time.monotonic()
                live.update(picture_of(listener, console), refresh=True)
        live.update(picture_of(listener, console), refresh=True)


def _sounddevice() -> Any:
    """The library for sound cards. Raises InputError where it is not installed."""
    try:
        import sounddevice
    except ImportError:
        raise InputError("sounddevice is not installed: pip install 'tinyscene[listen]'") from None
    except OSError:
        raise InputError(
            "PortAudio, which sounddevice needs, is not installed: apt install libportaudio2, or as your system does"
        ) from None
    return sounddevice


def _level(samples: NDArray[np.float32]) -> float | None:
    """Root of the mean square in dBFS; none for digital silence, and for no samples."""
    return _decibels(math.sqrt(float(np.square(samples, dtype=np.float64).sum()) / max(1, len(samples))))


def _decibels(amplitude: float) -> float | None:
    return round(20 * math.log10(amplitude), 2) if amplitude * PCM_SCALE > 0.5 else None


def _reason(error: Exception) -> str:
    """PortAudio's or sounddevice's words on one line."""
    return str(error).splitlines()[0].rstrip(".:")

"""Listening: the stream's own decisions, from a file or through a real PortAudio, and what a terminal is shown.

The sound card is ALSA's own stand-in, a file played into the `null` device, which delivers as fast as it is asked.
"""

import io
import json
import os
import pty
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from ctypes.util import find_library
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from rich.console import Console

from tinyscene.deploy.bundle.bundle import Bundle
from tinyscene.deploy.frontend.log_mel import FrontEnd
from tinyscene.deploy.live.classifier import BundleClassifier, SceneClassifier
from tinyscene.deploy.live.listen_view import log_mel_picture, picture_of
from tinyscene.deploy.live.listener import Listener
from tinyscene.deploy.live.sound import FileSource

RunCli = Callable[..., tuple[int, str, str]]
RATE = 44_100  # Hz, of the recordings here
ASOUND = """
pcm.nothing {{ type null }}
pcm.microphone {{ type file slave.pcm "nothing" file "/dev/null" infile "{}" format "raw" }}
pcm.!default {{ type plug slave {{ pcm "microphone" rate 44100 channels 1 format S16_LE }} }}
"""
CARD = """
import json, sys, time
from itertools import islice
import numpy as np
from tinyscene.deploy.live.sound import SoundCard
card = SoundCard(sys.argv[1])
blocks = card.blocks()
first = [next(blocks)]
time.sleep(0.3)
taken = np.concatenate([*first, *islice(blocks, 39)])[:, 0]
blocks.close()
print(json.dumps([card.name, card.lost, card._queue.qsize(), taken.tolist()]))
"""
INTERRUPTED = """
import random, signal, sys
from contextlib import closing
from tinyscene.deploy.live.sound import SoundCard
signal.signal(signal.SIGALRM, signal.default_int_handler)
card, drawn, interrupts = SoundCard(sys.argv[1]), random.Random(0), 0
for _ in range(200):
    with closing(card.blocks()) as blocks:
        next(blocks)
        try:
            signal.setitimer(signal.ITIMER_REAL, drawn.uniform(1e-5, 2e-3))
            for _ in blocks:
                pass
        except KeyboardInterrupt:
            interrupts += 1
print(interrupts)
"""


@pytest.fixture(scope="module")
def scene(bundle: Bundle) -> SceneClassifier:
    return BundleClassifier(bundle, "litert")


@pytest.fixture(scope="module")
def wav(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """2.6 seconds of noise that grows, in stereo."""
    noise = np.random.default_rng(0).normal(0, np.linspace(0.001, 0.2, round(2.6 * RATE)), (2, round(2.6 * RATE)))
    path = tmp_path_factory.mktemp("listen") / "noise.wav"
    soundfile.write(path, noise.T, RATE, "PCM_16")
    return path


@pytest.fixture(scope="module")
def card(wav: Path) -> dict[str, str]:
    """The environment in which ALSA has one microphone, which hears the left channel of `wav` as fast as it can."""
    if find_library("portaudio") is None:
        assert "CI" not in os.environ, "`make tools` installs PortAudio"
        pytest.skip("PortAudio is not installed: `make tools` installs it")
    raw, config = wav.with_suffix(".raw"), wav.with_suffix(".conf")
    raw.write_bytes(soundfile.read(wav, dtype="int16")[0][:, 0].tobytes())
    config.write_text(ASOUND.format(raw))
    return os.environ | {"ALSA_CONFIG_PATH": str(config)}


def heard(listener: Listener) -> list[dict[str, Any]]:
    return [decision for block in listener.sound.blocks() for decision in listener.hear(block)] + listener.finish()


def tinyscene(*arguments: object, **settings: Any) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "tinyscene", *map(str, arguments)]
    pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen(command, **pipes | settings)


# Decisions


@pytest.mark.parametrize("hop", [0.25, 0.3, 1.0])
def test_the_decisions_are_those_of_the_stream_on_the_same_samples(
    hop: float, scene: SceneClassifier, wav: Path
) -> None:
    stream = scene.stream(RATE, hop)
    expected = stream.push(soundfile.read(wav, dtype="int16")[0]) + stream.finish()
    found = heard(Listener(scene, FileSource(wav, fast=True), hop, ""))
    assert [{key: each[key] for key in ("start", "scene", "scores")} for each in found] == expected
    assert len(found) > 2


def test_the_level_is_that_of_the_second(scene: SceneClassifier, tmp_path: Path) -> None:
    tone = np.sin(2 * np.pi * 1000 * np.arange(2 * RATE) / RATE)  # whose mean square is a half, 3.01 dB below its peak
    soundfile.write(tmp_path / "tone.wav", np.concatenate([tone / 2, np.zeros(RATE), tone]), RATE, "PCM_16")
    found = heard(Listener(scene, FileSource(tmp_path / "tone.wav", fast=True), 1.0, ""))
    assert [each["level_dbfs"] for each in found] == [-9.03, -9.03, None, -3.01, -3.01]
    assert [each["peak_dbfs"] for each in found] == [-6.02, -6.02, None, 0.0, 0.0]
    assert [each["clipped"] for each in found] == [False, False, False, True, True]


def test_without_a_terminal_each_decision_is_a_line_of_json(bundle: Bundle, wav: Path, run_cli: RunCli) -> None:
    code, out, err = run_cli("listen", bundle.folder, "--source", wav, "--fast", "--hop", 0.5)
    found = [json.loads(line) for line in out.splitlines()]
    assert (code, [each["start"] for each in found]) == (0, [0, 0.5, 1.0, 1.5])
    assert {"scene", "scores", "latency_ms", "level_dbfs", "clipped", "lost_samples", "overflows"} <= found[0].keys()
    assert "2.6 s heard, 4 decisions" in err


def test_a_recording_is_heard_in_its_own_time(scene: SceneClassifier, wav: Path) -> None:
    started = time.monotonic()
    for position, block in enumerate(FileSource(wav, fast=False).blocks()):
        assert time.monotonic() - started >= position * len(block) / RATE
        if position == 5:
            break


def test_damage_ends_a_recording_with_a_word(scene: SceneClassifier, tmp_path: Path, run_cli: RunCli) -> None:
    samples = np.zeros(3 * RATE, np.float32)
    samples[2 * RATE + 5] = np.nan
    soundfile.write(tmp_path / "damaged.wav", samples, RATE, "FLOAT")
    found = heard(Listener(scene, FileSource(tmp_path / "damaged.wav", fast=True), 1.0, ""))
    assert [each["start"] for each in found] == [0, 1]


def test_a_channel_that_is_inverted_does_not_silence_the_other(bundle: Bundle, tmp_path: Path, run_cli: RunCli) -> None:
    left = np.random.default_rng(0).integers(-9_000, 9_000, 2 * RATE).astype(np.int16)
    soundfile.write(tmp_path / "left.wav", left, RATE)
    soundfile.write(tmp_path / "inverted.wav", np.stack([left, -left], 1), RATE)
    heard_scores = []
    for name, noted in (("left.wav", False), ("inverted.wav", True)):
        code, out, err = run_cli("listen", bundle.folder, "--source", tmp_path / name, "--fast", "--hop", "1")
        assert (code, err.count("its channels cancel each other")) == (0, noted)
        heard_scores.append([json.loads(line)["scores"] for line in out.splitlines()])
    assert heard_scores[0] == heard_scores[1]
    assert len(heard_scores[0]) == 2


@pytest.mark.parametrize(("name", "at"), [("a.wav", slice(40, 44)), ("a.flac", slice(22, 26))])
def test_a_recording_of_unknown_length_is_heard_to_its_end(
    name: str, at: slice, scene: SceneClassifier, tmp_path: Path
) -> None:
    soundfile.write(tmp_path / name, np.random.default_rng(0).normal(0, 0.1, 2 * RATE), RATE, "PCM_16")
    content = bytearray((tmp_path / name).read_bytes())
    content[at] = bytes(4)
    (tmp_path / name).write_bytes(content)
    source = FileSource(tmp_path / name, fast=True)
    assert sum(map(len, source.blocks())) == 2 * RATE
    assert "its header gives no length: 2.00 s are there" in source.name


# What cannot be heard


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("--source", "nothing.wav"), "nothing.wav: no such file"),
        (("--source", __file__), "not an audio file"),
        (("--source", "WAV", "--input", "3"), "choose one"),
        (("--fast",), "--source FILE"),
        (("--source", "WAV", "--hop", "0"), "a hop of 0.0 seconds"),
        (("--source", "WAV", "--hop", "1.5"), "a hop of 1.5 seconds"),
    ],
)
def test_what_cannot_be_heard_is_said_in_one_line(
    arguments: tuple[str, ...], told: str, bundle: Bundle, wav: Path, run_cli: RunCli
) -> None:
    code, out, err = run_cli("listen", bundle.folder, *(str(wav) if each == "WAV" else each for each in arguments))
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert told in err


def test_a_missing_sounddevice_is_said_with_its_extra(
    bundle: Bundle, run_cli: RunCli, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "sounddevice", None)
    code, out, err = run_cli("listen", bundle.folder)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert "[listen]'" in err


def test_a_missing_portaudio_is_said_with_its_package(
    bundle: Bundle, tmp_path: Path, run_cli: RunCli, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "sounddevice.py").write_text("raise OSError('PortAudio library not found')")  # as the real one does
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "sounddevice", raising=False)
    code, _, err = run_cli("listen", bundle.folder)
    assert (code, err.count("\n")) == (2, 1)
    assert "libportaudio2" in err


def test_a_machine_without_a_microphone_is_told_so(bundle: Bundle, card: dict[str, str], tmp_path: Path) -> None:
    (tmp_path / "none.conf").write_text("pcm.!default { type hw card 31 }\nctl.!default { type hw card 31 }\n")
    process = tinyscene("listen", bundle.folder, env=card | {"ALSA_CONFIG_PATH": str(tmp_path / "none.conf")})
    out, err = process.communicate()
    assert (process.returncode, out, err.count("\n")) == (2, "", 1)
    assert "plug in a microphone" in err


# A sound card


def test_the_card_is_heard_sample_by_sample_and_what_does_not_fit_is_counted(card: dict[str, str], wav: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", CARD, "microphone"], env=card, capture_output=True, text=True, check=True
    )
    name, lost, waiting, taken = json.loads(done.stdout)
    assert name == "microphone, 44,100 Hz"
    assert np.array_equal(taken, soundfile.read(wav, dtype="int16")[0][: 2 * RATE, 0])
    assert lost > 0
    assert waiting <= 40


def test_a_card_is_let_go_wherever_ctrl_c_comes(card: dict[str, str]) -> None:
    command = [sys.executable, "-c", INTERRUPTED, "microphone"]
    done = subprocess.run(command, env=card, capture_output=True, text=True, timeout=60, check=True)
    assert (done.stdout, done.stderr) == ("200\n", "")


def test_an_unknown_card_is_said_with_those_that_are_there(bundle: Bundle, card: dict[str, str]) -> None:
    process = tinyscene("listen", bundle.folder, "--input", "USB", env=card)
    out, err = process.communicate()
    assert (process.returncode, out, err.count("\n")) == (2, "", 1)
    assert "1 (microphone)" in err


def test_a_card_is_heard_until_ctrl_c_and_says_what_was_lost(bundle: Bundle, card: dict[str, str]) -> None:
    process = tinyscene("listen", bundle.folder, "--runner", "litert", "--json", env=card)
    assert process.stdout is not None
    lines = [json.loads(process.stdout.readline()) for _ in range(9)]
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 0
    assert [each["start"] for each in lines] == [hop / 4 for hop in range(9)]
    assert lines[-1]["lost_samples"] > 0
    assert "samples lost" in err
    assert "Traceback" not in err


# Leaving


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_recording_cut_short_leaves_with_130_and_gives_the_cursor_back(
    number: signal.Signals, bundle: Bundle, tmp_path: Path
) -> None:
    soundfile.write(tmp_path / "minute.wav", np.zeros(60 * RATE, np.int16), RATE)
    code, shown = on_a_terminal("listen", bundle.folder, "--source", tmp_path / "minute.wav", stop=number)
    assert code == 130
    assert shown.rindex("\x1b[?25h") > shown.rindex("\x1b[?25l")
    assert "s heard" in shown
    assert "Traceback" not in shown


def test_a_reader_that_has_enough_is_no_error(bundle: Bundle, wav: Path) -> None:
    process = tinyscene(
        "listen", bundle.folder, "--source", wav, "--hop", "0.01", "--fast", "--runner", "litert", "--json"
    )
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.readline()
    process.stdout.close()
    assert process.wait(60) == 0
    assert "rror" not in process.stderr.read()


def on_a_terminal(*arguments: object, stop: signal.Signals | None = None) -> tuple[int, str]:
    """Run the command line on a terminal of 80 by 24; stop it once it has drawn. Exit code and what it wrote."""
    main, terminal = pty.openpty()
    environment = os.environ | {"COLUMNS": "80", "LINES": "24", "TERM": "xterm-256color"}
    settings = {"stdin": terminal, "stdout": terminal, "stderr": terminal, "env": environment, "text": False}
    process, shown = tinyscene(*arguments, **settings), b""
    os.close(terminal)
    while True:
        try:
            part = os.read(main, 65536)
        except OSError:  # how Linux says that nobody is there any more
            break
        shown += part
        if stop and b"Ctrl-C ends" in shown:
            process.send_signal(stop)
            stop = None
    os.close(main)
    return process.wait(60), shown.decode()


# What a terminal shows


def test_a_terminal_is_shown_level_scores_and_cost(bundle: Bundle, wav: Path) -> None:
    code, shown = on_a_terminal("listen", bundle.folder, "--source", wav, "--fast", "--runner", "litert")
    assert code == 0
    assert [label for label in bundle.labels if label not in shown] == []
    for words in ("noise.wav, 44,100 Hz, 2 channels mixed down", "dBFS, peak", "ms for this decision", "every 0.25 s"):
        assert words in shown
    assert "▀" in shown


@pytest.fixture
def listener(scene: SceneClassifier, wav: Path) -> Listener:
    return Listener(scene, FileSource(wav, fast=True), 1.0, "a bundle")


def drawn(listener: Listener, **settings: Any) -> str:
    stream = io.StringIO()
    console = Console(file=stream, force_terminal=True, **{"width": 80, "height": 24, "color_system": None} | settings)
    console.print(picture_of(listener, console))
    return stream.getvalue()


@pytest.mark.parametrize(("width", "height"), [(80, 24), (40, 24), (100, 40), (200, 60)])
def test_the_view_fits_its_terminal(width: int, height: int, listener: Listener) -> None:
    heard(listener)
    lines = drawn(listener, width=width, height=height).splitlines()
    assert max(map(len, lines)) <= width
    assert len(lines) <= height


def test_the_view_before_the_first_decision_says_so(listener: Listener) -> None:
    assert "no decision yet" in drawn(listener)
    listener.hear(np.zeros((100, 2), np.int16))
    assert "silence" in drawn(listener)


def test_what_was_lost_is_never_hidden(listener: Listener) -> None:
    heard(listener)
    assert "LOST" not in drawn(listener)
    listener.sound.lost = 12_345
    assert "12,345 SAMPLES LOST" in drawn(listener)
    assert "12,345 samples lost" in listener.summary


def test_clipping_is_shown(listener: Listener) -> None:
    listener.hear(np.full((100, 1), 32_766, np.int16))
    assert "CLIPPED" not in drawn(listener)
    listener.hear(np.full((1, 1), -32_768, np.int16))
    assert "CLIPPED" in drawn(listener)


@pytest.mark.parametrize("encoding", ["utf-8", "ascii"])
def test_a_tone_is_brightest_where_its_band_is(encoding: str) -> None:
    front_end, lines = FrontEnd(), 16
    tone = np.sin(2 * np.pi * 2000 * np.arange(32_000) / 32_000).astype(np.float32)
    file = io.TextIOWrapper(io.BytesIO(), encoding=encoding)
    console = Console(file=file, force_terminal=True, color_system=None, width=80)
    rows = str(log_mel_picture(tone, front_end, (lines, 60), console)).splitlines()
    mel = 2595 * np.log10(1 + 2000 / 700) / (2595 * np.log10(1 + 16_000 / 700))  # of the whole range
    brightness = ["".join(" .:-=+*#%@" if encoding == "ascii" else " ░▒▓█").index(row[30]) for row in rows]
    assert (len(rows), {len(row) for row in rows}) == (lines, {60})
    assert lines - 1 - int(np.argmax(brightness)) == int(mel * lines)


def test_colours_show_two_bands_a_character(wav: Path, listener: Listener) -> None:
    heard(listener)
    shown = drawn(listener, color_system="truecolor")
    assert shown.count("\x1b[38;2;") > 100
    assert "\x1b[" not in drawn(listener, color_system=None, no_color=True).replace("\x1b[1m", "")

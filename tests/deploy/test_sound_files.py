"""Which files are recordings: what the decoder can read, at any depth, and a count of the rest."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from tinyscene.deploy.bundle.bundle import Bundle
from tinyscene.deploy.common.errors import InputError
from tinyscene.deploy.frontend.audio import Recording
from tinyscene.deploy.frontend.sound_files import SUFFIXES, find_sound_files, recordings_of

RunCli = Callable[..., tuple[int, str, str]]
KINDS: dict[str, dict[str, Any]] = {  # how each format is written, where its ending alone does not say
    ".aif": {"format": "AIFF"},
    ".aifc": {"format": "AIFF"},
    ".nist": {"format": "NIST"},
    ".oga": {"format": "OGG", "subtype": "VORBIS"},
    ".opus": {"format": "OGG", "subtype": "OPUS"},
    ".snd": {"format": "AU"},
    ".sph": {"format": "NIST"},
    ".wave": {"format": "WAV"},
}


def write_sound(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    sound = np.random.default_rng(0).normal(0, 0.1, 48_000)
    soundfile.write(path, sound, 48_000, **KINDS.get(path.suffix, {}))
    return path


def test_the_endings_that_recorders_and_editors_write_are_listed() -> None:
    usual = "aif aifc aiff au caf flac mp3 oga ogg opus rf64 snd w64 wav wave"
    assert {f".{ending}" for ending in usual.split()} <= SUFFIXES


@pytest.mark.parametrize("suffix", sorted(SUFFIXES))
def test_a_file_of_each_listed_ending_is_found_and_decoded(suffix: str, tmp_path: Path) -> None:
    path = write_sound(tmp_path / "deep" / "in" / f"sound{suffix}")
    assert find_sound_files(tmp_path).paths == [path]
    assert len(list(Recording(path, 32_000).clips())) == 1


def test_what_is_not_read_is_counted_by_its_kind(tmp_path: Path) -> None:
    write_sound(tmp_path / "street" / "a.WAV")
    for name in ("b.m4a", "c.m4a", "notes.txt", "LICENSE", "._a.wav", ".DS_Store"):
        (tmp_path / "street" / name).write_bytes(b"x")
    for folder in (".ipynb_checkpoints", "__MACOSX", "$RECYCLE.BIN"):
        (tmp_path / folder / "street").mkdir(parents=True)
        (tmp_path / folder / "street" / "a.wav").write_bytes(b"x")
    found = find_sound_files(tmp_path)
    assert [path.name for path in found.paths] == ["a.WAV"]
    assert found.describe_ignored() == "2 .m4a, 1 .txt, 5 hidden, 1 without an ending"


def test_a_folder_names_the_recordings_in_it(tmp_path: Path) -> None:
    first, second = write_sound(tmp_path / "b" / "1.wav"), write_sound(tmp_path / "a" / "2.flac")
    assert recordings_of([first, tmp_path]) == [first, second, first]


def test_a_folder_without_recordings_says_what_it_holds(tmp_path: Path) -> None:
    (tmp_path / "song.m4a").write_bytes(b"x")
    with pytest.raises(InputError, match=r"holds no recordings \(1 .m4a\)"):
        recordings_of([tmp_path])


@pytest.mark.parametrize("as_json", [False, True])
def test_recordings_that_can_be_read_are_classified_and_the_others_named(
    as_json: bool, bundle: Bundle, run_cli: RunCli, tmp_path: Path
) -> None:
    for name in ("1.wav", "3.wav", "5.wav"):
        write_sound(tmp_path / name)
    for name in ("2.wav", "4.wav"):
        (tmp_path / name).write_bytes(b"version https://example.org/large-files\n")
    code, stdout, stderr = run_cli("classify", bundle.folder, tmp_path, *(["--json"] if as_json else []))
    shown = (
        [Path(row["file"]).name for row in json.loads(stdout)]
        if as_json
        else [Path(line.split(": ")[0]).name for line in stdout.splitlines()]
    )
    assert (code, shown) == (2, ["1.wav", "3.wav", "5.wav"])
    assert [Path(line.split(": ")[1]).name for line in stderr.splitlines()] == ["2.wav", "4.wav"]


@pytest.mark.parametrize("command", ["verify", "inspect"])
def test_what_compares_recordings_uses_those_that_can_be_read(
    command: str, bundle: Bundle, run_cli: RunCli, tmp_path: Path
) -> None:
    write_sound(tmp_path / "good.wav")
    (tmp_path / "bad.wav").write_bytes(b"version https://example.org/large-files\n")
    code, stdout, stderr = run_cli(command, bundle.folder, tmp_path)
    assert (code, bool(stdout)) == (2, True)
    assert "bad.wav: not an audio file" in stderr

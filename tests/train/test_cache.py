"""The waveform cache: what is in it, what is said of each recording, and that nothing half done is ever used."""

import contextlib
import hashlib
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from tests import ROOT
from tinyscene.deploy.common.errors import InputError
from tinyscene.train.data.cache import Clips, in_other_form, prepare
from tinyscene.train.data.datasets import open_dataset
from tinyscene.train.data.training_data import TrainingData

RATE = 32_000
NOISE = np.random.default_rng(0).normal(0, 0.1, (48_000, 2))
DAMAGE: dict[str, Callable[[Path], object]] = {  # what is said of a recording to which this is done
    "left out: no such file": Path.unlink,
    "left out: not an audio file": lambda path: path.write_text("this is not sound\n" * 100),
    "left out: the file is empty": lambda path: path.write_bytes(b""),
    "left out: damaged: holds NaN": lambda path: soundfile.write(path, NOISE * np.nan, 44_100, "FLOAT"),
    "truncated: 0.": lambda path: os.truncate(path, 60_000),
    "resampled from 48000 Hz, unlike most (44100 Hz)": lambda path: soundfile.write(path, NOISE[:, 0], 48_000),
    "2 channels mixed down": lambda path: soundfile.write(path, NOISE[:44_100], 44_100),
    "clipped at full scale": lambda path: soundfile.write(path, 20 * NOISE[:44_100, 0], 44_100, "FLOAT"),
    "digital silence throughout": lambda path: soundfile.write(path, np.zeros(44_100), 44_100),
}
HASHED = ("path", "label", "device", "clips", "sha256")  # of each recording, in an index's hash of itself
CHANGES: dict[str, tuple[str, Callable[[bytes], bytes]]] = {
    "sample": ("audio/a.wav", lambda content: content[:-2] + bytes([content[-2] ^ 1, content[-1]])),
    "label": ("meta.csv", lambda content: content.replace(b"tram", b"park")),
    "device": ("meta.csv", lambda content: content.replace(b"s1\n", b"s2\n", 1)),
}


def clips_of(folder: Path, cache: Path) -> Clips:
    return prepare(open_dataset(folder), RATE, cache)


def start(folder: Path, cache: Path) -> subprocess.Popen[str]:
    """Prepare in another process."""
    command = [sys.executable, "-m", "tinyscene", "prepare", str(folder), "--json"]
    environment = {**os.environ, "TINYSCENE_CACHE": str(cache)}
    return subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True)


def held(cache: Path) -> list[Path]:
    """What a folder of caches holds besides its lock."""
    return sorted(path for path in cache.iterdir() if path.name != ".lock")


@pytest.fixture
def damaged(small_dataset: Path) -> dict[str, str]:
    """Damage a recording of the small dataset in each way. Returns what is to be said of each."""
    chosen = dict(zip(DAMAGE, sorted(small_dataset.glob("audio/*-a.wav")), strict=False))
    for note, path in chosen.items():
        DAMAGE[note](path)
    return {f"audio/{path.name}": note for note, path in chosen.items()}


@pytest.fixture
def tiny(tmp_path: Path) -> Path:
    """Three recordings of one second, int16 at the rate of the cache."""
    table = "filename\tscene_label\tidentifier\tsource_label\n"
    (tmp_path / "tiny" / "audio").mkdir(parents=True)
    for name, scene in (("a", "bus"), ("b", "tram"), ("c", "bus")):
        pcm = np.random.default_rng(ord(name)).integers(-32768, 32768, RATE, dtype=np.int16)
        soundfile.write(tmp_path / "tiny" / "audio" / f"{name}.wav", pcm, RATE)
        table += f"audio/{name}.wav\t{scene}\tparis-1\ts1\n"
    (tmp_path / "tiny" / "meta.csv").write_text(table)
    for file, names in (("split5.csv", "ab"), ("test.csv", "c")):
        lines = ["filename", *(f"audio/{name}.wav" for name in names)]
        (tmp_path / "tiny" / file).write_text("\n".join(lines) + "\n")
    return tmp_path / "tiny"


@pytest.fixture(scope="module")
def long(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Recordings enough to be killed among."""
    folder = tmp_path_factory.mktemp("long") / "sounds"
    for number in range(40):
        path = folder / ("hiss", "bruit de la forêt")[number % 2] / f"{number % 5}-{number}.wav"
        path.parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(path, np.random.default_rng(number).normal(0, 0.1, 5 * 44_100), 44_100)
    return folder


@pytest.fixture(scope="module")
def unbroken(long: Path, tmp_path_factory: pytest.TempPathFactory) -> Clips:
    return clips_of(long, tmp_path_factory.mktemp("unbroken"))


@pytest.fixture(scope="module")
def killed(long: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The cache of a build that was killed after its first recordings."""
    cache = Path()
    for _ in range(5):  # more than once only where the build was faster than we
        cache = tmp_path_factory.mktemp("killed")
        with start(long, cache) as process, contextlib.suppress(FileNotFoundError):  # the journal goes with the build
            while process.poll() is None and sum(path.stat().st_size for path in cache.glob("*/journal.jsonl")) < 1000:
                time.sleep(0.002)
            process.kill()
        if held(cache)[0].suffix == ".partial":
            break
    return cache


@pytest.fixture
def partial(killed: Path, tmp_path: Path) -> Path:
    """A copy of the folder that the killed build left."""
    shutil.copytree(killed, tmp_path / "cache")
    return held(tmp_path / "cache")[0]


def test_each_damaged_recording_is_named(damaged: dict[str, str], small_dataset: Path, cache: Path) -> None:
    report: dict[str, Any] = clips_of(small_dataset, cache).report()
    assert {path: text[0][: len(damaged[path])] for path, text in report["notes"].items()} == damaged
    assert report["left_out"] == sum(note.startswith("left out") for note in damaged.values())


def test_the_others_are_as_without_damage(damaged: dict[str, str], small_dataset: Path, sample_clips: Clips) -> None:
    clips = clips_of(small_dataset, sample_clips.folder.parent)
    others = tuple(entry.path for entry in open_dataset(small_dataset).recordings if entry.path not in damaged)
    first = {item.path: item.first_clip for item in sample_clips.recordings}
    assert np.array_equal(clips.pcm[clips.select(others)], sample_clips.pcm[[first[path] for path in others]])


def test_a_clip_has_the_label_and_the_device_that_its_name_says(sample_clips: Clips) -> None:
    names = [Path(sample_clips.recordings[number].path).stem.split("-") for number in sample_clips.recording]
    assert [sample_clips.labels[label] for label in sample_clips.label] == [name[0] for name in names]
    assert sample_clips.recording_devices(np.arange(len(names))).tolist() == [name[-1] for name in names]


def test_int16_at_the_caches_rate_is_kept_bit_for_bit(tiny: Path, tmp_path: Path) -> None:
    clips, files = clips_of(tiny, tmp_path), sorted(tiny.glob("audio/*.wav"))
    assert clips.pcm.tobytes() == b"".join(path.read_bytes()[-2 * RATE :] for path in files)


def test_silent_seconds_are_used_only_where_there_are_no_others(tiny: Path, tmp_path: Path) -> None:
    soundfile.write(tiny / "audio/a.wav", np.repeat(np.array([1000, 0, 2000], np.int16), RATE), RATE)
    soundfile.write(tiny / "audio/b.wav", np.zeros(2 * RATE), RATE)
    clips = clips_of(tiny, tmp_path)
    assert clips.pcm[clips.select(("audio/a.wav",)), 0].tolist() == [1000, 2000]
    assert clips.pcm[clips.select(("audio/b.wav",)), 0].tolist() == [0, 0]


def test_a_second_prepare_writes_nothing(tiny: Path, tmp_path: Path) -> None:
    files = list(clips_of(tiny, tmp_path).folder.iterdir())
    before = [(path.stat().st_ino, path.stat().st_mtime_ns) for path in files]
    clips_of(tiny, tmp_path)
    assert [(path.stat().st_ino, path.stat().st_mtime_ns) for path in files] == before


def test_a_changed_recording_makes_another_cache(tiny: Path, tmp_path: Path) -> None:
    before = clips_of(tiny, tmp_path)
    soundfile.write(tiny / "audio/a.wav", np.full(2 * RATE, 0.25), RATE)
    after = clips_of(tiny, tmp_path)
    assert after.folder != before.folder
    assert (after.pcm[after.select(("audio/a.wav",))] == 0.25 * 2**15).all()


def test_the_data_hash_is_that_of_a_copy_elsewhere(tiny: Path, tmp_path: Path) -> None:
    shutil.copytree(tiny, tmp_path / "elsewhere" / "copy", copy_function=shutil.copyfile)
    assert clips_of(tmp_path / "elsewhere" / "copy", tmp_path).data_hash == clips_of(tiny, tmp_path).data_hash


@pytest.mark.parametrize("change", CHANGES)
def test_the_data_hash_changes_with_one(change: str, tiny: Path, tmp_path: Path) -> None:
    before, (file, change_it) = clips_of(tiny, tmp_path).data_hash, CHANGES[change]
    (tiny / file).write_bytes(change_it((tiny / file).read_bytes()))
    os.utime(tiny / file, (1, 1))
    assert clips_of(tiny, tmp_path).data_hash != before


def test_a_killed_build_leaves_no_folder_but_a_partial_one(killed: Path) -> None:
    assert [path.suffix for path in held(killed)] == [".partial"]


@pytest.mark.parametrize("end", [b"", b"}", b"\xaat"], ids=["whole", "cut in a line", "cut in a letter"])
def test_a_killed_build_goes_on_as_if_unbroken(end: bytes, partial: Path, long: Path, unbroken: Clips) -> None:
    journal = (partial / "journal.jsonl").read_bytes()
    (partial / "journal.jsonl").write_bytes(journal[: journal.rindex(end)])
    clips = clips_of(long, partial.parent)
    assert held(partial.parent) == [clips.folder]
    assert (clips.data_hash, clips.pcm.tobytes()) == (unbroken.data_hash, unbroken.pcm.tobytes())


def test_a_killed_build_decodes_only_what_it_had_not(partial: Path, long: Path) -> None:
    item = json.loads((partial / "journal.jsonl").read_text().splitlines()[0])
    np.memmap(partial / "pcm.i16", np.int16, "r+").reshape(-1, RATE)[item["first_clip"]] = 42  # as no decoder would
    with pytest.raises(InputError, match=f"the clips of {item['path']} are damaged"):  # so it was not written again
        clips_of(long, partial.parent)


def test_a_build_killed_before_it_got_its_name_is_finished(long: Path, unbroken: Clips, tmp_path: Path) -> None:
    shutil.copytree(unbroken.folder, tmp_path / f"{unbroken.folder.name}.partial")
    assert np.array_equal(clips_of(long, tmp_path).pcm, unbroken.pcm)


def test_two_processes_at_once_make_one_cache(long: Path, unbroken: Clips, tmp_path: Path) -> None:
    processes = [start(long, tmp_path) for _ in range(2)]
    assert [json.loads(process.communicate()[0])["data_hash"] for process in processes] == [unbroken.data_hash] * 2
    assert [path.name for path in held(tmp_path)] == [unbroken.folder.name]
    assert np.array_equal(clips_of(long, tmp_path).pcm, unbroken.pcm)


@pytest.mark.parametrize(
    ("file", "old", "new"),
    [("pcm.i16", b"\1", b""), ("index.json", b"{", b"["), ("index.json", b'"label":"bus"', b'"label":"lift"')],
)
def test_a_damaged_cache_is_to_be_removed(file: str, old: bytes, new: bytes, tiny: Path, tmp_path: Path) -> None:
    path = clips_of(tiny, tmp_path).folder / file
    path.write_bytes(path.read_bytes().replace(old, new))
    with pytest.raises(InputError, match=f"^{path.parent}: [^\n]*; remove it and prepare again$"):
        clips_of(tiny, tmp_path)


def edit(change: Callable[[dict[str, Any]], object], folder: Path) -> None:
    """Change the index of a cache, and put the hash right that it has of itself."""
    index = json.loads((folder / "index.json").read_text())
    change(index)
    lines = sorted(" ".join(str(each[key]) for key in HASHED) for each in index["recordings"])
    index["data_hash"] = hashlib.sha256("\n".join(lines).encode()).hexdigest()
    (folder / "index.json").write_text(json.dumps(index))


@pytest.mark.parametrize(
    ("reason", "change"),
    [
        ("of other recordings", lambda index: index.update(sample_rate=1)),
        ("of other recordings", lambda index: index.update(clip_seconds=2.0)),
        ("of other recordings", lambda index: index["recordings"].pop()),
        ("of other recordings", lambda index: index["recordings"][0].update(label="tram")),
        ("places audio/a.wav where others are", lambda index: index["recordings"][0].update(first_clip=-1)),
        ("places audio/b.wav where others are", lambda index: index["recordings"][1].update(first_clip=0)),
        ("places audio/b.wav where others are", lambda index: index["recordings"][1].update(clips=-1)),
        ("silence of audio/a.wav that is not there", lambda index: index["recordings"][0].update(silent=[1])),
        ("silence of audio/a.wav that is not there", lambda index: index["recordings"][0].update(silent=[0, 0])),
        ("more clips than room", lambda index: index.update(total_clips=-1)),
        ("more clips than room", lambda index: index["recordings"][2].update(first_clip=3)),
        ("", lambda index: index.update(total_clips=10**6)),
        ("", lambda index: index.update(total_clips=10**30)),
    ],
)
def test_an_index_whose_numbers_do_not_fit_is_refused(
    reason: str, change: Callable[[dict[str, Any]], object], tiny: Path, tmp_path: Path
) -> None:
    edit(change, clips_of(tiny, tmp_path).folder)
    with pytest.raises(InputError, match=rf"not a cache that can be read \(.*{reason}.*\); remove it and prepare"):
        clips_of(tiny, tmp_path)


def test_a_cache_from_before_clips_had_other_lengths_opens(tiny: Path, tmp_path: Path) -> None:
    folder = clips_of(tiny, tmp_path).folder
    edit(lambda index: index.pop("clip_seconds"), folder)
    opened = clips_of(tiny, tmp_path)
    assert (opened.folder, opened.clip_seconds) == (folder, 1.0)


def test_a_changed_sample_of_a_cache_is_noticed(tiny: Path, tmp_path: Path) -> None:
    folder = clips_of(tiny, tmp_path).folder
    np.memmap(folder / "pcm.i16", np.int16, "r+")[2 * RATE - 1] += 1
    with pytest.raises(InputError, match=r"the clips of audio/b.wav are damaged.*remove it and prepare again$"):
        clips_of(tiny, tmp_path)


@pytest.fixture
def half_missing(small_dataset: Path) -> Path:
    """A dataset of whose training list for split 5 all but one recording are pointers of a store of large files."""
    names = (small_dataset / "evaluation_setup" / "split5.csv").read_text().split()[2::2]
    for name in names[1:]:
        (small_dataset / name).write_text("version https://example.org/spec/v1\noid sha256:0\nsize 64044\n")
    return small_dataset


def test_recordings_that_are_left_out_are_said_by_whoever_uses_the_cache(
    half_missing: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    clips = clips_of(half_missing, tmp_path)
    assert f"{len(clips.left_out)} of {len(clips.recordings)} recordings cannot be used" in capsys.readouterr().err


def test_a_list_more_than_half_of_which_is_missing_is_refused_unless_allowed(
    half_missing: Path, tmp_path: Path
) -> None:
    dataset = open_dataset(half_missing)
    clips = prepare(dataset, RATE, tmp_path)
    listed = dataset.split("5")[0]
    with pytest.raises(InputError, match=f"{len(clips.left_out)} of the {len(listed)} recordings of the list cannot"):
        clips.select(listed)
    allowed = prepare(dataset, RATE, tmp_path, allow_missing=True)
    for form in (allowed, in_other_form(allowed, dataset, RATE // 2, allowed.clip_seconds)):  # a teacher's
        assert len(form.select(listed)) == len(listed) - len(clips.left_out)


def test_a_model_card_counts_what_is_listed_and_what_is_left_out(half_missing: Path, tmp_path: Path) -> None:
    dataset = open_dataset(half_missing)
    data = TrainingData(dataset, prepare(dataset, RATE, tmp_path, allow_missing=True), "5")
    training = data.describe()["training"]
    assert (training["recordings"], training["left_out"]) == (len(dataset.split("5")[0]), len(data.clips.left_out))


def test_a_dataset_of_which_nothing_can_be_used_is_refused_and_leaves_nothing(tiny: Path, tmp_path: Path) -> None:
    for path in tiny.glob("audio/*.wav"):
        path.write_text("version https://git-lfs.github.com/spec/v1\n")
    with pytest.raises(InputError, match="tiny: not one of its 3 recordings can be used"):
        clips_of(tiny, tmp_path / "cache")
    assert held(tmp_path / "cache") == []


def test_a_list_of_which_nothing_can_be_used_is_refused(tiny: Path, tmp_path: Path) -> None:
    (tiny / "audio" / "c.wav").write_bytes(b"")
    clips = clips_of(tiny, tmp_path / "cache")
    with pytest.raises(InputError, match="none of the 1 recordings of the list can be used"):
        clips.select(("audio/c.wav",))

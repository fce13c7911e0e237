"""Datasets: both layouts as they are published, and one line for every list that cannot be used."""

import csv
import functools
import http.server
import os
import re
import shutil
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile

import tinyscene.train.data.split_lists
import tinyscene.train.data.tables
from tinyscene.deploy.common.errors import InputError
from tinyscene.train.data.cache import Clips, prepare
from tinyscene.train.data.datasets import Dataset, open_dataset
from tinyscene.train.data.selection import unlabelled_dataset
from tinyscene.train.data.training_data import TrainingData

HEADER = "filename\tscene_label\tidentifier\tsource_label\n"
META = HEADER + "audio/a.wav\tbus\tparis-1\ta\naudio/b.wav\ttram\tparis-2\ts1\naudio/c.wav\tpark\tparis-3\ts4\n"
LISTS = {f"split{name}.csv": "filename\tscene_label\naudio/a.wav\tbus\naudio/b.wav\ttram\n" for name in (5, 10, 25, 50)}
LISTS |= {"split100.csv": LISTS["split5.csv"], "test.csv": "filename\tscene_label\naudio/c.wav\tpark\n"}
FAULTS = {  # the file, what it holds, and what is said of it
    "column": ("meta.csv", META.replace("scene_label", "label"), "lacks the column 'scene_label'"),
    "commas": ("meta.csv", META.replace("\t", ","), "lacks the column 'filename'"),
    "nothing": ("meta.csv", "", "lacks the column 'filename'"),
    "no row": ("meta.csv", HEADER, "names no recording"),
    "a row twice": ("meta.csv", META + "audio/b.wav\ttram\tparis-2\ts1\n", "twice"),
    "a label of two lines": (
        "meta.csv",
        META + 'audio/d.wav\t"tram\nbus"\ta-1-d\ta\n',
        "line 6: scene_label has characters",
    ),
    "a short row": ("meta.csv", META + "audio/d.wav\ttram\n", "line 5: identifier is empty"),
    "a long field": ("meta.csv", META + 200_000 * "d" + "\ttram\tparis-2\ts1\n", "cannot be read"),
    "an absolute path": ("meta.csv", META.replace("audio/b", "/etc/b"), "line 3: '/etc/b.wav' leads out"),
    "a path upwards": ("meta.csv", META.replace("audio/b", "x/../../b"), "line 3: 'x/../../b.wav' leads out"),
    "no name": ("test.csv", "file\naudio/a.wav\n", "lacks the column 'filename'"),
    "unknown name": ("test.csv", "filename\naudio/a.wav\naudio/z.wav\n", "line 3: 'audio/z.wav' is not in meta.csv"),
    "in both lists": ("split5.csv", "filename\naudio/a.wav\naudio/c.wav\n", "'audio/c.wav' is in the test list too"),
    "no test": ("test.csv", "filename\n", "names no recording"),
}
NOWHERE = "http://127.0.0.1:9/"  # the discard port, where nothing listens


def write(folder: Path, files: dict[str, str]) -> Path:
    folder.mkdir(exist_ok=True)
    for name, text in files.items():
        (folder / name).write_text(text)
    return folder


@pytest.fixture
def tau(tmp_path: Path) -> Path:
    """A dataset of three recordings without its lists."""
    return write(tmp_path / "tau", {"meta.csv": META})


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Downloads lead nowhere and start from an empty cache."""
    monkeypatch.setattr(tinyscene.train.data.split_lists, "TAU_SPLITS_URL", NOWHERE)
    monkeypatch.setenv("TINYSCENE_CACHE", str(tmp_path / "downloads"))
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")


@pytest.fixture
def server(no_network: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Path]:
    """The folder that a server on this machine offers in the publisher's place."""
    offered = write(tmp_path / "offered", LISTS)
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=str(offered))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as running:
        threading.Thread(target=running.serve_forever, args=(0.01,), daemon=True).start()
        monkeypatch.setattr(
            tinyscene.train.data.split_lists, "TAU_SPLITS_URL", f"http://127.0.0.1:{running.server_port}/"
        )
        yield offered
        running.shutdown()


def refusal(root: Path, splits: str | Path | None = None, **options: str) -> str:
    with pytest.raises(InputError) as caught:
        open_dataset(root, splits, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def rows(path: Path) -> list[list[str]]:
    return list(csv.reader(path.read_text().splitlines(), delimiter="\t"))[1:]


def make_wavs(root: Path, *names: str) -> Path:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(root / name, np.zeros(100), 8_000)
    return root


def test_every_row_of_the_table_is_an_entry(sample: Path, sample_dataset: Dataset) -> None:
    entries = [[entry.path, entry.label, entry.device] for entry in sample_dataset.recordings]
    assert entries == [[name, scene, device] for name, scene, _, device in rows(sample / "meta.csv")]


def test_the_labels_are_the_ten_scenes_in_alphabetical_order(sample: Path, sample_dataset: Dataset) -> None:
    assert list(sample_dataset.labels) == sorted({row[1] for row in rows(sample / "meta.csv")})


def test_a_split_is_its_list_and_the_test_list(sample: Path, sample_dataset: Dataset) -> None:
    for name in ("5", "10", "25", "50", "100"):
        files = [sample / "evaluation_setup" / file for file in (f"split{name}.csv", "test.csv")]
        assert [list(paths) for paths in sample_dataset.splits[name]] == [
            [row[0] for row in rows(file)] for file in files
        ]


def test_the_real_splits_have_the_sizes_of_their_lists(tau_mini: Path) -> None:
    sizes = {name: (len(training), len(test)) for name, (training, test) in open_dataset(tau_mini).splits.items()}
    assert sizes == {"5": (100, 1088), "10": (200, 1088), "25": (400, 1088), "50": (500, 1088), "100": (930, 1088)}


def test_no_real_location_is_in_training_and_test(tau_mini: Path) -> None:
    place = {name: (scene, location) for name, scene, location, _ in rows(tau_mini / "meta.csv")}
    training, test = open_dataset(tau_mini).split("100")
    assert not {place[name] for name in training} & {place[name] for name in test}


@pytest.mark.parametrize("folder", [".", "evaluation_setup"])
def test_lists_are_found_in_the_dataset(folder: str, tau: Path, no_network: None) -> None:
    write(tau / folder, LISTS)
    assert open_dataset(tau).split("5") == (("audio/a.wav", "audio/b.wav"), ("audio/c.wav",))


def test_a_named_folder_goes_before_the_datasets_own_lists(tau: Path, tmp_path: Path) -> None:
    write(tau / "evaluation_setup", LISTS)
    write(tmp_path / "mine", {"split5.csv": "filename\naudio/c.wav\n", "test.csv": "filename\naudio/b.wav\n"})
    assert open_dataset(tau, tmp_path / "mine").split("5") == (("audio/c.wav",), ("audio/b.wav",))


def test_lists_are_downloaded_once(tau: Path, server: Path) -> None:
    assert set(open_dataset(tau).splits) == {"5", "10", "25", "50", "100"}
    shutil.rmtree(server)
    assert open_dataset(tau).split("5")[1] == ("audio/c.wav",)


def test_a_list_that_has_changed_since_it_was_downloaded_is_not_used(tau: Path, server: Path, tmp_path: Path) -> None:
    open_dataset(tau)
    (kept,) = (tmp_path / "downloads").rglob("test.csv")
    original = kept.read_text()
    kept.write_text(original.replace("audio/c.wav", "audio/b.wav"))
    assert open_dataset(tau).split("5")[1] == ("audio/c.wav",)  # fetched anew
    (server / "test.csv").write_text("filename\naudio/b.wav\n")
    kept.write_text("filename\naudio/b.wav\n")
    assert "cannot be downloaded" in refusal(tau)


def test_a_list_larger_than_any_is_not_downloaded(
    tau: Path, server: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(tinyscene.train.data.split_lists, "MAX_TABLE", 60)
    (tau / "meta.csv").write_text("\n".join(META.splitlines()[:2]))
    (server / "split5.csv").write_bytes(b"x" * 61)
    with pytest.raises(InputError):
        open_dataset(tau)
    assert not list((tmp_path / "downloads").rglob("split5.csv"))


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no named pipes")
@pytest.mark.parametrize("name", ["meta.csv", "split5.csv"])
def test_a_named_pipe_is_not_waited_for(name: str, tau: Path) -> None:
    write(tau, LISTS)
    (tau / name).unlink()
    os.mkfifo(tau / name)
    assert refusal(tau) == f"{tau / name}: not a file but a pipe"


@pytest.mark.parametrize(("column", "length"), [(3, 65), (2, 65), (0, 1_001)])
def test_a_field_longer_than_any_name_is_refused_with_its_line(column: int, length: int, tau: Path) -> None:
    fields = ["audio/d.wav", "airport", "paris-4", "a"]
    fields[column] = "x" * length
    write(tau, {"meta.csv": META + "\t".join(fields) + "\n"})
    assert re.search(rf"meta\.csv line 5: \w+ has more than {length - 1} characters", refusal(tau))


def test_more_rows_than_any_dataset_has_are_refused(tau: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tinyscene.train.data.tables, "MAX_ROWS", 2)
    assert "meta.csv: has more than 2 rows" in refusal(tau)


def test_without_a_network_one_line_names_the_option_that_helps(tau: Path, no_network: None) -> None:
    assert re.search(rf"{NOWHERE}.* --splits", refusal(tau))


def test_a_list_that_the_server_lacks_is_a_failed_download(tau: Path, server: Path) -> None:
    (server / "split50.csv").unlink()
    assert "--splits" in refusal(tau)


def test_an_unknown_split_is_answered_with_the_known_ones(sample_dataset: Dataset) -> None:
    with pytest.raises(InputError, match=r"'7'.* 5, 10, 25, 50, 100, all "):
        sample_dataset.split("7")


@pytest.mark.parametrize("fault", FAULTS)
def test_a_list_that_cannot_be_used_is_named_with_its_fault(fault: str, tau: Path) -> None:
    file, text, reason = FAULTS[fault]
    write(tau, {**LISTS, file: text})
    assert re.search(f"^{re.escape(str(tau / file))}.*{re.escape(reason)}", refusal(tau))


def test_a_folder_without_a_test_list_is_not_one_of_splits(tau: Path, tmp_path: Path) -> None:
    assert f"{tmp_path}: holds no test.csv" in refusal(tau, tmp_path)


def test_blank_lines_are_counted_where_a_line_is_named(tau: Path) -> None:
    write(tau, {"meta.csv": META + "\n\n\naudio/d.wav\ttram\n"})
    assert "meta.csv line 8: identifier is empty" in refusal(tau)


def test_the_folders_of_sounds_are_the_labels(tmp_path: Path) -> None:
    sounds = ["rain/1-a.wav", "dog bark/2-b.WAV", "rain/2-c.wav", "dog bark/1-d.wav"]
    make_wavs(tmp_path, *sounds, "3-loose.wav")
    (tmp_path / "rain" / "1-notes.txt").write_text("not a sound")
    labels = {entry.path: entry.label for entry in open_dataset(tmp_path).recordings}
    assert labels == {path: path.split("/")[0] for path in sounds}


@pytest.mark.parametrize(("pattern", "folds"), [("^([0-9]+)-", [1, 2, 10]), ("take([0-9])", [3, 4])])
def test_a_fold_is_what_the_pattern_finds_in_the_name(pattern: str, folds: list[int], tmp_path: Path) -> None:
    make_wavs(tmp_path, "a/1-take3.wav", "a/10-take4.wav", "b/2-take4.wav", "b/1-take4.wav")
    dataset = open_dataset(tmp_path, fold_pattern=pattern)
    assert list(dataset.splits) == [f"fold{fold}" for fold in folds]
    everything = {entry.path for entry in dataset.recordings}
    for fold, (training, test) in dataset.splits.items():
        assert set(test) == {path for path in everything if re.search(rf"/{fold[4:]}-|take{fold[4:]}", path)}
        assert set(training) == everything - set(test)


def test_names_without_a_fold_are_spread_over_five_and_stay_there(tmp_path: Path) -> None:
    names = [f"{label}/sound {number}.wav" for label in "ab" for number in range(30)]
    before = open_dataset(make_wavs(tmp_path, *names)).splits
    assert list(before) == [f"fold{number}" for number in range(1, 6)]
    assert sorted(path for _, test in before.values() for path in test) == sorted(names)
    after = open_dataset(make_wavs(tmp_path, "a/another.wav")).splits
    assert all(set(test) <= set(after[fold][1]) for fold, (_, test) in before.items())


def test_a_group_that_takes_no_part_is_as_no_match(tmp_path: Path) -> None:
    make_wavs(tmp_path, *(f"{label}/sound {number}.wav" for label in "ab" for number in range(9)))
    assert open_dataset(tmp_path, fold_pattern="^([0-9])?").splits == open_dataset(tmp_path).splits


@pytest.mark.parametrize("pattern", ["(", "[0-9]+-", r"\.(wav)$"], ids=["not one", "no group", "one fold"])
def test_a_pattern_that_makes_no_folds_is_named(pattern: str, tmp_path: Path) -> None:
    make_wavs(tmp_path, "a/1-x.wav", "b/2-x.wav")
    assert f"--fold-pattern {pattern}" in refusal(tmp_path, fold_pattern=pattern)


@pytest.mark.parametrize(("names", "found"), [(["a/1-x.wav", "a/2-x.wav"], "1 class"), ([], "no recordings")])
def test_fewer_than_two_classes_are_no_dataset(names: list[str], found: str, tmp_path: Path) -> None:
    assert found in refusal(make_wavs(tmp_path, *names))


def test_the_real_esc10_has_ten_labels_and_five_folds_of_eighty(esc10: Path) -> None:
    dataset = open_dataset(esc10)
    label = {entry.path: entry.label for entry in dataset.recordings}
    assert (len(dataset.labels), len(dataset.splits)) == (10, 5)
    for _, test in dataset.splits.values():
        assert Counter(label[path] for path in test) == dict.fromkeys(dataset.labels, 8)


def test_folders_in_the_folder_of_a_class_and_all_formats_belong_to_it(tmp_path: Path) -> None:
    make_wavs(tmp_path, "rain/day/1-a.wav", "rain/night/2-b.flac", "dog/1-c.aiff", "dog/2-d.ogg")
    labels = {recording.path: recording.label for recording in open_dataset(tmp_path).recordings}
    assert labels == {
        "rain/day/1-a.wav": "rain",
        "rain/night/2-b.flac": "rain",
        "dog/1-c.aiff": "dog",
        "dog/2-d.ogg": "dog",
    }


def test_hidden_folders_and_files_are_no_classes_and_no_recordings_but_counted(tmp_path: Path) -> None:
    make_wavs(
        tmp_path, "rain/1-a.wav", "dog/2-b.wav", ".ipynb_checkpoints/1-a.wav", "__MACOSX/1-a.wav", "3-c.wav", "4-d.wav"
    )
    (tmp_path / "rain" / "._1-a.wav").write_bytes(b"x")
    (tmp_path / "rain" / "song.m4a").write_bytes(b"x")
    (tmp_path / "cat").mkdir()
    dataset = open_dataset(tmp_path)
    assert (dataset.labels, len(dataset.recordings)) == (("dog", "rain"), 2)
    assert (
        dataset.ignored == "1 .m4a, 1 hidden, 2 recordings outside the folders of classes, 1 folder without recordings"
    )


@pytest.mark.parametrize("name", ["{0}__987654_hall.wav", "202611{0:02}-120000.wav"], ids=["identifiers", "times"])
def test_a_fold_for_nearly_every_file_is_refused_with_a_hint(name: str, tmp_path: Path) -> None:
    make_wavs(tmp_path, *(f"{label}/{name.format(number)}" for label in "ab" for number in range(30)))
    assert "--fold-pattern hash" in refusal(tmp_path, fold_pattern=r"^([0-9]+)[-_]")
    assert len(open_dataset(tmp_path, fold_pattern="hash").splits) == 5


@pytest.mark.skipif(sys.platform in ("darwin", "win32"), reason="names are Unicode here")
def test_a_name_that_cannot_be_written_down_leaves_its_recording_out_and_no_other(tmp_path: Path) -> None:
    root = make_wavs(tmp_path / "own", "dog/1-a.wav", "dog/2-b.wav", "rain/1-c.wav", "rain/2-d.wav")
    shutil.copy(root / "dog" / "1-a.wav", os.fsdecode(bytes(root) + b"/dog/caf\xe9.wav"))
    shutil.copy(root / "dog" / "1-a.wav", root / "dog" / "two\nlines.wav")
    clips = prepare(open_dataset(root), 8_000, tmp_path / "cache")
    assert clips.left_out == {r"dog/caf\udce9.wav", r"dog/two\nlines.wav"}
    (note,) = (item.notes for item in clips.recordings if item.path == r"dog/caf\udce9.wav")
    assert note == ("left out: its name cannot be written down; rename it",)
    assert len(clips.recordings) == 6


@pytest.mark.skipif(sys.platform in ("darwin", "win32"), reason="names are Unicode here")
def test_a_name_that_cannot_be_written_down_is_left_out_of_a_folder_without_classes(tmp_path: Path) -> None:
    root = make_wavs(tmp_path / "own", "a.wav")
    shutil.copy(root / "a.wav", os.fsdecode(bytes(root) + b"/caf\xe9.wav"))
    assert prepare(unlabelled_dataset(root), 8_000, tmp_path / "cache").left_out == {r"caf\udce9.wav"}


def test_the_split_all_trains_on_everything(sample_dataset: Dataset) -> None:
    training, test = sample_dataset.split("all")
    assert (set(training), test) == ({recording.path for recording in sample_dataset.recordings}, ())


def test_a_list_that_contradicts_meta_csv_is_named_with_its_line(tau: Path) -> None:
    write(tau, LISTS | {"split25.csv": "filename\tscene_label\naudio/a.wav\tbus\naudio/b.wav\tmetro\n"})
    assert "split25.csv line 3: 'audio/b.wav' is 'metro' here, but 'tram' in meta.csv" in refusal(tau)


@pytest.mark.parametrize(
    ("scenes", "lines"),
    [
        (["bus", "tram"], ["no training clips of airport", "only 2 training clips for 10 classes"]),
        (None, []),
    ],
    ids=["two clips", "all"],
)
def test_a_training_list_that_cannot_teach_every_class_is_said(
    scenes: list[str] | None, lines: list[str], sample_dataset: Dataset, sample_clips: Clips
) -> None:
    paths = sample_dataset.split("100")[0]
    if scenes:
        paths = tuple(next(path for path in paths if f"/{scene}-" in path) for scene in scenes)
    dataset = replace(sample_dataset, splits={"100": (paths, sample_dataset.split("100")[1])})
    said = TrainingData(dataset, sample_clips, "100").check()
    assert [begin in line for begin, line in zip(lines, said, strict=True)] == [True] * len(lines)


def test_a_training_list_of_one_class_is_refused(sample_dataset: Dataset, sample_clips: Clips) -> None:
    buses = tuple(path for path in sample_dataset.split("100")[0] if "/bus-" in path)
    dataset = replace(sample_dataset, splits={"100": (buses, sample_dataset.split("100")[1])})
    with pytest.raises(InputError, match="clips of one class only"):
        TrainingData(dataset, sample_clips, "100").check()

"""The synthetic dataset: TAU's layout and rules, the same bytes from the same seed, and honest about itself."""

import csv
import wave
from collections import defaultdict
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

import tinyscene.train.data.sample
from tinyscene.deploy.common.errors import InputError
from tinyscene.train.data.sample import write_sample

SPLITS = ("split5", "split10", "split25", "split50", "split100")
TRAINING_DEVICES = {"a", "s1", "s2", "s3"}


def table(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as handle:
        return list(csv.DictReader(handle, delimiter="\t"))


def listed(sample: Path, name: str) -> set[str]:
    return {row["filename"] for row in table(sample / "evaluation_setup" / f"{name}.csv")}


def samples(path: Path) -> NDArray[np.int16]:
    with wave.open(str(path), "rb") as handle:
        assert (handle.getnchannels(), handle.getsampwidth(), handle.getframerate()) == (1, 2, 44_100)
        return np.frombuffer(handle.readframes(handle.getnframes()), "<i2")


def spectrum(path: Path) -> NDArray[np.float64]:
    """Log power (band,) of a recording, level removed."""
    power = np.abs(np.fft.rfft(samples(path) / 32768.0)) ** 2
    bands = np.log([part.mean() for part in np.split(power, np.geomspace(20, 20_000, 40).astype(int))])
    return bands - bands.mean()


@pytest.fixture
def little(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two scenes, one second a location: enough to compare."""
    monkeypatch.setattr(tinyscene.train.data.sample, "SCENES", ("metro", "park"))
    monkeypatch.setattr(tinyscene.train.data.sample, "SEGMENTS", 1)


def content(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_the_table_has_taus_columns_and_every_recording(sample: Path) -> None:
    rows = table(sample / "meta.csv")
    assert list(rows[0]) == ["filename", "scene_label", "identifier", "source_label"]
    assert sorted(row["filename"] for row in rows) == sorted(f"audio/{path.name}" for path in sample.glob("audio/*"))


def test_each_list_says_the_scene_that_the_table_says(sample: Path) -> None:
    scene = {row["filename"]: row["scene_label"] for row in table(sample / "meta.csv")}
    for name in (*SPLITS, "test"):
        rows = table(sample / "evaluation_setup" / f"{name}.csv")
        assert rows
        assert all(row == {"filename": row["filename"], "scene_label": scene[row["filename"]]} for row in rows)


def test_the_lists_have_all_ten_scenes_in_equal_parts(sample: Path) -> None:
    for name in (*SPLITS, "test"):
        scenes = [row["scene_label"] for row in table(sample / "evaluation_setup" / f"{name}.csv")]
        assert len(set(scenes)) == 10
        assert {scenes.count(scene) for scene in scenes} == {len(scenes) / 10}


def test_the_training_lists_are_nested_and_disjoint_from_the_test(sample: Path) -> None:
    lists = [listed(sample, name) for name in SPLITS]
    assert all(small <= large for small, large in pairwise(lists))
    assert not lists[-1] & listed(sample, "test")


def test_every_recording_is_in_a_list(sample: Path) -> None:
    assert listed(sample, "split100") | listed(sample, "test") == {
        row["filename"] for row in table(sample / "meta.csv")
    }


def test_devices_s4_to_s6_are_in_the_test_only(sample: Path) -> None:
    device = {row["filename"]: row["source_label"] for row in table(sample / "meta.csv")}
    assert {device[name] for name in listed(sample, "split100")} == TRAINING_DEVICES
    assert {device[name] for name in listed(sample, "test")} == TRAINING_DEVICES | {"s4", "s5", "s6"}


def test_no_location_is_in_training_and_test(sample: Path) -> None:
    place = {row["filename"]: (row["scene_label"], row["identifier"]) for row in table(sample / "meta.csv")}
    training, test = ({place[name] for name in listed(sample, part)} for part in ("split100", "test"))
    assert not training & test


def test_a_recording_is_one_second_of_mono_int16_that_is_neither_silent_nor_clipped(sample: Path) -> None:
    for path in sorted(sample.glob("audio/*"))[::20]:
        pcm = samples(path).astype(int)
        assert len(pcm) == 44_100
        assert 300 < np.abs(pcm).max() < 32_767


def test_no_two_recordings_are_the_same(sample: Path) -> None:
    paths = list(sample.glob("audio/*"))
    assert len({path.read_bytes() for path in paths}) == len(paths)


def test_the_scenes_can_be_told_apart_at_locations_never_heard(sample: Path) -> None:
    rows = {row["filename"]: row for row in table(sample / "meta.csv") if row["source_label"] == "a"}
    heard = defaultdict(list)
    for name in listed(sample, "split100") & rows.keys():
        heard[rows[name]["scene_label"]].append(spectrum(sample / name))
    centre = {scene: np.mean(spectra, axis=0) for scene, spectra in heard.items()}
    test = listed(sample, "test") & rows.keys()
    right = [
        min(centre, key=lambda scene: float(np.linalg.norm(centre[scene] - spectrum(sample / name))))
        == rows[name]["scene_label"]
        for name in test
    ]
    assert np.mean(right) > 0.5  # chance is 0.1


def test_a_device_colours_what_device_a_hears(sample: Path) -> None:
    heard = [spectrum(sample / f"audio/park-synthetic-5-5-0-{device}.wav") for device in ("a", "s1", "s4")]
    assert all(np.abs(other - heard[0]).max() > 0.5 for other in heard[1:])


def test_it_says_that_it_is_synthetic(sample: Path) -> None:
    assert "synthetic" in (sample / "README.txt").read_text().lower()
    assert all("synthetic" in row["identifier"] for row in table(sample / "meta.csv"))


def test_a_seed_gives_the_same_bytes_twice(little: None, tmp_path: Path) -> None:
    for name in ("once", "again"):
        write_sample(tmp_path / name, seed=3)
    assert content(tmp_path / "once") == content(tmp_path / "again")


def test_another_seed_gives_other_sounds(little: None, tmp_path: Path) -> None:
    for seed in (0, 1):
        write_sample(tmp_path / str(seed), seed)
    one, other = content(tmp_path / "0"), content(tmp_path / "1")
    assert one.keys() == other.keys()
    assert not [name for name in one if name.endswith(".wav") and one[name] == other[name]]


def test_the_counts_that_come_back_are_those_of_the_lists(little: None, tmp_path: Path) -> None:
    counts = write_sample(tmp_path / "sample")
    assert counts == {name.removeprefix("split"): len(listed(tmp_path / "sample", name)) for name in (*SPLITS, "test")}


def test_a_folder_that_is_not_empty_is_refused_and_kept(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("keep")
    with pytest.raises(InputError, match=f"^{tmp_path}: already exists and is not empty"):
        write_sample(tmp_path)
    assert content(tmp_path) == {"mine.txt": b"keep"}


def test_a_file_in_the_folders_place_is_refused_and_kept(tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("keep")
    with pytest.raises(InputError, match="already exists"):
        write_sample(tmp_path / "mine")
    assert (tmp_path / "mine").read_text() == "keep"


def test_an_empty_folder_is_used(little: None, tmp_path: Path) -> None:
    write_sample(tmp_path)
    assert (tmp_path / "meta.csv").is_file()

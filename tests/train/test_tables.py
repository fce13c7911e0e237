"""Tables with labels, split lists and recording devices of their own."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile

from tinyscene.deploy.common.errors import InputError
from tinyscene.train.data.datasets import SCENES, open_dataset
from tinyscene.train.runs.evaluate import score
from tinyscene.train.sweep.begin import begin
from tinyscene.train.sweep.job import Source

LABELS = ("cat", "dog", "rain")
RATE = 8_000
QUICK = [
    *("--set", "train.epochs=1", "--set", "train.batch_size=8", "--set", "augment.dir_p=0"),
    *("--set", "features.sample_rate=8000", "--set", "features.n_mels=40"),
    *("--set", "features.n_fft=512", "--set", "features.win_length=400", "--set", "features.hop_length=200"),
]


def recordings() -> list[tuple[str, str, str, str]]:
    """Rows of `meta.csv`: for each label six recordings, of two phones and, the last two, of a third."""
    devices = ("nokia", "pixel", "nokia", "pixel", "laptop", "laptop")
    return [
        (f"audio/{label}-{number}.wav", label, f"{label}{number}", device)
        for label in LABELS
        for number, device in enumerate(devices)
    ]


def write_table(path: Path, rows: list[tuple[str, ...]], columns: str) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_text("".join("\t".join(row) + "\n" for row in [tuple(columns.split()), *rows]))


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two folds: the last recordings are tested, or the first; splits `few` (one each) and `100` of the others."""
    root, rng = tmp_path_factory.mktemp("data") / "sounds", np.random.default_rng(0)
    rows = recordings()
    write_table(root / "meta.csv", rows, "filename scene_label identifier source_label")
    for fold, tested in ((1, (4, 5)), (2, (0, 1))):
        number = {row[0]: int(row[0][-5]) for row in rows}
        lists = {
            "test": [row[:2] for row in rows if number[row[0]] in tested],
            "split100": [row[:2] for row in rows if number[row[0]] not in tested],
            "splitfew": [row[:2] for row in rows if number[row[0]] == 2],
        }
        for name, members in lists.items():
            write_table(root / f"fold{fold}" / f"{name}.csv", members, "filename scene_label")
    (root / "audio").mkdir()
    for name, *_ in rows:
        soundfile.write(root / name, rng.normal(0, 0.1, RATE), RATE)
    return root


def names(paths: tuple[str, ...]) -> set[str]:
    return {path.removeprefix("audio/").removesuffix(".wav") for path in paths}


def test_the_labels_are_those_of_the_table(table: Path) -> None:
    dataset = open_dataset(table)
    assert (dataset.labels, dataset.layout) == (LABELS, "table")


def test_a_table_of_some_of_taus_scenes_has_taus_labels(tmp_path: Path) -> None:
    rows = [(f"{scene}.wav", scene, "lyon", "a") for scene in ("bus", "tram")]
    write_table(tmp_path / "meta.csv", rows, "filename scene_label identifier source_label")
    write_table(tmp_path / "split5.csv", [("bus.wav",)], "filename")
    write_table(tmp_path / "test.csv", [("tram.wav",)], "filename")
    assert open_dataset(tmp_path).labels == SCENES


@pytest.mark.parametrize("named", ["fold1", "sounds/fold1"])
def test_lists_are_named_by_their_folder_in_the_dataset(named: str, table: Path) -> None:
    training, test = open_dataset(table, named).split("few")
    assert names(training) == {"cat-2", "dog-2", "rain-2"}
    assert names(test) == {f"{label}-{number}" for label in LABELS for number in (4, 5)}


def test_without_a_name_the_splits_of_all_folds_are_there(table: Path) -> None:
    dataset = open_dataset(table)
    assert list(dataset.splits) == ["fold1-100", "fold1-few", "fold2-100", "fold2-few"]
    assert dataset.split("fold2-100") == open_dataset(table, "fold2").split("100")
    assert dataset.default_split == "fold1-100"


def test_a_folder_that_holds_no_lists_is_refused_with_its_name(table: Path) -> None:
    with pytest.raises(InputError, match=r"fold9: holds no test\.csv.*--splits"):
        open_dataset(table, "fold9")


def test_a_table_without_lists_is_not_taken_for_tau(tmp_path: Path) -> None:
    write_table(tmp_path / "meta.csv", recordings(), "filename scene_label identifier source_label")
    with pytest.raises(InputError, match=r"has no test\.csv.*--splits$"):
        open_dataset(tmp_path)


def test_devices_of_its_own_are_grouped_by_whether_they_are_in_the_training_list(table: Path) -> None:
    groups = open_dataset(table).device_groups("fold1-100")
    assert groups == {"seen": ("nokia", "pixel"), "unseen": ("laptop",)}
    devices, truth = np.array(["nokia", "laptop"]), np.array([0, 1])
    evaluation = score(np.eye(3)[[0, 2]], truth, devices, LABELS, groups)
    assert {name: part.accuracy for name, part in evaluation.by_device_group.items()} == {"seen": 1, "unseen": 0}


def test_such_a_table_is_trained_on_and_evaluated(
    table: Path, tmp_path: Path, run_cli: Callable[..., tuple[int, str, str]]
) -> None:
    data = ("--data", table, "--splits", "fold1")
    code, _, err = run_cli("train", "nano", *data, "--split", "few", "--out", tmp_path / "run", *QUICK, "--json")
    assert code == 0, err
    code, out, err = run_cli("evaluate", tmp_path / "run", *data, "--json")
    assert code == 0, err
    result = json.loads(out)
    assert (result["clips"], set(result["by_class"]), result["split"]) == (6, set(LABELS), "few")
    assert set(result["by_device"]) == {"laptop"}
    assert set(result["by_device_group"]) == {"unseen"}


def test_a_sweep_finds_lists_by_their_folder_in_the_dataset(table: Path, tmp_path: Path) -> None:
    sweep = tmp_path / "sweep.yaml"
    sweep.write_text("{name: few, splits: [few], seeds: [0], runs: {nano: {recipe: nano}}}")
    record = begin(str(sweep), {"": Source(folder=str(table), splits="fold1")}, (), tmp_path / "out")
    assert record.sources[""].open().splits == open_dataset(table, "fold1").splits
    with pytest.raises(InputError, match=r"^fold9: holds no test\.csv"):
        begin(str(sweep), {"": Source(folder=str(table), splits="fold9")}, (), tmp_path / "out")


def test_a_teacher_of_another_folds_lists_of_the_same_name_is_refused(
    table: Path, tmp_path: Path, run_cli: Callable[..., tuple[int, str, str]]
) -> None:
    run, split = tmp_path / "run", ("--data", table, "--split", "100")
    code, _, err = run_cli("train", "nano", *split, "--splits", "fold2", "--out", run, *QUICK)
    assert code == 0, err
    logits = tmp_path / "logits.safetensors"
    code, _, err = run_cli("logits", run, *split, "--splits", "fold1", "--out", logits)
    assert (code, logits.exists()) == (2, False)
    assert "was trained on split 100 of other lists than these" in err
    assert run_cli("logits", run, *split, "--splits", "fold2", "--out", logits)[0] == 0


def test_the_development_recordings_are_read_as_they_are(esc50_devices: Path) -> None:
    dataset = open_dataset(esc50_devices, "fold1")
    sizes = {name: (len(training), len(test)) for name, (training, test) in dataset.splits.items()}
    assert sizes == {"5": (100, 400), "10": (150, 400), "25": (400, 400), "50": (800, 400), "100": (1600, 400)}
    assert (len(dataset.labels), {recording.device for recording in dataset.recordings}) == (
        50,
        {"a", "s1", "s2", "s3", "s4", "s5", "s6"},
    )
    assert len(open_dataset(esc50_devices).splits) == 25

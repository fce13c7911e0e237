"""Recipes are chosen on training recordings of places that were left out, by differences paired by fold."""

from pathlib import Path

import pytest

from tinyscene.benchmarks.experiments.choice import choice, compare
from tinyscene.benchmarks.experiments.leave_out import leave_out
from tinyscene.deploy.common.errors import InputError
from tinyscene.train.data.datasets import open_dataset


def test_differences_are_paired_by_fold() -> None:
    ours, theirs = ([{"macro": value} for value in values] for values in ((31.0, 12.0, 23.0), (30.0, 10.0, 20.0)))
    row = compare(ours, theirs)
    assert (row["macro_mean"], row["macro_gain"]) == (22, 2)
    assert row["macro_error"] == pytest.approx(1 / 3**0.5)  # the differences 1, 2 and 3 deviate by 1


def test_one_fold_has_no_error() -> None:
    assert compare([{"macro": 31.0}], [{"macro": 30.0}])["macro_error"] is None


def test_a_fold_without_results_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=f"{tmp_path}.*cannot be read"):
        choice([tmp_path], tmp_path / "choice.json")
    assert not (tmp_path / "choice.json").exists()


@pytest.fixture(scope="module")
def left_out(tau_mini: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("choice") / "choice"
    leave_out(tau_mini, out, tau_mini / "mic_ir", fold=1)
    return out


def place(path: str) -> tuple[str, ...]:
    return tuple(Path(path).name.split("-")[:3])


def test_what_is_left_out_comes_from_training_recordings_of_other_places(left_out: Path, tau_mini: Path) -> None:
    chosen, original = open_dataset(left_out), open_dataset(tau_mini)
    trained, test = chosen.split("100")
    places = {place(path) for path in test}
    assert places <= {place(path) for path in original.split("100")[0]}
    assert not places & {place(path) for path in original.split("100")[1]}
    assert not places & {place(path) for path in trained}
    assert {*trained, *test} >= set(original.split("100")[0])


def test_every_scene_is_left_out_on_every_unseen_device(left_out: Path) -> None:
    dataset = open_dataset(left_out)
    test = set(dataset.split("100")[1])
    heard = {(entry.label, entry.device) for entry in dataset.recordings if entry.path in test}
    assert {(label, device) for label in dataset.labels for device in ("s4", "s5", "s6")} <= heard


def test_the_simulated_devices_responses_are_not_trained_with(left_out: Path) -> None:
    kept, unheard = ({path.name for path in (left_out / name).iterdir()} for name in ("mic_ir", "unheard_ir"))
    assert len(unheard) == 3
    assert not kept & unheard
    assert len(kept) > 40


def test_folds_leave_out_other_places(left_out: Path, tau_mini: Path, tmp_path: Path) -> None:
    leave_out(tau_mini, tmp_path / "other", tau_mini / "mic_ir", fold=2)
    first, second = (
        {place(path) for path in open_dataset(out).split("100")[1]} for out in (left_out, tmp_path / "other")
    )
    assert first != second
    assert len({scene for scene, *_ in first}) == len({scene for scene, *_ in second}) == 10

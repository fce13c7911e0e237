"""A dataset with wrong labels in its training lists: how many, which, and what is left as it was."""

from pathlib import Path

import pytest

from tinyscene.benchmarks.experiments.redraw_labels import redraw_labels
from tinyscene.train.data.datasets import Dataset, open_dataset

LABELS = ("cat", "cow", "dog", "hen")


def write(path: Path, rows: list[tuple[str, ...]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join("\t".join(row) + "\n" for row in rows))


@pytest.fixture
def table(tmp_path: Path) -> Path:
    """60 recordings; those of a list name their labels, as ESC-50's lists do."""
    rows = [(f"audio/{index}.ogg", LABELS[index % 4], str(index), "a") for index in range(60)]
    root, columns = tmp_path / "table", ("filename", "scene_label", "identifier", "source_label")
    write(root / "meta.csv", [columns, *rows])
    write(root / "audio" / "0.ogg", [("sound",)])
    lists = {"split25": rows[:10], "split100": rows[:40], "test": rows[40:]}
    for name, members in lists.items():
        write(root / "fold1" / f"{name}.csv", [columns[:2], *(row[:2] for row in members)])
        write(root / "fold2" / f"{name}.csv", [columns[:2], *(row[:2] for row in members)])
    return root


def labels(dataset: Dataset) -> dict[str, str]:
    return {entry.path: entry.label for entry in dataset.recordings}


def test_the_share_of_the_training_labels_is_wrong_and_no_other(table: Path, tmp_path: Path) -> None:
    redraw_labels(table, tmp_path / "out", "fold1", share=0.2)
    before, after = open_dataset(table, "fold1"), open_dataset(tmp_path / "out", "fold1")
    changed = {path: label for path, label in labels(before).items() if labels(after)[path] != label}
    assert (len(changed), changed.keys() <= set(before.split("100")[0])) == (8, True)  # a fifth of 40
    assert after.splits == before.splits
    named = (tmp_path / "out" / "redrawn.csv").read_text().splitlines()[1:]
    assert dict(line.split("\t") for line in named) == changed


def test_a_seed_draws_the_same_labels_and_another_seed_others(table: Path, tmp_path: Path) -> None:
    drawn = []
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        redraw_labels(table, tmp_path / name, "fold1", seed=seed)
        drawn.append((tmp_path / name / "meta.csv").read_text())
    assert drawn[0] == drawn[1]
    assert drawn[0] != drawn[2]


def test_the_audio_is_that_of_the_dataset(table: Path, tmp_path: Path) -> None:
    redraw_labels(table, tmp_path / "out", "fold1")
    assert (tmp_path / "out" / "audio" / "0.ogg").read_text() == "sound\n"

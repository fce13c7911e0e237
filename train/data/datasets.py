"""Datasets: which recordings there are, what they are called, and which are for training and for the test.

Two layouts are known, told apart by `meta.csv`:

- a table, as TAU Urban Acoustic Scenes 2022 Mobile is published: `meta.csv` (filename, scene_label, identifier,
  source_label; tab separated), the audio files it names, and a folder of lists (`split_lists.py`). Labels and
  recording devices are those of the table; TAU's own are known by its ten scenes.
- one folder per class: `ROOT/CLASS/*.wav` (see `folders.py`). Folds come from the first group of a pattern
  on the file name (ESC: the leading digit); without a match, from a hash of the name, five folds in all.

`open_dataset` reads lists only. Decoding is `train/data/cache.py`'s part.
"""

import hashlib
import re
from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from tinyscene.deploy.common.errors import InputError
from tinyscene.deploy.common.text import printable
from tinyscene.train.data.folders import FOLD_PATTERN, read_class_folders
from tinyscene.train.data.split_lists import Splits, read_splits
from tinyscene.train.data.tables import read_table

SCENES = (
    "airport",
    "bus",
    "metro",
    "metro_station",
    "park",
    "public_square",
    "shopping_mall",
    "street_pedestrian",
    "street_traffic",
    "tram",
)
DEVICE_GROUPS = {  # of the challenge: recorded for real, simulated and in training, simulated and in the test only
    "real": ("a", "b", "c"),
    "seen": ("s1", "s2", "s3"),
    "unseen": ("s4", "s5", "s6"),
}
TAU_COLUMNS = ("filename", "scene_label", "identifier", "source_label")
WHOLE = "100"  # the split that trains on the whole training list
EVERYTHING = "all"  # the split that trains on all recordings
UNWRITABLE = "its name cannot be written down; rename it"
LICENCE = re.compile(r"(licen[cs]e|copying|eula)(\..*)?", re.IGNORECASE)  # name of the file with a dataset's terms


@dataclass(frozen=True)
class ListedRecording:
    """A recording in the lists of a dataset: its path under the root, its label, and its recording device or none.

    `source` is the identifier of a table: in TAU that of a place, elsewhere of what recordings are parts or copies of.
    `fault` says why it cannot be used, where its name alone tells.
    """

    path: str
    label: str
    device: str
    source: str = ""
    fault: str = ""

    @staticmethod
    def found(path: str, label: str) -> "ListedRecording":
        """A recording of a folder. One whose name cannot be written down, such as bytes that are not UTF-8, is not
        used, and its path is given in escapes."""
        return ListedRecording(printable(path), label, "", fault="" if path.isprintable() else UNWRITABLE)


@dataclass(frozen=True)
class Dataset:
    """Recordings and the lists that divide them. `splits` maps a name to (training paths, test paths)."""

    root: Path
    labels: tuple[str, ...]
    recordings: tuple[ListedRecording, ...]
    splits: Splits
    layout: Literal["tau", "table", "folders"]
    ignored: str = ""  # files in its folders that are no recordings, such as "3 .m4a, 1 hidden"

    def split(self, name: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """Training and test paths of a split; `all` trains on everything and has an empty test list.

        Raises InputError for a name that is not there.
        """
        if name == EVERYTHING:
            return tuple(recording.path for recording in self.recordings), ()
        if name not in self.splits:
            known = ", ".join((*self.splits, EVERYTHING))
            raise InputError(f"{self.root} has no split {name!r}: say one of {known} with --split")
        return self.splits[name]

    def split_hash(self, name: str) -> str:
        """Hash of the names in a split's two lists."""
        training, test = self.split(name)
        return hashlib.sha256("\n".join((*training, "", *test)).encode()).hexdigest()

    def rest(self, split: str) -> tuple[str, ...]:
        """Paths of the whole training list that are not in a split's own. Raises InputError if there are none."""
        whole = split.rpartition("-")[0] + "-" + WHOLE if "-" in split else WHOLE
        training = set(self.split(split)[0])
        rest = tuple(path for path in self.split(whole)[0] if path not in training) if whole in self.splits else ()
        if not rest:
            raise InputError(f"{self.root}: split {split} leaves out no recordings of the whole training list {whole}")
        return rest

    def describe(self, split: str, left_out: Collection[str] = ()) -> dict[str, Any]:
        """What a model card says of the data: name, layout, the file with its terms, and the lists' recordings.

        `left_out` are the paths of those that cannot be decoded.
        """
        known = {recording.path: recording for recording in self.recordings}
        terms = sorted(path.name for path in self.root.iterdir() if path.is_file() and LICENCE.fullmatch(path.name))
        lists = {}
        for part, paths in zip(("training", "test"), self.split(split), strict=True):
            recordings = [known[path] for path in paths]
            lists[part] = {
                "recordings": len(recordings),
                "left_out": sum(path in left_out for path in paths),
                "by_class": dict(sorted(Counter(recording.label for recording in recordings).items())),
                "by_device": dict(
                    sorted(Counter(recording.device for recording in recordings if recording.device).items())
                ),
            }
        name = self.root.resolve().name
        return {"name": name, "layout": self.layout, "licence": terms[0] if terms else None, **lists}

    def device_groups(self, split: str) -> dict[str, tuple[str, ...]]:
        """Groups of recording devices: the challenge's where all are its own, else those of the training list or not.

        Empty where the table names no devices.
        """
        devices = {recording.path: recording.device for recording in self.recordings if recording.device}
        if set(devices.values()) <= {device for group in DEVICE_GROUPS.values() for device in group}:
            return DEVICE_GROUPS
        training, test = ({devices[path] for path in paths if path in devices} for paths in self.split(split))
        return {"seen": tuple(sorted(training)), "unseen": tuple(sorted(test - training))}

    @property
    def default_split(self) -> str:
        """The split to use where none is named: the whole training list, or the first fold."""
        whole = (name for name in self.splits if name == WHOLE or name.endswith(f"-{WHOLE}"))
        return next(whole, next(iter(self.splits)))


def open_dataset(root: Path, splits: str | Path | None = None, fold_pattern: str | None = None) -> Dataset:
    """Read the lists of a dataset.

    Args:
        root: folder of the dataset, in either layout.
        splits: folder of a table's lists: a path, or a name in the dataset, such as `fold1`. None for the lists
            that are found in the dataset.
        fold_pattern: regular expression on a file's name whose first group is its fold (folder layout);
            none for FOLD_PATTERN.

    Raises:
        InputError: no such folder, a list without its columns, no recording at all.
    """
    if not root.is_dir():
        raise InputError(f"{root}: no such folder; --data takes the folder of a dataset")
    if (root / "meta.csv").exists():
        return _open_table(root, splits)
    return _open_folders(root, fold_pattern or FOLD_PATTERN)


def _open_table(root: Path, splits: str | Path | None) -> Dataset:
    recordings = []
    for line, row in read_table(root / "meta.csv", TAU_COLUMNS):
        path = _inside(row["filename"], root / "meta.csv", line)
        recordings.append(ListedRecording(path, row["scene_label"], row["source_label"], row["identifier"]))
    if not recordings:
        raise InputError(f"{root / 'meta.csv'}: names no recording")
    known = {recording.path: recording.label for recording in recordings}
    if len(known) < len(recordings):
        raise InputError(f"{root / 'meta.csv'}: names a recording twice")
    is_tau = set(known.values()) <= set(SCENES)
    labels = SCENES if is_tau else tuple(sorted(set(known.values())))
    if len(labels) < 2:
        raise InputError(
            f"{root / 'meta.csv'}: all recordings are {recordings[0].label!r}; a dataset needs two labels or more"
        )
    lists = read_splits(root, splits, known, published=is_tau)
    return Dataset(root, labels, tuple(recordings), lists, "tau" if is_tau else "table")


def _inside(name: str, source: Path, line: int) -> str:
    """A path that stays under the root of its dataset."""
    path = Path(name)
    if path.is_absolute() or ".." in path.parts:
        raise InputError(f"{source} line {line}: {name!r} leads out of the dataset")
    return name


def _open_folders(root: Path, fold_pattern: str) -> Dataset:
    folders = read_class_folders(root, fold_pattern)
    recordings = tuple(ListedRecording.found(path, label) for path, label in folders.labels.items())
    folds = {printable(path): fold for path, fold in folders.folds.items()}
    splits = {
        f"fold{fold}": (
            tuple(path for path in folds if folds[path] != fold),
            tuple(path for path in folds if folds[path] == fold),
        )
        for fold in sorted(set(folds.values()), key=lambda fold: (len(fold), fold))
    }
    labels = tuple(sorted(set(folders.labels.values())))
    return Dataset(root, labels, recordings, splits, "folders", folders.ignored)

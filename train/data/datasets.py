"""Datasets: which recordings there are, what they are called, and which are for training and for the test.

Two layouts are known, told apart by `meta.csv`:

- TAU Urban Acoustic Scenes 2022 Mobile as published: `meta.csv` (filename, scene_label, identifier,
  source_label; tab separated), the audio files it names, and the challenge's lists `split5.csv` to
  `split100.csv` and `test.csv` in `evaluation_setup/`, in a folder of your own, or fetched when online.
- one folder per class: `ROOT/CLASS/*.wav` (see `folders.py`). Folds come from the first group of a pattern
  on the file name (ESC: the leading digit); without a match, from a hash of the name, five folds in all.

`open_dataset` reads lists only. Decoding is `train/data/cache.py`'s part.
"""

import csv
import hashlib
import re
from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pooch

from tinyscene.deploy.common.errors import InputError
from tinyscene.train.data.download import download
from tinyscene.train.data.folders import FOLD_PATTERN, read_class_folders

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
TAU_SPLITS = ("5", "10", "25", "50", "100")
TAU_SPLITS_URL = "https://github.com/CPJKU/dcase2024_task1_baseline/releases/download/files/"
TAU_COLUMNS = ("filename", "scene_label", "identifier", "source_label")
MAX_TABLE, MAX_ROWS = 2**26, 500_000  # bytes and rows of a list; the largest of TAU has 230,350 rows
MAX_LENGTH, MAX_NAME = 1_000, 64  # characters of a path, and of a scene, place or recording device
EVERYTHING = "all"  # the split that trains on all recordings
LICENCE = re.compile(r"(licen[cs]e|copying|eula)(\..*)?", re.IGNORECASE)  # name of the file with a dataset's terms


@dataclass(frozen=True)
class ListedRecording:
    """A recording in the lists of a dataset: its path under the root, its label, and its recording device or none."""

    path: str
    label: str
    device: str


@dataclass(frozen=True)
class Dataset:
    """Recordings and the lists that divide them. `splits` maps a name to (training paths, test paths)."""

    root: Path
    labels: tuple[str, ...]
    recordings: tuple[ListedRecording, ...]
    splits: dict[str, tuple[tuple[str, ...], tuple[str, ...]]]
    layout: Literal["tau", "folders"]
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

    @property
    def default_split(self) -> str:
        """The split to use where none is named: all of TAU, or the first fold."""
        return "100" if "100" in self.splits else next(iter(self.splits))


def open_dataset(root: Path, splits: Path | None = None, fold_pattern: str | None = None) -> Dataset:
    """Read the lists of a dataset.

    Args:
        root: folder of the dataset, in either layout.
        splits: folder of the TAU lists, when they are not in the dataset.
        fold_pattern: regular expression on a file's name whose first group is its fold (folder layout);
            none for FOLD_PATTERN.

    Raises:
        InputError: no such folder, a list without its columns, an unknown scene, no recording at all.
    """
    if not root.is_dir():
        raise InputError(f"{root}: no such folder; --data takes the folder of a dataset")
    if (root / "meta.csv").exists():
        return _open_tau(root, splits)
    return _open_folders(root, fold_pattern or FOLD_PATTERN)


def _open_tau(root: Path, splits: Path | None) -> Dataset:
    recordings = []
    for line, row in _read_table(root / "meta.csv", TAU_COLUMNS):
        if row["scene_label"] not in SCENES:
            raise InputError(
                f"{root / 'meta.csv'} line {line}: unknown scene {row['scene_label']!r}; known are {', '.join(SCENES)}"
            )
        recordings.append(
            ListedRecording(_inside(row["filename"], root / "meta.csv", line), row["scene_label"], row["source_label"])
        )
    if not recordings:
        raise InputError(f"{root / 'meta.csv'}: names no recording")
    known = {recording.path: recording.label for recording in recordings}
    if len(known) < len(recordings):
        raise InputError(f"{root / 'meta.csv'}: names a recording twice")
    folder = _splits_folder(root, splits)
    test = _read_list(folder / "test.csv", known)
    lists = {name: folder / f"split{name}.csv" for name in TAU_SPLITS}
    split_lists = {name: (_read_list(path, known), test) for name, path in lists.items() if path.exists()}
    for name, (training, _) in split_lists.items():
        if both := set(training) & set(test):
            raise InputError(f"{lists[name]}: {min(both)!r} is in the test list too")
    if not split_lists:
        raise InputError(f"{folder}: holds none of {', '.join(path.name for path in lists.values())}")
    return Dataset(root, SCENES, tuple(recordings), split_lists, "tau")


def _splits_folder(root: Path, splits: Path | None) -> Path:
    """Where the lists are: as named, in the dataset, or fetched once into the cache of downloads."""
    candidates = [splits] if splits else [root / "evaluation_setup", root]
    for folder in candidates:
        if (folder / "test.csv").exists():
            return folder
    if splits:
        raise InputError(f"{splits}: holds no test.csv; --splits takes the folder of split5.csv to test.csv")
    folder = pooch.os_cache("tinyscene") / "tau_splits"
    try:
        for name in (*(f"split{name}.csv" for name in TAU_SPLITS), "test.csv"):
            download(TAU_SPLITS_URL + name, folder, MAX_TABLE)
    except Exception as error:  # whatever the transport raises, the remedy is the same
        reason = type(error).__name__
        raise InputError(
            f"{root}: has no evaluation_setup/test.csv and the lists cannot be downloaded ({reason}); "
            f"get them from {TAU_SPLITS_URL} and name their folder with --splits"
        ) from None
    return folder


def _read_list(path: Path, known: dict[str, str]) -> tuple[str, ...]:
    """The recordings a list names, each of which meta.csv must know, with the same scene where the list names one."""
    names = []
    for line, row in _read_table(path, ("filename",)):
        if row["filename"] not in known:
            raise InputError(f"{path} line {line}: {row['filename']!r} is not in meta.csv")
        scene = known[row["filename"]]
        if (listed := row.get("scene_label", scene)[:MAX_NAME]) != scene:
            raise InputError(f"{path} line {line}: {row['filename']!r} is {listed!r} here, but {scene!r} in meta.csv")
        names.append(row["filename"])
    if not names:
        raise InputError(f"{path}: names no recording")
    return tuple(dict.fromkeys(names))


def _read_table(path: Path, columns: tuple[str, ...]) -> list[tuple[int, dict[str, str]]]:
    """Rows, with their line numbers, of a tab-separated table that must have `columns`."""
    if not path.is_file():  # a named pipe would be waited for
        raise InputError(f"{path}: not a file")
    if path.stat().st_size > MAX_TABLE:
        raise InputError(f"{path}: larger than {MAX_TABLE >> 20} MB")
    rows = []
    try:
        with path.open(encoding="utf-8-sig", newline="") as handle:
            reader = csv.DictReader(handle, delimiter="\t")
            if missing := [column for column in columns if column not in (reader.fieldnames or [])]:
                raise InputError(
                    f"{path}: lacks the column {missing[0]!r}; a tab-separated table needs {', '.join(columns)}"
                )
            for row in reader:
                if len(rows) == MAX_ROWS:
                    raise InputError(f"{path}: has more than {MAX_ROWS:,} rows")
                rows.append((reader.line_num, _fields(row, columns, f"{path} line {reader.line_num}")))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{path}: cannot be read ({error})") from None
    return rows


def _fields(row: dict[str, str], columns: tuple[str, ...], place: str) -> dict[str, str]:
    """The fields of a row that are used, with a list's scene. Raises InputError where one is empty or too long."""
    for column in columns:
        if not row[column]:
            raise InputError(f"{place}: {column} is empty")
        if len(row[column]) > (most := MAX_LENGTH if column == "filename" else MAX_NAME):
            raise InputError(f"{place}: {column} has more than {most} characters")
    return {column: row[column] for column in {*columns, "scene_label"} if row.get(column)}


def _inside(name: str, source: Path, line: int) -> str:
    """A path that stays under the root of its dataset."""
    path = Path(name)
    if path.is_absolute() or ".." in path.parts:
        raise InputError(f"{source} line {line}: {name!r} leads out of the dataset")
    return name


def _open_folders(root: Path, fold_pattern: str) -> Dataset:
    found = read_class_folders(root, fold_pattern)
    recordings = tuple(ListedRecording(path, label, "") for path, label in found.labels.items())
    splits = {
        f"fold{fold}": (
            tuple(path for path in found.folds if found.folds[path] != fold),
            tuple(path for path in found.folds if found.folds[path] == fold),
        )
        for fold in sorted(set(found.folds.values()), key=lambda fold: (len(fold), fold))
    }
    labels = tuple(sorted(set(found.labels.values())))
    return Dataset(root, labels, recordings, splits, "folders", found.ignored)

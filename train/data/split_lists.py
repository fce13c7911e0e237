"""The lists that divide the recordings of a table into training and test.

A folder of lists holds `test.csv` and any number of training lists `splitNAME.csv` (filename, scene_label; tab
separated); NAME is the split's. It is looked for as `--splits` names it: a path, or a folder of the dataset (`fold1`,
or `DATASET/fold1`). Without `--splits` it is the dataset's `evaluation_setup/`, or the dataset itself. A dataset whose
folders hold several such sets, as folds, has their splits by the names `FOLDER-NAME`: `fold1-25`. The lists of TAU
are fetched when they are nowhere and the machine is online.
"""

import re
from pathlib import Path

from tinyscene.deploy.common.errors import InputError
from tinyscene.deploy.common.files import cache_folder
from tinyscene.train.data.download import DownloadError, download
from tinyscene.train.data.tables import LABEL, MAX_NAME, MAX_TABLE, read_table

TEST = "test.csv"
TRAINING = re.compile(r"split([A-Za-z0-9_.]+)\.csv")
TAU_SPLITS = ("5", "10", "25", "50", "100")
TAU_SPLITS_URL = "https://github.com/CPJKU/dcase2024_task1_baseline/releases/download/files/"
MAX_LISTS = 1_000  # of a folder

Paths = tuple[str, ...]
Splits = dict[str, tuple[Paths, Paths]]  # training and test list by name


def read_splits(root: Path, named: str | Path | None, labels: dict[str, str], published: bool) -> Splits:
    """The splits of a table's recordings, which are given with their labels.

    `published` says whether the lists may be TAU's, to be fetched. Raises InputError where there are none, or a list
    cannot be used.
    """
    if named:
        return _read_folder(named_folder(root, Path(named)), labels)
    for folder in (root / "evaluation_setup", root):
        if (folder / TEST).exists():
            return _read_folder(folder, labels)
    if folds := sorted((path.parent for path in root.glob(f"*/{TEST}")), key=lambda folder: _in_order(folder.name)):
        return {f"{fold.name}-{name}": lists for fold in folds for name, lists in _read_folder(fold, labels).items()}
    if published:
        return _read_folder(_downloaded(root), labels)
    raise InputError(
        f"{root}: has no {TEST}, in evaluation_setup/ or in a folder for each fold; name the folder of split lists "
        "with --splits"
    )


def named_folder(root: Path, named: Path) -> Path:
    """The folder that --splits names, by its path or by its name in the dataset."""
    folders = [named, root / named]
    if named.parts[0] == root.resolve().name:
        folders.append(root.resolve().parent / named)
    for folder in folders:
        if (folder / TEST).exists():
            return folder
    raise InputError(
        f"{named}: holds no {TEST}, as a path or in {root}; --splits takes the folder of {TEST} and of split lists "
        "such as split25.csv"
    )


def _read_folder(folder: Path, labels: dict[str, str]) -> Splits:
    test = _read_list(folder / TEST, labels)
    names = {match[1]: path for path in folder.iterdir() if (match := TRAINING.fullmatch(path.name))}
    if not names:
        raise InputError(f"{folder}: holds no training list, such as split25.csv")
    if len(names) > MAX_LISTS:
        raise InputError(f"{folder}: holds more than {MAX_LISTS:,} training lists")
    splits = {}
    for name in sorted(names, key=_in_order):
        training = _read_list(names[name], labels)
        if both := set(training) & set(test):
            raise InputError(f"{names[name]}: {min(both)!r} is in the test list too")
        splits[name] = (training, test)
    return splits


def _in_order(name: str) -> list[tuple[int, int, str]]:
    """A key that sorts numbers in names by their value."""
    parts = re.findall(r"[0-9]+|[^0-9]+", name)
    return [(1, 0, part) if not part.isdigit() else (0, int(part), "") for part in parts]


def _downloaded(root: Path) -> Path:
    """The folder of TAU's lists, fetched once into the cache."""
    folder = cache_folder() / "tau_splits"
    try:
        for name in (*(f"split{name}.csv" for name in TAU_SPLITS), TEST):
            download(TAU_SPLITS_URL + name, folder, MAX_TABLE)
    except DownloadError as error:
        raise InputError(
            f"{root}: has no evaluation_setup/{TEST} and the lists cannot be downloaded ({error}); "
            f"get them from {TAU_SPLITS_URL} and name their folder with --splits"
        ) from None
    return folder


def _read_list(path: Path, known: dict[str, str]) -> Paths:
    """The recordings a list names, each of which meta.csv must know, with the same label where the list names one."""
    names = []
    for line, row in read_table(path, ("filename",)):
        if row["filename"] not in known:
            raise InputError(f"{path} line {line}: {row['filename']!r} is not in meta.csv")
        label = known[row["filename"]]
        if (listed := row.get(LABEL, label)[:MAX_NAME]) != label:
            raise InputError(f"{path} line {line}: {row['filename']!r} is {listed!r} here, but {label!r} in meta.csv")
        names.append(row["filename"])
    if not names:
        raise InputError(f"{path}: names no recording")
    return tuple(dict.fromkeys(names))

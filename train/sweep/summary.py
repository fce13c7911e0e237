"""The summary of a sweep: means and deviations over seeds, and over folds, from its table `results.csv` alone."""

import csv
import io
import statistics
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tinyscene.deploy.common.errors import InputError
from tinyscene.deploy.common.files import read_bounded
from tinyscene.train.sweep.published import (
    PUBLISHED_MACRO,
    PUBLISHED_SOURCE,
    PUBLISHED_SYSTEMS,
    PublishedSystem,
    published_baseline,
)
from tinyscene.train.sweep.statistic import RunStatistics, Statistic
from tinyscene.train.sweep.status import COLUMNS, GROUPS, RESULTS

SIZES = ("parameters", "macs", "clips", "seconds")
ACCURACIES = ("accuracy", "macro_accuracy", "log_loss")
NEEDED = ("parameters", "macs", "macro_accuracy")  # of every run that is done
ALL_FOLDS = "all folds"
MAX_BYTES = 64_000_000  # of a table; a row has 300
TAU_TEST_CLIPS = 20_000  # at least, of TAU's test list, which holds nearly 30,000; any other is far smaller

Numbers = dict[str, float]  # of one run, by column


@dataclass(frozen=True)
class RunSummary:
    """The runs of one name on one split, over their seeds."""

    run: str
    recipe: str
    split: str
    done: int
    of: int
    statistics: RunStatistics

    def as_dict(self) -> dict[str, Any]:
        content = asdict(self)
        del content["statistics"]
        return content | self.statistics.as_dict()


@dataclass(frozen=True)
class Unfinished:
    """A run that is not done, with the reason."""

    run: str
    split: str
    seed: str
    state: str
    reason: str


@dataclass(frozen=True)
class Published:
    """The published baseline on the splits of a sweep, and published systems with its network."""

    source: str
    comparable: bool  # whether the sweep was tested on as many clips
    splits: dict[str, RunStatistics]

    @property
    def systems(self) -> tuple[PublishedSystem, ...]:
        return PUBLISHED_SYSTEMS if self.splits else ()

    def as_dict(self) -> dict[str, Any]:
        splits = {split: known.as_dict() for split, known in self.splits.items()}
        return vars(self) | {"splits": splits, "systems": [system.as_dict() for system in self.systems]}


@dataclass(frozen=True)
class SweepSummary:
    """What came of a sweep."""

    results: tuple[RunSummary, ...]
    not_done: tuple[Unfinished, ...]
    test_clips: int
    published: Published

    def as_dict(self) -> dict[str, Any]:
        """The content of report.json."""
        return {
            "results": [result.as_dict() for result in self.results],
            "not_done": [asdict(run) for run in self.not_done],
            "test_clips": self.test_clips,
            "published": self.published.as_dict(),
        }

    @property
    def splits(self) -> list[str]:
        """The splits that have results, folds summed up the last."""
        return list(dict.fromkeys(result.split for result in self.results))

    @property
    def runs(self) -> list[str]:
        """The names of the runs that have results."""
        return list(dict.fromkeys(result.run for result in self.results))


def read_summary(folder: Path) -> SweepSummary:
    """The summary of a sweep's folder. Raises InputError, naming it, if nothing in it is done."""
    rows = _read(folder / RESULTS)
    try:
        return summarize(rows)
    except InputError as error:
        raise InputError(f"{folder}: {error}") from None


def _read(path: Path) -> list[dict[str, str]]:
    try:
        rows = list(csv.DictReader(io.StringIO(read_bounded(path, MAX_BYTES).decode())))
    except (OSError, ValueError, csv.Error):
        raise InputError(
            f"{path}: cannot be read; the folder of a sweep has it, once `tinyscene sweep` began"
        ) from None
    if missing := [column for column in COLUMNS if column not in (rows[0] if rows else ())]:
        raise InputError(f"{path}: lacks the column {missing[0]!r} of a sweep's table")
    return rows


def summarize(rows: list[dict[str, str]]) -> SweepSummary:
    """The summary of the rows of a table."""
    done = [row for row in rows if row["state"] == "done"]
    if not done:
        raise InputError(f"none of the {len(rows)} runs of the sweep is done yet")
    results = []
    for run, split in dict.fromkeys((row["run"], row["split"]) for row in rows):
        members = [row for row in rows if (row["run"], row["split"]) == (run, split)]
        if values := [_numbers(row) for row in members if row["state"] == "done"]:
            recipe = members[0]["recipe"]
            results.append(RunSummary(run, recipe, split, len(values), len(members), _statistics(values)))
    results += _over_folds(results)
    clips = max(int(row["clips"]) for row in done)
    splits = dict.fromkeys(result.split for result in results)
    return SweepSummary(
        results=tuple(results),
        not_done=tuple(
            Unfinished(row["run"], row["split"], row["seed"], row["state"], row["reason"])
            for row in rows
            if row["state"] != "done"
        ),
        test_clips=clips,
        published=Published(
            source=PUBLISHED_SOURCE,
            comparable=clips >= TAU_TEST_CLIPS,
            splits={split: published_baseline(split) for split in splits if split in PUBLISHED_MACRO},
        ),
    )


def _numbers(row: dict[str, str]) -> Numbers:
    """The measures of a run: those that have no column, or no value in it, are left out."""
    prefixes = tuple(f"{column}." for column in GROUPS.values())
    name = f"{RESULTS}: run {row['run']}, split {row['split']}, seed {row['seed']}"
    try:
        numbers = {
            column: float(value)
            for column, value in row.items()
            if value and (column in (*SIZES, *ACCURACIES) or column.startswith(prefixes))
        }
    except ValueError as error:
        raise InputError(f"{name}: {error}") from None
    if missing := [column for column in NEEDED if column not in numbers]:
        raise InputError(f"{name}: has no {missing[0]}")
    return numbers


def _statistics(runs: list[Numbers]) -> RunStatistics:
    """Mean, deviation and count of each measure over runs; of sizes, the mean."""
    columns = dict.fromkeys(column for numbers in runs for column in numbers)
    values = {column: [numbers[column] for numbers in runs if column in numbers] for column in columns}
    groups = {
        key: {
            column.removeprefix(f"{prefix}."): _statistic(values[column])
            for column in values
            if column.startswith(f"{prefix}.")
        }
        for key, prefix in GROUPS.items()
    }
    sizes = {size: statistics.mean(values[size]) for size in SIZES if size in values}
    accuracies = {measure: _statistic(values[measure]) for measure in ACCURACIES if measure in values}
    return RunStatistics(**sizes, **accuracies, **groups)  # type: ignore[arg-type]


def _statistic(values: list[float]) -> Statistic:
    deviation = statistics.stdev(values) if len(values) > 1 else None
    return Statistic(statistics.mean(values), deviation, len(values))


def _over_folds(results: list[RunSummary]) -> list[RunSummary]:
    """For runs on folds: the mean over folds of the means over seeds, and the deviation over folds.

    Each size of the training lists (`fold1-25`, `fold1-100`) has its own.
    """
    added = []
    for run, name in dict.fromkeys((result.run, all_folds(result.split)) for result in results):
        folds = [result for result in results if result.run == run and name and all_folds(result.split) == name]
        if len(folds) > 1:
            done, of = sum(fold.done for fold in folds), sum(fold.of for fold in folds)
            over_folds = _statistics([_means(fold.statistics) for fold in folds])
            added.append(RunSummary(run, folds[0].recipe, name, done, of, over_folds))
    return added


def all_folds(split: str) -> str:
    """The name of all folds that a split is one of, such as `all folds, split 25` for `fold1-25`; empty if of none."""
    if not split.startswith("fold"):
        return ""
    size = split.partition("-")[2]
    return f"{ALL_FOLDS}, split {size}" if size else ALL_FOLDS


def _means(runs: RunStatistics) -> Numbers:
    """The inverse of `_statistics`, but for the deviations."""
    values = vars(runs)
    means = {size: values[size] for size in SIZES if values[size] is not None}
    means |= {measure: values[measure].mean for measure in ACCURACIES if values[measure] is not None}
    return means | {
        f"{prefix}.{name}": statistic.mean for key, prefix in GROUPS.items() for name, statistic in values[key].items()
    }

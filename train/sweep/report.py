"""The report of a sweep: means and deviations over seeds, beside the published baseline.

    tinyscene report OUT        # or with bundles, on one page: benchmarks/report/

From `results.csv` in the sweep's folder alone: per split and run the mean and the sample standard deviation over
seeds of accuracy, macro-average accuracy and log loss, by class, device and device group; the accuracy against the
MACs; and what is not done, with the reason. Where the splits are folds, the mean and the deviation over them, too.
Writes `report.md`, `report.json` and `accuracy_macs.png` there, all or none. Accuracies in JSON are shares of 1.

The published figures are those of the DCASE 2024 baseline on the test list of TAU Urban Acoustic Scenes 2022
Mobile. On other data they stand beside for orientation only, and the report says so.
"""

import csv
import io
import json
import statistics
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullLocator

from tinyscene.deploy.common.errors import InputError
from tinyscene.deploy.common.files import write_whole
from tinyscene.deploy.common.text import printable
from tinyscene.train.runs.figures import figure_style, figure_text
from tinyscene.train.sweep.published import PUBLISHED_MACRO, PUBLISHED_SOURCE, published_baseline
from tinyscene.train.sweep.status import COLUMNS, GROUPS, RESULTS

MEASURES = {"accuracy": "accuracy, %", "macro_accuracy": "macro-average accuracy, %", "log_loss": "log loss"}
SIZES = ("parameters", "macs", "clips", "seconds")
ALL_FOLDS = "all folds"
PUBLISHED = "published baseline (TAU)"
TAU_TEST_CLIPS = 20_000  # at least, of TAU's test list, which holds nearly 30,000; any other is far smaller

Result = dict[str, Any]  # of a run on a split: its sizes, and mean, sd (none of a single value) and count of the rest
Lines = list[list[str]]  # of a table, the first its header


def report(folder: Path) -> dict[str, Any]:
    """Write the report of a sweep's folder and return its content. Raises InputError if there is nothing to report."""
    content = read_summary(folder)
    files = {
        "report.json": json.dumps(content, indent=2) + "\n",
        "report.md": markdown(content, folder.resolve().name),
        "accuracy_macs.png": picture(content),
    }
    for name, written in files.items():  # after all are made
        write_whole(folder / name, written)
    return content


def read_summary(folder: Path) -> dict[str, Any]:
    """The content of the report of a sweep's folder. Raises InputError, naming it, if nothing in it is done."""
    rows = _read(folder / RESULTS)
    try:
        return summarize(rows)
    except InputError as error:
        raise InputError(f"{folder}: {error}") from None


def _read(path: Path) -> list[dict[str, str]]:
    try:
        rows = list(csv.DictReader(io.StringIO(path.read_text(encoding="utf-8"))))
    except (OSError, UnicodeDecodeError):
        raise InputError(
            f"{path}: cannot be read; the folder of a sweep has it, once `tinyscene sweep` began"
        ) from None
    if missing := [column for column in COLUMNS if column not in (rows[0] if rows else ())]:
        raise InputError(f"{path}: lacks the column {missing[0]!r} of a sweep's table")
    return rows


def summarize(rows: list[dict[str, str]]) -> dict[str, Any]:
    """The content of the report, from the rows of a table."""
    done = [row for row in rows if row["state"] == "done"]
    if not done:
        raise InputError(f"none of the {len(rows)} runs of the sweep is done yet")
    results = []
    for run, split in dict.fromkeys((row["run"], row["split"]) for row in rows):
        members = [row for row in rows if (row["run"], row["split"]) == (run, split)]
        if runs_done := [_numbers(row) for row in members if row["state"] == "done"]:
            head = {
                "run": run,
                "recipe": members[0]["recipe"],
                "split": split,
                "done": len(runs_done),
                "of": len(members),
            }
            results.append(head | _statistics(runs_done))
    results += _over_folds(results)
    clips = max(int(row["clips"]) for row in done)
    return {
        "results": results,
        "not_done": [
            {key: row[key] for key in ("run", "split", "seed", "state", "reason")}
            for row in rows
            if row["state"] != "done"
        ],
        "test_clips": clips,
        "published": {
            "source": PUBLISHED_SOURCE,
            "comparable": clips >= TAU_TEST_CLIPS,
            "splits": {
                split: published_baseline(split)
                for split in dict.fromkeys(result["split"] for result in results)
                if split in PUBLISHED_MACRO
            },
        },
    }


def _numbers(row: dict[str, str]) -> dict[str, float]:
    """The measures of a run: those that have no column, or no value in it, are left out."""
    prefixes = tuple(f"{column}." for column in GROUPS.values())
    try:
        return {
            column: float(value)
            for column, value in row.items()
            if value and (column in MEASURES or column in SIZES or column.startswith(prefixes))
        }
    except ValueError as error:
        raise InputError(f"{RESULTS}: run {row['run']}, split {row['split']}, seed {row['seed']}: {error}") from None


def _statistics(runs: list[dict[str, float]]) -> dict[str, Any]:
    """Mean, deviation and count of each measure over runs; of sizes, the mean."""
    columns = dict.fromkeys(column for numbers in runs for column in numbers)
    values = {column: [numbers[column] for numbers in runs if column in numbers] for column in columns}
    result: dict[str, Any] = {size: statistics.mean(values[size]) for size in SIZES if size in values}
    result |= {measure: _statistic(values[measure]) for measure in MEASURES if measure in values}
    for key, prefix in GROUPS.items():
        result[key] = {
            column.removeprefix(f"{prefix}."): _statistic(values[column])
            for column in values
            if column.startswith(f"{prefix}.")
        }
    return result


def _statistic(values: list[float]) -> dict[str, Any]:
    deviation = statistics.stdev(values) if len(values) > 1 else None
    return {"mean": statistics.mean(values), "sd": deviation, "count": len(values)}


def _over_folds(results: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """For runs on folds: the mean over folds of the means over seeds, and the deviation over folds."""
    added = []
    for run in dict.fromkeys(result["run"] for result in results):
        folds = [result for result in results if result["run"] == run and result["split"].startswith("fold")]
        if len(folds) > 1:
            counts = {key: sum(fold[key] for fold in folds) for key in ("done", "of")}
            head = {"run": run, "recipe": folds[0]["recipe"], "split": ALL_FOLDS, **counts}
            added.append(head | _statistics([_means(fold) for fold in folds]))
    return added


def _means(result: dict[str, Any]) -> dict[str, float]:
    """The inverse of `_statistics`, but for the deviations."""
    means = {size: result[size] for size in SIZES if size in result}
    means |= {measure: result[measure]["mean"] for measure in MEASURES if measure in result}
    return means | {
        f"{prefix}.{name}": statistic["mean"]
        for key, prefix in GROUPS.items()
        for name, statistic in result[key].items()
    }


def markdown(content: dict[str, Any], name: str) -> str:
    """The report as a person reads it: an overview, a table a split, and what is not done."""
    lines = [f"# {name}", "", *_notes(content), "", "![accuracy against MACs](accuracy_macs.png)"]
    lines += ["", "## Macro-average accuracy, %", "", *_table(overview(content))]
    for split in splits_of(content):
        lines += ["", f"## {split_title(split)}", "", *_table(details(content, split))]
    if content["not_done"]:
        lines += ["", "## Not done", "", *_table(not_done(content))]
    return "\n".join(lines) + "\n"


def splits_of(content: dict[str, Any]) -> list[str]:
    """The splits that have results, folds summed up the last."""
    return list(dict.fromkeys(result["split"] for result in content["results"]))


def _notes(content: dict[str, Any]) -> list[str]:
    """What the figures are, and are not."""
    notes = ["Mean ± sample standard deviation over the runs that are done; - where there is one."]
    if content["published"]["splits"]:
        notes += ["", f"Published: {content['published']['source']}."]
    if content["published"]["splits"] and not content["published"]["comparable"]:
        warning = f"This sweep was tested on {content['test_clips']:,} clips of other data"
        notes += ["", f"**{warning}: the published figures are for orientation and cannot be compared with it.**"]
    return notes


def split_title(split: str) -> str:
    return "All folds" if split == ALL_FOLDS else f"Split {split}"


def overview(content: dict[str, Any]) -> Lines:
    """Macro-average accuracies: a row a run, a column a split."""
    results, known, splits = content["results"], content["published"]["splits"], splits_of(content)
    cells = {(result["run"], result["split"]): _cell(result["macro_accuracy"], "%") for result in results}
    first = {result["run"]: result for result in reversed(results)}
    rows = [
        [run, f"{first[run]['macs']:,.0f}", f"{first[run]['parameters']:,.0f}"]
        + [cells.get((run, split), "") for split in splits]
        for run in dict.fromkeys(result["run"] for result in results)
    ]
    if known:
        one = next(iter(known.values()))
        figures = [_cell(known[split]["macro_accuracy"], "%") if split in known else "" for split in splits]
        rows.append([PUBLISHED, f"{one['macs']:,}", f"{one['parameters']:,}", *figures])
    return [["run", "MACs", "parameters", *splits], *rows]


def details(content: dict[str, Any], split: str) -> Lines:
    """A row a measure, a column a run of one split."""
    known = content["published"]["splits"]
    results = [result for result in content["results"] if result["split"] == split]
    columns = {result["run"]: result for result in results}
    if split in known:
        columns[PUBLISHED] = known[split]
    rows = [
        [
            "runs done",
            *(f"{column['done']} of {column['of']}" if "of" in column else "5" for column in columns.values()),
        ]
    ]
    for measure, title in MEASURES.items():
        unit = "%" if title.endswith("%") else ""
        rows.append([title, *(_cell(column.get(measure), unit) for column in columns.values())])
    for key, title in GROUPS.items():
        for name in dict.fromkeys(name for result in results for name in result[key]):
            rows.append([f"{title} {name}, %", *(_cell(column[key].get(name), "%") for column in columns.values())])
    return [["", *columns], *rows]


def not_done(content: dict[str, Any]) -> Lines:
    """The runs that are not done, with the reason."""
    columns = list(content["not_done"][0])
    return [columns, *([row[key] for key in columns] for row in content["not_done"])]


def _cell(statistic: dict[str, Any] | None, unit: str) -> str:
    if statistic is None:
        return ""
    scale, digits = (100, 2) if unit == "%" else (1, 3)
    mean = f"{scale * statistic['mean']:.{digits}f}"
    if statistic["sd"] is not None:
        return f"{mean} ± {scale * statistic['sd']:.{digits}f}"
    return f"{mean} ± -" if statistic["count"] == 1 else mean


def _table(lines: Lines) -> list[str]:
    lines = [lines[0], ["---"] * len(lines[0]), *lines[1:]]
    return ["| " + " | ".join(printable(cell).replace("|", "\\|") for cell in line) + " |" for line in lines]


def picture(content: dict[str, Any]) -> bytes:
    """Macro-average accuracy against MACs as a PNG: a panel a split, or one of all folds, with a point a run."""
    results = content["results"]
    is_folded = any(result["split"] == ALL_FOLDS for result in results)
    results = [result for result in results if not (is_folded and result["split"].startswith("fold"))]
    splits = list(dict.fromkeys(result["split"] for result in results))
    colours = {run: f"C{number}" for number, run in enumerate(dict.fromkeys(result["run"] for result in results))}
    macs = [result["macs"] / 1e6 for result in results]
    size = (1.5 + 2.6 * len(splits), 3.8)
    png = io.BytesIO()
    with figure_style():
        figure = Figure(size, layout="constrained")
        panels = figure.subplots(1, len(splits), sharey=True, squeeze=False)
        for axes, split in zip(panels[0], splits, strict=True):
            for result in (result for result in results if result["split"] == split):
                _point(axes, result, result["run"], color=colours[result["run"]], marker="o")
            if content["published"]["comparable"] and split in content["published"]["splits"]:
                baseline = content["published"]["splits"][split]
                _point(axes, baseline, PUBLISHED, color="grey", marker="D", mfc="white")
            axes.set(
                title=figure_text(split_title(split)),
                xlabel="million MACs",
                xscale="log",
                xlim=(min(macs) / 2, max(macs) * 2),
            )
            axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
            axes.xaxis.set_major_formatter("{x:g}")
            axes.xaxis.set_minor_locator(NullLocator())
            axes.grid(alpha=0.3)
        panels[0][0].set_ylabel("macro-average accuracy, %")
        entries = {
            label: mark for axes in panels[0] for mark, label in zip(*axes.get_legend_handles_labels(), strict=True)
        }
        figure.legend(entries.values(), entries.keys(), loc="outside lower center", ncols=4, frameon=False)
        figure.savefig(png, format="png", dpi=120)
    return png.getvalue()


def _point(axes: Any, result: Result, label: str, **style: Any) -> None:
    statistic = result["macro_accuracy"]
    axes.errorbar(
        result["macs"] / 1e6,
        100 * statistic["mean"],
        100 * (statistic["sd"] or 0),
        label=figure_text(label),
        capsize=3,
        **style,
    )

"""The report of a sweep: means and deviations over seeds, beside the published figures.

    tinyscene report OUT        # or with bundles, on one page: benchmarks/report/

From `results.csv` in the sweep's folder alone: per split and run the mean and the sample standard deviation over
seeds of accuracy, macro-average accuracy and log loss, by class, device and device group; the accuracy against the
MACs; and what is not done, with the reason. Where the splits are folds, the mean and the deviation over them, too.
Writes `report.md`, `report.json` and `accuracy_macs.png` there, all or none. Accuracies in JSON are shares of 1.

The published figures are those of the DCASE 2024 baseline, and of two systems with its network, on the test list of
TAU Urban Acoustic Scenes 2022 Mobile. On other data they stand beside for orientation only, and the report says so.
"""

import io
from dataclasses import fields
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullLocator

from tinyscene.deploy.common.files import write_whole
from tinyscene.deploy.common.text import json_text, printable
from tinyscene.train.runs.figures import figure_style, figure_text
from tinyscene.train.sweep.published import RUNS
from tinyscene.train.sweep.statistic import RunStatistics, Statistic
from tinyscene.train.sweep.status import GROUPS
from tinyscene.train.sweep.summary import ALL_FOLDS, SweepSummary, Unfinished, all_folds, read_summary

MEASURES = {"accuracy": "accuracy, %", "macro_accuracy": "macro-average accuracy, %", "log_loss": "log loss"}
PUBLISHED = "published baseline (TAU)"

Lines = list[list[str]]  # of a table, the first its header


def report(folder: Path) -> SweepSummary:
    """Write the report of a sweep's folder and return its content. Raises InputError if there is nothing to report."""
    summary = read_summary(folder)
    files = {
        "report.json": json_text(summary.as_dict(), indent=2) + "\n",
        "report.md": markdown(summary, folder.resolve().name),
        "accuracy_macs.png": picture(summary),
    }
    for name, content in files.items():  # after all are made
        write_whole(folder / name, content)
    return summary


def markdown(summary: SweepSummary, name: str) -> str:
    """The report as a person reads it: an overview, a table a split, and what is not done."""
    lines = [f"# {name}", "", *_notes(summary), "", "![accuracy against MACs](accuracy_macs.png)"]
    lines += ["", "## Macro-average accuracy, %", "", *_table(overview(summary))]
    for split in summary.splits:
        lines += ["", f"## {split_title(split)}", "", *_table(details(summary, split))]
    if summary.not_done:
        lines += ["", "## Not done", "", *_table(not_done(summary))]
    return "\n".join(lines) + "\n"


def _notes(summary: SweepSummary) -> list[str]:
    """What the figures are, and are not."""
    notes = ["Mean ± sample standard deviation over the runs that are done; - where there is one."]
    published = summary.published
    if published.splits:
        notes += ["", f"Published: {published.source}."]
        notes += ["", *(f"- {system.name}: {system.source}." for system in published.systems)]
    if published.splits and not published.comparable:
        warning = f"This sweep was tested on {summary.test_clips:,} clips of other data"
        notes += ["", f"**{warning}: the published figures are for orientation and cannot be compared with it.**"]
    return notes


def split_title(split: str) -> str:
    return split.capitalize() if split.startswith(ALL_FOLDS) else f"Split {split}"


def overview(summary: SweepSummary) -> Lines:
    """Macro-average accuracies: a row a run, a column a split."""
    results, known, splits = summary.results, summary.published.splits, summary.splits
    cells = {(result.run, result.split): _cell(result.statistics.macro_accuracy, "%") for result in results}
    first = {result.run: result.statistics for result in reversed(results)}
    rows = [
        [run, f"{first[run].macs:,.0f}", f"{first[run].parameters:,.0f}"]
        + [cells.get((run, split), "") for split in splits]
        for run in summary.runs
    ]
    if known:
        one = next(iter(known.values()))
        figures = [_cell(known[split].macro_accuracy, "%") if split in known else "" for split in splits]
        rows.append([PUBLISHED, f"{one.macs:,}", f"{one.parameters:,}", *figures])
    for system in summary.published.systems:
        figures = [f"{system.accuracy[split]:.2f}" if split in known else "" for split in splits]
        rows.append([system.name, f"{system.macs:,}", f"{system.parameters:,}", *figures])
    return [["run", "MACs", "parameters", *splits], *rows]


def details(summary: SweepSummary, split: str) -> Lines:
    """A row a measure, a column a run of one split."""
    results = [result for result in summary.results if result.split == split]
    columns = {result.run: (f"{result.done} of {result.of}", result.statistics) for result in results}
    if split in summary.published.splits:
        columns[PUBLISHED] = (str(RUNS), summary.published.splits[split])
    rows = [["runs done", *(done for done, _ in columns.values())]]
    figures = [vars(known) for _, known in columns.values()]
    for measure, title in MEASURES.items():
        unit = "%" if title.endswith("%") else ""
        rows.append([title, *(_cell(column[measure], unit) for column in figures)])
    for key, title in GROUPS.items():
        for name in dict.fromkeys(name for result in results for name in getattr(result.statistics, key)):
            rows.append([f"{title} {name}, %", *(_cell(column[key].get(name), "%") for column in figures)])
    return [["", *columns], *rows]


def not_done(summary: SweepSummary) -> Lines:
    """The runs that are not done, with the reason."""
    columns = [field.name for field in fields(Unfinished)]
    return [columns, *(list(vars(run).values()) for run in summary.not_done)]


def _cell(statistic: Statistic | None, unit: str) -> str:
    if statistic is None:
        return ""
    scale, digits = (100, 2) if unit == "%" else (1, 3)
    mean = f"{scale * statistic.mean:.{digits}f}"
    if statistic.sd is not None:
        return f"{mean} ± {scale * statistic.sd:.{digits}f}"
    return f"{mean} ± -" if statistic.count == 1 else mean


def _table(lines: Lines) -> list[str]:
    lines = [lines[0], ["---"] * len(lines[0]), *lines[1:]]
    return ["| " + " | ".join(printable(cell).replace("|", "\\|") for cell in line) + " |" for line in lines]


def picture(summary: SweepSummary) -> bytes:
    """Macro-average accuracy against MACs as a PNG: a panel a split, or one of all folds, with a point a run."""
    results = [result for result in summary.results if all_folds(result.split) not in summary.splits]
    splits = list(dict.fromkeys(result.split for result in results))
    colours = {run: f"C{number}" for number, run in enumerate(summary.runs)}
    macs = [result.statistics.macs / 1e6 for result in results]
    published = summary.published
    size = (1.5 + 2.6 * len(splits), 3.8)
    png = io.BytesIO()
    with figure_style():
        figure = Figure(size, layout="constrained")
        panels = figure.subplots(1, len(splits), sharey=True, squeeze=False)
        for axes, split in zip(panels[0], splits, strict=True):
            for result in (result for result in results if result.split == split):
                _point(axes, result.statistics, result.run, color=colours[result.run], marker="o")
            if published.comparable and split in published.splits:
                _point(axes, published.splits[split], PUBLISHED, color="grey", marker="D", mfc="white")
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


def _point(axes: Any, runs: RunStatistics, label: str, **style: Any) -> None:
    statistic = runs.macro_accuracy
    axes.errorbar(
        runs.macs / 1e6,
        100 * statistic.mean,
        100 * (statistic.sd or 0),
        label=figure_text(label),
        capsize=3,
        **style,
    )

"""Which ways of training help recordings of other places and devices, asked of training recordings left out.

    for fold in 0 1 2 3 4 5; do
        python -m tinyscene.benchmarks.experiments.leave_out DATA folds/$fold --fold $fold --responses DATA/mic_ir
        tinyscene sweep benchmarks/experiments/choice.yaml --data folds/$fold --out sweeps/choice/$fold \\
            --set augment.dir_folder=folds/$fold/mic_ir
    done
    python -m tinyscene.benchmarks.experiments.choice sweeps/choice/*

The table, `benchmarks/results/choice.json`, is to choose the recipe `student` by, and not the test list. Differences
to the baseline are paired by fold: same places left out, same seed. Their standard error is over the folds, which share
training recordings, so it is rather too small.
"""

import statistics
from pathlib import Path
from typing import Annotated, Any

import typer

from tinyscene.benchmarks.experiments.results import Out, write_result
from tinyscene.deploy.common.command_line import run_command_line
from tinyscene.deploy.common.errors import InputError
from tinyscene.train.sweep.job import read_record
from tinyscene.train.sweep.summary import read_summary

BASELINE = "baseline"
MACRO = "macro"  # all left-out clips; the other columns are groups of devices


def choice(
    folds: Annotated[list[Path], typer.Argument(help="Folders of the sweeps, one a fold.")],
    out: Out = Path("benchmarks/results/choice.json"),
) -> None:
    """Write the table of the folds."""
    accuracies = [_accuracies(fold) for fold in folds]
    if missing := [fold for fold, runs in zip(folds, accuracies, strict=True) if runs.keys() != accuracies[0].keys()]:
        raise InputError(f"{missing[0]}: has not the runs of {folds[0]}; go on with `tinyscene sweep`")
    rows = [
        {"run": run} | compare([runs[run] for runs in accuracies], [runs[BASELINE] for runs in accuracies])
        for run in accuracies[0]
    ]
    sweep = read_record(folds[0]).sweep.model_dump(mode="json")
    write_result(out, {"sweep": sweep, "folds": len(folds), "rows": rows})


def _accuracies(fold: Path) -> dict[str, dict[str, float]]:
    """Macro accuracy in per cent of each run, over all clips; over a group of devices, accuracy."""
    summary = read_summary(fold)
    if BASELINE not in summary.runs:
        raise InputError(f"{fold}: has no finished run named {BASELINE}")
    return {
        result.run: {
            group: 100 * statistic.mean
            for group, statistic in {
                MACRO: result.statistics.macro_accuracy,
                **result.statistics.by_device_group,
            }.items()
        }
        for result in summary.results
    }


def compare(ours: list[dict[str, float]], theirs: list[dict[str, float]]) -> dict[str, Any]:
    """Mean over the folds of accuracies by group, and of how they differ from others', with its standard error."""
    row: dict[str, Any] = {}
    for group in ours[0]:
        gains = [mine[group] - other[group] for mine, other in zip(ours, theirs, strict=True)]
        row[f"{group}_mean"] = statistics.mean(fold[group] for fold in ours)
        row[f"{group}_gain"] = statistics.mean(gains)
        row[f"{group}_error"] = statistics.stdev(gains) / len(gains) ** 0.5 if len(gains) > 1 else None
    return row


if __name__ == "__main__":
    run_command_line(choice)

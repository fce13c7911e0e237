"""The table of a sweep of record, with what the sweep trained and how long its processes did.

    tinyscene sweep benchmarks/experiments/splits.yaml --data DATA --out sweeps/splits \\
        --set augment.dir_folder=DATA/mic_ir
    python -m tinyscene.benchmarks.experiments.sweep_table sweeps/splits  # writes benchmarks/results/splits.json

The table is the one of `tinyscene report` (train/sweep/report.py): accuracies are shares of 1, `seconds` those that
a run trained, on one core each where the sweep is of one process a core. A sweep that is not done is refused.
"""

from pathlib import Path
from typing import Annotated

import typer

from tinyscene.benchmarks.experiments.results import write_result
from tinyscene.deploy.common.command_line import run_command_line
from tinyscene.deploy.common.errors import InputError
from tinyscene.train.sweep.job import read_record
from tinyscene.train.sweep.summary import ALL_FOLDS, read_summary


def main(
    sweep: Annotated[Path, typer.Argument(help="Folder of a finished sweep.")],
    results: Annotated[Path, typer.Option(help="Folder to write to.")] = Path("benchmarks/results"),
) -> None:
    """Write the table of a sweep under the sweep's own name."""
    record, summary = read_record(sweep), read_summary(sweep)
    if summary.not_done:
        raise InputError(f"{sweep}: {len(summary.not_done)} runs are not done; go on with `tinyscene sweep`")
    done = [result for result in summary.results if not result.split.startswith(ALL_FOLDS)]
    seconds = sum(result.done * (result.statistics.seconds or 0) for result in done)
    write_result(
        results / f"{record.sweep.name}.json",
        {
            "sweep": record.sweep.model_dump(mode="json"),
            "settings": record.settings,
            "seconds": seconds,
            **summary.as_dict(),
        },
    )


if __name__ == "__main__":
    run_command_line(main)

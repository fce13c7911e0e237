"""Latency of record: every runtime of a bundle on this machine, in one process, in turn.

python -m tinyscene.benchmarks.experiments.latency BUNDLE
"""

from pathlib import Path
from typing import Annotated

import typer

from tinyscene.benchmarks.experiments.results import Out, write_result
from tinyscene.benchmarks.latency import LEAST_ROUNDS, host_latency
from tinyscene.deploy.bundle.bundle import open_bundle
from tinyscene.deploy.common.command_line import run_command_line


def main(
    bundle: Annotated[Path, typer.Argument(help="A bundle.")],
    rounds: Annotated[int, typer.Option(min=LEAST_ROUNDS, help="Number of measurements.")] = 500,
    out: Out = Path("benchmarks/results/latency.json"),
) -> None:
    """Measure all runtimes of a bundle and write the table."""
    result = host_latency(open_bundle(bundle), rounds)
    write_result(out, {"bundle": str(bundle), **result.as_dict()})
    for name, row in result.latency.items():
        typer.echo(f"{name}: {row.median_ms:.3f} ms")
    for line in (*result.warnings, *result.missing.values()):
        typer.echo(line, err=True)


if __name__ == "__main__":
    run_command_line(main)

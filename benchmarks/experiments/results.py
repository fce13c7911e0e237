"""Result files: `benchmarks/results/NAME.json`, each with the command, machine and versions that made it."""

import json
import shlex
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from tinyscene.benchmarks.machine import machine
from tinyscene.deploy.common.files import write_whole

Out = Annotated[Path, typer.Option(help="Result file to write.")]
Rounds = Annotated[int, typer.Option(help="Number of measurements.")]


def read_result(path: Path) -> dict[str, Any]:
    """A result file, or an empty one where there is none yet."""
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}


def write_result(path: Path, result: dict[str, Any]) -> None:
    """Write a result file, adding the command, the machine, the versions and the commit."""
    command = shlex.join(["python", "-m", f"tinyscene.benchmarks.experiments.{Path(sys.argv[0]).stem}", *sys.argv[1:]])
    write_whole(path, json.dumps({**result, "made_by": {"command": command, **machine()}}, indent=2) + "\n")

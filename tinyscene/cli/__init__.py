"""The command line: `tinyscene --help` lists the commands."""

import os
from importlib import metadata
from typing import Annotated

import typer

from tinyscene.cli import deploying, measuring, quantizing, sharing, training
from tinyscene.deploy.common.command_line import run_command_line
from tinyscene.deploy.common.processes import PASSIVE_THREADS

app = typer.Typer(no_args_is_help=True, pretty_exceptions_enable=False, rich_markup_mode="markdown")
for commands in (training, quantizing, deploying, measuring, sharing):  # the order of --help
    app.add_typer(commands.app)


@app.callback(invoke_without_command=True)
def version(show: Annotated[bool, typer.Option("--version", help="Print the version and exit.")] = False) -> None:
    """Acoustic scene classification on a microcontroller, from recordings to a model."""
    if show:
        typer.echo(f"tinyscene {metadata.version('tinyscene')}")
        raise typer.Exit


def main() -> None:
    """Run the command line."""
    os.environ.update({**PASSIVE_THREADS, **os.environ})
    run_command_line(app, "tinyscene")

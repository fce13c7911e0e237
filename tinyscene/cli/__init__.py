"""The command line: `tinyscene --help` lists the commands."""

import os
import sys
from importlib import metadata
from typing import Annotated

import typer

from tinyscene.cli import deploying, measuring, quantizing, sharing, training
from tinyscene.deploy.common.errors import InputError, TinysceneError, disk_error
from tinyscene.deploy.common.terminal import messages, show_what_cannot_be_encoded

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
    """Run the command line; one line for what the user can mend, a traceback only for our own mistakes."""
    show_what_cannot_be_encoded()
    # read when torch loads OpenMP: threads that spin while they wait cost small networks several times the work itself
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    try:
        sys.exit(app(prog_name="tinyscene", standalone_mode=False))
    except typer.TyperException as error:
        message = " ".join(error.format_message().split())
        if message:  # empty where the help was shown instead
            context = getattr(error, "ctx", None)
            command = context.command_path if context else "tinyscene"
            _fail(f"{message.rstrip('.')}; see `{command} --help`", InputError.exit_code)
        sys.exit(InputError.exit_code)
    except typer.Abort:
        sys.exit(1)
    except TinysceneError as error:
        _fail(str(error), error.exit_code)
    except OSError as error:
        _fail(str(disk_error(error)), InputError.exit_code)


def _fail(line: str, code: int) -> None:
    messages.print(f"tinyscene: {line}", soft_wrap=True)
    sys.exit(code)

"""How a command ends: what the user can mend is one line and an exit code, a traceback is a mistake of ours."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import typer

from tinyscene.deploy.common.errors import InputError, TinysceneError, disk_error
from tinyscene.deploy.common.terminal import messages, show_what_cannot_be_encoded


def run_command_line(commands: typer.Typer | Callable[..., Any], name: str | None = None) -> NoReturn:
    """Run what the command line asks for and leave with its exit code. Without a name: that of the module, as it runs.

    `commands` are an application of typer, or the one function that is the command.
    """
    show_what_cannot_be_encoded()
    if not isinstance(commands, typer.Typer):
        function, commands = commands, typer.Typer(add_completion=False, pretty_exceptions_enable=False)
        commands.command()(function)
    shown = name or Path(sys.argv[0]).stem
    try:
        sys.exit(commands(prog_name=name, standalone_mode=False))
    except typer.TyperException as error:
        message = " ".join(error.format_message().split())
        if message:  # empty where the help was shown instead
            context = getattr(error, "ctx", None)
            command = context.command_path if context else shown
            _fail(shown, f"{message.rstrip('.')}; see `{command} --help`", InputError.exit_code)
        sys.exit(InputError.exit_code)
    except typer.Abort:
        sys.exit(1)
    except TinysceneError as error:
        _fail(shown, str(error), error.exit_code)
    except OSError as error:
        _fail(shown, str(disk_error(error)), InputError.exit_code)


def _fail(name: str, line: str, code: int) -> NoReturn:
    messages.print(f"{name}: {line}", soft_wrap=True)
    sys.exit(code)

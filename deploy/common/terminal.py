"""What the command line says: results on stdout, as a person reads them or as JSON, and messages on stderr."""

import json
import os
import sys
from typing import Annotated

import typer
from rich.console import Console, Group

Json = Annotated[bool, typer.Option("--json", help="Print one JSON object or list on stdout.")]

console, messages = Console(), Console(stderr=True)
tables = Console(width=max(console.width, 150))  # a narrower terminal wraps, which beats figures cut short


def show(result: object, as_json: bool, shown: str | Group) -> None:
    """Print a result: as JSON, or as a person reads it. Of the processes of torchrun only the first speaks."""
    if os.environ.get("RANK", "0") != "0":
        return
    if as_json:
        sys.stdout.write(json.dumps(result, indent=2) + "\n")
    else:
        is_text = isinstance(shown, str)
        (console if is_text else tables).print(shown, soft_wrap=is_text, markup=False, highlight=False)

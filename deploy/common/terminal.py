"""What the command line says: results on stdout, as a person reads them or as JSON, and messages on stderr."""

import io
import os
import sys
from collections.abc import Iterable
from typing import Annotated, Any

import typer
from rich.console import Console, ConsoleOptions, Group, RenderableType
from rich.segment import Segment
from rich.text import Text

from tinyscene.deploy.common.text import json_text, printable

Json = Annotated[bool, typer.Option("--json", help="Print one JSON object or list on stdout.")]


class PlainConsole(Console):
    """A console that shows text as it is: square brackets are no markup, `:bus:` no emoji, an escape no command."""

    def __init__(self, **options: Any) -> None:
        super().__init__(markup=False, emoji=False, highlight=False, **options)

    def render_str(self, text: str, **options: Any) -> Text:  # where columns are measured
        return super().render_str(printable(text, keep="\n"), **options)

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        for segment in super().render(renderable, options):
            shown = segment.text if segment.control else printable(segment.text, keep="\n")
            yield Segment(shown, segment.style, segment.control)


console, messages = PlainConsole(), PlainConsole(stderr=True)
tables = PlainConsole(width=max(console.width, 150))  # a narrower terminal wraps, which beats figures cut short


def show_what_cannot_be_encoded() -> None:
    """Let standard output and error show characters that their encoding lacks as escapes, rather than fail."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def notice(line: str) -> None:
    """Say something of what goes on, on stderr. Of the processes of torchrun only the first speaks."""
    if os.environ.get("RANK", "0") == "0":
        messages.print(printable(line), soft_wrap=True)


def show(result: object, as_json: bool, shown: str | Group) -> None:
    """Print a result: as JSON, or as a person reads it. Of the processes of torchrun only the first speaks."""
    if os.environ.get("RANK", "0") != "0":
        return
    if as_json:
        sys.stdout.write(json_text(result, indent=2) + "\n")
    else:
        is_text = isinstance(shown, str)
        (console if is_text else tables).print(shown, soft_wrap=is_text)

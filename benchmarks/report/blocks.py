"""What a report is made of on the page: paragraphs, tables, figures, in sections; and how its numbers are written."""

import json
import re
import shlex
from dataclasses import dataclass, field
from typing import Any

from markupsafe import Markup

Content = dict[str, Any]
Lines = list[list[str]]  # of a table, the first its header
NOTHING, TIMES = "\u2013", "\u00d7"  # where nothing was measured; between the sides of a shape
NUMBER = re.compile(rf"[-0-9.,±%M {TIMES}{NOTHING}]*|[0-9]+ of [0-9]+")


@dataclass(frozen=True)
class Text:
    """A paragraph."""

    text: str
    kind: str = "text"


@dataclass(frozen=True)
class Missing:
    """What is not known yet, and the command that would tell."""

    what: str
    command: str
    kind: str = "missing"


@dataclass(frozen=True)
class Facts:
    """The figures to be seen first: a term, a value and what it is measured in or held against."""

    facts: list[tuple[str, str, str]]
    kind: str = "facts"


@dataclass(frozen=True)
class Table:
    """Lines under a header; the first cell of each names it."""

    caption: str
    lines: Lines
    note: str = ""
    shades: list[list[float]] = field(default_factory=list)  # for each cell but the first of a line, 0 to 1
    look: str = "plain"  # or matrix, whose head stands upright, or list, whose cells are words
    is_folded: bool = False
    has_total: bool = False  # in its last line
    kind: str = "table"

    def is_number(self, column: int) -> bool:
        """Whether a column is set flush right."""
        return self.look != "list" and all(NUMBER.fullmatch(line[column]) for line in self.lines[1:])


@dataclass(frozen=True)
class Figure:
    """A picture with the text that stands in its place."""

    svg: Markup
    alt: str
    caption: str
    look: str = "plot"  # or wide
    kind: str = "figure"


Block = Text | Missing | Facts | Table | Figure


@dataclass(frozen=True)
class Section:
    """A part of the page; its `ident` is where links lead."""

    ident: str
    title: str
    blocks: list[Block]
    parts: list["Section"] = field(default_factory=list)


def flat(value: Content, prefix: str = "") -> Lines:
    """A nested object as lines of key and value."""
    lines = []
    for key, member in value.items():
        if isinstance(member, dict) and member:
            lines += flat(member, f"{prefix}{key}.")
        else:
            lines.append([f"{prefix}{key}", member if isinstance(member, str) else json.dumps(member)])
    return lines


def evaluate_command(bundle: Content) -> str:
    return f"tinyscene evaluate {shlex.quote(bundle['folder'])} --data DATA"


def bench_command(bundle: Content) -> str:
    return f"tinyscene bench {shlex.quote(bundle['folder'])}"


def count(value: int | None) -> str:
    return NOTHING if value is None else f"{value:,}"


def percent(share: float | None) -> str:
    return NOTHING if share is None else f"{100 * share:.2f}"


def millions(count: int | None) -> str:
    return NOTHING if count is None else f"{count / 1e6:.2f}"


def milliseconds(value: float | None) -> str:
    return NOTHING if value is None else f"{value:.3f}"

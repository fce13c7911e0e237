"""Progress of long jobs: items done, rate and time left. A bar on a terminal, one line in a notebook, else nothing.

The line of a notebook is one for each cell: what runs in it later takes the place of what ran before.
"""

import contextlib
import math
import os
import time
from collections.abc import Callable, Iterator
from typing import Any, ClassVar

from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, Task, TextColumn, TimeRemainingColumn
from rich.text import Text

from tinyscene.deploy.common.terminal import PlainConsole
from tinyscene.deploy.common.text import printable

SECONDS_A_LINE = 0.2  # in a notebook


class _Rate(ProgressColumn):
    def render(self, task: Task) -> Text:
        return Text(f"{task.speed:,.0f}/s" if task.speed else "", style="progress.data.speed")


class NotebookLine:
    """A line below the cell that runs, which is written anew in place."""

    _shown: ClassVar[tuple[int, Any]] = (-1, None)  # number of the cell, and the handle of its line

    def __init__(self, title: str, total: int, done: int) -> None:
        self.title, self.total, self.done, self.first = title, total, done, done
        self.started, self.written = time.monotonic(), -math.inf

    def advance(self, items: int) -> None:
        """Count items that were just finished. The line is written a few times a second, and at the end."""
        self.done += items
        now = time.monotonic()
        if now - self.written >= SECONDS_A_LINE or self.done >= self.total:
            self.written = now
            self._write(self.text(now - self.started))

    def text(self, seconds: float) -> str:
        """The line after this many seconds."""
        rate = (self.done - self.first) / seconds if seconds > 0 else 0
        left = f", {(self.total - self.done) / rate:,.0f} s left" if rate and self.done < self.total else ""
        return f"{self.title}: {self.done:,} of {self.total:,}, {rate:,.0f}/s{left}"

    def _write(self, line: str) -> None:
        from IPython import get_ipython  # pyright: ignore[reportMissingImports] # only where a notebook runs
        from IPython.display import display  # pyright: ignore[reportMissingImports]

        cell = get_ipython().execution_count
        content = {"text/plain": printable(line)}
        number, handle = NotebookLine._shown
        if number == cell:
            handle.update(content, raw=True)
        else:
            NotebookLine._shown = cell, display(content, raw=True, display_id=True)


@contextlib.contextmanager
def progress(title: str, total: int, done: int = 0) -> Iterator[Callable[[int], None]]:
    """Show a bar while the block runs; call what is yielded with the number of items just finished."""
    console = PlainConsole(stderr=True)
    if console.is_jupyter:
        yield NotebookLine(title, total, done).advance
        return
    if not console.is_terminal or os.environ.get("RANK", "0") != "0":  # of torchrun's processes one speaks
        yield lambda items: None  # noqa: ARG005 - nobody watches
        return
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        _Rate(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task(title, total=total, completed=done)
        yield lambda items: bar.advance(task, items)

"""Progress bars of long jobs: items done, rate and time left, on stderr, silent when it is no terminal."""

import contextlib
import os
from collections.abc import Callable, Iterator

from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, Task, TextColumn, TimeRemainingColumn
from rich.text import Text

from tinyscene.deploy.common.terminal import PlainConsole


class _Rate(ProgressColumn):
    def render(self, task: Task) -> Text:
        return Text(f"{task.speed:,.0f}/s" if task.speed else "", style="progress.data.speed")


@contextlib.contextmanager
def progress(title: str, total: int, done: int = 0) -> Iterator[Callable[[int], None]]:
    """Show a bar while the block runs; call what is yielded with the number of items just finished."""
    console = PlainConsole(stderr=True)
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

"""Progress in a notebook: one line that is written anew in place."""

import sys
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from tinyscene.deploy.common import progress as module
from tinyscene.deploy.common.progress import NotebookLine, progress


class Handle:
    def __init__(self, lines: list[str], content: dict[str, str]) -> None:
        self.lines = lines
        self.lines.append(content["text/plain"])

    def update(self, content: dict[str, str], raw: bool) -> None:
        self.lines[-1] = content["text/plain"]


@pytest.fixture
def notebook(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """A stand-in of IPython's kernel: the number of the cell that runs, and the lines below the cells."""
    state = SimpleNamespace(execution_count=1, lines=[])

    def display(content: dict[str, str], raw: bool, display_id: bool) -> Handle:
        return Handle(state.lines, content)

    ipython, shown = ModuleType("IPython"), ModuleType("IPython.display")
    ipython.get_ipython = lambda: state  # type: ignore[attr-defined]
    shown.display = display  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "IPython", ipython)
    monkeypatch.setitem(sys.modules, "IPython.display", shown)
    monkeypatch.setattr(NotebookLine, "_shown", (-1, None))
    console: Any = lambda **_: SimpleNamespace(is_jupyter=True, is_terminal=False)  # noqa: E731
    monkeypatch.setattr(module, "PlainConsole", console)
    return state


def work(title: str, total: int) -> None:
    with progress(title, total) as advance:
        for _ in range(total):
            advance(1)


def test_a_job_leaves_one_line_that_says_it_is_done(notebook: SimpleNamespace) -> None:
    work("training", 300)
    assert len(notebook.lines) == 1
    assert notebook.lines[0].startswith("training: 300 of 300, ")


def test_the_jobs_of_a_cell_share_its_line(notebook: SimpleNamespace) -> None:
    work("decoding", 3)
    work("training", 5)
    assert [line.partition(",")[0] for line in notebook.lines] == ["training: 5 of 5"]


def test_another_cell_has_a_line_of_its_own(notebook: SimpleNamespace) -> None:
    work("training", 5)
    notebook.execution_count = 2
    work("evaluating", 4)
    assert [line.partition(",")[0] for line in notebook.lines] == ["training: 5 of 5", "evaluating: 4 of 4"]

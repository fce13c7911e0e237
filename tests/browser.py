"""What tests of pages share: a browser, or the reason why there is none, and a page that is watched."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import pytest

from tinyscene.benchmarks.experiments.browser import open_browser
from tinyscene.deploy.common.errors import InputError


@contextmanager
def browser_or_skip(*options: str) -> Iterator[Any]:
    """A playwright browser with these options of its command line; the test is skipped where there is none."""
    with ExitStack() as stack:
        try:
            browser = stack.enter_context(open_browser(*options))
        except InputError as error:
            pytest.skip(str(error))
        yield browser


class Watched:
    """A page in a context of its own, with what it says on the console and asks for."""

    def __init__(self, browser: Any, **context: Any) -> None:
        self.context = browser.new_context(**context)
        self.page = self.context.new_page()
        self.faults: list[str] = []
        self.requests: list[str] = []
        self.page.on("console", lambda message: self.faults.append(f"{message.type}: {message.text}"))
        self.page.on("pageerror", lambda error: self.faults.append(str(error)))
        self.context.on("request", lambda request: self.requests.append(request.url))

    def close(self) -> None:
        self.context.close()


def violations(page: Any) -> list[str]:
    """What axe-core, a checker of accessibility, finds wrong with the page as it is."""
    axe = pytest.importorskip("axe_playwright_python.sync_playwright")
    found = axe.Axe().run(page).response["violations"]
    return [f"{each['id']}: {node['target']} {node['failureSummary']}" for each in found for node in each["nodes"]]


def overflow(page: Any) -> int:
    """How many pixels a page is wider than its window."""
    return page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")

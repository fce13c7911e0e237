"""A browser without a window, for pictures of pages and for their tests: the system's Chromium, driven by playwright.

with open_browser() as browser:
    page = browser.new_page()
"""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from tinyscene.deploy.common.errors import InputError
from tinyscene.deploy.common.installation import require

if TYPE_CHECKING:
    from playwright.sync_api import Browser

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")


@contextmanager
def open_browser(*options: str) -> "Iterator[Browser]":
    """A browser with these options of its command line, closed at the end. Raises InputError where there is none."""
    program = next(filter(None, map(shutil.which, NAMES)), None)
    if program is None:
        raise InputError("Chromium is not installed: `make tools` installs it on Debian and Ubuntu")
    require("playwright", "dev")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=options)
        try:
            yield browser
        finally:
            browser.close()

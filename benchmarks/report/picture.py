"""The picture of a report for the README: the page in a browser without a window.

report_picture([Path("bundles/first")])     # PNG
"""

import tempfile
from pathlib import Path

from benchmarks.browser import open_browser
from benchmarks.report import PAGE, write_report

WIDTH, HEIGHT = 1280, 1600  # of the window, in pixels of the page


def report_picture(folders: list[Path]) -> bytes:
    """The top of the page that reports bundles and sweeps: PNG. Raises InputError as `write_report` does."""
    with tempfile.TemporaryDirectory(prefix="tinyscene-") as folder, open_browser() as browser:
        out = Path(folder) / "report"
        write_report(folders, out)
        page = browser.new_page(viewport={"width": WIDTH, "height": HEIGHT}, color_scheme="light")
        page.goto((out / PAGE).as_uri())
        return page.screenshot()

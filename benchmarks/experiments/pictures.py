"""The README's pictures, made of the pages themselves in a browser without a window.

    python -m tinyscene.benchmarks.experiments.pictures web BUNDLE --sound FILE  # web.png: the page with that file
    python -m tinyscene.benchmarks.experiments.pictures report BUNDLES SWEEPS    # report.png: the top of the report;
                                                                                 # and report.json, all its figures

A picture has the same size whatever is in it, and colours from a table of 256, which its bytes are few by.
"""

import io
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from PIL import Image

from tinyscene.benchmarks.experiments.browser import open_browser
from tinyscene.benchmarks.experiments.results import write_result
from tinyscene.benchmarks.report import PAGE, write_report
from tinyscene.deploy.bundle.bundle import open_bundle
from tinyscene.deploy.common.command_line import run_command_line
from tinyscene.deploy.common.errors import InputError
from tinyscene.deploy.common.files import write_whole
from tinyscene.firmware_bridge.web import write_site

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, help=__doc__)

PICTURES, RESULTS = Path("docs/images"), Path("benchmarks/results")
WIDTH, HEIGHT, SCALE = 1180, 900, 1.5  # of the window, in pixels of the page; and pixels of the picture for each
COLOURS = 256


@app.callback()
def pictures() -> None:
    """Make one of the README's pictures."""


@app.command()
def web(
    bundle: Annotated[Path, typer.Argument(help="A bundle.")],
    sound: Annotated[Path, typer.Option(help="Sound file that the page classifies.")],
) -> None:
    """Make the picture of the web page."""
    write_whole(PICTURES / "web.png", picture_of_web(bundle, sound))


@app.command()
def report(folders: Annotated[list[Path], typer.Argument(help="Bundles and sweeps.")]) -> None:
    """Make the picture of the report."""
    picture, figures = picture_of_report(folders)
    write_whole(PICTURES / "report.png", picture)
    write_result(RESULTS / "report.json", figures)


def picture_of_web(bundle: Path, sound: Path) -> bytes:
    """The web page, having classified a file: PNG."""
    if not sound.is_file():
        raise InputError(f"{sound}: no such file")
    with tempfile.TemporaryDirectory(prefix="tinyscene-") as folder, open_browser() as browser:
        site = Path(folder) / "site"
        write_site(open_bundle(bundle), site)
        page = new_page(browser)
        page.goto((site / "index.html").as_uri())
        page.set_input_files("#file:enabled", sound)
        page.wait_for_selector("#seconds button, #status.fault")
        if not page.is_visible("#seconds"):
            raise InputError(page.inner_text("#status"))
        return fewer_colours(page.screenshot())


def picture_of_report(folders: list[Path]) -> tuple[bytes, dict[str, Any]]:
    """The top of the page that reports bundles and sweeps, PNG, and its figures. Raises InputError as it does."""
    with tempfile.TemporaryDirectory(prefix="tinyscene-") as folder, open_browser() as browser:
        out = Path(folder) / "report"
        figures = write_report(folders, out)
        page = new_page(browser)
        page.goto((out / PAGE).as_uri())
        return fewer_colours(page.screenshot()), figures


def new_page(browser: "Browser") -> "Page":
    """A window of the pictures' size, with nothing in it that moves."""
    return browser.new_page(
        viewport={"width": WIDTH, "height": HEIGHT},
        device_scale_factor=SCALE,
        color_scheme="light",
        reduced_motion="reduce",
    )


def fewer_colours(png: bytes) -> bytes:
    """The same picture with a table of colours."""
    reduced = Image.open(io.BytesIO(png)).convert("RGB").quantize(COLOURS, dither=Image.Dither.NONE)
    written = io.BytesIO()
    reduced.save(written, "PNG", optimize=True)
    return written.getvalue()


if __name__ == "__main__":
    run_command_line(app)

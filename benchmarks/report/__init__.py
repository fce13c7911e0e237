"""The report: one HTML page that opens from disk, with plots, and the same as Markdown and JSON.

    tinyscene report bundles/* sweeps/* --out report/

    write_report([Path("bundles/first"), Path("sweeps/one")], Path("report"))

Everything on the page is in the folders that are named: what `quantize` wrote into a bundle, what `evaluate` and
`bench` recorded in it, and the results of a sweep. The plan of the arena is made anew, as `firmware` makes it. What
was not measured yet is named with the command that does. The same folders always give the same bytes.

    sources.py      reads bundles and sweeps: the content of report.json
    page.py         the content as sections of text, tables and figures
    plots.py        the figures, as SVG that takes up the page's colours
    page.html.j2, page.css, page.md.j2      how sections are written down
    mistakes.py     another page: the most confident mistakes, with their sounds

The page needs no network and runs no script; its policy forbids both, for names and labels in it may come from
bundles of strangers.
"""

from pathlib import Path
from typing import Any

from tinyscene.benchmarks.report.page import make_page
from tinyscene.benchmarks.report.render import render
from tinyscene.benchmarks.report.sources import read_sources
from tinyscene.deploy.common.files import replacing_folder, require_free, write_whole
from tinyscene.deploy.common.provenance import provenance
from tinyscene.deploy.common.text import json_text

PAGE, MARKDOWN, CONTENT = "index.html", "report.md", "report.json"


def write_report(sources: list[Path], out: Path) -> dict[str, Any]:
    """Write the report of bundles and sweeps into a new folder, whole or not at all; its content.

    Raises InputError if a source is neither, holds no results or cannot be trusted, or if `out` is taken.
    """
    require_free(out)
    read = read_sources(sources)
    page, content = make_page(read), read.as_dict()
    files = {
        PAGE: render("page.html.j2", page=page, made_by=provenance()),
        MARKDOWN: render("page.md.j2", page=page),
        CONTENT: json_text(content, indent=2) + "\n",
    }
    with replacing_folder(out) as temporary:
        for name, written in files.items():
            write_whole(temporary / name, written)
    return content

"""The report of bundles and sweeps."""

import os
from pathlib import Path
from typing import Any

from tinyscene.deploy.common.errors import InputError
from tinyscene.deploy.common.installation import require
from tinyscene.interface.bundle import is_bundle
from tinyscene.interface.paths import AnyPaths, paths_of


def report(folders: AnyPaths, out: "str | os.PathLike[str] | None" = None) -> dict[str, Any]:
    """Report bundles and sweeps on one HTML page, and as Markdown and JSON. Returns the content.

    `out` is the folder to write; a single sweep is by default reported in its own. Raises InputError for a folder that
    is neither, or where `out` is taken or is needed and missing.
    """
    require("torch", "train")
    paths = paths_of(folders)
    if out is not None:
        from tinyscene.benchmarks.report import write_report

        return write_report(paths, Path(out))
    if len(paths) > 1 or is_bundle(paths[0]):
        raise InputError("--out: name the folder to write; only a single sweep is reported in its own folder")
    from tinyscene.train.sweep.report import report as report_sweep

    return report_sweep(paths[0]).as_dict()

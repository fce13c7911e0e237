"""Commands in processes of their own that start at once: forked from one that has imported everything."""

import multiprocessing
import os
import sys
from multiprocessing.process import BaseProcess
from pathlib import Path

from tinyscene.cli import main

CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(
    [
        "tests.processes",
        "tinyscene.train.export",
        "tinyscene.train.teachers.logits",
        "tinyscene.train.fine_tuning.prune",
        "tinyscene.train.quantize.quantize",
    ]
)


def start(log: Path, cache: Path, *arguments: object) -> BaseProcess:
    """Start a command with its messages in a file."""
    process = CONTEXT.Process(target=_command, args=(log, cache, tuple(map(str, arguments))))
    process.start()
    return process


def finish(log: Path, cache: Path, *arguments: object) -> int:
    """Run a command to its end. Returns its exit code."""
    process = start(log, cache, *arguments)
    process.join()
    assert process.exitcode is not None
    return process.exitcode


def _command(log: Path, cache: Path, arguments: tuple[str, ...]) -> None:
    with log.open("ab") as handle:
        os.dup2(handle.fileno(), 1)
        os.dup2(handle.fileno(), 2)
    os.environ["TINYSCENE_CACHE"] = str(cache)
    sys.argv = ["tinyscene", *arguments]
    main()

"""Commands in processes of their own that start at once: forked from one that has imported everything."""

import multiprocessing
import os
import signal
import sys
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from tinyscene.cli import main

WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT
EVENTS = ("open", "os.mkdir", "os.remove", "os.rename", "os.rmdir", "os.truncate")  # of sys.addaudithook
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


@dataclass(frozen=True)
class Strike:
    """Kill a command at one of its writes: the `at`-th time that it creates, fills, syncs, renames or removes a file.

    Of a file that is written in one piece, half is written. `counted` gets the number of writes of a command that ends.
    """

    at: int  # from 1; 0 never
    counted: Path


def start(log: Path, cache: Path, *arguments: object, strike: Strike | None = None) -> BaseProcess:
    """Start a command with its messages in a file."""
    process = CONTEXT.Process(target=_command, args=(log, cache, tuple(map(str, arguments)), strike))
    process.start()
    return process


def finish(log: Path, cache: Path, *arguments: object, strike: Strike | None = None) -> int:
    """Run a command to its end, or until it is struck. Returns its exit code."""
    process = start(log, cache, *arguments, strike=strike)
    process.join()
    assert process.exitcode is not None
    return process.exitcode


def _command(log: Path, cache: Path, arguments: tuple[str, ...], strike: Strike | None) -> None:
    with log.open("ab") as handle:
        os.dup2(handle.fileno(), 1)
        os.dup2(handle.fileno(), 2)
    os.environ["TINYSCENE_CACHE"] = str(cache)
    sys.argv = ["tinyscene", *arguments]
    writes = _lie_in_wait(strike) if strike else lambda: 0
    try:
        main()
    finally:
        if strike:
            strike.counted.write_text(str(writes()))


def _lie_in_wait(strike: Strike) -> Callable[[], int]:
    """Count writes below the folder of `strike.counted`; die at the one that is struck. Returns its reader."""
    root, count = str(strike.counted.parent), 0
    write_bytes, fsync = Path.write_bytes, os.fsync

    def write() -> bool:
        nonlocal count
        count += 1
        return count == strike.at

    def die_at(is_struck: bool) -> None:
        if is_struck:
            os.kill(os.getpid(), signal.SIGKILL)

    def audit(event: str, arguments: tuple[Any, ...]) -> None:
        if event not in EVENTS or not str(arguments[0]).startswith(root):
            return
        if event != "open" or (isinstance(arguments[2], int) and arguments[2] & WRITING):
            die_at(write())

    def write_half(path: Path, content: bytes) -> int:
        if write():
            write_bytes(path, content[: len(content) // 2])
            die_at(True)
        return write_bytes(path, content)

    def sync(handle: int) -> None:
        die_at(write())
        fsync(handle)

    sys.addaudithook(audit)
    Path.write_bytes, os.fsync = write_half, sync  # type: ignore[method-assign, assignment]
    return lambda: count

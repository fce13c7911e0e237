"""Commands that are struck at one of their writes: killed there, or told that the disk is full or read-only.

Every call of libc that writes below a folder is counted (`strike.c`). A full or read-only disk stays as it is from the
call that is struck on; of what is written by that call, half is. Linux only, with a C compiler.

    with Striker(tmp_path) as striker:
        result = striker.run(["firmware", bundle, "--out", out], out.parent, Strike(at=3, mode=errno.ENOSPC))
"""

import ctypes
import errno
import importlib
import json
import os
import shutil
import signal
import subprocess
import sys
import traceback
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests import ROOT

KILL = -1
CLI = "tinyscene.cli"
MODES = {"killed": KILL, "full": errno.ENOSPC, "read-only": errno.EROFS}
PRELOADED = {
    "train": ["data.sample", "export", "runs.evaluate", "runs.weights", "sweep.sweep", "teachers.logits"],
    "train.fine_tuning": ["adapt", "prune"],
    "train.quantize": ["quantize"],
    "train.sweep": ["job"],
    "firmware_bridge": ["firmware", "native", "web"],
    "benchmarks": ["bench", "report"],
    "deploy": ["graph.onnx_writer", "graph.tflite_writer", "live.classifier"],
}


@dataclass(frozen=True)
class Strike:
    """At which of its writes a command is struck, from 1, and how: KILL or an errno."""

    at: int
    mode: int


@dataclass(frozen=True)
class Result:
    """How a command ended, and what it said."""

    code: int
    out: str
    err: str
    calls: list[str] = field(default_factory=list)  # that write, such as `create /folder/file`, if nothing struck


class Striker:
    """Starts commands by forking a process that has imported everything and has strike.c loaded."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def __enter__(self) -> "Striker":
        library = self._folder / "strike.so"
        source = Path(__file__).with_name("strike.c")
        compiler = shutil.which("cc") or "gcc"
        subprocess.run([compiler, "-shared", "-fPIC", "-O1", "-o", library, source, "-ldl"], check=True)
        environment = os.environ | {
            "LD_PRELOAD": str(library),
            "PYTHONPATH": str(ROOT),
            "OMP_NUM_THREADS": "1",
            "GIT_DIR": os.devnull,  # no git state: a source that is changed meanwhile would be taken for other output
        }
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.strikes", library],
            env=environment,
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        return self

    def __exit__(self, *_: object) -> None:
        self._process.communicate()

    def run(
        self,
        arguments: list[Any],
        root: Path,
        strike: Strike | None = None,
        module: str = CLI,
        constants: dict[str, Path] | None = None,
        **environment: object,
    ) -> Result:
        """Run the main function of a module to its end, or until it is struck below `root`.

        `constants` are paths by the full names of those that they take the place of.
        """
        order = {
            "arguments": [str(each) for each in arguments],
            "root": str(root),
            "module": module,
            "constants": {key: str(value) for key, value in (constants or {}).items()},
            "strike": (strike.at, strike.mode) if strike else (0, 0),
            "environment": {key: str(value) for key, value in environment.items()},
            "folder": str(self._folder),
        }
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(order) + "\n")
        self._process.stdin.flush()
        code = int(self._process.stdout.readline())
        out, err, calls = ((self._folder / name).read_text(errors="replace") for name in ("out", "err", "calls"))
        return Result(code, out, err, [] if strike else calls.splitlines())


def _serve(library: str) -> None:
    """Run the commands that come on stdin, one at a time, each in a fork; answer with exit codes."""
    del os.environ["LD_PRELOAD"]  # what a command starts is not struck
    for package, names in PRELOADED.items():
        for name in names:
            __import__(f"tinyscene.{package}.{name}")
    for line in sys.stdin:
        process = os.fork()
        if process == 0:
            os._exit(_obey(json.loads(line), library))
        print(os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]), flush=True)


def _obey(order: dict[str, Any], library: str) -> int:
    folder = Path(order["folder"])
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    for handle, name in ((1, "out"), (2, "err")):
        os.dup2(os.open(folder / name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), handle)
    calls = os.open(folder / "calls", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.environ |= order["environment"]
    sys.argv = ["tinyscene", *order["arguments"]]
    for name, value in order["constants"].items():
        owner, _, constant = name.rpartition(".")
        setattr(importlib.import_module(owner), constant, Path(value))
    module = importlib.import_module(order["module"])
    at, mode = order["strike"]
    ctypes.CDLL(library).tinyscene_strike(at, mode, order["root"].encode(), -1 if at else calls)
    signal.alarm(300)
    try:
        module.main()
    except SystemExit as end:
        return int(end.code or 0)
    except BaseException:
        traceback.print_exc()
        return 1
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
    return 0


if __name__ == "__main__":
    _serve(sys.argv[1])

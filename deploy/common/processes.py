"""Child processes of this interpreter, the cores that they may use, and the machine's load."""

import os
import sys

# read when torch loads OpenMP: threads that spin while they wait cost small networks several times the work itself
PASSIVE_THREADS = {"OMP_WAIT_POLICY": "PASSIVE"}


def python_module(name: str, *arguments: str) -> list[str]:
    """The command line that runs a module in a child interpreter.

    -P keeps the working folder off the import path: a user's train.py or numpy.py there is never imported.
    """
    return [sys.executable, "-P", "-m", name, *arguments]


def available_cores() -> int:
    """How many cores this process may use; all of the machine where the system does not say."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def load_average() -> tuple[float, float, float] | None:
    """The machine's load over 1, 5 and 15 minutes; None where the system does not say (Windows)."""
    return os.getloadavg() if hasattr(os, "getloadavg") else None

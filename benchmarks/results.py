"""Result files: `benchmarks/results/NAME.json`, each with the command, machine and versions that made it."""

import json
import os
import platform
import sys
from pathlib import Path
from typing import Any

from deploy.files import write_whole
from deploy.provenance import provenance


def read_result(path: Path) -> dict[str, Any]:
    """A result file, or an empty one where there is none yet."""
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}


def write_result(path: Path, result: dict[str, Any]) -> None:
    """Write a result file, adding the command, the machine, the versions and the commit."""
    made_by = {
        "command": " ".join(["python", "-m", f"benchmarks.{Path(sys.argv[0]).stem}", *sys.argv[1:]]),
        "cpu": _processor(),
        "cores": os.cpu_count(),
        **provenance(),
    }
    write_whole(path, json.dumps({**result, "made_by": made_by}, indent=2) + "\n")


def _processor() -> str:
    """The processor's name as Linux knows it."""
    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines() if Path("/proc/cpuinfo").exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()

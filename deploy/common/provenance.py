"""What made an artefact: versions and git state, recorded in everything that is written."""

import platform
import subprocess
from functools import lru_cache
from importlib import metadata
from pathlib import Path

METADATA_KEY = "tinyscene"  # under which a model file carries labels, front end and what made it

_PACKAGES = ("tinyscene", "numpy", "soundfile", "torch", "torchinfo", "onnx", "onnxruntime", "ai-edge-litert")


@lru_cache(maxsize=1)
def provenance() -> dict[str, object]:
    """Versions of Python and of the packages that decide results, the machine, and tinyscene's git state."""
    versions = {}
    for package in _PACKAGES:
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return {
        "python": platform.python_version(),
        "machine": f"{platform.system()} {platform.machine()}",
        "versions": versions,
        "git": _git_state(),
    }


def _git_state() -> dict[str, object] | None:
    """Commit of the source checkout and whether it was changed; none when installed from a package."""
    root = Path(__file__).resolve().parents[2]
    if not (root / ".git").exists():
        return None
    try:
        commit = _git(root, "rev-parse", "HEAD")
        return {"commit": commit, "dirty": bool(_git(root, "status", "--porcelain", "--untracked-files=no"))}
    except (OSError, subprocess.CalledProcessError):
        return None


def _git(root: Path, *arguments: str) -> str:
    command = ["git", "-C", str(root), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

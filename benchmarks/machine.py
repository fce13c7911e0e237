"""What a figure was measured on: processor, vector instructions, cores, load, versions, commit."""

import os
import platform
from contextlib import suppress
from importlib import metadata
from pathlib import Path
from typing import Any

from tinyscene.deploy.common.processes import load_average
from tinyscene.deploy.common.provenance import provenance

FLAGS = {  # of /proc/cpuinfo: those that decide how fast 8-bit and float convolutions are
    *("sse4_1", "avx", "avx2", "fma", "f16c", "avx_vnni", "avx512f", "avx512bw", "avx512_vnni", "avx512_bf16"),
    *("avx512_fp16", "amx_tile", "amx_int8", "amx_bf16"),
    *("asimd", "asimddp", "asimdhp", "i8mm", "sve", "sve2", "bf16"),
}
PEERS = ("tflite-runtime", "tflite-micro", "ethos-u-vela", "ziglang", "unicorn")  # whose versions decide, too


def machine() -> dict[str, Any]:
    """The machine as Linux tells it, and what tinyscene's provenance has, with the versions of its peers."""
    made_by = provenance()
    known = made_by["versions"]
    assert isinstance(known, dict)
    versions = dict(known)
    for package in PEERS:
        with suppress(metadata.PackageNotFoundError):
            versions[package] = metadata.version(package)
    info = _cpuinfo()
    flags = set((info.get("flags") or info.get("Features") or "").split())
    governor = Path("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor")
    return {
        "cpu": info.get("model name") or platform.processor() or platform.machine(),
        "flags": sorted(flags & FLAGS),
        "cores": os.cpu_count(),
        "governor": governor.read_text(encoding="utf-8").strip() if governor.is_file() else None,
        "load": load_average(),  # before, over 1, 5 and 15 minutes
        "kernel": platform.release(),
        **made_by,
        "versions": versions,
    }


def _cpuinfo() -> dict[str, str]:
    """The first processor of /proc/cpuinfo."""
    path = Path("/proc/cpuinfo")
    text = path.read_text(encoding="utf-8").partition("\n\n")[0] if path.is_file() else ""
    pairs = (line.partition(":") for line in text.splitlines())
    return {key.strip(): value.strip() for key, _, value in pairs}

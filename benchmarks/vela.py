"""Estimate for an Ethos-U by Arm's compiler, Vela. No hardware or emulator is involved.

    estimate(bundle, "ethos-u55-128")

Vela compiles the exported .tflite with its default system and memory configuration for that processor and writes a
summary as CSV, which is read here. It does not include the front end, which runs on the host CPU of the Ethos-U.
"""

import csv
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from tinyscene.benchmarks.measured import Amount, Count, Measured
from tinyscene.deploy.bundle.bundle import Bundle
from tinyscene.deploy.bundle.exports import export
from tinyscene.deploy.common.errors import InputError
from tinyscene.deploy.common.files import temporary_folder
from tinyscene.deploy.common.installation import missing

TARGETS = tuple(
    f"ethos-{name}-{macs}"
    for name, sizes in (("u55", (32, 64, 128, 256)), ("u65", (256, 512)), ("u85", (128, 256, 512, 1024, 2048)))
    for macs in sizes
)


@dataclass(frozen=True)
class Estimate(Measured):
    """Vela's figures for a network on a target."""

    target: str
    compiler: str
    system: str
    memory: str
    clock_hz: Amount
    cycles: Count
    network_ms: Amount
    macs: Count
    sram_bytes: Count  # planned for activations and buffers
    flash_bytes: Count  # weights and commands
    kind: str = "estimate"


def estimate(bundle: Bundle, target: str) -> Estimate:
    """Vela's figures for a bundle on a target of TARGETS. Raises InputError where Vela is missing or fails."""
    vela = shutil.which("vela", path=Path(sys.executable).parent) or shutil.which("vela")
    if vela is None:
        raise missing("vela", "verify")
    with temporary_folder() as folder:
        (folder / "model.tflite").write_bytes(export(bundle, "tflite", small=True))
        command = [vela, "model.tflite", "--accelerator-config", target, "--output-dir", "compiled"]
        ended = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
        summaries = list((folder / "compiled").glob("*_summary_*.csv"))
        if ended.returncode or not summaries:
            message = (ended.stderr or ended.stdout or "it says nothing").strip().splitlines()[-1]
            raise InputError(f"vela does not compile the network for {target} ({message[:160]})")
        with summaries[0].open(encoding="utf-8", newline="") as stream:
            row = next(csv.DictReader(stream))
    return Estimate(
        target=target,
        compiler=f"vela {_version(vela)}",
        system=row["system_config"],
        memory=row["memory_mode"],
        clock_hz=float(row["core_clock"]),
        cycles=int(float(row["cycles_total"])),
        network_ms=1e3 * float(row["inference_time"]),
        macs=int(row["nn_macs"]),
        sram_bytes=_bytes(row["sram_memory_used"]),
        flash_bytes=_bytes(row["on_chip_flash_memory_used"]) + _bytes(row["off_chip_flash_memory_used"]),
    )


def _bytes(kibibytes: str) -> int:
    return round(1024 * float(kibibytes))


def _version(vela: str) -> str:
    return subprocess.run([vela, "--version"], capture_output=True, text=True, check=True).stdout.strip()

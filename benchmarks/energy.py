"""Energy of an inference on this machine, by RAPL, where Linux lets it be read (as root, or by the folder's rights).

    measure_energy(call)       # millijoules a call, of the whole processor

The counter covers the package: all cores, idle ones and those that run other processes. So the figure is an upper
bound, and the power of the idle machine is given with it. Most virtual machines have no such counter.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tinyscene.benchmarks.measured import Amount, Count, Measured

POWERCAP = Path("/sys/class/powercap")
SECONDS = 1.0  # of each measurement; the counter moves about every millisecond


@dataclass(frozen=True)
class Energy(Measured):
    """Of the network on this machine."""

    network_mj: Amount  # millijoules a run
    idle_watts: Amount
    by: str
    calls: Count = 0


class Package:
    """A processor's energy counter, which wraps around at its range."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.range = self._read("max_energy_range_uj")

    def joules(self, work: Callable[[], object]) -> float:
        """Energy used while `work` ran."""
        before = self._read("energy_uj")
        work()
        return (self._read("energy_uj") - before) % (self.range + 1) / 1e6

    def _read(self, name: str) -> int:
        return int((self.folder / name).read_text(encoding="ascii"))


def find_packages(powercap: Path = POWERCAP) -> list[Package]:
    """The counters of all processors; an empty list where there are none or they cannot be read."""
    try:
        packages = [Package(path) for path in sorted(powercap.glob("intel-rapl:[0-9]*")) if path.name.count(":") == 1]
        for package in packages:
            package.joules(lambda: None)
    except (OSError, ValueError):
        return []
    return packages


def measure_energy(call: Callable[[], object], powercap: Path = POWERCAP) -> Energy | None:
    """Millijoules a call and the watts of an idle machine, of all processors; none where they cannot be read."""
    packages = find_packages(powercap)
    if not packages:
        return None
    calls = 0

    def repeat() -> None:
        nonlocal calls
        end = time.perf_counter() + SECONDS
        while time.perf_counter() < end:
            call()
            calls += 1

    idle = _joules(packages, lambda: time.sleep(SECONDS)) / SECONDS
    used = _joules(packages, repeat)
    return Energy(1e3 * used / calls, idle, "RAPL, whole package", calls)


def _joules(packages: list[Package], work: Callable[[], object]) -> float:
    """Of all packages at once."""
    if len(packages) == 1:
        return packages[0].joules(work)
    rest = 0.0

    def inner() -> None:
        nonlocal rest
        rest = _joules(packages[1:], work)

    return packages[0].joules(inner) + rest

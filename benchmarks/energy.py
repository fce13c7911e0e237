"""Energy of an inference on this machine, by RAPL, where Linux lets it be read (as root, or by the folder's rights).

    package_energy(call)       # joules a call, of the whole processor

The counter is of the package: all its cores, the waiting ones and what else runs on them. So it is an upper bound, and
what is idle is given beside it. Virtual machines have none, as a rule.
"""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

POWERCAP = Path("/sys/class/powercap")
SECONDS = 1.0  # of each measurement; the counter moves about every millisecond


class Package:
    """A processor's energy counter, which begins anew at its range."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.range = self._read("max_energy_range_uj")

    def joules(self, work: Callable[[], object]) -> float:
        """What was used while `work` ran."""
        before = self._read("energy_uj")
        work()
        return (self._read("energy_uj") - before) % (self.range + 1) / 1e6

    def _read(self, name: str) -> int:
        return int((self.folder / name).read_text(encoding="ascii"))


def find_packages(powercap: Path = POWERCAP) -> list[Package]:
    """The counters of all processors; none where there are none, or they must not be read."""
    try:
        packages = [Package(path) for path in sorted(powercap.glob("intel-rapl:[0-9]*")) if path.name.count(":") == 1]
        for package in packages:
            package.joules(lambda: None)
    except (OSError, ValueError):
        return []
    return packages


def measure_energy(call: Callable[[], object], powercap: Path = POWERCAP) -> dict[str, Any] | None:
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
    return {"network_mj": 1e3 * used / calls, "idle_watts": idle, "calls": calls, "by": "RAPL, whole package"}


def _joules(packages: list[Package], work: Callable[[], object]) -> float:
    """Of all packages at once."""
    if len(packages) == 1:
        return packages[0].joules(work)
    rest = 0.0

    def inner() -> None:
        nonlocal rest
        rest = _joules(packages[1:], work)

    return packages[0].joules(inner) + rest

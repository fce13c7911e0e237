"""Fuzz every untrusted format, and the C library where clang can: make fuzz, or python -m tests.fuzz [TARGET ...]

Prints tries (of the C library: calls), crashes and peak memory of each target; fails if there is a crash, a try of
more than 10 s or more than 1 GB. Inputs that reached new code are kept in build/fuzz/TARGET, and the next call goes on
from them. What crashed is beside them: once it is mended, move it to tests/fuzz/found/TARGET, where a test tries it
again.
"""

import argparse
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tests import ROOT
from tests.fuzz import c_library
from tests.fuzz.inputs import make_inputs
from tests.fuzz.targets import targets
from tinyscene.deploy.common.processes import python_module

KEPT = ROOT / "build" / "fuzz"
LIMITS = ["-timeout=10", "-rss_limit_mb=1024"]
WORD = re.compile(rb"[A-Za-z_][A-Za-z0-9_.]{2,30}")


@dataclass(frozen=True)
class Outcome:
    """What fuzzing a target came to."""

    target: str
    tries: int
    crashed: bool
    peak: int  # MB

    def __str__(self) -> str:
        return f"{self.target:<16} {self.tries:>10,} {self.crashed:>8} {self.peak:>8}"


def fuzz(target: str, command: list[str], seconds: int, longest: int) -> Outcome:
    """Run a fuzzer on its kept inputs; what it says of a crash is passed on."""
    arguments = [str(KEPT / target), f"-max_total_time={seconds}", f"-max_len={longest}", "-print_final_stats=1"]
    words = KEPT / f"{target}.dict"
    arguments += [f"-artifact_prefix={KEPT / target}.", *LIMITS, *([f"-dict={words}"] if words.stat().st_size else [])]
    with tempfile.TemporaryFile("w+", errors="replace") as said:
        command = [
            "sh",
            "-c",
            '"$@"; exit $?',
            "sh",
            *command,
        ]  # or this process' peak memory would be the child's, too
        done = subprocess.run([*command, *arguments], stdout=said, stderr=said, cwd=ROOT, check=False)
        said.seek(0)
        text = said.read()
    if done.returncode:
        sys.stderr.write(text[-4000:])
    tries = re.search(r"stat::calls: *(\d+)", text) or re.search(r"number_of_executed_units: *(\d+)", text)
    peaks = [int(peak) for peak in re.findall(r"(?:rss: |peak_rss_mb: *)(\d+)", text)]
    return Outcome(target, int(tries[1]) if tries else 0, done.returncode != 0, max(peaks, default=0))


def keep(target: str, seeds: list[bytes]) -> None:
    """Write the first inputs of a target, and their words as a dictionary."""
    (KEPT / target).mkdir(parents=True, exist_ok=True)
    for number, seed in enumerate(seeds):
        (KEPT / target / f"seed{number}").write_bytes(seed)
    words = sorted({word.decode() for seed in seeds for word in WORD.findall(seed)})[:2000]
    (KEPT / f"{target}.dict").write_text("".join(f'"{word}"\n' for word in words))


def outcomes(chosen: list[str], seconds: int) -> Iterator[Outcome]:
    with tempfile.TemporaryDirectory() as folder:
        inputs = make_inputs(Path(folder, "inputs"))
        for name, make in targets(inputs, Path(folder)).items():
            if name in chosen or not chosen:
                target = make()
                keep(name, target.seeds)
                command = python_module("tests.fuzz.one", name, str(inputs.folder))
                yield fuzz(name, command, seconds, target.longest)
        for hop in c_library.HOPS:
            name = f"c_library_{hop}"
            if name in chosen or not chosen:
                keep(name, c_library.SEEDS)
                program = c_library.build(inputs.bundle, hop, Path(folder))
                if program is None:
                    print(f"{name:<16} skipped: {c_library.MISSING}")
                else:
                    yield fuzz(name, [str(program)], seconds, 512)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("targets", nargs="*", help="all, if none is named")
    parser.add_argument("--seconds", type=int, default=60, help="for each target")
    options = parser.parse_args()
    print(f"{'target':<16} {'tries':>10} {'crashes':>8} {'peak MB':>8}", flush=True)
    found = []
    for outcome in outcomes(options.targets, options.seconds):
        print(outcome, flush=True)
        found.append(outcome)
    print(f"{sum(outcome.tries for outcome in found):,} tries", flush=True)
    sys.exit(any(outcome.crashed for outcome in found))


if __name__ == "__main__":
    main()

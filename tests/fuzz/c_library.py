"""The C library of a small network as a program of libFuzzer, with AddressSanitizer and UBSan."""

import shutil
import subprocess
from pathlib import Path

from tinyscene.deploy.bundle.bundle import Bundle, open_bundle
from tinyscene.deploy.bundle.decision import DecisionRule
from tinyscene.deploy.bundle.likeness import Likeness
from tinyscene.deploy.graph.embedding import below_classifier
from tinyscene.firmware_bridge.codegen.library import make_library, write_sources

HOPS = (1.0, 0.25)  # seconds from one decision to the next: windows that overlap are kept otherwise, have a rule, learn
BACKLOG = 701  # samples, with the second
FLAGS = [
    "-std=c11",
    "-O1",
    "-g",
    "-DTINYSCENE_PLAIN",
    "-fsanitize=fuzzer,address,undefined",
    "-fno-sanitize-recover=all",
]
MISSING = "clang with libFuzzer is missing: make tools"
SEEDS = [
    bytes([0, 255, 255, 0, 255, 255, 4, 0, 0, 5, 0, 0] * 3),
    bytes([0, 1, 1, 8, 100, 7, 0, 0, 15, 4, 0, 0, 7, 0, 0] * 4),
    bytes([0, 0, 120, 8, 0, 120, 2, 0, 0, 2, 30, 0, 0, 7, 0, 3, 100, 0, 3, 199, 0, 5, 0, 0] * 6),
    bytes(byte for kind in range(16) for byte in (5 + 8 * kind & 255, kind, 0)),
    *(bytes([15, kind, 3, 0, 0, 255, 255, 4, 0, 0] * 2) for kind in range(5)),  # states that are restored
]


def build(bundle: Path, hop: float, folder: Path) -> Path | None:
    """Compile the fuzzer of a bundle's library; none where there is no compiler for it."""
    clang = shutil.which("clang") or shutil.which("clang-14")
    if clang is None:
        return None
    opened, place = open_bundle(bundle), folder / f"c_library_{hop}"
    place.mkdir()
    rule, bands = (None, None) if hop == HOPS[0] else (_rule(opened), opened.bands)
    library = make_library(opened.graph, opened.front_end, opened.labels, ("plain",), hop, rule=rule, bands=bands)
    sources = write_sources(library, place)
    program = place / "fuzzer"
    harness = Path(__file__).with_name("c_library.c")
    options = [f"-DTINYSCENE_BACKLOG_SAMPLES={0 if hop == HOPS[0] else BACKLOG}", f"-I{place}", "-o", str(program)]
    command = [clang, *FLAGS, *options, str(harness), *map(str, sources)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode and "libclang_rt.fuzzer" in done.stderr:
        return None
    if done.returncode:
        raise RuntimeError(done.stderr)
    return program


def _rule(bundle: Bundle) -> DecisionRule:
    """A rule that sums the embedding and averages."""
    channels = below_classifier(bundle.graph).output.shape[-1]
    rows = tuple((1 + index,) * channels for index in range(len(bundle.labels)))
    return DecisionRule(3, 5, 2, Likeness(100, 4, rows, 0.95, 0.95, 1, (2,) * channels))


def replay(program: Path, files: list[Path]) -> None:
    """Run a fuzzer on these inputs alone. Raises CalledProcessError if one fails."""
    subprocess.run([str(program), *map(str, files)], check=True, capture_output=True)

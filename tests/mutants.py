"""Mutation testing of what checks untrusted input: make mutants, or python -m tests.mutants [FILE ...]

Python is mutated by cosmic-ray, the lines of C that decide something by universalmutator. Each mutation is made in a
copy of the last commit, and the tests of the file are run on it: a mutation that they pass has survived, and is
printed. Of a file's mutations a sample is tried (--sample), drawn with a fixed seed; 0 tries all. What is not tried by
then is left out after a time (--seconds).
"""

import argparse
import contextlib
import difflib
import importlib
import importlib.util
import os
import random
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests import ROOT

SEED = 0
TESTS = {  # of each file, the quickest that should fail
    "deploy/bundle/bundle.py": ["tests/deploy/test_bundle.py", "tests/deploy/test_model_card.py"],
    "deploy/bundle/golden.py": ["tests/deploy/test_golden.py"],
    "deploy/bundle/index.py": ["tests/deploy/test_bundle.py"],
    "deploy/bundle/verify.py": ["tests/deploy/test_verify.py"],
    "deploy/common/files.py": ["tests/deploy/test_files.py"],
    "deploy/frontend/audio.py": ["tests/deploy/test_audio.py"],
    "deploy/frontend/audio_file.py": ["tests/deploy/test_audio.py"],
    "deploy/frontend/band_offsets.py": ["tests/deploy/test_band_offsets.py"],
    "deploy/graph/graph.py": ["tests/deploy/test_graph.py"],
    "deploy/graph/operators.py": ["tests/deploy/test_graph.py"],
    "deploy/graph/storage.py": ["tests/deploy/test_graph_file.py"],
    "tinyscene/interface/hub.py": ["tests/interface/test_hub.py"],
    "train/data/download.py": ["tests/interface/test_catalogue.py", "tests/train/test_transfer.py"],
    "train/runs/pickled.py": ["tests/train/test_pickled.py"],
    "firmware_bridge/runtime/tinyscene.c": [
        "tests/firmware_bridge/test_scene_c.py",
        "tests/firmware_bridge/test_slices.py",  # with a backlog
    ],
    "firmware_bridge/runtime/tinyscene_bands.c": ["tests/firmware_bridge/test_band_offsets_c.py"],
    "firmware_bridge/runtime/tinyscene_decision.c": ["tests/firmware_bridge/test_decision_c.py"],
    "firmware_bridge/runtime/tinyscene_sound.c": [
        "tests/firmware_bridge/test_scene_c.py",
        "tests/firmware_bridge/test_band_offsets_c.py",
    ],
}
DECISION = re.compile(r"\bif \(|\bwhile \(|return TINYSCENE_ERROR|return .*[<>=&|]|\? |&& |\|\| ")
LIBRARIES = ("hypothesis", "numpy", "pydantic", "rich", "safetensors.torch", "soundfile", "torch")  # loaded once
SLOWER = 5  # times as long as usual the tests may take, and 10 s, before a mutation counts as noticed


def mutations(file: Path, sample: int) -> Iterator[str]:
    """A Python file with changes that cosmic-ray makes."""
    trees, changes, plugins = (importlib.import_module(f"cosmic_ray.{name}") for name in ("ast", "mutating", "plugins"))
    source = file.read_text()
    nodes = list(trees.ast_nodes(trees.get_ast(source)))
    kinds = [kind for name in sorted(plugins.operator_names()) if not (kind := plugins.get_operator(name)).arguments()]
    places = [(kind, len([at for node in nodes for at in kind().mutation_positions(node)])) for kind in kinds]
    for kind, place in _drawn([(kind, place) for kind, count in places for place in range(count)], sample):
        with contextlib.suppress(AttributeError):  # cosmic-ray does not know every form of `except`
            yield changes.mutate_code(source, kind(), place)


def mutations_in_c(file: Path, sample: int) -> Iterator[str]:
    """A file of C with changes that universalmutator makes to the lines that decide something."""
    lines = [number for number, line in enumerate(file.read_text().splitlines(), 1) if DECISION.search(line)]
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "lines").write_text("\n".join(map(str, lines)))
        Path(folder, "found").mkdir()
        program = str(Path(sys.executable).with_name("mutate"))
        command = [program, str(file), "--noCheck", "--lines", f"{folder}/lines", "--mutantDir", f"{folder}/found"]
        subprocess.run(command, cwd=folder, check=True, capture_output=True)
        texts = dict.fromkeys(path.read_text() for path in sorted(Path(folder, "found").iterdir()))
    yield from _drawn([*texts], sample)


def _drawn(all_: list[Any], sample: int) -> list[Any]:
    return random.Random(SEED).sample(all_, sample) if 0 < sample < len(all_) else all_


def survivors(copy: Path, file: str, sample: int, seconds: float) -> tuple[int, list[str]]:
    """How many mutations of a file were tried in these seconds, and the differences that survived."""
    path = copy / file
    original = path.read_text()
    began = time.monotonic()
    if not _passes(copy, TESTS[file], None):
        raise SystemExit(f"{file}: its tests fail as it is")
    limit = 10 + SLOWER * (time.monotonic() - began)
    Path(importlib.util.cache_from_source(str(path))).unlink(missing_ok=True)  # a mutation may have its size and second
    tried, found = 0, []
    try:
        for mutant in (mutations_in_c if file.endswith(".c") else mutations)(path, sample):
            if time.monotonic() > began + seconds:
                break
            tried += 1
            path.write_text(mutant)
            if _passes(copy, TESTS[file], limit):
                pair = original.splitlines(), mutant.splitlines()
                found.append("\n".join(difflib.unified_diff(*pair, file, file, n=1, lineterm="")))
                print(found[-1], flush=True)
    finally:
        path.write_text(original)
    return tried, found


def _passes(copy: Path, tests: list[str], limit: float | None) -> bool:
    """Whether tests pass in a copy. They run in a fork of this process, which has loaded the libraries.

    Without a limit in seconds the compiled Python is kept for later runs.
    """
    child = os.fork()
    if child == 0:
        code = 1
        try:
            os.setpgid(0, 0)
            code = _test(copy, tests, keep=limit is None)
        finally:
            os._exit(code)
    end = time.monotonic() + (limit or 3600)
    done = (0, 0)
    try:
        while done[0] == 0 and time.monotonic() < end:
            time.sleep(0.02)
            done = os.waitpid(child, os.WNOHANG)
    finally:
        with contextlib.suppress(ProcessLookupError):  # what the tests started, too
            os.killpg(child, signal.SIGKILL)
        if done[0] == 0:
            os.waitpid(child, 0)
    return done[0] != 0 and os.waitstatus_to_exitcode(done[1]) == 0


def _test(copy: Path, tests: list[str], *, keep: bool) -> int:
    nowhere = os.open(os.devnull, os.O_RDWR)
    for stream in range(3):
        os.dup2(nowhere, stream)
    os.chdir(copy)
    for name in [name for name in sys.modules if name.partition(".")[0] in ("tests", "tinyscene")]:
        del sys.modules[name]
    sys.path.insert(0, str(copy))
    sys.dont_write_bytecode = not keep
    options = ["-x", "-q", "-p", "no:cacheprovider", "-m", "not slow", "--basetemp", str(copy / "temporary")]
    return int(pytest.main([*options, *tests]))


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.mutants", description=__doc__)
    parser.add_argument("files", nargs="*", choices=[[], *TESTS], help="all that are listed here, if none is named")
    parser.add_argument("--sample", type=int, default=40, help="mutations of each file")
    parser.add_argument("--seconds", type=float, default=300, help="for each file")
    options = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = "1"
    for library in LIBRARIES:
        importlib.import_module(library)
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder, "copy")
        subprocess.run(["git", "clone", "--quiet", str(ROOT), str(copy)], check=True)
        os.environ["GIT_DIR"] = os.devnull  # or the changed source, which a bundle tells, would be what a test notices
        # made once, not by every run of the tests
        subprocess.run([sys.executable, "-m", "tests.small_bundle", str(copy / "small")], cwd=ROOT, check=True)
        os.environ |= {
            "PYTHONDONTWRITEBYTECODE": "1",
            "PYTHONPATH": str(copy),
            "ZIG_GLOBAL_CACHE_DIR": str(copy / "zig"),  # of the C compiler, filled once
            "TINYSCENE_TEST_BUNDLE": str(copy / "small" / "bundle"),
        }
        for file in options.files or TESTS:
            tried, found = survivors(copy, file, options.sample, options.seconds)
            print(f"{file}: {len(found)} of {tried} mutations survived", flush=True)


if __name__ == "__main__":
    main()

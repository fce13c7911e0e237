"""Mutation testing of what checks untrusted input: make mutants, or python -m tests.mutants [FILE ...]

Python is mutated by cosmic-ray, the lines of C that decide something by universalmutator. Each mutation is made in a
copy of the last commit, and the tests of the file are run on it: a mutation that they pass has survived, and is
printed. Of a file's mutations a sample is tried (--sample), drawn with a fixed seed; 0 tries all.
"""

import argparse
import difflib
import os
import random
import re
import sqlite3
import subprocess
import sys
import tempfile
from pathlib import Path

from tests import ROOT

SEED = 0
TESTS = {  # of each file, the quickest that should fail
    "deploy/bundle/bundle.py": ["tests/deploy/test_bundle.py", "tests/deploy/test_model_card.py"],
    "deploy/bundle/golden.py": ["tests/deploy/test_golden.py"],
    "deploy/common/files.py": ["tests/deploy/test_files.py"],
    "deploy/frontend/audio.py": ["tests/deploy/test_audio.py"],
    "deploy/frontend/audio_file.py": ["tests/deploy/test_audio.py"],
    "deploy/graph/graph.py": ["tests/deploy/test_graph.py"],
    "deploy/graph/operators.py": ["tests/deploy/test_graph.py"],
    "deploy/graph/storage.py": ["tests/deploy/test_graph_file.py"],
    "firmware_bridge/runtime/tinyscene.c": ["tests/firmware_bridge/test_scene_c.py"],
}
DECISION = re.compile(r"\bif \(|return TINYSCENE_ERROR|\? ")
TIMEOUT = 120.0  # seconds, after which a mutation counts as noticed
CONFIG = """
[cosmic-ray]
module-path = "{file}"
timeout = {timeout}
excluded-modules = []
test-command = "{python} -m pytest -x -q -p no:cacheprovider -m 'not slow' {tests}"
[cosmic-ray.distributor]
name = "local"
"""


def survivors(copy: Path, file: str, sample: int) -> tuple[int, list[str]]:
    """How many mutations of a file were tried, and the differences that survived."""
    config, session = copy / "mutants.toml", copy / "mutants.sqlite"
    config.write_text(CONFIG.format(file=file, timeout=TIMEOUT, python=sys.executable, tests=" ".join(TESTS[file])))
    session.unlink(missing_ok=True)
    _call(copy, "cosmic-ray", "init", str(config), str(session))
    _call(copy, "cosmic-ray", "baseline", str(config))  # else all would fail, and none survive
    _draw(session, sample)
    _call(copy, "cosmic-ray", "exec", str(config), str(session))
    report = _call(copy, "cr-report", "--show-diff", "--surviving-only", str(session))
    parts = report.split("[job-id]")
    with sqlite3.connect(session) as database:
        tried = database.execute("SELECT COUNT(*) FROM work_results").fetchone()[0]
    return tried, [part for part in parts if re.search(r"^[-+][^-+]", part, re.MULTILINE)]


def survivors_in_c(copy: Path, file: str, sample: int) -> tuple[int, list[str]]:
    """The same for a file of C; a mutation that does not compile is noticed."""
    source, folder = copy / file, copy / "mutants"
    original = source.read_text()
    lines = [number for number, line in enumerate(original.splitlines(), 1) if DECISION.search(line)]
    (copy / "lines.txt").write_text("\n".join(map(str, lines)))
    folder.mkdir()
    _call(copy, "mutate", file, "--noCheck", "--lines", "lines.txt", "--mutantDir", folder.name)
    mutants = sorted(path.read_text() for path in folder.iterdir())
    if 0 < sample < len(mutants):
        mutants = random.Random(SEED).sample(mutants, sample)
    if not _passes(copy, TESTS[file]):
        raise SystemExit(f"{file}: its tests fail as it is")
    found = []
    for mutant in mutants:
        source.write_text(mutant)
        if _passes(copy, TESTS[file]):
            pair = original.splitlines(), mutant.splitlines()
            found.append("\n".join(difflib.unified_diff(*pair, file, file, n=1, lineterm="")))
    source.write_text(original)
    return len(mutants), found


def _passes(copy: Path, tests: list[str]) -> bool:
    command = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", "-m", "not slow", *tests]
    environment = {**os.environ, "PYTHONPATH": str(copy), "TINYSCENE_CACHE": str(copy / "cache")}
    try:
        done = subprocess.run(command, check=False, cwd=copy, env=environment, capture_output=True, timeout=TIMEOUT)
    except subprocess.TimeoutExpired:
        return False
    return done.returncode == 0


def _draw(session: Path, sample: int) -> None:
    """Leave a random sample of a session's mutations."""
    with sqlite3.connect(session) as database:
        jobs = [row[0] for row in database.execute("SELECT job_id FROM mutation_specs ORDER BY job_id")]
        places = {
            row[0]: row[1:]
            for row in database.execute("SELECT job_id, operator_name, occurrence, start_pos_row FROM mutation_specs")
        }
        jobs.sort(key=lambda job: str(places[job]))  # job ids are random
        kept = set(random.Random(SEED).sample(jobs, sample) if 0 < sample < len(jobs) else jobs)
        for table in ("mutation_specs", "work_items"):
            database.executemany(f"DELETE FROM {table} WHERE job_id = ?", [(job,) for job in jobs if job not in kept])


def _call(copy: Path, program: str, *arguments: str) -> str:
    command = [str(Path(sys.executable).with_name(program)), *arguments]
    environment = {**os.environ, "PYTHONPATH": str(copy), "PYTHONDONTWRITEBYTECODE": "1"}
    return subprocess.run(command, cwd=copy, env=environment, check=True, capture_output=True, text=True).stdout


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.mutants", description=__doc__)
    parser.add_argument("files", nargs="*", choices=[[], *TESTS], help="all that are listed here, if none is named")
    parser.add_argument("--sample", type=int, default=40, help="mutations of each file")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder, "copy")
        subprocess.run(["git", "clone", "--quiet", str(ROOT), str(copy)], check=True)
        os.environ["GIT_DIR"] = os.devnull  # or the changed source, which a bundle tells, would be what a test notices
        # made once, not by every run of the tests
        subprocess.run([sys.executable, "-m", "tests.small_bundle", str(copy / "small")], cwd=ROOT, check=True)
        os.environ["TINYSCENE_TEST_BUNDLE"] = str(copy / "small" / "bundle")
        for file in options.files or TESTS:
            mutate = survivors_in_c if file.endswith(".c") else survivors
            tried, found = mutate(copy, file, options.sample)
            print(*found, f"{file}: {len(found)} of {tried} mutations survived", sep="\n", flush=True)


if __name__ == "__main__":
    main()

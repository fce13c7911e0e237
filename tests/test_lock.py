"""The lock of what a device runs: it names every dependency, and installs where pip takes nothing without its hash."""

import json
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import numpy as np
import pytest
import soundfile

from tests import ROOT
from tests.test_wheel import tree, wheel  # noqa: F401 - fixtures
from tinyscene.deploy.bundle.bundle import Bundle

LOCK = ROOT / "requirements-device.lock"
PINNED = re.compile(r"^([a-z0-9-]+)==(\S+) \\\n((?:    --hash=sha256:[0-9a-f]{64}(?: \\)?\n)+)", re.MULTILINE)


def test_every_dependency_is_locked_with_hashes_to_the_version_that_is_tested() -> None:
    text = LOCK.read_text(encoding="utf-8")
    pinned = {name: version for name, version, _ in PINNED.findall(text)}
    assert len(pinned) == len(re.findall(r"^\S+==", text, re.MULTILINE))
    declared = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["dependencies"]
    assert {re.split(r"[><=;\[ ]", each)[0].lower() for each in declared} <= pinned.keys()
    tested = dict(re.findall(r"^([A-Za-z0-9._-]+)==(\S+)", (ROOT / "constraints.txt").read_text(), re.MULTILINE))
    tested = {re.sub(r"[._]", "-", name).lower(): version for name, version in tested.items()}
    assert {name: tested.get(name) for name in pinned} == pinned
    assert "torch" not in pinned


def test_the_lock_leaves_the_index_to_pips_settings() -> None:
    assert not re.search(r"://|^\s*-", PINNED.sub("", LOCK.read_text(encoding="utf-8")), re.MULTILINE)


@pytest.mark.slow
def test_a_device_is_installed_by_hash_and_classifies(wheel: Path, bundle: Bundle, tmp_path: Path) -> None:  # noqa: F811
    python = tmp_path / "venv" / "bin" / "python"
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    subprocess.run([sys.executable, "-m", "venv", tmp_path / "venv"], check=True)
    pip = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    subprocess.run([*pip, "--require-hashes", "--requirement", LOCK], env=environment, check=True)
    subprocess.run([*pip, "--no-deps", "--no-index", wheel], env=environment, check=True)
    soundfile.write(tmp_path / "a.wav", np.random.default_rng(0).normal(0, 0.1, 64_000), 32_000)
    command = [tmp_path / "venv" / "bin" / "tinyscene", "classify", bundle.folder, "a.wav", "--json"]
    done = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert len(json.loads(done.stdout)[0]["seconds"]) == 2

"""The documentation: what is generated is up to date, and what a reader copies works."""

import os
import re
import shlex
import stat
import subprocess
import sys
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import typer

from docs.generator import generated_files
from tests import ROOT
from tinyscene.cli import app
from tinyscene.train.feature_settings import feature_keys
from tinyscene.train.recipe import Recipe

README = ROOT / "README.md"
PAGES = (README, *sorted((ROOT / "docs").glob("*.md")))
COMMANDS: dict[str, Any] = vars(typer.main.get_command(app))["commands"]


def blocks(path: Path, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", path.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)


def command_lines(path: Path) -> list[str]:
    """The commands of tinyscene in a page's shell blocks, without comments."""
    joined = "\n".join(blocks(path, "sh")).replace("\\\n", " ")
    return [line.partition("  #")[0] for line in joined.splitlines() if line.startswith("tinyscene ")]


def test_the_generated_pages_are_what_the_code_and_the_results_give() -> None:
    outdated = [
        path.name
        for path, text in generated_files().items()
        if not path.exists() or path.read_text(encoding="utf-8") != text
    ]
    assert outdated == [], "run `make docs`"


def test_the_readme_has_at_most_160_lines() -> None:
    assert len(README.read_text(encoding="utf-8").splitlines()) <= 160


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.name)
def test_the_commands_in_a_page_have_the_options_that_they_are_given(page: Path) -> None:
    settings = Recipe(name="any").as_dict()
    for line in command_lines(page):
        _, name, *words = shlex.split(line)
        options = {option for parameter in COMMANDS[name].params for option in parameter.opts}
        assert {word for word in words if word.startswith("--")} <= options, line
        for word, value in pairwise(words):
            if word == "--set":
                section, _, key = value.partition("=")[0].partition(".")
                assert key in settings[section] or f"{section}.{key}" in feature_keys(), line


@pytest.fixture(scope="module")
def followed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A new folder in which the commands of README's quick starts were run in order, with a small recipe."""
    folder = tmp_path_factory.mktemp("reader")
    script = folder / "bin" / "tinyscene"
    script.parent.mkdir()
    script.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m tinyscene "$@"\n')
    script.chmod(script.stat().st_mode | stat.S_IXUSR)
    (folder / "tinyscene").mkdir()
    (folder / "tinyscene" / "bundled").symlink_to(ROOT / "tinyscene" / "bundled")  # a reader stands in the project
    environment = os.environ | {"PATH": f"{script.parent}{os.pathsep}{os.environ['PATH']}", "PYTHONPATH": str(ROOT)}
    for block in blocks(README, "sh"):
        if "tinyscene " in block:
            commands = block.replace(" baseline ", " nano ").replace("train.epochs=5", "train.epochs=1")
            done = subprocess.run(
                ["sh", "-e", "-c", commands], cwd=folder, env=environment, capture_output=True, text=True, check=False
            )
            assert done.returncode == 0, done.stderr
    return folder


@pytest.mark.slow
def test_the_quick_starts_run_as_printed_one_after_the_other(followed: Path) -> None:
    for name in ("report/index.html", "site/index.html", "fw/tinyscene.h", "board/README.md"):
        assert (followed / name).is_file(), name


@pytest.mark.slow
@pytest.mark.parametrize("page", [page for page in PAGES if blocks(page, "python")], ids=lambda path: path.name)
def test_the_python_of_a_page_runs_after_the_quick_starts(page: Path, followed: Path) -> None:
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    for block in blocks(page, "python"):
        done = subprocess.run(
            [sys.executable, "-c", block], cwd=followed, env=environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr

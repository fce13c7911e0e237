"""What the command line says of itself: panels, sentences, completion, the list of recipes."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import typer

from tinyscene.cli import app
from tinyscene.cli.options import DEPLOY, MEASURE, QUANTIZE, SHARE, TRAIN

COMMANDS: dict[str, Any] = vars(typer.main.get_command(app))["commands"]


@pytest.mark.parametrize("name", COMMANDS)
def test_a_command_stands_in_a_panel_of_the_help(name: str) -> None:
    assert COMMANDS[name].rich_help_panel in (TRAIN, QUANTIZE, DEPLOY, MEASURE, SHARE)


@pytest.mark.parametrize("name", COMMANDS)
def test_a_command_and_its_options_are_described_in_sentences(name: str) -> None:
    texts = [COMMANDS[name].help, *(parameter.help for parameter in COMMANDS[name].params)]
    assert [text for text in texts if not (text and text[0] == text[0].upper() and text.rstrip().endswith("."))] == []


def test_bash_completes_the_name_of_a_command() -> None:
    request = {"_TINYSCENE_COMPLETE": "complete_bash", "COMP_WORDS": "tinyscene qua", "COMP_CWORD": "1"}
    program = "import sys; sys.argv = ['tinyscene']; from tinyscene.cli import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", program], env=os.environ | request, capture_output=True, text=True, check=False
    )
    assert done.stdout.split() == ["quantize"]


@pytest.mark.parametrize(("given", "policy"), [({}, "PASSIVE"), ({"OMP_WAIT_POLICY": "ACTIVE"}, "ACTIVE")])
def test_threads_that_wait_sleep_unless_told_otherwise(given: dict[str, str], policy: str) -> None:
    program = (
        "import atexit, os, sys; atexit.register(lambda: print(os.environ['OMP_WAIT_POLICY'])); "
        "sys.argv = ['tinyscene', '--version']; from tinyscene.cli import main; main()"
    )
    environment = {name: value for name, value in os.environ.items() if name != "OMP_WAIT_POLICY"} | given
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=False)
    assert done.stdout.splitlines()[-1] == policy


def test_recipes_lists_the_size_that_is_published_for_the_baseline(run_cli: Callable[..., Any]) -> None:
    code, stdout, _ = run_cli("recipes", "--json")
    listed = {recipe["name"]: recipe for recipe in json.loads(stdout)}
    assert code == 0
    assert (listed["baseline"]["parameters"], listed["baseline"]["macs"]) == (61_148, 29_419_156)
    assert listed["passt"]["macs"] is None
    assert all(recipe["purpose"].endswith(".") for recipe in listed.values())


def test_options_of_a_dataset_need_a_dataset(run_cli: Callable[..., Any], tmp_path: Path) -> None:
    code, _, stderr = run_cli("verify", tmp_path, "--splits", tmp_path)
    assert (code, "--data" in stderr, stderr.count("\n")) == (2, True, 1)

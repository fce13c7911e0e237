"""Every command that writes, struck at each of its writes: killed, or on a disk that is full or read-only from then on.

What is under a final name is whole, the failure is one line with exit code 2, and the same command, run again, ends as
if nothing had been.
"""

import errno
import random
import re
import shutil
import signal
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from safetensors.numpy import load_file, save_file

from tests.interface.file_server import file_server
from tests.interface.hub_server import hub_server
from tests.strikes import KILL, MODES, Result, Strike, Striker
from tests.struck import COMMANDS, KEYS, Command, Surroundings, Trial, struck
from tinyscene.deploy.bundle.bundle import Bundle
from tinyscene.deploy.common.errors import InputError
from tinyscene.train.runs.run import load_model
from tinyscene.train.sweep.begin import begin
from tinyscene.train.sweep.job import Source

pytestmark = pytest.mark.skipif(
    sys.platform != "linux" or not shutil.which("cc"), reason="needs Linux and a C compiler"
)

QUICK = ("export", "import", "report", "pull")
SWEEP = "name: two\nruns:\n  one: {recipe: nano}\nsplits: ['5']\nseeds: [0]\n"
OFFER = """
[offered]
url = "{address}/weights.safetensors"
recipe = "{recipe}"
most_bytes = 1_000_000
hears = "scenes"
page = "{address}"
accuracy = "unknown"
terms = "none"
"""
READING = ("inspect bundle", "verify bundle sound.wav", "budget bundle", "budget run")  # they have nothing to be struck


@pytest.fixture(scope="module")
def around(
    sample: Path, bundle: Bundle, cache: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Surroundings]:
    """What commands need: a run, half of one, a bundle, weights, a sweep, one that was begun, a sound, a hub."""
    given = tmp_path_factory.mktemp("given")
    with (
        Striker(tmp_path_factory.mktemp("striker")) as striker,
        hub_server() as (hub, address),
        file_server(given) as files,
    ):
        around = Surroundings(striker, given, cache, hub, address)
        _copy_some(sample, given / "data")
        _train(around)
        shutil.copytree(bundle.folder, given / "bundle", ignore=shutil.ignore_patterns("*.tflite", "*.onnx"))
        save_file(load_file(given / "run" / "model.safetensors"), given / "weights.safetensors")
        (given / "models.toml").write_text(OFFER.format(recipe=given / "run" / "recipe.yaml", address=files))
        (given / "sweep.yaml").write_text(SWEEP)
        begin(str(given / "sweep.yaml"), {"": Source(folder=str(given / "data"))}, tuple(KEYS), given / "begun")
        shutil.copy(min((sample / "audio").iterdir()), given / "sound.wav")
        yield around


def _train(around: Surroundings) -> None:
    """Make a run, and one that was killed when it had a checkpoint."""
    done = around.run(replace(COMMANDS["train"], line="train nano --split 5 --out run", out="run"), around.given)
    assert done.code == 0, done.err
    renamed = [number for number, call in enumerate(done.calls, 1) if re.match(r"rename .*\.safetensors$", call)]
    half = replace(COMMANDS["train"], line="train nano --split 5 --out half", out="half")
    around.run(half, around.given, Strike(renamed[0] + 1, KILL))
    assert (around.given / "half" / "checkpoint.safetensors").exists()


def _copy_some(sample: Path, data: Path) -> None:
    """A dataset with some of the sample's recordings."""
    kept: set[str] = {"filename"}
    (data / "evaluation_setup").mkdir(parents=True)
    (data / "audio").mkdir()
    for name, step in (("split5.csv", 5), ("test.csv", 100)):
        lines = (sample / "evaluation_setup" / name).read_text().splitlines(keepends=True)
        (data / "evaluation_setup" / name).write_text("".join([lines[0], *lines[1::step]]))
        kept |= {line.split("\t")[0] for line in lines[1::step]}
    meta = (sample / "meta.csv").read_text().splitlines(keepends=True)
    (data / "meta.csv").write_text("".join(line for line in meta if line.split("\t")[0] in kept))
    for name in kept - {"filename"}:
        shutil.copy(sample / name, data / name)


@pytest.fixture
def place(tmp_path: Path) -> Path:
    return tmp_path / "place"


@pytest.mark.parametrize("name", QUICK)
def test_some_writes_of_some_commands(name: str, around: Surroundings, place: Path) -> None:
    trial = Trial(COMMANDS[name], around, place)
    middle = {kind: trial.points(mode)[len(trial.points(mode)) // 2] for kind, mode in MODES.items()}
    assert [fault for kind, at in middle.items() for fault in struck(trial, at, kind)] == []


@pytest.mark.slow
@pytest.mark.parametrize("name", COMMANDS)
def test_every_write_of_every_command(name: str, around: Surroundings, place: Path) -> None:
    trial = Trial(COMMANDS[name], around, place)
    strikes = [(at, kind) for kind, mode in MODES.items() for at in trial.points(mode)]
    print(f"{name}: {len(trial.calls)} writes, {len(strikes)} strikes")
    faults = [fault for at, kind in strikes for fault in struck(trial, at, kind)]
    assert not faults, "\n".join(faults)


@pytest.mark.slow
@pytest.mark.parametrize("line", READING)
def test_a_command_that_only_reads_writes_nothing(line: str, around: Surroundings, place: Path) -> None:
    shutil.copytree(around.given, place)
    (place / "tmp").mkdir()
    result = around.run(Command(line, "", "run bundle sound.wav", has_data=False, has_cache=True), place)
    assert result.code == 0, result.err
    assert result.calls == []


@pytest.mark.slow
@pytest.mark.parametrize("name", ["prepare", "train", "prune", "quantize", "sweep"])
def test_a_command_that_is_killed_again_and_again_comes_through(name: str, around: Surroundings, place: Path) -> None:
    trial, rng = Trial(COMMANDS[name], around, place), random.Random(name)
    trial.begin()
    last, kills = len(trial.calls), 0
    while (result := _go_on(trial, Strike(rng.randint(1, last), KILL))).code == -signal.SIGKILL:
        kills += 1
        if kills == 3:  # then it may come through, too, if it begins anew each time
            last = last * 5 // 4
        assert kills < 10 * len(trial.calls)
    print(f"{name}: killed {kills} times")
    assert trial.is_done(), (result.code, result.err)


def _go_on(trial: Trial, strike: Strike) -> Result:
    """Run a command, with --resume where it asks for that."""
    result = trial.run(strike)
    is_refused = result.code == InputError.exit_code and trial.command.has_resume
    return trial.run(strike, "--resume") if is_refused else result


def test_a_strike_is_at_the_write_that_is_named(around: Surroundings, place: Path) -> None:
    trial = Trial(COMMANDS["import"], around, place)
    assert trial.calls[-1].startswith("rename "), "of the whole folder"
    trial.begin()
    result = trial.run(Strike(len(trial.calls), errno.EROFS))
    assert (result.code, "Read-only file system" in result.err, trial.left()) == (2, True, {})


def test_what_a_struck_command_writes_does_not_tell_the_state_of_the_source(around: Surroundings) -> None:
    assert load_model(around.given / "run")[1].made_by["git"] is None

"""Every command that writes, struck at each of its writes: killed, or on a disk that is full or read-only from then on.

What is under a final name is whole, the failure is one line with exit code 2, and the same command, run again, ends as
if nothing had been.
"""

import csv
import errno
import hashlib
import json
import os
import re
import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

from tests.strikes import KILL, MODES, Result, Strike, Striker
from tests.train.test_export import TINY
from tinyscene.deploy.bundle.bundle import Bundle
from tinyscene.deploy.common.files import TEMPORARY

pytestmark = pytest.mark.skipif(
    sys.platform != "linux" or not shutil.which("cc"), reason="needs Linux and a C compiler"
)

SET = [f"--set={each}" for each in (*TINY, "train.epochs=2", "train.batch_size=32", "quantize.clips=8")]
TUNING = ["--qat", "--set=quantize.epochs=1", "--set=quantize.batch_size=32"]
PRUNING = ["--to-macs=6e5", "--set=prune.steps=1", "--set=prune.epochs=1", "--set=prune.final_epochs=1"]
ADAPTING = ["--set=adapt.epochs=1", "--set=adapt.least_clips=2"]
SWEEP = "name: two\nruns:\n  one: {recipe: nano}\nsplits: ['5']\nseeds: [0]\n"
EVERY = 12  # commands with more writes are struck at the first and the last of each kind, depth and ending
WITHOUT_EFFECT = {  # what is found is as after the write before
    KILL: {"sync", "change"},
    errno.ENOSPC: {"remove", "change"},
    errno.EROFS: set(),
}


@dataclass(frozen=True)
class Command:
    """A command; paths in it are relative to its place, where it has the files that it needs."""

    line: str
    out: str  # what it writes and keeps, separated by blanks
    needs: str = ""  # of run, bundle, weights.safetensors, sweep.yaml, sound.wav
    options: tuple[str, ...] = ()
    has_data: bool = True
    has_resume: bool = False
    has_cache: bool = False  # of its own, which is struck, too

    def arguments(self, place: Path, data: Path) -> list[str]:
        own = {word: str(place / word) for word in (*self.out.split(), *self.needs.split())}
        words = [own.get(word, str(data) if word == "DATA" else word) for word in self.line.split()]
        return [*words, *(["--data", str(data)] if self.has_data else []), *self.options]


COMMANDS = {
    "sample": Command("sample new", "new", has_data=False),
    "prepare": Command("prepare DATA", "cache", has_data=False, has_cache=True),
    "train": Command("train nano --split 5 --out new", "new", options=tuple(SET), has_resume=True),
    "teach": Command("teach nano --split 5 --out new", "new", options=tuple(SET), has_resume=True),
    "import": Command(
        "import weights.safetensors --recipe nano --out new",
        "new",
        "weights.safetensors",
        (*SET,),
        has_data=False,
    ),
    "logits": Command("logits run --split 5 --out new.safetensors", "new.safetensors", "run"),
    "adapt": Command("adapt run --split 5 --out new", "new", "run", tuple(ADAPTING), has_resume=True),
    "prune": Command("prune run --out new", "new new.pruning", "run", tuple(PRUNING), has_resume=True),
    "quantize": Command("quantize run --out new", "new", "run"),
    "quantize --qat": Command("quantize run --out new", "new new.qat", "run", tuple(TUNING), has_resume=True),
    "sweep": Command("sweep sweep.yaml --out new --jobs 1", "new", "sweep.yaml", tuple(SET)),
    "export": Command("export bundle --to tflite,onnx,onnx-int8", "bundle", "bundle", has_data=False),
    "export RUN": Command("export run", "run", "run", has_data=False),
    "export --out": Command("export bundle --to tflite --out new.tflite", "new.tflite", "bundle", has_data=False),
    "firmware": Command("firmware bundle --out new", "new", "bundle", has_data=False),
    "package": Command("firmware bundle --out new --package arduino", "new", "bundle", has_data=False),
    "web": Command("web bundle --out new", "new", "bundle", has_data=False),
    "evaluate": Command("evaluate bundle --split 5 --runner reference", "bundle", "bundle"),
    "evaluate RUN": Command("evaluate run", "run", "run"),
    "bench": Command("bench bundle --targets ethos-u55-128", "bundle", "bundle", has_data=False),
    "report": Command("report bundle --out new", "new", "bundle", has_data=False),
    "classify": Command(
        "classify bundle sound.wav --runner native", "cache", "bundle sound.wav", has_data=False, has_cache=True
    ),
    "emulate": Command("emulate bundle --target host", "", "bundle", has_data=False),  # a compiler's input, for a while
    "classify RUN": Command("classify run sound.wav", "run cache", "run sound.wav", has_data=False, has_cache=True),
}
READING = ("inspect bundle", "verify bundle sound.wav", "budget bundle", "budget run")  # they have nothing to be struck
QUICK = ("export", "import", "report")


@pytest.fixture(scope="module")
def striker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Striker]:
    with Striker(tmp_path_factory.mktemp("striker")) as striker:
        yield striker


@pytest.fixture(scope="module")
def given(
    sample: Path, bundle: Bundle, cache: Path, striker: Striker, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """What commands need: a run, a bundle, weights, a sweep and a sound."""
    folder = tmp_path_factory.mktemp("given")
    _copy_some(sample, folder / "data")
    training = ["train", "nano", "--data", folder / "data", "--split", "5", "--out", folder / "run", *SET]
    done = striker.run(training, folder, TINYSCENE_CACHE=cache)
    assert done.code == 0, done.err
    shutil.copytree(bundle.folder, folder / "bundle", ignore=shutil.ignore_patterns("*.tflite", "*.onnx"))
    save_file(load_file(folder / "run" / "model.safetensors"), folder / "weights.safetensors")
    (folder / "sweep.yaml").write_text(SWEEP)
    shutil.copy(min((sample / "audio").iterdir()), folder / "sound.wav")
    return folder


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


@dataclass
class Trial:
    """A command in a place of its own, and what it leaves there when nothing strikes."""

    command: Command
    given: Path
    cache: Path
    striker: Striker
    place: Path

    def __post_init__(self) -> None:
        self.begin()
        self.before = self.left()
        first = self.run()
        assert first.code == 0, first.err
        self.calls, self.after = first.calls, self.left()
        self.begin()
        assert self.run().code == 0
        again = self.left()
        assert again.keys() == self.after.keys()
        self.varying = {name for name, digest in again.items() if digest != self.after[name]}  # such as times

    def begin(self) -> None:
        shutil.rmtree(self.place, ignore_errors=True)
        (self.place / "tmp").mkdir(parents=True)
        for name in self.command.needs.split():
            source = self.given / name
            shutil.copytree(source, self.place / name) if source.is_dir() else shutil.copy(source, self.place / name)

    def run(self, strike: Strike | None = None, *more: str) -> Result:
        arguments = [*self.command.arguments(self.place, self.given / "data"), *more]
        cache = self.place / "cache" if self.command.has_cache else self.cache
        return self.striker.run(arguments, self.place, strike, TINYSCENE_CACHE=cache, TMPDIR=self.place / "tmp")

    def left(self) -> dict[str, str]:
        """The hashes of what is under final names, by path."""
        found = {}
        for top in (self.place / name for name in self.command.out.split()):
            for path in [top, *top.rglob("*")]:
                name = str(path.relative_to(self.place))
                if path.is_file() and TEMPORARY not in name and ".partial/" not in name:
                    found[name] = hashlib.sha256(path.read_bytes()).hexdigest()
        return found

    def is_done(self) -> bool:
        left = self.left()
        return left.keys() == self.after.keys() and all(
            digest == self.after[name] or name in self.varying for name, digest in left.items()
        )

    def points(self, mode: int) -> list[int]:
        """The writes to strike at: all that have an effect, or of many some of each kind."""
        kinds: dict[tuple[str, str, str], list[int]] = {}
        for number, call in enumerate(self.calls, 1):
            name, path = call.split(" ", 1)
            parts = Path(path).relative_to(self.place).parts
            where = "tmp" if parts[:1] == ("tmp",) else f"{len(parts)} deep"
            if name not in WITHOUT_EFFECT[mode]:
                kinds.setdefault((name, where, Path(path).suffix), []).append(number)
        if sum(map(len, kinds.values())) <= EVERY:
            return sorted(number for numbers in kinds.values() for number in numbers)
        return sorted({number for numbers in kinds.values() for number in (numbers[0], numbers[-1])})

    def strike(self, strike: Strike) -> list[str]:
        """Begin anew, strike, look, and run again. Returns what was wrong, if anything."""
        self.begin()
        result = self.run(strike)
        wrong = [f"{name} is not whole" for name, digest in self.left().items() if not self._is_whole(name, digest)]
        wrong += self._judge(result, strike.mode)
        again = self.run()
        resumed = self.run(None, "--resume") if again.code == 2 and self.command.has_resume else again
        is_refused = again.code == 2 and self.command.out and _is_one_line(again)  # as what it writes is there
        if again.code and not is_refused:
            wrong.append(f"run again: exit code {again.code}: {again.err[-1000:]}")
        elif resumed.code and not self.is_done():
            wrong.append(f"cannot be done again: {again.err}{resumed.err}")
        elif not self.is_done():
            unlike = {name for name, digest in self.left().items() if digest != self.after.get(name)} - self.varying
            wrong.append(f"ends with other files: {sorted(unlike | (self.after.keys() - self.left().keys()))}")
        wrong += [f"{path.relative_to(self.place)} is left" for path in self.place.rglob(f"{TEMPORARY}*")]
        return wrong

    def _is_whole(self, name: str, digest: str) -> bool:
        return digest in (self.before.get(name), self.after.get(name)) or _can_be_read(self.place / name)

    def _judge(self, result: Result, mode: int) -> list[str]:
        if mode == KILL and result.code in (-9, 0):
            return []
        if result.code == 0 and self.is_done():  # it could do without
            return []
        reason = os.strerror(mode) if mode != KILL else ""
        if (result.code, reason in result.err, _is_one_line(result)) == (2, True, True):
            return []
        return [f"exit code {result.code}: {result.err[-1500:]}"]


def _is_one_line(result: Result) -> bool:
    return len(re.findall("^tinyscene: ", result.err, re.MULTILINE)) == 1 and "Traceback" not in result.err


def _can_be_read(path: Path) -> bool:
    """Whether a file that is not the same every time is whole."""
    text = path.read_bytes().decode(errors="replace")
    try:
        if path.suffix == ".json":
            json.loads(text)
        elif path.suffix == ".safetensors":
            with safe_open(path, "np") as tensors:
                return bool(list(tensors.keys()))
        elif path.suffix == ".csv":
            return text.endswith("\n") and bool(list(csv.reader(text.splitlines())))
        elif path.suffix == ".png":
            return "IEND" in text[-20:]
        elif path.suffix in (".md", ".html", ".yaml"):
            return text.endswith("\n")
        elif path.suffix not in (".jsonl", ".log", "") and path.parent.name != "locks":
            return False
    except (ValueError, OSError):
        return False
    return True


def struck(trial: Trial, at: int, kind: str) -> list[str]:
    """What was wrong after a strike at this write."""
    faults = trial.strike(Strike(at, MODES[kind]))
    return [f"{kind} at {at} of {len(trial.calls)}, {trial.calls[at - 1]}: {fault}" for fault in faults]


@pytest.fixture
def place(tmp_path: Path) -> Path:
    return tmp_path / "place"


@pytest.mark.parametrize("kind", MODES)
@pytest.mark.parametrize("name", QUICK)
def test_some_writes_of_some_commands(
    name: str, kind: str, given: Path, cache: Path, striker: Striker, place: Path
) -> None:
    trial = Trial(COMMANDS[name], given, cache, striker, place)
    points = trial.points(MODES[kind])
    assert struck(trial, points[len(points) // 2], kind) == []


@pytest.mark.slow
@pytest.mark.parametrize("name", COMMANDS)
def test_every_write_of_every_command(name: str, given: Path, cache: Path, striker: Striker, place: Path) -> None:
    trial = Trial(COMMANDS[name], given, cache, striker, place)
    strikes = [(at, kind) for kind, mode in MODES.items() for at in trial.points(mode)]
    print(f"{name}: {len(trial.calls)} writes, {len(strikes)} strikes")
    faults = [fault for at, kind in strikes for fault in struck(trial, at, kind)]
    assert not faults, "\n".join(faults)


@pytest.mark.slow
@pytest.mark.parametrize("line", READING)
def test_a_command_that_only_reads_writes_nothing(line: str, given: Path, striker: Striker, place: Path) -> None:
    shutil.copytree(given, place)
    (place / "tmp").mkdir()
    words = [str(place / word) if (place / word).exists() else word for word in line.split()]
    result = striker.run(words, place, TINYSCENE_CACHE=place / "cache", TMPDIR=place / "tmp")
    assert result.code == 0, result.err
    assert result.calls == []


@pytest.mark.slow
@pytest.mark.parametrize("name", ["prepare", "train", "quantize"])
def test_a_command_that_is_killed_again_and_again_comes_through(
    name: str, given: Path, cache: Path, striker: Striker, place: Path
) -> None:
    trial = Trial(COMMANDS[name], given, cache, striker, place)
    trial.begin()
    for at in range(2, 2 * len(trial.calls)):
        resume = ["--resume"] if trial.command.has_resume and (place / "new" / "recipe.yaml").exists() else []
        if trial.run(Strike(at, KILL), *resume).code == 0:
            break
    assert trial.is_done()


def test_a_strike_is_at_the_write_that_is_named(given: Path, cache: Path, striker: Striker, place: Path) -> None:
    trial = Trial(COMMANDS["import"], given, cache, striker, place)
    assert trial.calls[-1].startswith("rename "), "of the whole folder"
    trial.begin()
    result = trial.run(Strike(len(trial.calls), errno.EROFS))
    assert (result.code, "Read-only file system" in result.err, trial.left()) == (2, True, {})

"""The commands that write, and what is tried with them: struck at a write, looked at, and run again."""

import csv
import errno
import hashlib
import json
import os
import shutil
from dataclasses import dataclass
from pathlib import Path

from safetensors import safe_open

from tests.interface.hub_server import Repository
from tests.strikes import CLI, KILL, MODES, Result, Strike, Striker
from tests.train.test_export import TINY
from tinyscene.deploy.common.errors import InputError
from tinyscene.deploy.common.files import TEMPORARY

KEYS = [*TINY, "train.epochs=2", "train.batch_size=32", "quantize.clips=8"]
SET = [f"--set={each}" for each in KEYS]
TUNING = ["--qat", "--set=quantize.epochs=1", "--set=quantize.batch_size=32"]
PRUNING = ["--to-macs=6e5", "--set=prune.steps=1", "--set=prune.epochs=1", "--set=prune.final_epochs=1"]
ADAPTING = ["--set=adapt.epochs=1", "--set=adapt.least_clips=2"]
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
    needs: str = ""  # of run, half, bundle, weights.safetensors, sweep.yaml, begun, sound.wav
    options: tuple[str, ...] = ()
    has_data: bool = True
    has_resume: bool = False
    has_cache: bool = False  # of its own, which is struck, too
    varies: str = ""  # what tells the machine's load, which changes every few seconds
    on_hub: str = ""  # which of these the hub holds before
    module: str = CLI  # whose main function it is

    def arguments(self, place: Path, data: Path) -> list[str]:
        own = {word: str(place / word) for word in (*self.out.split(), *self.needs.split())}
        words = [own.get(word, str(data) if word == "DATA" else word) for word in self.line.split()]
        return [*words, *(["--data", str(data)] if self.has_data else []), *self.options]


COMMANDS = {
    "sample": Command("sample new", "new", has_data=False),
    "prepare": Command("prepare DATA", "cache", has_data=False, has_cache=True),
    "train": Command("train nano --split 5 --out new", "new", options=tuple(SET), has_resume=True),
    "train --resume": Command("train nano --split 5 --out half --resume", "half", "half", tuple(SET)),
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
    "sweep's job": Command("begun runs/one-5-0", "begun", "begun", has_data=False, module="tinyscene.train.sweep.job"),
    "export": Command("export bundle --to tflite,onnx,onnx-int8", "bundle", "bundle", has_data=False),
    "export RUN": Command("export run", "run", "run", has_data=False),
    "export --out": Command("export bundle --to tflite --out new.tflite", "new.tflite", "bundle", has_data=False),
    "firmware": Command("firmware bundle --out new", "new", "bundle", has_data=False),
    "package": Command("firmware bundle --out new --package arduino", "new", "bundle", has_data=False),
    "web": Command("web bundle --out new", "new", "bundle", has_data=False),
    "evaluate": Command("evaluate bundle --split 5 --runner reference", "bundle", "bundle"),
    "evaluate RUN": Command("evaluate run", "run", "run"),
    "bench": Command(
        "bench bundle --targets ethos-u55-128", "bundle", "bundle", has_data=False, varies="bundle/bundle.json"
    ),
    "report": Command("report bundle --out new", "new", "bundle", has_data=False),
    "classify": Command(
        "classify bundle sound.wav --runner native", "cache", "bundle sound.wav", has_data=False, has_cache=True
    ),
    "emulate": Command("emulate bundle --target host", "", "bundle", has_data=False),  # a compiler's input, for a while
    "classify RUN": Command("classify run sound.wav", "run cache", "run sound.wav", has_data=False, has_cache=True),
    "classify hf://": Command(
        "classify hf://user/name sound.wav --runner reference",
        "cache",
        "sound.wav",
        has_data=False,
        has_cache=True,
        on_hub="bundle",
    ),
    "push": Command("push bundle hf://user/name", "", "bundle", has_data=False),
    "pull": Command("pull offered --out new", "new cache", has_data=False, has_cache=True),
}


@dataclass(frozen=True)
class Surroundings:
    """What trials share."""

    striker: Striker
    given: Path  # what commands need
    cache: Path  # with the dataset
    hub: Repository
    address: str  # of the hub

    def run(self, command: Command, place: Path, strike: Strike | None = None, *more: str) -> Result:
        return self.striker.run(
            [*command.arguments(place, self.given / "data"), *more],
            place,
            strike,
            command.module,
            {"tinyscene.interface.catalogue.CATALOGUE": self.given / "models.toml"},
            TINYSCENE_CACHE=place / "cache" if command.has_cache else self.cache,
            TMPDIR=place / "tmp",
            ZIG_GLOBAL_CACHE_DIR=self.given / "zig",  # the compiler's own, which is not struck
            HF_ENDPOINT=self.address,
            HF_HOME=place / "hf",
            HF_TOKEN="hf_of_this_test",
        )


@dataclass
class Trial:
    """A command in a place of its own, and what it leaves there when nothing strikes."""

    command: Command
    around: Surroundings
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
        self.varying |= set(self.command.varies.split())

    def begin(self) -> None:
        shutil.rmtree(self.place, ignore_errors=True)
        (self.place / "tmp").mkdir(parents=True)
        for name in self.command.needs.split():
            source = self.around.given / name
            shutil.copytree(source, self.place / name) if source.is_dir() else shutil.copy(source, self.place / name)
        self.around.hub.empty()
        if self.command.on_hub:
            folder = self.around.given / self.command.on_hub
            files = [path for path in sorted(folder.rglob("*")) if path.is_file()]
            self.around.hub.commit({path.relative_to(folder).as_posix(): path.read_bytes() for path in files})

    def run(self, strike: Strike | None = None, *more: str) -> Result:
        return self.around.run(self.command, self.place, strike, *more)

    def left(self) -> dict[str, str]:
        """The hashes of what is under final names, by path, and of what the hub holds."""
        files = self.around.hub.commits.get(self.around.hub.newest, {})
        found = {f"hub: {name}": hashlib.sha256(content).hexdigest() for name, content in files.items()}
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
        is_refused = again.code == 2 and self.command.out and self._is_one_line(again)  # as what it writes is there
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
        if result.code == InputError.exit_code and self._is_one_line(result, reason):
            return []
        return [f"exit code {result.code}: {result.err[-1500:]}"]

    def _is_one_line(self, result: Result, reason: str = "") -> bool:
        """Whether a failure, for this reason, is one line of standard error: the last."""
        *others, last = result.err.splitlines() or [""]
        mark = "tinyscene: " if self.command.module == CLI else ""
        is_marked = last.startswith(mark) and not (mark and any(line.startswith(mark) for line in others))
        return is_marked and reason in last and "Traceback" not in result.err


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

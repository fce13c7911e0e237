"""Bad input at the command line: exit code 2 or 3, one line that says what to mend, and nothing written."""

import contextlib
import io
import json
import os
import pickle
import resource
import shutil
import struct
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import onnx.parser
import pytest
import soundfile
import torch
from safetensors.torch import save_file

from tinyscene.deploy.frontend.log_mel import FrontEnd
from tinyscene.train.data.cache import Clips
from tinyscene.train.data.datasets import SCENES
from tinyscene.train.models import build
from tinyscene.train.recipe import load_recipe
from tinyscene.train.runs.run import import_weights

RunCli = Callable[..., tuple[int, str, str]]
Refused = Callable[..., str]

HEADER = "filename\tscene_label\tidentifier\tsource_label\n"
LOUDNESS = """<ir_version: 9, opset_import: ["" : 18]> loudness (float[n, 1, 256, 65] x) => (float[n, 10] y)
<float[1, 10] weights = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9}>
{ mean = GlobalAveragePool(x)  flat = Flatten(mean)  y = MatMul(flat, weights) }"""
TRAIN = (
    "train nano --data sample --split 5 --set train.epochs=1 --set features.n_mels=32 --set features.hop_length=2000"
)
CASES = {  # a command, and what its line names
    "train nano --epohcs 5": "No such option: --epohcs",
    "trian nano": "'trian'",
    "classify": "'model'; see `tinyscene classify --help`",
    "train nano --split": "'--split' requires an argument",
    "sample new --seed one": "'--seed'",
    "train nano --data sample --out new --set train.epoch=5": "train.epochs",
    "train nano --data sample --out new --set train.epochs=five": "train.epochs",
    "train nono --data sample --out new": "'nano'",
    "train nano --data nowhere --out new": "nowhere",
    "train nano --data empty --out new": "empty",
    "train nano --data columns --out new": "'scene_label'",
    "train nano --data scene --out new": "'spaceport'",
    "train nano --data sample --splits empty --out new": "--splits",
    "train nano --data sample --split 7 --out new": "'7'",
    "train nano --data sample --split 5 --out run": "run: holds a run; go on with --resume",
    "train nano --data sample --split 5 --out new --resume": "new: holds no run",
    "train nano --data sample --split 5 --out run --resume": "run: ",
    "train nano --data sample --split 5 --out sprung --resume": "sprung/checkpoint.safetensors",
    "prepare letters": "letters: not one of its 2 recordings can be used",
    "prepare sample --sample-rate 0": "sample_rate",
    "sample new --seed -1": "seed",
    "evaluate empty --data sample": "empty: holds no model",
    "evaluate nowhere --data sample": "nowhere: no such run",
    "evaluate unfinished --data sample": "--resume",
    "evaluate words.txt --data sample": "words.txt: not a safetensors file",
    "evaluate run --data two": "labels",
    "evaluate run --data sample --split 7": "'7'",
    "export unfinished": "--resume",
    "export run --to uf2": "uf2",
    "export run --to onnx --batch 2": "--batch 2: is of a file of ONNX; name it with --out",
    "classify model.onnx words.txt": "words.txt: not an audio file",
    "classify model.onnx missing.wav": "missing.wav: no such file",
    "classify garbage.onnx two/hum/1-a.wav": "garbage.onnx",
    "classify empty two/hum/1-a.wav": "empty",
    "import words.txt --out new": "words.txt: not a safetensors file",
    "import weights.safetensors --out new": "in_c.0.0.weight is [2, 1, 3, 3], not [8, 1, 3, 3]",
    "import less.safetensors --recipe nano --out new": "lacks in_c.0.0.weight",
    "import nan.safetensors --recipe nano --out new": "in_c.0.0.weight holds NaN",
    "import weights.safetensors --recipe nano --out run": "run: already exists",
    "import huge.safetensors --out new": "huge.safetensors: not a safetensors file",
    "import lies.safetensors --out new": "lies.safetensors: not a safetensors file",
    "import trap.safetensors --out new": "trap.safetensors: not a safetensors file",
    "import zipped_trap.safetensors --out new": "zipped_trap.safetensors: not a safetensors file",
    "budget card.safetensors": "card",
    "budget trap.safetensors": "trap.safetensors: not a safetensors file",
    "budget nano --set train.epochs": "train.epochs",
} | {
    f"budget {kind}.{suffix}": f"{kind}.{suffix}: n"  # not a ..., no such file
    for kind in ("garbage", "nothing", "missing")
    for suffix in ("onnx", "tflite", "safetensors")
}


class Trap:
    """When its pickle is read, it makes a folder where we are."""

    def __reduce__(self) -> tuple[Callable[..., None], tuple[str]]:
        return os.mkdir, ("caught",)


def wav(value: float) -> bytes:
    soundfile.write(file := io.BytesIO(), np.full(8_000, value), 8_000, "FLOAT", format="WAV")
    return file.getvalue()


@pytest.fixture(scope="module")
def world(sample: Path, sample_clips: Clips, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of what the commands above name, all bad but `sample`, `two`, `run`, `weights` and `model`."""
    here = tmp_path_factory.mktemp("world")
    (here / "sample").symlink_to(sample)
    nano, noise = load_recipe("nano"), np.random.default_rng(0).bytes(5_000)
    files = {
        "columns/meta.csv": HEADER.replace("scene_label", "label").encode(),
        "scene/meta.csv": f"{HEADER}audio/a.wav\tspaceport\tparis-1\ta\n".encode(),
        "words.txt": b"not a sound, nor a model\n" * 100,
        "huge.safetensors": struct.pack("<Q", 2**62) + b"{}",
        "lies.safetensors": struct.pack("<Q", 69)
        + b'{"a": {"dtype": "F32", "shape": [2199023255552], "data_offsets": [0, 8]}}',
        "trap.safetensors": pickle.dumps(Trap()),
        "sprung/checkpoint.safetensors": pickle.dumps(Trap()),
        "garbage.tflite": b"\x1c\0\0\0TFL3" + noise,
        **dict.fromkeys(("garbage.onnx", "garbage.safetensors"), noise),
        **dict.fromkeys(("nothing.onnx", "nothing.safetensors", "nothing.tflite"), b""),
        **dict.fromkeys(("two/hum/1-a.wav", "two/hiss/2-b.wav"), wav(0.1)),
        **dict.fromkeys(map(os.fsdecode, (b"letters/hum/1-\xfe.wav", b"letters/hiss/2-\xff.wav")), wav(0.1)),
        **dict.fromkeys(("words/hum/1-a.wav", "words/hiss/2-b.wav"), b"not a sound"),
        **dict.fromkeys(("nan/hum/1-a.wav", "nan/hiss/2-b.wav"), wav(np.nan)),
    }
    for name, content in files.items():
        (here / name).parent.mkdir(parents=True, exist_ok=True)
        (here / name).write_bytes(content)
    (here / "empty").mkdir()
    torch.save(Trap(), here / "zipped_trap.safetensors")
    weights = build(nano.model, len(SCENES)).state_dict()
    first, tensor = next(iter(weights.items()))
    save_file(weights, here / "weights.safetensors")
    save_file({name: weights[name] for name in weights if name != first}, here / "less.safetensors")
    save_file({**weights, first: tensor * torch.nan}, here / "nan.safetensors")
    save_file(weights, here / "card.safetensors", {"tinyscene": "{"})
    run = import_weights(here / "weights.safetensors", nano, here / "run")
    shutil.copytree(run, here / "unfinished")
    (here / "unfinished/model.safetensors").rename(here / "unfinished/checkpoint.safetensors")
    model = onnx.parser.parse_model(LOUDNESS)
    card = {"labels": SCENES, "front_end": FrontEnd().as_dict()}
    onnx.helper.set_model_props(model, {"tinyscene": json.dumps(card)})
    onnx.save(model, here / "model.onnx")
    return here


@pytest.fixture
def refused(run_cli: RunCli, world: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Refused]:
    """Run a command that must fail in one line and write nothing. Returns the line."""
    monkeypatch.chdir(world)

    def listing() -> dict[Path, tuple[int, int]]:
        return {path: (path.lstat().st_size, path.lstat().st_mtime_ns) for path in world.rglob("*")}

    def run(command: str, code: int = 2) -> str:
        before = listing()
        stopped, _, err = run_cli(*command.split())
        assert (stopped, err[:11], err.find("\n")) == (code, "tinyscene: ", len(err) - 1)
        assert listing() == before
        return err

    yield run
    shutil.rmtree(world / "new", ignore_errors=True)


@contextlib.contextmanager
def full_disk(room: int) -> Iterator[None]:
    """Let no file grow beyond `room` bytes."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (room, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


@pytest.mark.parametrize("command", CASES)
def test_bad_input_is_named_in_one_line(command: str, refused: Refused) -> None:
    assert CASES[command] in refused(command)


def test_good_input_is_not_refused(run_cli: RunCli, world: Path) -> None:
    code, out, err = run_cli("classify", world / "model.onnx", world / "two/hum/1-a.wav", "--json")
    assert (code, err, json.loads(out)[0]["scene"] in SCENES) == (0, "", True)


def test_a_pickle_that_is_read_springs_its_trap(world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    pickle.loads((world / "trap.safetensors").read_bytes())
    (tmp_path / "caught").rmdir()
    torch.load(io.BytesIO((world / "zipped_trap.safetensors").read_bytes()), weights_only=False)
    (tmp_path / "caught").rmdir()


@pytest.mark.parametrize("command", ["budget baseline", "budget run", "train baseline --data sample --out new"])
def test_a_model_over_budget_is_refused_with_3(command: str, refused: Refused) -> None:
    limit = " --max-macs 1000" if command == "budget run" else " --set model.base_channels=128"
    assert "MACs is over the limit" in refused(command + limit, code=3)


@pytest.mark.parametrize("folder", ["words", "nan"])
def test_recordings_of_no_use_leave_no_cache(folder: str, refused: Refused, cache: Path) -> None:
    before = sorted(cache.iterdir())
    assert "can be used" in refused(f"prepare {folder}")
    assert sorted(cache.iterdir()) == before


def test_a_full_disk_leaves_no_sample(refused: Refused) -> None:
    with full_disk(50_000):
        refused("sample new")


def test_a_full_disk_leaves_no_cache(refused: Refused, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TINYSCENE_CACHE", str(tmp_path / "cache"))
    with full_disk(50_000):
        refused("prepare two")
    assert [path.name for path in (tmp_path / "cache").iterdir()] == [".lock"]


def test_a_run_goes_on_after_a_full_disk(refused: Refused, run_cli: RunCli, tmp_path: Path) -> None:
    with full_disk(20_000):
        refused(f"{TRAIN} --out {tmp_path}")
    assert {path.name for path in tmp_path.iterdir()} <= {"recipe.yaml", "metrics.jsonl"}
    assert run_cli(*f"{TRAIN} --out {tmp_path} --resume".split())[0] == 0

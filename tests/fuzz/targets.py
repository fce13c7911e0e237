"""The formats of untrusted files, each with seeds and with what reads it: only TinysceneError may come out.

Lengths and hashes refuse nearly every change of a file before the rest of it is looked at. So the first byte of a
fuzzed input of some formats says whether they are put right before the rest is read.
"""

import contextlib
import hashlib
import io
import itertools
import json
import os
import shutil
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import safetensors.torch
import torch
from torch import nn

from tests.fuzz.inputs import Inputs
from tinyscene.deploy.bundle.bundle import open_bundle
from tinyscene.deploy.bundle.decision import DecisionRule
from tinyscene.deploy.bundle.golden import read_vectors
from tinyscene.deploy.bundle.index import DECISION, INDEX, hash_of
from tinyscene.deploy.bundle.likeness import Likeness
from tinyscene.deploy.common.errors import TinysceneError
from tinyscene.deploy.frontend.audio import Recording
from tinyscene.deploy.frontend.band_offsets import INT8_MAX, BandOffsets
from tinyscene.deploy.frontend.log_mel import FrontEnd
from tinyscene.deploy.graph import reference
from tinyscene.deploy.graph.embedding import below_classifier
from tinyscene.deploy.graph.graph import Graph
from tinyscene.deploy.graph.storage import load_graph
from tinyscene.deploy.graph.tensor import MAX_ELEMENTS
from tinyscene.deploy.live.classifier import OnnxClassifier
from tinyscene.interface import hub
from tinyscene.train.data.cache import prepare
from tinyscene.train.data.cache_index import Index, data_hash_of
from tinyscene.train.data.datasets import open_dataset
from tinyscene.train.loop.checkpoint import TrainState, resume_run, save_checkpoint
from tinyscene.train.loop.schedule import learning_rate
from tinyscene.train.models import build
from tinyscene.train.recipe import RECIPES, load_recipe
from tinyscene.train.runs.model_files import count_onnx, count_tflite
from tinyscene.train.runs.run import CHECKPOINT, DIGEST, digest, load_model
from tinyscene.train.runs.transfer import transfer
from tinyscene.train.sweep.plan import plan
from tinyscene.train.sweep.sweep_file import SWEEPS, read_sweep
from tinyscene.train.teachers.logits import read_logits

AS_IT_IS, PUT_RIGHT = b"0", b"1"
MOST_CLIPS = 20  # that are decoded of one recording
CACHE_RATE = 100  # Hz, of a cache's clips
MOST_MACS = 100_000  # of a graph that is run

Read = Callable[[bytes], object]


@dataclass(frozen=True)
class Target:
    """A format: valid inputs, what reads any, and how large inputs may become."""

    seeds: list[bytes]
    read: Read
    longest: int = 4096  # bytes

    def check(self, data: bytes) -> None:
        """Read an input. Raises whatever is not a TinysceneError of one printable line."""
        try:
            self.read(data)
        except TinysceneError as error:
            if not str(error).isprintable():
                raise ValueError(f"an error of several lines: {str(error)!r}") from error


def targets(inputs: Inputs, work: Path) -> dict[str, Callable[[], Target]]:
    """What makes each target. `work` is a folder for the fuzzed files."""
    kinds = (
        *(bundle_index, graph, graph_tensors, run_tensors, golden, logits, recipe, sweep, metadata),
        *(audio, onnx, tflite, pickled, checkpoint, cache, band_offsets, hub_listing),
    )
    return {kind.__name__: lambda kind=kind: kind(inputs, work) for kind in kinds}


def bundle_index(inputs: Inputs, work: Path) -> Target:
    folder = shutil.copytree(inputs.bundle, work / "bundle")
    index = folder / INDEX
    known = open_bundle(inputs.bundle)

    def read(data: bytes) -> None:
        index.write_bytes(_rehashed(data[1:], known.content["files"]) if data[:1] == PUT_RIGHT else data[1:])
        bundle = open_bundle(folder)
        assert (len(bundle.errors), len(bundle.metadata["labels"])) == (len(bundle.graph.tensors), len(bundle.labels))
        assert bundle.float_graph.tensors.keys() == bundle.graph.tensors.keys()
        assert len(bundle.vectors.logits)
        assert bundle._card()
        assert bundle.rule is None or bundle.rule.choose(np.zeros(len(bundle.labels), np.int64), 0, 1) >= 0
        if bundle.front_end != known.front_end:
            bundle.features(np.zeros((1, bundle.front_end.clip_samples), np.int16))

    content = index.read_bytes()
    rows = ((1,) * below_classifier(known.graph).output.shape[-1],) * len(known.labels)
    rule = DecisionRule(4, 8, 3, Likeness(-20, 2, rows, 0.95, 0.96, 256, rows[0]))
    with_rule = json.dumps(json.loads(content) | {DECISION: rule.as_dict()}).encode()
    return Target([PUT_RIGHT + content, PUT_RIGHT + with_rule, AS_IT_IS + content], read, 2 * len(content))


def _rehashed(index: bytes, files: dict[str, str]) -> bytes:
    """An index with the right hashes, as far as it is one."""
    with contextlib.suppress(Exception):
        content = json.loads(index)
        content["front_end_sha256"] = hash_of(FrontEnd(**content["front_end"]).as_dict())
        content["files"] |= files
        return json.dumps(content).encode()
    return index


def band_offsets(inputs: Inputs, work: Path) -> Target:
    offsets = BandOffsets(open_bundle(inputs.bundle).bands)
    silence = np.zeros((len(offsets.values), 50), np.int8)

    def read(data: bytes) -> None:
        offsets.load(_file(work / "band_offsets", data))
        for _ in range(3):
            offsets.hear(silence)
            offsets.learn(0)
        assert np.abs(offsets.values).max() <= INT8_MAX
        offsets.restore(offsets.state)

    return Target([offsets.state], read, 2 * len(offsets.state))


def graph(inputs: Inputs, work: Path) -> Target:
    folder = shutil.copytree(inputs.bundle, work / "graph")

    def read(data: bytes) -> None:
        (folder / "graph.json").write_bytes(data)
        _run(load_graph(folder, "graph"))

    floats = (inputs.bundle / "float.json").read_bytes()
    content = (folder / "graph.json").read_bytes()
    return Target([content, floats], read, 2 * len(content))


def graph_tensors(inputs: Inputs, work: Path) -> Target:
    folder = shutil.copytree(inputs.bundle, work / "graph_tensors")

    def read(data: bytes) -> None:
        (folder / "graph.safetensors").write_bytes(_framed(data))
        _run(load_graph(folder, "graph"))

    return Target(_unframed((folder / "graph.safetensors").read_bytes()), read, 16_384)


def _run(graph: Graph) -> None:
    """A graph that was accepted runs, whatever it holds."""
    if graph.macs <= MOST_MACS and sum(np.prod(tensor.shape) for tensor in graph.tensors.values()) <= MAX_ELEMENTS:
        kind = np.int8 if graph.is_integer else np.float32
        with np.errstate(all="ignore"):
            assert reference.run(graph, np.zeros(graph.input.shape, kind)).shape == graph.output.shape


def _framed(data: bytes) -> bytes:
    """A safetensors file: of its header, on one line, and its tensors, where the first byte says so."""
    if data[:1] != PUT_RIGHT:
        return data[1:]
    header, _, tensors = data[1:].partition(b"\n")
    return len(header).to_bytes(8, "little") + header + tensors


def _unframed(content: bytes) -> list[bytes]:
    header = 8 + int.from_bytes(content[:8], "little")
    return [PUT_RIGHT + content[8:header] + b"\n" + content[header:], AS_IT_IS + content]


def run_tensors(inputs: Inputs, work: Path) -> Target:
    network, card = load_model(inputs.run)

    def read(data: bytes) -> None:
        path = _file(work / "run.safetensors", _framed(data))
        with contextlib.suppress(ValueError):  # of which InputError is one
            load_model(path)
        transfer(network, path, card.labels)

    return Target(_unframed((inputs.run / "model.safetensors").read_bytes()), read, 16_384)


def golden(inputs: Inputs, work: Path) -> Target:
    vectors = open_bundle(inputs.bundle).vectors
    small = type(vectors)(*(array[:2, :8] for array in vars(vectors).values()))
    return Target([small.to_bytes()], lambda data: read_vectors(data).to_bytes())


def logits(inputs: Inputs, work: Path) -> Target:
    def read(data: bytes) -> None:
        answers = read_logits(_file(work / "logits.safetensors", _framed(data)))
        assert answers.of(list(answers.clips), answers.labels).isfinite().all()

    return Target(_unframed((inputs.folder / "logits.safetensors").read_bytes()), read)


def recipe(inputs: Inputs, work: Path) -> Target:
    return Target(
        [path.read_bytes() for path in (*sorted(RECIPES.glob("*.yaml")), inputs.run / "recipe.yaml")],
        lambda data: load_recipe(str(_file(work / "recipe.yaml", data))),
    )


def sweep(inputs: Inputs, work: Path) -> Target:
    def read(data: bytes) -> None:
        path = str(_file(work / "sweep.yaml", data))
        alone = read_sweep(path)
        for variants in ((), *((name,) for name in itertools.islice(alone.variants, 3))):
            plan(read_sweep(path, variants), (), work)

    return Target([path.read_bytes() for path in sorted(SWEEPS.glob("*.yaml"))], read)


def metadata(inputs: Inputs, work: Path) -> Target:
    folder = shutil.copytree(inputs.tau, work / "tau")
    files = [folder / "meta.csv", *sorted((folder / "evaluation_setup").iterdir())]
    contents = [path.read_bytes() for path in files]

    def read(data: bytes) -> None:
        for path, content in itertools.zip_longest(files, data.split(b"\0", 2), fillvalue=b""):
            _file(path, content)  # type: ignore[arg-type] # there are as many files as parts, or more
        open_dataset(folder).describe("5")

    return Target([b"\0".join(contents)], read)


def audio(inputs: Inputs, work: Path) -> Target:
    def read(data: bytes) -> None:
        recording = Recording(_file(work / "recording", data), 32_000)
        for clip in itertools.islice(recording.clips(), MOST_CLIPS):
            assert (clip.dtype, clip.shape) == (np.int16, (32_000,))

    recordings = sorted((inputs.sounds / "rain").iterdir())
    return Target([path.read_bytes()[:6000] for path in recordings], read, 8192)


def onnx(inputs: Inputs, work: Path) -> Target:
    def read(data: bytes) -> None:
        path = _file(work / "model.onnx", data)
        with contextlib.suppress(ValueError):
            count_onnx(path)
        classifier = OnnxClassifier(path)
        assert len(classifier.probabilities(np.zeros((1, classifier.front_end.clip_samples), np.int16))) == 1

    content = (inputs.folder / "model.onnx").read_bytes()
    return Target([content], read, 2 * len(content))


def tflite(inputs: Inputs, work: Path) -> Target:
    content = (inputs.folder / "model.tflite").read_bytes()
    return Target([content], lambda data: count_tflite(_file(work / "model.tflite", data)), 2 * len(content))


def pickled(inputs: Inputs, work: Path) -> Target:
    card = load_model(inputs.run)[1]
    network = build(card.parsed_recipe.model, len(card.labels))
    files = [(inputs.folder / name).read_bytes() for name in ("weights.pt", "logits.pt")]
    storages = dict(itertools.chain(*(_entries(content).items() for content in files)))

    def read(data: bytes) -> None:
        content = _zipped({**storages, "data.pkl": data[1:]}) if data[:1] == PUT_RIGHT else data[1:]
        path = _file(work / "weights.pt", content)
        with contextlib.suppress(ValueError):
            read_logits(path)
        transfer(network, path, card.labels)

    pickles = [_entries(content)["data.pkl"] for content in files]
    return Target(
        [*(AS_IT_IS + content for content in files), *(PUT_RIGHT + content for content in pickles)], read, 16_384
    )


def checkpoint(inputs: Inputs, work: Path) -> Target:
    """The file that a run is resumed from: what is accepted can be trained on."""
    folder = shutil.copytree(inputs.run, work / "resumed")
    card = load_model(inputs.run)[1]
    settings = card.parsed_recipe.train
    network = build(card.parsed_recipe.model, len(card.labels))
    optimizer = torch.optim.AdamW(network.parameters(), lr=settings.lr)
    _step(network, optimizer)
    state = TrainState(epoch=1, batch=1, step=3, loss=2.0, correct=1, clips=settings.batch_size, seconds=1.0)
    save_checkpoint(folder, network, None, optimizer, card, state)
    path = folder / CHECKPOINT

    def read(data: bytes) -> None:
        path.write_bytes(_with_digest(_framed(data)) if data[:1] == PUT_RIGHT else data[1:])
        place = resume_run(folder, network, None, optimizer, card)
        place.require_reached(settings.batch_size, 2 * settings.batch_size, path)
        _step(network, optimizer)
        assert settings.schedule == "linear" or learning_rate(settings, place.step, 2 * settings.epochs) >= 0
        assert all(moment.isfinite().all() for moments in optimizer.state.values() for moment in moments.values())

    return Target(_unframed(path.read_bytes()), read, 65_536)


def _step(network: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    for parameter in network.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()


def _with_digest(content: bytes) -> bytes:
    """A safetensors file with the hash that it must have of itself, as far as it is one."""
    with contextlib.suppress(Exception):
        tensors, size = safetensors.torch.load(content), int.from_bytes(content[:8], "little")
        header = json.loads(content[8 : 8 + size])["__metadata__"]
        return safetensors.torch.save(tensors, header | {DIGEST: digest(tensors, header)})
    return content


def cache(inputs: Inputs, work: Path) -> Target:
    """An index and the sound that it tells of, a line each."""
    dataset = open_dataset(inputs.sounds)
    known = prepare(dataset, CACHE_RATE, work / "cache")
    folder = known.folder

    def read(data: bytes) -> None:
        index, _, sound = data[1:].partition(b"\n")
        (folder / "pcm.i16").write_bytes(sound)
        (folder / "index.json").write_bytes(_with_hashes(index, sound) if data[:1] == PUT_RIGHT else index)
        clips = prepare(dataset, CACHE_RATE, folder.parent)
        chosen = clips.select(dataset.split("fold1")[0])
        assert len(clips.names(chosen)) == len(clips.pcm[chosen]) == len(clips.recording_devices(chosen))
        assert (clips.label[chosen] >= 0).all()
        assert clips.report()

    content = (folder / "index.json").read_bytes() + b"\n" + (folder / "pcm.i16").read_bytes()
    return Target([PUT_RIGHT + content, AS_IT_IS + content], read, 2 * len(content))


def _with_hashes(index: bytes, sound: bytes) -> bytes:
    """An index with the hashes of this sound, and of itself, as far as it is one."""
    with contextlib.suppress(Exception):
        content = json.loads(index)
        for item in content["recordings"]:
            start, end = (2 * CACHE_RATE * clip for clip in (item["first_clip"], item["first_clip"] + item["clips"]))
            item["sha256"] = hashlib.sha256(sound[start:end]).hexdigest()
        content["data_hash"] = data_hash_of(Index.model_validate(content).recordings)
        return json.dumps(content).encode()
    return index


def hub_listing(inputs: Inputs, work: Path) -> Target:
    """What a hub says that a repository holds: names and sizes. What is taken of it stays in its folder."""
    folder = work / "hub_listing"

    def read(data: bytes) -> None:
        with hub._named("hf://user/name"):
            siblings = [SimpleNamespace(rfilename=name, size=size) for name, size in json.loads(data)]
            names = hub._files_of_a_bundle("hf://user/name", siblings)
        sizes = {each.rfilename: int(each.size or 0) for each in siblings if each.rfilename in names}
        assert len(set(names)) <= hub.MAX_FILES
        assert all(0 <= sizes[name] <= hub.MAX_FILE for name in names)
        assert sum(sizes[name] for name in names) <= hub.MAX_BYTES
        assert all(os.path.normpath(folder / name) == f"{folder}/{name}" for name in names)

    own = [[path.relative_to(inputs.bundle).as_posix(), 100] for path in inputs.bundle.rglob("*") if path.is_file()]
    variants = [[f"{hub.VARIANTS}/a/{name}", size] for name, size in own]
    return Target([json.dumps(own).encode(), json.dumps([*own, *variants]).encode()], read)


def _entries(content: bytes) -> dict[str, bytes]:
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        return {name.partition("/")[2]: archive.read(name) for name in archive.namelist()}


def _zipped(entries: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, content in entries.items():
            archive.writestr(f"archive/{name}", content)
    return buffer.getvalue()


def _file(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path

"""Run folders and model files: what training writes, `evaluate`, `export` and `budget` read.

A run holds `recipe.yaml`, `metrics.jsonl`, `checkpoint.safetensors` to resume from and, when it is done,
`model.safetensors`: the weights with their branches folded, and in its header a card with the recipe,
labels, data, versions and git state that made it. Nothing in either is executed when read.
"""

import contextlib
import hashlib
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import safetensors
import safetensors.torch
import torch
from pydantic import BaseModel, ConfigDict, ValidationError
from torch import Tensor, nn

from tinyscene.deploy.common.errors import InputError
from tinyscene.deploy.common.files import (
    lock,
    read_bounded,
    replacing_folder,
    require_file,
    require_free,
    sha256,
    write_whole,
)
from tinyscene.deploy.common.provenance import provenance
from tinyscene.train.data.datasets import SCENES
from tinyscene.train.models import build
from tinyscene.train.recipe import Recipe, parse_recipe
from tinyscene.train.runs.pickled import PICKLED, read_pickled
from tinyscene.train.runs.weights import converted, require_variances
from tinyscene.train.settings import yaml_text

MODEL, CHECKPOINT = "model.safetensors", "checkpoint.safetensors"
RECIPE, METRICS = "recipe.yaml", "metrics.jsonl"
MAX_FILE, MAX_HEADER = 2**31, 2**25  # bytes; a header of logits for 150,000 clips has 2**23
MAX_METRICS = 10_000_000  # bytes; 10,000 epochs have 2 MB
LONGEST_EPOCH = 1e9  # seconds
MAX_TENSORS = 20_000
_CARD, DIGEST = "tinyscene", "digest"  # keys of a safetensors header: the card, and a hash of all else in the file


class Card(BaseModel):
    """What made a model: all that is needed to use it and to make it again."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    format: Literal[1] = 1
    recipe: dict[str, Any]
    labels: tuple[str, ...]
    made_by: dict[str, Any]
    split: str | None = None  # of the dataset; like the next four, none for imported weights
    split_hash: str | None = None  # of the names in its lists
    data_hash: str | None = None
    data: dict[str, Any] | None = None  # what `Dataset.describe` says of the split
    micro_batch: int | None = None
    source: str | None = None  # what weights that were imported or fine-tuned came from, with a hash
    teacher: str | None = None  # run that was asked at each step of the training, with a hash
    external_data: str | None = None  # folder of recordings without labels that the teacher was asked about

    @property
    def parsed_recipe(self) -> Recipe:
        return parse_recipe(self.recipe, "the model's recipe")


@dataclass(frozen=True)
class RunFolder:
    """The folder that a run is written to, and whether the run in it is to be resumed."""

    path: Path
    resume: bool = False

    @classmethod
    def begun_or_new(cls, path: Path) -> "RunFolder":
        """A folder whose run is resumed if it has begun, and started if not."""
        return cls(path, (path / RECIPE).exists())

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """Keep other processes from training this run. Raises InputError if one does."""
        if os.name != "posix" or not self.path.is_dir():  # only there can folders be locked
            yield
            return
        handle = os.open(self.path, os.O_RDONLY)
        try:
            try:
                lock(handle, wait=False)
            except BlockingIOError:
                raise InputError(f"{self.path}: another process is training this run; wait for its end") from None
            yield
        finally:
            os.close(handle)


def save_tensors(path: Path, tensors: dict[str, Tensor], card: Card, state: dict[str, Any] | None = None) -> None:
    """Write tensors with a card and optional state as one safetensors file, whole or not at all."""
    header = {_CARD: card.model_dump_json()} | ({"state": json.dumps(state)} if state else {})
    content = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    header[DIGEST] = digest(content, header)
    write_whole(path, to_bytes(content, header))


def to_bytes(tensors: dict[str, Tensor], header: dict[str, str]) -> bytes:
    """A safetensors file, the same for the same content: the library writes the header's strings in any order."""
    content = safetensors.torch.save(tensors, header)
    start = 8 + int.from_bytes(content[:8], "little")
    parts = json.loads(content[8:start])
    parts["__metadata__"] = dict(sorted(header.items()))
    text = json.dumps(parts, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # tensors begin at a multiple of 8
    return b"".join((len(text).to_bytes(8, "little"), text, memoryview(content)[start:]))


def read_metrics(folder: Path) -> list[dict[str, Any]]:
    """What a run measured after each epoch; nothing where it has no metrics. Raises InputError for a file of others."""
    path = folder / METRICS
    lines = read_bounded(path, MAX_METRICS).splitlines() if path.exists() else []
    try:
        epochs = [json.loads(line) for line in lines]
    except (RecursionError, ValueError):
        raise InputError(f"{path}: not the metrics of a training") from None
    if not all(isinstance(epoch, dict) for epoch in epochs):
        raise InputError(f"{path}: not the metrics of a training")
    return epochs


def training_seconds(folder: Path) -> float:
    """How long a run's epochs took. Raises InputError where its metrics do not say so of each."""
    epochs = read_metrics(folder)
    for line, epoch in enumerate(epochs, 1):
        seconds: Any = epoch.get("seconds")
        if type(seconds) not in (int, float) or not 0 <= seconds < LONGEST_EPOCH:
            raise InputError(f"{folder / METRICS}: line {line} does not say how many `seconds` its epoch took")
    return sum(epoch["seconds"] for epoch in epochs)


def digest(tensors: dict[str, Tensor], header: dict[str, str]) -> str:
    """Hex SHA-256 of tensors and header strings, but for the one that holds it."""
    total = hashlib.sha256(
        json.dumps({key: text for key, text in header.items() if key != DIGEST}, sort_keys=True).encode()
    )
    for name, tensor in sorted(tensors.items()):
        total.update(f"{name} {tensor.dtype} {list(tensor.shape)}".encode())
        total.update(tensor.contiguous().flatten().view(torch.uint8).numpy().data)
    return total.hexdigest()


def load_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors and header strings of a safetensors file. Raises InputError if it is none."""
    require_file(path)
    try:
        _check_size(path)
        with safetensors.safe_open(path, "pt") as handle:
            if len(handle.keys()) > MAX_TENSORS:
                raise ValueError(f"more than {MAX_TENSORS:,} tensors")
            header = handle.metadata() or {}
            tensors = {name: handle.get_tensor(name) for name in handle.keys()}  # noqa: SIM118 - not a dict
        if _CARD in header and DIGEST in header and digest(tensors, header) != header[DIGEST]:
            raise ValueError("its content is not what was written")
        return tensors, header
    except (safetensors.SafetensorError, OSError, ValueError) as error:
        raise InputError(f"{path}: not a safetensors file that can be read ({error})") from None


def _check_size(path: Path) -> None:
    """Raise ValueError for a safetensors file or header that is too large; its tensors lie within the file."""
    with path.open("rb") as handle:
        header = int.from_bytes(handle.read(8), "little")
    if path.stat().st_size > MAX_FILE:
        raise ValueError(f"larger than {MAX_FILE >> 20} MB")
    if header > MAX_HEADER:
        raise ValueError(f"its header is larger than {MAX_HEADER >> 20} MB")


def read_card(header: dict[str, str], path: Path) -> Card | None:
    """The card in a header, or none where the file is not tinyscene's."""
    if _CARD not in header:
        return None
    try:
        return Card.model_validate_json(header[_CARD])
    except ValidationError as error:
        fault = error.errors(include_url=False)[0]
        key = ".".join(str(part) for part in fault["loc"])
        raise InputError(f"{path}: its card cannot be read ({key}: {fault['msg']})") from None


def model_path(run: Path) -> Path:
    """The model file of a run folder, or the file itself. Raises InputError if there is none."""
    if run.is_dir() and not (run / MODEL).exists():
        hint = "its training is not finished: go on with --resume" if (run / CHECKPOINT).exists() else "not a run"
        raise InputError(f"{run}: holds no {MODEL} ({hint})")
    if not run.exists():
        raise InputError(f"{run}: no such run or file")
    return run / MODEL if run.is_dir() else run


def load_model(run: Path) -> tuple[nn.Module, Card]:
    """The network of a run folder or model file, in evaluation mode, and its card."""
    path = model_path(run)
    tensors, header = load_tensors(path)
    card = read_card(header, path)
    if card is None:
        raise InputError(f"{path}: was not made by tinyscene; bring it in with `tinyscene import`")
    return network_with(tensors, card.parsed_recipe, len(card.labels), path), card


def network_with(tensors: dict[str, Tensor], recipe: Recipe, classes: int, path: Path) -> nn.Module:
    """The recipe's finished network, holding these weights. Raises InputError where they do not fit."""
    network = build(recipe.model.finished(), classes)
    expected = network.state_dict()
    values = {}
    for name, tensor in expected.items():
        if name not in tensors:
            raise InputError(f"{path}: lacks {name}, which recipe {recipe.name} needs")
        if tensors[name].shape != tensor.shape:
            shapes = f"{list(tensors[name].shape)}, not {list(tensor.shape)}"
            raise InputError(f"{path}: {name} is {shapes} as recipe {recipe.name} has it")
        values[name] = converted(tensors[name], tensor, name, path)
    if unknown := sorted(set(tensors) - set(expected)):
        raise InputError(f"{path}: holds {unknown[0]}, which recipe {recipe.name} does not have")
    network.load_state_dict(values)
    return network.eval()


def write_recipe(out: Path, recipe: Recipe) -> None:
    write_whole(out / RECIPE, yaml_text(recipe.as_dict()))


def import_weights(weights: Path, recipe: Recipe, out: Path, prefix: str = "", source: str | None = None) -> Path:
    """Make a run of weights trained elsewhere, in the published baseline's parameter names and scene order.

    Of a file that holds several networks, those are taken whose names begin with `prefix`. `source` is said in the
    card instead of the file's name.
    """
    tensors, header = (read_pickled(weights), {}) if weights.suffix in PICKLED else load_tensors(weights)
    known = read_card(header, weights)
    if prefix:
        tensors = {name.removeprefix(prefix): each for name, each in tensors.items() if name.startswith(prefix)}
    labels = known.labels if known else SCENES
    network_with(tensors, recipe, len(labels), weights)
    if known is None:
        require_variances(tensors, weights)
    card = Card(
        recipe=recipe.as_dict(),
        labels=labels,
        made_by=provenance(),
        source=f"{source or weights.name} sha256:{sha256(weights)}",
    )
    require_free(out)
    with replacing_folder(out) as temporary:
        write_recipe(temporary, recipe)
        save_tensors(temporary / MODEL, tensors, card)
    return out

"""The bundle: one folder with all that is shipped, and a hash of every file in it.

    bundle = open_bundle(Path("bundles/first"))
    bundle.graph, bundle.front_end, bundle.labels

`bundle.json` holds labels, front end, provenance, budget, how it was quantized, and the SHA-256 of each
other file: the integer graph (`graph.*`), the float graph it came from (`float.*`), golden vectors, a model
card, and the exports. A folder is written whole or not at all, and read only if every file is as it was
written: a truncated, changed or missing one is refused by name.

A bundle may hold variants of its network for single recording devices, each a bundle of its own:

    bundle.variant("s1")        # variants/s1, or the bundle itself where s1 has none

Its index names their devices and the hash of each one's index, which is checked when the variant is opened.

It may hold a decision rule (`decision.py`); without one, a decision is the class of the highest logit. It may hold the
means of its mel bands, from which a device learns offsets (`deploy/frontend/band_offsets.py`).

What is measured later is recorded in the index, and the model card, which tells it, is written anew. Two files
cannot change at once, so until both have the index takes the card as it was, too: whoever is killed between leaves a
bundle that opens.
"""

import contextlib
import hashlib
import json
import math
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tinyscene.deploy.bundle.decision import UNKNOWN_LABEL, DecisionRule
from tinyscene.deploy.bundle.features import input_log_mel
from tinyscene.deploy.bundle.golden import Vectors, make_vectors, read_vectors
from tinyscene.deploy.bundle.inspection import TensorErrors
from tinyscene.deploy.bundle.model_card import model_card
from tinyscene.deploy.common.errors import InputError
from tinyscene.deploy.common.files import lock, replacing_folder, require_free, sha256, write_whole
from tinyscene.deploy.common.text import is_unicode, json_text
from tinyscene.deploy.frontend.band_offsets import Bands, read_means
from tinyscene.deploy.frontend.fixed_point import FixedPointLogMel
from tinyscene.deploy.frontend.log_mel import ONE_SECOND, FrontEnd
from tinyscene.deploy.graph.graph import Graph
from tinyscene.deploy.graph.storage import load_graph, save_graph

LONGEST_LABEL = 200  # characters
SCHEMA = 1
INDEX, CARD, VECTORS = "bundle.json", "MODEL_CARD.md", "golden/vectors.bin"
GRAPH, FLOAT_GRAPH = "graph", "float"
VARIANTS = "variants"  # folder, and key of the index
DECISION = "decision"  # key of the index: the decision rule
BAND_MEANS = "band_means"  # key of the index: the means of the mel bands, by class
ATTRIBUTION = "attribution"  # key of the index: who made the recordings
RECORDS = ("metrics", "bench", ATTRIBUTION)  # keys of the index that may be written later
FORMER_CARD = "former_card_sha256"  # key of the index while the card is being written anew
DEVICE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9 ._+-]{0,63}")
MAX_INDEX, MAX_FILE = 2**24, 2**26  # bytes
EXPORTS = {
    "tflite": "model.tflite",
    "tflite-float": "model-float.tflite",
    "onnx": "model.onnx",
    "onnx-int8": "model-int8.onnx",
}
BUDGET_KEYS = ("parameters", "macs", "deployed_bytes", "deployed_macs")
LASTING = (*(f"{stem}.{kind}" for stem in (GRAPH, FLOAT_GRAPH) for kind in ("json", "safetensors")), VECTORS)
PARTS = (*LASTING, CARD)


@dataclass(frozen=True)
class Bundle:
    """An open bundle, its files checked. Raises InputError where its parts do not fit each other."""

    folder: Path
    content: dict[str, Any]  # of bundle.json
    front_end: FrontEnd
    labels: tuple[str, ...]
    graph: Graph

    def __post_init__(self) -> None:
        if not self.graph.is_integer:
            raise InputError(f"{self.folder}: its graph is not quantized")
        if self.graph.input.shape != (1, *self.front_end.shape, 1):
            raise InputError(f"{self.folder}: its graph takes {self.graph.input.shape}, its front end gives another")
        if self.graph.output.shape != (1, len(self.labels)):
            raise InputError(f"{self.folder}: its graph gives {self.graph.output.shape} for {len(self.labels)} labels")
        self._check_content()
        if self.rule is not None and self.rule.unknown is not None:
            self.rule.unknown.require_fits(self.graph)

    def _check_content(self) -> None:
        """What readers of the index rely on, besides what has been read from it."""
        is_second = self.front_end.clip_seconds == ONE_SECOND
        try:
            good = (
                all(type(self.content["budget"][key]) is int for key in BUDGET_KEYS)
                and (is_second or type(self.content["budget"]["clip_macs"]) is int)
                and type(self.content["quantized"]["split"]) is str
                and type(self.content["recipe"]) is dict
                and all(
                    math.isfinite(self.content["errors"][name][figure])
                    for name in self.graph.tensors
                    for figure in ("sqnr_db", "alone")
                )
            )
        except (KeyError, TypeError, OverflowError):
            good = False
        if not good:
            raise InputError(f"{self.folder / INDEX}: lacks its budget, errors, recipe or split; make the bundle again")

    def __repr__(self) -> str:
        return f"<Bundle {self.folder}: {len(self.labels)} labels, {len(self.graph.operators)} operators>"

    @cached_property
    def log_mel(self) -> FixedPointLogMel:
        """The fixed-point front end: int16 clips (batch, samples) -> int8 log-mel (batch, mel, frame)."""
        return input_log_mel(self.graph, self.front_end)

    def features(self, pcm: NDArray[np.int16]) -> NDArray[np.int8]:
        """What the graph takes: int16 clips (batch, samples) -> int8 (batch, mel, frame, 1)."""
        return self.log_mel(pcm)[..., None]

    @cached_property
    def rule(self) -> DecisionRule | None:
        """The decision rule; none where a decision is the class of the highest logit."""
        return DecisionRule.read(self.content[DECISION]) if DECISION in self.content else None

    @property
    def bands(self) -> Bands:
        """What offsets of the mel bands are learned from. Raises InputError if the bundle lacks it."""
        if BAND_MEANS not in self.content:
            raise InputError(
                f"{self.folder}: has no means of its mel bands to learn offsets from; make it again with "
                "`tinyscene quantize`"
            )
        return Bands.of(self.content[BAND_MEANS], self.log_mel)

    @cached_property
    def float_graph(self) -> Graph:
        graph = load_graph(self.folder, FLOAT_GRAPH)
        shapes, expected = ({name: tensor.shape for name, tensor in g.tensors.items()} for g in (graph, self.graph))
        if graph.is_integer or shapes != expected:
            raise InputError(f"{self.folder / FLOAT_GRAPH}.json: not the float graph of the bundle's integer graph")
        return graph

    @cached_property
    def vectors(self) -> Vectors:
        path = self.folder / VECTORS
        try:
            vectors = read_vectors(path.read_bytes())
        except InputError as error:
            raise InputError(f"{path}: {error}") from None
        counts = tuple(array.shape[1] for array in (vectors.pcm, vectors.features, vectors.crc, vectors.logits))
        features = math.prod(self.front_end.shape)
        if counts != (self.front_end.clip_samples, features, len(self.graph.tensors), len(self.labels)):
            raise InputError(f"{path}: vectors of another bundle (their counts are {counts})")
        return vectors

    @property
    def errors(self) -> dict[str, TensorErrors]:
        """The quantization errors of each tensor, measured on training clips when the bundle was made."""
        stored = self.content["errors"]
        return {name: TensorErrors(stored[name]["sqnr_db"], stored[name]["alone"]) for name in self.graph.tensors}

    @property
    def metadata(self) -> dict[str, Any]:
        """What an exported file carries: all that is needed to use it, and whose it is."""
        return {
            "labels": list(self.labels),
            "front_end": self.front_end.as_dict(),
            "graph_sha256": self.content["files"][f"{GRAPH}.safetensors"],
        }

    @property
    def split(self) -> str | None:
        """The split whose training list it was quantized with; none where a caller gave the clips."""
        quantized = self.content["quantized"]
        return quantized["split"] if quantized.get("data", quantized) is not None else None

    @property
    def variants(self) -> tuple[str, ...]:
        """The devices that have a variant."""
        return tuple(self.content.get(VARIANTS, ()))

    def variant(self, device: str) -> "Bundle":
        """The bundle for a device: its variant or, for a device that has none, this one.

        Raises InputError if the variant is not the one that was written with this bundle.
        """
        if device not in self.variants:
            return self
        variant = open_bundle(self.folder / VARIANTS / device)
        if variant.fingerprint != self.content[VARIANTS][device]["sha256"]:
            raise InputError(f"{variant.folder}: not the variant that {self.folder} was written with")
        if (variant.labels, variant.front_end) != (self.labels, self.front_end):
            raise InputError(f"{variant.folder}: has other labels or another front end than {self.folder}")
        return variant

    @property
    def fingerprint(self) -> str:
        """Hash of the index as it was written, without exports, records and the card that tells them."""
        return _fingerprint(self.content)

    def add_export(self, kind: str, content: bytes) -> Path:
        """Write an export into the bundle and its hash into the index."""
        path = self.folder / EXPORTS[kind]
        with self._changing():
            write_whole(path, content)
            self.content["files"][EXPORTS[kind]] = sha256(path)
            write_whole(self.folder / INDEX, _dump(self.content))
        return path

    def record(self, kind: str, measured: dict[str, Any]) -> None:
        """Write what is known now into the index and the card, in place of what was earlier: a kind of RECORDS."""
        with self._changing():
            self.content[kind] = measured
            self.content.pop(FORMER_CARD, None)  # of one who was killed
            card, former = self._card(), sha256(self.folder / CARD)
            self.content["files"][CARD] = _sha256(card)
            write_whole(self.folder / INDEX, _dump(self.content | {FORMER_CARD: former}))
            write_whole(self.folder / CARD, card)
            write_whole(self.folder / INDEX, _dump(self.content))

    @contextlib.contextmanager
    def _changing(self) -> Iterator[None]:
        """One process at a time, from the index as others have left it. Raises InputError if the bundle is another."""
        with (self.folder / f"{GRAPH}.json").open("rb+") as lasting:  # the index is replaced by those who write it
            lock(lasting)
            content = _read_index(self.folder)
            if _fingerprint(content) != self.fingerprint:
                raise InputError(f"{self.folder}: was replaced by another bundle meanwhile; run it again")
            self.content.clear()
            self.content.update(content)
            yield

    def _card(self) -> str:
        try:
            return model_card(self.content)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            reason = f"{type(error).__name__}: {error}"
            raise InputError(f"{self.folder / INDEX}: lacks what a model card tells ({reason})") from None

    def exported(self, kind: str) -> bytes | None:
        """The bytes of an export, if there is one."""
        return (self.folder / EXPORTS[kind]).read_bytes() if EXPORTS[kind] in self.content["files"] else None


@dataclass(frozen=True)
class BundleParts:
    """What a bundle is written from."""

    graph: Graph
    float_graph: Graph
    front_end: FrontEnd
    labels: tuple[str, ...]
    content: dict[str, Any]  # what else goes into the index


def write_bundle(folder: Path, parts: BundleParts, variants: Mapping[str, BundleParts] | None = None) -> Bundle:
    """Write a new bundle, whole or not at all. `variants` has the parts for single recording devices, by name."""
    require_free(folder)
    for device in variants or {}:
        require_device_name(device)
    settings = parts.front_end.as_dict()
    with replacing_folder(folder) as temporary:
        save_graph(parts.graph, temporary, GRAPH)
        save_graph(parts.float_graph, temporary, FLOAT_GRAPH)
        write_whole(temporary / VECTORS, make_vectors(parts.front_end, parts.graph).to_bytes())
        table = {
            device: {"sha256": write_bundle(temporary / VARIANTS / device, variant).fingerprint}
            for device, variant in (variants or {}).items()
        }
        index = {
            "schema": SCHEMA,
            "labels": list(parts.labels),
            "front_end": settings,
            "front_end_sha256": _hash(settings),
            **parts.content,
            **({VARIANTS: table} if table else {}),
            "files": {part: sha256(temporary / part) for part in LASTING},
        }
        write_whole(temporary / CARD, model_card(index))
        index["files"][CARD] = sha256(temporary / CARD)
        write_whole(temporary / INDEX, _dump(index))
        open_bundle(temporary)  # what could not be opened is not left behind
    return open_bundle(folder)


def open_bundle(folder: Path, rewriting: Iterable[str] = ()) -> Bundle:
    """Open a bundle and check every file but the exports that are about to be written anew.

    Raises InputError, naming the file, for what cannot be trusted.
    """
    content = _read_index(folder)
    files = content["files"]
    unchecked = {EXPORTS.get(kind) for kind in rewriting}
    for name in (*PARTS, *(name for name in files if name not in PARTS)):
        if name not in (*PARTS, *EXPORTS.values()):
            raise InputError(f"{folder / INDEX}: lists {name!r}, which is no file of a bundle")
        if name not in unchecked:
            _check_file(folder / name, (files.get(name), content.get(FORMER_CARD) if name == CARD else None))
    labels, front_end = tuple(content["labels"]), FrontEnd(**content["front_end"])
    return Bundle(folder, content, front_end, labels, load_graph(folder, GRAPH))


def _read_index(folder: Path) -> dict[str, Any]:
    """The index of a bundle, with labels, front end, variants and files that can be trusted to be such."""
    index = folder / INDEX
    if not index.is_file():
        raise InputError(f"{folder}: not a bundle (it holds no {INDEX}); make one with `tinyscene quantize`")
    if index.stat().st_size > MAX_INDEX:
        raise InputError(f"{index}: larger than {MAX_INDEX >> 20} MB")
    try:
        content = json.loads(index.read_bytes())
        if type(content["schema"]) is not int or content["schema"] != SCHEMA:
            raise InputError(f"schema {content['schema']!r}: this tinyscene reads {SCHEMA}; upgrade it")
        labels = read_labels(content["labels"])
        if DECISION in content:
            rule = DecisionRule.read(content[DECISION])
            if rule.unknown is not None and UNKNOWN_LABEL in labels:
                raise InputError(f"its label {UNKNOWN_LABEL!r} is what the decision rule says of strangers")
        content["files"] = dict(content["files"])
        front_end = FrontEnd(**content["front_end"])
        if content["front_end_sha256"] != _hash(front_end.as_dict()):
            raise InputError("its front end was changed after the bundle was made")
        if BAND_MEANS in content:
            read_means(content[BAND_MEANS], len(labels), front_end.n_mels)
        _check_variants(content.get(VARIANTS, {}))
        _fingerprint(content)  # raises where it is nested too deep to be hashed later, or lists no files
    except InputError as error:
        raise InputError(f"{index}: {error}") from None
    except (KeyError, TypeError, ValueError, RecursionError) as error:
        raise InputError(f"{index}: not the index of a bundle ({type(error).__name__}: {error})") from None
    return content


def read_labels(labels: object) -> tuple[str, ...]:
    """Labels as a file has them. Raises InputError if they are no list of different names."""
    if not isinstance(labels, list) or not labels or not all(type(label) is str for label in labels):
        raise InputError("labels must be a list of names")
    for label in labels:
        if not 1 <= len(label) <= LONGEST_LABEL or not is_unicode(label) or label.splitlines() != [label]:
            raise InputError(
                f"label {label[:40]!r}: must be 1 to {LONGEST_LABEL} characters of Unicode text, on one line"
            )
    if len(set(labels)) < len(labels):
        raise InputError("a label stands twice")
    return tuple(labels)


def require_device_name(name: str) -> None:
    """Make sure that a device's name can be the name of its folder and leads nowhere else. Raises InputError."""
    if not DEVICE_NAME.fullmatch(name):
        raise InputError(f"device {name!r}: must be named by at most 64 letters, digits, spaces and . _ + -")


def _check_variants(table: object) -> None:
    if not isinstance(table, dict):
        raise InputError("variants must be a table by device")
    for device, known in table.items():
        require_device_name(device)
        if not isinstance(known, dict) or type(known.get("sha256")) is not str:
            raise InputError(f"lacks the hash of the variant for device {device}")


def _check_file(path: Path, expected: tuple[object, ...]) -> None:
    if not path.is_file():
        raise InputError(f"{path}: missing from the bundle; make it again with `tinyscene quantize` or `export`")
    if path.stat().st_size > MAX_FILE:
        raise InputError(f"{path}: larger than {MAX_FILE >> 20} MB")
    if sha256(path) not in expected:
        raise InputError(f"{path}: was changed or damaged after the bundle was made (its SHA-256 differs)")


def _fingerprint(content: dict[str, Any]) -> str:
    files = {part: content["files"][part] for part in LASTING}
    later = (*RECORDS, FORMER_CARD)
    return _hash({key: value for key, value in content.items() if key not in later} | {"files": files})


def _hash(settings: dict[str, Any]) -> str:
    return _sha256(json.dumps(settings, sort_keys=True))


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _dump(content: dict[str, Any]) -> str:
    return json_text(content, indent=2) + "\n"

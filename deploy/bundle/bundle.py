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
import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tinyscene.deploy.bundle.decision import DecisionRule
from tinyscene.deploy.bundle.features import input_log_mel
from tinyscene.deploy.bundle.golden import Vectors, make_vectors, read_vectors
from tinyscene.deploy.bundle.index import (
    BAND_MEANS,
    BUDGET_KEYS,
    CARD,
    DECISION,
    EXPORTS,
    FLOAT_GRAPH,
    FORMER_CARD,
    GRAPH,
    INDEX,
    LASTING,
    PARTS,
    SCHEMA,
    VARIANTS,
    VECTORS,
    check_file,
    fingerprint_of,
    hash_of,
    index_text,
    read_index,
    require_device_name,
    text_sha256,
)
from tinyscene.deploy.bundle.inspection import TensorErrors
from tinyscene.deploy.bundle.model_card import model_card
from tinyscene.deploy.common.errors import InputError
from tinyscene.deploy.common.files import lock, replacing_folder, require_free, sha256, write_whole
from tinyscene.deploy.frontend.band_offsets import Bands
from tinyscene.deploy.frontend.fixed_point import FixedPointLogMel
from tinyscene.deploy.frontend.log_mel import ONE_SECOND, FrontEnd
from tinyscene.deploy.graph.graph import Graph
from tinyscene.deploy.graph.storage import load_graph, save_graph


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
        return fingerprint_of(self.content)

    def add_export(self, kind: str, content: bytes) -> Path:
        """Write an export into the bundle and its hash into the index."""
        path = self.folder / EXPORTS[kind]
        with self._changing():
            write_whole(path, content)
            self.content["files"][EXPORTS[kind]] = sha256(path)
            write_whole(self.folder / INDEX, index_text(self.content))
        return path

    def record(self, kind: str, measured: dict[str, Any]) -> None:
        """Write what is known now into the index and the card, in place of what was earlier: a kind of RECORDS."""
        with self._changing():
            self.content[kind] = measured
            self.content.pop(FORMER_CARD, None)  # of one who was killed
            card, former = self._card(), sha256(self.folder / CARD)
            self.content["files"][CARD] = text_sha256(card)
            write_whole(self.folder / INDEX, index_text(self.content | {FORMER_CARD: former}))
            write_whole(self.folder / CARD, card)
            write_whole(self.folder / INDEX, index_text(self.content))

    @contextlib.contextmanager
    def _changing(self) -> Iterator[None]:
        """One process at a time, from the index as others have left it. Raises InputError if the bundle is another."""
        with (self.folder / f"{GRAPH}.json").open("rb+") as lasting:  # the index is replaced by those who write it
            lock(lasting)
            content = read_index(self.folder)
            if fingerprint_of(content) != self.fingerprint:
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
            "front_end_sha256": hash_of(settings),
            **parts.content,
            **({VARIANTS: table} if table else {}),
            "files": {part: sha256(temporary / part) for part in LASTING},
        }
        write_whole(temporary / CARD, model_card(index))
        index["files"][CARD] = sha256(temporary / CARD)
        write_whole(temporary / INDEX, index_text(index))
        open_bundle(temporary)  # what could not be opened is not left behind
    return open_bundle(folder)


def open_bundle(folder: Path, rewriting: Iterable[str] = ()) -> Bundle:
    """Open a bundle and check every file but the exports that are about to be written anew.

    Raises InputError, naming the file, for what cannot be trusted.
    """
    content = read_index(folder)
    files = content["files"]
    unchecked = {EXPORTS.get(kind) for kind in rewriting}
    for name in (*PARTS, *(name for name in files if name not in PARTS)):
        if name not in (*PARTS, *EXPORTS.values()):
            raise InputError(f"{folder / INDEX}: lists {name!r}, which is no file of a bundle")
        if name not in unchecked:
            check_file(folder / name, (files.get(name), content.get(FORMER_CARD) if name == CARD else None))
    labels, front_end = tuple(content["labels"]), FrontEnd(**content["front_end"])
    return Bundle(folder, content, front_end, labels, load_graph(folder, GRAPH))

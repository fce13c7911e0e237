"""Bundles: what is in one, that it is written whole, the same each time, and read only as it was written."""

import contextlib
import hashlib
import json
import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import tinyscene.deploy.bundle.bundle
from tests.deploy.folders import EXPORTS, contents, reindexed, sha256
from tinyscene.deploy.bundle.bundle import Bundle, BundleParts, open_bundle, write_bundle
from tinyscene.deploy.bundle.exports import export
from tinyscene.deploy.bundle.index import read_labels
from tinyscene.deploy.common.errors import InputError
from tinyscene.deploy.graph.graph import Graph
from tinyscene.train.data.cache import Clips
from tinyscene.train.data.datasets import SCENES, Dataset
from tinyscene.train.quantize.quantize import quantize

RunCli = Callable[..., tuple[int, str, str]]
FILES = {
    *("graph.json", "graph.safetensors", "float.json", "float.safetensors", "golden/vectors.bin", "MODEL_CARD.md"),
}


@pytest.fixture
def folder(bundle: Bundle, tmp_path: Path) -> Path:  # one to change
    return shutil.copytree(bundle.folder, tmp_path / "copy")


@pytest.fixture
def refused(run_cli: RunCli, tmp_path: Path) -> Callable[[Path], str]:
    """Classify with a bundle that must be refused in one line. Returns the line."""

    def run(folder: Path) -> str:
        code, out, err = run_cli("classify", folder, tmp_path / "any.wav")
        assert (code, out, err[:11], err.count("\n")) == (2, "", "tinyscene: ", 1)
        return err

    return run


# What a bundle holds


def test_the_index_lists_the_hash_of_every_other_file(bundle: Bundle) -> None:
    found = contents(bundle.folder)
    assert found.keys() == FILES | {"bundle.json"}
    files = json.loads(found.pop("bundle.json"))["files"]
    assert files == {name: hashlib.sha256(content).hexdigest() for name, content in found.items()}


def test_the_index_says_what_made_the_bundle(bundle: Bundle, sample_clips: Clips) -> None:
    index = json.loads((bundle.folder / "bundle.json").read_text())
    assert (index["schema"], index["labels"]) == (1, list(SCENES))
    assert (index["recipe"]["name"], index["recipe"]["quantize"]["clips"]) == ("nano", 8)
    assert index["recipe"]["features"] == index["front_end"] == bundle.front_end.as_dict()
    quantized = index["quantized"]
    assert (quantized["split"], quantized["data_hash"]) == ("5", sample_clips.data_hash)
    assert (quantized["calibration_clips"], quantized["training"]) == (8, [])
    assert {"tinyscene", "numpy", "torch"} <= quantized["made_by"]["versions"].keys()
    assert "git" in quantized["made_by"]
    assert index["budget"].keys() == {"parameters", "macs", "deployed_bytes", "deployed_macs"}


def test_the_front_end_is_hashed_as_sorted_json(bundle: Bundle) -> None:
    text = json.dumps(bundle.content["front_end"], sort_keys=True)
    assert bundle.content["front_end_sha256"] == hashlib.sha256(text.encode()).hexdigest()


def test_the_model_card_names_labels_and_budget(bundle: Bundle) -> None:
    card = (bundle.folder / "MODEL_CARD.md").read_text()
    budget = bundle.content["budget"]
    assert [label for label in SCENES if label not in card] == []
    assert [key for key, figure in budget.items() if key != "deployed_macs" and f" {figure:,} |" not in card] == []


def test_a_bundle_says_nothing_of_the_machine_that_made_it(bundle: Bundle) -> None:
    paths = [str(bundle.folder.parent).encode(), str(Path.home()).encode() + b"/"]
    assert [name for name, content in contents(bundle.folder).items() if any(path in content for path in paths)] == []


def test_the_same_run_makes_the_same_bundle(
    bundle: Bundle, sample_dataset: Dataset, sample_clips: Clips, tmp_path: Path
) -> None:
    again = quantize(bundle.folder.parent / "run3", sample_dataset, sample_clips, tmp_path / "bundle", split="5")
    assert contents(again.folder) == contents(bundle.folder)


# What is not as it was written


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


DAMAGES: dict[str, Callable[[Path], object]] = {
    "one bit flipped": flip,
    "truncated": lambda path: path.write_bytes(path.read_bytes()[:-1]),
    "emptied": lambda path: path.write_bytes(b""),
    "removed": Path.unlink,
}


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("name", sorted(FILES))
def test_a_damaged_file_is_named(name: str, damage: str, folder: Path, refused: Callable[[Path], str]) -> None:
    DAMAGES[damage](folder / name)
    assert str(folder / name) in refused(folder)


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_export_is_named(damage: str, folder: Path, refused: Callable[[Path], str]) -> None:
    path = open_bundle(folder).add_export("tflite", b"anything")
    DAMAGES[damage](path)
    assert str(path) in refused(folder)


def test_a_damaged_export_is_mended_by_the_export_that_the_line_asks_for(folder: Path, run_cli: RunCli) -> None:
    open_bundle(folder).add_export("tflite", b"anything").unlink()
    assert run_cli("export", folder, "--to", "tflite")[0] == 0


@pytest.mark.parametrize("name", ["surprise.bin", "../outside", "/etc/passwd", "golden/../graph.json", "bundle.json"])
def test_a_file_that_no_bundle_has_is_refused(name: str, folder: Path, refused: Callable[[Path], str]) -> None:
    (folder.parent / "outside").write_bytes(b"")
    files = {**json.loads((folder / "bundle.json").read_text())["files"], name: hashlib.sha256(b"").hexdigest()}
    assert repr(name) in refused(reindexed(folder, files=files))


def test_a_newer_schema_asks_for_an_upgrade(folder: Path, refused: Callable[[Path], str]) -> None:
    line = refused(reindexed(folder, schema=2))
    assert str(folder / "bundle.json") in line
    assert "schema 2" in line
    assert "upgrade" in line


INDICES = {
    **{f"no {key}": {key: None} for key in ("schema", "labels", "front_end", "files")},
    "an older schema": {"schema": 0},
    **{f"a hash of {digit}": {"front_end_sha256": 64 * digit} for digit in "0f"},
    "nine labels": {"labels": list(SCENES[:9])},
    "a label twice": {"labels": [*SCENES[:9], SCENES[0]]},
    "numbers for labels": {"labels": list(range(10))},
    "no list of labels": {"labels": 10},
    "a front end of another shape": {"front_end": {"n_mels": 128}},
    "a front end with a surprise": {"front_end": {"surprise": 1}},
    "a front end of no sense": {"front_end": {"hop_length": 0}},
    "lists for labels": {"labels": [[name] for name in SCENES]},
    "a front end of another sound": {"front_end": {"f_min": 300.0}},
    **{f"no {key}": {key: None} for key in ("errors", "budget", "quantized", "recipe")},
    "errors of nothing": {"errors": {}},
    "no table of variants": {"variants": ["s1"]},
    "a variant without a hash": {"variants": {"s1": {}}},
    **{f"a variant named {name}": {"variants": {name: {"sha256": ""}}} for name in ("..", "../s1", "/etc", "s1/x", "")},
}


@pytest.mark.parametrize("name", INDICES)
def test_an_index_that_does_not_fit_is_refused(name: str, folder: Path, run_cli: RunCli) -> None:
    changes = dict(INDICES[name])
    if isinstance(change := changes.get("front_end"), dict):
        changes["front_end"] = json.loads((folder / "bundle.json").read_text())["front_end"] | change
    reindexed(folder)
    index = json.loads((folder / "bundle.json").read_text()) | changes
    (folder / "bundle.json").write_text(json.dumps({key: value for key, value in index.items() if value is not None}))
    code, out, err = run_cli("inspect", folder)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert str(folder) in err


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"null", b"7", b"\xff", b"[" * 200_000], ids=repr)
def test_a_file_that_is_no_index_is_refused(content: bytes, folder: Path, refused: Callable[[Path], str]) -> None:
    (folder / "bundle.json").write_bytes(content)
    assert str(folder / "bundle.json") in refused(folder)


def test_two_graphs_exchanged_are_refused(folder: Path, refused: Callable[[Path], str]) -> None:
    for suffix in ("json", "safetensors"):
        integer, exact = folder / f"graph.{suffix}", folder / f"float.{suffix}"
        swapped = integer.read_bytes()
        integer.write_bytes(exact.read_bytes())
        exact.write_bytes(swapped)
    assert "not quantized" in refused(reindexed(folder))


def test_an_integer_graph_for_the_float_one_is_refused(folder: Path, run_cli: RunCli) -> None:
    for suffix in ("json", "safetensors"):
        shutil.copy(folder / f"graph.{suffix}", folder / f"float.{suffix}")
    assert run_cli("export", reindexed(folder), "--to", "tflite-float")[0] == 2


@pytest.mark.parametrize("more", [True, False])
@pytest.mark.parametrize("part", ["pcm", "features", "crc", "logits"])
def test_golden_vectors_of_another_bundle_are_refused(part: str, more: bool, folder: Path) -> None:
    vectors = open_bundle(folder).vectors
    values = getattr(vectors, part)
    changed = np.concatenate([values, values[:, :1]], axis=1) if more else values[:, :-1]
    (folder / "golden/vectors.bin").write_bytes(replace(vectors, **{part: changed}).to_bytes())
    with pytest.raises(InputError, match="vectors of another bundle"):
        _ = open_bundle(reindexed(folder)).vectors


# Writing


def write(bundle: Bundle, folder: Path, float_graph: Graph | None = None) -> Bundle:
    own = {"schema", "labels", "front_end", "front_end_sha256", "files"}
    content = {key: value for key, value in bundle.content.items() if key not in own}
    floats = float_graph or bundle.float_graph
    return write_bundle(folder, BundleParts(bundle.graph, floats, bundle.front_end, bundle.labels, content))


@pytest.mark.parametrize("fault", [KeyboardInterrupt, OSError, MemoryError])
@pytest.mark.parametrize("step", ["save_graph", "make_vectors", "write_whole", "sha256", "index_text"])
def test_a_bundle_interrupted_anywhere_leaves_nothing(
    step: str, fault: type[BaseException], bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise fault

    graph = bundle.float_graph
    monkeypatch.setattr(tinyscene.deploy.bundle.bundle, step, fail)
    with pytest.raises(fault):
        write(bundle, tmp_path / "new", graph)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_holds_something_is_left_as_it_is(bundle: Bundle, tmp_path: Path) -> None:
    (tmp_path / "kept.txt").write_text("mine")
    with pytest.raises(InputError, match="not empty"):
        write(bundle, tmp_path)
    assert contents(tmp_path) == {"kept.txt": b"mine"}


@pytest.mark.parametrize("name", ["../../outside", "FOLDER/outside"])
def test_a_variant_is_not_written_outside_of_its_folder(name: str, bundle: Bundle, tmp_path: Path) -> None:
    parts = BundleParts(bundle.graph, bundle.float_graph, bundle.front_end, bundle.labels, {"budget": {}})
    with pytest.raises(InputError, match="must be named by"):
        write_bundle(tmp_path / "new", parts, {name.replace("FOLDER", str(tmp_path)): parts})
    assert list(tmp_path.iterdir()) == []


def test_a_bundle_without_variants_does_not_speak_of_them(bundle: Bundle) -> None:
    assert (bundle.variants, "variants" in bundle.content, bundle.variant("s1") is bundle) == ((), False, True)


@pytest.mark.parametrize("digit", "0f")
def test_a_variant_whose_hash_is_smaller_or_larger_than_the_index_says_is_refused(digit: str, folder: Path) -> None:
    shutil.copytree(folder, folder / "variants" / "s1")
    opened = open_bundle(folder)
    opened.content["variants"] = {"s1": {"sha256": open_bundle(folder / "variants" / "s1").fingerprint}}
    assert opened.variant("s1").folder == folder / "variants" / "s1"
    opened.content["variants"] = {"s1": {"sha256": 64 * digit}}
    with pytest.raises(InputError, match="not the variant"):
        opened.variant("s1")


def test_an_empty_folder_is_filled(bundle: Bundle, tmp_path: Path) -> None:
    assert write(bundle, tmp_path / "new").labels == open_bundle(tmp_path / "new").labels == SCENES


# Exports


@pytest.mark.parametrize("kind", EXPORTS)
def test_an_export_is_listed_and_read_again(kind: str, folder: Path) -> None:
    opened = open_bundle(folder)
    before = opened.exported(kind)
    path = opened.add_export(kind, content := export(opened, kind))
    again = open_bundle(folder)
    assert (before, path, again.exported(kind)) == (None, folder / EXPORTS[kind], content)
    assert json.loads((folder / "bundle.json").read_text())["files"][path.name] == sha256(path)


@pytest.mark.parametrize("kind", EXPORTS)
def test_an_export_made_twice_is_the_same(kind: str, bundle: Bundle) -> None:
    assert export(bundle, kind) == export(open_bundle(bundle.folder), kind)


def test_an_unknown_export_is_refused(bundle: Bundle) -> None:
    with pytest.raises(InputError, match="uf2"):
        export(bundle, "uf2")


@pytest.mark.parametrize(("name", "most"), [("graph.safetensors", 64), ("bundle.json", 16)])
def test_a_file_beyond_any_bundles_size_is_refused_as_too_large(
    name: str, most: int, folder: Path, refused: Callable[[Path], str]
) -> None:
    for more in (0, 1):
        os.truncate(folder / name, (most << 20) + more)  # sparse
        assert (f"{folder / name}: larger than {most} MB" in refused(folder)) == (more > 0)


@pytest.mark.parametrize(("length", "is_label"), [(0, False), (1, True), (200, True), (201, False), (1000, False)])
def test_a_label_has_1_to_200_characters(length: int, is_label: bool) -> None:
    expected = contextlib.nullcontext() if is_label else pytest.raises(InputError, match="1 to 200 characters")
    with expected:
        read_labels(["park", "ö" * length])

"""Bundles on the hub: written with a card, read at a commit, and refused where they are not what they claim.

The hub is a stand-in on the loopback (hub_server.py). Nothing here has met the real one.
"""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml

import tinyscene
from tests.interface.hub_server import Repository, hub_server
from tinyscene.deploy.bundle.bundle import Bundle
from tinyscene.deploy.common.errors import InputError
from tinyscene.interface import hub as hub_module
from tinyscene.interface.hub import fetch_bundle

pytest.importorskip("huggingface_hub")

Cli = Callable[..., tuple[int, str, str]]


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Repository]:
    monkeypatch.setenv("TINYSCENE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_TOKEN", "hf_of_this_test")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hf"))
    with hub_server() as (repository, address):
        monkeypatch.setenv("HF_ENDPOINT", address)
        yield repository


@pytest.fixture
def pushed(hub: Repository, bundle: Bundle) -> str:
    return tinyscene.Bundle(bundle.folder).push("hf://user/name")


def test_a_repository_holds_the_files_of_the_bundle_and_a_card(hub: Repository, pushed: str, bundle: Bundle) -> None:
    files = hub.commits[hub.newest]
    assert files["bundle.json"] == (bundle.folder / "bundle.json").read_bytes()
    assert set(files) == {*bundle.content["files"], "bundle.json", "README.md"}
    header = yaml.safe_load(files["README.md"].decode().split("---\n")[1])
    assert (header["library_name"], header["pipeline_tag"]) == ("tinyscene", "audio-classification")


def test_a_licence_takes_the_place_of_that_in_the_card(hub: Repository, bundle: Bundle, run_cli: Cli) -> None:
    code, out, _ = run_cli("push", bundle.folder, "hf://user/name", "--license", "apache-2.0", "--json")
    assert (code, json.loads(out)["address"]) == (0, f"hf://user/name@{hub.newest}")
    header = yaml.safe_load(hub.commits[hub.newest]["README.md"].decode().split("---\n")[1])
    assert (header["license"], "license_name" in header) == ("apache-2.0", False)


def test_commands_take_a_bundle_of_the_hub(pushed: str, bundle: Bundle, sample: Path, run_cli: Cli) -> None:
    recording = next((sample / "audio").iterdir())
    code, out, err = run_cli("classify", "hf://user/name", recording, "--runner", "reference", "--json")
    assert (code, f"hf://user/name stands for {pushed}" in err) == (0, True)
    assert json.loads(out)[0]["scores"] == tinyscene.load(bundle.folder, "reference").classify(recording)["scores"]


def test_a_commit_that_was_fetched_is_not_asked_for_again(hub: Repository, pushed: str) -> None:
    first = fetch_bundle(pushed)
    hub.asked.clear()
    assert (fetch_bundle(pushed), hub.asked) == (first, [])


def test_a_revision_stays_what_it_was_after_another_push(hub: Repository, pushed: str, bundle: Bundle) -> None:
    hub.commit({"bundle.json": b"{}"})
    assert tinyscene.Bundle(pushed).fingerprint == bundle.fingerprint
    with pytest.raises(InputError, match=r"bundle\.json: not the index of a bundle"):
        fetch_bundle("hf://user/name")


def test_a_changed_file_is_refused_by_name(hub: Repository, pushed: str) -> None:
    files = dict(hub.commits[hub.newest])
    *rest, last = files["graph.safetensors"]
    files["graph.safetensors"] = bytes([*rest, last ^ 1])
    hub.commit(files)
    with pytest.raises(InputError, match=r"graph\.safetensors: was changed or damaged"):
        fetch_bundle("hf://user/name")


def test_files_of_no_bundle_are_left_at_the_hub(hub: Repository, pushed: str, tmp_path: Path) -> None:
    files = dict(hub.commits[hub.newest])
    hub.commit(files | {"evil.py": b"raise SystemExit", "../outside": b"x", "variants/../outside/bundle.json": b"x"})
    folder = fetch_bundle("hf://user/name")
    found = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    assert found == set(files) - {"README.md"}


SMALL = {"bundle.json": 2, "graph.safetensors": 2}


@pytest.mark.parametrize(
    ("more", "fits"),
    [
        ({"bundle.json": hub_module.MAX_INDEX}, True),
        ({"bundle.json": hub_module.MAX_INDEX + 1}, False),
        ({"graph.safetensors": hub_module.MAX_FILE}, True),
        ({"graph.safetensors": hub_module.MAX_FILE + 1}, False),
        ({"variants/a/graph.json": hub_module.MAX_FILE + 1}, False),
        ({"variants/a/graph.json": -1}, False),
        ({f"variants/{index}/graph.json": 0 for index in range(498)}, True),
        ({f"variants/{index}/graph.json": 0 for index in range(499)}, False),
        (
            {
                f"variants/{index}/graph.json": hub_module.MAX_FILE
                for index in range(hub_module.MAX_BYTES // hub_module.MAX_FILE)
            },
            False,
        ),
    ],
)
def test_what_a_hub_says_to_be_larger_than_a_bundle_is_not_fetched(more: dict[str, int], fits: bool) -> None:
    sizes = SMALL | more
    foreign = dict.fromkeys(("other.bin", "u/a/graph.json", "w/a/graph.json", "variants/../graph.json"), 2**60)
    siblings = [SimpleNamespace(rfilename=name, size=size) for name, size in {**sizes, **foreign}.items()]
    if fits:
        assert hub_module._files_of_a_bundle("hf://a/b", siblings) == [*sizes]
        return
    with pytest.raises(InputError, match="not of a size that a bundle can have"):
        hub_module._files_of_a_bundle("hf://a/b", siblings)


def test_a_repository_without_a_bundle_is_refused(hub: Repository) -> None:
    hub.commit({"README.md": b"nothing"})
    with pytest.raises(InputError, match=r"hf://user/name: holds no bundle"):
        fetch_bundle("hf://user/name")


def test_a_hub_that_does_not_answer_is_one_line(monkeypatch: pytest.MonkeyPatch, run_cli: Cli) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    code, out, err = run_cli("inspect", "hf://user/name")
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert "hf://user/name: the hub cannot be used" in err


@pytest.mark.parametrize("address", ["hf://name", "hf://user/name@", "hf://user/../x", "hf://user/name@a b"])
def test_an_address_of_another_form_is_refused(address: str) -> None:
    with pytest.raises(InputError, match="must be hf://user/name"):
        fetch_bundle(address)


def test_a_panic_of_the_client_is_one_line(
    hub: Repository, bundle: Bundle, run_cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    class PanicException(BaseException):  # as pyo3 names and derives it
        pass

    def panic(*_: object, **__: object) -> None:
        raise PanicException("failed to create log directory")

    monkeypatch.setattr("huggingface_hub.HfApi.create_repo", panic)
    code, out, err = run_cli("push", bundle.folder, "hf://user/name")
    line = "tinyscene: hf://user/name: the hub cannot be used (PanicException: failed to create log directory)\n"
    assert (code, out, err) == (2, "", line)

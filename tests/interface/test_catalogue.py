"""The catalogue: what comes along has a name, what is fetched is checked and imported. The server is the loopback's."""

import hashlib
import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import tinyscene
from tests.interface.file_server import file_server
from tests.train.test_cp_mobile import trained
from tinyscene.deploy.bundle.bundle import Bundle
from tinyscene.deploy.common.errors import InputError
from tinyscene.interface import catalogue, names
from tinyscene.interface.catalogue import PublishedModel, published_models, pull
from tinyscene.train.network_settings import CPMobileModel
from tinyscene.train.runs.run import load_model

Cli = Callable[..., tuple[int, str, str]]
ENTRY = published_models()["dcase2025-baseline"]


@pytest.fixture
def server(tmp_path: Path) -> Iterator[tuple[Path, str]]:
    """A folder, and the address at which its files are offered."""
    folder = tmp_path / "offered"
    folder.mkdir()
    with file_server(folder) as address:
        yield folder, address


@pytest.fixture
def entry(server: tuple[Path, str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> PublishedModel:
    """The entry of the catalogue, its file offered here: a checkpoint with networks of six recording devices, too."""
    monkeypatch.setenv("TINYSCENE_CACHE", str(tmp_path / "cache"))
    folder, address = server
    state = {}
    for place in ("base_model", "device_models.a", "device_models.s1"):
        network, _ = trained(CPMobileModel(), len(place), (64, 33))
        state |= {f"multi_device_model.{place}.{name}": tensor for name, tensor in network.state_dict().items()}
    torch.save({"epoch": 9, "state_dict": state, "optimizer_states": [], "loops": {}}, folder / "baseline.ckpt")
    offered = replace(ENTRY, url=f"{address}/baseline.ckpt")
    monkeypatch.setattr(catalogue, "published_models", lambda: {offered.name: offered})
    return offered


def test_the_catalogue_is_fetched_over_https_and_says_whose_its_models_are() -> None:
    for entry in published_models().values():
        assert entry.url.startswith("https://")
        assert all((entry.hears, entry.page, entry.accuracy, entry.terms))


def test_an_address_that_is_not_https_is_refused() -> None:
    with pytest.raises(InputError, match="not fetched over https"):
        replace(ENTRY, url="http://example.org/weights.ckpt")


def test_what_is_pulled_is_the_network_of_the_checkpoint(entry: PublishedModel, tmp_path: Path, run_cli: Cli) -> None:
    code, out, err = run_cli("pull", entry.name, "--out", tmp_path / "run", "--json")
    assert (code, "later fetches are held to it" in err) == (0, True)
    expected, _ = trained(CPMobileModel(), len("base_model"), (64, 33))
    network, card = load_model(tmp_path / "run")
    for name, tensor in network.state_dict().items():
        assert torch.equal(tensor, expected.state_dict()[name]), name
    assert json.loads(out)["source"] == card.source
    assert str(card.source).startswith(f"{entry.url} sha256:")


def test_a_file_that_changed_since_the_first_fetch_is_refused(
    entry: PublishedModel, server: tuple[Path, str], tmp_path: Path
) -> None:
    pull(entry.name, tmp_path / "first")
    cached = tmp_path / "cache" / "weights" / entry.name / "baseline.ckpt"
    cached.unlink()
    (server[0] / "baseline.ckpt").write_bytes(b"another")
    with pytest.raises(InputError, match="is not the file that has the known SHA-256"):
        pull(entry.name, tmp_path / "second")
    assert not (tmp_path / "second").exists()


def test_a_file_with_another_checksum_than_the_catalogues_is_refused(
    entry: PublishedModel, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    known = replace(entry, sha256=hashlib.sha256(b"the file").hexdigest())
    monkeypatch.setattr(catalogue, "published_models", lambda: {known.name: known})
    with pytest.raises(InputError, match="is not the file that has the known SHA-256"):
        pull(known.name, tmp_path / "run")


def test_a_file_that_is_too_large_is_refused(
    entry: PublishedModel, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    small = replace(entry, most_bytes=1_000)
    monkeypatch.setattr(catalogue, "published_models", lambda: {small.name: small})
    with pytest.raises(InputError, match=r"larger than 1,000 bytes"):
        pull(small.name, tmp_path / "run")


def test_offline_one_line_says_what_to_fetch_and_where_to_put_it(
    entry: PublishedModel, server: tuple[Path, str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path, run_cli: Cli
) -> None:
    away = replace(entry, url="http://127.0.0.1:9/baseline.ckpt")
    monkeypatch.setattr(catalogue, "published_models", lambda: {away.name: away})
    code, out, err = run_cli("pull", away.name, "--out", tmp_path / "run")
    folder = tmp_path / "cache" / "weights" / entry.name
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert f"{away.url} cannot be downloaded" in err
    assert f"put it in {folder}" in err
    folder.mkdir(parents=True, exist_ok=True)
    shutil.copy(server[0] / "baseline.ckpt", folder)
    assert pull(away.name, tmp_path / "run").recipe.name == "baseline"


def test_a_name_that_is_not_in_the_catalogue_is_refused(run_cli: Cli) -> None:
    code, _, err = run_cli("pull", "nothing")
    assert (code, "known are dcase2025-baseline" in err) == (2, True)


@pytest.fixture
def packaged(bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of packaged models with one, `tiny`, in place of the package's own."""
    shutil.copytree(bundle.folder, tmp_path / "bundled" / "tiny")
    monkeypatch.setattr(names, "PACKAGED", tmp_path / "bundled")
    known = catalogue.CATALOGUE.read_text(encoding="utf-8").replace("[packaged.sounds10]", "[packaged.tiny]")
    (tmp_path / "models.toml").write_text(known, encoding="utf-8")
    monkeypatch.setattr(catalogue, "CATALOGUE", tmp_path / "models.toml")
    return tmp_path / "bundled" / "tiny"


def test_a_packaged_model_is_listed_and_taken_by_its_name(packaged: Path, sample: Path, run_cli: Cli) -> None:
    listed = json.loads(run_cli("models", "--json")[1])
    assert [model["name"] for model in listed] == ["tiny", "dcase2025-baseline"]
    recording = next((sample / "audio").iterdir())
    scene = tinyscene.load("tiny", "reference")
    code, out, _ = run_cli("classify", "tiny", recording, "--runner", "reference", "--json")
    assert (code, json.loads(out)[0]["scores"]) == (0, scene.classify(recording)["scores"])


@pytest.fixture
def namesake(packaged: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Something in the working folder that has the name of the packaged model."""
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    return tmp_path / "here" / "tiny"


def test_a_folder_of_that_name_goes_before_the_packaged_model_and_is_named_once(
    namesake: Path, packaged: Path, sample: Path, run_cli: Cli
) -> None:
    shutil.copytree(packaged, namesake)
    line = f"tiny: {namesake} is used; the packaged model of this name is {packaged}\n"
    recording = next((sample / "audio").iterdir())
    assert run_cli("classify", "tiny", recording, "--runner", "reference")[2].count(line) == 1
    assert run_cli("inspect", "tiny")[2].count(line) == 1
    assert run_cli("budget", "tiny")[2].count(line) == 1
    assert "is used" not in run_cli("inspect", "./tiny")[2]


def test_a_folder_of_that_name_that_is_no_model_is_named_too(
    namesake: Path, packaged: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    namesake.mkdir()
    with pytest.raises(InputError, match="neither a bundle"):
        tinyscene.load("tiny")
    assert f"the packaged model of this name is {packaged}" in capfd.readouterr().err


def test_a_folder_with_the_name_of_a_recipe_is_counted_and_named(
    bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, run_cli: Cli
) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copytree(bundle.folder, "nano")
    line = f"nano: {tmp_path / 'nano'} is counted, not the recipe of this name\n"
    assert run_cli("budget", "nano")[2].count(line) == 1
    assert "is counted" not in run_cli("budget", "./nano")[2]


def test_a_packaged_model_is_not_changed(packaged: Path, tmp_path: Path, run_cli: Cli) -> None:
    code, _, err = run_cli("export", "tiny", "--to", "tflite")
    assert (code, "a packaged or fetched model is not changed; name a file with --out" in err) == (2, True)
    assert run_cli("export", "tiny", "--to", "tflite", "--out", tmp_path / "tiny.tflite")[0] == 0
    assert not (packaged / "model.tflite").exists()

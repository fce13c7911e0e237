"""Families that an installed package registers: a folder with a module and its metadata, as installers leave them."""

import importlib
import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from tests import ROOT
from tests.test_docs import blocks
from tinyscene.deploy.common.errors import InputError
from tinyscene.train.models import build
from tinyscene.train.recipe import load_recipe, parse_recipe
from tinyscene.train.runs.budget import count_recipe
from tinyscene.train.runs.run import import_weights, load_model

RunCli = Callable[..., tuple[int, str, str]]
(MODULE,) = [block for block in blocks(ROOT / "docs" / "training.md", "python") if "Family(" in block]
MORE = """
NO_FAMILY = TinyModel
FIXED = Family(TinyModel, build)
NO_MODULE = Family(TinyModel, lambda model, classes: None)
"""
ENTRY_POINTS = """[tinyscene.models]
tiny = tiny_networks:FAMILY
broken = tiny_networks:NO_FAMILY
fixed = tiny_networks:FIXED
missing = no_such_module:FAMILY
empty = tiny_networks:NO_MODULE
"""
RECIPE = """# Pools.
model:
  family: tiny
  width: 12
features: {n_fft: 1024, win_length: 1024, hop_length: 1000, n_mels: 32}
train: {epochs: 1, batch_size: 8}
quantize: {clips: 8}
"""


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A distribution on the path, and a recipe for its network."""
    site = tmp_path / "site"
    metadata = site / "tiny_networks-1.0.dist-info"
    metadata.mkdir(parents=True)
    (site / "tiny_networks.py").write_text(MODULE + MORE, encoding="utf-8")
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: tiny-networks\nVersion: 1.0\n", encoding="utf-8")
    (metadata / "entry_points.txt").write_text(ENTRY_POINTS, encoding="utf-8")
    monkeypatch.syspath_prepend(site)
    importlib.invalidate_caches()
    recipe = tmp_path / "mine.yaml"
    recipe.write_text(RECIPE, encoding="utf-8")
    return recipe


def test_a_recipe_may_name_the_family_and_its_settings(installed: Path) -> None:
    recipe = load_recipe(str(installed), ["model.width=6"])
    assert parse_recipe(recipe.as_dict(), "again") == recipe
    assert recipe.as_dict()["model"] == {"family": "tiny", "width": 6}
    network = build(recipe.model, 4).eval()
    assert network(torch.zeros(2, 1, *recipe.features.shape)).shape == (2, 4)
    assert count_recipe(recipe, 4).parameters == 6 * 25 + 2 * 6 + 6 * 4 + 4


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("model.width=65", "model.width: Input should be less than or equal to 64 .given: 65."),
        ("model.depth=2", "model.depth: Extra inputs are not permitted"),
        (
            "model.family=tinny",
            "model.family: must be one of cp_mobile, .*, tf_sepnet, broken, empty, fixed, missing, tiny ",
        ),
        ("model.family=broken", "'broken' of the package tiny-networks: tiny_networks:NO_FAMILY is no tinyscene"),
        ("model.family=missing", "of the package tiny-networks: no_such_module:FAMILY cannot be imported .No module"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(installed: Path, setting: str, message: str) -> None:
    with pytest.raises(InputError, match=message) as refused:
        load_recipe(str(installed), [setting])
    assert "\n" not in str(refused.value)


def test_a_function_that_builds_no_network_is_named(installed: Path) -> None:
    recipe = load_recipe(str(installed), ["model.family=empty"])
    with pytest.raises(InputError, match="network family 'empty': builds a NoneType"):
        build(recipe.model, 4)


def test_it_is_trained_pruned_and_quantized_like_ours(
    installed: Path, sample: Path, run_cli: RunCli, tmp_path: Path
) -> None:
    data, trained, pruned = ("--data", sample), tmp_path / "run", tmp_path / "pruned"
    code, _, error = run_cli("train", installed, *data, "--split", "5", "--out", trained)
    assert code == 0, error
    to = ("--to-macs", "12000", "--to-bytes", "100000", "--set", "prune.steps=1", "--set", "prune.final_epochs=1")
    code, _, error = run_cli("prune", trained, *data, *to, "--out", pruned)
    assert code == 0, error
    assert load_model(pruned)[1].recipe["model"] == {"family": "tiny", "width": 8}
    code, _, error = run_cli("quantize", pruned, *data, "--out", tmp_path / "bundle", "--json")
    assert code == 0, error
    assert json.loads((tmp_path / "bundle" / "bundle.json").read_text())["recipe"]["model"]["width"] == 8


@pytest.mark.parametrize(
    ("family", "reason"),
    [("fixed", "its family 'fixed' has no function `narrowed`"), ("tf_sepnet", "tf_sepnet networks are not pruned")],
)
def test_a_network_whose_settings_cannot_follow_is_not_pruned(
    installed: Path, sample: Path, run_cli: RunCli, tmp_path: Path, family: str, reason: str
) -> None:
    recipe = load_recipe("tf_sepnet" if family == "tf_sepnet" else str(installed), [f"model.family={family}"])
    save_file(build(recipe.model, 10).state_dict(), tmp_path / "weights.safetensors")
    import_weights(tmp_path / "weights.safetensors", recipe, tmp_path / "run")
    code, _, error = run_cli(
        "prune", tmp_path / "run", "--data", sample, "--to-macs", "1000", "--out", tmp_path / "pruned"
    )
    assert (code, reason in error) == (2, True)

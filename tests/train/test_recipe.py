"""Recipes: what a YAML file and its overrides come to, and one line for each that cannot be used."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import ValidationError

from tests import ROOT
from tinyscene.deploy.common.errors import InputError
from tinyscene.deploy.frontend.log_mel import FrontEnd
from tinyscene.train.network_settings import CPMobileModel
from tinyscene.train.recipe import Recipe, load_recipe, parse_recipe
from tinyscene.train.runs.run import write_recipe

SHIPPED = sorted(path.stem for path in (ROOT / "train" / "recipes").glob("*.yaml"))
WRONG_TYPES = """
    train.epochs=five train.epochs=5.5 train.lr=fast train.lr=null model.branches=1 model.n_blocks=3 seed=true name=5
    train=5 train.precision=float64 features.n_mels=64.0 augment.dir_devices=a
"""
OUT_OF_RANGE = """
    train.epochs=0 train.lr=0 train.lr=-1e-3 train.lr=.inf train.lr=.nan train.weight_decay=.inf seed=-1 seed=4294967296
    augment.mixstyle_p=1.1 model.base_channels=7 model.n_blocks=[] model.strides.b2=[0,1] name=""
    features.n_fft=2 features.hop_length=0 features.f_max=16001.0 features.f_max=.inf features.log_offset=0.0
"""


def refusal(recipe: str, *overrides: str) -> str:
    with pytest.raises(InputError) as caught:
        load_recipe(recipe, list(overrides))
    assert "\n" not in str(caught.value)
    return str(caught.value)


def missing(written: Any, read: Any) -> list[str]:
    """What is written and not read."""
    if isinstance(written, dict):
        return [f"{key}.{rest}" for key, value in written.items() for rest in missing(value, read.get(key))]
    return [] if written == read else [f"{written} is {read}"]


@pytest.mark.parametrize("name", SHIPPED)
def test_a_shipped_recipe_is_read_as_it_is_written(name: str) -> None:
    path = ROOT / "train" / "recipes" / f"{name}.yaml"
    assert missing(yaml.safe_load(path.read_text()), load_recipe(name).as_dict()) == []


def test_the_baseline_is_the_published_one() -> None:
    published = {
        "features": {"sample_rate": 32_000, "n_fft": 4096, "win_length": 3072, "hop_length": 500, "n_mels": 256},
        "model": {"base_channels": 32, "channels_multiplier": 1.8, "expansion_rate": 2.1, "n_blocks": [3, 2, 1]},
        "augment": {"roll_seconds": 0.1, "freq_mask": 48, "mixstyle_p": 0.4, "mixstyle_alpha": 0.3},
        "train": {"epochs": 150, "batch_size": 256, "lr": 0.005, "weight_decay": 1e-4},
        "budget": {"max_bytes": 128_000, "max_macs": 30_000_000},
    }
    assert missing(published, load_recipe("baseline").as_dict()) == []


def test_every_key_has_a_description() -> None:
    schema = Recipe.model_json_schema()
    sections = {"Recipe": schema, **schema["$defs"]}
    keys = {f"{name}.{key}": value for name, part in sections.items() for key, value in part["properties"].items()}
    assert len(keys) > 80
    assert [key for key, value in keys.items() if not value.get("description")] == []


@pytest.mark.parametrize("name", SHIPPED)
def test_a_recipe_comes_back_from_plain_data(name: str) -> None:
    recipe = load_recipe(name, ["seed=7", "train.lr=1e-5", "augment.dir_devices=[a, s1]"])
    assert parse_recipe(json.loads(json.dumps(recipe.as_dict())), "a copy") == recipe


def test_a_recipe_comes_back_from_the_yaml_of_a_run(tmp_path: Path) -> None:
    recipe = load_recipe("nano", ["train.lr=1e-5", "features.f_max=8000.0"])
    write_recipe(tmp_path, recipe)
    assert load_recipe(str(tmp_path / "recipe.yaml")) == recipe


def test_a_recipe_of_ones_own_takes_the_name_of_its_file(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text("train: {epochs: 3}")
    assert load_recipe(str(tmp_path / "mine.yaml")) == load_recipe(
        "baseline", ["name=mine", "train.epochs=3", "train.warmup_steps=null"]
    )


@pytest.mark.parametrize(("section", "key"), [("", "seed"), ("train", "epochs"), ("features", "n_mels")])
def test_a_recipe_cannot_be_changed(section: str, key: str) -> None:
    recipe = load_recipe("baseline")
    with pytest.raises((ValidationError, AttributeError)):  # pydantic's and dataclasses' ways of being frozen
        setattr(getattr(recipe, section) if section else recipe, key, 1)
    assert recipe == load_recipe("baseline")


@pytest.mark.parametrize(
    ("override", "value"),
    [
        ("train.lr=1e-3", 0.001),
        ("train.lr=5E-4", 0.0005),
        ("train.lr=+1.5e-2", 0.015),
        ("train.lr=1", 1.0),
        ("train.epochs=5", 5),
        ("train.micro_batch=null", None),
        ("model.n_blocks=[4, 1]", [4, 1]),
        ("model.branches=true", True),
        ("augment.dir_folder=responses/a=b", "responses/a=b"),
        ("features.f_min=20.5", 20.5),
    ],
)
def test_an_override_changes_its_key_and_no_other(override: str, value: object) -> None:
    section, key = override.partition("=")[0].split(".")
    expected = load_recipe("baseline").as_dict()
    expected[section][key] = value
    assert load_recipe("baseline", [override]).as_dict() == expected


@pytest.mark.parametrize("recipe", ["baseline", "small"])
def test_an_override_of_one_blocks_stride_leaves_the_others(recipe: str) -> None:
    before, after = (load_recipe(recipe, change).model for change in ([], ["model.strides.b2=[2, 2]"]))
    assert isinstance(before, CPMobileModel)
    assert isinstance(after, CPMobileModel)
    assert after.strides == before.strides | {"b2": (2, 2)}


def test_what_looks_like_a_date_is_a_name() -> None:
    assert load_recipe("baseline", ["name=2024-13-45"]).name == "2024-13-45"


def test_the_last_override_of_a_key_counts() -> None:
    assert load_recipe("baseline", ["seed=1", "seed=2"]).seed == 2


@pytest.mark.parametrize(
    ("override", "nearest"),
    [
        ("train.epoch=5", "'train.epochs'"),
        ("features.n_mel=64", "'features.n_mels'"),
        ("sed=1", "'seed'"),
        ("model.base_chanels=8", "'model.base_channels'"),
        ("modle.base_channels=8", "'model"),
    ],
)
def test_an_unknown_key_is_answered_with_the_nearest(override: str, nearest: str) -> None:
    assert re.search(f"unknown key .*did you mean {nearest}", refusal("baseline", override))


@pytest.mark.parametrize("override", WRONG_TYPES.split())
def test_a_value_of_a_wrong_type_is_named_by_its_key(override: str) -> None:
    assert override.partition("=")[0] in refusal("baseline", override).removeprefix("recipe baseline: ")


@pytest.mark.parametrize("override", OUT_OF_RANGE.split())
def test_a_value_out_of_range_is_named_by_its_key(override: str) -> None:
    assert override.partition("=")[0] in refusal("baseline", override).removeprefix("recipe baseline: ")


@pytest.mark.parametrize(
    ("override", "reason"),
    [
        ("train.epochs", "must be key=value"),
        ("=5", "must be key=value"),
        ("name.first=x", "'name' is a value, not a section"),
        ("train.lr=[1", "not a YAML value"),
        ("seed=0b_", "seed=0b_"),  # for a binary number
        ("seed=" + 5000 * "9", "seed"),  # for a number, which Python refuses to read
        ("name=" + 2000 * "[", "name"),
    ],
    ids=lambda text: text[:20],
)
def test_an_override_that_cannot_be_read_is_named(override: str, reason: str) -> None:
    assert reason in refusal("baseline", override)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("train: {epochs: 3", "not YAML"),
        ("- train\n- epochs\n", "must be a mapping"),
        ("", "must be a mapping"),
        ("just words", "must be a mapping"),
        ("name: \0", "not YAML"),
        ("name: " + 2000 * "[", "not YAML"),
        ("train: &a [*a]", "line 1: aliases (*a) are not used"),
        ("trian: {epochs: 3}", "unknown key 'trian'"),
    ],
    ids=lambda text: text[:20],
)
def test_a_file_that_is_no_recipe_is_named(text: str, reason: str, tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text(text)
    line = refusal(str(tmp_path / "mine.yaml"))
    assert str(tmp_path / "mine.yaml") in line
    assert reason in line


def test_a_file_that_is_missing_or_no_text_is_named(tmp_path: Path) -> None:
    (tmp_path / "binary.yaml").write_bytes(b"\xff\xfe\x00")
    for name in ("missing.yaml", "binary.yaml"):
        assert f"{tmp_path / name}: cannot be read" in refusal(str(tmp_path / name))


def test_an_unknown_recipe_is_answered_with_the_nearest() -> None:
    assert "did you mean 'baseline'?" in refusal("basline")
    assert "known are " + ", ".join(SHIPPED) in refusal("zzzz")


def test_no_internal_name_is_offered_as_a_key() -> None:
    assert "__" not in refusal("baseline", "zzzz=1")


@pytest.mark.parametrize("name", ["../../../escaped", "/escaped", "a/b", ".hidden", "a\\b", "a\x1b[31m"])
def test_a_name_of_a_recipe_cannot_lead_a_run_elsewhere(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, run_cli: Callable[..., tuple[int, str, str]]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "x.yaml").write_text(json.dumps({"name": name}))
    code, out, err = run_cli("train", "x.yaml", "--data", tmp_path, "--split", "5")
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert "name one with --out" in err


@pytest.mark.parametrize("name", ["baseline16k", "micro16k", "nano16k"])
def test_recipes_at_16_khz_hear_windows_as_long_as_those_at_32_khz(name: str) -> None:
    ours, other = load_recipe(name), load_recipe(name.removesuffix("16k"))
    assert ours.features == FrontEnd(sample_rate=16_000, n_fft=2048, win_length=1536, hop_length=250, n_mels=128)
    assert ours.model == other.model
    assert ours.features.frames == other.features.frames


def test_window_and_hop_of_a_recipe_follow_its_sample_rate() -> None:
    features = load_recipe("baseline", ["features.sample_rate=16000"]).features
    assert (features.n_fft, features.win_length, features.hop_length) == (2048, 1536, 250)
    features = load_recipe("micro16k", ["features.sample_rate=32000", "features.window_seconds=0.064"]).features
    assert (features.n_fft, features.win_length, features.hop_length) == (2048, 2048, 500)


@pytest.mark.parametrize("name", ["passt", "ast"])
def test_lengths_in_samples_are_not_kept_at_another_sample_rate(name: str) -> None:
    assert refusal(name, "features.sample_rate=24000").startswith(
        f"--set features.sample_rate: recipe {name} gives hop_length and win_length in samples at "
    )
    rate = load_recipe(name).features.sample_rate
    assert load_recipe(name, [f"features.sample_rate={rate}"]).features == load_recipe(name).features
    both = ["features.sample_rate=24000", "features.window_seconds=0.025", "features.hop_seconds=0.01"]
    features = load_recipe(name, [*both, "features.f_max=8000"]).features
    assert (features.n_fft, features.win_length, features.hop_length) == (1024, 600, 240)


def test_an_override_in_seconds_replaces_a_length_in_samples_and_the_other_way() -> None:
    assert load_recipe("ast", ["features.window_seconds=0.05"]).features.win_length == 800
    assert load_recipe("ast", ["features.hop_length=100"]).features.hop_length == 100
    both = ["features.window_seconds=0.05", "features.win_length=800"]
    assert "are the same length: give one of them" in refusal("baseline", *both)


def test_a_recipe_is_kept_in_samples_and_reads_back(tmp_path: Path) -> None:
    recipe = load_recipe("micro16k", ["features.window_seconds=0.05", "features.clip_seconds=2"])
    kept = recipe.as_dict()
    assert not {"window_seconds", "hop_seconds"} & kept["features"].keys()
    assert parse_recipe(kept, "kept") == recipe
    assert "clip_seconds" not in load_recipe("micro16k").as_dict()["features"]


@pytest.mark.parametrize("key", ["clip_seconds", "window_seconds", "hop_seconds"])
def test_a_misspelt_length_is_hinted_at(key: str) -> None:
    assert f"did you mean 'features.{key}'?" in refusal("baseline", f"features.{key}x=1")

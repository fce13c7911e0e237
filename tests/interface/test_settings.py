"""Settings as a mapping are those of `--set`."""

from pathlib import Path

import numpy as np
import pytest

from tinyscene.deploy.common.errors import InputError
from tinyscene.interface.settings import overrides_of
from tinyscene.train.recipe import load_recipe


@pytest.mark.parametrize(
    "settings",
    [
        {"train.epochs": 5, "train.lr": 1e-05, "distill.logits": "a: b.safetensors"},
        {"train": {"epochs": np.int64(5), "lr": 0.00001}, "distill": {"logits": Path("a: b.safetensors")}},
        ["train.epochs=5", "train.lr=0.00001", "distill.logits='a: b.safetensors'"],
    ],
)
def test_a_mapping_changes_the_same_keys_as_set(settings: object) -> None:
    recipe = load_recipe("nano", overrides_of(settings))  # type: ignore[arg-type]
    assert (recipe.train.epochs, recipe.train.lr, recipe.distill.logits) == (5, 1e-5, "a: b.safetensors")


def test_no_settings_are_no_changes() -> None:
    assert overrides_of(None) == overrides_of({}) == []


def test_an_unknown_key_is_refused_by_name() -> None:
    with pytest.raises(InputError, match="epoch"):
        load_recipe("nano", overrides_of({"train.epoch": 5}))


def test_a_value_that_no_recipe_can_hold_is_refused() -> None:
    with pytest.raises(InputError, match=r"train\.epochs: a setting cannot be a object"):
        overrides_of({"train.epochs": object()})

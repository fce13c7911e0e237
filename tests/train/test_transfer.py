"""Starting from other weights: what is taken over, what is not, and what is refused."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.train.test_export import TINY, run_of
from tests.train.test_loop import QUICK, SPLIT
from tinyscene.deploy.common.errors import InputError
from tinyscene.train.data.cache import Clips
from tinyscene.train.data.datasets import SCENES, Dataset
from tinyscene.train.data.training_data import TrainingData
from tinyscene.train.loop.loop import train
from tinyscene.train.models import build
from tinyscene.train.recipe import load_recipe
from tinyscene.train.runs.run import RunFolder, load_model
from tinyscene.train.runs.transfer import find_weights, transfer

RECIPE = load_recipe("nano", TINY)


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return run_of(tmp_path, "nano", TINY, seed=7)[0]


def fresh(classes: int = 10) -> torch.nn.Module:
    torch.manual_seed(1)
    return build(RECIPE.model, classes)


def test_all_weights_are_taken_over_where_the_labels_are_the_same(run: Path) -> None:
    network = fresh()
    transfer(network, run, SCENES)
    for name, tensor in load_model(run)[0].state_dict().items():
        assert torch.equal(network.state_dict()[name], tensor), name


@pytest.mark.parametrize("labels", [("rain", "dog"), SCENES[::-1]])
def test_the_classifier_stays_as_initialised_where_the_labels_are_others(labels: tuple[str, ...], run: Path) -> None:
    network, untouched = fresh(len(labels)), fresh(len(labels)).state_dict()
    transfer(network, run, labels)
    weights = load_model(run)[0].state_dict()
    for name, tensor in network.state_dict().items():
        expected = untouched if name.startswith("feed_forward.") else weights
        assert torch.equal(tensor, expected[name]), name


def test_a_network_with_branches_starts_as_the_one_without(run: Path) -> None:
    network = build(load_recipe("nano", [*TINY, "model.branches=true"]).model, 10)
    transfer(network, run, SCENES)
    plain = load_model(run)[0]
    log_mel = torch.randn(2, 1, 64, 65, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        torch.testing.assert_close(network.eval()(log_mel), plain(log_mel))
        torch.testing.assert_close(network.train()(log_mel), plain.train()(log_mel))


@pytest.mark.parametrize("key", ["state_dict", "model", None])
def test_a_pickled_state_dict_is_read(key: str | None, run: Path, tmp_path: Path) -> None:
    state = load_file(run / "model.safetensors")
    torch.save({key: state} if key else state, tmp_path / "x.pt")
    network = fresh()
    transfer(network, tmp_path / "x.pt", SCENES)
    name = "in_c.0.0.weight"
    assert torch.equal(network.state_dict()[name], state[name])


def test_a_network_of_another_shape_is_refused(run: Path) -> None:
    network = build(load_recipe("nano", [*TINY, "model.base_channels=16"]).model, 10)
    with pytest.raises(InputError, match=r"of another network: in_c.*not \["):
        transfer(network, run, SCENES)


def test_weights_that_lack_a_tensor_are_refused(run: Path, tmp_path: Path) -> None:
    state = load_file(run / "model.safetensors")
    del state["stages.s1.b1.block.0.0.weight"]
    save_file(state, tmp_path / "x.safetensors")
    with pytest.raises(InputError, match=r"stages.s1.b1.block.0.0.weight: the file lacks it"):
        transfer(fresh(), tmp_path / "x.safetensors", SCENES)


def test_weights_that_are_not_finite_are_refused(run: Path, tmp_path: Path) -> None:
    state = load_file(run / "model.safetensors")
    state["in_c.0.0.weight"][0] = torch.inf
    save_file(state, tmp_path / "x.safetensors")
    with pytest.raises(InputError, match="NaN or infinite"):
        transfer(fresh(), tmp_path / "x.safetensors", SCENES)


class Bomb:
    """Writes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return Path.touch, (self.path,)


@pytest.mark.parametrize("content", ["hostile", "list", "noise", "missing"])
def test_a_file_that_is_no_dictionary_of_tensors_is_refused(content: str, tmp_path: Path) -> None:
    path = tmp_path / "x.pt"
    if content == "noise":
        path.write_bytes(b"noise" * 100)
    elif content != "missing":
        torch.save([1, 2] if content == "list" else {"a": Bomb(tmp_path / "executed")}, path)
    with pytest.raises(
        InputError, match=r"x\.pt: (no such file|not written by torch|holds .*only plain data|holds no dictionary)"
    ):
        transfer(fresh(), path, SCENES)
    assert not (tmp_path / "executed").exists()


def test_a_family_without_published_weights_says_so() -> None:
    with pytest.raises(InputError, match="cp_mobile has none"):
        find_weights("published", RECIPE.model)


def test_a_run_that_started_from_others_says_from_which(
    run: Path, sample_dataset: Dataset, sample_clips: Clips, tmp_path: Path
) -> None:
    recipe = load_recipe("nano", [*QUICK, *TINY, "train.epochs=1"])
    train(recipe, TrainingData(sample_dataset, sample_clips, SPLIT), RunFolder(tmp_path / "next"), weights=run)
    source = load_model(tmp_path / "next")[1].source or ""
    assert source.startswith(f"{run} sha256:")


def test_training_goes_on_from_the_weights_it_starts_from(
    run: Path, sample_dataset: Dataset, sample_clips: Clips, tmp_path: Path
) -> None:
    recipe = load_recipe("nano", [*QUICK, *TINY, "train.epochs=1", "train.lr=1e-9"])
    train(recipe, TrainingData(sample_dataset, sample_clips, SPLIT), RunFolder(tmp_path / "next"), weights=run)
    before, after = load_file(run / "model.safetensors"), load_file(tmp_path / "next" / "model.safetensors")
    for name in before:
        if name.endswith("weight"):
            torch.testing.assert_close(after[name], before[name], rtol=0, atol=1e-5)
    assert json.loads((tmp_path / "next" / "metrics.jsonl").read_text())["epoch"] == 1

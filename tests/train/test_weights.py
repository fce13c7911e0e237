"""Weights from elsewhere: what the network's own types cannot hold is refused, with the tensor's name."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load, load_file, save_file

from tests.train.test_export import TINY, run_of
from tinyscene.deploy.common.errors import InputError
from tinyscene.train.data.datasets import SCENES
from tinyscene.train.models import build
from tinyscene.train.recipe import load_recipe
from tinyscene.train.runs.run import import_weights, load_model, load_tensors, read_card, save_tensors, to_bytes
from tinyscene.train.runs.transfer import transfer

RECIPE = load_recipe("nano", TINY)
NAME, VARIANCE = "in_c.0.0.weight", "in_c.0.1.running_var"


@pytest.fixture
def state(tmp_path: Path) -> dict[str, torch.Tensor]:
    return load_file(run_of(tmp_path, "nano", TINY, seed=7)[0] / "model.safetensors")


def refuse(state: dict[str, torch.Tensor], folder: Path, reason: str) -> None:
    """By `import` and by `--weights`, from both kinds of file."""
    save_file(state, folder / "x.safetensors")
    torch.save(state, folder / "x.pt")
    with pytest.raises(InputError, match=reason):
        import_weights(folder / "x.safetensors", RECIPE, folder / "run")
    for name in ("x.safetensors", "x.pt"):
        with pytest.raises(InputError, match=reason):
            transfer(build(RECIPE.model, 10), folder / name, SCENES)


def test_a_value_beyond_float32_is_refused(state: dict[str, torch.Tensor], tmp_path: Path) -> None:
    refuse(state | {NAME: torch.full_like(state[NAME], 1e300, dtype=torch.float64)}, tmp_path, f"{NAME} .*infinite")


@pytest.mark.parametrize("kind", [torch.complex64, torch.bool, torch.int8, torch.int64])
def test_weights_of_a_type_that_is_not_float_are_refused(
    kind: torch.dtype, state: dict[str, torch.Tensor], tmp_path: Path
) -> None:
    refuse(state | {NAME: state[NAME].to(kind)}, tmp_path, f"{NAME} is {str(kind)[6:]}: it must be one of float16")


def test_float8_is_refused(state: dict[str, torch.Tensor], tmp_path: Path) -> None:
    refuse(state | {NAME: state[NAME].to(torch.float8_e4m3fn)}, tmp_path, "float8|_rebuild_tensor_v3")


@pytest.mark.parametrize("kind", [torch.float16, torch.float64])
def test_other_floats_are_taken_over(kind: torch.dtype, state: dict[str, torch.Tensor], tmp_path: Path) -> None:
    save_file(
        {name: t.to(kind) if t.is_floating_point() else t for name, t in state.items()}, tmp_path / "x.safetensors"
    )
    network = load_model(import_weights(tmp_path / "x.safetensors", RECIPE, tmp_path / "run"))[0]
    torch.testing.assert_close(network.state_dict()[NAME], state[NAME], rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("value", [0.0, -1e-5])
def test_a_variance_of_zero_or_less_is_named_with_its_layer(
    value: float, state: dict[str, torch.Tensor], tmp_path: Path
) -> None:
    state[VARIANCE][1] = value
    refuse(state, tmp_path, f"{VARIANCE} holds a variance of {value:g}")


def test_a_channel_of_ours_that_is_always_zero_is_accepted(tmp_path: Path) -> None:
    run, network = run_of(tmp_path, "nano", TINY, seed=7)[0], build(RECIPE.model, 10)
    path = run / "model.safetensors"
    tensors, header = load_tensors(path)
    tensors[VARIANCE][0] = 0
    card = read_card(header, path)
    assert card is not None
    save_tensors(path, tensors, card)
    transfer(network, run, SCENES)
    assert float(network.state_dict()[VARIANCE][0]) == 0


def test_the_same_content_makes_the_same_file() -> None:
    tensors = {"b": torch.arange(3.0), "a": torch.zeros(2, dtype=torch.int64)}
    header = {name: f'{name} "é"\n\x1f' for name in "xyzuvw"}
    contents = [to_bytes(tensors, header) for _ in range(10)]
    assert set(contents) == {contents[0]}
    assert torch.equal(load(contents[0])["b"], tensors["b"])


def test_the_strings_of_a_header_are_those_that_were_written(tmp_path: Path) -> None:
    header = {name: f'{name} "é"\n\x1f' for name in "xyzuvw"}
    (tmp_path / "x.safetensors").write_bytes(to_bytes({"a": torch.zeros(2)}, header))
    assert load_tensors(tmp_path / "x.safetensors")[1] == header

"""TF-SepNet: its size against the published one, its block and its normalization against their definitions."""

import pytest
import torch

from tests.learning import losses
from tinyscene.deploy.common.errors import InputError
from tinyscene.train.models.tf_sepnet import ResidualNorm, SeparableBlock, TFSepNet
from tinyscene.train.network_settings import TFSepNetModel
from tinyscene.train.quantize.lower import lower
from tinyscene.train.recipe import load_recipe
from tinyscene.train.runs.budget import count_recipe


def test_the_recipe_has_the_published_parameters_and_keeps_the_challenges_limits() -> None:
    recipe = load_recipe("tf_sepnet")
    count = count_recipe(recipe)
    assert count.parameters == 126_858
    assert count.faults(recipe.budget) == []


def test_at_16_khz_it_costs_what_micro16k_does() -> None:
    ours, other = load_recipe("tf_sepnet16k"), load_recipe("micro16k")
    assert ours.features == other.features
    assert count_recipe(ours).macs == pytest.approx(count_recipe(other).macs, rel=0.05)


@pytest.mark.parametrize(("inputs", "outputs"), [(8, 8), (8, 12)])
def test_a_block_is_what_its_definition_says(inputs: int, outputs: int) -> None:
    torch.manual_seed(0)
    block = SeparableBlock(inputs, outputs, 0.1).eval()
    for module in block.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            torch.nn.init.uniform_(module.running_mean, -1, 1)  # type: ignore[arg-type]
    x = torch.randn(2, inputs, 9, 7)
    found = block(x)

    half, expected = outputs // 2, torch.empty_like(found)
    wide = block.transition(x)
    even_and_odd = torch.empty_like(wide)
    even_and_odd[:, 0::2], even_and_odd[:, 1::2] = wide[:, :half], wide[:, half:]
    for frame in range(7):  # the first half knows its own frame alone
        only = even_and_odd[:, :half, :, frame : frame + 1]
        expected[:, :half, :, frame] = (only + block.mel_pointwise(block.along_mel(only).mean(2, True)))[..., 0]
    for mel in range(9):  # the second half knows its own band alone
        only = even_and_odd[:, half:, mel : mel + 1]
        expected[:, half:, mel] = (only + block.time_pointwise(block.along_time(only).mean(3, True)))[:, :, 0]
    torch.testing.assert_close(found, expected)


def test_the_residual_norm_is_a_tenth_of_the_input_and_bands_of_mean_0_and_deviation_1() -> None:
    x = 3 * torch.randn(4, 6, 5, 8) + 2
    rest = ResidualNorm()(x) - 0.1 * x
    torch.testing.assert_close(rest.mean((1, 3)), torch.zeros(4, 5), atol=1e-5, rtol=0)
    torch.testing.assert_close(rest.var((1, 3)), torch.ones(4, 5), atol=1e-4, rtol=0)


def test_the_residual_norm_can_be_left_out() -> None:
    networks = [TFSepNet(TFSepNetModel(family="tf_sepnet", width=8, residual_norm=each), 10) for each in (True, False)]
    assert networks[0].state_dict().keys() == networks[1].state_dict().keys()
    counts = [sum(isinstance(module, ResidualNorm) for module in network.modules()) for network in networks]
    assert counts == [5, 0]


def test_its_loss_falls() -> None:
    torch.manual_seed(0)
    network = TFSepNet(TFSepNetModel(family="tf_sepnet", width=16, dropout=0), 10)
    x, target = torch.randn(8, 1, 64, 33).contiguous(memory_format=torch.channels_last), torch.arange(8)
    first, *_, last = losses(network, x, target, rate=0.01)
    assert last < 0.3 * first


def test_it_is_refused_where_a_graph_is_made_in_one_line() -> None:
    network = TFSepNet(TFSepNetModel(family="tf_sepnet", width=8), 10).eval()
    with pytest.raises(InputError, match="cannot be lowered") as refusal:
        lower(network, (128, 65))
    assert "\n" not in str(refusal.value)


def test_a_width_that_does_not_divide_by_4_is_refused() -> None:
    with pytest.raises(InputError, match=r"width.*multiple of 4"):
        load_recipe("tf_sepnet", ["model.width=30"])

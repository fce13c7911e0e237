"""TF-SepNet: its size against the published one, its block and its normalization against their definitions."""

import numpy as np
import pytest
import torch
from torch import nn

from tests.learning import losses
from tinyscene.deploy.common.errors import InputError
from tinyscene.deploy.graph.reference import run
from tinyscene.train.models.tf_sepnet import HalvesShuffle, ResidualNorm, SeparableBlock, TFSepNet
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
    for frame in range(7):  # the first half knows its own frame alone
        only = wide[:, :half, :, frame : frame + 1]
        expected[:, :half, :, frame] = (only + block.mel_pointwise(block.along_mel(only).mean(2, True)))[..., 0]
    for mel in range(9):  # the second half knows its own band alone
        only = wide[:, half:, mel : mel + 1]
        expected[:, half:, mel] = (only + block.time_pointwise(block.along_time(only).mean(3, True)))[:, :, 0]
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("channels", [8, 12, 14])
def test_the_shuffle_is_the_published_one_but_for_the_order_in_each_half(channels: int) -> None:
    x = torch.arange(channels).view(1, channels, 1, 1)
    ours, published = HalvesShuffle(channels)(x).flatten(), nn.ChannelShuffle(2)(x).flatten()
    for half in (slice(channels // 2), slice(channels // 2, None)):
        assert sorted(ours[half].tolist()) == sorted(published[half].tolist())


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


def test_without_the_residual_norm_a_graph_computes_the_same() -> None:
    torch.manual_seed(0)
    network = TFSepNet(TFSepNetModel(family="tf_sepnet", width=12, residual_norm=False), 10).eval()
    x = torch.randn(2, 1, 64, 33)
    with torch.inference_mode():
        expected = network(x).numpy()
    found = run(lower(network, (64, 33)), x.permute(0, 2, 3, 1).contiguous().numpy())
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_with_it_no_graph_is_made_and_one_line_says_why() -> None:
    network = TFSepNet(TFSepNetModel(family="tf_sepnet", width=8), 10).eval()
    with pytest.raises(InputError, match="cannot be lowered") as refusal:
        lower(network, (128, 65))
    assert "\n" not in str(refusal.value)


def test_a_width_that_does_not_divide_by_4_is_refused() -> None:
    with pytest.raises(InputError, match=r"width.*multiple of 4"):
        load_recipe("tf_sepnet", ["model.width=30"])

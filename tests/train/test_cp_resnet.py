"""CP-ResNet: what an output sees, against arithmetic; its size and names, against the published code."""

import math
import re

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from tests.learning import losses
from tinyscene.deploy.common.errors import InputError
from tinyscene.train.data.features import LogMel
from tinyscene.train.data.kaldi_features import PasstMel
from tinyscene.train.models import features_of
from tinyscene.train.models.cp_resnet import Block, CPResNet, kernels
from tinyscene.train.network_settings import CPResNetModel
from tinyscene.train.recipe import load_recipe, parse_recipe
from tinyscene.train.runs.budget import count_recipe

SMALL = {"family": "cp_resnet", "base_channels": 8}
PAPER = {"b1": (2, 2), "b2": (2, 2), "b4": (2, 2)}
WINNERS = {"b1": (2, 1)}  # of DCASE 2023 Task 1
PUBLISHED = {  # by rho, what the published code makes with 128 base channels, 10 classes and one input channel
    0: 2_908_052,
    5: 3_563_412,
    7: 3_956_628,
    8: 4_480_916,
    15: 8_675_220,
    22: 23_355_284,
}
PUBLISHED_KERNELS = {  # by rho, the published k1s and k2s of the stages, block by block
    4: "31 33 33 11  11 11 11 11  11 11 11 11",
    7: "31 33 33 33  31 11 11 11  11 11 11 11",
    16: "31 33 33 33  33 33 33 33  33 11 11 11",
}
PUBLISHED_KEY = re.compile(
    r"(in_c\.[01]|stage[123]\.block[1234]\.(conv[12]|bn[12])|stage[23]\.block1\.shortcut\.(conv|bn)|feed_forward\.[01])"
    r"\.(weight|bias|running_mean|running_var|num_batches_tracked)"
)


def small(**settings: object) -> CPResNet:
    torch.manual_seed(0)
    return CPResNet(CPResNetModel.model_validate(SMALL | settings), 10)


def seen(network: CPResNet, mels: int, frames: int) -> list[int]:
    """How many mels and frames an output in the middle depends on, found by its gradient."""
    for module in list(network.modules()):
        for name, child in module.named_children():
            if isinstance(child, nn.MaxPool2d):  # which passes a gradient to the largest only
                setattr(module, name, nn.AvgPool2d(child.kernel_size))
            if isinstance(child, nn.Conv2d):
                nn.init.constant_(child.weight, 1 / child.weight[0].numel())  # nothing cancels, nothing overflows
    x = torch.ones(1, 1, mels, frames, dtype=torch.float64, requires_grad=True)
    network = network.double().eval()
    y = network.stage3(network.stage2(network.stage1(network.in_c(x))))
    y[0, 0, y.shape[2] // 2, y.shape[3] // 2].backward()
    assert x.grad is not None
    gradient = x.grad[0, 0] != 0
    assert not gradient[[0, -1]].any()  # all of it lies within the input
    assert not gradient[:, [0, -1]].any()
    return [int(gradient.any(dim).sum()) for dim in (1, 0)]


@pytest.mark.parametrize(("rho", "field"), [*enumerate((23, 31, 39, 55, 71, 87, 103, 135, 167, 199))])
def test_with_the_papers_pools_an_output_sees_what_rho_grants(rho: int, field: int) -> None:
    assert seen(small(rho=rho, pools=PAPER), field + 60, field + 60) == [field, field]


def test_with_the_winners_pool_an_output_sees_67_mels_and_37_frames() -> None:
    assert seen(small(rho=7, pools=WINNERS), 120, 80) == [67, 37]


@pytest.mark.parametrize("rho", PUBLISHED_KERNELS)
def test_rho_makes_the_published_kernels(rho: int) -> None:
    assert list(kernels(rho).values()) == [(int(k1), int(k2)) for k1, k2 in PUBLISHED_KERNELS[rho].split()]


@pytest.mark.parametrize("rho", PUBLISHED)
def test_rho_costs_the_published_parameters(rho: int) -> None:
    with torch.device("meta"):
        network = CPResNet(CPResNetModel(family="cp_resnet", rho=rho), 10)
    assert sum(parameter.numel() for parameter in network.parameters()) == PUBLISHED[rho]


def test_parameters_are_named_as_published() -> None:
    names = small().state_dict().keys()
    assert len(names) == 6 * (1 + 24 + 2 + 1)  # a convolution and five tensors of its BatchNorm
    assert [name for name in names if not PUBLISHED_KEY.fullmatch(name)] == []


def test_the_recipe_is_the_winners() -> None:
    """127,684 parameters and 28.8 million MACs by their own count (F. Schmid et al., DCASE 2023)."""
    recipe = load_recipe("cp_resnet")
    count = count_recipe(recipe)
    assert (count.parameters, round(count.macs / 1e6, 1)) == (127_684, 28.8)
    assert type(features_of(recipe)) is PasstMel


def test_the_recipe_keeps_the_winners_kernels_and_groups() -> None:
    network = CPResNet(load_recipe("cp_resnet").model, 10)  # type: ignore[arg-type]
    convolutions = {name: each for name, each in network.named_modules() if isinstance(each, nn.Conv2d)}
    found = {name: (each.kernel_size[0], each.groups, each.out_channels) for name, each in convolutions.items()}
    assert found == {
        "in_c.0": (5, 1, 32),
        "stage1.block1.conv1": (3, 1, 32),
        "stage1.block1.conv2": (1, 1, 32),
        "stage1.block2.conv1": (3, 1, 32),
        "stage1.block2.conv2": (3, 1, 32),
        "stage2.block1.conv1": (3, 2, 64),
        "stage2.block1.conv2": (3, 2, 64),
        "stage2.block1.shortcut.conv": (1, 2, 64),
        "stage3.block1.conv1": (3, 1, 92),
        "stage3.block1.conv2": (1, 1, 92),
        "stage3.block1.shortcut.conv": (1, 1, 92),
        "feed_forward.0": (1, 1, 10),
    }


def test_a_recipe_of_a_former_run_has_the_former_features() -> None:
    former = {"family": "cp_resnet", "base_channels": 128, "rho": 7, "pools": {"b1": [2, 1]}}
    assert type(features_of(parse_recipe({"name": "cp_resnet", "model": former}, "a run"))) is LogMel


def test_groups_that_do_not_divide_a_stage_are_refused() -> None:
    with pytest.raises(InputError, match="3 groups do not divide stage 2, 16 wide"):
        small(groups=(1, 3, 1))


@pytest.mark.parametrize(
    ("pools", "size"),
    [
        ({}, (127, 32)),  # of 256 x 65 after the published stem, which pads by one: (256 + 2 - 5) / 2 + 1
        (PAPER, (15, 4)),
        (WINNERS, (63, 32)),
        ({"b1": (1, 1), "b6": (1, 2), "b12": (3, 2)}, (42, 8)),
    ],
)
def test_pools_shrink_the_map_where_they_are_told_to(pools: dict[str, tuple[int, int]], size: tuple[int, int]) -> None:
    sizes = []
    network = small(pools=pools)
    network.feed_forward.register_forward_pre_hook(lambda _, inputs: sizes.append(inputs[0].shape))
    assert network(torch.randn(2, 1, 256, 65)).shape == (2, 10)
    assert sizes == [(2, 32, *size)]


def test_a_pool_after_an_unknown_block_is_refused() -> None:
    with pytest.raises(InputError, match="'b13'"):
        small(pools={"b13": (2, 2)})


def test_a_block_starts_as_its_shortcut() -> None:
    torch.manual_seed(0)
    for block in (module for module in small().eval().modules() if isinstance(module, Block)):
        x = torch.randn(2, block.conv1.in_channels, 9, 9)
        assert torch.equal(block(x), F.relu(block.shortcut(x)))


def test_its_loss_falls() -> None:
    network = small(pools=WINNERS)
    x, target = torch.randn(8, 1, 64, 33), torch.arange(8)
    first, *_, last = losses(network, x, target, rate=0.002)
    assert first == pytest.approx(math.log(10))  # its classifier starts at zero
    assert last < 0.3 * first

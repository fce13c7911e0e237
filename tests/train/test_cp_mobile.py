"""CP-Mobile against the layer table and weights published for the DCASE 2024 baseline, and RepVGG folding."""

import re
from collections import Counter
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from torch import Tensor, nn

from tinyscene.deploy.common.errors import InputError
from tinyscene.train.models import build
from tinyscene.train.models.cp_mobile import Block, ConvNorm, CPMobile, LowPass, fold_branches, round_channels
from tinyscene.train.network_settings import CPMobileModel
from tinyscene.train.recipe import Recipe, load_recipe
from tinyscene.train.runs.budget import count_network, count_recipe

PUBLISHED = {  # layer: parameters and MACs of its convolution and BatchNorm, on one log-mel of 256 x 65
    "in_c.0": (88, 304_144),
    "in_c.1": (2_368, 2_506_816),
    "stages.s1.b1.block.0": (2_176, 2_228_352),
    "stages.s1.b1.block.1": (704, 626_816),
    "stages.s1.b1.block.2": (2_112, 2_228_288),
    "stages.s1.b2.block.0": (2_176, 2_228_352),
    "stages.s1.b2.block.1": (704, 626_816),
    "stages.s1.b2.block.2": (2_112, 2_228_288),
    "stages.s1.b3.block.0": (2_176, 2_228_352),
    "stages.s1.b3.block.1": (704, 331_904),
    "stages.s1.b3.block.2": (2_112, 1_179_712),
    "stages.s2.b4.block.0": (2_176, 1_179_776),
    "stages.s2.b4.block.1": (704, 166_016),
    "stages.s2.b4.block.2": (3_696, 1_032_304),
    "stages.s2.b5.block.0": (6_960, 1_935_600),
    "stages.s2.b5.block.1": (1_320, 311_280),
    "stages.s2.b5.block.2": (6_832, 1_935_472),
    "stages.s3.b6.block.0": (6_960, 1_935_600),
    "stages.s3.b6.block.1": (1_320, 311_280),
    "stages.s3.b6.block.2": (12_688, 3_594_448),
    "feed_forward.0": (1_040, 299_520),
    "feed_forward.1": (20, 20),
}
MILLION_MACS = {"nano": 1.5, "micro": 4.5, "small": 11.0, "medium": 17.0}  # as the recipes say of themselves
PUBLISHED_KEY = re.compile(
    r"(in_c\.[01]\.|stages\.s(1\.b[123]|2\.b[45]|3\.b6)\.block\.[012]\.|feed_forward\.)"
    r"(0\.weight|1\.(weight|bias|running_mean|running_var|num_batches_tracked))"
)


def normed(network: nn.Module) -> dict[str, ConvNorm]:
    return {name: module for name, module in network.named_modules() if isinstance(module, ConvNorm)}


def trained(model: CPMobileModel, seed: int, shape: tuple[int, int]) -> tuple[CPMobile, Tensor]:
    """A network whose BatchNorms have statistics, signs and offsets of their own, and an input for it."""
    torch.manual_seed(seed)
    network = CPMobile(model, 10)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.weight, 0.2, 0.6)
            nn.init.normal_(module.bias, 0.0, 0.5)
    for scale in (0.5, 1.0, 2.0):
        network(scale * torch.randn(4, 1, *shape) + 0.3)
    return network.eval(), torch.randn(3, 1, *shape)


@pytest.fixture(scope="module")
def baseline_layers() -> Counter[tuple[str, str]]:
    """(layer, what) -> sum over the layer's modules."""
    sums: Counter[tuple[str, str]] = Counter()
    for layer in count_recipe(load_recipe("baseline")).layers:
        name = layer.name if layer.name.startswith("feed_forward") else layer.name.rpartition(".")[0]
        sums[name, "parameters"] += layer.parameters
        sums[name, "macs"] += layer.macs
    return sums


@pytest.mark.parametrize("name", PUBLISHED)
def test_each_baseline_layer_costs_what_is_published(name: str, baseline_layers: Counter[tuple[str, str]]) -> None:
    assert (baseline_layers[name, "parameters"], baseline_layers[name, "macs"]) == PUBLISHED[name]


def test_the_baseline_costs_what_is_published() -> None:
    count = count_recipe(load_recipe("baseline"))
    assert (count.parameters, count.macs) == (61_148, 29_419_156)


def test_baseline_parameters_are_named_as_published() -> None:
    names = CPMobile(CPMobileModel(), 10).state_dict().keys()
    assert len(names) == 6 * 21  # a convolution and five tensors of its BatchNorm
    assert [name for name in names if not PUBLISHED_KEY.fullmatch(name)] == []


def test_baseline_tensors_have_the_names_and_shapes_of_the_published_weights(baseline_weights: Path) -> None:
    with safe_open(baseline_weights, "pt") as file:
        published = {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
    assert {name: tuple(each.shape) for name, each in CPMobile(CPMobileModel(), 10).state_dict().items()} == published


@pytest.mark.parametrize("recipe", MILLION_MACS)
def test_a_smaller_recipe_costs_about_what_it_says(recipe: str) -> None:
    assert count_recipe(load_recipe(recipe)).macs / 1e6 == pytest.approx(MILLION_MACS[recipe], rel=0.1)


@pytest.mark.parametrize("recipe", [*MILLION_MACS, "baseline", "sounds"])
def test_a_shipped_recipe_is_within_the_challenge_limits(recipe: str) -> None:
    count = count_recipe(load_recipe(recipe))
    assert count.parameters * 2 <= 128_000  # bytes, in float16
    assert count.macs <= 30_000_000


@pytest.mark.parametrize(
    ("channels", "rounded"),
    [
        (1, 8),  # never below one group of 8
        (8.8, 8),  # 8 is 91 % of 8.8
        (8.9, 16),  # 8 is 89.9 % of 8.9: the next one up
        (12, 16),  # halfway goes up
        (17.8, 24),  # 16 is 89.9 %
        (32 * 1.8, 56),  # of the published baseline, as are the next three
        (32 * 1.8**2, 104),
        (32 * 2.1, 64),
        (56 * 2.1, 120),
    ],
)
def test_channels_round_as_in_mobilenet_v2(channels: float, rounded: int) -> None:
    assert round_channels(channels) == rounded


FOLDED = pytest.mark.parametrize(
    ("settings", "shape"),
    [
        ({}, (64, 65)),
        ({"base_channels": 8, "expansion_rate": 1.0, "n_blocks": (2, 1), "strides": {"b2": (2, 1)}}, (31, 17)),
        ({"base_channels": 40, "expansion_rate": 3.3, "n_blocks": (2,), "strides": {"b1": (2, 2)}}, (37, 50)),
        ({"base_channels": 12, "channels_multiplier": 0.7, "n_blocks": (1, 2, 1), "strides": {"b3": (1, 3)}}, (33, 64)),
        ({"time_padding": "none", "strides": {"b3": (1, 2)}, "time_kernels": {"b4": 1, "b5": 1}}, (31, 63)),
        ({"antialias": True, "n_blocks": (2,), "strides": {"b1": (1, 2), "b2": (2, 2)}}, (31, 63)),
    ],
)


@FOLDED
def test_folding_keeps_the_function(settings: dict[str, object], shape: tuple[int, int]) -> None:
    network, x = trained(CPMobileModel.model_validate(settings | {"branches": True}), 1, shape)
    with torch.inference_mode():
        expected, folded = network(x), fold_branches(network)(x)
    assert (folded - expected).abs().max() < 3e-6 * expected.abs().max()  # rounding: 6e-7; a forgotten epsilon: 9e-6


@FOLDED
def test_branches_have_an_effect_before_folding(settings: dict[str, object], shape: tuple[int, int]) -> None:
    model = CPMobileModel.model_validate(settings | {"branches": True})
    network, x = trained(model, 1, shape)
    dropped = CPMobile(model.model_copy(update={"branches": False}), 10).eval()
    dropped.load_state_dict({name: each for name, each in network.state_dict().items() if ".parallel." not in name})
    with torch.inference_mode():
        expected = network(x)
        assert (dropped(x) - expected).abs().max() > 0.05 * expected.abs().max()


@pytest.mark.parametrize("name", ["baseline", "nano"])
def test_a_folded_network_has_the_modules_and_cost_of_a_plain_one(name: str) -> None:
    recipe = load_recipe(name, ["model.branches=true"])
    network = build(recipe.model, 10)
    assert isinstance(network, CPMobile)
    plain = build(load_recipe(name).model, 10)
    assert fold_branches(network).state_dict().keys() == plain.state_dict().keys()
    assert count_network(network, recipe).layers == count_network(plain, recipe).layers


def test_branches_stand_beside_every_convolution_of_a_block_and_none_of_the_stem() -> None:
    layers = normed(CPMobile(CPMobileModel(branches=True), 10))
    assert {name for name, layer in layers.items() if not len(layer.parallel)} == {"in_c.0", "in_c.1"}
    assert len(layers) == 2 + 6 * 3


def test_an_identity_branch_needs_stride_one_and_equal_channels() -> None:
    recipe = Recipe(name="x", model=CPMobileModel(base_channels=16, expansion_rate=1.0, branches=True))
    identities = {
        name
        for name, layer in normed(build(recipe.model, 10)).items()
        if any(isinstance(module, nn.Identity) for branch in layer.parallel for module in branch.children())
    }
    # with an expansion of one, blocks b1 to b3 keep 16 channels throughout; b3 and b4 stride in their depthwise;
    # b4 widens to 32 (16 x 1.8 = 28.8) and b6 to 48 (16 x 1.8 ** 2 = 51.84) in their projections
    keeping = {"s1.b1": "012", "s1.b2": "012", "s1.b3": "02", "s2.b4": "0", "s2.b5": "012", "s3.b6": "01"}
    assert identities == {f"stages.{block}.block.{part}" for block, parts in keeping.items() for part in parts}


def test_the_low_pass_is_binomial_along_the_axes_of_the_stride() -> None:
    impulse = torch.zeros(1, 1, 5, 7)
    impulse[..., 2, 3] = 16
    along = torch.tensor([0.0, 1.0, 2.0, 1.0, 0.0])
    frames = torch.tensor([0.0, 0.0, 1.0, 2.0, 1.0, 0.0, 0.0])
    assert torch.equal(LowPass((2, 2), pads_time=True)(impulse)[0, 0], torch.outer(along, frames))
    assert torch.equal(LowPass((2, 1), pads_time=True)(impulse)[0, 0, :, 3], 4 * along)
    assert torch.equal(LowPass((1, 2), pads_time=False)(impulse)[0, 0, 2], 4 * frames[1:-1])


def test_a_low_pass_changes_no_name_shape_or_cost() -> None:
    plain, filtered = (load_recipe("baseline", [f"model.antialias={on}"]) for on in ("false", "true"))
    shapes = [{name: each.shape for name, each in build(r.model, 10).state_dict().items()} for r in (plain, filtered)]
    assert shapes[0] == shapes[1]
    assert count_recipe(plain).macs == count_recipe(filtered).macs


def test_strides_of_an_unknown_block_are_refused() -> None:
    with pytest.raises(InputError, match="'b7'"):
        CPMobile(CPMobileModel(strides={"b7": (2, 2)}), 10)


def test_a_strided_shortcut_averages_its_padding_too() -> None:
    block = Block((8, 16, 8), True, "b1", CPMobileModel(strides={"b1": (2, 2)})).eval()
    norm = block.block[2].get_submodule("1")
    assert isinstance(norm, nn.BatchNorm2d)
    nn.init.zeros_(norm.weight)  # the convolutions add nothing: the shortcut is left
    ninths = torch.tensor([[4.0, 6.0, 4.0], [6.0, 9.0, 6.0], [4.0, 6.0, 4.0]])  # ones under a 3 x 3 window
    with torch.inference_mode():
        assert torch.allclose(block(torch.ones(1, 8, 5, 5)), (ninths / 9).expand(1, 8, 3, 3))

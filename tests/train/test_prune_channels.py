"""Pruning: which channels are removed, how many, and what is left of the answers."""

import copy
import itertools

import numpy as np
import pytest
import torch
import torch_pruning
from torch import Tensor, nn

from tests.train.test_cp_mobile import trained
from tinyscene.deploy.frontend.log_mel import FrontEnd
from tinyscene.train.fine_tuning import prune as pruning
from tinyscene.train.fine_tuning.prune import shrink
from tinyscene.train.models.cp_mobile import CPMobile, plan_channels
from tinyscene.train.network_settings import Channels, CPMobileModel
from tinyscene.train.recipe import Recipe
from tinyscene.train.runs.budget import count_network
from tinyscene.train.runs.count import Count

KINDS = {  # of networks, by what is particular about their groups
    "tiny": CPMobileModel(base_channels=16, n_blocks=(2, 1), strides={"b2": (2, 2)}),
    "wide stem": CPMobileModel(base_channels=64, n_blocks=(1, 1), strides={}),
    "shortcuts between stages": CPMobileModel(base_channels=24, channels_multiplier=1.0, n_blocks=(1, 2), strides={}),
    "odd stem": CPMobileModel(base_channels=48, n_blocks=(1,), strides={}),
}
SHAPE = 32, 17
EXAMPLES = torch.randn(10, 1, *SHAPE, generator=torch.Generator().manual_seed(0)), torch.arange(10)


def recipe_of(model: CPMobileModel) -> Recipe:
    return Recipe(name="any", model=model, features=FrontEnd(n_mels=SHAPE[0], hop_length=2000))


def goal_of(recipe: Recipe, macs: int, parameters: int) -> Recipe:
    """The recipe with so many MACs and parameters as its limits."""
    return recipe.model_copy(
        update={"budget": recipe.budget.model_copy(update={"max_macs": macs, "max_bytes": 2 * parameters})}
    )


def answers(network: nn.Module, log_mel: Tensor) -> Tensor:
    with torch.inference_mode():
        return network.eval()(log_mel)


def norms(network: nn.Module) -> dict[str, nn.BatchNorm2d]:
    return {name: each for name, each in network.named_modules() if isinstance(each, nn.BatchNorm2d)}


def every_count(channels: Channels) -> tuple[int, ...]:
    return channels.stem, *channels.stages, *channels.expanded


def kept(before: nn.BatchNorm2d, after: nn.BatchNorm2d) -> list[int]:
    """Which channels are left, told by their weights."""
    weights = before.weight.tolist()
    assert len(set(weights)) == len(weights)
    return [weights.index(each) for each in after.weight.tolist()]


def loss_of(network: nn.Module) -> Tensor:
    return nn.functional.cross_entropy(network(EXAMPLES[0]), EXAMPLES[1], reduction="sum")


def groups_of(network: CPMobile) -> list[torch_pruning.Group]:
    graph = torch_pruning.DependencyGraph().build_dependency(network, torch.zeros(1, 1, *SHAPE))
    return list(graph.get_all_groups(ignored_layers=[network.feed_forward[0]], root_module_types=[nn.Conv2d]))


def channels_of(network: nn.Module) -> Channels:
    assert isinstance(network, CPMobile)
    assert network.settings.channels is not None
    return network.settings.channels


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("macs", "parameters"), [(0.6, 1.0), (1.0, 0.6), (0.5, 0.5)])
def test_both_limits_hold_with_channels_in_eights(kind: str, macs: float, parameters: float) -> None:
    recipe = recipe_of(KINDS[kind])
    network, _ = trained(KINDS[kind], 0, SHAPE)
    before = count_network(network, recipe)
    recipe = goal_of(recipe, round(macs * before.macs), round(parameters * before.parameters))
    smaller = shrink(network, recipe, recipe.budget, EXAMPLES)
    assert count_network(smaller, recipe).faults(recipe.budget) == []
    channels = channels_of(smaller)
    assert all(count % 8 == 0 for count in every_count(channels)[1:])
    assert channels.stem == plan_channels(KINDS[kind]).stem < 8 or channels.stem % 8 == 0


def test_eight_channels_everywhere_can_be_reached() -> None:
    network, _ = trained(KINDS["tiny"], 0, SHAPE)
    eights = Channels(stem=4, stages=(8, 8), expanded=(8, 8, 8))
    least = CPMobile(network.settings.model_copy(update={"channels": eights}), network.classes)
    count = count_network(least, recipe_of(KINDS["tiny"]))
    recipe = goal_of(recipe_of(KINDS["tiny"]), count.macs, count.parameters)
    assert channels_of(shrink(network, recipe, recipe.budget, EXAMPLES)) == eights


@pytest.mark.parametrize("kind", KINDS)
def test_no_more_is_removed_than_the_last_eight_channels_need(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = recipe_of(KINDS[kind])
    network, _ = trained(KINDS[kind], 0, SHAPE)
    before = count_network(network, recipe)
    recipe = goal_of(recipe, before.macs // 2, before.parameters // 2)
    counts: list[Count] = []
    monkeypatch.setattr(pruning, "count_network", lambda *given: counts.append(count_network(*given)) or counts[-1])
    shrink(network, recipe, recipe.budget, EXAMPLES)
    assert [bool(count.faults(recipe.budget)) for count in counts] == [True] * (len(counts) - 1) + [False]
    assert all(one.macs > other.macs for one, other in itertools.pairwise(counts))


@pytest.mark.parametrize("kind", KINDS)
def test_a_cost_is_the_importance_that_goes_for_the_share_of_the_excess_that_goes(kind: str) -> None:
    recipe = recipe_of(KINDS[kind])
    network, _ = trained(KINDS[kind], 0, SHAPE)
    pruning._measure(network, EXAMPLES)
    names: dict[nn.Module, str] = {module: name for name, module in network.named_modules()}
    count = count_network(network, recipe)
    limits = [goal_of(recipe, *each).budget for each in ((1, 1), (count.macs - 9, 1), (1, count.parameters))]
    for (index, group), limit in itertools.product(enumerate(groups_of(network)), limits):
        if option := pruning._option(group, names, count, limit):
            channels, cost = option
            importance = pruning._importance(group)
            assert importance[channels].sum() == importance.sort().values[: len(channels)].sum()
            smaller = copy.deepcopy(network)
            groups_of(smaller)[index].prune(channels)
            after = count_network(smaller, recipe)
            saving = min(1.0, (count.macs - after.macs) / (count.macs - limit.max_macs))
            if count.bytes > limit.max_bytes:
                saving += (count.bytes - after.bytes) / (count.bytes - limit.max_bytes)
            expected = float(importance[channels].sum()) / saving if len(importance) % 8 == 0 else -1.0
            assert cost == pytest.approx(expected, rel=1e-4)


def test_importance_is_the_change_of_the_loss_to_first_order_summed_over_who_writes_and_reads_a_channel() -> None:
    network, _ = trained(KINDS["tiny"], 0, SHAPE)
    pruning._measure(network, EXAMPLES)
    names = {module: name for name, module in network.named_modules()}
    found = {names[group[0].dep.target.module]: pruning._importance(group) for group in groups_of(network)}
    products = {
        name.removesuffix(".weight"): (each * torch.autograd.grad(loss_of(network), each)[0]).abs().sum((2, 3))
        for name, each in network.named_parameters()
        if each.ndim == 4
    }
    first = [products[f"stages.s1.{name}"] for name in ("b1.block.0.0", "b1.block.2.0", "b2.block.0.0", "b2.block.2.0")]
    torch.testing.assert_close(found["stages.s1.b1.block.1.0"], first[0].sum(1) + first[1].sum(0))
    residual = products["in_c.1.0"].sum(1) + first[0].sum(0) + first[1].sum(1) + first[2].sum(0) + first[3].sum(1)
    torch.testing.assert_close(found["in_c.1.0"], residual + products["stages.s2.b3.block.0.0"].sum(0))


@pytest.mark.parametrize("kind", KINDS)
def test_the_pruned_network_answers_as_one_whose_removed_channels_are_silent(kind: str) -> None:
    recipe = recipe_of(KINDS[kind])
    network, log_mel = trained(KINDS[kind], 0, SHAPE)
    before = count_network(network, recipe)
    recipe = goal_of(recipe, before.macs // 2, before.parameters // 2)
    smaller = shrink(network, recipe, recipe.budget, EXAMPLES)
    silenced = 0
    for name, norm in norms(network).items():
        removed = sorted({*range(norm.num_features)} - {*kept(norm, norms(smaller)[name])})
        with torch.no_grad():
            norm.weight[removed], norm.bias[removed] = 0.0, 0.0
        silenced += len(removed)
    assert silenced >= 8
    torch.testing.assert_close(answers(smaller, log_mel), answers(network, log_mel), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("kind", "together"), [("tiny", "s1"), ("shortcuts between stages", "")])
def test_what_shortcuts_add_up_loses_the_same_channels(kind: str, together: str) -> None:
    recipe = recipe_of(KINDS[kind])
    network, _ = trained(KINDS[kind], 0, SHAPE)
    before = count_network(network, recipe)
    recipe = goal_of(recipe, round(before.macs * 0.35), before.parameters)
    smaller = norms(shrink(network, recipe, recipe.budget, EXAMPLES))
    added = [name for name in smaller if name.startswith(f"stages.{together}") and name.endswith(".block.2.1")]
    left = [kept(norms(network)[name], smaller[name]) for name in ("in_c.1.1", *added)]
    assert len(left) >= 3
    assert all(each == left[0] for each in left)
    assert len(left[0]) < plan_channels(KINDS[kind]).stages[0]


def lively(model: CPMobileModel, log_mel: Tensor, seed: int = 0) -> CPMobile:
    """A network that was not trained each of whose channels does something."""
    torch.manual_seed(seed)
    network = CPMobile(model, 10)
    for norm in norms(network).values():
        nn.init.uniform_(norm.weight, 0.5, 1.5)
        nn.init.uniform_(norm.bias, 0.1, 0.5)
        norm.momentum = None  # the statistics are those of this log-mel
    network(log_mel)
    return network.eval()


def with_dead_channels(small: CPMobile, channels: Channels) -> CPMobile:
    """A network that is `small` among channels whose weights are all zero, in random places."""
    big = CPMobile(small.settings.model_copy(update={"channels": channels}), small.classes)
    assert small.settings.channels
    pairs = zip(every_count(small.settings.channels), every_count(channels), strict=True)
    rng = np.random.default_rng(0)
    stem, *rest = (torch.from_numpy(np.sort(rng.permutation(many)[:few])) for few, many in pairs)
    stages, expanded = rest[: len(channels.stages)], rest[len(channels.stages) :]
    layers = [("in_c.0", torch.arange(1), stem), ("in_c.1", stem, stages[0])]
    names = [name.removesuffix(".block") for name, _ in small.named_modules() if name.endswith(".block")]
    inputs = stages[0]
    for name, wide in zip(names, expanded, strict=True):
        outputs = stages[int(name.split(".")[1][1:]) - 1]
        layers += [
            (f"{name}.block.0", inputs, wide),
            (f"{name}.block.1", torch.arange(1), wide),
            (f"{name}.block.2", wide, outputs),
        ]
        inputs = outputs
    state, filled = small.state_dict(), big.state_dict()
    for name, columns, rows in layers:
        filled[f"{name}.0.weight"].zero_()[rows[:, None], columns] = state[f"{name}.0.weight"]
        for key in ("weight", "bias", "running_mean", "running_var"):
            filled[f"{name}.1.{key}"].zero_()[rows] = state[f"{name}.1.{key}"]
    filled["feed_forward.0.weight"].zero_()[:, inputs] = state["feed_forward.0.weight"]
    for key in ("weight", "bias", "running_mean", "running_var"):
        filled[f"feed_forward.1.{key}"].copy_(state[f"feed_forward.1.{key}"])
    return big.eval()


def test_channels_that_do_nothing_go_first_and_leave_the_answers_as_they_were() -> None:
    few = Channels(stem=8, stages=(16, 24), expanded=(24, 16, 32))
    many = Channels(stem=16, stages=(24, 40), expanded=(32, 32, 56))
    model = CPMobileModel(base_channels=32, n_blocks=(2, 1), strides={"b2": (1, 2)}, channels=few)
    small, log_mel = lively(model, EXAMPLES[0]), torch.randn(3, 1, *SHAPE)
    big = with_dead_channels(small, many)
    torch.testing.assert_close(answers(big, log_mel), answers(small, log_mel))
    count = count_network(small, recipe_of(model))
    recipe = goal_of(recipe_of(model), count.macs, count.parameters)
    smaller = shrink(big, recipe, recipe.budget, EXAMPLES)
    assert channels_of(smaller) == few
    torch.testing.assert_close(answers(smaller, log_mel), answers(small, log_mel))
    for name, tensor in small.state_dict().items():
        assert torch.equal(smaller.state_dict()[name], tensor) or name.endswith("num_batches_tracked"), name


def test_the_limits_of_the_steps_are_even_and_end_at_the_goal() -> None:
    first = Count("any", 64_000, 16_000_000, 128_000, "float16", ())
    goal = Recipe(name="any").budget.model_copy(update={"max_macs": 1_000_000, "max_bytes": 200_000})
    limits = [pruning._limits(first, goal, step / 4) for step in (1, 2, 3, 4)]
    assert [each.max_macs for each in limits] == [8_000_000, 4_000_000, 2_000_000, 1_000_000]
    assert [each.max_bytes for each in limits] == [200_000] * 4

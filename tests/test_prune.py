"""Pruning a run: what is removed, what is left of the answers, and that a broken pruning ends like an unbroken one."""

import copy
import itertools
import json
import shutil
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch_pruning
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

import train.loop
import train.prune
from deploy.errors import InputError
from deploy.files import sha256
from deploy.frontend import FrontEnd
from tests.test_cp_mobile import trained
from tests.test_quantize import FEATURES, STILL
from train.budget import Count, count_network
from train.cache import Clips
from train.data import Dataset
from train.distill import Wanted
from train.evaluate import evaluate, predictor
from train.export import export_onnx
from train.loop import InterruptedRunError
from train.models import features_of
from train.models.cp_mobile import CPMobile, plan_channels
from train.prune import prune, shrink
from train.quantize import quantize
from train.recipe import Channels, CPMobileModel, Recipe, load_recipe
from train.run import import_weights, load_model

SPLIT = "5"
SHORT = ["prune.steps=2", "prune.epochs=1", "prune.final_epochs=2"]
TINY = ["model.base_channels=16", "model.n_blocks=[2,1]", "model.strides={b2: [2, 2]}", *FEATURES, *STILL]
GOAL = 140_000, 7_000  # MACs and bytes; the tiny network has 242,044 and 11,904
KINDS = {  # of networks, by what is particular about their groups
    "tiny": CPMobileModel(base_channels=16, n_blocks=(2, 1), strides={"b2": (2, 2)}),
    "wide stem": CPMobileModel(base_channels=64, n_blocks=(1, 1), strides={}),
    "shortcuts between stages": CPMobileModel(base_channels=24, channels_multiplier=1.0, n_blocks=(1, 2), strides={}),
    "odd stem": CPMobileModel(base_channels=48, n_blocks=(1,), strides={}),
}
SHAPE = 32, 17
EXAMPLES = torch.randn(10, 1, *SHAPE, generator=torch.Generator().manual_seed(0)), torch.arange(10)
Pruned = Callable[..., Path]


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


# What is removed


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("macs", "parameters"), [(0.6, 1.0), (1.0, 0.6), (0.5, 0.5)])
def test_both_limits_hold_with_channels_in_eights(kind: str, macs: float, parameters: float) -> None:
    recipe = recipe_of(KINDS[kind])
    network, _ = trained(KINDS[kind], 0, SHAPE)
    before = count_network(network, recipe)
    recipe = goal_of(recipe, round(macs * before.macs), round(parameters * before.parameters))
    smaller = shrink(network, recipe, recipe.budget, EXAMPLES)
    assert count_network(smaller, recipe).faults(recipe.budget) == []
    channels = smaller.settings.channels
    assert channels is not None
    assert all(count % 8 == 0 for count in every_count(channels)[1:])
    assert channels.stem == plan_channels(KINDS[kind]).stem < 8 or channels.stem % 8 == 0


def test_eight_channels_everywhere_can_be_reached() -> None:
    network, _ = trained(KINDS["tiny"], 0, SHAPE)
    eights = Channels(stem=4, stages=(8, 8), expanded=(8, 8, 8))
    least = CPMobile(network.settings.model_copy(update={"channels": eights}), network.classes)
    count = count_network(least, recipe_of(KINDS["tiny"]))
    recipe = goal_of(recipe_of(KINDS["tiny"]), count.macs, count.parameters)
    assert shrink(network, recipe, recipe.budget, EXAMPLES).settings.channels == eights


@pytest.mark.parametrize("kind", KINDS)
def test_no_more_is_removed_than_the_last_eight_channels_need(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = recipe_of(KINDS[kind])
    network, _ = trained(KINDS[kind], 0, SHAPE)
    before = count_network(network, recipe)
    recipe = goal_of(recipe, before.macs // 2, before.parameters // 2)
    counts: list[Count] = []
    monkeypatch.setattr(train.prune, "count_network", lambda *given: counts.append(count_network(*given)) or counts[-1])
    shrink(network, recipe, recipe.budget, EXAMPLES)
    assert [bool(count.faults(recipe.budget)) for count in counts] == [True] * (len(counts) - 1) + [False]
    assert all(one.macs > other.macs for one, other in itertools.pairwise(counts))


@pytest.mark.parametrize("kind", KINDS)
def test_a_cost_is_the_importance_that_goes_for_the_share_of_the_excess_that_goes(kind: str) -> None:
    recipe = recipe_of(KINDS[kind])
    network, _ = trained(KINDS[kind], 0, SHAPE)
    train.prune._measure(network, EXAMPLES)
    names: dict[nn.Module, str] = {module: name for name, module in network.named_modules()}
    count = count_network(network, recipe)
    limits = [goal_of(recipe, *each).budget for each in ((1, 1), (count.macs - 9, 1), (1, count.parameters))]
    for (index, group), limit in itertools.product(enumerate(groups_of(network)), limits):
        if option := train.prune._option(group, names, count, limit):
            channels, cost = option
            importance = train.prune._importance(group)
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
    train.prune._measure(network, EXAMPLES)
    names = {module: name for name, module in network.named_modules()}
    found = {names[group[0].dep.target.module]: train.prune._importance(group) for group in groups_of(network)}
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
    assert smaller.settings.channels == few
    torch.testing.assert_close(answers(smaller, log_mel), answers(small, log_mel))
    for name, tensor in small.state_dict().items():
        assert torch.equal(smaller.state_dict()[name], tensor) or name.endswith("num_batches_tracked"), name


def test_the_limits_of_the_steps_are_even_and_end_at_the_goal() -> None:
    first = Count("any", 64_000, 16_000_000, 128_000, "float16", ())
    goal = Recipe(name="any").budget.model_copy(update={"max_macs": 1_000_000, "max_bytes": 200_000})
    limits = [train.prune._limits(first, goal, step / 4) for step in (1, 2, 3, 4)]
    assert [each.max_macs for each in limits] == [8_000_000, 4_000_000, 2_000_000, 1_000_000]
    assert [each.max_bytes for each in limits] == [200_000] * 4


# A run


@pytest.fixture(scope="module")
def make_run(sample_dataset: Dataset, sample_clips: Clips, tmp_path_factory: pytest.TempPathFactory):
    """Make a run of a network that was not trained."""

    def make(seed: int) -> Path:
        folder, recipe = tmp_path_factory.mktemp("tiny"), load_recipe("nano", TINY)
        assert isinstance(recipe.model, CPMobileModel)
        log_mel, _ = train.prune._examples(recipe, sample_clips, sample_dataset.split(SPLIT)[0])
        save_file(lively(recipe.model, log_mel, seed).state_dict(), folder / "weights.safetensors")
        return import_weights(folder / "weights.safetensors", recipe, folder / "run")

    return make


@pytest.fixture(scope="module")
def tiny(make_run: Callable[[int], Path]) -> Path:
    return make_run(0)


@pytest.fixture(scope="module")
def pruned(tiny: Path, sample_dataset: Dataset, sample_clips: Clips) -> Pruned:
    """Prune the tiny run into a folder."""

    def make(out: Path, *overrides: str, run: Path = tiny, clips: Clips = sample_clips, **more: Any) -> Path:
        given: dict[str, Any] = {"to_macs": GOAL[0], "to_bytes": GOAL[1], "split": SPLIT} | more
        return prune(run, sample_dataset, clips, out, overrides=[*SHORT, *overrides], **given)

    return make


@pytest.fixture(scope="module")
def unbroken(pruned: Pruned, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return pruned(tmp_path_factory.mktemp("unbroken") / "run")


def learnt(run: Path) -> tuple[dict[str, Tensor], list[dict[str, Any]]]:
    """Weights and metrics, without what depends on the clock."""
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    metrics = [{key: line[key] for key in line if key not in ("seconds", "clips_per_second")} for line in lines]
    return load_file(run / "model.safetensors"), metrics


def same(one: Path, other: Path) -> bool:
    (first, metrics), (second, others) = learnt(one), learnt(other)
    equal = first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)
    return equal and metrics == others


def test_the_result_is_a_run_that_keeps_its_budget(
    unbroken: Path, tiny: Path, sample_dataset: Dataset, sample_clips: Clips
) -> None:
    network, card = load_model(unbroken)
    recipe = card.parsed_recipe
    assert [path.name for path in unbroken.parent.iterdir()] == ["run"]
    assert (recipe.budget.max_macs, recipe.budget.max_bytes) == GOAL
    assert count_network(network, recipe).faults(recipe.budget) == []
    assert card.source == f"{tiny} sha256:{sha256(tiny / 'model.safetensors')}"
    assert (card.split, card.data_hash, recipe.seed) == (SPLIT, sample_clips.data_hash, 0)
    assert [line["epoch"] for line in learnt(unbroken)[1]] == [1, 2]
    predict = predictor(network, features_of(recipe), torch.device("cpu"))
    assert evaluate(predict, sample_clips, sample_dataset.split(SPLIT)[1][:40])["clips"] == 40


def test_the_command_prunes(tiny: Path, sample: Path, tmp_path: Path, run_cli: Callable[..., Any]) -> None:
    settings = [word for each in SHORT for word in ("--set", each)]
    goal = ["--to-macs", "14e4", "--to-bytes", "7e3", "--split", SPLIT]
    code, shown, _ = run_cli("prune", tiny, "--data", sample, *goal, *settings, "--out", tmp_path / "run", "--json")
    assert code == 0
    network, card = load_model(tmp_path / "run")
    assert json.loads(shown)["macs"] == count_network(network, card.parsed_recipe).macs <= 140_000


def test_the_result_is_exported(unbroken: Path, tmp_path: Path) -> None:
    assert export_onnx(unbroken, tmp_path / "model.onnx").stat().st_size > GOAL[1]


@pytest.mark.parametrize("qat", [False, True])
def test_the_result_is_quantized(
    qat: bool, unbroken: Path, sample_dataset: Dataset, sample_clips: Clips, tmp_path: Path
) -> None:
    settings = ["quantize.clips=16", "quantize.epochs=1"]
    bundle = quantize(unbroken, sample_dataset, sample_clips, tmp_path / "bundle", qat, overrides=settings)
    assert bundle.content["budget"]["macs"] <= GOAL[0]


def test_a_pruned_run_is_pruned_again(unbroken: Path, pruned: Pruned, tmp_path: Path) -> None:
    network, card = load_model(pruned(tmp_path / "again", run=unbroken, to_macs=100_000, to_bytes=None))
    assert count_network(network, card.parsed_recipe).macs <= 100_000
    assert card.parsed_recipe.budget.max_bytes == GOAL[1]


def test_each_step_starts_from_the_weights_of_the_last_and_listens_to_the_unpruned_network(
    pruned: Pruned, tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    starts, ends, losses, recipes, fit = [], [], [], [], train.prune.fit

    def watched(network: CPMobile, recipe: Recipe, *more: Any) -> Any:
        starts.append({*norms(network)["in_c.1.1"].weight.tolist()})
        result = fit(network, recipe, *more)
        ends.append({*norms(network)["in_c.1.1"].weight.tolist()})
        losses.append(more[5])
        recipes.append(recipe)
        return result

    monkeypatch.setattr(train.prune, "fit", watched)
    unpruned, _ = load_model(tiny)
    pruned(tmp_path / "run", "prune.distill=0.75", "prune.lr=0.01")
    assert starts[0] <= {*norms(unpruned)["in_c.1.1"].weight.tolist()}
    assert starts[1] <= ends[0] != starts[0]
    assert [recipe.seed for recipe in recipes] == [1, 0]
    assert [recipe.train.epochs for recipe in recipes] == [1, 2]
    log_mel, labels = torch.randn(4, 1, 32, 33), torch.eye(10)[:4]
    own = answers(unpruned, log_mel)  # which do not diverge from the unpruned network's
    expected = 0.25 * nn.functional.cross_entropy(own, labels, reduction="sum")
    for loss in losses:
        torch.testing.assert_close(loss(own, Wanted(log_mel, labels)), expected)


def test_fine_tuning_comes_nearer_to_the_unpruned_network(pruned: Pruned, tmp_path: Path) -> None:
    run = pruned(tmp_path / "run", "prune.steps=1", "prune.final_epochs=4", "prune.lr=5e-3")
    losses = [line["loss"] for line in learnt(run)[1]]
    assert losses[-1] < 0.8 * losses[0]


# Broken off


class KilledError(Exception):
    pass


def broken(pruned: Pruned, out: Path, saves: int, how: str) -> None:
    """Prune until so many checkpoints were written, when it is killed or gets SIGINT."""
    save, done = train.loop.save_checkpoint, []

    def stop(*arguments: Any) -> None:
        save(*arguments)
        done.append(arguments)
        if len(done) == saves and how == "SIGINT":
            signal.raise_signal(signal.SIGINT)
        elif len(done) == saves:
            raise KilledError

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(train.loop, "save_checkpoint", stop)
        with pytest.raises(KilledError if how == "killed" else InterruptedRunError):
            pruned(out)


@pytest.mark.parametrize(("saves", "how"), [(1, "killed"), (2, "SIGINT"), (3, "killed")])
def test_what_was_broken_off_is_resumed_to_the_same_end(
    saves: int, how: str, pruned: Pruned, unbroken: Path, tmp_path: Path
) -> None:
    broken(pruned, tmp_path / "run", saves, how)
    assert [path.name for path in tmp_path.iterdir()] == ["run.pruning"]
    pruned(tmp_path / "run", resume=True)
    assert [path.name for path in tmp_path.iterdir()] == ["run"]
    assert same(tmp_path / "run", unbroken)


@pytest.fixture(scope="module")
def left_over(pruned: Pruned, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of a pruning that was killed in its last step. To be copied."""
    out = tmp_path_factory.mktemp("left") / "run"
    broken(pruned, out, 2, "killed")
    return out.with_name("run.pruning")


@pytest.fixture
def out(left_over: Path, tmp_path: Path) -> Path:
    """A place for a run, where that pruning was left over."""
    shutil.copytree(left_over, tmp_path / "run.pruning")
    return tmp_path / "run"


def test_what_was_removed_is_not_chosen_anew(
    out: Path, pruned: Pruned, unbroken: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(train.prune, "shrink")
    assert same(pruned(out, resume=True), unbroken)


def test_the_same_run_is_pruned_to_the_same_weights(pruned: Pruned, unbroken: Path, tmp_path: Path) -> None:
    assert same(pruned(tmp_path / "again"), unbroken)


def test_left_over_pruning_is_not_lost_without_a_word(out: Path, pruned: Pruned) -> None:
    with pytest.raises(InputError, match=r"run\.pruning: holds an interrupted pruning; go on with --resume"):
        pruned(out)


@pytest.mark.parametrize("other", [{"to_macs": 150_000}, {"split": "10"}, {"run": 1}, {"overrides": "prune.lr=2e-3"}])
def test_another_pruning_is_not_resumed(
    other: dict[str, Any], out: Path, pruned: Pruned, make_run: Callable[[int], Path]
) -> None:
    given = {"run": make_run(1)} if "run" in other else other
    overrides = [other["overrides"]] if "overrides" in other else []
    with pytest.raises(InputError, match="is of another pruning; resume with the same settings") as refused:
        pruned(out, *overrides, resume=True, **{key: value for key, value in given.items() if key != "overrides"})
    assert "\n" not in str(refused.value)
    assert [path.name for path in out.parent.iterdir()] == ["run.pruning"]


# Refusals


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ({"to_macs": None, "to_bytes": None}, "name --to-macs, --to-bytes or both"),
        ({"to_macs": 250_000, "to_bytes": None}, "already holds that with 242,044 MACs and 11,904 bytes"),
        ({"to_macs": 242_044, "to_bytes": 11_904}, "already holds"),
        ({"to_macs": 1_000}, "cannot be pruned to 1,000 MACs and 7,000 bytes; 8 channels everywhere"),
        ({"to_bytes": 100}, "the fewest possible, leave"),
        ({"to_macs": 0}, "cannot be pruned to 0 MACs"),
        ({"overrides": ["train.epochs=1"]}, "--set train.epochs=1: the run is trained"),
        ({"overrides": ["prune.step=1"]}, "did you mean 'prune.steps'"),
        ({"overrides": ["prune.steps=0"]}, "prune.steps"),
        ({"split": "7"}, "'7'"),
        ({"resume": True}, "holds no pruning to resume"),
        ({"out": "taken"}, "taken: already exists"),
        ({"out": "."}, "name a new folder"),
        ({"run": "missing"}, "no such run"),
        ({"labels": ("one", "two")}, "knows the labels"),
        ({"network": nn.Linear(1, 1)}, "is not a CP-Mobile network"),
    ],
)
def test_what_cannot_be_pruned_is_refused_in_one_line(
    arguments: dict[str, Any],
    named: str,
    tiny: Path,
    sample_dataset: Dataset,
    sample_clips: Clips,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "file").touch()
    monkeypatch.chdir(tmp_path)
    clips = replace(sample_clips, labels=arguments.pop("labels", sample_clips.labels))
    if network := arguments.pop("network", None):
        monkeypatch.setattr(train.prune, "load_model", lambda run: (network, load_model(run)[1]))
    given = {"to_macs": GOAL[0], "to_bytes": GOAL[1], "split": SPLIT} | arguments
    run, out = Path(given.pop("run", tiny)), Path(given.pop("out", "new"))
    before = {*tmp_path.rglob("*")}
    with pytest.raises(InputError) as refused:
        prune(run, sample_dataset, clips, out, **given)
    assert named in str(refused.value)
    assert "\n" not in str(refused.value)
    assert {*tmp_path.rglob("*")} == before


def test_fine_tuning_that_diverges_says_so(pruned: Pruned, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"fine-tuning diverged; remove .* and try a lower --set prune\.lr"):
        pruned(tmp_path / "run", "prune.lr=1e20")
    assert not (tmp_path / "run").exists()

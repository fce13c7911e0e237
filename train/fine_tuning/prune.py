"""Structured pruning of a trained CP-Mobile run: fewer channels, until a budget of MACs and bytes holds.

    tinyscene prune RUN --data DATA --to-macs 11e6 --to-bytes 64000 --out RUN2 [--resume] [--set prune.KEY=VALUE]

Progressively, as DCASE 2024's winner did (B. Han et al., "Data-Efficient Low-Complexity Acoustic Scene
Classification via Distilling and Progressive Pruning", 2024): in small steps, each with a short fine-tuning by the
loop and recipe that the run was trained with. The goals of the steps are even in the logarithm of MACs and bytes.
`prune.distill` says how much the fine-tuning listens to the unpruned network.

A step removes, eight at a time, the channels that matter least for what they save of the budget. A group of layers
that must lose the same channels, such as all that a stage's shortcuts add up, is found by torch-pruning (G. Fang et
al., "DepGraph: Towards Any Structural Pruning", CVPR 2023). How much its channels matter is how much the loss on
training clips would change, to first order (P. Molchanov et al., "Importance Estimation for Neural Network Pruning",
CVPR 2019), measured anew before each removal.

The budget is counted by `train/runs/budget.py`, and kept as the limits of the new run's recipe. Each step is a run of
its own in `OUT.pruning/`, so that what was interrupted can be resumed; they are removed when OUT is whole. Whoever is
killed in between removes them with --resume.
"""

import copy
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
import torch_pruning
from torch import Tensor, nn

from tinyscene.deploy.common.errors import InputError
from tinyscene.deploy.common.files import remove_folder, require_free, sha256
from tinyscene.train.data.cache import Clips
from tinyscene.train.data.datasets import Dataset
from tinyscene.train.data.features import waveform
from tinyscene.train.data.training_data import TrainingData
from tinyscene.train.families import registered_family
from tinyscene.train.loop.fine_tune import lower_rate_advised, with_overrides
from tinyscene.train.loop.loop import InitialNetwork, fit, make_card
from tinyscene.train.models import build, features_of
from tinyscene.train.models.cp_mobile import CPMobile
from tinyscene.train.network_settings import Channels, CPMobileModel, Model, RegisteredModel
from tinyscene.train.quantize.trace import trace
from tinyscene.train.recipe import Recipe
from tinyscene.train.runs.budget import count_network
from tinyscene.train.runs.count import Count
from tinyscene.train.runs.run import MODEL, Card, RunFolder, load_model, model_path, save_tensors
from tinyscene.train.teachers.distill import from_network, loss_of
from tinyscene.train.training_settings import Budget, Consistency, Distill

PRUNED = (nn.Conv2d, nn.Linear)
MULTIPLE = 8  # of channels: what is removed at a time, and the least that is left
EXAMPLES = 128  # clips to measure importance on
BATCH = 32  # of them

Examples = tuple[Tensor, Tensor]  # log-mel (clip, 1, mel, frame), label (clip,)

# those who write a channel share its effect, as do those who read it, so that sums compare groups of any size
_importance: Any = torch_pruning.importance.GroupTaylorImportance(group_reduction="sum", normalizer=None)  # type: ignore[arg-type]


def prune(
    run: Path,
    dataset: Dataset,
    clips: Clips,
    out: Path,
    to_macs: int | None,
    to_bytes: int | None,
    split: str | None = None,
    overrides: list[str] | None = None,
    resume: bool = False,
) -> Path:
    """Prune a run to a budget with the training clips of a split of a dataset, and return the new run's folder.

    A goal that is not given is the limit in the run's recipe.

    Raises:
        InputError: the run, the goals, the overrides or the dataset cannot be used, or `out` is taken.
        InterruptedRunError: Ctrl-C while fine-tuning; it can be resumed.
    """
    if not out.name:
        raise InputError(f"{out}: name a new folder for the run")
    unpruned, card = load_model(run)
    _require_prunable(card.parsed_recipe.model, run)
    recipe = with_overrides(card, overrides or [], "prune", run)
    work = out.with_name(f"{out.name}.pruning")
    last = work / f"step{recipe.prune.steps}"
    is_moved = resume and _is_moved(last, out)
    if not is_moved:
        require_free(out)
    recipe = recipe.model_copy(update={"budget": _goal(unpruned, recipe, to_macs, to_bytes, run)})
    clips.require_labels(card.labels, run)
    data = TrainingData(dataset, clips, split or card.split or dataset.default_split)
    step_card = make_card({}, data, f"{run} sha256:{sha256(model_path(run))}")  # the recipe is each step's own
    if is_moved:
        _load_start(last.with_suffix(".safetensors"), recipe, recipe.prune.steps, step_card)
        remove_folder(work)
        return out
    if resume and not work.exists():
        raise InputError(f"{work}: holds no pruning to resume; prune without --resume")
    if work.exists() and not resume:
        raise InputError(f"{work}: holds an interrupted pruning; go on with --resume, or choose another --out")
    examples = _examples(recipe, data)
    network, steps, first = unpruned, recipe.prune.steps, count_network(unpruned, recipe)
    for step in range(1, steps + 1):
        start = work / f"step{step}.safetensors"
        if not start.exists():
            smaller = shrink(network, recipe, _limits(first, recipe.budget, step / steps), examples)
            if (
                _model(smaller, recipe) == _model(network, recipe) and step < steps
            ):  # the step before went further than it had to
                continue
            start_card = step_card.model_copy(update={"recipe": _step_recipe(recipe, step, smaller).as_dict()})
            save_tensors(start, smaller.state_dict(), start_card)
        network = _fine_tune(start, unpruned, recipe, step, data, step_card)
    last.rename(out)
    remove_folder(work)
    return out


def _is_moved(last: Path, out: Path) -> bool:
    """Whether `out` is what the last step of a pruning became, and only the removal of the steps was interrupted."""
    start = last.with_suffix(".safetensors")
    if last.exists() or not start.exists() or not (out / MODEL).exists():
        return False
    card, start_card = load_model(out)[1], load_model(start)[1]
    return (card.recipe, card.source) == (start_card.recipe, start_card.source)


def _require_prunable(model: Model, run: Path) -> None:
    """Raise InputError for a network family whose settings cannot say what channels are left."""
    if isinstance(model, CPMobileModel):
        return
    if not isinstance(model, RegisteredModel):
        raise InputError(f"{run}: {model.family} networks are not pruned; CP-Mobile's are, and those that you register")
    if registered_family(model.family).narrowed is None:
        raise InputError(
            f"{run}: its family {model.family!r} has no function `narrowed`, without which it is not pruned"
        )


def _model(network: nn.Module, recipe: Recipe) -> Model:
    """The settings that build a network with as many channels as this one has."""
    if isinstance(network, CPMobile):
        return network.settings.model_copy(update={"channels": _channels(network)})
    narrowed = registered_family(recipe.model.family).narrowed
    assert narrowed is not None
    return narrowed(recipe.model, network)


def _goal(network: nn.Module, recipe: Recipe, to_macs: int | None, to_bytes: int | None, run: Path) -> Budget:
    """The limits to prune to. Raises InputError where they already hold, or cannot be reached."""
    named = {key: value for key, value in (("max_macs", to_macs), ("max_bytes", to_bytes)) if value is not None}
    if not named:
        raise InputError("nothing to prune to: name --to-macs, --to-bytes or both")
    goal = recipe.budget.model_copy(update=named)
    count = count_network(network, recipe)
    if not count.faults(goal):
        raise InputError(f"{run}: already holds that with {count.macs:,} MACs and {count.bytes:,} bytes")
    count = count_network(_narrowest(network, recipe), recipe)
    if count.faults(goal):
        raise InputError(
            f"{run}: cannot be pruned to {goal.max_macs:,} MACs and {goal.max_bytes:,} bytes; {MULTIPLE} channels "
            f"everywhere, the fewest possible, leave {count.macs:,} and {count.bytes:,}"
        )
    return goal


def _limits(first: Count, goal: Budget, progress: float) -> Budget:
    """What must hold after this share of the steps, from the count before the first."""
    limits = {
        "max_macs": max(goal.max_macs, round(first.macs ** (1 - progress) * goal.max_macs**progress)),
        "max_bytes": max(goal.max_bytes, round(first.bytes ** (1 - progress) * goal.max_bytes**progress)),
    }
    return goal.model_copy(update=limits)


def _examples(recipe: Recipe, data: TrainingData) -> Examples:
    """Training clips as they are, without augmentation."""
    indices = np.random.default_rng(recipe.seed).permutation(data.training_clips())[:EXAMPLES]
    log_mel = features_of(recipe)(waveform(torch.from_numpy(data.clips.pcm[indices])))
    return log_mel, torch.from_numpy(data.clips.label[indices])


def shrink(network: nn.Module, recipe: Recipe, limits: Budget, examples: Examples) -> nn.Module:
    """A copy of a network without the channels that matter least, within limits that it can reach."""
    smaller = copy.deepcopy(network)
    groups_of = _grouping(smaller, examples[0][:1])
    names: dict[nn.Module, str] = {module: name for name, module in smaller.named_modules()}
    count = count_network(smaller, recipe)
    while count.faults(limits):
        _measure(smaller, examples)
        options = [(group, *option) for group in groups_of() if (option := _option(group, names, count, limits))]
        group, channels, _ = min(options, key=lambda option: option[2])
        group.prune(channels)
        count = count_network(smaller, recipe)
    with torch.inference_mode():
        classes = smaller(examples[0][:1]).shape[-1]
    pruned = build(_model(smaller, recipe), classes)
    pruned.load_state_dict(smaller.state_dict())
    return pruned.eval()


def _narrowest(network: nn.Module, recipe: Recipe) -> nn.Module:
    """A copy of a network with as few channels as pruning can leave."""
    narrow = copy.deepcopy(network)
    groups_of = _grouping(narrow, torch.zeros(1, 1, *recipe.features.shape))
    while wide := [(group, spare) for group in groups_of() if (spare := _spare(len(group[0].idxs)))]:
        group, spare = wide[0]
        group.prune(list(range(spare)))
    return narrow


def _grouping(network: nn.Module, log_mel: Tensor) -> Callable[[], Iterator[torch_pruning.Group]]:
    """A function that gives the groups of layers that lose channels together, as the network is by then.

    The last layer, whose outputs are the classes, loses none.
    """
    traced = trace(network.eval(), (log_mel.shape[2], log_mel.shape[3]))
    layers = [network.get_submodule(str(node.target)) for node in traced.graph.nodes if node.op == "call_module"]
    last = [layer for layer in layers if isinstance(layer, PRUNED)][-1]
    graph = torch_pruning.DependencyGraph().build_dependency(network, log_mel)
    return lambda: graph.get_all_groups(ignored_layers=[last], root_module_types=list(PRUNED))


def _measure(network: nn.Module, examples: Examples) -> None:
    """Leave the gradients of the examples' loss in the network."""
    network.zero_grad()
    for log_mel, label in zip(*(tensor.split(BATCH) for tensor in examples), strict=True):
        F.cross_entropy(network(log_mel), label, reduction="sum").backward()


def _option(
    group: torch_pruning.Group, names: dict[nn.Module, str], count: Count, limits: Budget
) -> tuple[list[int], float] | None:
    """The channels that a group is to lose next, and their cost; none if it can spare none.

    The cost is their importance for what they save: shares of what is too much of MACs and of bytes, added up.
    What goes beyond the limits saves nothing.
    """
    importance: Tensor = _importance(group)  # (channels,)
    channels = len(importance)
    if not (spare := _spare(channels)):
        return None
    least = importance.argsort(stable=True)[:spare]
    touched = {names.get(dependency.target.module) for dependency, _ in group}
    layers = [layer for layer in count.layers if layer.name in touched]
    # each of these layers has MACs and parameters in proportion to the group's channels
    macs = sum(layer.macs for layer in layers) * spare / channels
    size = sum(layer.parameters for layer in layers) * spare / channels * count.bytes / count.parameters
    pairs = ((macs, count.macs - limits.max_macs), (size, count.bytes - limits.max_bytes))
    saving = sum(min(1.0, saved / excess) for saved, excess in pairs if excess > 0)
    cost = float(importance[least].sum()) / saving if channels % MULTIPLE == 0 else -1.0  # first to multiples
    return least.tolist(), cost


def _spare(channels: int) -> int:
    """How many of its channels a group can lose next: to a multiple, the least of which stays."""
    spare = channels % MULTIPLE or MULTIPLE
    return spare if channels - spare >= MULTIPLE else 0


def _channels(network: CPMobile) -> Channels:
    """The channel counts of a network as it is, whatever its settings say."""
    outputs = {name: module.out_channels for name, module in network.named_modules() if isinstance(module, nn.Conv2d)}
    stages = {name.split(".")[1]: count for name, count in outputs.items() if name.endswith(".block.2.0")}
    expanded = [count for name, count in outputs.items() if name.endswith(".block.0.0")]
    return Channels(stem=outputs["in_c.0.0"], stages=tuple(stages.values()), expanded=tuple(expanded))


def _step_recipe(recipe: Recipe, step: int, network: nn.Module) -> Recipe:
    """The recipe that a pruned network is fine-tuned by."""
    settings = recipe.prune
    epochs = settings.epochs if step < settings.steps else settings.final_epochs
    changes = {
        "seed": (recipe.seed + settings.steps - step) % 2**32,  # other random numbers than in the other steps
        "model": _model(network, recipe),
        "train": recipe.train.fine_tuning(epochs, settings.lr, settings.batch_size),
        "distill": recipe.distill if settings.distill < 1 else Distill(),
        "consistency": Consistency(),
    }
    return recipe.model_copy(update=changes)


def _load_start(start: Path, recipe: Recipe, step: int, step_card: Card) -> tuple[nn.Module, Recipe]:
    """A pruned network and its step's recipe. Raises InputError where the step is one of another pruning."""
    network, start_card = load_model(start)
    step_recipe = _step_recipe(recipe, step, network)
    if start_card.model_copy(update={"made_by": step_card.made_by}) != step_card.model_copy(
        update={"recipe": step_recipe.as_dict()}
    ):
        raise InputError(
            f"{start.parent}: is of another pruning; resume with the same settings, or choose another --out"
        )
    return network, step_recipe


def _fine_tune(
    start: Path, unpruned: nn.Module, recipe: Recipe, step: int, data: TrainingData, step_card: Card
) -> nn.Module:
    """Train a pruned network in a run folder beside it, or go on where that stands. Returns it on the CPU."""
    network, step_recipe = _load_start(start, recipe, step, step_card)
    folder = start.with_suffix("")
    loss = from_network(unpruned, recipe.prune.distill, loss_of(step_recipe.distill), step_recipe.has_other_clips)
    initial = InitialNetwork(network, step_card.source)
    with lower_rate_advised(folder.parent, "prune"):
        _, card = fit(initial, step_recipe, loss, data, RunFolder.begun_or_new(folder))
    network = network.cpu().eval()
    if not (folder / MODEL).exists():
        save_tensors(folder / MODEL, network.state_dict(), card)
    return network

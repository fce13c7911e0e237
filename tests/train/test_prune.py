"""Pruning a run: a run of the same budget, and that a broken pruning ends like an unbroken one."""

import json
import shutil
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

import tinyscene.train.fine_tuning.prune
import tinyscene.train.loop.loop
from tests.train.test_prune_channels import answers, lively, norms
from tests.train.test_quantize import FEATURES, STILL
from tinyscene.deploy.common.errors import InputError
from tinyscene.deploy.common.files import sha256
from tinyscene.train.data.cache import Clips
from tinyscene.train.data.datasets import Dataset
from tinyscene.train.data.training_data import TrainingData
from tinyscene.train.export import export_onnx
from tinyscene.train.fine_tuning.prune import prune
from tinyscene.train.loop.loop import InitialNetwork, InterruptedRunError
from tinyscene.train.models import features_of
from tinyscene.train.network_settings import CPMobileModel
from tinyscene.train.quantize.quantize import quantize
from tinyscene.train.recipe import Recipe, load_recipe
from tinyscene.train.runs.budget import count_network
from tinyscene.train.runs.evaluate import evaluate, predictor
from tinyscene.train.runs.run import import_weights, load_model
from tinyscene.train.teachers.distill import Loss, Targets

SPLIT = "5"
SHORT = ["prune.steps=2", "prune.epochs=1", "prune.final_epochs=2"]
TINY = ["model.base_channels=16", "model.n_blocks=[2,1]", "model.strides={b2: [2, 2]}", *FEATURES, *STILL]
GOAL = 140_000, 7_000  # MACs and bytes; the tiny network has 242,044 and 11,904
Pruned = Callable[..., Path]


# A run


@pytest.fixture(scope="module")
def make_run(sample_dataset: Dataset, sample_clips: Clips, tmp_path_factory: pytest.TempPathFactory):
    """Make a run of a network that was not trained."""

    def make(seed: int) -> Path:
        folder, recipe = tmp_path_factory.mktemp("tiny"), load_recipe("nano", TINY)
        data = TrainingData(sample_dataset, sample_clips, SPLIT)
        assert isinstance(recipe.model, CPMobileModel)
        log_mel, _ = tinyscene.train.fine_tuning.prune._examples(recipe, data)
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
    assert evaluate(predict, sample_clips, sample_dataset.split(SPLIT)[1][:40]).clips == 40


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
    starts, ends, losses, recipes, fit = [], [], [], [], tinyscene.train.fine_tuning.prune.fit

    def watched(initial: InitialNetwork, recipe: Recipe, loss: Loss, *where: Any) -> Any:
        starts.append({*norms(initial.network)["in_c.1.1"].weight.tolist()})
        result = fit(initial, recipe, loss, *where)
        ends.append({*norms(initial.network)["in_c.1.1"].weight.tolist()})
        losses.append(loss)
        recipes.append(recipe)
        return result

    monkeypatch.setattr(tinyscene.train.fine_tuning.prune, "fit", watched)
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
        torch.testing.assert_close(loss(own, Targets(log_mel, labels)), expected)


def test_fine_tuning_comes_nearer_to_the_unpruned_network(pruned: Pruned, tmp_path: Path) -> None:
    run = pruned(tmp_path / "run", "prune.steps=1", "prune.final_epochs=4", "prune.lr=5e-3")
    losses = [line["loss"] for line in learnt(run)[1]]
    assert losses[-1] < 0.8 * losses[0]


# Broken off


class KilledError(Exception):
    pass


def broken(pruned: Pruned, out: Path, saves: int, how: str) -> None:
    """Prune until so many checkpoints were written, when it is killed or gets SIGINT."""
    save, done = tinyscene.train.loop.loop.save_checkpoint, []

    def stop(*arguments: Any) -> None:
        save(*arguments)
        done.append(arguments)
        if len(done) == saves and how == "SIGINT":
            signal.raise_signal(signal.SIGINT)
        elif len(done) == saves:
            raise KilledError

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tinyscene.train.loop.loop, "save_checkpoint", stop)
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
    monkeypatch.delattr(tinyscene.train.fine_tuning.prune, "shrink")
    assert same(pruned(out, resume=True), unbroken)


def test_the_same_run_is_pruned_to_the_same_weights(pruned: Pruned, unbroken: Path, tmp_path: Path) -> None:
    assert same(pruned(tmp_path / "again"), unbroken)


def test_left_over_pruning_is_not_lost_without_a_word(out: Path, pruned: Pruned) -> None:
    with pytest.raises(InputError, match=r"run\.pruning: holds an interrupted pruning; go on with --resume"):
        pruned(out)


def test_what_was_killed_before_its_steps_were_removed_removes_them_when_resumed(
    out: Path, pruned: Pruned, unbroken: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(tinyscene.train.fine_tuning.prune, "remove_folder", lambda folder: None)
        pruned(out, resume=True)
    assert sorted(path.name for path in out.parent.iterdir()) == ["run", "run.pruning"]
    with pytest.raises(InputError, match="is of another pruning"):
        pruned(out, "prune.lr=2e-3", resume=True)
    assert same(pruned(out, resume=True), unbroken)
    assert [path.name for path in out.parent.iterdir()] == ["run"]


def test_steps_beside_a_run_of_another_pruning_are_not_removed(out: Path, pruned: Pruned, tiny: Path) -> None:
    shutil.copytree(tiny, out)
    (out.with_name("run.pruning") / "step2").rename(out.with_name("elsewhere"))
    with pytest.raises(InputError, match="already exists"):
        pruned(out, resume=True)
    assert out.with_name("run.pruning").exists()


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
    given = {"to_macs": GOAL[0], "to_bytes": GOAL[1], "split": SPLIT} | arguments
    run, out = Path(given.pop("run", tiny)), Path(given.pop("out", "new"))
    before = {*tmp_path.rglob("*")}
    with pytest.raises(InputError) as refused:
        prune(run, sample_dataset, clips, out, **given)
    assert named in str(refused.value)
    assert "\n" not in str(refused.value)
    assert {*tmp_path.rglob("*")} == before


def test_fine_tuning_that_diverges_says_so(pruned: Pruned, tmp_path: Path) -> None:
    advice = r"training diverged in epoch 1: .*step \d+, at .*; remove .* and try a lower --set prune\.lr"
    with pytest.raises(InputError, match=advice):
        pruned(tmp_path / "run", "prune.lr=1e20")
    assert not (tmp_path / "run").exists()

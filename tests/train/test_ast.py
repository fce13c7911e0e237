"""AST: names, shapes and count against the published weights, places and answers against transformers' own model."""

import importlib
import itertools
import sys
from math import prod

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import ASTConfig, ASTForAudioClassification

from tests.learning import losses
from tinyscene.deploy.common.errors import InputError
from tinyscene.train.data.kaldi_features import AstMel
from tinyscene.train.models.ast import Ast
from tinyscene.train.network_settings import AstModel
from tinyscene.train.recipe import load_recipe

SMALL = {"width": 16, "depth": 2, "heads": 2, "rank": 3}
BODY = "audio_spectrogram_transformer"
CLASSES = 527  # of AudioSet
PARTS = {  # of a layer, as published and as transformers names it now; outputs and inputs in units of the width
    "attention.attention.query": ("attention.q_proj", (1, 1)),
    "attention.attention.key": ("attention.k_proj", (1, 1)),
    "attention.attention.value": ("attention.v_proj", (1, 1)),
    "attention.output.dense": ("attention.o_proj", (1, 1)),
    "intermediate.dense": ("mlp.fc1", (4, 1)),
    "output.dense": ("mlp.fc2", (1, 4)),
    "layernorm_before": ("layernorm_before", (1,)),
    "layernorm_after": ("layernorm_after", (1,)),
}


def small(tuning: str = "full", classes: int = 10, seed: int = 0) -> Ast:
    torch.manual_seed(seed)
    return Ast(AstModel.model_validate({"family": "ast", "tuning": tuning} | SMALL), classes)


def transformers_own(width: int, depth: int, heads: int, frames: int, classes: int) -> ASTForAudioClassification:
    config = ASTConfig(
        hidden_size=width,
        num_hidden_layers=depth,
        num_attention_heads=heads,
        intermediate_size=4 * width,
        max_length=frames,
    )
    config.num_labels = classes
    return ASTForAudioClassification(config).eval()


def names_of(depth: int) -> dict[str, str]:
    """Published name -> own, of every tensor."""
    ends = ("weight", "bias")
    embeddings = ("cls_token", "distillation_token", "position_embeddings", "patch_embeddings.projection.weight")
    own = [f"{BODY}.embeddings.{part}" for part in (*embeddings, "patch_embeddings.projection.bias")]
    own += [
        f"{part}.{end}" for part in (f"{BODY}.layernorm", "classifier.layernorm", "classifier.dense") for end in ends
    ]
    return {name: name for name in own} | {
        f"{BODY}.encoder.layer.{layer}.{part}.{end}": f"{BODY}.layers.{layer}.{PARTS[part][0]}.{end}"
        for layer, part, end in itertools.product(range(depth), PARTS, ends)
    }


def shapes_of(width: int, depth: int) -> dict[str, tuple[int, ...]]:
    """Published name -> shape, of every tensor, for ten seconds and AudioSet's classes."""
    shapes = {
        f"{BODY}.embeddings.cls_token": (1, 1, width),
        f"{BODY}.embeddings.distillation_token": (1, 1, width),
        f"{BODY}.embeddings.position_embeddings": (1, 2 + 12 * 101, width),
        f"{BODY}.embeddings.patch_embeddings.projection.weight": (width, 1, 16, 16),
        f"{BODY}.embeddings.patch_embeddings.projection.bias": (width,),
        "classifier.dense.weight": (CLASSES, width),
        "classifier.dense.bias": (CLASSES,),
    }
    for norm, end in itertools.product((f"{BODY}.layernorm", "classifier.layernorm"), ("weight", "bias")):
        shapes[f"{norm}.{end}"] = (width,)
    for layer, (part, (_, factors)) in itertools.product(range(depth), PARTS.items()):
        shape = tuple(factor * width for factor in factors)
        shapes[f"{BODY}.encoder.layer.{layer}.{part}.weight"] = shape
        shapes[f"{BODY}.encoder.layer.{layer}.{part}.bias"] = shape[:1]
    return shapes


def random(shapes: dict[str, tuple[int, ...]]) -> dict[str, Tensor]:
    torch.manual_seed(1)
    return {name: torch.empty(shape).uniform_(-0.05, 0.05) for name, shape in shapes.items()}


def clip(seed: int = 2, batch: int = 3) -> Tensor:
    torch.manual_seed(seed)
    return torch.randn(batch, 1, 128, 98)


def with_additions(network: Ast) -> Ast:
    """As after training: LoRA's second matrices are zeros before it."""
    torch.manual_seed(3)
    for name, parameter in network.named_parameters():
        if ".lora_" in name:
            nn.init.normal_(parameter, std=0.3)
    return network.eval()


@pytest.fixture(scope="module")
def published() -> dict[str, Tensor]:
    """Random tensors of the names and shapes of the published weights."""
    return random(shapes_of(768, 12))


@pytest.fixture(scope="module")
def full(published: dict[str, Tensor]) -> Ast:
    """The full size, with them."""
    network = Ast(AstModel(family="ast"), CLASSES)
    network.load_state_dict(network.published(published))
    return network.eval()


def test_the_full_size_has_the_published_parameters() -> None:
    with torch.device("meta"):
        theirs = transformers_own(768, 12, 12, 1024, CLASSES)
        ours = Ast(AstModel(family="ast"), CLASSES)
    shapes = shapes_of(768, 12)
    assert len(shapes) == 203
    assert sum(map(prod, shapes.values())) == theirs.num_parameters() == 86_594_063  # published as 86.6 M
    assert sum(each.numel() for each in ours.parameters()) == 86_594_063 - 12 * (101 - 9) * 768


def test_the_published_tensors_go_where_they_belong(full: Ast, published: dict[str, Tensor]) -> None:
    own, names = full.state_dict(), names_of(12)
    assert own.keys() == set(names.values())
    wrong = [name for name in names if "position" not in name and not torch.equal(own[names[name]], published[name])]
    assert wrong == []


def test_the_published_places_are_cut_to_the_nine_columns_in_the_middle(
    full: Ast, published: dict[str, Tensor]
) -> None:
    key = f"{BODY}.embeddings.position_embeddings"
    own, theirs = full.state_dict()[key][0], published[key][0]
    assert torch.equal(own[:2], theirs[:2])
    for row, column in itertools.product(range(12), range(9)):
        assert torch.equal(own[2 + row * 9 + column], theirs[2 + row * 101 + 50 - 4 + column])  # 50 is the middle


def test_the_full_size_answers_one_second_of_the_recipes_features(full: Ast) -> None:
    recipe = load_recipe("ast")
    torch.manual_seed(4)
    features = AstMel(recipe.features)(0.1 * torch.randn(2, 16_000))
    with torch.inference_mode():
        answers = full(features)
    assert answers.shape == (2, CLASSES)
    assert answers.isfinite().all()
    assert not torch.allclose(answers[0], answers[1])


def test_a_patch_has_the_place_that_transformers_gives_it_in_ten_seconds() -> None:
    theirs = transformers_own(16, 1, 2, 1024, CLASSES)
    nn.init.normal_(theirs.audio_spectrogram_transformer.embeddings.position_embeddings)
    ours = Ast(AstModel(family="ast", width=16, depth=1, heads=2), CLASSES)
    ours.load_state_dict(ours.published(dict(theirs.state_dict())))
    ten_seconds = torch.randn(1, 1024, 128)
    middle = ten_seconds[:, 460 : 460 + 98]  # from column 46
    with torch.inference_mode():
        expected = theirs.audio_spectrogram_transformer.embeddings(ten_seconds)[:, 2:].unflatten(1, (12, 101))
        found = ours.get_submodule(f"{BODY}.embeddings")(middle)[:, 2:].unflatten(1, (12, 9))
    assert torch.allclose(found, expected[:, :, 46 : 46 + 9], atol=1e-6)


def test_it_answers_as_transformers_own_classifier_of_the_same_weights() -> None:
    theirs = transformers_own(16, 2, 2, 98, 10)
    ours = small().eval()
    theirs.load_state_dict(ours.state_dict())
    with torch.inference_mode():
        expected = theirs(clip().squeeze(1).transpose(1, 2)).logits
        assert torch.allclose(ours(clip()), expected, atol=1e-6)


def test_weights_follow_the_seed() -> None:
    for tuning in ("full", "lora"):
        first, same, other = (small(tuning, seed=seed).state_dict() for seed in (0, 0, 1))
        assert all(torch.equal(first[name], same[name]) for name in first)
        assert not torch.equal(first["classifier.dense.weight"], other["classifier.dense.weight"])


def test_its_two_tokens_start_apart() -> None:
    own = small().state_dict()
    assert not torch.equal(own[f"{BODY}.embeddings.cls_token"], own[f"{BODY}.embeddings.distillation_token"])


def test_lora_trains_its_additions_and_the_classifier_and_nothing_else() -> None:
    network = small("lora")
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    optimizer = torch.optim.AdamW(network.parameters(), lr=0.1, weight_decay=0.1)
    for _ in range(2):  # the first matrices move once the second ones, which start at zero, have
        F.cross_entropy(network(clip()), torch.arange(3)).backward()
        optimizer.step()
    moved = {name for name, tensor in network.state_dict().items() if not torch.equal(tensor, before[name])}
    expected = {
        f"{BODY}.model.layers.{layer}.attention.{matrix}.lora_{side}.default.weight"
        for layer, matrix, side in itertools.product(range(2), ("q_proj", "v_proj"), "AB")
    }
    assert moved == expected | {name for name in before if name.startswith("classifier.")}
    assert moved == {name for name, each in network.named_parameters() if each.requires_grad}
    assert {min(before[name].shape) for name in expected} == {3}  # the rank


def test_loras_additions_are_half_a_percent_of_the_recipes_network() -> None:
    with torch.device("meta"):
        network = Ast(AstModel.model_validate(load_recipe("ast").model.model_dump()), 10)
    trained = sum(each.numel() for each in network.parameters() if each.requires_grad)
    assert trained == 12 * 2 * (2 * 12 * 768) + 2 * 768 + 10 * 768 + 10  # layers, matrices, two sides of rank 12; head
    assert trained / sum(each.numel() for each in network.parameters()) == pytest.approx(0.005, abs=0.0005)


def test_merging_lora_changes_no_answer() -> None:
    network = with_additions(small("lora"))
    with torch.inference_mode():
        expected = network(clip())
        assert torch.allclose(network.finished()(clip()), expected, atol=1e-5)
        assert torch.equal(network(clip()), expected)  # it stays as it is
        assert not torch.allclose(small("lora").eval()(clip()), expected, atol=1e-2)  # what was merged matters


def test_what_is_merged_is_the_product_of_the_additions() -> None:
    network = with_additions(small("lora"))
    own, kept = network.state_dict(), network.finished().state_dict()
    for layer, matrix in itertools.product(range(2), ("q_proj", "v_proj")):
        before = f"{BODY}.model.layers.{layer}.attention.{matrix}"
        left, right = (own[f"{before}.lora_{side}.default.weight"] for side in "BA")  # (outputs, rank), (rank, inputs)
        expected = own[f"{before}.base_layer.weight"] + left @ right
        assert torch.allclose(kept[f"{BODY}.layers.{layer}.attention.{matrix}.weight"], expected, atol=1e-6)


def test_a_merged_network_is_one_of_full_tuning() -> None:
    kept, plain = with_additions(small("lora")).finished(), small("full")
    assert kept.settings == plain.settings
    assert [(name, each.shape) for name, each in kept.state_dict().items()] == [
        (name, each.shape) for name, each in plain.state_dict().items()
    ]
    assert all(each.requires_grad for each in kept.parameters())
    assert plain.finished() is plain


def test_a_network_with_lora_goes_on_from_its_state() -> None:
    network, resumed = with_additions(small("lora")), small("lora", seed=5)
    resumed.load_state_dict(network.state_dict())
    with torch.inference_mode():
        assert torch.equal(resumed.eval()(clip()), network(clip()))


@pytest.mark.parametrize("start", ["published", "a run"])
def test_lora_starts_from_the_weights_it_is_given(start: str) -> None:
    given = small(classes=CLASSES, seed=6).state_dict() if start == "a run" else random(shapes_of(16, 2))
    plain, network = small("full", CLASSES).eval(), small("lora", CLASSES).eval()
    for each in (plain, network):
        each.load_state_dict(each.published(given))
    with torch.inference_mode():
        assert torch.equal(network(clip()), plain(clip()))
        assert plain(clip()).std() > 0.01


@pytest.mark.parametrize("tuning", ["full", "lora"])
def test_the_networks_own_tensors_pass_as_they_are(tuning: str) -> None:
    network = with_additions(small(tuning))
    own = network.state_dict()
    passed = network.published(own)
    assert passed.keys() == own.keys()
    assert all(torch.equal(passed[name], own[name]) for name in own)


@pytest.mark.parametrize("shape", [(1, 2 + 12 * 5, 16), (1, 2 + 12 * 101 + 1, 16), (1, 1, 16), (1214,), ()])
def test_places_that_cannot_be_cut_are_left_to_be_refused(shape: tuple[int, ...]) -> None:
    key = f"{BODY}.embeddings.position_embeddings"
    assert small().published({key: torch.zeros(shape)})[key].shape == shape


@pytest.mark.parametrize(("tuning", "rate"), [("full", 0.01), ("lora", 0.03)])
def test_its_loss_falls(tuning: str, rate: float) -> None:
    network = small(tuning)
    x, target = clip(batch=8), torch.arange(8)
    first, *_, last = losses(network, x, target, rate, steps=30)
    assert last < 0.3 * first


def test_heads_that_do_not_divide_the_width_are_refused() -> None:
    with pytest.raises(InputError, match=r"model\.width is 16: it must be a multiple of model\.heads, 3"):
        Ast(AstModel(family="ast", width=16, depth=1, heads=3), 10)


@pytest.mark.parametrize(("mels", "frames"), [(64, 98), (128, 95), (128, 106), (256, 65)])
def test_features_that_make_other_patches_are_refused(mels: int, frames: int) -> None:
    with pytest.raises(InputError, match=f"not {mels} x {frames}: see features"):
        small()(torch.zeros(1, 1, mels, frames))


def test_without_its_libraries_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "peft", None)
    monkeypatch.delitem(sys.modules, "tinyscene.train.models.ast")
    with pytest.raises(InputError, match=r"^the teacher ast: peft is not installed: pip install .*\[teachers\]'$"):
        importlib.import_module("tinyscene.train.models.ast")

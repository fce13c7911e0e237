"""PaSST: against its published checkpoint's names, shapes and size, and against torch's own transformer."""

import functools
import itertools

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.learning import losses
from tinyscene.deploy.common.errors import InputError
from tinyscene.train.data.kaldi_features import PasstMel
from tinyscene.train.models.passt import Passt
from tinyscene.train.network_settings import PasstModel
from tinyscene.train.recipe import load_recipe

PUBLISHED_BYTES = 344_665_734  # of passt-s-f128-p16-s10-ap.476-swa.pt
CONTAINER_BYTES = 100_000  # at most, of those: what torch.save adds to 160 tensors
ROWS, COLUMNS, PLACES = 12, 9, 99  # of patches: mel, frame in a second, frame in ten seconds
SECOND = 100  # frames


def published_shapes(classes: int = 527) -> dict[str, tuple[int, ...]]:
    """The names and shapes of the published checkpoints (models/passt.py in kkoutini/PaSST)."""
    shapes: dict[str, tuple[int, ...]] = {
        "cls_token": (1, 1, 768),
        "dist_token": (1, 1, 768),
        "new_pos_embed": (1, 2, 768),
        "freq_new_pos_embed": (1, 768, 12, 1),
        "time_new_pos_embed": (1, 768, 1, 99),
        "patch_embed.proj.weight": (768, 1, 16, 16),
        "patch_embed.proj.bias": (768,),
    }
    linear = {"attn.qkv": (2304, 768), "attn.proj": (768, 768), "mlp.fc1": (3072, 768), "mlp.fc2": (768, 3072)}
    layers = {f"blocks.{index}.{name}": shape for index in range(12) for name, shape in linear.items()}
    layers |= {f"blocks.{index}.{name}": (768,) for index in range(12) for name in ("norm1", "norm2")}
    layers |= {"norm": (768,), "head.0": (768,), "head.1": (classes, 768), "head_dist": (classes, 768)}
    for name, shape in layers.items():
        shapes |= {f"{name}.weight": shape, f"{name}.bias": shape[:1]}
    return shapes


def shapes_of(tensors: dict[str, Tensor]) -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in tensors.items()}


def full_size(classes: int, **settings: int) -> Passt:
    with torch.device("meta"):
        return Passt(PasstModel(family="passt", **settings), classes)


def small(width: int = 16, depth: int = 2, classes: int = 3, seed: int = 0, **settings: int) -> Passt:
    torch.manual_seed(seed)
    return Passt(PasstModel(family="passt", width=width, depth=depth, heads=2, **settings), classes)


def noise(batch: int, frames: int = SECOND, seed: int = 0) -> Tensor:
    return torch.randn(batch, 1, 128, frames, generator=torch.Generator().manual_seed(seed))


def heard(network: Passt, log_mel: Tensor) -> Tensor:
    """The patches that the blocks of a network are given, (batch, patch, width)."""
    given: list[Tensor] = []
    with network.blocks.register_forward_pre_hook(lambda _, inputs: given.append(inputs[0])), torch.no_grad():
        network(log_mel)
    return given[0][:, 2:]


def marked(**patchout: int) -> tuple[Passt, Tensor]:
    """A network whose patches tell the place they are given and the place they are from, and a clip for it."""
    network = small(width=8, depth=1, **patchout).train()
    kernel, bias = network.patch_embed.parameters()
    with torch.no_grad():
        bias.zero_()
        kernel.zero_()[2] = 1 / 256  # the mean of the patch
        for embedding, channel in ((network.time_new_pos_embed, 0), (network.freq_new_pos_embed, 1)):
            embedding.zero_()
            embedding[0, channel] = torch.arange(embedding[0, channel].numel()).view_as(embedding[0, channel])
    mel, frame = torch.meshgrid(torch.arange(128.0), torch.arange(float(SECOND)), indexing="ij")
    return network, (mel + frame / 1000)[None, None].repeat(2, 1, 1, 1)


def places(patches: Tensor) -> tuple[list[tuple[int, int]], int]:
    """Row and column of each patch of a clip by its content, and how far its time embedding was moved."""
    found, moved = [], set()
    for column, row, content in patches[:, :3].tolist():  # of a patch that begins at mel 10 r and frame 10 c:
        true_row = round((content - 7.5) / 10)
        true_column = round((content - 7.5 - 10 * true_row - 0.0075) / 0.01)
        assert row == true_row
        found.append((true_row, true_column))
        moved.add(int(column) - true_column)
    assert len(moved) == 1
    return found, moved.pop()


def test_the_full_size_has_the_names_and_shapes_of_the_published_checkpoint() -> None:
    used = {name: shape for name, shape in published_shapes().items() if not name.startswith("head_dist.")}
    assert shapes_of(full_size(527).state_dict()) == used


def test_the_published_file_holds_so_many_numbers() -> None:
    numbers = sum(int(np.prod(shape)) for shape in published_shapes().values())
    assert numbers == 86_153_758
    assert 0 < PUBLISHED_BYTES - 4 * numbers < CONTAINER_BYTES


def test_the_full_size_counts_what_it_uses_of_the_published() -> None:
    second_classifier = 527 * 768 + 527
    assert sum(parameter.numel() for parameter in full_size(527).parameters()) == 86_153_758 - second_classifier


def test_another_stride_has_the_published_places() -> None:
    network = full_size(527, stride=16)  # passt-s-f128-p16-s16-ap.468
    assert network.freq_new_pos_embed.shape == (1, 768, 8, 1)
    assert network.time_new_pos_embed.shape == (1, 768, 1, 62)


def test_a_published_state_dict_loads_and_hears_a_second() -> None:
    generator = torch.Generator().manual_seed(0)
    tensors = {
        name: torch.empty(shape).normal_(0, 0.02, generator=generator) for name, shape in published_shapes().items()
    }
    network = full_size(527).eval()
    network.load_state_dict(Passt.published(tensors), strict=True, assign=True)
    clips = 0.1 * torch.randn(2, 32_000, generator=generator)
    with torch.inference_mode():
        logits = network(PasstMel(load_recipe("passt").features)(clips))
    assert logits.shape == (2, 527)
    assert logits.isfinite().all()
    assert (logits[0] != logits[1]).all()


def test_only_the_classifier_depends_on_the_classes() -> None:
    one, other = (shapes_of(full_size(classes).state_dict()) for classes in (527, 10))
    assert {name for name in one if one[name] != other[name]} == {"head.1.weight", "head.1.bias"}
    assert {name for name in one if name.startswith(Passt.classifier_prefixes)} == {"head.1.weight", "head.1.bias"}


def test_the_network_is_what_torch_computes_from_the_same_weights() -> None:
    network, clips = small(width=24, depth=3).double().eval(), noise(2).double()
    state = {name: torch.randn_like(tensor) / tensor.shape[-1] ** 0.5 for name, tensor in network.state_dict().items()}
    network.load_state_dict(state)
    with torch.no_grad():
        encoder = nn.TransformerEncoder(
            nn.TransformerEncoderLayer(24, 2, 96, 0.0, "gelu", 1e-6, batch_first=True, norm_first=True),
            num_layers=3,
            norm=nn.LayerNorm(24, 1e-6),
            enable_nested_tensor=False,
        ).double()
        theirs = {"attn.qkv.": "self_attn.in_proj_", "attn.proj": "self_attn.out_proj", "mlp.fc1": "linear1"}
        theirs |= {"mlp.fc2": "linear2", "blocks": "layers"}
        renamed = {}
        for name, tensor in state.items():
            if name.startswith(("blocks.", "norm.")):
                renamed[functools.reduce(lambda own, pair: own.replace(*pair), theirs.items(), name)] = tensor
        encoder.load_state_dict(renamed)
        kernel = state["patch_embed.proj.weight"].flatten(1)  # (width, pixel)
        patches = F.unfold(clips, 16, stride=10).transpose(1, 2) @ kernel.T + state["patch_embed.proj.bias"]
        rows, columns = state["freq_new_pos_embed"][0, :, :, 0].T, state["time_new_pos_embed"][0, :, 0].T
        patches += torch.stack([rows[row] + columns[column] for row in range(ROWS) for column in range(COLUMNS)])
        tokens = torch.cat([state["cls_token"], state["dist_token"]], 1) + state["new_pos_embed"]
        encoded = encoder.eval()(torch.cat([tokens.repeat(2, 1, 1), patches], 1))
        features = (encoded[:, 0] + encoded[:, 1]) / 2
        normal = F.layer_norm(features, (24,), state["head.0.weight"], state["head.0.bias"], 1e-5)
        expected = normal @ state["head.1.weight"].T + state["head.1.bias"]
        torch.testing.assert_close(network(clips), expected, rtol=1e-9, atol=1e-9)  # the epsilons show


@pytest.mark.parametrize(
    ("mel", "frame", "single"), [(0, 0, 0), (6, 0, 0), (0, 4, 0), (0, 0, 30), (3, 2, 10), (11, 8, 0)]
)
def test_patchout_leaves_the_promised_patches_in_their_places(mel: int, frame: int, single: int) -> None:
    network, clip = marked(patchout_mel=mel, patchout_frame=frame, patchout=single)
    for _ in range(5):
        patches = heard(network, clip)
        torch.testing.assert_close(patches[0], patches[1], rtol=0, atol=0)  # the same for the whole batch
        left, _ = places(patches[0])
        assert left == sorted(set(left))
        rows, columns = sorted({row for row, _ in left}), sorted({column for _, column in left})
        if single:
            assert len(left) == (ROWS - mel) * (COLUMNS - frame) - single
        else:
            assert (len(rows), len(columns)) == (ROWS - mel, COLUMNS - frame)
            assert left == list(itertools.product(rows, columns))


def test_patchout_leaves_out_each_row_and_column_at_times() -> None:
    network, clip = marked(patchout_mel=6, patchout_frame=4)
    kept = [set(places(heard(network, clip[:1])[0])[0]) for _ in range(60)]
    assert set.union(*kept) == set(itertools.product(range(ROWS), range(COLUMNS)))
    assert set.intersection(*kept) == set()


def test_training_takes_any_stretch_of_the_time_embedding() -> None:
    network, clip = marked(patchout_mel=11)
    moved = {places(heard(network, clip[:1])[0])[1] for _ in range(500)}
    assert (min(moved), max(moved)) == (0, PLACES - COLUMNS)
    assert len(moved) > 80  # of 91


def test_evaluation_hears_every_patch_from_the_first_place_on() -> None:
    network, clip = marked(patchout_mel=6, patchout_frame=4, patchout=3)
    left, moved = places(heard(network.eval(), clip)[0])
    assert left == list(itertools.product(range(ROWS), range(COLUMNS)))
    assert moved == 0


def test_evaluation_draws_no_random_numbers() -> None:
    network = small(patchout_mel=6, patchout=3).eval()
    state = torch.get_rng_state()
    first = network(noise(2))
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(network(noise(2)), first)


def test_training_repeats_itself_from_the_same_seed_alone() -> None:
    network = small(patchout_mel=6, patchout=3).train()
    answers = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        answers.append(network(noise(2)))
    assert torch.equal(answers[0], answers[1])
    assert not torch.equal(answers[0], answers[2])


def test_ten_seconds_fill_the_time_embedding() -> None:
    network = small(depth=1)
    assert heard(network.eval(), noise(1, 998)).shape[1] == ROWS * PLACES
    torch.testing.assert_close(network.train()(noise(1, 998)), network.eval()(noise(1, 998)))


def test_nothing_in_the_network_is_dead() -> None:
    network = small(patchout_mel=2).train()
    network(noise(4)).square().sum().backward()
    assert [name for name, own in network.named_parameters() if own.grad is None or not own.grad.any()] == []


@pytest.mark.parametrize(
    ("settings", "mels", "frames", "words"),
    [
        ({}, 256, 65, "not 256 x 65"),
        ({}, 128, 15, "not 128 x 15"),
        ({}, 128, 1006, "places for 99 columns of patches, not 100"),
        ({"patchout_mel": 12}, 128, 100, "model.patchout_mel is 12: there are 12"),
        ({"patchout_frame": 9}, 128, 100, "model.patchout_frame is 9: there are 9"),
        ({"patchout_mel": 11, "patchout": 9}, 128, 100, "model.patchout is 9: there are 9"),
    ],
)
def test_what_leaves_nothing_to_hear_is_refused(settings: dict[str, int], mels: int, frames: int, words: str) -> None:
    with pytest.raises(InputError, match=words):
        small(depth=1, **settings).train()(torch.zeros(1, 1, mels, frames))


def test_a_width_that_the_heads_do_not_divide_is_refused() -> None:
    with pytest.raises(InputError, match=r"model.width is 15: it must be a multiple of model.heads, 2"):
        small(width=15)


def test_the_recipe_is_the_published_size_on_features_it_can_hear() -> None:
    recipe = load_recipe("passt")
    assert isinstance(recipe.model, PasstModel)
    with torch.device("meta"):
        assert shapes_of(Passt(recipe.model, 527).state_dict()) == shapes_of(full_size(527).state_dict())
    small_one = small(
        depth=1, patchout_mel=recipe.model.patchout_mel, patchout_frame=recipe.model.patchout_frame
    ).train()
    assert heard(small_one, PasstMel(recipe.features)(torch.zeros(1, 32_000))).shape[1] == 54  # half of a second's 108


def test_a_small_one_learns() -> None:
    time, generator = torch.arange(32_000) / 32_000, torch.Generator().manual_seed(0)
    pitch = torch.tensor([200.0, 1000.0, 5000.0]).repeat(4)
    clips = 0.1 * torch.sin(2 * torch.pi * pitch[:, None] * time) + 0.01 * torch.randn(12, 32_000, generator=generator)
    log_mel, label = PasstMel(load_recipe("passt").features)(clips), torch.arange(3).repeat(4)
    network = small(width=32, patchout_frame=3, patchout=5).train()
    found = losses(network, log_mel, label, rate=1e-3, steps=40)
    assert found[0] == pytest.approx(np.log(3), abs=0.1)
    assert np.mean(found[-5:]) < 0.4
    assert (network.eval()(log_mel).argmax(1) == label).all()

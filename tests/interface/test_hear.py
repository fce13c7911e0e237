"""The interface of HEAR 2021: sizes, timestamps and types as its rules say, for a student, a teacher and a bundle."""

import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from torch import nn

from tests.train.test_export import TINY, run_of
from tinyscene import hear
from tinyscene.deploy.bundle.bundle import Bundle
from tinyscene.deploy.common.errors import InputError
from tinyscene.deploy.live.classifier import open_classifier
from tinyscene.hear import HearModel, NetworkModel, get_scene_embeddings, get_timestamp_embeddings, load_model
from tinyscene.train.models import build, features_of
from tinyscene.train.recipe import load_recipe

SMALL = ["model.width=24", "model.depth=2", "model.heads=2"]
LARGE_SETTINGS = {"cp_resnet": [], "tf_sepnet": [], "efficientat": ["model.width=0.1"], "passt": SMALL, "ast": SMALL}


def audio(model: HearModel, sounds: int, seconds: float) -> torch.Tensor:
    noise = torch.rand((sounds, int(seconds * model.sample_rate)), generator=torch.Generator().manual_seed(0))
    return 2 * noise - 1


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return run_of(tmp_path_factory.mktemp("hear"), "nano", TINY, seed=3)[0]


@pytest.fixture(params=["run", "bundle"])
def model(request: pytest.FixtureRequest, run: Path, bundle: Bundle) -> HearModel:
    return load_model(str(run if request.param == "run" else bundle.folder))


def test_a_model_says_its_rate_and_sizes(model: HearModel) -> None:
    assert isinstance(model, nn.Module)
    assert (model.sample_rate, model.scene_embedding_size, model.timestamp_embedding_size) == (32_000, 8, 8)


def test_a_sound_has_one_embedding_which_is_the_mean_over_its_seconds(model: HearModel) -> None:
    sounds = audio(model, 2, 2.0)
    whole = get_scene_embeddings(sounds, model)
    seconds = [get_scene_embeddings(part, model) for part in sounds.split(model.sample_rate, dim=1)]
    assert (whole.shape, whole.dtype) == ((2, 8), torch.float32)
    torch.testing.assert_close(whole, torch.stack(seconds).mean(0))


def test_timestamps_lie_at_regular_times_of_at_most_50_ms(model: HearModel) -> None:
    sounds = audio(model, 2, 0.3)
    embeddings, timestamps = get_timestamp_embeddings(sounds, model)
    assert (embeddings.shape, embeddings.dtype) == ((2, 7, 8), torch.float32)
    assert timestamps.tolist() == [[0.0, 50.0, 100.0, 150.0, 200.0, 250.0, 300.0]] * 2


def test_an_embedding_is_of_the_clip_around_its_timestamp(model: HearModel) -> None:
    sound = audio(model, 1, 2.0)
    embeddings, timestamps = get_timestamp_embeddings(sound, model)
    start = int((timestamps[0, 20] / 1000 - 0.5) * model.sample_rate)
    around = get_scene_embeddings(sound[:, start : start + model.sample_rate], model)
    torch.testing.assert_close(embeddings[:, 20], around)


def test_a_bundle_gives_the_embeddings_of_its_classifier(bundle: Bundle) -> None:
    pcm = np.random.default_rng(0).integers(-20_000, 20_000, (2, 32_000)).astype(np.int16)
    embeddings = get_scene_embeddings(torch.from_numpy(pcm / np.float32(32_768)), load_model(str(bundle.folder)))
    np.testing.assert_array_equal(embeddings.numpy(), open_classifier(bundle, "reference").embeddings(pcm))


@pytest.mark.parametrize("recipe", list(LARGE_SETTINGS))
def test_a_teacher_has_the_embedding_that_its_classifier_takes(recipe: str) -> None:
    chosen = load_recipe(recipe, LARGE_SETTINGS[recipe])
    model = NetworkModel(build(chosen.model, 10), features_of(chosen), chosen.features)
    layer = hear.classifier_of(model.network)
    assert model.scene_embedding_size == (layer.in_features if isinstance(layer, nn.Linear) else layer.in_channels)


def test_a_network_without_a_classifier_is_refused() -> None:
    with pytest.raises(InputError, match="has no classifier"):
        hear.classifier_of(nn.Sequential(nn.Conv2d(1, 2, 1)))


@pytest.mark.slow
def test_the_validator_of_the_challenge_accepts_a_model(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """At 16 kHz: the validator of 2021 does not know the rate of 32 kHz, which the benchmark has today.

    It imports TensorFlow only to ask whether a model is one of TensorFlow's; a stand-in has the class that it names.
    """
    tensorflow = ModuleType("tensorflow")
    tensorflow.Module = type("Module", (), {})  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "tensorflow", tensorflow)
    validate = pytest.importorskip("hearvalidator.validate")
    run, _ = run_of(tmp_path, "micro16k", seed=1)
    validate.ValidateModel("tinyscene.hear", str(run), "cpu")()

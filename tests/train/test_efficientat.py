"""EfficientAT's MobileNet: sizes, names and answers against the published; what is trained, and linear probes."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from tinyscene.deploy.common.errors import InputError
from tinyscene.train.data.cache import Clips
from tinyscene.train.data.datasets import Dataset
from tinyscene.train.data.kaldi_features import PasstMel
from tinyscene.train.data.training_data import TrainingData
from tinyscene.train.loop.loop import train
from tinyscene.train.models import build, features_of
from tinyscene.train.models.efficientat import EfficientAt
from tinyscene.train.network_settings import EfficientAtModel
from tinyscene.train.recipe import load_recipe
from tinyscene.train.runs.run import RunFolder, load_model
from tinyscene.train.runs.transfer import find_weights, transfer
from tinyscene.train.sweep.begin import begin
from tinyscene.train.sweep.job import Source, run_job
from tinyscene.train.teachers.probe import _fit

PUBLISHED = {0.4: 0.983, 0.5: 1.43, 1.0: 4.88, 2.0: 17.91, 3.0: 39.09, 4.0: 68.43}  # millions of parameters by width
TINY = ["model.width=0.1", "train.epochs=1", "train.batch_size=32"]
AUDIOSET = 527  # classes


def network(classes: int = AUDIOSET, **settings: object) -> EfficientAt:
    model = EfficientAtModel.model_validate({"family": "efficientat", "width": 0.4, **settings})
    return EfficientAt(model, classes)


@pytest.mark.parametrize("width", PUBLISHED)
def test_a_width_has_the_published_parameters(width: float) -> None:
    with torch.device("meta"):
        count = sum(parameter.numel() for parameter in network(width=width).parameters())
    assert abs(count / 1e6 - PUBLISHED[width]) < 0.01


def test_names_and_shapes_are_the_published_ones(efficientat_weights: Path) -> None:
    shapes = {name: tensor.shape for name, tensor in load_file(efficientat_weights).items()}
    assert {name: tensor.shape for name, tensor in network().state_dict().items()} == shapes


def test_published_weights_give_the_golden_logits_and_embeddings(efficientat_weights: Path) -> None:
    own = network().eval()
    own.load_state_dict(load_file(efficientat_weights))
    with np.load(efficientat_weights.with_name("efficientat_mn04_golden.npz")) as golden, torch.no_grad():
        log_mel = torch.from_numpy(golden["log_mel"])
        assert own(log_mel).numpy() == pytest.approx(golden["logits"], abs=1e-4)
        assert own.embed(log_mel).numpy() == pytest.approx(golden["embedding"], abs=1e-4)


def test_a_second_is_heard_as_published() -> None:
    features = features_of(load_recipe("efficientat"))
    assert type(features) is PasstMel
    assert features(torch.zeros(1, 32_000)).shape == (1, 1, 128, 100)
    assert features.front_end.f_max == 15_000


def test_fine_tuning_takes_the_published_weights_over_with_a_fresh_classifier(efficientat_weights: Path) -> None:
    published, tuned = load_file(efficientat_weights), network(classes=10)
    fresh = tuned.classifier[5].weight.clone()  # type: ignore[union-attr,operator]
    transfer(tuned, efficientat_weights, tuple("abcdefghij"))
    state = tuned.state_dict()
    assert torch.equal(state["classifier.5.weight"], fresh)
    taken = [name for name in state if not name.startswith("classifier.5")]
    assert all(torch.equal(state[name], published[name]) for name in taken)


def test_a_linear_head_takes_the_trunk_alone(efficientat_weights: Path) -> None:
    tuned = network(classes=10, head="linear")
    transfer(tuned, efficientat_weights, tuple("abcdefghij"))
    last = "features.16.0.weight"
    assert torch.equal(tuned.state_dict()[last], load_file(efficientat_weights)[last])
    assert tuned.classifier[2].weight.shape == (10, 384)  # type: ignore[union-attr]


def test_weights_of_a_width_that_is_not_published_are_refused() -> None:
    with pytest.raises(InputError, match=r"model\.width 0\.3, but for 0\.1, 0\.2, 0\.4"):
        find_weights("published", EfficientAtModel(family="efficientat", width=0.3))


def test_a_frozen_trunk_stays_as_it_was_to_the_statistics_of_batchnorm(
    sample_dataset: Dataset, sample_clips: Clips, tmp_path: Path
) -> None:
    recipe = load_recipe("efficientat", [*TINY, "model.tuning=head"])
    torch.manual_seed(recipe.seed)
    before = build(recipe.model, 10).state_dict()
    train(recipe, TrainingData(sample_dataset, sample_clips, "5"), RunFolder(tmp_path / "run"))
    kept, card = load_model(tmp_path / "run")
    changed = {name for name, tensor in kept.state_dict().items() if not torch.equal(tensor, before[name])}
    assert changed == {f"classifier.{layer}.{kind}" for layer in (2, 5) for kind in ("weight", "bias")}
    assert all(parameter.requires_grad for parameter in kept.parameters())
    assert card.parsed_recipe == recipe


def test_a_probe_minimises_the_cross_entropy_and_the_decay_of_standardised_embeddings() -> None:
    """At the minimum the gradient is zero; it is computed here from the definition, in float64."""
    torch.manual_seed(0)
    embeddings, labels, classifier = 3 + 2 * torch.randn(60, 8), torch.arange(60) % 4, nn.Linear(8, 4)
    _fit(classifier, embeddings, labels, load_recipe("efficientat", ["probe.decay=0.1"]))
    mean, deviation = embeddings.double().mean(0), embeddings.double().std(0)
    weight = classifier.weight.detach().double() * deviation  # of the standardised values
    standard = (embeddings.double() - mean) / deviation
    bias = classifier.bias.detach().double() + classifier.weight.detach().double() @ mean
    wrong = (standard @ weight.T + bias).softmax(1) - torch.eye(4, dtype=torch.float64)[labels]
    assert (wrong.T @ standard / 60 + 0.1 * weight).abs().max() < 1e-3
    assert wrong.mean(0).abs().max() < 1e-3
    assert weight.abs().max() > 0.01


def test_a_probe_leaves_the_trunk_as_it_is_and_is_a_run(
    sample: Path, tmp_path: Path, run_cli: Callable[..., tuple[int, str, str]]
) -> None:
    first, probed = tmp_path / "first", tmp_path / "probed"
    tiny = [f"--set={setting}" for setting in TINY]
    code, _, err = run_cli("teach", "efficientat", "--data", sample, "--split", "5", "--out", first, *tiny)
    assert code == 0, err
    data = ("--data", sample, "--split", "5", "--out", probed, "--json")
    settings = [*tiny, "--set=probe.decay=0.1"]
    code, out, err = run_cli("teach", "efficientat", "--probe", "--weights", first, *data, *settings)
    assert code == 0, err
    trunk, kept = load_model(first)[0].state_dict(), load_model(probed)[0]
    assert all(torch.equal(tensor, trunk[name]) for name, tensor in kept.state_dict().items() if "features." in name)
    assert json.loads(out)["accuracy"] > 0.2  # ten classes; the trunk has hardly been trained


def test_a_sweep_fits_a_probe_where_it_says_so(small_dataset: Path, tmp_path: Path) -> None:
    save_file(network(10, width=0.1).state_dict(), tmp_path / "trunk.safetensors")
    runs = f"a: {{recipe: efficientat, set: [model.width=0.1], weights: {tmp_path}/trunk.safetensors, probe: true}}"
    plan = tmp_path / "probe.yaml"
    plan.write_text(f'name: probe\nsplits: ["5"]\nseeds: [0]\nruns:\n  {runs}\n')
    out, data = tmp_path / "sweep", {"": Source(folder=str(small_dataset))}
    (job,) = begin(str(plan), data, (), out).jobs
    run_job(out, job.name)
    probed, card = load_model(out / job.name)
    trunk = load_file(tmp_path / "trunk.safetensors")
    assert card.recipe["model"]["head"] == "linear"
    assert (out / job.name / "evaluation.json").exists()
    assert begin(str(plan), data, (), out).jobs == (job,)  # what was done is of this sweep: it can be continued
    assert all(torch.equal(tensor, trunk[name]) for name, tensor in probed.state_dict().items() if "features." in name)


def test_a_probe_of_a_network_without_an_embedding_is_refused(
    sample: Path, tmp_path: Path, run_cli: Callable[..., tuple[int, str, str]]
) -> None:
    code, _, err = run_cli("teach", "nano", "--probe", "--data", sample, "--out", tmp_path / "run")
    assert (code, "has no embedding" in err) == (2, True)


def test_a_dropped_expansion_is_that_of_the_first_block() -> None:
    assert [len(list(block.block)) for block in network().features[1:3]] == [2, 3]  # type: ignore[union-attr]
    assert isinstance(network().features[1].block[0][2], nn.ReLU)  # type: ignore[union-attr,index]

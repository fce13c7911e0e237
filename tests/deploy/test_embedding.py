"""The embedding: what the classifier takes, so that the classifier's rows of it are the logits."""

from pathlib import Path

import numpy as np
import pytest

from tests.train.test_export import TINY, run_of
from tinyscene.deploy.bundle.bundle import Bundle
from tinyscene.deploy.frontend.log_mel import float_pcm
from tinyscene.deploy.graph.embedding import below_classifier, embed
from tinyscene.deploy.graph.operators import Conv2D
from tinyscene.deploy.graph.reference import run_all
from tinyscene.deploy.live.classifier import OnnxClassifier, open_classifier
from tinyscene.train.export import export_onnx
from tinyscene.train.quantize.lower import lower
from tinyscene.train.runs.run import load_model

NOISE = np.random.default_rng(0).normal(0, 3_000, (3, 32_000)).astype(np.int16)


def test_the_embedding_and_the_classifier_give_the_logits(bundle: Bundle) -> None:
    """The classifier is a 1x1 convolution before a mean, so that its weights times the mean embedding are the mean."""
    graph = bundle.float_graph
    features = bundle.front_end.log_mel(float_pcm(NOISE))[..., None]
    classifier = next(operator for operator in reversed(graph.operators) if isinstance(operator, Conv2D))
    weights = classifier.weights.reshape(classifier.weights.shape[0], -1)  # (classes, channels)
    expected = embed(graph, features) @ weights.T + classifier.bias
    np.testing.assert_allclose(run_all(graph, features)[graph.output.name], expected, atol=1e-4)


def test_the_embedding_of_a_bundle_is_near_that_of_its_float_network(bundle: Bundle) -> None:
    scene = open_classifier(bundle, "reference")
    real = embed(bundle.float_graph, bundle.front_end.log_mel(float_pcm(NOISE))[..., None])
    assert np.corrcoef(scene.embeddings(NOISE).ravel(), real.ravel())[0, 1] > 0.98


def test_a_recording_has_an_embedding_a_second(bundle: Bundle, sample: Path) -> None:
    recording = next((sample / "audio").iterdir())
    rows = open_classifier(bundle, "reference").embed(recording)
    assert rows.shape == (1, below_classifier(bundle.graph).output.shape[-1])
    assert rows.dtype == np.float32


def test_onnx_runtime_gives_the_embedding_of_the_lowered_network(tmp_path: Path) -> None:
    run, _ = run_of(tmp_path, "nano", TINY, seed=3)
    scene = OnnxClassifier(export_onnx(run))
    graph = lower(load_model(run)[0], scene.front_end.shape)
    features = scene.front_end.log_mel(float_pcm(NOISE))[..., None]
    np.testing.assert_allclose(scene.embeddings(NOISE), embed(graph, features), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("runner", ["reference", "litert"])
def test_every_runner_gives_the_embedding_of_the_integers(bundle: Bundle, runner: str) -> None:
    scene = open_classifier(bundle, runner)
    np.testing.assert_array_equal(scene.embeddings(NOISE), embed(bundle.graph, bundle.features(NOISE)))

"""The model that comes along: it needs nothing but the package, and hears what it was made for."""

import json
import zipfile
from pathlib import Path

import numpy as np
import pytest

import tinyscene
from tests import ROOT
from tinyscene.deploy.bundle.golden import make_vectors
from tinyscene.interface.catalogue import models
from tinyscene.interface.recordings import clips_of

BUNDLED = ROOT / "tinyscene" / "bundled"
MOST_BYTES = 400_000  # of the bundle, compressed as in a wheel
HEARD = {"dog": "dog bark", "rooster": "rooster", "clock": "clock tick"}
EVERY = 10  # recordings of each class, of which one is heard


@pytest.fixture
def alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tinyscene.SceneClassifier:
    """The classifier, opened by name in an empty folder and without data."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("TINYSCENE_DATA", raising=False)
    return tinyscene.load("sounds10", runner="reference")


@pytest.mark.parametrize("sound", HEARD)
def test_it_hears_the_sounds_that_come_along(alone: tinyscene.SceneClassifier, sound: str) -> None:
    assert alone.classify(BUNDLED / "sounds" / f"{sound}.flac")["scene"] == HEARD[sound]


@pytest.mark.parametrize("level", [0, 1, 10])
def test_next_to_silence_it_hears_none_of_its_sounds(alone: tinyscene.SceneClassifier, level: int) -> None:
    noise = np.random.default_rng(3).integers(-level, level + 1, 16_000).astype(np.int16)
    (decision,) = alone.stream(16_000).push(noise)
    assert decision["scene"] == "none of these"


def test_its_golden_vectors_are_those_of_its_graph() -> None:
    bundle = tinyscene.Bundle("sounds10")
    made = make_vectors(bundle.front_end, bundle.graph)
    for name, stored in vars(bundle.vectors).items():
        assert np.array_equal(getattr(made, name), stored), name


def test_the_catalogue_has_its_measured_accuracy() -> None:
    rows = json.loads((ROOT / "benchmarks" / "results" / "sounds10.json").read_text())["results"]
    (mean,) = (row["accuracy"]["mean"] for row in rows if (row["run"], row["split"]) == ("int8", "all folds"))
    listed = {model.name: model for model in models()}
    assert listed["sounds10"].accuracy.startswith(f"{100 * mean:.1f} % in int8")


def test_it_is_for_microphones_at_16_khz_and_small(tmp_path: Path) -> None:
    bundle = tinyscene.Bundle("sounds10")
    assert (bundle.front_end.sample_rate, bundle.content["budget"]["macs"] <= 11_000_000) == (16_000, True)
    with zipfile.ZipFile(tmp_path / "bundle.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for path in bundle.folder.rglob("*"):
            archive.write(path)
    assert (tmp_path / "bundle.zip").stat().st_size <= MOST_BYTES


def test_its_card_names_who_made_the_recordings() -> None:
    card = (BUNDLED / "sounds10" / "MODEL_CARD.md").read_text(encoding="utf-8")
    lines = (ROOT / "benchmarks" / "experiments" / "esc10_attribution.txt").read_text(encoding="utf-8").splitlines()
    numbers = {line.partition(":")[0] for line in lines[2:]}
    assert len(numbers) > 300
    assert all(f"- {number}: " in card for number in numbers)


@pytest.mark.slow
def test_it_knows_the_recordings_that_it_was_trained_on(esc10: Path) -> None:
    scene = tinyscene.load("sounds10")
    heard = []
    for folder in sorted(esc10.iterdir()):
        for path in sorted(folder.iterdir())[::EVERY]:
            pcm = np.stack(list(clips_of([path], scene.front_end)))  # (clip, sample)
            label = scene.labels[int(scene.probabilities(pcm).mean(0).argmax())]
            heard.append(folder.name.lower().endswith(label))
    assert len(heard) == 40
    assert np.mean(heard) > 0.9

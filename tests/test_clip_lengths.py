"""Clips of other lengths than one second, from recordings to the C on this machine, equal bit for bit."""

import json
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import soundfile
from hypothesis import given
from hypothesis import strategies as st

from tests.browser import Watched, browser_or_skip
from tinyscene.deploy.bundle.bundle import Bundle
from tinyscene.deploy.bundle.verify import verify
from tinyscene.deploy.common.errors import InputError
from tinyscene.deploy.frontend.audio import Recording, clip_count, source_samples
from tinyscene.deploy.frontend.log_mel import CLIP_SECONDS, clip_samples
from tinyscene.deploy.live.classifier import BundleClassifier
from tinyscene.firmware_bridge.codegen.library import make_library
from tinyscene.firmware_bridge.emulate import emulate
from tinyscene.firmware_bridge.native import READY, native_scene
from tinyscene.firmware_bridge.targets.image import build_settings
from tinyscene.firmware_bridge.web import write_site
from tinyscene.train.data.augment import load_responses
from tinyscene.train.data.cache import Clips, prepare
from tinyscene.train.data.datasets import Dataset, open_dataset
from tinyscene.train.data.selection import select
from tinyscene.train.data.training_data import TrainingData
from tinyscene.train.loop.loop import train
from tinyscene.train.quantize.quantize import quantize
from tinyscene.train.recipe import Recipe, load_recipe
from tinyscene.train.runs.budget import count_bundle, count_network, count_recipe
from tinyscene.train.runs.evaluate import evaluate
from tinyscene.train.runs.run import RunFolder, load_model
from tinyscene.train.teachers.logits import make_logits, read_logits

RATE, SOURCE_RATE, SECONDS = 8_000, 22_050, 5  # of the clips, of the recordings; their length
SPLIT = "fold1"
LENGTHS = (0.5, 2.0)
PER_RECORDING = {0.5: 10, 1.0: 5, 2.0: 3}  # the last second of five is half of a clip of two


def recipe_of(seconds: float) -> Recipe:
    sizes = [f"features.sample_rate={RATE}", "features.n_mels=16", "features.hop_seconds=0.025"]
    network = ["model.n_blocks=[1]", "model.strides={}", "quantize.clips=4"]
    training = ["train.epochs=1", "train.batch_size=8", "augment.freq_mask=4", "augment.roll_seconds=0.4"]
    return load_recipe("nano", [*sizes, *network, *training, f"features.clip_seconds={seconds}"])


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    """Two classes in two folds, recordings of five seconds at a rate that is no multiple of the clips'."""
    root, rng = tmp_path_factory.mktemp("lengths") / "sounds", np.random.default_rng(0)
    time = np.arange(SECONDS * SOURCE_RATE) / SOURCE_RATE
    for label, hertz in (("low", 200.0), ("high", 2_000.0)):
        (root / label).mkdir(parents=True)
        for index in range(4):
            sound = 0.3 * np.sin(2 * np.pi * hertz * (1 + index / 20) * time) + 0.05 * rng.normal(size=len(time))
            soundfile.write(root / label / f"{1 + index % 2}-{index}.wav", sound, SOURCE_RATE, "PCM_16")
    return open_dataset(root)


@dataclass(frozen=True)
class Trained:
    run: Path
    clips: Clips
    bundle: Bundle


@pytest.fixture(scope="module", params=LENGTHS, ids="{} s".format)
def trained(request: pytest.FixtureRequest, dataset: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Trained:
    """A run of one epoch and its bundle, of clips of one of LENGTHS."""
    folder, recipe = tmp_path_factory.mktemp("trained"), recipe_of(request.param)
    clips = prepare(dataset, RATE, folder / "cache", clip_seconds=request.param)
    train(recipe, TrainingData(dataset, clips, SPLIT), RunFolder(folder / "run"))
    return Trained(folder / "run", clips, quantize(folder / "run", dataset, clips, folder / "bundle", split=SPLIT))


@given(st.floats(*CLIP_SECONDS), st.integers(4_000, 192_000), st.integers(1_000, 384_000))
def test_a_clip_takes_the_fewest_samples_of_a_file_that_make_it(seconds: float, rate: int, source: int) -> None:
    samples = clip_samples(rate, seconds)
    assert abs(samples - seconds * rate) <= 0.5
    taken = source_samples(samples, source, rate)
    assert taken * rate >= samples * source > (taken - 1) * rate


@given(st.integers(1, 10**7), st.integers(1, 10**6))
def test_a_rest_of_half_a_clip_is_a_clip(frames: int, length: int) -> None:
    assert clip_count(frames, length) == max(1, (2 * frames + length) // (2 * length))


@pytest.mark.parametrize("seconds", [*LENGTHS, 0.3, 10.0])
def test_a_recording_is_cut_into_clips_one_after_the_other(dataset: Dataset, seconds: float) -> None:
    path = dataset.root / dataset.recordings[0].path
    whole = np.concatenate(list(Recording(path, SOURCE_RATE, SECONDS).clips()))
    recording = Recording(path, SOURCE_RATE, seconds)
    clips = np.stack(list(recording.clips()))
    assert clips.shape == (recording.clip_count, clip_samples(SOURCE_RATE, seconds))
    common = min(len(whole), clips.size)
    np.testing.assert_array_equal(clips.ravel()[:common], whole[:common])
    assert not clips.ravel()[common:].any()


def test_caches_of_other_lengths_are_others(dataset: Dataset, tmp_path: Path) -> None:
    caches = {seconds: prepare(dataset, RATE, tmp_path, clip_seconds=seconds) for seconds in PER_RECORDING}
    assert len({clips.folder for clips in caches.values()}) == len(caches)
    assert len({clips.data_hash for clips in caches.values()}) == len(caches)
    for seconds, clips in caches.items():
        assert clips.pcm.shape == (len(dataset.recordings) * PER_RECORDING[seconds], RATE * seconds)
        assert clips.report()["clip_seconds"] == seconds


def test_a_cache_of_as_many_samples_is_not_taken_for_another(dataset: Dataset, tmp_path: Path) -> None:
    longer, faster = prepare(dataset, RATE, tmp_path, clip_seconds=2.0), prepare(dataset, 2 * RATE, tmp_path)
    assert longer.pcm.shape[1] == faster.pcm.shape[1]
    data = TrainingData(dataset, faster, SPLIT)
    with pytest.raises(InputError, match=r"clips of 1 s at 16,000 Hz; recipe nano takes 2 s at 8,000 Hz"):
        select(recipe_of(2.0), data)


def test_every_runtime_equals_the_reference(trained: Trained) -> None:
    result = verify(trained.bundle, trained.clips.pcm)
    result.require()
    assert result.as_dict()["litert_reference_equal"] is True


@pytest.mark.parametrize("hop", [None, 0.25])
def test_the_c_decides_as_the_reference_does(trained: Trained, hop: float | None) -> None:
    bundle = trained.bundle
    scene = native_scene(make_library(bundle.graph, bundle.front_end, bundle.labels, ("plain",), hop))
    clip = bundle.front_end.clip_samples
    step = clip if hop is None else round(hop * RATE)
    pcm = np.ascontiguousarray(trained.clips.pcm[:3].ravel())
    windows = np.stack([pcm[at : at + clip] for at in range(0, len(pcm) - clip + 1, step)])
    decided, at = [], 0
    while at < len(pcm):
        status, taken = scene.push(pcm[at : at + 777])
        at += taken
        if status == READY:
            decided.append(scene.decide().tolist())
    reference = BundleClassifier(bundle, "reference")
    q = bundle.graph.output.q
    expected = np.rint(reference.logits(windows) / np.float32(q.scale)) + q.zero_point
    np.testing.assert_array_equal(decided, expected)


def test_classify_and_a_stream_decide_on_the_same_clips(trained: Trained, dataset: Dataset) -> None:
    scene, path = BundleClassifier(trained.bundle, "reference"), dataset.root / dataset.recordings[0].path
    found = scene.classify(path)["seconds"]
    length = trained.bundle.front_end.clip_seconds
    assert [each["start"] for each in found] == [index * length for index in range(PER_RECORDING[length])]
    sound, rate = soundfile.read(path, dtype="int16")
    stream = scene.stream(rate)
    heard = [decision for part in np.split(sound, 7) for decision in stream.push(part)] + stream.finish()
    assert heard == found


def test_a_hop_longer_than_a_clip_is_refused(trained: Trained) -> None:
    length = trained.bundle.front_end.clip_seconds
    with pytest.raises(InputError, match=rf"it must be above 0 and at most a clip's length, {length:g}"):
        BundleClassifier(trained.bundle, "reference").stream(RATE, length + 0.1)
    with pytest.raises(InputError, match=rf"it must be {length:g}, or less and a multiple of 0.025 \(a frame\)"):
        make_library(trained.bundle.graph, trained.bundle.front_end, trained.bundle.labels, hop=length + 0.1)


def test_macs_are_those_of_one_second_beside_those_of_a_clip(trained: Trained) -> None:
    length = trained.bundle.front_end.clip_seconds
    count, second = count_bundle(trained.bundle.folder), count_recipe(recipe_of(1.0), classes=2)
    longer = count_network(load_model(trained.run)[0], replace_length(recipe_of(1.0), length))
    assert (count.macs, count.clip_macs) == (second.macs, longer.clip_macs)
    assert count.clip_macs == pytest.approx(length * second.macs, rel=0.1)
    assert count.deployed is not None
    assert count.clip_macs is not None
    assert count.deployed.macs == trained.bundle.graph.macs <= count.clip_macs


def replace_length(recipe: Recipe, seconds: float) -> Recipe:
    return recipe.model_copy(update={"features": replace(recipe.features, clip_seconds=seconds)})


def test_the_card_tells_the_length(trained: Trained) -> None:
    card = (trained.bundle.folder / "MODEL_CARD.md").read_text()
    length = trained.bundle.front_end.clip_seconds
    assert f"takes {length:g} seconds of sound" in card
    assert f"MACs for {length:g} seconds, as deployed" in card


def test_a_recording_is_evaluated_by_the_mean_of_its_clips(trained: Trained, dataset: Dataset) -> None:
    test = dataset.split(SPLIT)[1]
    evaluation = evaluate(BundleClassifier(trained.bundle, "reference").probabilities, trained.clips, test)
    assert evaluation.clips == len(test)


def test_logits_of_a_teacher_are_for_its_own_length(trained: Trained, dataset: Dataset, tmp_path: Path) -> None:
    other = prepare(dataset, RATE, tmp_path / "cache")
    written = read_logits(make_logits([trained.run], dataset, other, SPLIT, tmp_path / "l.safetensors"))
    assert written.clip_seconds == trained.clips.clip_seconds
    names = trained.clips.names(trained.clips.select(dataset.split(SPLIT)[0]))
    assert written.of(names, trained.clips.labels, written.clip_seconds).shape == (1, len(names), 2)
    with pytest.raises(
        InputError, match=r"is for clips of .* s, the clips asked for have 1 s; a teacher and its student"
    ):
        written.of(names, trained.clips.labels, 1.0)


def test_a_teacher_that_is_asked_must_hear_the_same_length(trained: Trained, dataset: Dataset, tmp_path: Path) -> None:
    recipe = load_recipe("nano", [f"features.sample_rate={RATE}", f"distill.online={trained.run}"])
    data = TrainingData(dataset, prepare(dataset, RATE, tmp_path / "cache"), SPLIT)
    with pytest.raises(InputError, match=r"is for clips of .* s, those of the student have 1 s"):
        train(recipe, data, RunFolder(tmp_path / "run"))


@pytest.mark.parametrize("seconds", LENGTHS)
def test_an_impulse_response_is_cut_to_a_shorter_clip(tmp_path: Path, seconds: float) -> None:
    response = np.zeros(RATE)
    response[[100, RATE - 100]] = 0.5
    soundfile.write(tmp_path / "response.wav", response, RATE, "FLOAT")
    front_end = replace(recipe_of(1.0).features, clip_seconds=seconds)
    spectrum = load_responses(tmp_path, front_end)[0]
    signal = np.fft.irfft(spectrum.numpy(), n=2 * front_end.clip_samples)
    assert np.flatnonzero(np.abs(signal) > 0.1).tolist() == ([100] if seconds < 1 else [100, RATE - 100])


@pytest.mark.slow
@pytest.mark.parametrize("target", ["cortex-m4", "riscv32"])
def test_an_emulated_target_equals_the_reference(trained: Trained, target: str) -> None:
    result = emulate(trained.bundle, trained.clips.pcm[:3], build_settings(target, "zig"))
    assert result.equal, result.difference


@pytest.mark.slow
def test_the_page_classifies_as_the_command_line_does(trained: Trained, dataset: Dataset, tmp_path: Path) -> None:
    path, clip = dataset.root / dataset.recordings[0].path, trained.bundle.front_end.clip_seconds
    write_site(trained.bundle, tmp_path / "site")
    with browser_or_skip() as browser:
        watched = Watched(browser)
        watched.page.goto((tmp_path / "site" / "index.html").as_uri())
        watched.page.wait_for_selector("#status:text-is('Ready.')")
        watched.page.set_input_files("#file", path)
        watched.page.wait_for_selector("#seconds button")
        with watched.page.expect_download() as download:
            watched.page.click("#save")
        result = json.loads(Path(download.value.path()).read_text(encoding="utf-8"))
        buttons = [each.inner_text() for each in watched.page.query_selector_all("#seconds button")]
    expected = BundleClassifier(trained.bundle, "reference").classify(path)
    assert [each["start"] for each in result["seconds"]] == [each["start"] for each in expected["seconds"]]
    for ours, theirs in zip(result["seconds"], expected["seconds"], strict=True):
        assert ours["scores"] == pytest.approx(theirs["scores"], abs=1e-6)
    assert result["notes"] == expected["notes"]
    assert buttons[1].startswith(f"0 to {clip:g} s: ")
    assert watched.faults == []

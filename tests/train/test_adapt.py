"""Networks for single devices: what each was trained on, that a broken adaptation goes on, and one bundle of all."""

import hashlib
import json
import shutil
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch

import tinyscene.train.loop.loop
from tests.train.test_export import run_of
from tests.train.test_loop import metrics_of, same_weights
from tests.train.test_quantize import TINY, graph_of
from tinyscene.deploy.bundle.bundle import Bundle, open_bundle
from tinyscene.deploy.common.errors import InputError
from tinyscene.train.data.cache import Clips, prepare
from tinyscene.train.data.datasets import SCENES, Dataset, ListedRecording, open_dataset
from tinyscene.train.fine_tuning.adapt import Adapted, adapt
from tinyscene.train.loop.loop import InterruptedRunError
from tinyscene.train.quantize.quantize import quantize
from tinyscene.train.runs.evaluate import evaluate, open_evaluated_model
from tinyscene.train.runs.recording_devices import part_of
from tinyscene.train.runs.run import load_model, load_tensors, read_card, save_tensors

Adapt = Callable[..., Adapted]
SPLIT = "5"
QUICK = ["adapt.epochs=2", "adapt.lr=1e-2", "adapt.batch_size=16", "adapt.least_clips=20"]
OTHER_DEVICE = {"mixstyle_p": 1.0, "dir_p": 1.0, "filter_db": 6.0}  # makes a clip sound as if another had recorded it
CLIPS = {"a": 30, "s1": 30, "s2": 12}  # in the training list
SCENE = 3  # that the network of s1 always answers with in `biased_run`


@pytest.fixture(scope="module")
def dataset(sample_dataset: Dataset) -> Dataset:
    """The sample with fewer clips of device s2 in its training list, and none of s3."""
    training, test = sample_dataset.split(SPLIT)
    by_device = {device: [path for path in training if path.endswith(f"-{device}.wav")] for device in CLIPS}
    kept = tuple(path for device, count in CLIPS.items() for path in by_device[device][:count])
    return replace(sample_dataset, splits=sample_dataset.splits | {SPLIT: (kept, test)})


@pytest.fixture(scope="module")
def general(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of a network that was not trained, whose recipe augments as much as it can."""
    folder = tmp_path_factory.mktemp("general")
    (folder / "responses").mkdir()
    soundfile.write(folder / "responses" / "click.wav", np.eye(1, 64)[0], 32_000)
    settings = [f"augment.{key}={value}" for key, value in OTHER_DEVICE.items()]
    return run_of(folder, "nano", [*TINY, *settings, f"augment.dir_folder={folder / 'responses'}"], seed=3)[0]


@pytest.fixture
def start(general: Path, dataset: Dataset, sample_clips: Clips, tmp_path: Path) -> Adapt:
    """Adapt the general run into `tmp_path / "new"`."""

    def run(*overrides: str, resume: bool = False, clips: Clips = sample_clips, **more: Any) -> Adapted:
        arguments: dict[str, Any] = {"run": general, "dataset": dataset, "out": tmp_path / "new", "split": SPLIT}
        return adapt(clips=clips, overrides=[*QUICK, *overrides], resume=resume, **(arguments | more))

    return run


@pytest.fixture(scope="module")
def adapted(general: Path, dataset: Dataset, sample_clips: Clips, tmp_path_factory: pytest.TempPathFactory) -> Adapted:
    return adapt(general, dataset, sample_clips, tmp_path_factory.mktemp("adapted") / "run", SPLIT, QUICK)


@pytest.fixture(scope="module")
def biased_run(adapted: Adapted, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The adapted run, whose network for s1 answers with one scene, whatever it hears."""
    run = shutil.copytree(adapted.run, tmp_path_factory.mktemp("partial") / "run")
    path = run / "devices" / "s1" / "model.safetensors"
    tensors, header = load_tensors(path)
    card = read_card(header, path)
    assert card is not None
    tensors["feed_forward.1.weight"].zero_()  # of the last BatchNorm
    tensors["feed_forward.1.bias"].copy_(torch.eye(len(SCENES))[SCENE] * 4)
    save_tensors(path, tensors, card)
    return run


@pytest.fixture(scope="module")
def bundle(biased_run: Path, dataset: Dataset, sample_clips: Clips, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    out = tmp_path_factory.mktemp("quantized") / "bundle"
    settings = ["quantize.clips=16"]
    return quantize(biased_run, dataset, sample_clips, out, split=SPLIT, overrides=settings, attribution=["By Ann."])


@pytest.fixture
def folder(bundle: Bundle, tmp_path: Path) -> Path:
    """A copy of the bundle, to change."""
    return shutil.copytree(bundle.folder, tmp_path / "copy")


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def recorded_by(clips: Clips, *devices: str) -> np.ndarray:
    """Which clips these devices recorded, (clip,)."""
    return np.isin(clips.recording_devices(np.arange(len(clips.label))), devices)


# The run


def test_an_adapted_run_is_the_general_one_with_a_run_for_each_device(adapted: Adapted, general: Path) -> None:
    assert sha256(adapted.run / "model.safetensors") == sha256(general / "model.safetensors")
    assert {path.name for path in (adapted.run / "devices").iterdir()} == {"a", "s1"}
    assert not same_weights(adapted.run / "devices" / "a", general)
    assert not same_weights(adapted.run / "devices" / "a", adapted.run / "devices" / "s1")


def test_a_device_of_few_clips_is_left_to_the_general_network(adapted: Adapted) -> None:
    assert (adapted.devices, adapted.left_out) == ({"a": 30, "s1": 30}, {"s2": 12})


def test_a_teacher_that_was_asked_at_each_step_is_not_needed(start: Adapt, tmp_path: Path) -> None:
    gone = ["distill.online=runs/gone", "distill.transfer=gone", "distill.required=true"]
    run, _ = run_of(tmp_path, "nano", [*TINY, *gone])
    assert set(start("adapt.epochs=1", run=run).devices) == {"a", "s1"}


def test_a_devices_run_is_a_run(adapted: Adapted, general: Path) -> None:
    network, card = load_model(adapted.run / "devices" / "s1")
    assert not network.training
    assert (card.labels, card.split) == (SCENES, SPLIT)
    assert card.source == f"run3 sha256:{sha256(general / 'model.safetensors')}"
    assert [line["clips"] for line in metrics_of(adapted.run / "devices" / "s1")] == [30, 30]


def test_a_device_keeps_its_sound_while_its_network_is_fine_tuned(adapted: Adapted) -> None:
    recipe, usual = (load_model(run)[1].parsed_recipe for run in (adapted.run / "devices" / "s1", adapted.run))
    off = dict.fromkeys(OTHER_DEVICE, 0.0) | {"dir_folder": None}
    assert recipe.augment == usual.augment.model_copy(update=off) != usual.augment
    assert (recipe.train.epochs, recipe.train.lr, recipe.train.batch_size) == (2, 1e-2, 16)


def test_a_network_hears_its_own_device_alone(start: Adapt, adapted: Adapted, sample_clips: Clips) -> None:
    pcm = np.where(recorded_by(sample_clips, "s1")[:, None], sample_clips.pcm, -sample_clips.pcm // 2)
    run = start(clips=replace(sample_clips, pcm=pcm)).run
    assert same_weights(run / "devices" / "s1", adapted.run / "devices" / "s1")
    assert not same_weights(run / "devices" / "a", adapted.run / "devices" / "a")


def test_fine_tuning_starts_from_the_general_weights(start: Adapt, adapted: Adapted, general: Path) -> None:
    run = start("adapt.epochs=1", "adapt.lr=1e-12", run=adapted.run).run  # adapted again
    weights, expected = (dict(load_model(each)[0].named_parameters()) for each in (run / "devices" / "s1", general))
    torch.testing.assert_close(weights, expected, atol=1e-6, rtol=1e-6)


# Broken off


def interrupt(start: Callable[[], object], saves: int) -> None:
    """Start, and send SIGINT once so many checkpoints are written."""
    save, left = tinyscene.train.loop.loop.save_checkpoint, [saves]

    def save_and_interrupt(*arguments: Any) -> None:
        save(*arguments)
        left[0] -= 1
        if left[0] == 0:
            signal.raise_signal(signal.SIGINT)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tinyscene.train.loop.loop, "save_checkpoint", save_and_interrupt)
        with pytest.raises(InterruptedRunError, match="--resume"):
            start()


@pytest.mark.parametrize("saves", [1, 3])  # two a device
def test_a_broken_adaptation_goes_on_to_the_weights_of_an_unbroken_one(
    saves: int, start: Adapt, adapted: Adapted, tmp_path: Path
) -> None:
    interrupt(start, saves)
    with pytest.raises(InputError, match=r"holds no model\.safetensors"):
        load_model(tmp_path / "new")
    with pytest.raises(InputError, match="not empty"):
        start()
    start(resume=True)
    for device in adapted.devices:
        own, unbroken = (run / "devices" / device for run in (tmp_path / "new", adapted.run))
        assert metrics_of(own) == metrics_of(unbroken)
        assert same_weights(own, unbroken)
    load_model(tmp_path / "new")


def test_another_adaptation_is_not_gone_on_with(start: Adapt) -> None:
    interrupt(start, 1)
    with pytest.raises(InputError, match="another recipe"):
        start("adapt.epochs=3", resume=True)


def test_a_killed_adaptation_that_had_not_begun_goes_on(start: Adapt, adapted: Adapted, tmp_path: Path) -> None:
    (tmp_path / "new" / "devices").mkdir(parents=True)
    assert same_weights(start(resume=True).run / "devices" / "s1", adapted.run / "devices" / "s1")


# Refusals


def folders(where: Path) -> tuple[Dataset, Clips]:
    """A dataset that does not say which device recorded what."""
    for number, scene in enumerate(SCENES):
        (where / scene).mkdir(parents=True)
        for fold in (1, 2):
            soundfile.write(where / scene / f"{fold}-a.wav", np.full(32_000, 0.01 * (number + 1)), 32_000)
    found = open_dataset(where)
    return found, prepare(found, 32_000, where.parent / "cache")


def test_a_dataset_without_devices_is_refused(start: Adapt, tmp_path: Path) -> None:
    dataset, clips = folders(tmp_path / "folders")
    with pytest.raises(InputError, match="which device"):
        start(dataset=dataset, clips=clips, split="fold1")
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize(
    ("overrides", "more", "named"),
    [
        (["train.epochs=3"], {}, "only keys of its section adapt"),
        (["adapt.epoch=3"], {}, r"adapt\.epochs"),
        (["adapt.least_clips=31"], {}, "no device has 31"),
        ([], {"split": "7"}, "'7'"),
        ([], {"resume": True}, "nothing to resume"),
        ([], {"out": Path()}, "name a new folder"),
    ],
)
def test_what_cannot_be_adapted_is_refused(
    overrides: list[str], more: dict[str, Any], named: str, start: Adapt, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match=named) as caught:
        start(*overrides, **more)
    assert "\n" not in str(caught.value)
    assert [*tmp_path.iterdir()] == []


def test_bad_metrics_are_found_before_anything_is_fine_tuned(start: Adapt, general: Path, tmp_path: Path) -> None:
    run = shutil.copytree(general, tmp_path / "run")
    (run / "metrics.jsonl").write_text('{"epoch": 1')
    with pytest.raises(InputError, match="not the metrics of a training"):
        start(run=run)
    assert [*tmp_path.iterdir()] == [run]


@pytest.mark.parametrize("name", ["..", "../s1", "/etc", "s1/", ".hidden", "s\n1", "ß", "s" * 65])
def test_a_device_whose_name_leads_elsewhere_is_refused(
    name: str, start: Adapt, dataset: Dataset, sample_clips: Clips, tmp_path: Path
) -> None:
    def renamed(item: Any) -> Any:
        known = {"device": name} if item.device == "s1" else {}
        return replace(item, **known) if isinstance(item, ListedRecording) else item.model_copy(update=known)

    clips = replace(sample_clips, recordings=tuple(map(renamed, sample_clips.recordings)))
    with pytest.raises(InputError, match="must be named by"):
        start(dataset=replace(dataset, recordings=tuple(map(renamed, dataset.recordings))), clips=clips)
    assert [*tmp_path.iterdir()] == []


# Evaluation


@pytest.mark.parametrize("what", ["run", "bundle"])
def test_each_recording_is_classified_by_the_network_of_its_device(
    what: str, biased_run: Path, bundle: Bundle, dataset: Dataset, sample_clips: Clips
) -> None:
    path, runner = (biased_run, "torch") if what == "run" else (bundle.folder, "reference")
    model, paths = open_evaluated_model(path, runner), dataset.split(SPLIT)[1][::3]
    by_device = evaluate(model.predict, sample_clips, paths, model.variants).by_device
    usual = evaluate(model.predict, sample_clips, paths).by_device
    assert {device for device in usual if by_device[device] != usual[device]} == {"a", "s1"}
    of_s1 = [item.label for item in sample_clips.recordings if item.path in paths and item.device == "s1"]
    assert by_device["s1"].correct == of_s1.count(SCENES[SCENE]) > 0


def test_the_clips_of_a_device_are_given_to_its_own_function_once(dataset: Dataset, sample_clips: Clips) -> None:
    heard: dict[str, list[np.ndarray]] = {"": [], "s1": [], "s9": []}

    def listener(name: str) -> Any:
        return lambda pcm: heard[name].append(pcm) or np.full((len(pcm), len(SCENES)), 0.1, np.float32)

    paths = dataset.split(SPLIT)[1]
    variants = {name: listener(name) for name in ("s1", "s9")}
    result = evaluate(listener(""), sample_clips, paths, variants)
    assert (result.clips, result.log_loss) == (len(paths), pytest.approx(np.log(10)))
    chosen = sample_clips.select(paths)
    of_s1 = chosen[sample_clips.recording_devices(chosen) == "s1"]
    assert np.array_equal(np.concatenate(heard["s1"]), sample_clips.pcm[of_s1])
    assert sum(map(len, heard[""])) == len(chosen) - len(of_s1)
    assert heard["s9"] == []


def test_a_network_of_another_kind_is_refused(adapted: Adapted, tmp_path: Path) -> None:
    run = shutil.copytree(adapted.run, tmp_path / "run")
    other, _ = run_of(tmp_path / "other", "nano", [*TINY, "model.base_channels=16"])
    shutil.copy(other / "model.safetensors", run / "devices" / "s1" / "model.safetensors")
    with pytest.raises(InputError, match=r"devices/s1: has other"):
        open_evaluated_model(run, "torch")


# One bundle


def test_a_variant_is_what_quantizing_the_devices_run_with_its_clips_makes(
    bundle: Bundle, biased_run: Path, dataset: Dataset, sample_clips: Clips, tmp_path: Path
) -> None:
    part = replace(dataset, splits={SPLIT: (tuple(p for p in dataset.split(SPLIT)[0] if p.endswith("-a.wav")), ())})
    alone = quantize(
        biased_run / "devices" / "a", part, sample_clips, tmp_path / "alone", overrides=["quantize.clips=16"]
    )
    assert graph_of(alone.folder) == graph_of(bundle.folder / "variants" / "a")
    assert graph_of(bundle.folder) != graph_of(alone.folder)


def test_a_bundle_has_a_table_of_its_variants(bundle: Bundle) -> None:
    assert bundle.variants == ("a", "s1")
    assert bundle.content["variants"].keys() == {path.name for path in (bundle.folder / "variants").iterdir()}
    assert "a, s1" in (bundle.folder / "MODEL_CARD.md").read_text()


def test_an_attribution_stands_in_every_card(bundle: Bundle) -> None:
    cards = sorted(bundle.folder.rglob("MODEL_CARD.md"))
    assert len(cards) == 3
    assert all("### Attribution\n\n- By Ann.\n" in card.read_text() for card in cards)


def test_a_variant_is_opened_by_its_device_and_as_a_bundle(bundle: Bundle) -> None:
    variant = bundle.variant("s1")
    assert variant.folder == bundle.folder / "variants" / "s1"
    assert open_bundle(variant.folder).content == variant.content
    assert variant.content["trained"]["source"].startswith("run3 sha256:")


@pytest.mark.parametrize("device", ["s2", "s9", "", "..", "../variants/s1", "."])
def test_a_device_without_a_variant_has_the_general_bundle(device: str, bundle: Bundle) -> None:
    assert bundle.variant(device) is bundle


def swap(folder: Path) -> None:
    shutil.rmtree(folder / "variants" / "s1")
    shutil.copytree(folder / "variants" / "a", folder / "variants" / "s1")


def edit(folder: Path) -> None:
    index = folder / "variants" / "s1" / "bundle.json"
    content = json.loads(index.read_text())
    content["budget"]["macs"] -= 1
    index.write_text(json.dumps(content))


TAMPERING: dict[str, tuple[Callable[[Path], object], str]] = {
    "another device's": (swap, "not the variant"),
    "another index": (edit, "not the variant"),
    "another graph": (lambda folder: (folder / "variants/s1/graph.safetensors").write_bytes(b"{}"), "was changed"),
    "none": (lambda folder: shutil.rmtree(folder / "variants" / "s1"), "not a bundle"),
}


@pytest.mark.parametrize("how", TAMPERING)
def test_a_variant_that_was_tampered_with_is_refused(how: str, folder: Path) -> None:
    tamper, named = TAMPERING[how]
    tamper(folder)
    opened = open_bundle(folder)
    assert opened.variant("a").folder == folder / "variants" / "a"
    with pytest.raises(InputError, match=named):
        opened.variant("s1")


def test_a_variant_of_other_labels_is_refused(folder: Path) -> None:
    index = folder / "variants" / "s1" / "bundle.json"
    content = json.loads(index.read_text())
    index.write_text(json.dumps(content | {"labels": content["labels"][::-1]}))
    opened = open_bundle(folder)
    opened.content["variants"]["s1"]["sha256"] = open_bundle(index.parent).fingerprint
    with pytest.raises(InputError, match="other labels"):
        opened.variant("s1")


def test_a_variant_takes_exports_and_metrics(folder: Path) -> None:
    variant = open_bundle(folder).variant("s1")
    variant.add_export("tflite", b"anything")
    variant.record("metrics", {"accuracy": 0.5})
    assert open_bundle(folder).variant("s1").exported("tflite") == b"anything"


def test_a_bundle_with_variants_is_written_whole_or_not_at_all(
    adapted: Adapted, dataset: Dataset, sample_clips: Clips, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import tinyscene.deploy.bundle.bundle

    make, left = tinyscene.deploy.bundle.bundle.make_vectors, [3]

    def fail(*arguments: Any) -> Any:
        left[0] -= 1
        if left[0] == 0:
            raise KeyboardInterrupt
        return make(*arguments)

    monkeypatch.setattr(tinyscene.deploy.bundle.bundle, "make_vectors", fail)
    with pytest.raises(KeyboardInterrupt):
        quantize(adapted.run, dataset, sample_clips, tmp_path / "new", split=SPLIT, overrides=["quantize.clips=8"])
    assert left == [0]
    assert [*tmp_path.iterdir()] == []


def test_data_without_a_device_of_the_run_is_refused(
    adapted: Adapted, dataset: Dataset, sample_clips: Clips, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match="no recording of device s1"):
        quantize(adapted.run, part_of(dataset, SPLIT, "a"), sample_clips, tmp_path / "new", split=SPLIT)


def test_broken_fine_tuning_of_a_variant_goes_on_to_the_graphs_of_an_unbroken_one(
    adapted: Adapted, dataset: Dataset, sample_clips: Clips, tmp_path: Path
) -> None:
    settings = ["quantize.clips=8", "quantize.epochs=2", "quantize.lr=1e-3"]

    def run(name: str, resume: bool = False) -> Bundle:
        return quantize(adapted.run, dataset, sample_clips, tmp_path / name, True, SPLIT, settings, resume)

    unbroken = run("unbroken")
    interrupt(lambda: run("broken"), 3)  # the general network's two, and the first of device a's
    assert [path.name for path in (tmp_path / "broken.qat" / "devices").iterdir()] == ["a"]
    broken = run("broken", resume=True)
    for device in adapted.devices:
        assert graph_of(broken.variant(device).folder) == graph_of(unbroken.variant(device).folder)
        assert [epoch["clips"] for epoch in broken.variant(device).content["quantized"]["training"]] == [30, 30]
    assert {path.name for path in tmp_path.iterdir()} == {"unbroken", "broken"}


# The commands


@pytest.mark.slow
def test_the_commands_adapt_quantize_evaluate_and_classify(
    general: Path, small_dataset: Path, tmp_path: Path, run_cli: Callable[..., tuple[int, str, str]]
) -> None:
    run, out = tmp_path / "run", tmp_path / "bundle"
    settings = [word for each in ["adapt.epochs=1", "adapt.least_clips=20"] for word in ("--set", each)]
    code, shown, _ = run_cli("adapt", general, "--data", small_dataset, "--out", run, *settings, "--json")
    adapted = json.loads(shown)
    assert (code, adapted["run"], adapted["devices"]["s1"], adapted["left_out"]) == (0, str(run), 30, {})
    assert run_cli("evaluate", run, "--data", small_dataset)[0] == 0
    few = ["--set", "quantize.clips=8"]
    assert run_cli("quantize", run, "--data", small_dataset, "--out", out, *few)[0] == 0
    assert run_cli("inspect", out / "variants" / "s1")[0] == 0
    sounds = sorted((small_dataset / "audio").iterdir())[:1]
    given = [("--device", "s1"), ("--device", "s9"), ()]
    answers = [run_cli("classify", out, *sounds, *each, "--json")[:2] for each in given]  # stderr says what is compiled
    own = run_cli("classify", out / "variants" / "s1", *sounds, "--json")[:2]
    assert [code for code, _ in answers] == [0, 0, 0]
    assert (answers[0], answers[1]) == (own, answers[2])
    assert answers[0] != answers[1]


def test_a_run_is_not_asked_for_a_device(adapted: Adapted, run_cli: Callable[..., tuple[int, str, str]]) -> None:
    code, shown, error = run_cli("classify", adapted.run, "any.wav", "--device", "s1")
    assert (code, shown, error.count("\n")) == (2, "", 1)
    assert "RUN/devices/DEVICE" in error

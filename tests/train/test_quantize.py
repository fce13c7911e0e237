"""`tinyscene quantize`: from a run to a bundle, by calibration alone or with fine-tuning, broken off or not."""

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from numpy.typing import NDArray
from torch import nn

import tinyscene.train.loop.loop
from tests.processors import available
from tests.train.test_export import run_of
from tinyscene.deploy.bundle.bundle import Bundle, open_bundle
from tinyscene.deploy.common.files import sha256
from tinyscene.deploy.frontend.log_mel import float_pcm
from tinyscene.deploy.graph.reference import run as run_graph
from tinyscene.deploy.live.classifier import BundleClassifier
from tinyscene.train.data.cache import Clips
from tinyscene.train.data.datasets import Dataset
from tinyscene.train.quantize.decide import RuleSettings
from tinyscene.train.quantize.quantize import quantize
from tinyscene.train.teachers.distill import Targets, cross_entropy, from_network

RunCli = Callable[..., tuple[int, str, str]]
Quantized = Callable[..., Bundle]
FEATURES = ["features.n_fft=1024", "features.win_length=1024", "features.hop_length=1000", "features.n_mels=32"]
TINY = ["model.n_blocks=[1]", "model.strides={}", *FEATURES]
STILL = ["augment.roll_seconds=0", "augment.freq_mask=0", "augment.mixstyle_p=0"]
FINE_TUNING = ["quantize.clips=16", "quantize.epochs=2", "quantize.lr=1e-3"]
CLIPPING = ["quantize.percentile=80", "quantize.epochs=6", "quantize.lr=0.01"]  # of a fifth of the values at each end
NO_STEP = ["quantize.epochs=1", "quantize.lr=1e-12"]  # the metrics are then those of one network
GRAPH_FILES = ("graph.json", "graph.safetensors", "float.json", "float.safetensors")
SPLIT = "5"
SHORT = ("--set", "quantize.clips=16", "--set", "quantize.calibration=mse")


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run without augmentation, of a network that was not trained."""
    return run_of(tmp_path_factory.mktemp("tiny"), "nano", [*TINY, *STILL])[0]


@pytest.fixture(scope="module")
def quantized(tiny: Path, sample_dataset: Dataset, sample_clips: Clips, tmp_path_factory: pytest.TempPathFactory):
    """Quantize the tiny run. Returns the bundle."""

    def make(*overrides: str, qat: bool = False, clips: Clips = sample_clips) -> Bundle:
        out = tmp_path_factory.mktemp("quantized") / "bundle"
        return quantize(tiny, sample_dataset, clips, out, qat, SPLIT, [*FINE_TUNING, *overrides])

    return make


@pytest.fixture(scope="module")
def fine_tuned(quantized: Quantized) -> Bundle:
    return quantized(qat=True)


@pytest.fixture
def command(tiny: Path, sample: Path, run_cli: RunCli) -> RunCli:
    """Run `tinyscene quantize` on the tiny run."""

    def run(*more: object, run: Path = tiny, data: Path = sample) -> tuple[int, str, str]:
        settings = [word for each in FINE_TUNING for word in ("--set", each)]
        return run_cli("quantize", run, "--data", data, *settings, *more)

    return run


def graph_of(folder: Path) -> dict[str, bytes]:
    return {name: (folder / name).read_bytes() for name in GRAPH_FILES}


def log_softmax(logits: NDArray[np.float32]) -> NDArray[np.float32]:
    logits = logits - logits.max(1, keepdims=True)
    return logits - np.log(np.exp(logits).sum(1, keepdims=True))


def answers(bundle: Bundle, clips: Clips, chosen: NDArray[np.int64]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Logarithms of the probabilities of the integers and of the float graph, (clip, classes) each."""
    log_mel = bundle.front_end.log_mel(float_pcm(clips.pcm[chosen]))[..., None]
    integers = BundleClassifier(bundle, "reference").logits(clips.pcm[chosen])
    return log_softmax(integers), log_softmax(run_graph(bundle.float_graph, log_mel))


def divergence(integers: NDArray[np.float32], exact: NDArray[np.float32]) -> float:
    """The mean Kullback-Leibler divergence of the integers' probabilities from those of the float graph."""
    return float((np.exp(exact) * (exact - integers)).sum(1).mean())


# A bundle


def test_a_bundle_is_made_and_evaluates(command: RunCli, run_cli: RunCli, small_dataset: Path, tmp_path: Path) -> None:
    out = tmp_path / "out" / "bundle"
    code, shown, _ = command("--out", out, "--json", data=small_dataset)
    assert code == 0
    assert json.loads(shown)["bundle"] == str(out)
    assert [path.name for path in out.parent.iterdir()] == ["bundle"]
    code, shown, _ = run_cli("evaluate", out, "--data", small_dataset, "--json")
    assert (code, json.loads(shown)["clips"]) == (0, 20)


def test_the_integers_answer_nearly_as_the_float_network(
    quantized: Quantized, sample_dataset: Dataset, sample_clips: Clips
) -> None:
    chosen = sample_clips.select(sample_dataset.split(SPLIT)[1])[::5]
    integers, exact = answers(quantized(), sample_clips, chosen)
    assert np.abs(np.exp(integers) - np.exp(exact)).max() < 0.1


def test_few_calibration_clips_are_a_warning_that_the_bundle_keeps(command: RunCli, tmp_path: Path) -> None:
    code, _, error = command("--out", tmp_path / "bundle", "--split", SPLIT)
    (line,) = open_bundle(tmp_path / "bundle").content["quantized"]["warnings"]
    assert code == 0
    assert "16 clips" in line
    assert error == f"quantize: {line}\n"


def test_the_bundle_says_what_it_was_made_of(fine_tuned: Bundle, sample_clips: Clips) -> None:
    quantization = fine_tuned.content["quantized"]
    assert quantization["split"] == SPLIT
    assert quantization["data_hash"] == sample_clips.data_hash
    assert quantization["calibration_clips"] == 16
    assert fine_tuned.content["recipe"]["quantize"]["lr"] == 1e-3
    assert fine_tuned.content["errors"].keys() == fine_tuned.graph.tensors.keys()


class Read:
    """Clips' PCM that notes which clips are read."""

    def __init__(self, pcm: NDArray[np.int16]) -> None:
        self.pcm, self.shape, self.clips = pcm, pcm.shape, set()

    def __getitem__(self, chosen: NDArray[np.int64]) -> NDArray[np.int16]:
        self.clips |= set(chosen.tolist())
        return self.pcm[chosen]


@pytest.mark.parametrize("qat", [False, True])
def test_only_training_clips_are_read(
    qat: bool, quantized: Quantized, sample_dataset: Dataset, sample_clips: Clips
) -> None:
    pcm: Any = Read(sample_clips.pcm)
    quantized(qat=qat, clips=replace(sample_clips, pcm=pcm))
    training = set(sample_clips.select(sample_dataset.split(SPLIT)[0]).tolist())
    assert pcm.clips <= training
    assert len(pcm.clips) == (len(training) if qat else 16)


def test_the_same_seed_makes_the_same_graph(quantized: Quantized) -> None:
    first, second, other = quantized(), quantized(), quantized("quantize.clips=8")
    assert graph_of(first.folder) == graph_of(second.folder)
    assert graph_of(first.folder) != graph_of(other.folder)


@pytest.mark.slow  # make test-portable runs it on several
def test_every_processor_makes_the_same_bundle(tiny: Path, sample: Path, cache: Path, tmp_path: Path) -> None:
    made = []
    for index, environment in enumerate(available().values()):
        line = [sys.executable, "-m", "tinyscene", "quantize", tiny, "--data", sample, "--split", SPLIT]
        out = tmp_path / str(index) / "bundle"
        subprocess.run([*line, "--out", out, *SHORT], env=os.environ | environment, check=True, capture_output=True)
        content = open_bundle(out).content
        content["quantized"].pop("made_by")  # which says when and where
        content["files"].pop("MODEL_CARD.md")
        made.append((graph_of(out), content))
    assert len(made) >= 2
    assert all(each == made[0] for each in made)


@pytest.mark.parametrize(
    "setting",
    [
        *("calibration=minmax", "calibration=mse", "percentile=98.0"),
        *("equalize=false", "bias_correction=false", "rounding=false"),
    ],
)
def test_a_setting_changes_the_graph(setting: str, quantized: Quantized) -> None:
    key, value = setting.split("=")
    usual, bundle = (quantized("quantize.percentile=99", *more) for more in ([], [f"quantize.{setting}"]))
    assert str(bundle.content["recipe"]["quantize"][key]).lower() == value
    assert graph_of(bundle.folder) != graph_of(usual.folder)


# Refusals


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ("--set train.epochs=1", "train.epochs=1: the run is trained"),
        ("--set quantize.calibraton=mse", "'quantize.calibration'"),
        ("--set quantize.calibration=best", "quantize.calibration"),
        ("--set quantize.clips", "key=value"),
        ("--split 7", "'7'"),
    ],
)
def test_bad_settings_are_refused(arguments: str, named: str, command: RunCli, tmp_path: Path) -> None:
    code, shown, error = command("--out", tmp_path / "new", *arguments.split())
    assert (code, shown, error.count("\n")) == (2, "", 1)
    assert named in error
    assert list(tmp_path.iterdir()) == []


NAMED = {  # what is wrong, and what the line names
    "missing": "no such run",
    "unfinished": "--resume",
    "two": "labels",
    "taken": "already exists",
    "here": ".",
    "resume": "no run to resume",
}


@pytest.mark.parametrize("fault", NAMED)
def test_what_cannot_be_quantized_is_refused(
    fault: str, command: RunCli, tiny: Path, sample: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("unfinished", "taken", "empty", "two/hum", "two/hiss"):
        (tmp_path / name).mkdir(parents=True)
    shutil.copy(tiny / "model.safetensors", tmp_path / "unfinished" / "checkpoint.safetensors")
    (tmp_path / "taken" / "file").touch()
    for name in ("hum/1-a.wav", "hiss/2-a.wav"):
        soundfile.write(tmp_path / "two" / name, np.full(32_000, 0.1), 32_000)
    monkeypatch.chdir(tmp_path / "empty")
    run = tmp_path / fault if fault in ("missing", "unfinished") else tiny
    out = {"taken": tmp_path / "taken", "here": Path()}.get(fault, tmp_path / "new")
    more = {"taken": ["--qat"], "resume": ["--qat", "--resume"]}.get(fault, [])
    before = {*tmp_path.rglob("*")}
    code, shown, error = command("--out", out, *more, run=run, data=tmp_path / "two" if fault == "two" else sample)
    assert (code, shown, error.count("\n")) == (2, "", 1)
    assert NAMED[fault] in error
    assert {*tmp_path.rglob("*")} == before


def test_a_network_over_its_budget_is_quantized_only_if_that_is_allowed(
    command: RunCli, sample: Path, tmp_path: Path
) -> None:
    run, _ = run_of(tmp_path / "runs", "nano", [*TINY, "budget.max_macs=1000"])
    out = tmp_path / "new" / "bundle"
    code, shown, error = command("--out", out, "--split", SPLIT, run=run)
    assert (code, shown, error.count("\n")) == (3, "", 1)
    assert "MACs" in error
    assert not out.parent.exists()
    assert command("--out", out, "--split", SPLIT, "--allow-over-budget", run=run)[0] == 0


# Fine-tuning


def test_fine_tuning_takes_back_part_of_what_clipping_costs(
    quantized: Quantized, sample_dataset: Dataset, sample_clips: Clips
) -> None:
    chosen = sample_clips.select(sample_dataset.split(SPLIT)[0])
    clipped, tuned = (quantized(*CLIPPING, qat=qat) for qat in (False, True))
    before, after = (divergence(*answers(bundle, sample_clips, chosen)) for bundle in (clipped, tuned))
    assert after < 0.85 * before  # 0.65: far more than the order of sums can move


def test_the_loss_is_the_divergence_from_the_float_network_whatever_the_labels(
    quantized: Quantized, sample_dataset: Dataset, sample_clips: Clips
) -> None:
    chosen = sample_clips.select(sample_dataset.split(SPLIT)[0])
    shuffled = replace(sample_clips, label=np.random.default_rng(0).permutation(sample_clips.label))
    bundles = [quantized(*NO_STEP, qat=True, clips=clips) for clips in (sample_clips, shuffled)]
    losses = [bundle.content["quantized"]["training"][0]["loss"] for bundle in bundles]
    integers, exact = answers(bundles[0], sample_clips, chosen)
    assert losses[0] == losses[1]
    assert losses[0] == pytest.approx(divergence(integers, exact), rel=0.2)


def test_without_distillation_the_loss_is_the_cross_entropy_with_the_labels(
    quantized: Quantized, sample_dataset: Dataset, sample_clips: Clips
) -> None:
    chosen = sample_clips.select(sample_dataset.split(SPLIT)[0])
    bundle = quantized(*NO_STEP, "quantize.distill=0", qat=True)
    integers, _ = answers(bundle, sample_clips, chosen)
    expected = -float(integers[np.arange(len(chosen)), sample_clips.label[chosen]].mean())
    assert bundle.content["quantized"]["training"][0]["loss"] == pytest.approx(expected, rel=0.01)


@pytest.mark.parametrize("share", [0.0, 0.25, 1.0])
def test_the_loss_is_divergence_and_cross_entropy_in_these_shares(share: float) -> None:
    rng = np.random.default_rng(0)
    ours, theirs = rng.normal(0, 2, (2, 6, 10)).astype(np.float32)
    targets = rng.dirichlet(np.ones(10), 6).astype(np.float32)
    loss = from_network(nn.Flatten(), share, cross_entropy)  # a float network that answers with what it is given
    q, p = log_softmax(ours), log_softmax(theirs)
    expected = (share * np.exp(p) * (p - q) - (1 - share) * targets * q).sum()
    found = loss(torch.tensor(ours), Targets(torch.tensor(theirs).reshape(6, 1, 2, 5), torch.tensor(targets)))
    assert float(found) == pytest.approx(float(expected), rel=1e-5)


def test_the_divergence_is_the_mean_over_all_clips_where_half_are_of_another_folder() -> None:
    clips = Targets(torch.randn(6, 1, 2, 5), torch.zeros(6, 10))
    logits = torch.randn(6, 10)
    own, with_others = (
        from_network(nn.Flatten(), 1.0, cross_entropy, others)(logits, clips) for others in (False, True)
    )
    assert float(with_others) == pytest.approx(float(own) / 2)


@pytest.mark.parametrize("share", [0, 1])
def test_the_model_card_speaks_of_distillation_where_there_was_any(share: int, quantized: Quantized) -> None:
    bundle = quantized(*NO_STEP, f"quantize.distill={share}", qat=True)
    assert ("distilled" in (bundle.folder / "MODEL_CARD.md").read_text()) == bool(share)


def interrupted(command: RunCli, out: Path) -> tuple[int, str]:
    """Fine-tune until the first checkpoint is written, when SIGINT arrives. Returns exit code and stderr."""
    save = tinyscene.train.loop.loop.save_checkpoint

    def save_and_interrupt(*arguments: Any) -> None:
        save(*arguments)
        patch.setattr(tinyscene.train.loop.loop, "save_checkpoint", save)
        signal.raise_signal(signal.SIGINT)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tinyscene.train.loop.loop, "save_checkpoint", save_and_interrupt)
        code, _, error = command("--out", out, "--split", SPLIT, "--qat")
    return code, error


def test_interrupted_fine_tuning_goes_on_to_the_graph_of_an_unbroken_one(
    command: RunCli, fine_tuned: Bundle, tmp_path: Path
) -> None:
    out = tmp_path / "bundle"
    code, error = interrupted(command, out)
    assert (code, error.count("\n")) == (130, 1)
    assert "--resume" in error
    assert [path.name for path in tmp_path.iterdir()] == ["bundle.qat"]
    assert command("--out", out, "--split", SPLIT, "--qat", "--resume")[0] == 0
    assert graph_of(out) == graph_of(fine_tuned.folder)
    assert len(open_bundle(out).content["quantized"]["training"]) == 2
    assert [path.name for path in tmp_path.iterdir()] == ["bundle"]


def test_left_over_fine_tuning_is_not_lost_without_a_word(command: RunCli, tmp_path: Path) -> None:
    interrupted(command, tmp_path / "bundle")
    code, _, error = command("--out", tmp_path / "bundle", "--split", SPLIT, "--qat")
    assert (code, error.count("\n")) == (2, 1)
    assert "bundle.qat: holds a run; go on with --resume" in error
    assert [path.name for path in tmp_path.iterdir()] == ["bundle.qat"]


@pytest.fixture(scope="module")
def left_over(
    tiny: Path, sample_dataset: Dataset, sample_clips: Clips, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """A bundle, and beside it the fine-tuning that was to be removed when the process was killed."""
    out = tmp_path_factory.mktemp("left") / "bundle"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("tinyscene.train.quantize.quantize.remove_folder", lambda folder: None)
        quantize(tiny, sample_dataset, sample_clips, out, True, SPLIT, FINE_TUNING, rule=RuleSettings(average=2))
    return out


def test_what_was_killed_before_its_fine_tuning_was_removed_removes_it_when_resumed(
    left_over: Path, command: RunCli, tmp_path: Path
) -> None:
    shutil.copytree(left_over.parent, tmp_path, dirs_exist_ok=True)
    out = tmp_path / "bundle"
    assert command("--out", out, "--split", SPLIT, "--qat", "--average", 2, "--resume")[0] == 0
    assert [path.name for path in tmp_path.iterdir()] == ["bundle"]
    assert sha256(out / "bundle.json") == sha256(left_over / "bundle.json")


@pytest.mark.parametrize(
    ("words", "change"),
    [
        ("--average 2 --set quantize.lr=2e-3", "quantize.lr=0.001, not 0.002"),
        ("--average 2 --split 10", "--split 5"),
        ("--average 2 --attribution pyproject.toml", "another --attribution"),
        ("--average 3", "another --keep, --average, --margin or --patience"),
        ("", "another --keep, --average, --margin or --patience"),
    ],
)
def test_a_bundle_that_was_made_with_other_options_is_not_taken_for_the_one_resumed(
    words: str, change: str, left_over: Path, command: RunCli
) -> None:
    code, out, err = command("--out", left_over, "--split", SPLIT, "--qat", "--resume", *words.split())
    line = f"tinyscene: {left_over}: was made with {change}; resume with the same, or choose another --out\n"
    assert (code, out, err) == (2, "", line)
    assert left_over.with_name("bundle.qat").exists()


def test_a_bundle_of_another_run_is_not_taken_for_the_one_resumed(
    left_over: Path, command: RunCli, tmp_path: Path
) -> None:
    other, _ = run_of(tmp_path / "other", "nano", [*TINY, *STILL], seed=1)
    err = command("--out", left_over, "--split", SPLIT, "--qat", "--average", 2, "--resume", run=other)[2]
    assert "was made with another run" in err


def test_fine_tuning_beside_a_bundle_of_another_is_not_removed(
    command: RunCli, fine_tuned: Bundle, tmp_path: Path
) -> None:
    interrupted(command, tmp_path / "bundle")
    shutil.copytree(fine_tuned.folder, tmp_path / "bundle")
    code, _, error = command("--out", tmp_path / "bundle", "--split", SPLIT, "--qat", "--resume")
    assert (code, "already exists" in error, (tmp_path / "bundle.qat").exists()) == (2, True, True)


def test_fine_tuning_of_another_network_is_not_resumed(command: RunCli, tmp_path: Path) -> None:
    interrupted(command, tmp_path / "bundle")
    other, _ = run_of(tmp_path / "other", "nano", [*TINY, *STILL], seed=1)
    code, _, error = command("--out", tmp_path / "bundle", "--split", SPLIT, "--qat", "--resume", run=other)
    assert (code, error.count("\n")) == (2, 1)
    assert not (tmp_path / "bundle").exists()

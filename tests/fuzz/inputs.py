"""Valid files of every format, made by tinyscene itself, small enough to be fuzzed."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile
import torch

from tinyscene.deploy.common.provenance import provenance
from tinyscene.deploy.graph.tflite_writer import write_tflite
from tinyscene.train.data.cache import prepare
from tinyscene.train.data.datasets import SCENES, TAU_COLUMNS, open_dataset
from tinyscene.train.export import export_onnx
from tinyscene.train.models import build
from tinyscene.train.quantize.lower import lower
from tinyscene.train.quantize.quantize import quantize
from tinyscene.train.recipe import Recipe, load_recipe
from tinyscene.train.runs.run import MODEL, Card, load_model, save_tensors, write_recipe
from tinyscene.train.teachers.logits import make_logits

RATE = 4_000  # Hz, of the front end
LABELS = ("rain", "street")
FRONT_END = [f"features.sample_rate={RATE}", "features.n_fft=256", "features.win_length=192"]
FRONT_END += ["features.hop_length=250", "features.n_mels=16"]
NETWORK = ["model.base_channels=8", "model.n_blocks=[1]", "model.strides={}", "quantize.clips=4"]


@dataclass(frozen=True)
class Inputs:
    """Where the files are."""

    folder: Path

    @property
    def bundle(self) -> Path:
        return self.folder / "bundle"

    @property
    def run(self) -> Path:
        return self.folder / "run"

    @property
    def sounds(self) -> Path:
        """A dataset with a folder a class."""
        return self.folder / "sounds"

    @property
    def tau(self) -> Path:
        """The lists of a dataset as TAU's are."""
        return self.folder / "tau"


def make_inputs(folder: Path) -> Inputs:
    """Make all files in a folder. It takes some seconds."""
    inputs, recipe = Inputs(folder), load_recipe("nano", [*FRONT_END, *NETWORK])
    _write_sounds(inputs.sounds)
    _write_lists(inputs.tau)
    _write_run(inputs.run, recipe)
    dataset = open_dataset(inputs.sounds)
    clips = prepare(dataset, RATE, folder / "cache")
    quantize(inputs.run, dataset, clips, inputs.bundle, split="fold1")
    make_logits([inputs.run], dataset, clips, "fold1", folder / "logits.safetensors")
    network, card = load_model(inputs.run)
    torch.save(network.state_dict(), folder / "weights.pt")
    torch.save({path: torch.zeros(len(SCENES)) for path in ("a.wav", "b.wav")}, folder / "logits.pt")
    export_onnx(inputs.run, folder / "model.onnx")
    metadata = {"labels": list(card.labels), "front_end": recipe.features.as_dict()}
    (folder / "model.tflite").write_bytes(write_tflite(lower(network, recipe.features.shape), metadata))
    return inputs


def _write_sounds(folder: Path) -> None:
    rng = np.random.default_rng(0)
    for label in LABELS:
        (folder / label).mkdir(parents=True)
        for fold in "12":
            samples = rng.normal(0, 0.1, RATE)
            for kind in ("wav", "flac", "ogg", "aiff", "mp3", "caf"):
                rate = RATE if kind != "mp3" else 16_000
                soundfile.write(folder / label / f"{fold}-{kind}.{kind}", samples, rate)
    soundfile.write(folder / LABELS[0] / "1-stereo.wav", rng.normal(0, 0.1, (400, 2)), RATE, "FLOAT")


def _write_lists(folder: Path) -> None:
    (folder / "evaluation_setup").mkdir(parents=True)
    names = [f"audio/{scene}-lyon-1-1-{device}.wav" for scene in SCENES[:3] for device in "ab"]
    rows = [TAU_COLUMNS, *((name, name.split("/")[1].split("-")[0], "lyon-1", name[-5]) for name in names)]
    (folder / "meta.csv").write_text("".join("\t".join(row) + "\n" for row in rows))
    for name, part in (("split5", names[:4]), ("test", names[4:])):
        (folder / "evaluation_setup" / f"{name}.csv").write_text("\n".join(("filename", *part)) + "\n")


def _write_run(folder: Path, recipe: Recipe) -> None:
    torch.manual_seed(0)
    network = build(recipe.model, len(LABELS)).eval()
    write_recipe(folder, recipe)
    card = Card(recipe=recipe.as_dict(), labels=LABELS, made_by=provenance())
    save_tensors(folder / MODEL, network.state_dict(), card)

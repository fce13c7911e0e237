"""A network for each recording device: a trained run, fine-tuned on what a device recorded.

    tinyscene adapt RUN --data DATA --split 25 --out RUN2 [--resume] [--set adapt.KEY=VALUE]

In DCASE 2025 Task 1 the device is known when a sound is classified: one that was trained on gets a network of its
own, every other one the general network (F. Schmid et al., "Low-Complexity Acoustic Scene Classification with
Device Information in the DCASE 2025 Challenge", 2025, whose baseline gains 1.2 points so, 50.7 to 51.9 %).

RUN2 is a run like RUN, whose network is its general one, with a run for each device in `devices/`: fine-tuned from
the general weights, by the loop and recipe those were trained with, on the device's training clips alone. `evaluate`
picks the network by each clip's device, and `quantize` makes one bundle of all. A device with fewer than
`adapt.least_clips` training clips is left to the general network.
"""

from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from tinyscene.deploy.bundle.index import require_device_name
from tinyscene.deploy.common.errors import InputError
from tinyscene.deploy.common.files import read_bounded, require_free, sha256, write_whole
from tinyscene.train.data.cache import Clips
from tinyscene.train.data.datasets import Dataset
from tinyscene.train.data.training_data import TrainingData
from tinyscene.train.loop.fine_tune import lower_rate_advised, with_overrides
from tinyscene.train.loop.loop import InitialNetwork, fit
from tinyscene.train.recipe import Recipe
from tinyscene.train.runs.recording_devices import DEVICES, part_of
from tinyscene.train.runs.run import (
    MAX_METRICS,
    METRICS,
    MODEL,
    RunFolder,
    load_model,
    model_path,
    read_metrics,
    save_tensors,
    write_recipe,
)
from tinyscene.train.teachers.distill import loss_of
from tinyscene.train.training_settings import Consistency


@dataclass(frozen=True)
class Adapted:
    """An adapted run, and how many training clips each device has."""

    run: Path
    devices: dict[str, int]  # with a network of their own
    left_out: dict[str, int]  # left to the general network


def adapt(
    run: Path,
    dataset: Dataset,
    clips: Clips,
    out: Path,
    split: str | None = None,
    overrides: list[str] | None = None,
    resume: bool = False,
) -> Adapted:
    """Fine-tune a run for each device in the training list of a split of a dataset, and write the new run.

    Raises:
        InputError: the run, the overrides or the dataset cannot be used, or `out` is taken or holds nothing to resume.
        InterruptedRunError: Ctrl-C while fine-tuning; it can be resumed.
    """
    if not out.name:
        raise InputError(f"{out}: name a new folder for the run")
    card = load_model(run)[1]
    recipe = with_overrides(card, overrides or [], "adapt", run)
    clips.require_labels(card.labels, run)
    split = split or card.split or dataset.default_split
    counts = _count(dataset, clips, split)
    clip_counts = {device: count for device, count in counts.items() if count >= recipe.adapt.least_clips}
    if not clip_counts:
        raise InputError(
            f"split {split}: no device has {recipe.adapt.least_clips} training clips (the most is "
            f"{max(counts.values())}); --set adapt.least_clips to less, or take a larger --split"
        )
    for device in clip_counts:
        require_device_name(device)
    metrics = None
    if run.is_dir() and (run / METRICS).exists():
        read_metrics(run)
        metrics = read_bounded(run / METRICS, MAX_METRICS)
    if not resume:
        require_free(out)
    elif not (out / DEVICES).is_dir():
        raise InputError(f"{out}: holds nothing to resume; adapt without --resume into a new folder")
    (out / DEVICES).mkdir(parents=True, exist_ok=True)
    for device in clip_counts:
        data = TrainingData(part_of(dataset, split, device), clips, split)
        _fine_tune(run, recipe, data, out / DEVICES / device)
    write_recipe(out, card.parsed_recipe)
    if metrics is not None:
        write_whole(out / METRICS, metrics)
    write_whole(out / MODEL, model_path(run).read_bytes())  # last: now it is a run
    return Adapted(out, clip_counts, {device: count for device, count in counts.items() if device not in clip_counts})


def _count(dataset: Dataset, clips: Clips, split: str) -> dict[str, int]:
    """Training clips of each device."""
    counts = Counter(clips.recording_devices(clips.select(dataset.split(split)[0])).tolist())
    if "" in counts:
        raise InputError(f"{dataset.root}: does not say which device recorded what, as TAU's meta.csv does")
    return dict(sorted(counts.items()))


def _fine_tune(run: Path, recipe: Recipe, data: TrainingData, folder: Path) -> None:
    """Train a run's network in a run folder of its own, or resume the run in it."""
    settings = recipe.adapt
    # what makes a clip sound as if another device had recorded it would undo what this is for
    own_sound = {"mixstyle_p": 0.0, "dir_folder": None, "dir_p": 0.0, "filter_db": 0.0}
    changes = {
        "model": recipe.model.finished(),
        "augment": recipe.augment.model_copy(update=own_sound),
        "train": recipe.train.fine_tuning(settings.epochs, settings.lr, settings.batch_size),
        "consistency": Consistency(),  # the unlabelled clips are other devices'
        # a teacher that would be asked at each step was trained on the lists of all devices
        "distill": recipe.distill.model_copy(update={"online": None, "transfer": None, "required": False}),
    }
    device_recipe = recipe.model_copy(update=changes)
    network, _ = load_model(run)
    initial = InitialNetwork(network, f"{run.resolve().name} sha256:{sha256(model_path(run))}")
    with lower_rate_advised(folder, "adapt"):
        _, card = fit(initial, device_recipe, loss_of(device_recipe.distill), data, RunFolder.begun_or_new(folder))
    if not (folder / MODEL).exists():
        save_tensors(folder / MODEL, network.state_dict(), card)

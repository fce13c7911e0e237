"""What a run is trained on: clips with labels, without them, and those of another folder or of the rest of the list.

Those of another folder are asked of a teacher (`distill.transfer`) or are of no class (`train.outliers`).
"""

from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tinyscene.deploy.common.errors import InputError
from tinyscene.deploy.frontend.sound_files import recordings_of
from tinyscene.train.data.cache import Clips, in_other_form, prepare
from tinyscene.train.data.datasets import EVERYTHING, Dataset, ListedRecording
from tinyscene.train.data.training_data import TrainingData
from tinyscene.train.recipe import Recipe

REST = "rest"  # as distill.transfer: the recordings of the whole training list that the split leaves out


@dataclass(frozen=True)
class Selection:
    """The clips that are trained on, by index: with their labels, without, and those of another folder.

    A position counts through all of them, in this order.
    """

    clips: Clips
    labelled: NDArray[np.int64]
    unlabelled: NDArray[np.int64]
    transfer: TrainingData | None = None
    transferred: NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, np.int64))

    @property
    def parts(self) -> list[tuple[NDArray[np.int16], NDArray[np.int64]]]:
        """Sound (clip, sample) and the indices of the clips that are used of it, in the order of positions."""
        own = (self.clips.pcm, np.concatenate([self.labelled, self.unlabelled]))
        return [own] if self.transfer is None else [own, (self.transfer.clips.pcm, self.transferred)]

    @property
    def external_data(self) -> str | None:
        """What a card says of the clips of another folder, if there are any."""
        if self.transfer is None:
            return None
        source, count = self.transfer, len(self.transferred)
        which = "" if source.split == EVERYTHING else f"rest of the training list of split {source.split}, "
        return f"{source.dataset.root}: {which}{count} clips without labels, hash {source.clips.data_hash}"

    def at_rate(self, sample_rate: int, dataset: Dataset) -> "Selection":
        """The same clips, of this dataset, at another sample rate."""
        transfer, seconds = self.transfer, self.clips.clip_seconds
        if self.clips.sample_rate == sample_rate:
            return self
        if transfer is not None:
            clips = in_other_form(transfer.clips, transfer.dataset, sample_rate, seconds)
            transfer = replace(transfer, clips=clips)
        return replace(self, clips=in_other_form(self.clips, dataset, sample_rate, seconds), transfer=transfer)


def select(recipe: Recipe, data: TrainingData) -> Selection:
    """The clips of the training list, and those without labels that the recipe asks for.

    Raises InputError where the recipe asks for some and there are none, and for clips that are not as its features say.
    """
    own, features = data.clips, recipe.features
    if (own.sample_rate, own.clip_seconds) != (features.sample_rate, features.clip_seconds):
        raise InputError(
            f"{own.folder}: clips of {own.clip_seconds:g} s at {own.sample_rate:,} Hz; recipe {recipe.name} takes "
            f"{features.clip_seconds:g} s at {features.sample_rate:,} Hz"
        )
    labelled = data.training_clips()
    selection = Selection(data.clips, labelled, labelled[:0])
    if recipe.consistency.weight:
        selection = replace(selection, unlabelled=_unlabelled(recipe.consistency.split, data, labelled))
    if recipe.distill.transfer == REST:
        rest = data.clips.select(data.dataset.rest(data.split))
        selection = replace(selection, transfer=data, transferred=rest)
    elif folder := recipe.distill.transfer or recipe.train.outliers:
        key = "distill.transfer" if recipe.distill.transfer else "train.outliers"
        transfer = _other_folder(f"{key} {folder}", Path(folder), data)
        selection = replace(selection, transfer=transfer, transferred=transfer.training_clips())
    return selection


def _unlabelled(split: str, data: TrainingData, labelled: NDArray[np.int64]) -> NDArray[np.int64]:
    """The clips of a split's training list that are not trained on with their labels."""
    rest = np.setdiff1d(data.clips.select(data.dataset.split(split)[0]), labelled)
    if not len(rest):
        raise InputError(
            f"consistency.split {split}: holds no clips but those trained on; take a smaller --split, or "
            "consistency.weight=0"
        )
    return rest


def _other_folder(name: str, folder: Path, data: TrainingData) -> TrainingData:
    """All recordings of a folder. `name` is that of the key, in errors.

    Raises InputError if the folder has none, or one of the test list.
    """
    if not folder.is_dir():
        raise InputError(f"{name}: no such folder")
    dataset, own = unlabelled_dataset(folder), data.clips
    clips = prepare(dataset, own.sample_rate, own.folder.parent, clip_seconds=own.clip_seconds)
    listed = set(data.test)
    test = {item.sha256 for item in data.clips.recordings if item.path in listed and item.clips}
    if shared := [item.path for item in clips.recordings if item.clips and item.sha256 in test]:
        raise InputError(f"{name}: holds {len(shared)} recordings of the test list: {shared[0]} ...")
    return TrainingData(dataset, clips, EVERYTHING)


def unlabelled_dataset(folder: Path) -> Dataset:
    """All recordings of a folder, at any depth, under one label without a name."""
    recordings = (ListedRecording.found(str(path.relative_to(folder)), "") for path in recordings_of([folder]))
    return Dataset(folder, ("",), tuple(recordings), {}, "folders")

"""Training data: the prepared clips of a dataset, and the split whose lists divide them."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tinyscene.deploy.common.errors import InputError
from tinyscene.train.data.cache import Clips
from tinyscene.train.data.datasets import Dataset

FEW_CLIPS = 5  # for each class; with fewer, a user is told


@dataclass(frozen=True)
class TrainingData:
    """A split of a dataset, with the clips that were prepared of it."""

    dataset: Dataset
    clips: Clips
    split: str

    @property
    def test(self) -> tuple[str, ...]:
        """Paths of the recordings of the test list."""
        return self.dataset.split(self.split)[1]

    def describe(self) -> dict[str, Any]:
        """What a model card says of the data: `Dataset.describe`, with the recordings that are left out."""
        return self.dataset.describe(self.split, self.clips.left_out)

    def check(self) -> list[str]:
        """What is odd about the training list, in lines. Raises InputError if it has one class only."""
        clips = self.training_clips()
        counts = np.bincount(self.clips.label[clips], minlength=len(self.clips.labels))
        missing = [label for label, count in zip(self.clips.labels, counts, strict=True) if not count]
        if len(missing) == len(self.clips.labels) - 1:
            raise InputError(f"split {self.split}: its training list has clips of one class only, of {len(counts)}")
        lines = []
        if missing:
            lines.append(f"split {self.split}: no training clips of {', '.join(missing)}: it will not be recognized")
        if len(clips) < FEW_CLIPS * len(counts):
            lines.append(f"split {self.split}: only {len(clips)} training clips for {len(counts)} classes")
        return lines

    def training_clips(self) -> NDArray[np.int64]:
        """Indices of the clips of the training list. Raises InputError if none can be used."""
        return self.clips.select(self.dataset.split(self.split)[0])

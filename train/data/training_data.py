"""Training data: the prepared clips of a dataset, and the split whose lists divide them."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tinyscene.train.data.cache import Clips
from tinyscene.train.data.datasets import Dataset


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

    def training_clips(self) -> NDArray[np.int64]:
        """Indices of the clips of the training list. Raises InputError if none can be used."""
        return self.clips.select(self.dataset.split(self.split)[0])

"""A dataset as a caller names it: a folder, with what has to be said about it."""

import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Union

from tinyscene.deploy.common.installation import require
from tinyscene.deploy.frontend.log_mel import FrontEnd

if TYPE_CHECKING:
    from tinyscene.train.data.cache import Clips
    from tinyscene.train.data.datasets import Dataset

AnyDataset = Union[str, "os.PathLike[str]", "DatasetOptions", "OpenDataset"]


class OpenDataset(NamedTuple):
    """The lists of a dataset, and its clips as they were decoded for one front end."""

    dataset: "Dataset"
    clips: "Clips"


@dataclass(frozen=True)
class DatasetOptions:
    """A dataset: its folder and, where its layout does not say it, which lists, folds and recordings are used.

    Args:
        folder: a table meta.csv as TAU has it, or one folder per class.
        splits: folder of a table's split lists: a path, or a folder of the dataset. By default those that are found.
        fold_pattern: regular expression for file names, whose first group is the file's fold; `hash` makes five folds.
        allow_missing: accept that more than half of the recordings of a list cannot be decoded.
    """

    folder: Path
    splits: str | None = None
    fold_pattern: str | None = None
    allow_missing: bool = False

    def open(self, front_end: FrontEnd) -> OpenDataset:
        """The dataset and its clips as the front end takes them; they are decoded first if they have not been.

        Raises InputError for a folder that is no dataset, and where torch's extra is not installed.
        """
        require("requests", "train")
        from tinyscene.train.data.cache import prepare
        from tinyscene.train.data.datasets import open_dataset

        dataset = open_dataset(Path(self.folder), self.splits, self.fold_pattern)
        rate, seconds = front_end.sample_rate, front_end.clip_seconds
        return OpenDataset(dataset, prepare(dataset, rate, allow_missing=self.allow_missing, clip_seconds=seconds))


def open_data(data: AnyDataset, front_end: FrontEnd) -> OpenDataset:
    """A dataset that is named or described, opened for a front end; one that is open is taken as it is."""
    if isinstance(data, OpenDataset):
        return data
    return options_of(data).open(front_end)


def options_of(data: "str | os.PathLike[str] | DatasetOptions") -> DatasetOptions:
    """A dataset as it is described, or the one in a folder with nothing else to be said."""
    return data if isinstance(data, DatasetOptions) else DatasetOptions(Path(data))


def prepare(
    data: "str | os.PathLike[str] | DatasetOptions",
    sample_rate: int = FrontEnd.sample_rate,
    clip_seconds: float = FrontEnd.clip_seconds,
) -> dict[str, Any]:
    """Decode and resample a dataset into the cache. Returns counts, and by name the recordings that were changed."""
    front_end = FrontEnd(sample_rate=sample_rate, clip_seconds=clip_seconds)
    return replace(options_of(data), allow_missing=True).open(front_end).clips.report()


def sample(folder: "str | os.PathLike[str]", seed: int = 0) -> dict[str, int]:
    """Write a small synthetic dataset in TAU's layout. Returns the number of clips of each list."""
    require("requests", "train")
    from tinyscene.train.data.sample import write_sample

    return write_sample(Path(folder), seed)

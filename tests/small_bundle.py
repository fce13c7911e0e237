"""A small bundle, made with torch for tests without it.

python -m tests.small_bundle FOLDER   # writes FOLDER/bundle
"""

import os
import sys
from pathlib import Path

from tests.train.test_export import TINY, run_of
from tinyscene.deploy.bundle.bundle import Bundle
from tinyscene.train.data.cache import Clips, prepare
from tinyscene.train.data.datasets import Dataset, open_dataset
from tinyscene.train.data.sample import write_sample
from tinyscene.train.quantize.quantize import quantize


def small_bundle(folder: Path, dataset: Dataset, clips: Clips) -> Bundle:
    """A bundle of a network that was not trained, in `folder`/bundle, with its run beside it."""
    run, _ = run_of(folder, "nano", [*TINY, "quantize.clips=8"], seed=3)  # which answers more than one scene
    return quantize(run, dataset, clips, folder / "bundle", split="5")


def main() -> None:
    folder = Path(sys.argv[1])
    folder.mkdir(parents=True)
    os.environ["TINYSCENE_CACHE"] = str(folder / "cache")
    write_sample(folder / "sample")
    dataset = open_dataset(folder / "sample")
    small_bundle(folder, dataset, prepare(dataset, 32_000, folder / "cache"))


if __name__ == "__main__":
    main()

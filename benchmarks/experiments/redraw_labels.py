"""A copy of a dataset in which a share of the training labels is wrong: what `distill.mask` is measured on.

    python -m tinyscene.benchmarks.experiments.redraw_labels DATA OUT --splits fold1 --share 0.2 --seed 0
    tinyscene train RECIPE --data OUT --splits fold1 --split 100 --set distill.online=TEACHER --set distill.mask=0.1

DATA is a table with split lists; OUT has its meta.csv, with another label for a share of the recordings in the training
lists, and one folder of lists; the audio is linked. The new labels are drawn from the others, all alike, so the share
is that of wrong labels. The test list keeps its labels. OUT/redrawn.csv names the recordings with their true labels.
"""

from pathlib import Path
from typing import Annotated

import numpy as np
import typer

from tinyscene.deploy.common.command_line import run_command_line
from tinyscene.deploy.common.files import replacing_folder, require_free
from tinyscene.train.data.datasets import TAU_COLUMNS, Dataset, open_dataset
from tinyscene.train.data.tables import read_table


def redraw_labels(
    data: Annotated[Path, typer.Argument(help="Folder of a dataset with meta.csv.")],
    out: Annotated[Path, typer.Argument(help="Folder to write.")],
    splits: Annotated[str, typer.Option(help="Folder of split lists in the dataset, such as fold1.")],
    share: Annotated[float, typer.Option(min=0, max=1, help="Share of the training labels.")] = 0.2,
    seed: Annotated[int, typer.Option(min=0, help="Of the draw.")] = 0,
) -> None:
    """Write the dataset."""
    require_free(out)
    dataset = open_dataset(data, splits)
    redrawn = _redraw(dataset, share, np.random.default_rng(seed))
    truth = {entry.path: entry.label for entry in dataset.recordings}
    with replacing_folder(out) as folder:
        for name in {Path(path).parts[0] for path in truth}:
            (folder / name).symlink_to((data / name).resolve())
        rows = [row for _, row in read_table(data / "meta.csv", TAU_COLUMNS)]
        rows = [row | {"scene_label": redrawn.get(row["filename"], row["scene_label"])} for row in rows]
        _write(folder / "meta.csv", TAU_COLUMNS, [tuple(row[column] for column in TAU_COLUMNS) for row in rows])
        setup = folder / Path(splits).name
        setup.mkdir()
        lists = {f"split{name}.csv": training for name, (training, _) in dataset.splits.items()}
        for name, paths in (lists | {"test.csv": next(iter(dataset.splits.values()))[1]}).items():
            _write(setup / name, TAU_COLUMNS[:1], [(path,) for path in paths])
        _write(folder / "redrawn.csv", TAU_COLUMNS[:2], [(path, truth[path]) for path in redrawn])


def _redraw(dataset: Dataset, share: float, rng: np.random.Generator) -> dict[str, str]:
    """New labels of a share of all recordings in training lists, by path."""
    trained = {path for training, _ in dataset.splits.values() for path in training}
    labels = {entry.path: entry.label for entry in dataset.recordings if entry.path in trained}
    paths = sorted(labels)
    chosen = sorted(paths[index] for index in rng.permutation(len(paths))[: round(share * len(paths))])
    others = {path: [label for label in dataset.labels if label != labels[path]] for path in chosen}
    return {path: str(rng.choice(others[path])) for path in chosen}


def _write(path: Path, columns: tuple[str, ...], rows: list[tuple[str, ...]]) -> None:
    """A tab-separated table."""
    path.write_text("".join("\t".join(row) + "\n" for row in [columns, *rows]), encoding="utf-8")


if __name__ == "__main__":
    run_command_line(redraw_labels)

"""Options and arguments that several commands share, and the panels of `tinyscene --help`."""

import inspect
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Annotated, Any

import typer

from tinyscene.deploy.common.errors import InputError
from tinyscene.firmware_bridge.memory.by_time import Order
from tinyscene.interface.datasets import DatasetOptions
from tinyscene.interface.names import find_model

TRAIN = "Train"
QUANTIZE = "Quantize and verify"
DEPLOY = "Deploy"
MEASURE = "Measure and report"
SHARE = "Models of others"


def path(name: str) -> Path:
    """Where a model lies that is named on the command line."""
    return find_model(name)


Split = Annotated[
    str | None,
    typer.Option(
        help="Training split: that of the list splitNAME.csv in a dataset with a table, such as 25, or fold1-25 where "
        "folders hold the lists of several folds; otherwise the fold that is left out, such as fold1; `all` trains on "
        "everything. By default 100, or fold1."
    ),
]
TestSplit = Annotated[
    str | None, typer.Option(help="Split whose test list is used; by default the one of the training.")
]
TrainingSplit = Annotated[
    str | None, typer.Option(help="Split whose training list is used; by default the one of the training.")
]
BundleFolder = Annotated[Path, typer.Argument(parser=path, help="Folder of a bundle, or name of a packaged model.")]
AnyModel = Annotated[
    Path, typer.Argument(parser=path, help="A bundle, a packaged model, a run, or an exported .onnx file.")
]
FinishedRun = Annotated[Path, typer.Argument(help="Folder of a finished run.")]
RecipeName = Annotated[str, typer.Argument(help="Name of a recipe (see `tinyscene recipes`), or a YAML file.")]
Weights = Annotated[
    str | None,
    typer.Option(help="Initial weights: a run, a .safetensors or .pt file, or `published` for those of the authors."),
]
Resume = Annotated[bool, typer.Option("--resume", help="Continue an interrupted run.")]
Set = Annotated[
    list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Change a key of the recipe, such as train.lr.")
]
RowOrder = Annotated[
    Order,
    typer.Option(
        "--order",
        help="Order of the network's rows: mel needs the least memory, time spreads the work over the clip.",
    ),
]
Runner = Annotated[
    str | None,
    typer.Option(
        help="Runtime for a bundle: reference, native, litert, tflite-runtime or onnxruntime. By default native, which "
        "compiles the bundle's C once, where a C compiler is installed, otherwise reference; their results are equal."
    ),
]
RecordingDevice = Annotated[
    str | None, typer.Option(help="Recording device, to use the bundle's variant for it if there is one.")
]
AllowOver = Annotated[bool, typer.Option("--allow-over-budget", help="Accept a model that is over budget.")]

Splits = Annotated[
    str | None,
    typer.Option(
        "--splits",
        help="Folder of a table's split lists: a path, or a folder of the dataset, such as fold1. By default "
        "evaluation_setup, the dataset itself, or all folders with lists.",
    ),
]
FoldPattern = Annotated[
    str | None,
    typer.Option(
        "--fold-pattern",
        help="Regular expression for file names, whose first group is the file's fold; `hash` makes five folds.",
    ),
]
AllowMissing = Annotated[
    bool, typer.Option("--allow-missing", help="Accept that more than half of the recordings cannot be used.")
]


def with_dataset(*names: str, use: str = "") -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Replace a command's parameter `data: DatasetOptions` by the options that name a dataset.

    `names` are those of the first option, by default --data. `use` says what an optional dataset is for; the command
    then gets None where none is named.
    """
    note = "Folder of the dataset: a table meta.csv as TAU has it, or one folder per class"
    option = typer.Option(*(names or ("--data",)), help=f"{note}; {use}." if use else f"{note}.")
    annotation: Any = Annotated[Path | None, option] if use else Annotated[Path, option]

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        @wraps(command)
        def run(
            data: Path | None, splits: str | None, fold_pattern: str | None, allow_missing: bool, **values: Any
        ) -> None:
            if data is None and (splits or fold_pattern or allow_missing):
                raise InputError("--splits, --fold-pattern and --allow-missing describe a dataset: name it with --data")
            options = None if data is None else DatasetOptions(data, splits, fold_pattern, allow_missing)
            command(data=options, **values)

        parameters = []
        for parameter in inspect.signature(command).parameters.values():
            keyword = parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY)
            if parameter.name == "data":
                default = None if use else inspect.Parameter.empty
                parameters += [
                    keyword.replace(annotation=annotation, default=default),
                    keyword.replace(name="splits", annotation=Splits, default=None),
                    keyword.replace(name="fold_pattern", annotation=FoldPattern, default=None),
                    keyword.replace(name="allow_missing", annotation=AllowMissing, default=False),
                ]
            else:
                parameters.append(keyword)
        run.__signature__ = inspect.Signature(parameters)  # pyright: ignore[reportAttributeAccessIssue]
        run.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
        return run

    return decorate

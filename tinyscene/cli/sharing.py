"""The commands for models of others: which there are, and how to get them."""

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Group
from rich.table import Table

from tinyscene.cli.options import SHARE, BundleFolder
from tinyscene.deploy.common.terminal import Json, show
from tinyscene.interface import catalogue
from tinyscene.interface.bundle import Bundle
from tinyscene.interface.catalogue import ListedModel

app = typer.Typer()


@app.command(rich_help_panel=SHARE)
def models(as_json: Json = False) -> None:
    """List the models that come with tinyscene, and those that can be fetched: what they hear, and their terms."""
    listed = catalogue.models()
    show([asdict(model) for model in listed], as_json, _models_table(listed))


def _models_table(listed: list[ListedModel]) -> Group:
    table = Table("model", "from", "hears", "bytes", "accuracy", "terms")
    for model in listed:
        size = "unknown" if model.bytes is None else f"{model.bytes:,}"
        table.add_row(model.name, model.source, model.hears, size, model.accuracy, model.terms)
    return Group(table)


@app.command(rich_help_panel=SHARE)
def pull(
    name: Annotated[str, typer.Argument(help="Name of a model (see `tinyscene models`).")],
    out: Annotated[Path | None, typer.Option(help="Folder of the run; by default runs/NAME.")] = None,
    as_json: Json = False,
) -> None:
    """Fetch a published model from its authors, check it, and import it as a run."""
    run = catalogue.pull(name, out)
    show(
        {"run": str(run.folder), "model": str(run.model), "source": run.card.source},
        as_json,
        f"{run.folder}: imported; next: tinyscene evaluate {run.folder} --data DATA",
    )


@app.command(rich_help_panel=SHARE)
def push(
    folder: BundleFolder,
    address: Annotated[str, typer.Argument(help="Repository of the Hugging Face hub, hf://user/name.")],
    licence: Annotated[
        str, typer.Option("--license", help="The hub's name of a licence, such as apache-2.0.")
    ] = "other",
    private: Annotated[bool, typer.Option("--private", help="Make a new repository private.")] = False,
    as_json: Json = False,
) -> None:
    """Write a bundle and its model card to the Hugging Face hub; commands then take hf://user/name@revision."""
    pushed = Bundle(folder).push(address, licence, private)
    show({"address": pushed}, as_json, f"{pushed}: written; next: tinyscene classify {pushed} SOUND")

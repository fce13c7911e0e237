"""The catalogue: models that come with the package, and models of others that can be fetched (models.toml)."""

import os
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from tinyscene.deploy.bundle.bundle import open_bundle
from tinyscene.deploy.common.errors import InputError
from tinyscene.deploy.common.installation import require
from tinyscene.deploy.common.terminal import notice
from tinyscene.interface.names import packaged_models
from tinyscene.interface.run import Run

CATALOGUE = Path(__file__).parents[1] / "models.toml"
PACKAGED = "packaged"  # its table of what is known of the models that come along
LOOPBACK = "127.0.0.1"


@dataclass(frozen=True)
class PublishedModel:
    """Weights that others publish. What nobody says of them is none."""

    name: str
    hears: str
    recipe: str
    page: str
    url: str
    most_bytes: int  # what is larger is refused
    accuracy: str
    terms: str
    prefix: str = ""  # of the names of its tensors in the file
    sha256: str | None = None
    bytes: int | None = None

    def __post_init__(self) -> None:
        parts = urlsplit(self.url)
        if parts.scheme != "https" and parts.hostname != LOOPBACK:
            raise InputError(f"catalogue, {self.name}: {self.url} is not fetched over https")


@dataclass(frozen=True)
class ListedModel:
    """A line of `tinyscene models`."""

    name: str
    source: str  # the package, or the page of those who publish it
    hears: str
    bytes: int | None
    accuracy: str
    terms: str
    sha256: str | None


def published_models() -> dict[str, PublishedModel]:
    """The entries of models.toml by name."""
    return {name: PublishedModel(name, **entry) for name, entry in _catalogue().items() if name != PACKAGED}


def _catalogue() -> dict[str, Any]:
    return tomllib.loads(CATALOGUE.read_text(encoding="utf-8"))


def models() -> list[ListedModel]:
    """The models that come with the package, and those that `pull` fetches."""
    listed = [_describe(name, folder) for name, folder in packaged_models().items()]
    for entry in published_models().values():
        listed.append(
            ListedModel(entry.name, entry.page, entry.hears, entry.bytes, entry.accuracy, entry.terms, entry.sha256)
        )
    return listed


def _describe(name: str, folder: Path) -> ListedModel:
    bundle, known = open_bundle(folder), _catalogue()[PACKAGED][name]
    size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    hears = ", ".join(bundle.labels)
    return ListedModel(name, "the package", hears, size, known["accuracy"], known["terms"], bundle.fingerprint)


def pull(name: str, out: "str | os.PathLike[str] | None" = None) -> Run:
    """Fetch a model of the catalogue from those who publish it, check it, and import it as a run.

    Args:
        name: of an entry of `tinyscene models`.
        out: folder of the run; by default runs/NAME.

    Raises InputError for a name that is not there, and where the file cannot be fetched, is too large, is not the one
    that the catalogue or an earlier fetch has the SHA-256 of, or does not hold the network's weights.
    """
    entries = published_models()
    if name not in entries:
        raise InputError(f"{name}: not a model to fetch; known are {', '.join(entries)}")
    require("torch", "train")
    from tinyscene.deploy.common.files import cache_folder, require_free
    from tinyscene.train.recipe import load_recipe
    from tinyscene.train.runs.run import import_weights
    from tinyscene.train.runs.transfer import fetch

    entry, folder = entries[name], Path("runs") / name if out is None else Path(out)
    require_free(folder)
    weights = fetch(entry.url, cache_folder() / "weights" / name, entry.most_bytes, entry.sha256)
    if entry.sha256 is None:
        notice(
            f"{name}: nobody publishes its SHA-256; what was fetched first is kept, and later fetches are held to it"
        )
    return Run(import_weights(weights, load_recipe(entry.recipe), folder, entry.prefix, entry.url))

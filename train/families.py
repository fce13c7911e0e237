"""Network families that other packages register, as entry points of the group `tinyscene.models`.

    [project.entry-points."tinyscene.models"]
    tiny = "my_package:FAMILY"          # tiny: what a recipe says as model.family

    FAMILY = Family(settings=TinyModel, build=TinyNetwork)

The settings are a subclass of `train.network_settings.RegisteredModel`; `build(settings, classes)` makes a network that
takes log-mel (batch, 1, mel, frame) and gives logits (batch, classes). `prune` removes channels of such a network;
`narrowed(settings, network)` reads from it the settings with which `build` makes one of the same shape. A package is
imported once a recipe names its family, and no sooner.
"""

from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import EntryPoint, entry_points
from typing import Any

from tinyscene.deploy.common.errors import InputError

GROUP = "tinyscene.models"


@dataclass(frozen=True)
class Family:
    """A network family."""

    settings: type[Any]  # of RegisteredModel
    build: Callable[[Any, int], Any]  # (settings, classes) -> torch.nn.Module
    narrowed: Callable[[Any, Any], Any] | None = None  # (settings, pruned network) -> settings that build its shape


def registered_families() -> tuple[str, ...]:
    """The names of the families that installed packages register, sorted."""
    return tuple(sorted(_entry_points()))


def registered_family(name: str) -> Family:
    """Import a family. Raises InputError, naming the package, if that does not work."""
    entry = _entry_points()[name]
    place = f"network family {name!r} of the package {entry.dist.name if entry.dist else 'unknown'}"
    try:
        family = entry.load()
    except Exception as error:  # a package's import raises what it likes
        reason = (str(error) or type(error).__name__).strip().splitlines()[0][:200]
        raise InputError(f"{place}: {entry.value} cannot be imported ({reason})") from None
    if not isinstance(family, Family):
        raise InputError(f"{place}: {entry.value} is no tinyscene.train.families.Family")
    return family


def _entry_points() -> dict[str, EntryPoint]:
    return {entry.name: entry for entry in entry_points(group=GROUP)}

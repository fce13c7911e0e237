"""What fine-tuning of a trained run has in common: which settings it may change, and what to do when it diverges.

tinyscene adapt | prune | quantize --qat RUN ... --set SECTION.KEY=VALUE
"""

import contextlib
from collections.abc import Iterator
from pathlib import Path

from tinyscene.deploy.common.errors import InputError
from tinyscene.train.loop.trainer import DivergedError
from tinyscene.train.recipe import Recipe, override
from tinyscene.train.runs.run import Card


def with_overrides(card: Card, overrides: list[str], section: str, run: Path) -> Recipe:
    """The recipe of a trained run, with overrides of one section. Raises InputError for those of others."""
    if others := [setting for setting in overrides if not setting.startswith(f"{section}.")]:
        raise InputError(f"--set {others[0]}: the run is trained; only keys of its section {section} can be changed")
    return override(card.parsed_recipe, overrides, f"the recipe of {run}")


@contextlib.contextmanager
def lower_rate_advised(folder: Path, section: str) -> Iterator[None]:
    """Say of training that diverges what must go before another try, and which key to lower."""
    try:
        yield
    except DivergedError as error:
        raise DivergedError(f"{error}; remove {folder} and try a lower --set {section}.lr") from None

"""The templates of the generated documentation, in Markdown."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined


def render(name: str, filters: Mapping[str, Callable[..., str]], **content: Any) -> str:
    """The template of this name with its content filled in. A name that has no value is an error."""
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        autoescape=False,  # noqa: S701 - Markdown of our own, not HTML
    )
    environment.filters.update(filters)
    return environment.get_template(name).render(**content)

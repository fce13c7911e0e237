"""Writing the templates of this folder."""

import re
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

TEMPLATES = Path(__file__).parent
MARKDOWN_SPECIAL = re.compile(r"([\\`*\[\]|<>&!#~])")


def render(template: str, **values: Any) -> str:
    """A template with its values, which are escaped where it is HTML."""
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=template.endswith(".html.j2"),
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        undefined=StrictUndefined,
    )
    environment.filters["escaped"] = escaped
    return environment.get_template(template).render(values)


def escaped(text: str) -> str:
    """Text for a cell of Markdown: on one line, and nothing in it taken for a mark."""
    return MARKDOWN_SPECIAL.sub(r"\\\1", " ".join(text.split()))

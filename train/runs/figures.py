"""How figures are drawn, whatever the user's settings of matplotlib are, and how text gets into them."""

from typing import Any

import matplotlib

from tinyscene.deploy.common.text import printable

DEFAULTS: dict[Any, Any] = {key: value for key, value in matplotlib.rcParamsDefault.items() if key != "backend"} | {
    "text.parse_math": False,  # a label may have a dollar in it
}


def figure_style(style: dict[Any, Any] | None = None) -> Any:
    """A context with matplotlib's default style, and changes to it."""
    return matplotlib.rc_context(DEFAULTS | (style or {}))


def figure_text(name: str, longest: int = 100) -> str:
    """A name as a figure shows it: printable, of at most `longest` characters.

    A legend leaves out names that begin with an underscore; a space before it keeps them.
    """
    text = printable(name)
    text = text if len(text) <= longest else f"{text[: longest - 1]}\u2026"
    return f" {text}" if text.startswith("_") else text

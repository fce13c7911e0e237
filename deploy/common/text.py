"""Text: what others wrote, such as labels and file names, as it may be shown; plain data as JSON."""

import json
import math
from typing import Any


def is_unicode(text: str) -> bool:
    """Whether text can be written as UTF-8. Unpaired surrogates cannot."""
    return not any("\ud800" <= character <= "\udfff" for character in text)


def printable(text: str, keep: str = "") -> str:
    """Text with its control characters and unpaired surrogates as escapes, so that no terminal obeys them.

    `keep` lists characters that stay, such as the line feed.
    """
    if text.isprintable():
        return text
    return "".join(
        character if character.isprintable() or character in keep else ascii(character)[1:-1] for character in text
    )


def json_text(value: object, indent: int | None = None) -> str:
    """Plain data as JSON. NaN and infinity become null: JSON has neither."""
    try:
        return json.dumps(value, indent=indent, allow_nan=False)
    except ValueError:
        return json.dumps(_finite(value), indent=indent, allow_nan=False)


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(member) for key, member in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(member) for member in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value

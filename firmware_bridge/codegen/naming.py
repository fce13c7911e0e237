"""Names of a library: a prefix of the user's choice, so that a program can have several.

    files = with_prefix(files, "kitchen")       # kitchen.h with kitchen_init, KITCHEN_BYTES, ...

Every name that a linker or the preprocessor sees begins with tinyscene_ or TINYSCENE_, which a test holds.
"""

import re
from collections.abc import Mapping
from typing import Any

from tinyscene.deploy.common.errors import InputError

DEFAULT = "tinyscene"
KEPT = r"https?://\S+|`tinyscene [a-z]+|The tinyscene developers"  # addresses and commands of this project
RESERVED = (  # words of C and C++, and headers of C
    "alignas|alignof|and|asm|assert|auto|bool|break|case|catch|char|class|complex|const|continue|ctype|default"
    "|delete|do|double|else|enum|errno|explicit|export|extern|false|fenv|float|for|friend|goto|if|inline|int"
    "|inttypes|limits|locale|long|main|math|mutable|namespace|new|not|operator|or|private|protected|public"
    "|register|restrict|return|setjmp|short|signal|signed|sizeof|static|stdalign|stdarg|stdatomic|stdbool|stddef"
    "|stdint|stdio|stdlib|stdnoreturn|string|struct|switch|template|tgmath|this|threads|throw|time|true|try"
    "|typedef|typename|uchar|union|unsigned|using|virtual|void|volatile|wchar|wctype|while|xor"
)


def require_prefix(prefix: str) -> None:
    """Raise InputError if names cannot begin with a prefix."""
    if not re.fullmatch(r"[a-z][a-z0-9_]{0,30}", prefix, re.ASCII) or re.fullmatch(RESERVED, prefix):
        raise InputError(
            f"--prefix {prefix}: it must be a name of at most 31 small letters, digits and underscores that "
            "starts with a letter and is no word or header of C"
        )


def with_prefix(files: Mapping[str, Any], prefix: str) -> dict[str, Any]:
    """Files by path, text or bytes, with another prefix in paths and text."""
    if prefix == DEFAULT:
        return dict(files)
    return {
        _renamed(path, prefix): _renamed(content, prefix) if isinstance(content, str) else content
        for path, content in files.items()
    }


def _renamed(text: str, prefix: str) -> str:
    def replacement(match: re.Match[str]) -> str:
        found = match[0]
        return {DEFAULT: prefix, DEFAULT.upper(): prefix.upper()}.get(found, found)

    return re.sub(rf"{KEPT}|{DEFAULT}|{DEFAULT.upper()}", replacement, text)

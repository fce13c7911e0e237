"""Text that others wrote, such as labels and file names, as it may be shown."""


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

"""What an ELF image holds in memory, symbol by symbol.

image_symbols(image)        # [Symbol(name="tinyscene_run", kind="text", bytes=412, file=""), ...]
"""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, NamedTuple

from tinyscene.deploy.common.errors import InputError
from tinyscene.deploy.common.installation import missing


class Symbol(NamedTuple):
    """A function or an object of an image. Bytes of a section without a symbol are listed under the section's name."""

    name: str
    kind: Literal["text", "rodata", "data", "bss"]
    bytes: int
    file: str  # source file of a static symbol; else empty


@contextlib.contextmanager
def open_image(image: Path) -> Iterator[Any]:
    """Open an ELF file with pyelftools. Raises InputError if it is not one."""
    try:
        from elftools.common.exceptions import ELFError
        from elftools.elf.elffile import ELFFile
    except ImportError:
        raise missing("pyelftools", "firmware") from None
    try:
        with image.open("rb") as stream:
            yield ELFFile(stream)
    except (ELFError, OSError) as error:
        raise InputError(f"{image}: not an image ({error})") from None


def image_symbols(image: Path) -> list[Symbol]:
    """All memory that an image occupies, in address order; the symbols of a section add up to its size.

    Raises InputError if it is not an ELF file.
    """
    with open_image(image) as elf:
        symbols = _symbols_by_section(elf)
        return [
            symbol
            for number, section in enumerate(elf.iter_sections())
            if section["sh_flags"] & 2 and section["sh_size"]  # SHF_ALLOC
            for symbol in _section_symbols(section, symbols.get(number, []))
        ]


def _symbols_by_section(elf: Any) -> dict[int, list[tuple[int, int, str, str]]]:
    """By section: the address, size, name and source file of functions and objects."""
    by_section: dict[int, list[tuple[int, int, str, str]]] = {}
    table, file = elf.get_section_by_name(".symtab"), ""
    for symbol in table.iter_symbols() if table else ():
        kind, size = symbol["st_info"]["type"], symbol["st_size"]
        if kind == "STT_FILE":
            file = symbol.name
        elif kind in ("STT_FUNC", "STT_OBJECT") and size and isinstance(symbol["st_shndx"], int):
            thumb = kind == "STT_FUNC" and elf["e_machine"] == "EM_ARM"  # which sets bit 0 of the address
            address = symbol["st_value"] & ~1 if thumb else symbol["st_value"]
            owner = file if symbol["st_info"]["bind"] == "STB_LOCAL" else ""
            by_section.setdefault(symbol["st_shndx"], []).append((address, size, symbol.name, owner))
    return by_section


def _section_symbols(section: Any, symbols: list[tuple[int, int, str, str]]) -> list[Symbol]:
    flags = section["sh_flags"]
    writable = "bss" if section["sh_type"] == "SHT_NOBITS" else "data"
    kind = "text" if flags & 4 else writable if flags & 1 else "rodata"  # SHF_EXECINSTR, SHF_WRITE
    listed, end, counted = [], 0, 0
    for address, size, name, file in sorted(symbols, key=lambda symbol: (symbol[0], -symbol[1])):
        if address >= end:  # an alias of the same bytes adds none
            listed.append(Symbol(name, kind, size, file))
            end, counted = address + size, counted + size
    rest = section["sh_size"] - counted
    return [*listed, Symbol(section.name, kind, rest, "")] if rest else listed

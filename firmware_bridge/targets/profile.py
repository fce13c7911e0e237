"""Instructions by function, and by what the function worked for, from the blocks of code that an emulator ran.

blocks = Blocks(image, owner_of)        # owner_of(function): whom its instructions, and those of what it calls, are for
blocks.enter(address, size)             # each block, in order
blocks.instructions()                   # (owner, function) -> instructions
"""

import bisect
import re
import struct
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import NamedTuple

from tinyscene.deploy.common.errors import InputError
from tinyscene.firmware_bridge.targets.elf import open_image

NOBODY = ""  # an owner whose instructions are not counted
ENTERED = re.compile(r"Trace \d+: \S+ \[\w+/(\w+)/")  # a line of QEMU's log: a block begins there
TRANSLATED = re.compile(r"0x([0-9a-f]+):\s+((?:[0-9a-f]{4} ?)+)")  # an instruction of a block that is new, in halves

Owner = Callable[[str], str | None]  # by the name of a function; none: whoever it was before


class Function(NamedTuple):
    """A function of an image."""

    address: int
    name: str


class Code:
    """The code of an image."""

    def __init__(self, image: Path) -> None:
        with open_image(image) as elf:
            self.thumb = elf["e_machine"] == "EM_ARM"
            table = elf.get_section_by_name(".symtab")
            symbols = table.iter_symbols() if table else ()
            named = {each["st_value"] & ~1: each.name for each in symbols if each["st_info"]["type"] == "STT_FUNC"}
            self.functions = [Function(address, named[address]) for address in sorted(named)]
            self.segments = [(each["p_vaddr"], each.data()) for each in elf.iter_segments("PT_LOAD")]
        if not self.functions:
            raise InputError(f"{image.name} names no functions")

    def function(self, address: int) -> str:
        """The name of the function that an address lies in."""
        return self.functions[max(bisect.bisect_right(self.functions, (address, "\uffff")) - 1, 0)].name

    def length(self, address: int, size: int) -> int:
        """Instructions of a block."""
        start, data = next(each for each in self.segments if each[0] <= address < each[0] + len(each[1]))
        halves = struct.unpack_from(f"<{size // 2}H", data, address - start)
        at = count = 0
        while at < len(halves):
            wide = halves[at] >> 11 >= 0b11101 if self.thumb else halves[at] & 3 == 3
            at, count = at + 1 + wide, count + 1
        return count


class Blocks:
    """Counts how often each block ran for each owner."""

    def __init__(self, image: Path, owner_of: Owner) -> None:
        self.code, self.owner_of = Code(image), owner_of
        self.owner = NOBODY
        self.changes: dict[int, str | None] = {}
        self.seen: Counter[tuple[str, int, int]] = Counter()

    def enter(self, address: int, size: int) -> None:
        """A block runs: it lies in one function."""
        if address not in self.changes:
            self.changes[address] = self.owner_of(self.code.function(address))
        change = self.changes[address]
        if change is not None:
            self.owner = change
        self.seen[self.owner, address, size] += 1

    def read_log(self, lines: Iterable[str]) -> None:
        """The blocks of QEMU's log `in_asm,exec`: each is listed when it is new, then named whenever it runs."""
        sizes: dict[int, int] = {}
        start = size = 0
        for line in lines:
            if entered := ENTERED.match(line):
                address = int(entered[1], 16)
                if size:
                    sizes[start] = size
                    size = 0
                self.enter(address, sizes[address])
            elif listed := TRANSLATED.match(line):
                start = start if size else int(listed[1], 16)
                size += len(listed[2].replace(" ", "")) // 2

    def instructions(self) -> Counter[tuple[str, str]]:
        """Instructions by owner and function."""
        total: Counter[tuple[str, str]] = Counter()
        for (owner, address, size), times in self.seen.items():
            if owner != NOBODY:
                total[owner, self.code.function(address)] += times * self.code.length(address, size)
        return total

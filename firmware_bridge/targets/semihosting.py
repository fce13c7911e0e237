"""Semihosting: how a program on an emulated processor reaches the host's files and console."""

import struct
from pathlib import Path
from typing import IO, Protocol, Self

FAILED = 0xFFFFFFFF  # what most calls return on failure


class Memory(Protocol):
    """Memory of the emulated processor."""

    def mem_read(self, address: int, size: int, /) -> bytearray: ...
    def mem_write(self, address: int, data: bytes, /) -> None: ...


class Semihosting:
    """The host's side of Arm's specification as far as harness/ needs it, limited to one folder."""

    def __init__(self, memory: Memory, folder: Path) -> None:
        self.memory, self.folder = memory, folder
        self.console = bytearray()
        self.files: dict[int, IO[bytes]] = {}
        self.exit_code: int | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for file in self.files.values():
            file.close()

    def call(self, operation: int, argument: int) -> int:
        """Serve one call and return its result. `argument` depends on the operation: mostly an address."""
        handlers = {1: self._open, 2: self._close, 4: self._print, 5: self._write, 6: self._read}
        handlers |= {10: self._seek, 0x20: self._exit}
        handler = handlers.get(operation)
        return handler(argument) & FAILED if handler else FAILED

    def _words(self, address: int, count: int) -> tuple[int, ...]:
        return struct.unpack(f"<{count}I", self.memory.mem_read(address, 4 * count))

    def _open(self, argument: int) -> int:
        address, mode, length = self._words(argument, 3)
        name = self.memory.mem_read(address, length).decode("ascii", "replace")
        if Path(name).name != name or mode not in (1, 5):  # of this folder, as "rb" or "wb"
            return FAILED
        handle = max(self.files, default=0) + 1
        try:
            self.files[handle] = (self.folder / name).open("rb" if mode == 1 else "wb")
        except OSError:
            return FAILED
        return handle

    def _close(self, argument: int) -> int:
        file = self.files.pop(self._words(argument, 1)[0], None)
        if file is None:
            return FAILED
        file.close()
        return 0

    def _write(self, argument: int) -> int:
        handle, address, length = self._words(argument, 3)
        if handle not in self.files:
            return length
        return length - self.files[handle].write(self.memory.mem_read(address, length))

    def _read(self, argument: int) -> int:
        handle, address, length = self._words(argument, 3)
        if handle not in self.files:
            return length
        data = self.files[handle].read(length)
        self.memory.mem_write(address, data)
        return length - len(data)

    def _seek(self, argument: int) -> int:
        handle, position = self._words(argument, 2)
        if handle not in self.files:
            return FAILED
        self.files[handle].seek(position)
        return 0

    def _print(self, argument: int) -> int:
        while (byte := self.memory.mem_read(argument, 1)) != b"\0":
            self.console += byte
            argument += 1
        return 0

    def _exit(self, argument: int) -> int:
        self.exit_code = self._words(argument, 2)[1] & 0xFF
        return 0

"""Emulators: run an image on an emulated processor and count instructions.

    result = run(image, TARGETS["cortex-m4"], folder)           # reads job.bin, writes result.bin in the folder
    result = run(image, target, folder, counting=True)          # and result.calls has the count of each call

unicorn (from PyPI) supports every core except the Cortex-M55; QEMU is a system package. Both compute bit for bit what
the processor would. Neither models cycles: they count instructions.
"""

import importlib
import os
import re
import shutil
import struct
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from tinyscene.deploy.common.errors import InputError
from tinyscene.deploy.common.installation import missing
from tinyscene.firmware_bridge.targets.elf import open_image
from tinyscene.firmware_bridge.targets.profile import Blocks
from tinyscene.firmware_bridge.targets.semihosting import Semihosting
from tinyscene.firmware_bridge.targets.toolchains import Target

EMULATORS = ("unicorn", "qemu")
QEMU_PACKAGES = {"qemu-system-arm": "qemu-system-arm", "qemu-system-riscv32": "qemu-system-misc"}
FAULT = 125  # HARNESS_FAULT of harness/harness.h
NOWHERE = 0xFFFFFFFE  # never reached by a program
COUNTED = "tinyscene_(run|push|network_run)"


class Call(NamedTuple):
    """One call of a function: the instructions from its entry to its return, with all that it called."""

    function: str
    instructions: int


@dataclass(frozen=True)
class Run:
    """The outcome of running an image."""

    exit_code: int
    console: str
    instructions: int | None = None  # of the whole program; none if not counted
    calls: list[Call] = field(default_factory=list)  # in the order of their returns


def run(
    image: Path,
    target: Target,
    folder: Path,
    emulator: str | None = None,
    counting: bool = False,
    by_function: str = COUNTED,
    blocks: Blocks | None = None,
    seconds: float = 600,
) -> Run:
    """Run an image to its end, with `folder` as the only place for its files.

    By default the emulator is unicorn if it supports the core, else QEMU. `counting` works with unicorn only; it is
    exact and about 20 times slower. `by_function` is a pattern for the full names of the functions to count.
    Under QEMU the program counts by itself, see harness_instructions. `blocks` are told every block of code that runs.

    Raises InputError if the emulator is missing or does not support the core, or if the program faults or does not end.
    """
    emulator = emulator or ("unicorn" if target.unicorn else "qemu")
    if emulator == "unicorn":
        return _unicorn(image, target, folder, re.compile(by_function) if counting else None, blocks, seconds)
    if emulator == "qemu":
        if counting:
            raise InputError("qemu does not count the calls of a function: use unicorn, or what the program reports")
        return _qemu(image, target, folder, blocks, seconds)
    raise InputError(f"emulator {emulator!r} is unknown: known are {', '.join(EMULATORS)}")


def _faulted(image: Path, what: str) -> InputError:
    return InputError(f"{image.name} faulted: {what}")


def _endless(image: Path, seconds: float) -> InputError:
    return InputError(f"{image.name} was stopped: it did not end within {seconds:g} seconds")


def _qemu(image: Path, target: Target, folder: Path, blocks: Blocks | None, seconds: float) -> Run:
    if not target.qemu:
        raise InputError(f"qemu has no machine for {target.name}: use unicorn")
    program, machine = target.qemu
    if shutil.which(program) is None:
        raise InputError(f"{program} is not installed: apt-get install {QEMU_PACKAGES[program]}")
    command = [program, "-M", machine, "-bios", "none", "-kernel", str(image.absolute())]
    command += ["-nographic", "-monitor", "none", "-serial", "none"]
    command += ["-semihosting-config", "enable=on,target=native"]
    try:
        outcome = _call(command, folder, seconds) if blocks is None else _call_logged(command, folder, seconds, blocks)
    except subprocess.TimeoutExpired:
        raise _endless(image, seconds) from None
    if outcome.exit_code == FAULT or outcome.exit_code < 0:
        raise _faulted(image, _last_line(outcome.console))
    return outcome


def _call(command: list[str], folder: Path, seconds: float) -> Run:
    process = subprocess.run(
        [*command, "-icount", "shift=0"],
        cwd=folder,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=seconds,
        check=False,
    )
    return Run(process.returncode, (process.stdout + process.stderr).decode("utf-8", "replace"))


def _call_logged(command: list[str], folder: Path, seconds: float, blocks: Blocks) -> Run:
    """Read the log while it is written: it has a line for each block. Instructions are not counted, for blocks would be
    cut where a time slice ends."""
    read, write = os.pipe()
    logging = ["-d", "in_asm,exec,nochain", "-D", f"/proc/self/fd/{write}"]
    with tempfile.TemporaryFile() as console, os.fdopen(read, encoding="utf-8", errors="replace") as log:
        process = subprocess.Popen(
            [*command, *logging],
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=console,
            stderr=subprocess.STDOUT,
            pass_fds=[write],
        )
        os.close(write)
        timer = threading.Timer(seconds, process.kill)
        timer.start()
        try:
            blocks.read_log(log)
        finally:
            stopped = not timer.is_alive()
            timer.cancel()
            process.wait()
        if stopped:
            raise subprocess.TimeoutExpired(command, seconds)
        console.seek(0)
        return Run(process.returncode, console.read().decode("utf-8", "replace"))


def _last_line(console: str) -> str:
    return next((line.strip() for line in reversed(console.splitlines()) if line.strip()), "no output")


class _Core(NamedTuple):
    """What differs between processors in unicorn; names are unicorn's constants."""

    constants: str  # module
    setup: tuple[str, str]  # architecture and mode
    registers: str  # prefix, and then: first and second argument, return address
    arguments: tuple[str, str, str]
    memory: tuple[tuple[int, int], ...]  # address, bytes
    host_call: bytes  # the instruction
    wide: Callable[[int], bool]  # whether an instruction that begins with this half has a second one


_CORTEX_M = _Core(
    constants="arm_const",
    setup=("UC_ARCH_ARM", "UC_MODE_MCLASS"),
    registers="UC_ARM_REG_",
    arguments=("R0", "R1", "LR"),
    memory=((0, 4 << 20), (0x20000000, 4 << 20), (0xE000E000, 4096)),
    host_call=b"\xab\xbe",  # bkpt 0xab
    wide=lambda half: half >> 11 >= 0b11101,
)
_RISCV = _Core(
    constants="riscv_const",
    setup=("UC_ARCH_RISCV", "UC_MODE_RISCV32"),
    registers="UC_RISCV_REG_",
    arguments=("A0", "A1", "RA"),
    memory=((0x80000000, 16 << 20),),
    host_call=b"\x73\x00\x10\x00",  # ebreak
    wide=lambda half: half & 3 == 3,
)


class _Lengths(dict[tuple[int, int], int]):
    """Instructions in a block of code, by its address and bytes."""

    def __init__(self, uc: Any, wide: Callable[[int], bool]) -> None:
        self.uc, self.wide = uc, wide

    def __missing__(self, block: tuple[int, int]) -> int:
        address, size = block
        halves = struct.unpack(f"<{size // 2}H", self.uc.mem_read(address, size))
        at = self[block] = 0
        while at < len(halves):
            at += 2 if self.wide(halves[at]) else 1
            self[block] += 1
        return self[block]


class _Counter:
    """Counts the instructions of each block that the processor enters, and of each call of a function until its return.

    Function entries and return addresses are always the beginning of a block. An instruction whose condition is false
    counts: it takes time, and QEMU counts it too.
    """

    def __init__(self, uc: Any, core: _Core, link: int, functions: dict[int, str]) -> None:
        self.uc, self.link, self.functions = uc, link, functions
        self.lengths = _Lengths(uc, core.wide)
        self.total = 0
        self.calls: list[Call] = []
        self.open: list[tuple[int, str, int]] = []  # return address, function, total at entry
        self.watched = set(functions)  # and all return addresses

    def enter(self, _uc: Any, address: int, size: int, _data: Any) -> None:
        if address in self.watched:
            self._watch(address)
        self.total += self.lengths[address, size]

    def _watch(self, address: int) -> None:
        while self.open and self.open[-1][0] == address:
            _, name, before = self.open.pop()
            self.calls.append(Call(name, self.total - before))
        if address in self.functions:
            back = self.uc.reg_read(self.link) & ~1
            self.watched.add(back)
            self.open.append((back, self.functions[address], self.total))


class _Unicorn:
    """A processor with an image in its memory."""

    def __init__(self, image: Path, target: Target) -> None:
        if not target.unicorn:
            raise InputError(f"unicorn has no {target.name}: use qemu")
        try:
            unicorn: Any = importlib.import_module("unicorn")
        except ImportError:
            raise missing("unicorn", "firmware") from None
        self.core = core = _CORTEX_M if target.unicorn.startswith("UC_CPU_ARM") else _RISCV
        self.image, self.unicorn, self.error = image, unicorn, unicorn.UcError
        constants = importlib.import_module(f"unicorn.{core.constants}")
        self.pc, self.stack, self.operation, self.argument, self.link = (
            getattr(constants, core.registers + name) for name in ("PC", "SP", *core.arguments)
        )
        self.uc = unicorn.Uc(*(getattr(unicorn, name) for name in core.setup))
        self.uc.ctl_set_cpu_model(getattr(constants, target.unicorn))
        for address, size in core.memory:
            self.uc.mem_map(address, size)
        try:
            self.next, self.functions = self._load()
        except self.error:
            raise InputError(f"{image.name} was not built for {target.name}: it has no such memory") from None
        self.thumb = int(core is _CORTEX_M)
        if self.thumb:  # here a host call is an interrupt; on RISC-V it is an error of emu_start
            self.uc.hook_add(unicorn.UC_HOOK_INTR, lambda uc, _number, _data: uc.emu_stop())
            self.uc.reg_write(self.stack, *struct.unpack("<I", self.uc.mem_read(0, 4)))

    def _load(self) -> tuple[int, dict[int, tuple[str, int]]]:
        """Load the image; returns its entry point, and names and sizes of functions by address."""
        with open_image(self.image) as elf:
            for segment in elf.iter_segments("PT_LOAD"):
                if segment["p_filesz"]:
                    self.uc.mem_write(segment["p_paddr"], segment.data())
            table = elf.get_section_by_name(".symtab")
            symbols = (
                [symbol for symbol in table.iter_symbols() if symbol["st_info"]["type"] == "STT_FUNC"] if table else []
            )
            return elf["e_entry"] & ~1, {
                symbol["st_value"] & ~1: (symbol.name, symbol["st_size"]) for symbol in symbols
            }

    def count(self, functions: re.Pattern[str]) -> "_Counter":
        """Start counting."""
        counted = {address: name for address, (name, _) in self.functions.items() if functions.fullmatch(name)}
        counter = _Counter(self.uc, self.core, self.link, counted)
        self.uc.hook_add(self.unicorn.UC_HOOK_BLOCK, counter.enter)
        return counter

    def report(self, blocks: Blocks) -> None:
        """Tell of every block of code."""
        self.uc.hook_add(self.unicorn.UC_HOOK_BLOCK, lambda _uc, address, size, _data: blocks.enter(address & ~1, size))

    def run(self, host: Semihosting, seconds: float) -> None:
        """Run to the program's exit, or raise InputError."""
        end = time.monotonic() + seconds
        try:
            while host.exit_code is None:
                left = end - time.monotonic()
                if left <= 0:
                    raise _endless(self.image, seconds)
                if self._to_next_call(left):
                    self._serve(host)
                elif time.monotonic() < end:
                    raise self.error(self.unicorn.UC_ERR_EXCEPTION)
        except self.error as error:
            console = _last_line(host.console.decode("utf-8", "replace"))
            raise _faulted(self.image, f"{error}, at {self._place()}; {console}") from None

    def _to_next_call(self, seconds: float) -> bool:
        """Run until the program calls the host; returns whether it does."""
        try:
            self.uc.emu_start(self.next | self.thumb, NOWHERE, timeout=int(seconds * 1e6) + 1)
        except self.error:
            if not self._at_host_call():
                raise
        self.next = self.uc.reg_read(self.pc)
        return self._at_host_call()

    def _at_host_call(self) -> bool:
        code = self.core.host_call
        try:
            return self.uc.mem_read(self.uc.reg_read(self.pc), len(code)) == code
        except self.error:  # the address is not mapped
            return False

    def _serve(self, host: Semihosting) -> None:
        result = host.call(self.uc.reg_read(self.operation), self.uc.reg_read(self.argument))
        self.uc.reg_write(self.operation, result)
        self.next = self.uc.reg_read(self.pc) + len(self.core.host_call)

    def _place(self) -> str:
        pc = self.uc.reg_read(self.pc)
        names = [name for address, (name, size) in self.functions.items() if address <= pc < address + size]
        return f"{pc:#x} in {names[0]}" if names else f"{pc:#x}"


def _unicorn(
    image: Path, target: Target, folder: Path, counted: re.Pattern[str] | None, blocks: Blocks | None, seconds: float
) -> Run:
    processor = _Unicorn(image, target)
    if blocks:
        processor.report(blocks)
    counter = processor.count(counted) if counted else None
    with Semihosting(processor.uc, folder) as host:
        processor.run(host, seconds)
    console = host.console.decode("utf-8", "replace")
    if host.exit_code == FAULT:
        raise _faulted(image, _last_line(console))
    counts = (counter.total, counter.calls) if counter else (None, [])
    return Run(host.exit_code or 0, console, *counts)

"""Measurement on a microcontroller board, read from its serial port and checked against the bundle's golden vectors.

tinyscene firmware BUNDLE --package board --out fw      # the program for the board, and the protocol in its README
tinyscene bench BUNDLE --serial /dev/ttyACM0            # or socket://HOST:PORT, or any URL that pyserial takes
"""

import re
import statistics
import time
import zlib
from collections.abc import Iterator
from dataclasses import dataclass

from tinyscene.benchmarks.measured import Amount, Count, Measured
from tinyscene.deploy.bundle.bundle import Bundle
from tinyscene.deploy.bundle.index import GRAPH
from tinyscene.deploy.common.errors import InputError
from tinyscene.deploy.common.installation import missing

BAUD = 115_200
SILENCE = 60.0  # seconds to wait for a valid line
LONGEST = 600.0  # seconds to wait for a report
MAX_LINE = 512  # bytes
LINE = re.compile(rb"(TSB1 (begin|sound|end|failed)((?: [a-z_]+=[!-~]+)*)) \*([0-9a-f]{8})")
NUMBER = re.compile(r"[0-9]{1,10}")
UNITS = ("cycles", "instructions", "ticks", "none")

Line = tuple[str, dict[str, str]]  # its kind, and what it says


@dataclass(frozen=True)
class BoardReport(Measured):
    """The figures of a board: medians over the golden sounds."""

    target: str
    kernels: str
    counter: str
    unit: str  # of frontend and network: one of UNITS
    clock_hz: Count | None
    memory_bytes: Count
    clips: Count
    equal: bool
    difference: str | None  # the first one
    frontend: Amount | None
    frontend_ms: Amount | None  # where the clock is known and cycles are counted
    network: Amount | None
    network_ms: Amount | None
    kind: str = "board"


def measure_board(bundle: Bundle, port: str) -> BoardReport:
    """Read one complete report of a board and compare its logits with the reference.

    Raises InputError if the port cannot be read, if no report arrives, or if it is of another bundle.
    """
    begin, sounds = _read_report(_lines(port), port)
    model = bundle.content["files"][f"{GRAPH}.safetensors"]
    if begin["model"] != model:
        raise InputError(
            f"{port}: the board runs the model {begin['model'][:16]}, not {model[:16]} of {bundle.folder}; "
            f"build its program again with `tinyscene firmware {bundle.folder} --package board`"
        )
    differing = [index for index, sound in enumerate(sounds) if int(sound["logits"], 16) != _checksum(bundle, index)]
    frontend, frontend_ms = _median(sounds, "front_end", begin)
    network, network_ms = _median(sounds, "network", begin)
    return BoardReport(
        target=begin["target"],
        kernels=begin["kernels"],
        counter=begin["counter"],
        unit=begin["unit"],
        clock_hz=int(begin["clock"]) or None,
        memory_bytes=int(begin["memory"]),
        clips=len(sounds),
        equal=not differing,
        difference=f"the logits of golden sound {differing[0]}" if differing else None,
        frontend=frontend,
        frontend_ms=frontend_ms,
        network=network,
        network_ms=network_ms,
    )


def _checksum(bundle: Bundle, index: int) -> int:
    return zlib.crc32(bundle.vectors.logits[index].tobytes())


def _median(sounds: list[dict[str, str]], key: str, begin: dict[str, str]) -> tuple[float | None, float | None]:
    """The median over the sounds in the board's unit, and in milliseconds."""
    median, clock = statistics.median(int(sound[key]) for sound in sounds), int(begin["clock"])
    milliseconds = 1e3 * median / clock if clock and begin["unit"] == "cycles" else None
    return None if begin["unit"] == "none" else median, milliseconds


def _read_report(lines: Iterator[Line], port: str) -> tuple[dict[str, str], list[dict[str, str]]]:
    """The first report with all its lines: its beginning and its sounds."""
    begin: dict[str, str] | None = None
    sounds: list[dict[str, str]] = []
    for kind, values in lines:
        if kind == "begin":
            begin, sounds = values, []
        elif kind == "failed":
            raise InputError(f"{port}: a call of the library failed on the board, after {values.get('sounds')} sounds")
        elif begin is None:
            continue
        elif kind == "sound" and values.get("index") == str(len(sounds)):
            sounds.append(values)
        elif kind == "end" and sounds and values.get("sounds") == str(len(sounds)):
            _check(begin, sounds, port)
            return begin, sounds
        else:
            begin = None  # a line was lost: wait for the next report
    raise InputError(
        f"{port}: no complete report within {LONGEST:g} s, or no valid line for {SILENCE:g} s; check that the program "
        f"of `tinyscene firmware --package board` is running at {BAUD} baud"
    )


def _check(begin: dict[str, str], sounds: list[dict[str, str]], port: str) -> None:
    """Raise InputError if a report is incomplete or holds values that are not numbers."""
    texts = all(key in begin for key in ("model", "target", "kernels", "counter"))
    numbers = [
        begin.get("clock"),
        begin.get("memory"),
        *(s.get(key) for s in sounds for key in ("front_end", "network")),
    ]
    checksums = all(re.fullmatch("[0-9a-f]{8}", sound.get("logits", "")) for sound in sounds)
    whole = (
        texts and checksums and begin.get("unit") in UNITS and all(NUMBER.fullmatch(number or "") for number in numbers)
    )
    if not whole or len(sounds) > 8:
        raise InputError(f"{port}: its report does not follow the protocol; build the board's program again")


def _lines(port: str) -> Iterator[Line]:
    """Valid lines as they arrive, until there was none for SILENCE seconds or LONGEST has passed."""
    try:
        import serial
    except ImportError:
        raise missing("pyserial", "firmware", "--serial") from None
    started = last_line = time.monotonic()
    try:
        with serial.serial_for_url(port, BAUD, timeout=1) as line:
            waiting = b""
            while time.monotonic() - last_line < SILENCE and time.monotonic() - started < LONGEST:
                waiting += line.read(max(1, min(line.in_waiting, MAX_LINE)))
                *whole, waiting = waiting.split(b"\n")
                waiting = waiting[-MAX_LINE:]
                for content in whole:
                    if report_line := parse_line(content):
                        last_line = time.monotonic()
                        yield report_line
    except (serial.SerialException, ValueError, OSError) as error:
        raise InputError(f"--serial {port}: cannot be read ({str(error).splitlines()[0][:160]})") from None


def parse_line(content: bytes) -> Line | None:
    """A line of the protocol; none for other output of the board and for damaged lines."""
    match = LINE.fullmatch(content.strip())
    if match is None or zlib.crc32(match[1]) != int(match[4], 16):
        return None
    pairs = (pair.partition("=") for pair in match[3].decode("ascii").split())
    return match[2].decode("ascii"), {key: value for key, _, value in pairs}

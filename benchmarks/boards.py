"""A board's own measurement, read from its serial line and held to the bundle's golden sounds.

tinyscene firmware BUNDLE --package board --out fw      # the program for the board, and the protocol in its README
tinyscene bench BUNDLE --serial /dev/ttyACM0            # or socket://HOST:PORT, or any URL that pyserial takes
"""

import re
import statistics
import time
import zlib
from collections.abc import Iterator
from typing import Any

from tinyscene.deploy.bundle.bundle import GRAPH, Bundle
from tinyscene.deploy.common.errors import InputError

BAUD = 115_200
SILENCE = 60.0  # seconds without a good line after which a port is given up
LONGEST = 600.0  # seconds for a report
MAX_LINE = 512  # bytes
LINE = re.compile(rb"(TSB1 (begin|sound|end|failed)((?: [a-z_]+=[!-~]+)*)) \*([0-9a-f]{8})")
NUMBER = re.compile(r"[0-9]{1,10}")
UNITS = ("cycles", "instructions", "ticks", "none")

Line = tuple[str, dict[str, str]]  # its kind, and what it says


def measure_board(bundle: Bundle, port: str) -> dict[str, Any]:
    """Read one whole report of a board, and compare its logits with the reference's.

    Returns: target, kernels, counter, unit (cycles, instructions, ticks or none), clock_hz, memory_bytes, clips, equal,
    difference (what differs first), and frontend and network: medians over the sounds, in the unit, and `_ms`
    where the clock is known and cycles are counted. Raises InputError if the port cannot be read, if no report comes,
    or if it is not of this bundle.
    """
    begin, sounds = _read_report(_lines(port), port)
    model = bundle.content["files"][f"{GRAPH}.safetensors"]
    if begin["model"] != model:
        raise InputError(
            f"{port}: the board runs the model {begin['model'][:16]}, not {model[:16]}, which is {bundle.folder}'s; "
            f"build it anew with `tinyscene firmware {bundle.folder} --package board`"
        )
    differing = [index for index, sound in enumerate(sounds) if int(sound["logits"], 16) != _checksum(bundle, index)]
    clock, unit = int(begin["clock"]), begin["unit"]
    result: dict[str, Any] = {
        "kind": "board",
        **{key: begin[key] for key in ("target", "kernels", "counter", "unit")},
        "clock_hz": clock or None,
        "memory_bytes": int(begin["memory"]),
        "clips": len(sounds),
        "equal": not differing,
        "difference": f"the logits of golden sound {differing[0]}" if differing else None,
    }
    for name, key in (("frontend", "front_end"), ("network", "network")):
        taken = statistics.median(int(sound[key]) for sound in sounds)
        result[name] = None if unit == "none" else taken
        result[f"{name}_ms"] = 1e3 * taken / clock if clock and unit == "cycles" else None
    return result


def _checksum(bundle: Bundle, index: int) -> int:
    return zlib.crc32(bundle.vectors.logits[index].tobytes())


def _read_report(lines: Iterator[Line], port: str) -> tuple[dict[str, str], list[dict[str, str]]]:
    """The first report with all its lines: its beginning and its sounds."""
    begin: dict[str, str] | None = None
    sounds: list[dict[str, str]] = []
    for kind, said in lines:
        if kind == "begin":
            begin, sounds = said, []
        elif kind == "failed":
            raise InputError(f"{port}: a call of the library failed on the board, after {said.get('sounds')} sounds")
        elif begin is None:
            continue
        elif kind == "sound" and said.get("index") == str(len(sounds)):
            sounds.append(said)
        elif kind == "end" and sounds and said.get("sounds") == str(len(sounds)):
            _check(begin, sounds, port)
            return begin, sounds
        else:
            begin = None  # a line was lost: wait for the next report
    raise InputError(
        f"{port}: no whole report came within {LONGEST:g} s, and {SILENCE:g} s without a line is too long, too: is "
        f"the program of `tinyscene firmware --package board` running, at {BAUD} baud?"
    )


def _check(begin: dict[str, str], sounds: list[dict[str, str]], port: str) -> None:
    """Raise InputError if a report lacks anything or has numbers that are none."""
    texts = all(key in begin for key in ("model", "target", "kernels", "counter"))
    numbers = [
        begin.get("clock"),
        begin.get("memory"),
        *(s.get(key) for s in sounds for key in ("front_end", "network")),
    ]
    checksums = all(re.fullmatch("[0-9a-f]{8}", sound.get("logits", "")) for sound in sounds)
    whole = texts and checksums and begin.get("unit") in UNITS and all(NUMBER.fullmatch(each or "") for each in numbers)
    if not whole or len(sounds) > 8:
        raise InputError(f"{port}: its report is not as the protocol has it; build the board's program anew")


def _lines(port: str) -> Iterator[Line]:
    """Good lines as they come, until there have been none for SILENCE, or LONGEST is over."""
    try:
        import serial
    except ImportError:
        raise InputError("--serial: pyserial is not installed: pip install 'tinyscene[firmware]'") from None
    started = heard = time.monotonic()
    try:
        with serial.serial_for_url(port, BAUD, timeout=1) as line:
            waiting = b""
            while time.monotonic() - heard < SILENCE and time.monotonic() - started < LONGEST:
                waiting += line.read(max(1, min(line.in_waiting, MAX_LINE)))
                *whole, waiting = waiting.split(b"\n")
                waiting = waiting[-MAX_LINE:]
                for each in whole:
                    if said := parse_line(each):
                        heard = time.monotonic()
                        yield said
    except (serial.SerialException, ValueError, OSError) as error:
        raise InputError(f"--serial {port}: cannot be read ({str(error).splitlines()[0][:160]})") from None


def parse_line(content: bytes) -> Line | None:
    """A line of the protocol, or none for whatever else a board prints and for what was damaged on its way."""
    match = LINE.fullmatch(content.strip())
    if match is None or zlib.crc32(match[1]) != int(match[4], 16):
        return None
    pairs = (pair.partition("=") for pair in match[3].decode("ascii").split())
    return match[2].decode("ascii"), {key: value for key, _, value in pairs}

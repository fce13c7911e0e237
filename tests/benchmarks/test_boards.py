"""A board's report over its serial line: the program runs on QEMU's boards, and pyserial reads their lines."""

import contextlib
import os
import pty
import shutil
import socket
import subprocess
import threading
import tty
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.train.test_streaming import streaming_bundle
from tinyscene.benchmarks import boards
from tinyscene.benchmarks.boards import measure_board, parse_line
from tinyscene.deploy.bundle.bundle import Bundle
from tinyscene.deploy.common.errors import InputError
from tinyscene.firmware_bridge.codegen.library import make_library
from tinyscene.firmware_bridge.emulate import emulate
from tinyscene.firmware_bridge.memory.by_time import Order
from tinyscene.firmware_bridge.packaging import package
from tinyscene.firmware_bridge.targets.image import build_settings
from tinyscene.firmware_bridge.targets.toolchains import HARNESS, TARGETS, build, find_toolchain, harness_sources

pytest.importorskip("serial", reason="pyserial is not installed")

STRICT = ("-Wall", "-Wextra", "-Wconversion", "-Wshadow", "-pedantic", "-Werror")


def model_of(bundle: Bundle) -> str:
    return bundle.content["files"]["graph.safetensors"]


def board_image(bundle: Bundle, target: str, folder: Path, order: Order = "mel") -> Path:
    """The package `board` as a user gets it, with QEMU's boards in place of bench_board.c."""
    chosen = TARGETS[target]
    library = make_library(bundle.graph, bundle.front_end, bundle.labels, model=model_of(bundle), order=order)
    for name, content in package(library, "board", "1.0.0").items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    programs = [folder / "bench/bench_main.c", folder / "bench/bench_counter.c", HARNESS / "board.c"]
    sources = [*sorted((folder / "src").glob("*.c")), *programs, *harness_sources(chosen)]
    includes = [folder / "src", folder / "bench"]
    return build(find_toolchain("zig", chosen), chosen, sources, folder / "b.elf", includes=includes, flags=STRICT)


@pytest.fixture(scope="module")
def on_m4(bundle: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return board_image(bundle, "cortex-m4", tmp_path_factory.mktemp("board"))


@pytest.fixture
def boot() -> Iterator[Callable[[Path, str], str]]:
    """Start an image on QEMU's board; the address of its serial line."""
    started: list[subprocess.Popen[bytes]] = []

    def start(image: Path, target: str) -> str:
        program, machine = TARGETS[target].qemu
        if shutil.which(program) is None:
            pytest.skip(f"{program} is missing: apt-get install it")
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        command = [program, "-M", machine, "-bios", "none", "-kernel", str(image), "-nographic", "-monitor", "none"]
        command += ["-icount", "shift=0", "-serial", f"tcp:127.0.0.1:{port},server=on,wait=on"]
        started.append(subprocess.Popen(command, stdin=subprocess.DEVNULL, stderr=subprocess.PIPE))
        stderr = started[-1].stderr
        assert stderr is not None
        stderr.readline()  # which says that it waits for somebody to connect
        return f"socket://127.0.0.1:{port}"

    yield start
    for each in started:
        each.kill()
        each.wait()


@pytest.mark.parametrize("target", [pytest.param("cortex-m55", marks=pytest.mark.slow), "riscv32"])
def test_a_board_gives_the_references_logits_and_says_what_it_counts(
    bundle: Bundle, target: str, tmp_path: Path, boot: Callable
) -> None:
    found = measure_board(bundle, boot(board_image(bundle, target, tmp_path), target))
    assert (found.equal, found.difference, found.clips) == (True, None, 4)
    assert found.unit == "instructions"  # an emulator's counter is never taken for one of cycles
    assert found.counter == ("mcycle" if target == "riscv32" else "timer")
    assert (found.clock_hz, found.network_ms) == (None, None)
    assert found.kernels == TARGETS[target].kernels


@pytest.mark.slow
@pytest.mark.parametrize("padding", ["same", "none"])
def test_a_board_decides_in_the_order_by_time(padding: str, bundle: Bundle, tmp_path: Path, boot: Callable) -> None:
    chosen = bundle if padding == "same" else streaming_bundle(tmp_path / "bundle")
    found = measure_board(chosen, boot(board_image(chosen, "riscv32", tmp_path, "time"), "riscv32"))
    assert (found.equal, found.difference, found.clips) == (True, None, 4)


def test_a_board_counts_what_the_emulator_counts_from_outside(bundle: Bundle, on_m4: Path, boot: Callable) -> None:
    found = measure_board(bundle, boot(on_m4, "cortex-m4"))
    assert (found.equal, found.unit) == (True, "instructions")
    outside = emulate(bundle, bundle.vectors.pcm[:1], build_settings("cortex-m4"))
    assert found.network == pytest.approx(outside.instructions, rel=0.01)
    assert found.frontend == pytest.approx(outside.frontend_instructions, rel=0.01)


# the host's side, on a line of its own


def checked(text: str) -> bytes:
    return f"{text} *{zlib.crc32(text.encode()):08x}\r\n".encode()


def report(bundle: Bundle, **changed: str) -> list[bytes]:
    """As a Cortex-M4 at 100 MHz would send it."""
    said = {"model": model_of(bundle), "target": "some-board", "kernels": "dsp", "clock": "100000000"}
    said |= {"counter": "dwt", "unit": "cycles", "memory": "39808"} | changed
    logits = [zlib.crc32(each.tobytes()) for each in bundle.vectors.logits[:4]]
    sounds = [
        f"TSB1 sound index={index} logits={crc:08x} front_end={20_000_000 + index} network={50_000_000 + index}"
        for index, crc in enumerate(logits)
    ]
    lines = ["TSB1 begin " + " ".join(f"{key}={value}" for key, value in said.items()), *sounds, "TSB1 end sounds=4"]
    return [checked(line) for line in lines]


@pytest.fixture
def line(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[list[bytes]], str]]:
    """A serial line, as a pseudo-terminal, on which a board repeats itself; the device that reads it."""
    monkeypatch.setattr(boards, "SILENCE", 2.0)
    monkeypatch.setattr(boards, "LONGEST", 4.0)
    handles: list[int] = []
    over = threading.Event()

    def repeat(board: int, said: bytes) -> None:
        while not over.wait(0.05):
            with contextlib.suppress(OSError):  # nobody reads, or no longer
                os.write(board, said)

    def say(lines: list[bytes]) -> str:
        board, host = pty.openpty()
        tty.setraw(host)
        os.set_blocking(board, False)
        handles.extend((board, host))
        threading.Thread(target=repeat, args=(board, b"".join(lines)), daemon=True).start()
        return os.ttyname(host)

    yield say
    over.set()
    for handle in handles:
        os.close(handle)


def test_cycles_become_milliseconds_by_the_boards_clock(bundle: Bundle, line: Callable) -> None:
    found = measure_board(bundle, line(report(bundle)))
    assert (found.network, found.unit) == (50_000_001.5, "cycles")
    assert (found.network_ms, found.frontend_ms) == pytest.approx((500.000015, 200.000015))


@pytest.mark.parametrize("unit", ["instructions", "ticks", "none"])
def test_what_is_no_cycles_never_becomes_milliseconds(bundle: Bundle, line: Callable, unit: str) -> None:
    found = measure_board(bundle, line(report(bundle, unit=unit)))
    assert (found.network_ms, found.frontend_ms) == (None, None)
    assert (found.network is None) == (unit == "none")


def test_other_logits_are_told_by_their_sound(bundle: Bundle, line: Callable) -> None:
    lines = report(bundle)
    lines[3] = checked("TSB1 sound index=2 logits=00000000 front_end=1 network=1")
    found = measure_board(bundle, line(lines))
    assert (found.equal, found.difference) == (False, "the logits of golden sound 2")


@pytest.mark.parametrize("damage", [b"TSB1", b"\xff\xfe\x00", b"noise without an end " * 100])
def test_a_damaged_report_is_passed_over_for_the_next_one(bundle: Bundle, line: Callable, damage: bytes) -> None:
    lines = report(bundle)
    bad = [*lines[:2], damage + lines[2][8:], *lines[3:]]
    assert measure_board(bundle, line([b"boot v1\r\n", *lines[4:], *bad, *lines])).equal


def test_a_board_with_another_model_is_refused(bundle: Bundle, line: Callable) -> None:
    with pytest.raises(InputError, match=r"runs the model 0{16}, not .*--package board"):
        measure_board(bundle, line(report(bundle, model="0" * 64)))


def test_half_a_report_is_none(bundle: Bundle, line: Callable) -> None:
    with pytest.raises(InputError, match="no complete report"):
        measure_board(bundle, line(report(bundle)[:-1]))


def test_a_line_with_a_wrong_checksum_says_nothing() -> None:
    good = checked("TSB1 end sounds=4")
    assert parse_line(good) == ("end", {"sounds": "4"})
    assert parse_line(good.replace(b"4 ", b"5 ")) is None


@pytest.mark.parametrize(
    "changed", [{"clock": "fast"}, {"unit": "seconds"}, {"memory": "1" * 30}, {"memory": "-1"}], ids=str
)
def test_a_report_of_nonsense_is_refused_in_one_line(bundle: Bundle, line: Callable, changed: dict[str, Any]) -> None:
    with pytest.raises(InputError, match="does not follow the protocol"):
        measure_board(bundle, line(report(bundle, **changed)))


def test_a_failure_on_the_board_is_told(bundle: Bundle, line: Callable) -> None:
    with pytest.raises(InputError, match="failed on the board, after 1 sounds"):
        measure_board(bundle, line([*report(bundle)[:2], checked("TSB1 failed sounds=1")]))


@pytest.mark.parametrize("port", ["/dev/nothing", "socket://127.0.0.1:1", "gopher://board", "/dev/null"])
def test_a_port_that_cannot_be_read_is_one_line(bundle: Bundle, port: str) -> None:
    with pytest.raises(InputError, match=f"--serial {port}: cannot be read") as caught:
        measure_board(bundle, port)
    assert "\n" not in str(caught.value)

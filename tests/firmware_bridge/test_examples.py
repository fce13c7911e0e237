"""The examples of the packages: that no sound is lost while the network runs, or that they say so at their start.

No board is here: they are compiled against the stand-ins in stand_ins/, whose drivers lose sound as the real ones do,
and whose clock moves by the instructions that the default network takes.
"""

import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from tests.firmware_bridge.packaged import COSTS, SKETCHES, need, run, write
from tinyscene.deploy.bundle.bundle import Bundle, open_bundle
from tinyscene.deploy.graph.reference import run as run_graph
from tinyscene.firmware_bridge.codegen.library import Library, make_library
from tinyscene.firmware_bridge.cost import MIPS, Cost, clock_rows, sound_ms
from tinyscene.firmware_bridge.packaging import COST_HEADER, LISTENING, package
from tinyscene.interface.names import packaged_models

STAND_INS = Path(__file__).parent / "stand_ins"
OPTIONS = ("-Wall", "-Wextra", "-Werror", "-fsanitize=address", "-pthread", f"-I{STAND_INS}")
WRAPPED = ("-Wl,--wrap=tinyscene_run", "-Wl,--wrap=tinyscene_push", "-Wl,--wrap=tinyscene_reset")
INSTRUCTIONS = (1000 * COSTS[0].run_kilo, 1000 * COSTS[0].push_kilo)
DECISIONS, STARTING = 30, 6  # seconds of sound, and until the examples have started

Board = Callable[..., Path]


def sketch(folder: Path, name: str, out: Path, define: str, objects: list[Path], *options: str, ok: bool = True) -> str:
    """Compile a sketch as C++ with the stand-ins, and link it with the library compiled as C."""
    includes = (f"-I{STAND_INS / 'arduino'}", f"-I{folder / 'src'}")
    sources = (folder / "examples" / name / f"{name}.ino", STAND_INS / "arduino" / "board.cpp")
    words = ("-include", "Arduino.h", "-x", "c++", *sources, "-x", "none", *objects, *WRAPPED)
    return run("g++", "-std=c++11", *OPTIONS, f"-D{define}", *includes, *options, *words, "-o", out, ok=ok)


def program(kind: str, package_folder: Path, out: Path, objects: list[Path], *options: str) -> None:
    """Compile an example in C with the stand-ins, and link it with the library."""
    sources = [package_folder / LISTENING[kind][0] / "main.c", STAND_INS / kind / "board.c"]
    includes = (f"-I{STAND_INS / kind}", f"-I{package_folder / 'include'}")
    example = out.with_suffix(".o")
    run("gcc", "-std=gnu11", *OPTIONS, "-Dmain=board_main", *includes, *options, "-c", sources[0], "-o", example)
    run("gcc", "-std=gnu11", *OPTIONS, *includes, sources[1], example, *objects, *WRAPPED, "-o", out)


def compiled(package_folder: Path, folder: Path) -> list[Path]:
    """The sources of a package for Arduino, and the machine of the stand-ins, as objects in a folder."""
    sources = [*(package_folder / "src").glob("*.c"), STAND_INS / "machine.c"]
    includes = (f"-I{package_folder / 'src'}", f"-I{STAND_INS}")
    run("gcc", "-std=gnu11", "-O1", "-fsanitize=address", *includes, "-c", *sources, cwd=folder)
    return sorted(folder.glob("*.o"))


@pytest.fixture(scope="module")
def objects(made: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """The library and the machine of the stand-ins, compiled for this computer as C, as the Arduino builder does."""
    need("gcc", "g++")
    return compiled(made["arduino"], tmp_path_factory.mktemp("objects"))


@pytest.fixture(scope="module", params=[*SKETCHES, "zephyr", "espidf"])
def board(
    request: pytest.FixtureRequest,
    made: dict[str, Path],
    objects: list[Path],
    tmp_path_factory: pytest.TempPathFactory,
) -> Board:
    """Builds each example, to hold sound for a processor of so many millions of instructions a second."""
    name = request.param

    def build(mips: int) -> Path:
        out = tmp_path_factory.mktemp(name) / "board"
        if name in SKETCHES:
            sketch(made["arduino"], name, out, SKETCHES[name], objects, f"-DSCENE_MIPS={mips}u")
        else:
            options = (f"-DCONFIG_SCENE_MIPS={mips}", "-DCONFIG_SCENE_SOUND_MS=0")
            program(name, made[name], out, objects, *options)
        return out

    return build


@pytest.fixture(scope="module")
def built(board: Board) -> Path:
    return board(MIPS)


@pytest.fixture(scope="module")
def sound(bundle: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Noise whose level changes, for 30 decisions and the time that the examples take to start."""
    rate, seconds = bundle.front_end.sample_rate, DECISIONS + STARTING
    generator = np.random.default_rng(21)
    levels = np.repeat(generator.uniform(10, 8_000, 10 * seconds), rate // 10)
    path = tmp_path_factory.mktemp("sound") / "sound.raw"
    (levels * generator.normal(size=len(levels))).clip(-32_768, 32_767).astype(np.int16).tofile(path)
    return path


def answers(output: str) -> list[str]:
    return re.findall(r"^(\S+)  ms: \d+$", output, re.MULTILINE)


def listen(
    board: Path, sound: Path, rate: int, mips: int = MIPS, *more: int, instructions: tuple[int, int] = INSTRUCTIONS
) -> str:
    return run(board, sound, rate, mips, *instructions, *more, cwd=board.parent)


def assert_unbroken(board: Path, sound: Path) -> np.ndarray:
    """What the library took is one stretch of the sound; returns it."""
    heard, played = (np.fromfile(path, np.int16) for path in (board.parent / "pushed.raw", sound))
    beginning = np.lib.stride_tricks.sliding_window_view(played, 32)
    (start,) = np.flatnonzero((beginning == heard[:32]).all(1))
    np.testing.assert_array_equal(heard, played[start : start + len(heard)])
    return heard


def test_no_sound_is_lost_over_30_decisions_at_64_million_instructions_a_second(
    built: Path, sound: Path, bundle: Bundle
) -> None:
    output = listen(built, sound, bundle.front_end.sample_rate)
    assert "holds 838 ms of sound, a run takes 43.0 M instructions: needs at least 57 MHz; here" in output
    assert ": fast enough\n" in output
    assert "sound was lost" not in output
    assert "lost by the driver: 0\n" in output
    windows = assert_unbroken(built, sound)
    windows = windows[: len(windows) // bundle.front_end.clip_samples * bundle.front_end.clip_samples]
    windows = windows.reshape(-1, bundle.front_end.clip_samples)
    decided = answers(output)
    assert len(windows) - 1 <= len(decided) <= len(windows)  # the sound may end during a run
    assert len(decided) >= DECISIONS
    first = run_graph(bundle.graph, bundle.features(windows[:4])).argmax(1)
    assert decided[:4] == [bundle.labels[index] for index in first]


def test_an_example_on_a_processor_that_is_too_slow_says_so_at_its_start_and_resets(
    built: Path, sound: Path, bundle: Bundle
) -> None:
    output = listen(built, sound, bundle.front_end.sample_rate, 50)
    start, _, rest = output.partition("\n")
    assert start.endswith("too slow at any hop, sound will be lost: needs 1.13 times this speed")
    assert "sound was lost" in rest
    assert len(answers(rest)) > 1
    assert_unbroken(built, sound)


def test_an_example_whose_queue_is_too_small_says_at_its_start_how_large_it_must_be(
    board: Board, sound: Path, bundle: Bundle
) -> None:
    output = listen(board(200), sound, bundle.front_end.sample_rate)
    assert re.search(r": sound will be lost: set SCENE_SOUND_MS to 83[89]$", output.partition("\n")[0])
    assert "sound was lost" in output


def test_an_example_stops_if_the_microphone_has_another_rate(built: Path, sound: Path, bundle: Bundle) -> None:
    output = listen(built, sound, bundle.front_end.sample_rate * 31250 // 32000)  # the nearest that an nRF52 has
    assert "his is not the rate" in output
    assert not answers(output)


@pytest.mark.parametrize("kind", ["zephyr", "espidf"])
def test_after_a_failure_of_the_driver_no_window_spans_the_gap(
    kind: str, made: dict[str, Path], objects: list[Path], sound: Path, bundle: Bundle, tmp_path: Path
) -> None:
    program(kind, made[kind], tmp_path / "board", objects, "-DCONFIG_SCENE_MIPS=64", "-DCONFIG_SCENE_SOUND_MS=0")
    output = listen(tmp_path / "board", sound, bundle.front_end.sample_rate, MIPS, 10_300)
    before, after = output.split("sound was lost: ")
    assert len(answers(before)) >= 5
    assert len(answers(after)) >= 15
    assert_unbroken(tmp_path / "board", sound)


@pytest.mark.parametrize("architecture", ["NRF52840", "RP2040"])
def test_a_sketch_refuses_a_board_whose_microphone_cannot_give_the_rate(
    architecture: str, made: dict[str, Path], objects: list[Path], tmp_path: Path
) -> None:
    define = f"ARDUINO_ARCH_{architecture}"
    output = sketch(made["arduino"], "SceneFromMicrophone", tmp_path / "board", define, objects, ok=False)
    assert "#error" in output
    assert "recipes baseline16k, micro16k, nano16k; model sounds10" in output


@pytest.mark.slow
@pytest.mark.parametrize("architecture", ["NRF52840", "RP2040"])
def test_the_sketch_of_a_16_khz_model_runs_where_32_khz_is_refused_and_holds_half_the_samples(
    architecture: str, tmp_path: Path
) -> None:
    need("gcc", "g++")
    model = open_bundle(packaged_models()["sounds10"])
    library = make_library(model.graph, model.front_end, model.labels, ("plain",))
    folder = write(package(library, "arduino", "1.2.3", COSTS), tmp_path / "arduino")
    board, objects = tmp_path / "board", compiled(folder, tmp_path)
    sketch(folder, "SceneFromMicrophone", board, f"ARDUINO_ARCH_{architecture}", objects)
    np.zeros(16_000 * 8, np.int16).tofile(tmp_path / "sound.raw")
    output = listen(board, tmp_path / "sound.raw", 16_000)
    assert "holds 838 ms of sound" in output
    assert output.count("  ms: ") >= 3
    places = re.findall(r"^\S+ (\S+) b .*queue", run("nm", "-S", board), re.MULTILINE)
    assert [int(size, 16) // 2 for size in places] == [838 * 16 + 1]


# the header that the examples share

ASK = """
#include "scene_cost.h"
int main(void)
{
    static char line[256];
    printf("%u\n", (unsigned)SCENE_SOUND_MS);
    for (uint32_t push = 0; push <= 750; push += 125)
        for (uint32_t run = 1; run <= 1501; run += 250) {
            scene_is_fast_enough(line, sizeof line, push, run);
            printf("%u %u %u %s\n", (unsigned)push, (unsigned)run, (unsigned)scene_shortest_hop(push, run), line);
        }
    return 0;
}
"""


def ask(library: Library, costs: tuple[Cost, ...], folder: Path, *options: str) -> list[str]:
    files = package(library, "zephyr", "1.2.3", costs)
    names = {name: files[f"include/{name}"] for name in ("tinyscene.h", "tinyscene_config.h")}
    header = files[f"{LISTENING['zephyr'][0]}/{COST_HEADER}"]
    write({**names, COST_HEADER: header, "ask.c": ASK.replace('\n"', '\\n"'), "push.c": PUSH}, folder)
    need("gcc")
    words = (*OPTIONS, "-Wconversion", "-pedantic", "-std=c99", *options, "ask.c", "push.c", "-o", "ask")
    run("gcc", *words, cwd=folder)
    return run(folder / "ask").splitlines()


PUSH = """
#include "tinyscene.h"
tinyscene_status tinyscene_push(tinyscene *scene, const int16_t *pcm, size_t count, size_t *taken)
{
    (void)scene, (void)pcm;
    *taken = count;
    return TINYSCENE_READY;
}
"""


@pytest.mark.parametrize("mips", [16, 64, 240])
def test_the_sound_that_is_held_follows_from_the_cost_and_the_clock(
    mips: int, library: Library, tmp_path: Path
) -> None:
    (cost,) = COSTS
    (held, *_) = ask(library, COSTS, tmp_path, f"-DSCENE_MIPS={mips}u")
    assert abs(int(held) - sound_ms(cost, 1000, mips)) <= 2
    rows = [row for row in clock_rows(cost, library.config) if row.megahertz == mips and row.sound_bytes]
    assert all(abs(row.sound_bytes / 64 - int(held)) <= 2 for row in rows if row.sound_bytes)


def test_without_a_count_as_much_sound_is_held_as_comes_between_two_decisions(library: Library, tmp_path: Path) -> None:
    held, _, line, *_ = ask(library, (), tmp_path)
    assert int(held) == 1_100
    assert "instructions" not in line


def test_the_hop_that_is_named_is_the_shortest_at_which_a_processor_keeps_up(bundle: Bundle, tmp_path: Path) -> None:
    library = make_library(bundle.graph, bundle.front_end, bundle.labels, hop=0.5)
    for line in ask(library, COSTS, tmp_path)[1:]:
        push, took, hop, *_ = line.split()
        share, seconds = int(push) / 500, int(took) / 1000
        least = seconds / (1 - share) if share < 0.97 else np.inf
        if int(hop) == 0:
            assert least > 0.95, line
            continue
        assert least <= int(hop) / 32_000 <= least * 1.1 + 2 * 500 / 32_000, line
        assert int(hop) % 500 == 0
        busy = share / 2 + seconds
        assert ("suffices" in line) == (busy > 0.49), line

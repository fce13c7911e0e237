"""Packages in the order by time: padded, where the work comes in bursts, and without end."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from tests.firmware_bridge.packaged import COSTS, SKETCHES, need, run, write
from tests.firmware_bridge.test_examples import answers, assert_unbroken, compiled, listen, program, sketch
from tests.firmware_bridge.test_listening import expected, library_of
from tests.firmware_bridge.test_wasm_package import Module
from tests.streamable import LABELS, front_end, noise, streamable
from tinyscene.deploy.bundle.bundle import Bundle
from tinyscene.deploy.common.errors import InputError
from tinyscene.deploy.graph.reference import run as run_graph
from tinyscene.firmware_bridge.codegen.library import Library, make_library
from tinyscene.firmware_bridge.cost import Cost, clock_rows
from tinyscene.firmware_bridge.packaging import LISTENING, WASM_KERNELS, WASM_MODULES, package

STRIDES, FRAMES = [(1, 1), (1, 2)], 31
USE = """
import { readFileSync } from "node:fs";
import { Tinyscene } from "./tinyscene.mjs";
const raw = readFileSync("sound.raw");
const pcm = new Int16Array(raw.buffer.slice(raw.byteOffset, raw.byteOffset + raw.length));
const decisions = (await Tinyscene.open()).push(pcm);
console.log(JSON.stringify(decisions.map(({ features, logits }) => [features, Array.from(logits)])));
"""


@dataclass(frozen=True)
class Case:
    """A library, its cost, the slowest clock that suffices for it, and the labels of the first decisions on sound."""

    library: Library
    cost: Cost
    mips: int
    labels: Callable[[NDArray[np.int16]], list[str]]

    @property
    def rate(self) -> int:
        return int(self.library.config["SAMPLE_RATE"])

    @property
    def hop(self) -> int:
        return int(self.library.config["HOP_SAMPLES"])


@pytest.fixture(scope="module", params=["padded", "without end"])
def case(request: pytest.FixtureRequest, bundle: Bundle) -> Case:
    if request.param == "padded":
        library = make_library(bundle.graph, bundle.front_end, bundle.labels, ("plain",), order="time")
        windows = lambda pcm: run_graph(bundle.graph, bundle.features(pcm[: 4 * 32_000].reshape(4, -1)))  # noqa: E731
        bursts = Cost("plain", 19_700, 82_800, 20_700)  # as the baseline in plain C, in four bursts
        return Case(library, bursts, 105, lambda pcm: [bundle.labels[each] for each in windows(pcm).argmax(1)])
    graph, library = library_of(STRIDES, FRAMES, 2)
    heard = lambda pcm: expected(graph, front_end(FRAMES), pcm[:20_000], 1_024)  # noqa: E731
    return Case(library, Cost("plain", 200, 7_800), 64, lambda pcm: [LABELS[each] for each in heard(pcm).argmax(1)])


@pytest.mark.slow
def test_no_sound_is_lost_where_the_work_is_done_while_sound_comes(case: Case, tmp_path: Path) -> None:
    need("gcc", "g++")
    made = {kind: write(package(case.library, kind, "1.2.3", (case.cost,)), tmp_path / kind) for kind in LISTENING}
    (tmp_path / "objects").mkdir()
    objects = compiled(made["arduino"], tmp_path / "objects")
    noise(30 * case.rate).tofile(tmp_path / "sound.raw")
    burst = 250 * case.cost.push_kilo  # what is due at once
    for name in (*SKETCHES, "zephyr", "espidf"):
        board = tmp_path / name / "board"
        board.parent.mkdir(exist_ok=True)
        if name in SKETCHES:
            sketch(made["arduino"], name, board, SKETCHES[name], objects, f"-DSCENE_MIPS={case.mips}u")
        else:
            program(name, made[name], board, objects, f"-DCONFIG_SCENE_MIPS={case.mips}", "-DCONFIG_SCENE_SOUND_MS=0")
        instructions = (1000 * case.cost.run_kilo, 1000 * case.cost.push_kilo)
        output = listen(board, tmp_path / "sound.raw", case.rate, case.mips, 0, burst, instructions=instructions)
        assert ": fast enough\n" in output, (name, output)
        assert "sound was lost" not in output, (name, output)
        assert "lost by the driver: 0\n" in output
        pushed = assert_unbroken(board, tmp_path / "sound.raw")
        decided, wanted = answers(output), case.labels(pushed)
        assert decided[: len(wanted)] == wanted
        assert len(decided) > 20
        slower = listen(
            board, tmp_path / "sound.raw", case.rate, case.mips * 9 // 10, 0, burst, instructions=instructions
        )
        assert "too slow" in slower.partition("\n")[0], slower
        assert "sound was lost" in slower


@pytest.mark.slow
def test_a_wasm_module_decides_in_the_order_by_time_and_holds_no_features(tmp_path: Path) -> None:
    pytest.importorskip("ziglang")
    sound = front_end(FRAMES)
    graph = streamable(sound, STRIDES, 0)
    library = make_library(graph, sound, LABELS, WASM_KERNELS, order="time")
    folder, pcm = write(package(library, "wasm", "1.2.3"), tmp_path), noise(40_000)
    wanted = expected(graph, sound, pcm, int(library.config["HOP_SAMPLES"]))
    for name in WASM_MODULES:
        module = Module(folder / name)
        assert module.call("tinyscene_wasm_start") == 0
        decided = module.logits(pcm)
        assert len(decided) >= 4
        np.testing.assert_array_equal(decided, wanted[: len(decided)])
        assert module.call("tinyscene_wasm_features") == 0
    need("node")
    pcm.tofile(folder / "sound.raw")
    write({"use.mjs": USE}, folder)
    found = json.loads(run("node", "use.mjs", cwd=folder))
    assert found == [[None, row.tolist()] for row in wanted[: len(found)]]
    assert len(found) >= 4
    assert "features: null;" in (folder / "tinyscene.d.ts").read_text()


def test_decisions_of_the_table_come_at_hops_that_a_library_can_have(case: Case) -> None:
    rates = [row.decisions for row in clock_rows(case.cost, case.library.config) if row.decisions is not None]
    assert rates == sorted(rates)
    if case.library.config["STREAMS"]:
        graph = streamable(front_end(FRAMES), STRIDES, 0)
        for hop in {1 / rate for rate in rates}:
            library = make_library(graph, front_end(FRAMES), LABELS, ("plain",), hop, order="time")
            assert library.config["HOP_SAMPLES"] == round(hop * case.rate)
        with pytest.raises(InputError, match="a column"):
            make_library(graph, front_end(FRAMES), LABELS, ("plain",), 1.5 / rates[-1], order="time")
    else:
        assert set(rates) == {1.0}  # windows do not overlap


def test_a_readme_says_what_the_order_by_time_does_and_when_a_decision_comes(case: Case) -> None:
    readme = str(package(case.library, "zephyr", "1.2.3", (case.cost,))["README.md"])
    assert "`tinyscene_push` does most of the network's work" in readme
    delay = int(case.library.config["DELAY_SAMPLES"])
    assert (f"A decision comes {delay / case.rate:g} seconds after the end" in readme) == (delay > 0)
    assert ("A decision comes" in readme) == bool(case.library.config["STREAMS"])


def test_in_the_order_by_mel_a_readme_says_none_of_that(bundle: Bundle) -> None:
    library = make_library(bundle.graph, bundle.front_end, bundle.labels, ("plain",))
    readme = str(package(library, "zephyr", "1.2.3", COSTS)["README.md"])
    assert "as sound comes" not in readme
    assert "A decision comes" not in readme

"""Runs in parts: pushes and steps in any order decide as one push and one run do; under the sanitizers."""

import ctypes
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from tests import ROOT
from tests.firmware_bridge.test_listening import expected as windows_logits
from tests.firmware_bridge.test_listening import library_of
from tests.firmware_bridge.test_network_c import STEP_HOOK, Poison, hook, traced
from tests.firmware_bridge.test_scene_c import expected
from tests.streamable import front_end, noise
from tinyscene.deploy.bundle.bundle import Bundle, open_bundle
from tinyscene.deploy.graph.reference import run
from tinyscene.firmware_bridge.codegen.library import Library, make_library, make_network, write_sources
from tinyscene.firmware_bridge.emulate import answers_of, job_of
from tinyscene.firmware_bridge.native import NativeNetwork
from tinyscene.firmware_bridge.targets import emulators
from tinyscene.firmware_bridge.targets.image import build_image, build_settings

PROGRAM = Path(__file__).parent / "interleavings.c"
FLAGS = ["-std=c11", "-O1", "-g", "-DTINYSCENE_PLAIN", "-fsanitize=address,undefined", "-fno-sanitize-recover=all"]
CASES = [  # the order of a library, or a network that listens without end; seconds of a hop; samples of the backlog
    ("mel", 1.0, 0),
    ("mel", 0.25, 7_001),
    pytest.param(("mel", 1.0, 7_001), marks=pytest.mark.slow),
    ("time", 1.0, 7_001),
    ("without end", 0.128, 0),
    pytest.param(("without end", 0.128, 3_001), marks=pytest.mark.slow),
]
CALLS = st.lists(st.one_of(st.integers(1, 40_000), st.integers(-300, 0)), max_size=12)


@dataclass(frozen=True)
class Built:
    """A library in a program, sound for it, and the logits of its decisions on that."""

    program: Path
    pcm: NDArray[np.int16]
    logits: list[list[int]]


@pytest.fixture(scope="module")
def stream(bundle: Bundle) -> NDArray[np.int16]:
    return np.ascontiguousarray(np.concatenate([*bundle.vectors.pcm[3:7]])[:72_000])


def made(bundle: Bundle, stream: NDArray[np.int16], kind: str, hop: float) -> tuple[Library, Any, list[list[int]]]:
    """A library, sound for it, and the logits of its decisions on that."""
    if kind != "without end":
        library = make_library(
            bundle.graph, bundle.front_end, bundle.labels, ("plain",), hop, order="time" if kind == "time" else "mel"
        )
        return library, stream, expected(bundle, stream, hop)
    sound, columns, pcm = front_end(31), 2, noise(20_000)
    graph, library = library_of([(1, 1), (1, 2)], sound.frames, columns)
    samples = int(library.config["HOP_SAMPLES"])
    assert samples == hop * sound.sample_rate
    decisions = (len(pcm) - sound.clip_samples - int(library.config["DELAY_SAMPLES"])) // samples + 1
    return library, pcm, windows_logits(graph, sound, pcm, samples).tolist()[:decisions]


@pytest.fixture(scope="module", params=CASES, ids=str)
def built(
    request: pytest.FixtureRequest,
    bundle: Bundle,
    stream: NDArray[np.int16],
    tmp_path_factory: pytest.TempPathFactory,
) -> Built:
    compiler = shutil.which("gcc")
    if compiler is None:
        pytest.skip("gcc is missing: apt-get install gcc")
    kind, hop, backlog = request.param
    folder = tmp_path_factory.mktemp("slices")
    library, pcm, logits = made(bundle, stream, kind, hop)
    sources = write_sources(library, folder)
    command = [compiler, *FLAGS, f"-DTINYSCENE_BACKLOG_SAMPLES={backlog}", f"-I{folder}", str(PROGRAM)]
    subprocess.run([*command, *map(str, sources), "-o", str(folder / "program")], check=True)
    return Built(folder / "program", pcm, logits)


def decide(program: Path, calls: list[int], pcm: NDArray[np.int16]) -> list[list[int]]:
    """The logits of every decision, where these calls are repeated until the sound is at its end."""
    words = np.array([len(pcm), len(calls), *calls], np.int32)
    done = subprocess.run([program], input=words.tobytes() + pcm.tobytes(), capture_output=True, check=False)
    assert done.returncode == 0, done.stderr.decode()
    return [[int(each) for each in line.split()] for line in done.stdout.decode().splitlines()]


@settings(max_examples=10, deadline=None)
@given(CALLS)
@example([])
@example([1, -1, 500, -1])
@example([0, -100_000])
def test_any_order_of_pushes_and_steps_decides_the_same(built: Built, calls: list[int]) -> None:
    assert decide(built.program, [*calls, 777, -40], built.pcm) == built.logits


def test_an_instance_that_was_written_over_touches_no_memory_but_its_own(built: Built) -> None:
    spoiled = np.array([-2_000, 0], np.int32).tobytes()
    done = subprocess.run([built.program], input=spoiled, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr.decode()
    refused, used = map(int, done.stdout.split())
    assert refused > 300
    assert used > 100


def in_parts(library: Library, network: NativeNetwork, features: NDArray[np.int8], budget: int) -> NDArray[np.int8]:
    """The output of a network (...) for features (...), in parts of a budget."""
    at = {name: int(library.config[name]) for name in library.config if name.startswith(("INPUT", "OUTPUT", "TENSORS"))}
    arena, progress = ctypes.c_void_p(network.arena.ctypes.data), ctypes.create_string_buffer(4 + 2 * at["TENSORS"])
    network.c.tinyscene_network_clear(arena)
    for number, row in enumerate(features.reshape(at["INPUT_ROWS"], at["INPUT_ROW_BYTES"])):
        start = at["INPUT"] + number * at["INPUT_STRIDE"]
        network.arena[start : start + len(row)] = row
    network.c.tinyscene_network_begin(arena, progress)
    while network.c.tinyscene_network_step(arena, progress, budget):
        pass
    return network.arena[at["OUTPUT"] :][: at["OUTPUT_ROW_BYTES"]].copy()


@pytest.mark.parametrize("budget", [-5, 1, 20])
def test_parts_take_the_planned_order_in_memory_that_is_poisoned_before_each_row(bundle: Bundle, budget: int) -> None:
    library = make_network(bundle.graph, ("plain",))
    network = traced(library)
    poison = Poison(library, network, seed=1)
    step = STEP_HOOK(poison.before_step)
    hook(network, "trace_step", step)
    features = bundle.vectors.features[3:4].reshape(1, *bundle.graph.input.shape[1:])
    output = in_parts(library, network, features, budget)
    assert not poison.faults
    assert poison.time == len(library.plan.schedule.order)
    assert (output == run(bundle.graph, features)[0].ravel()).all()


@pytest.mark.slow
def test_a_cortex_m4_decides_the_same_row_by_row(bundle: Bundle, tmp_path: Path) -> None:
    settings = build_settings("cortex-m4")
    library = make_library(bundle.graph, bundle.front_end, bundle.labels, (settings.kernels,))
    image = build_image(library, settings, tmp_path, flags=["-DHARNESS_BUDGET=1"])
    (image.parent / "job.bin").write_bytes(job_of(bundle.vectors.pcm[:2]))
    counted = emulators.run(
        image, settings.target, image.parent, "unicorn", counting=True, by_function="tinyscene_(step|row_.*)"
    )
    answers = answers_of((image.parent / "result.bin").read_bytes())
    assert np.array_equal(answers.logits, bundle.vectors.logits[:2])
    steps = [call.instructions for call in counted.calls if call.function == "tinyscene_step"]
    rows = [call.instructions for call in counted.calls if call.function != "tinyscene_step"]
    assert len(steps) in (len(rows), len(rows) + 2)  # at the end of a run, nothing may be left to do
    assert max(steps[1:-2]) < max(rows) + 2_000


@pytest.mark.slow
def test_no_part_of_a_hundredth_of_the_budget_takes_more_of_a_run_on_a_cortex_m4(tmp_path: Path) -> None:
    bundle = open_bundle(ROOT / "tinyscene" / "bundled" / "sounds10")
    settings = build_settings("cortex-m4")
    library = make_library(bundle.graph, bundle.front_end, bundle.labels, (settings.kernels,))
    budget = int(library.config["RUN_UNITS"]) // 100
    image = build_image(library, settings, tmp_path, flags=[f"-DHARNESS_BUDGET={budget}"])
    (image.parent / "job.bin").write_bytes(job_of(bundle.vectors.pcm[:1]))
    counted = emulators.run(
        image, settings.target, image.parent, "unicorn", counting=True, by_function="tinyscene_step"
    )
    parts = [call.instructions for call in counted.calls]
    assert 100 <= len(parts) < 130
    assert max(parts) < 0.0105 * sum(parts)
    assert abs(sum(parts) / int(library.config["RUN_UNITS"]) - 1000) < 50  # what a unit is

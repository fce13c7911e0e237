"""The firmware on emulated devices: every clip, layer and count; and what a device that is wrong is told."""

import dataclasses
import json
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from numpy.typing import NDArray

from tests.graphs import inputs_of, integer_graphs
from tinyscene.deploy.bundle.bundle import Bundle
from tinyscene.deploy.graph.graph import Graph
from tinyscene.deploy.graph.operators import Conv2D
from tinyscene.deploy.graph.reference import run
from tinyscene.firmware_bridge.codegen.library import make_network
from tinyscene.firmware_bridge.emulate import (
    JOB,
    NOTHING,
    VERSION,
    EmulationError,
    EmulationResult,
    Image,
    emulate,
    require_equal,
)
from tinyscene.firmware_bridge.memory.by_time import Order, rows_first
from tinyscene.firmware_bridge.targets.image import build_image, build_settings
from tinyscene.firmware_bridge.targets.toolchains import TARGETS

ELSEWHERE = {"cortex-m55": "qemu-system-arm"}  # targets that unicorn has not
GCC = {"cortex-m4": "arm-none-eabi-gcc", "cortex-m55": "arm-none-eabi-gcc", "riscv32": "riscv64-unknown-elf-gcc"}
KEYS = {
    *("target", "toolchain", "emulator", "clips", "equal", "instructions", "instructions_per_mac"),
    *("frontend_instructions", "arena_bytes", "state_bytes", "flash_bytes"),
}


def require_tools(target: str, toolchain: str = "zig", emulator: str | None = None) -> None:
    needed = [ELSEWHERE[target]] if target in ELSEWHERE else []
    needed += [TARGETS[target].qemu[0]] if emulator == "qemu" else []
    needed += [GCC.get(target, "arm-none-eabi-gcc")] if toolchain == "gcc" else []
    for tool in needed:
        if shutil.which(tool) is None:
            pytest.skip(f"{tool} is missing: apt-get install it")


@pytest.fixture(scope="module")
def on_m4(bundle: Bundle) -> EmulationResult:
    return emulate(bundle, bundle.vectors.pcm, build_settings("cortex-m4"))


@pytest.mark.parametrize(
    "target",
    [
        *("cortex-m55", "riscv32", "host", "host-native"),
        *(pytest.param(target, marks=pytest.mark.slow) for target in ("cortex-m7", "cortex-m33")),  # the M4's kernels
        pytest.param("cortex-m3", marks=pytest.mark.slow),  # those of riscv32
    ],
)
def test_golden_sounds_give_the_references_numbers(bundle: Bundle, target: str) -> None:
    require_tools(target)
    result = emulate(bundle, bundle.vectors.pcm[3:6], build_settings(target))
    assert (result.equal, result.difference, result.clips) == (True, None, 3)


def test_a_result_has_what_is_promised(on_m4: EmulationResult) -> None:
    result = json.loads(json.dumps(dataclasses.asdict(on_m4)))
    assert set(result) >= KEYS
    assert result["equal"]
    assert set(result["flash"]) == {"code", "weights", "tables"}
    assert result["flash_bytes"] == sum(result["flash"].values())


def test_the_layers_add_up_to_the_inference(on_m4: EmulationResult, bundle: Bundle) -> None:
    assert on_m4.layers is not None
    assert on_m4.instructions is not None
    assert len(on_m4.layers) == len(bundle.graph.operators)
    assert 0.95 * on_m4.instructions < sum(on_m4.layers) <= on_m4.instructions


@pytest.mark.parametrize("emulator", ["unicorn", pytest.param("qemu", marks=pytest.mark.slow)])
def test_a_profile_adds_up_to_the_whole(bundle: Bundle, on_m4: EmulationResult, emulator: str) -> None:
    require_tools("cortex-m4", emulator=emulator)
    device = build_settings("cortex-m4", emulator=emulator)
    profile = emulate(bundle, bundle.vectors.pcm[:1], device, profile=True).profile or []
    layers = [(row.name, row.kind) for row in profile if row.part == "network"]
    assert layers[:-1] == [(each.output.name, each.kind) for each in bundle.graph.operators]
    sums = {part: sum(row.instructions for row in profile if row.part == part) for part in ("network", "front end")}
    assert sums["network"] == pytest.approx(on_m4.instructions, rel=1e-4)
    assert sums["front end"] == pytest.approx(on_m4.frontend_instructions, rel=1e-4)
    assert [row.instructions for row in profile if row.kind] == pytest.approx(on_m4.layers, rel=1e-3)


def test_unicorn_and_qemu_count_the_same(on_m4: EmulationResult, bundle: Bundle) -> None:
    require_tools("cortex-m4", emulator="qemu")
    other = emulate(bundle, bundle.vectors.pcm[:1], build_settings("cortex-m4", emulator="qemu"))
    for count in ("instructions", "frontend_instructions"):
        assert getattr(other, count) == pytest.approx(getattr(on_m4, count), rel=0.005)


@pytest.mark.slow
@pytest.mark.parametrize("optimize", ["O0", "O2", "O3", "Os"])
@pytest.mark.parametrize("toolchain", ["zig", "gcc"])
@pytest.mark.parametrize("target", ["cortex-m4", "cortex-m55", "riscv32"])
def test_every_optimization_of_both_compilers_is_equal(
    bundle: Bundle, target: str, toolchain: str, optimize: str
) -> None:
    require_tools(target, toolchain)
    kernels = [None, "plain"] if TARGETS[target].kernels != "plain" else [None]
    for each in kernels:
        device = build_settings(target, toolchain, optimize=optimize, kernels=each)
        result = emulate(bundle, bundle.vectors.pcm[3:5], device)
        assert result.equal
        assert (result.instructions or 0) > 0


def run_on(
    target: str, graph: Graph, kernels: str, features: NDArray[np.int8], order: Order = "mel"
) -> NDArray[np.int8]:
    """The output of a network without a front end on an emulated target: features (batch, ...) -> (batch, ...)."""
    built = build_settings(target, kernels=kernels)
    with tempfile.TemporaryDirectory() as folder:
        path = build_image(make_network(graph, (kernels,), order), built, Path(folder), program="network")
        answers = Image(path, built).run(JOB.pack(b"TSGN", VERSION, len(features), 0, NOTHING) + features.tobytes())
    return answers.logits.reshape(len(features), *graph.output.shape[1:])


@settings(max_examples=1, deadline=None, derandomize=True)
@given(integer_graphs())
def test_a_random_graph_is_equal_on_a_cortex_m4(graph: Graph) -> None:
    features = inputs_of(graph, seed=5)
    assert np.array_equal(run_on("cortex-m4", graph, "dsp", features), run(graph, features))


@pytest.mark.slow
@settings(max_examples=12, deadline=None)
@given(integer_graphs())
def test_random_graphs_are_equal_in_the_order_by_time(graph: Graph) -> None:
    features = inputs_of(graph, seed=7)
    expected = rows_first(run(graph, features))
    assert np.array_equal(run_on("cortex-m4", graph, "dsp", rows_first(features), "time").ravel(), expected.ravel())


def test_by_time_a_cortex_m4_gives_the_same_numbers_with_little_left_to_run(
    bundle: Bundle, on_m4: EmulationResult
) -> None:
    by_time = emulate(bundle, bundle.vectors.pcm[3:5], build_settings("cortex-m4", order="time"))
    assert by_time.difference is None
    assert by_time.instructions == pytest.approx(on_m4.instructions, rel=0.1)
    assert (by_time.run_instructions or 0) < 0.6 * (on_m4.run_instructions or 0)
    assert (by_time.longest_push_instructions or 0) < 0.3 * (on_m4.run_instructions or 0)


@pytest.mark.slow
@settings(max_examples=12, deadline=None)
@given(integer_graphs())
def test_random_graphs_are_equal_on_devices(graph: Graph) -> None:
    features = inputs_of(graph, seed=6)
    for target in ("cortex-m4", "riscv32", *(["cortex-m55"] if shutil.which("qemu-system-arm") else [])):
        assert np.array_equal(run_on(target, graph, TARGETS[target].kernels, features), run(graph, features))


def broken(bundle: Bundle) -> Bundle:
    """A bundle whose device gets another third convolution than the host has."""
    operators = list(bundle.graph.operators)
    index = [index for index, each in enumerate(operators) if isinstance(each, Conv2D)][2]
    weights = operators[index].weights.copy()  # type: ignore[union-attr]
    weights[1, 0, 0, 0] += 40 if weights[1, 0, 0, 0] < 0 else -40
    operators[index] = dataclasses.replace(operators[index], weights=weights)
    return dataclasses.replace(bundle, graph=Graph(bundle.graph.input, tuple(operators)))


def test_a_mismatch_names_the_first_layer_the_place_and_both_values(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = broken(bundle)
    name = [each.output.name for each in other.graph.operators if isinstance(each, Conv2D)][2]
    made = __import__("tinyscene.firmware_bridge.emulate", fromlist=["make_library"]).make_library
    monkeypatch.setattr(
        "tinyscene.firmware_bridge.emulate.make_library", lambda graph, *rest, **more: made(other.graph, *rest, **more)
    )
    result = emulate(bundle, bundle.vectors.pcm[3:4], build_settings("host"))
    assert not result.equal
    assert str(result.difference).startswith(f"clip 0, {name} at (")
    assert ", 1) is " in str(result.difference)
    with pytest.raises(EmulationError, match=r"^host: differs from the reference: clip 0, "):
        require_equal({result.target: result.difference})


def test_emulate_prints_one_object_of_a_target_and_a_list_of_several(run_cli: Callable, bundle: Bundle) -> None:
    code, out, _ = run_cli("emulate", bundle.folder, "--target", "host", "--json")
    assert (code, json.loads(out)["clips"]) == (0, len(bundle.vectors.pcm))
    code, out, _ = run_cli("emulate", bundle.folder, "--target", "host,host-native", "--json")
    assert [each["target"] for each in json.loads(out)] == ["host", "host-native"]


def test_recordings_that_can_be_read_are_compared_and_the_others_named(
    run_cli: Callable, bundle: Bundle, sample: Path, tmp_path: Path
) -> None:
    recording = sorted((sample / "audio").iterdir())[0]
    shutil.copy(recording, tmp_path / "good.wav")
    (tmp_path / "bad.wav").write_bytes(b"version https://example.org/large-files\n")
    code, out, err = run_cli("emulate", bundle.folder, "--target", "host", "--audio", tmp_path, "--json")
    assert (code, json.loads(out)["clips"]) == (2, len(bundle.vectors.pcm) + 1)
    assert "bad.wav: not an audio file" in err


def test_the_clips_compared_are_those_of_the_split_that_is_named(
    run_cli: Callable, bundle: Bundle, sample: Path
) -> None:
    code, _, err = run_cli("emulate", bundle.folder, "--target", "host", "--data", sample, "--split", "7")
    assert (code, "no split '7'" in err) == (2, True)


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["--target", "cortex-m99"], "--target cortex-m99: known are cortex-m3, "),
        (["--target", "cortex-m4,"], "--target : known are "),
        (["--toolchain", "icc"], "toolchain 'icc' is unknown: known are zig, gcc"),
        (["--emulator", "bochs"], "--emulator bochs: known are unicorn, qemu"),
        (["--emulator", "unicorn", "--target", "cortex-m55"], "unicorn has no cortex-m55: use qemu"),
        (["--emulator", "qemu", "--target", "host"], "--emulator qemu: host runs on this machine itself"),
        (["--profile", "--target", "host"], "--profile: host runs on this machine itself"),
        (["--kernels", "mve"], "--kernels mve: cortex-m4 runs plain and dsp"),
        (["--optimize", "O9"], "--optimize O9: known are O0, O1, O2, O3, Os"),
    ],
)
def test_what_cannot_be_emulated_is_one_line(
    run_cli: Callable, bundle: Bundle, arguments: list[str], line: str
) -> None:
    code, out, err = run_cli("emulate", bundle.folder, *arguments)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert line in err

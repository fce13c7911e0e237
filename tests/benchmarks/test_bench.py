"""`tinyscene bench`: what is in its table, what it is held to, and what it says where something is missing."""

import io
import json
import os
import shutil
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydantic import TypeAdapter
from rich.console import Console

from tinyscene.benchmarks import bench as benches
from tinyscene.benchmarks import latency, runtimes, vela
from tinyscene.benchmarks.accuracy import measure_accuracy
from tinyscene.benchmarks.bench import Bench, bench, bench_table
from tinyscene.benchmarks.bootstrap import recordings_of
from tinyscene.benchmarks.energy import find_packages, measure_energy
from tinyscene.benchmarks.latency import LEAST_ROUNDS, host_latency, interleaved, one_core, summarize
from tinyscene.benchmarks.machine import machine
from tinyscene.benchmarks.runtimes import FAST, NATIVE, SOUND, decisions_of, fast_log_mel
from tinyscene.deploy.bundle.bundle import Bundle, open_bundle
from tinyscene.deploy.common.errors import InputError
from tinyscene.deploy.common.installation import missing
from tinyscene.deploy.frontend.log_mel import float_pcm
from tinyscene.firmware_bridge import native
from tinyscene.train.data.cache import Clips
from tinyscene.train.data.datasets import Dataset
from tinyscene.train.runs.evaluate import evaluate, open_evaluated_model

FIGURES = {"median_ms", "p25_ms", "p75_ms", "rounds"}


@pytest.fixture(scope="module")
def copied(bundle: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    folder = tmp_path_factory.mktemp("bench") / "bundle"
    shutil.copytree(bundle.folder, folder)
    return open_bundle(folder)


@pytest.fixture(scope="module")
def on_host(copied: Bundle) -> dict[str, Any]:
    return bench(copied, ["host"]).as_dict()


def test_every_runtime_is_measured_at_least_200_times(on_host: dict[str, Any]) -> None:
    rows = [row for table in ("decision", "latency", "front_end") for row in on_host[table].values()]
    assert all(row.keys() >= FIGURES and row["rounds"] >= 200 for row in rows)
    assert all(0 < row["p25_ms"] <= row["median_ms"] <= row["p75_ms"] for row in rows)


@pytest.mark.parametrize(
    ("name", "module"),
    [
        ("LiteRT int8", "ai_edge_litert"),
        ("LiteRT float32", "ai_edge_litert"),
        ("tflite-runtime int8", "tflite_runtime"),
        ("ONNX Runtime int8", "onnxruntime"),
        ("ONNX Runtime float32", "onnxruntime"),
        ("tflite-micro int8", "tflite_micro"),
        (NATIVE, "ziglang"),
    ],
)
def test_a_runtime_that_is_installed_is_in_the_table(on_host: dict[str, Any], name: str, module: str) -> None:
    pytest.importorskip(module)
    assert name in on_host["latency"], on_host["missing"]


def test_the_ratio_is_of_medians_to_the_fastest_of_the_peers(on_host: dict[str, Any]) -> None:
    rows = on_host["latency"]
    peers = {name: row["median_ms"] for name, row in rows.items() if name not in (NATIVE, "reference int8")}
    assert on_host["fastest_peer"] == min(peers, key=lambda name: peers[name])
    assert on_host["ratio"] == rows[NATIVE]["median_ms"] / min(peers.values())
    assert rows[on_host["fastest_peer"]]["ratio"] == 1


def test_a_decision_is_of_ours_and_of_the_peers_and_its_ratio_to_the_fastest_of_them(on_host: dict[str, Any]) -> None:
    pytest.importorskip("ducc0")
    rows = on_host["decision"]
    peers = {name: row["median_ms"] for name, row in rows.items() if name.startswith(f"{FAST} + ")}
    assert peers.keys() >= {f"{FAST} + LiteRT int8", f"{FAST} + LiteRT float32"}
    assert on_host["decision_ratio"] == rows[NATIVE]["median_ms"] / min(peers.values())
    parts = [on_host[table][NATIVE]["median_ms"] for table in ("latency", "front_end")]
    assert rows[NATIVE]["median_ms"] > max(parts)


def test_the_peers_features_are_the_front_ends(copied: Bundle) -> None:
    pytest.importorskip("ducc0")
    pcm = copied.vectors.pcm[SOUND]
    expected = copied.front_end.log_mel(float_pcm(pcm[None]))[0]
    np.testing.assert_allclose(fast_log_mel(copied.front_end)(pcm), expected, atol=0.01)  # a transform in float32


def test_the_peers_decide_as_the_reference_does(copied: Bundle) -> None:
    """Their integers round differently, and their features are float: the scene must be the same, not the logits."""
    pytest.importorskip("ducc0")
    calls, expected = decisions_of(copied).calls, copied.vectors.logits[SOUND].reshape(-1)
    assert len(calls) >= 3
    for name, call in calls.items():
        answer: Any = call()
        logits = np.asarray(answer[0] if isinstance(answer, list) else answer).reshape(-1)
        assert int(np.argmax(logits)) == int(np.argmax(expected)), name


def test_all_promised_keys_are_there(on_host: dict[str, Any], copied: Bundle) -> None:
    assert set(on_host) >= {"decision", "decision_ratio", "latency", "accuracy", "complexity", "targets", "machine"}
    assert on_host["complexity"]["macs"] == copied.content["budget"]["macs"]
    assert on_host["machine"].keys() >= {"cpu", "flags", "cores", "versions", "git"}


def test_a_peer_that_is_not_installed_is_left_out_with_the_reason(
    copied: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(runtimes.RUNNERS, "onnxruntime", ("no_such_module", "onnx", print))  # type: ignore[arg-type]
    made = runtimes.networks_of(copied)
    assert made.missing["ONNX Runtime int8"] == str(missing("no_such_module", "onnx"))
    assert "ONNX Runtime int8" not in made.calls
    assert "LiteRT int8" in made.calls


def test_fewer_rounds_are_refused(copied: Bundle) -> None:
    with pytest.raises(InputError, match="at least 200"):
        host_latency(copied, LEAST_ROUNDS - 1)


# timing


def test_calls_are_interleaved_and_their_times_are_their_own() -> None:
    order: list[str] = []

    def call(name: str, seconds: float) -> Callable[[], None]:
        def run() -> None:
            order.append(name)
            time.sleep(seconds)

        return run

    times = interleaved({"short": call("short", 0), "long": call("long", 0.004)}, 20)
    rounds = [set(order[index : index + 2]) for index in range(0, len(order), 2)]
    assert all(each == {"short", "long"} for each in rounds)  # once each in every round
    assert len(set(order[::2])) == 2  # and not always the same one first
    assert {name: len(each) for name, each in times.items()} == {"short": 20, "long": 20}
    figures = summarize(times)
    assert figures["short"].median_ms < 4 <= figures["long"].median_ms
    assert figures["long"].cpu_ms < 2  # it slept: that is time, but not of a core


def test_quartiles_are_those_of_the_times() -> None:
    row = summarize({"all": [(float(value), 1.0) for value in range(1, 100)]})["all"]
    assert (row.p25_ms, row.median_ms, row.p75_ms, row.rounds) == (25, 50, 75, 99)


def test_the_process_gets_its_cores_back() -> None:
    before = os.sched_getaffinity(0)
    with one_core() as core:
        assert os.sched_getaffinity(0) == {core}
    assert os.sched_getaffinity(0) == before


@pytest.mark.parametrize(
    ("changed", "line"),
    [
        ({"p75_ms": 2.0}, "2.00 times the first: the machine is busy"),
        ({"cpu_ms": 0.5}, "took 2.0 times its CPU time"),
    ],
)
def test_a_busy_machine_is_warned_of(changed: dict[str, float], line: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "getloadavg", lambda: (0.0, 0.0, 0.0))
    quiet = latency.Latency(p25_ms=1.0, median_ms=1.0, p75_ms=1.05, cpu_ms=1.0, rounds=200)
    assert latency._warnings({"a": quiet}, stolen=0) == []
    assert line in latency._warnings({"a": replace(quiet, **changed)}, stolen=0)[0]
    assert "took 1.0 s" in latency._warnings({"a": quiet}, stolen=1)[0]


# targets


@pytest.fixture(scope="module")
def on_m4(copied: Bundle) -> dict[str, Any]:
    return bench(copied, ["cortex-m4"]).as_dict()


def test_emulated_targets_count_instructions_and_are_equal(on_m4: dict[str, Any], copied: Bundle) -> None:
    row = on_m4["targets"]["cortex-m4"]
    assert (row["kind"], row["equal"]) == ("instructions", True)
    assert min(row["instructions"], row["memory_bytes"], row["flash_bytes"]) > 0
    assert len(row["layers"]) == len(copied.graph.operators)


def test_vela_gives_an_estimate_of_the_networks_macs(copied: Bundle) -> None:
    if "missing" in (row := benches._target(copied, "ethos-u55-128")):
        pytest.skip(row["missing"])
    assert row["kind"] == "estimate"
    assert row["macs"] == pytest.approx(copied.content["budget"]["deployed_macs"], rel=0.1)
    assert row["network_ms"] == pytest.approx(1e3 * row["cycles"] / row["clock_hz"])
    assert row["flash_bytes"] > copied.content["budget"]["deployed_bytes"] / 2


def test_what_is_missing_here_is_said_in_the_targets_place(copied: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vela.shutil, "which", lambda *_, **__: None)
    assert (
        "not installed: pip install"
        in bench(copied, ["ethos-u55-128"]).as_dict()["targets"]["ethos-u55-128"]["missing"]
    )


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["--targets", "host,cortex-m99"], "--targets cortex-m99: known are host, cortex-m3, "),
        (["--targets", ""], "--targets : known are host, "),
        (["--targets", "cortex-m4", "--serial", "/dev/nothing"], "--serial /dev/nothing: cannot be read"),
        (["--audio", "nowhere"], "nowhere"),
    ],
)
def test_what_cannot_be_measured_is_one_line(
    run_cli: Callable, bundle: Bundle, arguments: list[str], line: str
) -> None:
    code, out, err = run_cli("bench", bundle.folder, *arguments)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert line in err


def test_what_is_no_bundle_is_one_line(run_cli: Callable, tmp_path: Path) -> None:
    code, out, err = run_cli("bench", tmp_path)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert "not a bundle" in err


def test_the_command_prints_one_object_which_the_bundle_keeps_or_one_table(run_cli: Callable, copied: Bundle) -> None:
    code, out, _ = run_cli("bench", copied.folder, "--targets", "ethos-u55-128", "--json")
    assert (code, set(json.loads(out)["targets"])) == (0, {"ethos-u55-128"})
    assert open_bundle(copied.folder).content["bench"] == json.loads(out)
    code, out, _ = run_cli("bench", copied.folder, "--targets", "ethos-u55-128")
    assert code == 0
    assert f"{copied.content['budget']['macs']:,} MACs as the challenge counts them" in out


def test_the_table_says_of_what_kind_each_figure_is(on_host: dict[str, Any], on_m4: dict[str, Any]) -> None:
    shown = Console(width=200, file=io.StringIO())
    board = {"kind": "board", "target": "some-board", "counter": "dwt", "equal": True, "unit": "cycles"}
    board |= {"network": 5e7, "frontend": 2e7, "network_ms": 500.0, "frontend_ms": 200.0, "memory_bytes": 1}
    guess = {"kind": "estimate", "compiler": "vela 5", "network_ms": 1.7, "sram_bytes": 1, "flash_bytes": 2}
    targets = {**on_m4["targets"], "/dev/ttyACM0": board, "ethos-u55-128": guess, "cortex-m7": {"missing": "no tool"}}
    adapter = TypeAdapter(Bench)
    shown.print(bench_table(adapter.validate_json(json.dumps(on_host | {"targets": targets}))))
    text = shown.file.getvalue()  # type: ignore[attr-defined]
    for expected in (
        "ms, estimated",
        "cycles (500.0 + 200.0 ms)",
        "cortex-m7 left out: no tool",
        on_host["fastest_peer"],
    ):
        assert expected in text
    assert "instructions are counted by an emulator; they are not cycles" in text


# accuracy


def test_accuracy_is_what_evaluate_gives_and_its_interval_holds_it(
    bundle: Bundle, sample_dataset: Dataset, sample_clips: Clips
) -> None:
    paths = sample_dataset.split("5")[1][::8]
    found = measure_accuracy(bundle, sample_clips, paths).as_dict()
    expected = evaluate(open_evaluated_model(bundle.folder, "reference").predict, sample_clips, paths)
    assert found["int8"]["correct"] == expected.correct
    assert found["int8"]["macro_accuracy"] == pytest.approx(expected.macro_accuracy)
    for kind in ("float", "int8"):
        low, high = found[kind]["macro_interval"]
        assert low <= found[kind]["macro_accuracy"] <= high
    gain = found["int8"]["macro_accuracy"] - found["float"]["macro_accuracy"]
    assert found["difference"]["macro_accuracy"] == pytest.approx(gain)
    assert found["clips"] == len(paths)


def test_accuracy_measured_by_the_reference_for_want_of_a_compiler_says_so(
    bundle: Bundle,
    sample_dataset: Dataset,
    sample_clips: Clips,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def no_compiler(bundle: Bundle) -> None:
        raise missing("a C compiler", "firmware", "runner native")

    monkeypatch.setattr(native, "native_runner", no_compiler)
    found = measure_accuracy(bundle, sample_clips, sample_dataset.split("5")[1][::40])
    said = capsys.readouterr().err
    assert found.int8.runner == "reference"
    assert said.startswith("runner native: a C compiler is not installed")
    assert said.endswith("the accuracy in int8 is measured with the reference, which is slower\n")


def test_the_devices_and_seconds_of_a_recording_are_one_recording() -> None:
    names = ["audio/bus-lyon-1-10-0-a.wav", "audio/bus-lyon-1-10-3-s1.wav", "audio/bus-lyon-1-11-0-a.wav"]
    numbers = recordings_of([*names, "dog/1-100-A-0.wav", "cat/1-100-A-0.wav"])
    assert numbers[0] == numbers[1]
    assert len(set(numbers.tolist())) == 4


def test_what_evaluate_recorded_is_the_accuracy_without_audio(copied: Bundle) -> None:
    assert bench(copied, ["ethos-u55-128"]).as_dict()["accuracy"] is None
    copied.record("metrics", {"clips": 3, "macro_accuracy": 0.5, "split": "5", "data_hash": "0"})
    assert bench(copied, ["ethos-u55-128"]).as_dict()["accuracy"] == {
        "int8": {"macro_accuracy": 0.5},
        "clips": 3,
        "split": "5",
        "data_hash": "0",
    }


# machine and energy


def test_the_machine_says_what_decides_figures() -> None:
    found = machine()
    assert found["cpu"]
    assert found["versions"].keys() >= {"tinyscene", "numpy", "ai-edge-litert"}
    json.dumps(found)


def powercap(folder: Path, joules: list[float]) -> Path:
    """Counters as Linux shows them: a package, its core, and a package that began anew."""
    for name, value in zip(("intel-rapl:0", "intel-rapl:0:0", "intel-rapl:1"), joules, strict=True):
        (folder / name).mkdir()
        (folder / name / "energy_uj").write_text(f"{round(1e6 * value)}\n")
        (folder / name / "max_energy_range_uj").write_text("99999999\n")
    return folder


def test_energy_is_that_of_whole_packages_and_survives_a_counter_that_begins_anew(tmp_path: Path) -> None:
    folder = powercap(tmp_path, [10, 3, 99])

    def work() -> None:
        (folder / "intel-rapl:0/energy_uj").write_text("12000000\n")
        (folder / "intel-rapl:1/energy_uj").write_text("1000000\n")

    packages = find_packages(folder)
    assert [each.folder.name for each in packages] == ["intel-rapl:0", "intel-rapl:1"]
    assert packages[0].joules(work) == 2
    (folder / "intel-rapl:1/energy_uj").write_text("99000000\n")
    assert packages[1].joules(work) == 2


@pytest.mark.parametrize("content", [None, "", "no number"])
def test_energy_that_cannot_be_read_is_left_out(tmp_path: Path, content: str | None) -> None:
    if content is not None:
        (powercap(tmp_path, [1, 1, 1]) / "intel-rapl:0/energy_uj").write_text(content)
    assert measure_energy(lambda: np.zeros(1), tmp_path) is None

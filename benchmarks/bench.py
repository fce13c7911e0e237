"""`tinyscene bench`: latency, memory, instructions and accuracy of a bundle, in one table and one JSON object.

    tinyscene bench BUNDLE [--audio DATA] [--targets host,cortex-m4,cortex-m55,ethos-u55-128] [--serial PORT]

Every figure is measured by this call. The kinds of target differ in what is measured:

- host: milliseconds on this machine, with every other runtime that is installed (latency.py), and energy where it can
  be read (energy.py);
- cortex-m4 and so on: instructions counted by an emulator, which are not cycles, on two golden sounds whose results
  must equal the reference bit for bit; RAM and flash of the image;
- ethos-u55-128 and so on: the estimate of Arm's compiler (vela.py);
- --serial: the counts of a real microcontroller board (boards.py).

Accuracy is measured where --audio names a dataset (accuracy.py), else it is what `tinyscene evaluate` recorded in the
bundle. What is missing on this machine is left out with the reason.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from rich.console import Group
from rich.table import Table

from tinyscene.benchmarks import vela
from tinyscene.benchmarks.accuracy import Accuracy, measure_accuracy
from tinyscene.benchmarks.boards import measure_board
from tinyscene.benchmarks.energy import Energy, measure_energy
from tinyscene.benchmarks.latency import LEAST_ROUNDS, HostLatency, host_latency
from tinyscene.benchmarks.machine import machine
from tinyscene.benchmarks.measured import Count, Measured
from tinyscene.benchmarks.runtimes import NATIVE, networks_of
from tinyscene.deploy.bundle.bundle import Bundle
from tinyscene.deploy.bundle.index import BUDGET_KEYS
from tinyscene.deploy.common.errors import InputError
from tinyscene.firmware_bridge.emulate import emulate
from tinyscene.firmware_bridge.targets.image import build_settings
from tinyscene.firmware_bridge.targets.toolchains import TARGETS
from tinyscene.train.data.cache import Clips

HOST = "host"
EMULATED = tuple(name for name, target in TARGETS.items() if target.bare)
KNOWN = (HOST, *EMULATED, *vela.TARGETS)
DEFAULT_TARGETS = (HOST, "cortex-m4", "cortex-m55", "ethos-u55-128")
SOUNDS = slice(3, 5)  # the golden sounds for emulated targets: impulses, and a sweep


@dataclass(frozen=True)
class RecordedAccuracy(Measured):
    """What `tinyscene evaluate` recorded, as far as it did: of the integers, without intervals."""

    int8: dict[str, float]
    clips: Count | None = None
    split: str | None = None
    data_hash: str | None = None

    def as_dict(self) -> dict[str, Any]:
        return {key: value for key, value in super().as_dict().items() if value is not None}


@dataclass(frozen=True)
class Bench(HostLatency):
    """The result of `tinyscene bench`."""

    bundle: str = ""
    machine: dict[str, Any] = field(default_factory=dict)
    energy: Energy | None = None  # of the host
    accuracy: Accuracy | RecordedAccuracy | None = None
    complexity: dict[str, int] = field(default_factory=dict)
    targets: Mapping[str, Any] = field(default_factory=dict)  # name -> its figures, or why it is `missing`

    def as_dict(self) -> dict[str, Any]:
        return super().as_dict() | {"accuracy": self.accuracy.as_dict() if self.accuracy else None}


def bench(
    bundle: Bundle,
    targets: Sequence[str] = DEFAULT_TARGETS,
    test: tuple[Clips, tuple[str, ...]] | None = None,
    port: str | None = None,
    rounds: int = LEAST_ROUNDS,
) -> Bench:
    """Measure a bundle. `test` is a prepared dataset and the paths of its test list.

    Raises InputError for an unknown target or a port that cannot be read, before anything is measured.
    """
    if unknown := [name for name in targets if name not in KNOWN]:
        raise InputError(f"--targets {unknown[0]}: known are {', '.join(KNOWN)}")
    before = machine()
    figures = {port: measure_board(bundle, port).as_dict()} if port else {}
    host, energy = HostLatency(), None
    if HOST in targets:
        host = host_latency(bundle, rounds)
        native = networks_of(bundle).calls.get(NATIVE)
        energy = measure_energy(native) if native else None
    figures |= {name: _target(bundle, name) for name in dict.fromkeys(targets) if name != HOST}
    return Bench(
        **vars(host),
        bundle=str(bundle.folder),
        machine=before,
        energy=energy,
        accuracy=measure_accuracy(bundle, *test) if test else _recorded(bundle),
        complexity={key: bundle.content["budget"][key] for key in BUDGET_KEYS},
        targets=figures,
    )


def _target(bundle: Bundle, name: str) -> dict[str, Any]:
    """The figures of a target other than the host; or, under `missing`, why there are none."""
    try:
        if name in vela.TARGETS:
            return vela.estimate(bundle, name).as_dict()
        result = emulate(bundle, bundle.vectors.pcm[SOUNDS], build_settings(name), profile=True)
        return {"kind": "instructions", **asdict(result)}
    except InputError as error:
        return {"missing": str(error)}


def _recorded(bundle: Bundle) -> RecordedAccuracy | None:
    """What `tinyscene evaluate` recorded last."""
    metrics = bundle.content.get("metrics")
    if not isinstance(metrics, dict):
        return None
    int8 = {key: metrics[key] for key in ("accuracy", "macro_accuracy", "log_loss") if key in metrics}
    return RecordedAccuracy(int8, *(metrics.get(key) for key in ("clips", "split", "data_hash")))


def bench_table(result: Bench) -> Group:
    """A result of `bench` for a terminal."""
    table = Table(box=None, pad_edge=False)
    for column in ("target", "what", "decision", "to peer", "network", "to peer", "front end", "unit", "RAM", "flash"):
        is_text = column in ("target", "what", "unit")
        table.add_column(column, justify="left" if is_text else "right", no_wrap=True)
    for name in dict.fromkeys([*result.decision, *result.latency, *result.front_end]):
        parts = [rows.get(name) for rows in (result.decision, result.latency, result.front_end)]
        decision, network, front_end = ("" if row is None else _time(row.median_ms) for row in parts)
        to_peer = ["" if row is None or row.ratio is None else f"{row.ratio:.2f}" for row in parts]
        table.add_row(HOST, name, decision, to_peer[0], network, to_peer[1], front_end, "ms")
    for name, row in result.targets.items():
        if "missing" not in row:
            table.add_row(name, *_target_cells(row))
    return Group(table, *_notes(result), *_accuracy_lines(result.accuracy), *(f"warning: {w}" for w in result.warnings))


def _notes(result: Bench) -> list[str]:
    """What was left out, and what the figures of the table mean."""
    lines = []
    if result.fastest_peer:
        lines.append(
            f"to peer: median over that of the fastest other runtime, of the network {result.fastest_peer}; "
            "one thread, one core; --json has the quartiles"
        )
    missing = {name: row["missing"] for name, row in result.targets.items() if "missing" in row} | result.missing
    lines += [f"{name} left out: {reason}" for name, reason in missing.items()]
    if any(row.get("kind") == "instructions" for row in result.targets.values()):
        lines.append(
            "instructions are counted by an emulator; they are not cycles: it models no pipeline, cache or flash"
        )
    if energy := result.energy:
        lines.append(
            f"energy: at most {energy.network_mj:.3f} mJ per run of the network, by RAPL for the whole processor, "
            f"which uses {energy.idle_watts:.1f} W when idle"
        )
    budget = result.complexity
    lines.append(
        f"complexity: {budget['parameters']:,} parameters, {budget['macs']:,} MACs as the challenge counts them; "
        f"{budget['deployed_bytes']:,} bytes, {budget['deployed_macs']:,} MACs deployed"
    )
    return lines


def _time(milliseconds: float) -> str:
    return f"{milliseconds:.3f}" if milliseconds < 10 else f"{milliseconds:.1f}"


def _target_cells(row: Mapping[str, Any]) -> tuple[str, ...]:
    """What a target is, decision, ratio, network, ratio, front end, unit, RAM, flash."""
    if row["kind"] == "estimate":
        sizes = (f"{row['sram_bytes']:,}", f"{row['flash_bytes']:,}")
        return f"estimate of {row['compiler']}", "", "", _time(row["network_ms"]), "", "", "ms, estimated", *sizes
    if row["kind"] == "board":
        what = f"{row['target']}, {row['counter']}, {'equal' if row['equal'] else 'DIFFERS'}"
        times = f" ({_time(row['network_ms'])} + {_time(row['frontend_ms'])} ms)" if row["network_ms"] else ""
        counts, unit = _counts(row["network"], row["frontend"]), f"{row['unit']}{times}"
        return what, *counts, unit, f"{row['memory_bytes']:,}", ""
    what = f"{row['toolchain']} -{row['optimize']} {row['kernels']}, {row['emulator']}"
    what += "" if row["equal"] else ", DIFFERS"
    counts = _counts(row["instructions"], row["frontend_instructions"])
    return what, *counts, "instructions", f"{row['memory_bytes']:,}", f"{row['flash_bytes']:,}"


def _counts(network: float | None, front_end: float | None) -> tuple[str, ...]:
    """Decision, ratio, network, ratio and front end of a device."""
    whole = None if network is None or front_end is None else network + front_end
    return _millions(whole), "", _millions(network), "", _millions(front_end)


def _millions(count: float | None) -> str:
    return "" if count is None else f"{count / 1e6:.2f} M"


def _accuracy_lines(accuracy: Accuracy | RecordedAccuracy | None) -> list[str]:
    if accuracy is None:
        return ["accuracy: not measured; name a dataset with --audio, or run `tinyscene evaluate` on the bundle"]
    if isinstance(accuracy, RecordedAccuracy):
        share, clips = accuracy.int8["macro_accuracy"], accuracy.clips or 0
        return [f"accuracy: int8 {share:.2%} macro-average, on {clips:,} clips, as recorded by `evaluate`"]
    parts = []
    for kind, row in (("float", accuracy.exact), ("int8", accuracy.int8)):
        low, high = row.macro_interval
        parts.append(f"{kind} {row.macro_accuracy:.2%} ({low:.2%} to {high:.2%})")
    low, high = (100 * bound for bound in accuracy.difference.macro_interval)
    sample = f"{accuracy.clips:,} clips of {accuracy.recordings} recordings"
    change = f"{100 * accuracy.difference.macro_accuracy:+.2f} points ({low:+.2f} to {high:+.2f})"
    return [
        f"accuracy: {', '.join(parts)} macro-average; int8 minus float {change}",
        f"  on {sample}, {accuracy.coverage:g} % intervals by recording",
    ]

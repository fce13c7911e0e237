"""`tinyscene bench`: what a bundle costs and is worth, in one table and one JSON object.

    tinyscene bench BUNDLE [--audio DATA] [--targets host,cortex-m4,cortex-m55,ethos-u55-128] [--serial PORT]

Every figure is measured by this call, and each target says of what kind its figures are:

- host: milliseconds on this machine, beside every other runtime that is installed (latency.py); energy where it can be
  read (energy.py);
- cortex-m4 and so on: instructions of an emulator, which are not cycles, on two golden sounds that must come out equal
  to the bit; RAM and flash of the image;
- ethos-u55-128 and so on: the estimate of Arm's compiler (vela.py);
- --serial: what a real board counted (boards.py).

Accuracy is measured where --audio names a dataset (accuracy.py), else it is what `tinyscene evaluate` recorded in the
bundle. What is missing on this machine is left out with the reason.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from rich.console import Group
from rich.table import Table

from tinyscene.benchmarks import vela
from tinyscene.benchmarks.accuracy import measure_accuracy
from tinyscene.benchmarks.boards import measure_board
from tinyscene.benchmarks.energy import measure_energy
from tinyscene.benchmarks.latency import LEAST_ROUNDS, NATIVE, host_latency, networks_of
from tinyscene.benchmarks.machine import machine
from tinyscene.deploy.bundle.bundle import BUDGET_KEYS, Bundle
from tinyscene.deploy.common.errors import InputError
from tinyscene.firmware_bridge.emulate import emulate
from tinyscene.firmware_bridge.targets.image import build_settings
from tinyscene.firmware_bridge.targets.toolchains import TARGETS
from tinyscene.train.data.cache import Clips

HOST = "host"
DEVICES = tuple(name for name, target in TARGETS.items() if target.bare)
KNOWN = (HOST, *DEVICES, *vela.TARGETS)
DEFAULT_TARGETS = (HOST, "cortex-m4", "cortex-m55", "ethos-u55-128")
SOUNDS = slice(3, 5)  # golden ones that emulated devices are given: impulses, and a sweep


def bench(
    bundle: Bundle,
    targets: Sequence[str] = DEFAULT_TARGETS,
    test: tuple[Clips, tuple[str, ...]] | None = None,
    port: str | None = None,
    rounds: int = LEAST_ROUNDS,
) -> dict[str, Any]:
    """Measure a bundle and record the result in it. `test` is a prepared dataset and the paths of its test list.

    Returns: bundle, latency and front_end (runner -> median_ms, p25_ms, p75_ms, cpu_ms, rounds, ratio), fastest_peer,
    ratio, missing, core, energy (of the host, if it is among the targets), accuracy, complexity, targets (name ->
    figures, or why it is `missing`), machine, warnings.
    Raises InputError for an unknown target or a port that cannot be read, before anything is measured.
    """
    if unknown := [each for each in targets if each not in KNOWN]:
        raise InputError(f"--targets {unknown[0]}: known are {', '.join(KNOWN)}")
    found: dict[str, Any] = {"bundle": str(bundle.folder), "machine": machine()}
    measured: dict[str, dict[str, Any]] = {port: measure_board(bundle, port)} if port else {}
    here: dict[str, Any] = {"latency": {}, "front_end": {}, "warnings": []}
    if HOST in targets:
        here = host_latency(bundle, rounds)
        native = networks_of(bundle).calls.get(NATIVE)
        here["energy"] = measure_energy(native) if native else None
    measured |= {each: _target(bundle, each) for each in dict.fromkeys(targets) if each != HOST}
    found |= {
        **here,
        "accuracy": measure_accuracy(bundle, *test) if test else _recorded(bundle),
        "complexity": {key: bundle.content["budget"][key] for key in BUDGET_KEYS},
        "targets": measured,
    }
    bundle.record("bench", found)
    return found


def _target(bundle: Bundle, name: str) -> dict[str, Any]:
    """The figures of a target that is no host; or, under `missing`, why there are none here."""
    try:
        if name in vela.TARGETS:
            return vela.estimate(bundle, name)
        return {"kind": "instructions", **asdict(emulate(bundle, bundle.vectors.pcm[SOUNDS], build_settings(name)))}
    except InputError as error:
        return {"missing": str(error)}


def _recorded(bundle: Bundle) -> dict[str, Any] | None:
    """What `tinyscene evaluate` recorded last, which is of the integers."""
    metrics = bundle.content.get("metrics")
    if not isinstance(metrics, dict):
        return None
    own = {key: metrics[key] for key in ("accuracy", "macro_accuracy", "log_loss") if key in metrics}
    return {"int8": own, **{key: metrics[key] for key in ("clips", "split", "data_hash") if key in metrics}}


def bench_table(found: Mapping[str, Any]) -> Group:
    """A result of `bench` for a terminal."""
    table = Table(box=None, pad_edge=False)
    for column in ("target", "what", "network", "quartiles", "front end", "unit", "to peer", "RAM", "flash"):
        is_text = column in ("target", "what", "unit")
        table.add_column(column, justify="left" if is_text else "right", no_wrap=True)
    for name, row in found["latency"].items():
        ratio = f"{row['ratio']:.2f}" if "ratio" in row else ""
        own = found["front_end"].get(name)
        quartiles = f"{_time(row['p25_ms'])} to {_time(row['p75_ms'])}"
        table.add_row(
            HOST, name, _time(row["median_ms"]), quartiles, _time(own["median_ms"]) if own else "", "ms", ratio
        )
    lines = []
    if found.get("fastest_peer"):
        lines.append(f"to peer: times the median of the fastest peer, {found['fastest_peer']}; one thread, one core")
    for name, row in found["targets"].items():
        if "missing" in row:
            lines.append(f"{name} left out: {row['missing']}")
        else:
            table.add_row(name, *_target_cells(row))
    lines += [f"{name} left out: {why}" for name, why in found.get("missing", {}).items()]
    if any(row.get("kind") == "instructions" for row in found["targets"].values()):
        lines.append("instructions are an emulator's count and no cycles: it knows of no pipeline, cache or flash")
    energy = found.get("energy")
    if energy:
        lines.append(
            f"energy: at most {energy['network_mj']:.3f} mJ a network run, by RAPL: the whole package, which takes "
            f"{energy['idle_watts']:.1f} W when idle"
        )
    budget = found["complexity"]
    lines.append(
        f"complexity: {budget['parameters']:,} parameters, {budget['macs']:,} MACs as the challenge counts them; "
        f"{budget['deployed_bytes']:,} bytes, {budget['deployed_macs']:,} MACs deployed"
    )
    lines += _accuracy_lines(found["accuracy"])
    lines += [f"warning: {line}" for line in found["warnings"]]
    return Group(table, *lines)


def _time(milliseconds: float) -> str:
    return f"{milliseconds:.3f}" if milliseconds < 10 else f"{milliseconds:.1f}"


def _target_cells(row: Mapping[str, Any]) -> tuple[str, ...]:
    """What a target is, network, quartiles, front end, unit, ratio, RAM, flash."""
    if row["kind"] == "estimate":
        sizes = (f"{row['sram_bytes']:,}", f"{row['flash_bytes']:,}")
        return f"estimate of {row['compiler']}", _time(row["network_ms"]), "", "", "ms, estimated", "", *sizes
    if row["kind"] == "board":
        what = f"{row['target']}, {row['counter']}, {'equal' if row['equal'] else 'DIFFERS'}"
        network, front_end = (_millions(row[key]) for key in ("network", "frontend"))
        times = f" ({_time(row['network_ms'])} + {_time(row['frontend_ms'])} ms)" if row["network_ms"] else ""
        return what, network, "", front_end, f"{row['unit']}{times}", "", f"{row['memory_bytes']:,}", ""
    what = f"{row['toolchain']} -{row['optimize']} {row['kernels']}, {row['emulator']}"
    what += "" if row["equal"] else ", DIFFERS"
    network, front_end = (_millions(row[key]) for key in ("instructions", "frontend_instructions"))
    return what, network, "", front_end, "instructions", "", f"{row['memory_bytes']:,}", f"{row['flash_bytes']:,}"


def _millions(count: float | None) -> str:
    return "" if count is None else f"{count / 1e6:.2f} M"


def _accuracy_lines(found: Mapping[str, Any] | None) -> list[str]:
    if found is None:
        return ["accuracy: not measured; name a dataset with --audio, or `tinyscene evaluate` the bundle"]
    if "difference" not in found:
        share = found["int8"]["macro_accuracy"]
        return [f"accuracy: int8 {share:.2%} macro-average, of {found['clips']:,} clips, as `evaluate` recorded it"]
    words = []
    for kind in ("float", "int8"):
        low, high = found[kind]["macro_interval"]
        words.append(f"{kind} {found[kind]['macro_accuracy']:.2%} ({low:.2%} to {high:.2%})")
    low, high = (100 * each for each in found["difference"]["macro_interval"])
    change = f"{100 * found['difference']['macro_accuracy']:+.2f} points ({low:+.2f} to {high:+.2f})"
    sample = f"{found['clips']:,} clips of {found['recordings']} recordings"
    return [
        f"accuracy: {', '.join(words)} macro-average; int8 less float {change}",
        f"  of {sample}, {found['coverage']} % intervals by recording",
    ]

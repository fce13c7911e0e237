"""Results of `inspect` and `verify` as tables for a terminal."""

from collections.abc import Mapping, Sequence

from rich.console import Group
from rich.table import Table

from tinyscene.deploy.bundle.inspection import TensorCost, TensorErrors
from tinyscene.deploy.bundle.verify import Verification


def inspection_table(costs: Sequence[TensorCost], errors: Mapping[str, TensorErrors]) -> Group:
    """The tensors of a bundle and their errors, by name."""
    table = _table("tensor", "kind", "shape", "scale", "zero", "range", "bytes", "MACs", "SQNR dB", "alone")
    for cost in costs:
        table.add_row(
            cost.name,
            cost.kind,
            "x".join(map(str, cost.shape[1:])),
            f"{cost.scale:.4g}",
            str(cost.zero_point),
            f"{cost.low:.2f} .. {cost.high:.2f}",
            f"{cost.bytes:,}",
            f"{cost.macs:,}",
            f"{errors[cost.name].sqnr_db:.1f}",
            f"{errors[cost.name].alone:.4f}",
        )
    size, macs = sum(cost.bytes for cost in costs), sum(cost.macs for cost in costs)
    return Group(
        table,
        f"{size:,} bytes of weights and biases, {macs:,} MACs. SQNR: signal-to-quantization-noise ratio, with the "
        "errors of all tensors before; alone: mean absolute error of the logits when only this tensor and its weights "
        "are quantized.",
    )


def verification_table(result: Verification) -> Group:
    """The runtimes compared with the reference."""
    table = _table("runner", "max LSB", "equal", "same scene", "accuracy")
    left_out: list[str] = []
    for name, row in result.runners.items():
        if reason := row.missing or row.failed:
            left_out.append(reason)
            continue
        shares = ("" if share is None else f"{share:.2%}" for share in (row.equal, row.same_scene, row.accuracy))
        table.add_row(name, "" if row.max_lsb is None else str(row.max_lsb), *shares)
    exports = ", ".join(f"{kind} {'up to date' if same else 'DIFFERS'}" for kind, same in result.exports.items())
    return Group(
        table,
        *left_out,
        f"{result.clips} clips; golden vectors {'equal' if result.golden_equal else 'DIFFER'}; "
        f"exports: {exports or 'none'}",
    )


def _table(first: str, *others: str) -> Table:
    table = Table(box=None, pad_edge=False)
    table.add_column(first, no_wrap=True)
    for name in others:
        table.add_column(name, justify="left" if name in ("kind", "shape") else "right", no_wrap=True)
    return table

"""What `inspect` and `verify` found, as tables for a terminal."""

from typing import Any

from rich.console import Group
from rich.table import Table


def inspection_table(rows: list[dict[str, Any]]) -> Group:
    """The tensors of a bundle, from `deploy/bundle/inspection.py`."""
    table = _table("tensor", "kind", "shape", "scale", "zero", "range", "bytes", "MACs", "SQNR dB", "alone")
    for row in rows:
        table.add_row(
            row["name"],
            row["kind"],
            "x".join(map(str, row["shape"][1:])),
            f"{row['scale']:.4g}",
            str(row["zero_point"]),
            f"{row['low']:.2f} .. {row['high']:.2f}",
            f"{row['bytes']:,}",
            f"{row['macs']:,}",
            f"{row['sqnr_db']:.1f}",
            f"{row['alone']:.4f}",
        )
    size, macs = sum(row["bytes"] for row in rows), sum(row["macs"] for row in rows)
    return Group(
        table,
        f"{size:,} bytes of weights and biases, {macs:,} MACs. SQNR: signal to error, gathered so far; alone: mean "
        "absolute error of the logits when only this tensor and its weights are rounded.",
    )


def verification_table(result: dict[str, Any]) -> Group:
    """The runtimes against the reference, from `deploy/bundle/verify.py`."""
    table = _table("runner", "max LSB", "equal", "same scene", "accuracy")
    excuses: list[str] = []
    for name, row in result["runners"].items():
        if excuse := row.get("missing") or row.get("failed"):
            excuses.append(excuse)
            continue
        shares = (f"{row[key]:.2%}" if key in row else "" for key in ("equal", "same_scene", "accuracy"))
        table.add_row(name, str(row.get("max_lsb", "")), *shares)
    exports = ", ".join(f"{kind} {'as written now' if same else 'DIFFERS'}" for kind, same in result["exports"].items())
    return Group(
        table,
        *excuses,
        f"{result['clips']} clips; golden vectors {'equal' if result['golden_equal'] else 'DIFFER'}; "
        f"exports: {exports or 'none'}",
    )


def _table(first: str, *others: str) -> Table:
    table = Table(box=None, pad_edge=False)
    table.add_column(first, no_wrap=True)
    for name in others:
        table.add_column(name, justify="left" if name in ("kind", "shape") else "right", no_wrap=True)
    return table

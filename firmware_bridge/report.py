"""Figures of a library: its arena plan as a table and a picture, its flash, and how it was generated.

report = describe(library, flash)             # report.as_json() is report.json
plan_picture(library.plan)                    # SVG: memory upwards, time to the right
readme(report, library.config)                # README.md of the C sources
"""

import colorsys
from collections.abc import Sequence
from dataclasses import asdict, astuple, dataclass
from typing import Any
from xml.etree import ElementTree as Xml

from rich.console import Group
from rich.table import Table

from tinyscene.deploy.common.provenance import provenance
from tinyscene.firmware_bridge.codegen.library import Library
from tinyscene.firmware_bridge.codegen.network import Config
from tinyscene.firmware_bridge.cost import Cost
from tinyscene.firmware_bridge.emulate import EmulationResult
from tinyscene.firmware_bridge.memory.planner import Plan
from tinyscene.firmware_bridge.memory.schedule import FIRST
from tinyscene.firmware_bridge.targets.image import FlashBytes
from tinyscene.firmware_bridge.templates import render

COLUMNS = ("block", "offset", "bytes", "rows", "from", "to")  # of the plan's table
WIDTH, HEIGHT = 1000, 560  # of the picture, without its margins
MARGIN = 40
FRONT_END = 0.12  # of the width, for the time before the network runs


@dataclass(frozen=True)
class MeasuredFlash:
    """Flash of a library, and the build that it was measured on."""

    target: str
    toolchain: str
    optimize: str
    flash: FlashBytes

    def as_json(self) -> dict[str, Any]:
        return {"target": self.target, "toolchain": self.toolchain, "optimize": self.optimize, **asdict(self.flash)}


@dataclass(frozen=True)
class MissingFlash:
    """Why flash could not be measured."""

    missing: str

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True)
class PlanRow:
    """A block of the arena, in the order of COLUMNS."""

    block: str
    offset: int
    bytes: int
    rows: str  # rows that are held, of how many; empty for working memory
    first_use: int  # step
    last_use: int

    def as_json(self) -> dict[str, int | str]:
        return dict(zip(COLUMNS, astuple(self), strict=True))

    def cells(self) -> list[str]:
        return [f"{value:,}" if isinstance(value, int) else value for value in astuple(self)]


@dataclass(frozen=True)
class LibraryReport:
    """All figures of a library."""

    model: str | None  # hash of the bundle's graph
    kernels: tuple[str, ...]
    hop_seconds: float
    memory_bytes: int  # arena and state
    arena_bytes: int
    state_bytes: int
    flash: MeasuredFlash | MissingFlash
    costs: list[Cost]  # of a decision
    plan: list[PlanRow]
    made_by: dict[str, Any]

    def as_json(self) -> dict[str, Any]:
        plan = [row.as_json() for row in self.plan]
        costs = [cost.as_json() for cost in self.costs]
        flash = self.flash.as_json()
        return {**vars(self), "kernels": list(self.kernels), "flash": flash, "costs": costs, "plan": plan}


def describe(library: Library, flash: MeasuredFlash | MissingFlash, costs: Sequence[Cost] = ()) -> LibraryReport:
    """Collect the figures of a library."""
    config = library.config
    return LibraryReport(
        model=config["MODEL"].strip('"') if isinstance(config["MODEL"], str) else None,
        kernels=library.kernels,
        hop_seconds=float(config["HOP_SAMPLES"]) / float(config["SAMPLE_RATE"]),
        memory_bytes=int(config["BYTES"]),
        arena_bytes=int(config["ARENA_BYTES"]),
        state_bytes=int(config["STATE_BYTES"]),
        flash=flash,
        costs=list(costs),
        plan=plan_rows(library.plan),
        made_by=provenance(),
    )


def plan_rows(plan: Plan) -> list[PlanRow]:
    """Every block of the arena, from the lowest offset up."""
    rows = []
    for name, block in sorted(plan.blocks.items(), key=lambda item: plan.offsets[item[0]]):
        activation = plan.schedule.rows.get(name)
        rows.append(
            PlanRow(
                block=name.strip("\t"),
                offset=plan.offsets[name],
                bytes=block.bytes,
                rows=f"{plan.slots[name]} of {activation.count}" if activation else "",
                first_use=max(block.first_use, FIRST),
                last_use=min(block.last_use, len(plan.schedule.order)),
            )
        )
    return rows


def report_tables(report: LibraryReport) -> Group:
    """A report for a terminal."""
    table = Table(box=None, pad_edge=False)
    for column in COLUMNS:
        table.add_column(column, justify="left" if column == "block" else "right", no_wrap=True)
    for row in report.plan:
        table.add_row(*row.cells())
    return Group(table, _memory_line(report), _flash_line(report.flash))


def emulation_table(results: Sequence[EmulationResult]) -> Group:
    """Results of `emulate` for a terminal."""
    table = Table(box=None, pad_edge=False)
    for column in ("target", "toolchain", "emulator", "clips", "equal", "inference", "a MAC", "front end"):
        table.add_column(column, no_wrap=True)
    for column in ("RAM", "stack", "flash"):
        table.add_column(column, justify="right", no_wrap=True)
    for result in results:
        counts = (result.instructions, result.frontend_instructions)
        inference, front_end = ("" if count is None else f"{count / 1e6:.2f} M" for count in counts)
        per_mac, sizes = result.instructions_per_mac, (result.memory_bytes, result.stack_bytes, result.flash_bytes)
        table.add_row(
            result.target,
            f"{result.toolchain} -{result.optimize} {result.kernels}",
            result.emulator or "",
            str(result.clips),
            "yes" if result.equal else "NO",
            inference,
            "" if per_mac is None else f"{per_mac:.2f}",
            front_end,
            *("" if size is None else f"{size:,}" for size in sizes),
        )
    profiles = [part for result in results if result.profile for part in ("", _profile_table(result))]
    return Group(table, "Inference and front end are counted in instructions, not cycles.", *profiles)


def _profile_table(result: EmulationResult) -> Table:
    rows = result.profile or []
    whole = sum(row.instructions for row in rows)
    table = Table(box=None, pad_edge=False, title=f"{result.target}, {result.toolchain}", title_justify="left")
    for column in ("part", "function or layer", "operator"):
        table.add_column(column, no_wrap=True)
    for column in ("instructions", "%"):
        table.add_column(column, justify="right", no_wrap=True)
    for row in rows:
        table.add_row(row.part, row.name, row.kind, f"{row.instructions:,}", f"{100 * row.instructions / whole:.1f}")
    return table


def _memory_line(report: LibraryReport) -> str:
    return (
        f"{report.memory_bytes:,} bytes of RAM: an arena of {report.arena_bytes:,} and a state of "
        f"{report.state_bytes}; a decision every {report.hop_seconds:g} s"
    )


def _flash_line(measured: MeasuredFlash | MissingFlash) -> str:
    if isinstance(measured, MissingFlash):
        return f"flash not measured: {measured.missing}"
    flash = measured.flash
    where = f"{measured.target} ({measured.toolchain}, -{measured.optimize})"
    parts = f"code {flash.code:,}, weights {flash.weights:,}, tables {flash.tables:,}"
    return f"{flash.total:,} bytes of flash on {where}: {parts}"


def plan_picture(plan: Plan) -> str:
    """The arena over time as SVG: each row of each block over its live range."""
    steps = len(plan.schedule.order)
    up = HEIGHT / plan.arena_bytes
    begin = WIDTH * FRONT_END

    def across(time: int) -> float:
        return 0.0 if time < 0 else begin + (WIDTH - begin) * min(time, steps) / steps

    size = (WIDTH + 2 * MARGIN, HEIGHT + 2 * MARGIN)
    root = Xml.Element("svg", xmlns="http://www.w3.org/2000/svg", viewBox=f"0 0 {size[0]} {size[1]}")
    root.set("font-family", "sans-serif")
    title = f"{plan.arena_bytes:,} bytes over {steps:,} steps; left of the line: the front end"
    Xml.SubElement(root, "text", x=str(MARGIN), y=str(MARGIN // 2)).text = title
    area = Xml.SubElement(root, "g", transform=f"translate({MARGIN} {MARGIN})")
    Xml.SubElement(area, "rect", width=str(WIDTH), height=str(HEIGHT), fill="none", stroke="#888")
    for index, (name, block) in enumerate(plan.blocks.items()):
        red, green, blue = (round(255 * channel) for channel in colorsys.hls_to_rgb(index * 0.382 % 1, 0.68, 0.55))
        shape = Xml.SubElement(area, "g", fill=f"#{red:02x}{green:02x}{blue:02x}")
        Xml.SubElement(shape, "title").text = f"{name.strip()}: {block.bytes:,} bytes at {plan.offsets[name]:,}"
        for start, stop, first_use, last_use in block.rows.tolist():
            left, right = across(first_use), across(last_use + 1)
            Xml.SubElement(
                shape,
                "rect",
                x=f"{left:.1f}",
                y=f"{HEIGHT - up * (plan.offsets[name] + stop):.1f}",
                width=f"{max(right - left, 0.5):.1f}",
                height=f"{up * (stop - start):.2f}",
            )
        if block.bytes * up > 9:
            middle = HEIGHT - up * (plan.offsets[name] + block.bytes / 2)
            place = {
                "x": f"{across(block.rows[len(block.rows) // 2, 2]) + 3:.1f}",
                "y": f"{middle + 3:.1f}",
                "font-size": "9",
            }
            Xml.SubElement(area, "text", place).text = name.strip()
    line = f"{begin:.1f}"
    Xml.SubElement(area, "line", x1=line, x2=line, y1="0", y2=str(HEIGHT), stroke="#000")
    return Xml.tostring(root, encoding="unicode") + "\n"


def readme(report: LibraryReport, config: Config, clock_table: str = "") -> str:
    """README.md of the C sources, with the table of cost.py."""
    values = {
        "clock_table": clock_table,
        "has_examples": False,
        "by_time": config["BY_TIME"],
        "model": report.model,
        "memory": _memory_line(report),
        "flash": _flash_line(report.flash),
        "kernels": ", ".join(report.kernels),
        "sample_rate": config["SAMPLE_RATE"],
        "decision": f"tinyscene_{'decision' if 'AVERAGE' in config else 'best'}(scene)",
        "columns": COLUMNS,
        "rows": [[cell.replace("|", "/") for cell in row.cells()] for row in report.plan],
    }
    return render("sources/README.md.j2", values)

"""What a library takes and where: the plan of its arena as a table and a picture, its flash, what made it.

report = describe(library, flash)             # for report.json
plan_picture(library.plan)                    # SVG: memory upwards, time to the right
readme(report)                                # for whoever owns the C from now on
"""

import colorsys
from typing import Any
from xml.etree import ElementTree as Xml

from rich.console import Group
from rich.table import Table

from tinyscene.deploy.common.provenance import provenance
from tinyscene.firmware_bridge.codegen.library import Library
from tinyscene.firmware_bridge.memory.planner import Plan
from tinyscene.firmware_bridge.memory.schedule import FIRST

COLUMNS = ("block", "offset", "bytes", "rows", "from", "to")  # of the plan's table
WIDTH, HEIGHT = 1000, 560  # of the picture, without its margins
MARGIN = 40
FRONT_END = 0.12  # of the width, for the time before the network runs


def describe(library: Library, flash: dict[str, Any] | None) -> dict[str, Any]:
    """All that is known of a library. `flash` is what `image.py` measured, with its target and toolchain."""
    config = library.config
    return {
        "model": config["MODEL"].strip('"') if isinstance(config["MODEL"], str) else None,
        "kernels": list(library.kernels),
        "hop_seconds": float(config["HOP_SAMPLES"]) / float(config["SAMPLE_RATE"]),
        "memory_bytes": config["BYTES"],
        "arena_bytes": config["ARENA_BYTES"],
        "state_bytes": config["STATE_BYTES"],
        "flash": flash,
        "plan": plan_rows(library.plan),
        "made_by": provenance(),
    }


def plan_rows(plan: Plan) -> list[dict[str, Any]]:
    """Every block of the arena, from the bottom up: offset, bytes, rows held of how many, steps it lives in."""
    rows = []
    for name, block in sorted(plan.blocks.items(), key=lambda item: plan.offsets[item[0]]):
        held = plan.schedule.rows.get(name)
        rows.append(
            {
                "block": name.strip("\t"),
                "offset": plan.offsets[name],
                "bytes": block.bytes,
                "rows": f"{plan.slots[name]} of {held.count}" if held else "",
                "from": max(block.first_use, FIRST),
                "to": min(block.last_use, len(plan.schedule.order)),
            }
        )
    return rows


def report_tables(report: dict[str, Any]) -> Group:
    """A report for a terminal."""
    table = Table(box=None, pad_edge=False)
    for column in COLUMNS:
        table.add_column(column, justify="left" if column == "block" else "right", no_wrap=True)
    for row in report["plan"]:
        table.add_row(*_cells(row))
    return Group(table, *_summary(report))


def emulation_table(results: list[dict[str, Any]]) -> Group:
    """What `emulate.py` found, for a terminal."""
    table = Table(box=None, pad_edge=False)
    for column in ("target", "toolchain", "emulator", "clips", "equal", "inference", "a MAC", "front end"):
        table.add_column(column, no_wrap=True)
    for column in ("RAM", "stack", "flash"):
        table.add_column(column, justify="right", no_wrap=True)
    for result in results:
        counts = (result[key] for key in ("instructions", "frontend_instructions"))
        inference, front_end = ("" if count is None else f"{count / 1e6:.2f} M" for count in counts)
        per_mac, sizes = result["instructions_per_mac"], ("memory_bytes", "stack_bytes", "flash_bytes")
        table.add_row(
            result["target"],
            f"{result['toolchain']} -{result['optimize']} {result['kernels']}",
            result["emulator"] or "",
            str(result["clips"]),
            "yes" if result["equal"] else "NO",
            inference,
            "" if per_mac is None else f"{per_mac:.2f}",
            front_end,
            *("" if result[key] is None else f"{result[key]:,}" for key in sizes),
        )
    return Group(table, "Inference and front end are in instructions, which are not cycles.")


def _summary(report: dict[str, Any]) -> list[str]:
    memory = (
        f"{report['memory_bytes']:,} bytes of RAM: an arena of {report['arena_bytes']:,} and a state of "
        f"{report['state_bytes']}; a decision every {report['hop_seconds']:g} s"
    )
    flash = report["flash"]
    if "missing" in flash:
        return [memory, f"flash not measured: {flash['missing']}"]
    total = sum(flash[part] for part in ("code", "weights", "tables"))
    where = f"{flash['target']} ({flash['toolchain']}, -{flash['optimize']})"
    parts = f"code {flash['code']:,}, weights {flash['weights']:,}, tables {flash['tables']:,}"
    return [memory, f"{total:,} bytes of flash on {where}: {parts}"]


def _cells(row: dict[str, Any]) -> list[str]:
    return [f"{row[column]:,}" if isinstance(row[column], int) else row[column] for column in COLUMNS]


def plan_picture(plan: Plan) -> str:
    """The arena over time, as SVG: each row of each block as long as it lives."""
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
        red, green, blue = (round(255 * each) for each in colorsys.hls_to_rgb(index * 0.382 % 1, 0.68, 0.55))
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


def readme(report: dict[str, Any]) -> str:
    """The README.md beside the sources."""
    table = ["| " + " | ".join(COLUMNS) + " |", "|---|" + "---:|" * (len(COLUMNS) - 1)]
    for row in report["plan"]:
        table.append("| " + " | ".join(cell.replace("|", "/") for cell in _cells(row)) + " |")
    memory, flash = _summary(report)
    return README.format(
        model=report["model"],
        memory=memory,
        flash=flash,
        kernels=", ".join(report["kernels"]),
        table="\n".join(table),
    )


README = """\
# An acoustic scene classifier in C99

Sound in, a scene out: `tinyscene.h` is the only file to include, and says what is promised. Compile every `.c` file;
nothing else is needed, no C library either but `memcpy` and its like.

```c
static TINYSCENE_ALIGNED uint8_t memory[TINYSCENE_BYTES];
tinyscene *scene;

tinyscene_init(memory, sizeof memory, &scene);
if (tinyscene_push(scene, pcm, samples, &taken) == TINYSCENE_READY && tinyscene_run(scene) == TINYSCENE_OK)
    puts(tinyscene_label((size_t)tinyscene_best(scene)));
```

- {memory}.
- {flash}.
- Kernels: {kernels}. The compiler's feature macros choose; `-DTINYSCENE_PLAIN` asks for plain C.
- Made from the graph {model}; `report.json` has the rest.

| file | |
|---|---|
| `tinyscene.h`, `tinyscene.c` | the library: sound in, decisions out |
| `tinyscene_frontend.*`, `tinyscene_tables.c` | the fixed-point log-mel |
| `tinyscene_network.*`, `tinyscene_weights.c` | the network, generated: calls of kernels in the order of the plan |
| `tinyscene_kernels.h`, the other `.c` | the kernels: plain C99, and those for what a processor has beyond it |
| `tinyscene_config.h`, `tinyscene_labels.c` | sizes and names, generated |
| `plan.svg`, `report.json` | the arena over time; figures, versions |

## The arena

Activations are made row by row, a row being a mel band with all its frames. Most are never held whole: a ring of the
rows that are still wanted does. Blocks may overlap where no two rows live at the same time. Offsets and sizes are in
bytes, times in steps (a row of an operator each), the front end's being -1.

{table}
"""

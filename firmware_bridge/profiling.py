"""Instructions of a decision by layer of the network and by function of the front end.

rows = profile_image(image, settings, graph)        # of the last job of the image, beside which its files lie
"""

import re
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from tinyscene.deploy.graph.graph import Graph
from tinyscene.firmware_bridge.targets import emulators
from tinyscene.firmware_bridge.targets.image import BuildSettings
from tinyscene.firmware_bridge.targets.profile import NOBODY, Blocks

ROW = re.compile(r"tinyscene_row_(\d+)(?:\.(?:constprop|isra)\.\d+)*")  # gcc renames what it specializes
FRONT_END, NETWORK = "front end", "network"  # owners of instructions, besides the layers by number
ORDER = ("tinyscene_run", "tinyscene_step", "tinyscene_network_step", "take_turn", "move_on")
OWNERS = {"tinyscene_push": FRONT_END, **dict.fromkeys(ORDER, NETWORK)}
OUTSIDE = ("main", "fill_window", "next_samples")  # functions of harness/scene_main.c


@dataclass(frozen=True)
class ProfileRow:
    """A layer of the network with all that it called, or a function of the front end without what it called."""

    part: Literal["front end", "network"]
    name: str
    kind: str  # of a layer, else empty
    instructions: int


def profile_image(image: Path, settings: BuildSettings, graph: Graph) -> list[ProfileRow]:
    """Run an image once more, and count the instructions of every block of code that it runs.

    A function that the compiler inlined counts to the one that it went into.
    """
    blocks = Blocks(image, _owner)
    emulators.run(image, settings.target, image.parent, settings.emulator, blocks=blocks)
    stages: Counter[str] = Counter()
    owners: Counter[str] = Counter()
    for (owner, function), count in blocks.instructions().items():
        owners[owner] += count
        if owner == FRONT_END:
            stages[function] += count
    rows = [ProfileRow("front end", name, "", count) for name, count in stages.most_common()]
    for number, operator in enumerate(graph.operators, 1):
        rows.append(ProfileRow("network", operator.output.name, operator.kind, owners[str(number)]))
    return [*rows, ProfileRow("network", "the order of rows", "", owners[NETWORK])]


def layer_counts(rows: list[ProfileRow] | None) -> list[int] | None:
    """Instructions by activation; none if there is no profile."""
    return None if rows is None else [row.instructions for row in rows if row.kind]


def _owner(function: str) -> str | None:
    """Whom the instructions of a function and of what it calls are for."""
    if row := ROW.fullmatch(function):
        return row[1]
    return NOBODY if function in OUTSIDE else OWNERS.get(function)

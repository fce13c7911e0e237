"""The table of the front end's instructions by function."""

from tinyscene.benchmarks.report.blocks import NOTHING, Block, Content, Table, count


def stages(targets: dict[str, Content]) -> list[Block]:
    """A function a line, a target a column; nothing where no target has a profile."""
    profiles = {
        name: {row["name"]: row["instructions"] for row in target["profile"] if row["part"] == "front end"}
        for name, target in targets.items()
        if target["profile"]
    }
    if not profiles:
        return []
    functions = sorted({name for each in profiles.values() for name in each}, key=lambda name: _most(profiles, name))
    rows = [
        [name, *(count(each[name]) if name in each else NOTHING for each in profiles.values())] for name in functions
    ]
    note = "Instructions of each function, without those that it calls; what the compiler inlined counts to its caller."
    return [Table("Front end by function", [["function", *profiles], *rows], note, is_folded=True)]


def _most(profiles: dict[str, dict[str, int]], name: str) -> int:
    return -max(each.get(name, 0) for each in profiles.values())

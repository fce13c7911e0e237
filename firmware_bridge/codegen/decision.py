"""The decision rule in C: its constants, its tables, and its memory in the state and the arena."""

from tinyscene.deploy.bundle.decision import UNKNOWN_LABEL, DecisionRule
from tinyscene.deploy.graph.embedding import below_classifier
from tinyscene.deploy.graph.graph import Graph
from tinyscene.firmware_bridge.codegen.network import Config
from tinyscene.firmware_bridge.memory.planner import ALWAYS, Block, Plan, work_block
from tinyscene.firmware_bridge.memory.schedule import FIRST

EMBEDDING = "\tembedding"  # block of the arena
WORDS = 6  # of tinyscene_rule, besides its sums and what it holds of decisions
FILES = ("tinyscene_decision.h", "tinyscene_decision.c")


def rule_blocks(rule: DecisionRule | None, graph: Graph, columns: int = 0) -> list[Block]:
    """Memory in the arena: sums of the embedding, from the network's start until the decision; of a network that
    listens without end, those of each of so many columns, too."""
    if rule is None or rule.unknown is None:
        return []
    return [work_block(EMBEDDING, 4 * below_classifier(graph).output.shape[-1] * (1 + columns), FIRST, ALWAYS)]


def rule_bytes(rule: DecisionRule | None, classes: int) -> int:
    """Memory in the state: the size of tinyscene_rule at most; 0 without a rule."""
    if rule is None:
        return 0
    return 4 * (classes + WORDS) + (2 + classes) * rule.average + 3


def rule_config(rule: DecisionRule | None, plan: Plan) -> Config:
    """Constants of the rule; none without one."""
    if rule is None:
        return {}
    graph = plan.schedule.graph
    config: Config = {"AVERAGE": rule.average, "MARGIN": rule.margin, "PATIENCE": rule.patience}
    if rule.unknown is not None:
        taken = below_classifier(graph).output
        config |= {
            "UNKNOWN": graph.output.shape[-1],
            "UNKNOWN_THRESHOLD": f"({rule.unknown.threshold})",
            "UNKNOWN_SHIFT": rule.unknown.shift,
            "DIRECTIONS": len(rule.unknown.rows),
            "EMBEDDING": plan.offsets[EMBEDDING],
            "EMBEDDING_BYTES": plan.blocks[EMBEDDING].bytes,
            "EMBEDDING_CHANNELS": taken.shape[-1],
            "EMBEDDING_ZERO_POINT": f"({taken.q.zero_point})",
        }
    return config


def unknown_label(rule: DecisionRule | None) -> str | None:
    """The name of TINYSCENE_UNKNOWN, if the rule has it."""
    return UNKNOWN_LABEL if rule is not None and rule.unknown is not None else None


def summed_activation(rule: DecisionRule | None, graph: Graph) -> str | None:
    """The activation whose rows are summed, if the rule needs them."""
    return below_classifier(graph).output.name if rule is not None and rule.unknown is not None else None


def rule_tables(rule: DecisionRule | None) -> dict[str, str]:
    """The generated file of the rule, if it needs one."""
    if rule is None or rule.unknown is None:
        return {}
    rows = "".join(f"    {{{', '.join(map(str, row))}}},\n" for row in rule.unknown.rows)
    head = '#include "tinyscene_decision.h"\n\nconst int8_t '
    size = "[TINYSCENE_DIRECTIONS][TINYSCENE_EMBEDDING_CHANNELS]"
    return {"tinyscene_directions.c": f"{head}tinyscene_directions{size} = {{\n{rows}}};\n"}

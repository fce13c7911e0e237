"""What a graph costs that is computed as sound comes, column by column: each column of each layer once.

cost = stream_cost(graph)        # None for a graph that pads or repeats over time
cost.frame * frames_a_second, cost.decision * decisions_a_second
"""

from dataclasses import dataclass
from fractions import Fraction

from tinyscene.deploy.graph.columns import column_steps
from tinyscene.deploy.graph.graph import Graph
from tinyscene.deploy.graph.operator import Window
from tinyscene.deploy.graph.operators import Repeat


@dataclass(frozen=True)
class StreamCost:
    """Multiplications: for each frame, on average, and for each decision."""

    frame: Fraction
    decision: int

    def of_second(self, frames: Fraction, decisions: int) -> int:
        """For a second of so many frames and decisions."""
        return round(self.frame * frames) + self.decision * decisions


def stream_cost(graph: Graph) -> StreamCost | None:
    """The cost of a graph whose columns are the same in every clip; none of one that pads or repeats over time.

    A column of a layer costs what its rows do, and comes once in as many frames as the strides before it multiply to.
    What reads a mean over frames is computed for each decision.
    """
    steps, frame, decision = column_steps(graph), Fraction(0), 0
    for operator in graph.operators:
        if isinstance(operator, Repeat) and operator.times[1] > 1:
            return None
        macs, step = getattr(operator, "macs", 0), steps.get(operator.output.name)
        if step is None:
            decision += macs
            continue
        if isinstance(operator, Window) and any(operator.padding[2:]):
            return None
        frame += Fraction(macs, operator.output.shape[2] * step)
    return StreamCost(frame, decision)

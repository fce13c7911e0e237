"""The features of a graph: the fixed-point log-mel in the scale and zero point of the graph's input."""

from tinyscene.deploy.frontend.fixed_point import FixedPointLogMel
from tinyscene.deploy.frontend.log_mel import FrontEnd
from tinyscene.deploy.graph.graph import Graph


def input_log_mel(graph: Graph, front_end: FrontEnd) -> FixedPointLogMel:
    """int16 clips (batch, samples) -> int8 log-mel (batch, mel, frame), quantized as the graph takes it."""
    return FixedPointLogMel(front_end, graph.input.q.scale, graph.input.q.zero_point)

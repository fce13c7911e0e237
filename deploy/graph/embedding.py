"""The embedding of a graph: what its classifier takes, averaged over bands and frames.

The classifier is the last convolution, whose channels are the classes; in a network that pools first it takes one
value a channel.
"""

import numpy as np
from numpy.typing import NDArray

from tinyscene.deploy.common.errors import InputError
from tinyscene.deploy.graph.graph import Graph
from tinyscene.deploy.graph.operators import Conv2D
from tinyscene.deploy.graph.reference import Values, run


def below_classifier(graph: Graph) -> Graph:
    """The part of a graph whose output the classifier takes. Raises InputError if it has no classifier."""
    convolutions = [operator for operator in graph.operators if isinstance(operator, Conv2D)]
    taken = convolutions[-1].inputs[0] if convolutions else None
    for number, operator in enumerate(graph.operators):
        if operator.output.name == taken:
            return Graph(graph.input, graph.operators[: number + 1])
    raise InputError("the network has no layer before its classifier, and so no embedding")


def embed(graph: Graph, features: Values) -> NDArray[np.float32]:
    """Features (batch, mel, frame, channels) of the graph's type -> embeddings (batch, channels), real values."""
    body = below_classifier(graph)
    means = run(body, features).mean((1, 2), dtype=np.float64).astype(np.float32)  # (batch, channels)
    return body.output.q.dequantize(means) if graph.is_integer else means

"""The rows of activations, and how an operator reads them.

Each row is one mel band with all its frames. Rows are counted with padding: `top` rows of zeros precede the first,
`bottom` follow the last, and each row has `left` and `right` pixels of zeros. Padding is written as part of each row,
so kernels need no special cases at borders.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from tinyscene.deploy.graph.graph import Graph
from tinyscene.deploy.graph.operators import Kind
from tinyscene.deploy.graph.tensor import Tensor

Padding = tuple[int, int, int, int]  # top, bottom, left, right


@dataclass(frozen=True)
class AccessPattern:
    """How an operator reads its sources row by row, the same for each source, and the memory that it needs."""

    count: int  # steps, each of which computes one row
    tall: int  # rows of a source that a step reads
    stride: int  # rows from one step to the next
    wide: int  # pixels of these rows that are read
    padding: Padding  # read around a source; top and left as the operator has them, bottom and right as needed
    scratch: int = 0  # bytes needed during a step
    accumulators: int = 0  # bytes needed from the first step to the last


@dataclass(frozen=True)
class Rows:
    """The rows of an activation, with padding."""

    tensor: Tensor
    padding: Padding

    @property
    def size(self) -> tuple[int, int, int]:
        """Height, width and channels, without padding."""
        height, width, channels = (1, 1, *self.tensor.shape[1:])[-3:]
        return height, width, channels

    @property
    def count(self) -> int:
        return self.size[0] + self.padding[0] + self.padding[1]

    @property
    def stride(self) -> int:
        """Bytes from a row to the next."""
        return (self.size[1] + self.padding[2] + self.padding[3]) * self.size[2]

    @property
    def left(self) -> int:
        """Bytes of padding before a row's first value."""
        return self.padding[2] * self.size[2]

    @property
    def bytes(self) -> int:
        """Bytes of a row's values."""
        return self.size[1] * self.size[2]


def window_access(operator: Kind, source: Tensor, size: tuple[int, int], scratch: int) -> AccessPattern:
    """Access of an operator that slides a window of (mel, frame)."""
    _, height, width, _ = source.shape
    _, tall_out, wide_out, _ = operator.output.shape
    top, _, left, _ = operator.padding  # type: ignore[union-attr]
    down, across = operator.stride  # type: ignore[union-attr]
    bottom = (tall_out - 1) * down + size[0] - top - height
    right = (wide_out - 1) * across + size[1] - left - width
    return AccessPattern(
        count=tall_out,
        tall=size[0],
        stride=down,
        wide=(wide_out - 1) * across + size[1],
        padding=(top, max(bottom, 0), left, max(right, 0)),
        scratch=scratch,
    )


def row_access(source: Tensor, accumulators: int = 0) -> AccessPattern:
    """Access of an operator that reads one row of each source per step."""
    height, width, _ = (1, 1, *source.shape[1:])[-3:]
    return AccessPattern(count=height, tall=1, stride=1, wide=width, padding=(0, 0, 0, 0), accumulators=accumulators)


def padded_rows(graph: Graph, access: Sequence[AccessPattern]) -> dict[str, Rows]:
    """Each activation with the largest padding that its readers need."""
    padding: dict[str, Padding] = dict.fromkeys(graph.tensors, (0, 0, 0, 0))
    for operator, pattern in zip(graph.operators, access, strict=True):
        for name in operator.inputs:
            top, bottom, left, right = map(max, padding[name], pattern.padding)
            padding[name] = (top, bottom, left, right)
    return {name: Rows(tensor, padding[name]) for name, tensor in graph.tensors.items()}

"""The graph: what a network computes, in float or in integers. `deploy/graph/storage.py` stores it.

Activations are NHWC with height = mel and width = frame; convolution weights are TFLite's, (outputs, height, width,
inputs). A graph is float32 throughout, or integer throughout by TFLite's 8-bit quantization specification: activations
int8 with one scale and zero point, weights int8 in -127..127 with a scale an output channel and zero point 0, bias
int32 at input scale * weight scale. Its operators are those of `deploy/graph/operators.py`.

A Graph that exists is valid: shapes fit, nothing dangles, and no accumulator can leave 32 bits, so every
runtime and every kernel may rely on it. Nothing read from a file is trusted before that is checked.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

from tinyscene.deploy.common.errors import InputError
from tinyscene.deploy.graph.operator import Convolution, Kept, Window
from tinyscene.deploy.graph.operators import Add, Kind, Mean, Repeat
from tinyscene.deploy.graph.tensor import Tensor

MAX_OPERATORS = 1_000


@dataclass(frozen=True, eq=False)
class Graph:
    """Operators in the order they run; the last one's output is the graph's. Raises InputError if not valid."""

    input: Tensor
    operators: tuple[Kind, ...]
    tensors: Mapping[str, Tensor] = field(init=False)  # by name, in order

    def __post_init__(self) -> None:
        object.__setattr__(self, "operators", tuple(self.operators))
        if not 1 <= len(self.operators) <= MAX_OPERATORS:
            raise InputError(f"a graph of {len(self.operators)} operators: it must have 1 to {MAX_OPERATORS:,}")
        tensors, unread = {self.input.name: self.input}, {self.input.name}
        means: set[str] = set()
        repeats: set[str] = set()
        for operator in self.operators:
            for name in operator.inputs:
                operator.require(name in tensors, f"its input {name!r} is not made before it")
                # the firmware sums a mean row by row, and writes none of padding around it
                padded = name in means and isinstance(operator, Window) and any(operator.padding)
                operator.require(not padded, f"pads {name!r}, which is a mean")
                fits = name not in repeats or isinstance(operator, Add)  # which repeats in other runtimes
                operator.require(fits, f"reads {name!r}, which an addition alone may")
            operator.require(operator.output.name not in tensors, "its name is taken")
            self._check(operator, [tensors[name] for name in operator.inputs])
            tensors[operator.output.name] = operator.output
            unread = (unread - {*operator.inputs}) | {operator.output.name}
            means |= {operator.output.name} if isinstance(operator, Mean) else set()
            repeats |= {operator.output.name} if isinstance(operator, Repeat) else set()
        self.operators[-1].require(self.output.name not in repeats, "is the last operator, and repeats")
        if dangling := sorted(unread - {self.output.name}):
            raise InputError(f"nothing reads tensor {dangling[0]!r}")
        object.__setattr__(self, "tensors", tensors)

    def _check(self, operator: Kind, inputs: list[Tensor]) -> None:
        shape = operator.output_shape(*inputs)
        operator.require(shape == operator.output.shape, f"makes {shape}, not {operator.output.shape}")
        quantized = operator.output.quantization is not None
        operator.require(quantized == self.is_integer, "mixes float and integer tensors")
        if isinstance(operator, Convolution):
            operator.require((operator.weight_scales is not None) == quantized, "mixes float and integer weights")
        if quantized:
            operator.check_integers(*inputs)

    @property
    def is_integer(self) -> bool:
        return self.input.quantization is not None

    @property
    def output(self) -> Tensor:
        return self.operators[-1].output

    @property
    def macs(self) -> int:
        """Multiplications of one inference."""
        return sum(getattr(operator, "macs", 0) for operator in self.operators)

    def sources(self, operator: Kind) -> list[Tensor]:
        """The tensors that an operator reads."""
        return [self.tensors[name] for name in operator.inputs]

    def quantized_together(self) -> dict[str, str]:
        """For each tensor the first of those that must have its scale and zero point, by name.

        What an operator keeps has that of what it reads; what is joined to one activation has one.
        """
        first = {name: name for name in self.tensors}
        for operator in self.operators:
            if isinstance(operator, Kept):
                joined = {first[name] for name in (*operator.inputs, operator.output.name)}
                leader = next(name for name in self.tensors if name in joined)
                first = {name: leader if each in joined else each for name, each in first.items()}
        return first

    def last_reads(self) -> list[set[str]]:
        """For each operator the tensors that none after it reads."""
        read_later: set[str] = set()
        last: list[set[str]] = []
        for operator in reversed(self.operators):
            last.append({*operator.inputs} - read_later)
            read_later.update(operator.inputs)
        return last[::-1]

"""C expressions for an operator's rows in the arena, and the tables of convolutions."""

import re
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tinyscene.deploy.graph.operator import Convolution
from tinyscene.deploy.graph.operators import DepthwiseConv2D, Kind
from tinyscene.deploy.graph.tensor import Tensor, quantize_multiplier
from tinyscene.firmware_bridge.codegen.floats import bits, convolution_floats
from tinyscene.firmware_bridge.codegen.weight_layouts import Rescaling
from tinyscene.firmware_bridge.memory.planner import Plan
from tinyscene.firmware_bridge.memory.rows import Rows

C_TYPES = {"int8": "int8_t", "int16": "int16_t", "uint16": "uint16_t", "int32": "int32_t", "int64": "int64_t"}
FAST_SHIFTS = (1, 22)  # to the right, that the fast kernels support
WIDE_SHIFTS = (-6, 22)  # of the pointwise convolutions that are fast on hosts
FAST_SUMS = 2**23  # accumulators are smaller
FAST_CHANNELS = 4  # of a depthwise convolution, at least


@dataclass(frozen=True)
class Code:
    """C of an operator. In it, `turn` counts rows with padding, `row` those without."""

    step: list[str]  # statements
    tables: str = ""  # definitions, in the file of weights
    declarations: str = ""  # of these tables


@dataclass(frozen=True)
class CodegenContext:
    """An operator in a plan; `number` is that of its output tensor, the graph's input being 0."""

    plan: Plan
    operator: Kind
    number: int
    kernels: Sequence[str]

    @property
    def sources(self) -> list[Tensor]:
        return self.plan.schedule.graph.sources(self.operator)

    @property
    def width(self) -> int:
        """Pixels of an output row."""
        return self.plan.schedule.rows[self.operator.output.name].size[1]

    def source(self, index: int, below: int = 0) -> str:
        """The address of the first byte that a step reads of a source, `below` rows below the first row."""
        schedule, name = self.plan.schedule, self.operator.inputs[index]
        access = schedule.access[self.number - 1]
        start, _ = self.plan.read_bytes(self.number - 1, name)
        first = schedule.rows[name].padding[0] - access.padding[0] + below
        return row_address(self.plan, name, _scaled("row", access.stride, first), start)

    def rows(self, repeated: int = 1) -> list[str]:
        """The declaration of `rows`: the addresses of a window's rows, each as often as it is to be read."""
        below = [row for row in range(self.plan.schedule.access[self.number - 1].tall) for _ in range(repeated)]
        tall = len(below)
        lines = ",\n".join(f"    {self.source(0, row)}" for row in below)
        return [f"const int8_t *const rows[{tall}] = {{", *lines.splitlines(), "};"]

    def address(self, block: str, start: int = 0) -> str:
        """The address of a byte of a block, or NULL if the plan has no such block."""
        return f"&arena[{self.plan.offsets[block] + start}]" if block in self.plan.offsets else "NULL"


def row_address(plan: Plan, name: str, row: str, start: int) -> str:
    """The address of byte `start` of a row, counted with padding."""
    slots, rows = plan.slots[name], plan.schedule.rows[name]
    slot = row if rows.count == slots else f"{_bracketed(row)} % {slots}"
    first = plan.offsets[name] + start
    return f"&arena[{first}]" if slots == 1 or row == "0" else f"ROW({first}, {slot}, {rows.stride})"


def fill_row(rows: Rows, zero: int) -> list[str]:
    """Statements that write the padding before and after the values of a row at `y`."""
    left, right = rows.left, rows.padding[3] * rows.size[2]
    before = [f"tinyscene_fill(&y[-{left}], {zero}, {left});"] if left else []
    return before + ([f"tinyscene_fill(&y[{rows.bytes}], {zero}, {right});"] if right else [])


def _scaled(variable: str, factor: int, addend: int) -> str:
    if factor == 0:
        return str(addend)
    product = variable if factor == 1 else f"{factor} * {variable}"
    return product if addend == 0 else f"{_bracketed(product)} {'+' if addend > 0 else '-'} {abs(addend)}"


def _bracketed(expression: str) -> str:
    return expression if expression.isidentifier() else f"({expression})"


def comment(name: str) -> str:
    """A tensor's name, safe in a C comment: it comes from a file and must not end the comment."""
    return re.sub(r"[^A-Za-z0-9_.-]", "_", name)


def array(name: str, values: NDArray[Any], qualifier: str = "static const ") -> str:
    """A table in C."""
    numbers = ", ".join(map(str, values.ravel().tolist()))
    lines = textwrap.fill(numbers, 118, initial_indent="    ", subsequent_indent="    ")
    return f"{qualifier}{C_TYPES[values.dtype.name]} {name}[{values.size}] TINYSCENE_TABLE = {{\n{lines}\n}};\n"


def rescaling(real: float) -> tuple[int, int]:
    """A positive real as TFLite's multiplier and a shift to the right."""
    multiplier, exponent = quantize_multiplier(real)
    return multiplier, -exponent


def is_fast(operator: Convolution, source: Tensor) -> bool:
    """Whether the fast kernels are exact: the conditions of tinyscene_pointwise in tinyscene_kernels.h."""
    shifts = rescaling_of(operator, source).shift
    minimum, maximum = FAST_SHIFTS
    if not ((shifts >= minimum) & (shifts <= maximum)).all() or _activation_min(operator) != -128:
        return False
    if isinstance(operator, DepthwiseConv2D) and len(operator.bias) < FAST_CHANNELS:
        return False
    return bool((_largest_sums(operator, source) < FAST_SUMS).all())


def is_fast_on_hosts(operator: Convolution, source: Tensor) -> bool:
    """Whether the kernels of hosts are exact: the conditions of tinyscene_pointwise_wide in tinyscene_kernels.h."""
    rescaling = rescaling_of(operator, source)
    minimum, maximum = FAST_SHIFTS if isinstance(operator, DepthwiseConv2D) else WIDE_SHIFTS
    if not ((rescaling.shift >= minimum) & (rescaling.shift <= maximum)).all() or _activation_min(operator) != -128:
        return False
    sums = _largest_sums(operator, source) << np.maximum(-rescaling.shift, 0)
    products = (sums * rescaling.multiplier >> 31) + 1
    roundings = abs(2 * rescaling.zero_point + 1) << np.maximum(rescaling.shift - 1, 0)
    return bool((sums < 2**30).all() and (products + roundings < 2**31).all())


def _largest_sums(operator: Convolution, source: Tensor) -> NDArray[np.int64]:
    """A bound of each channel's accumulators."""
    weights = np.abs(operator.weights.astype(np.int64)).sum(operator.other_axes)
    return 128 * weights + np.abs(folded_bias(operator, source))


def folded_bias(operator: Convolution, source: Tensor) -> NDArray[np.int64]:
    """The bias minus the contribution of the input's zero point to each sum."""
    return operator.bias.astype(np.int64) - source.q.zero_point * operator.weights.astype(np.int64).sum(
        operator.other_axes
    )


def convolution_tables(
    operator: Convolution, context: CodegenContext, tables: Mapping[str, NDArray[Any]], with_scales: Sequence[str] = ()
) -> Code:
    """The tables of a convolution. `tables` has one for each set of kernels, or one of "any"; `with_scales` are those
    whose table has what rescales the sums, too."""
    floats = _floats(operator, context)
    last = f"factor_{context.number}, addend_{context.number}" if floats is not None else "NULL, NULL"
    in_floats = for_floats(last) if "simd" in context.kernels else ""
    variants: dict[str, list[str]] = {}  # C -> sets of kernels
    for kernels, values in tables.items():
        variant = _variant(operator, context, values, kernels in with_scales, in_floats)
        variants.setdefault(variant, []).append(kernels)
    text = "".join(variants)
    if len(variants) > 1:
        conditions = [
            " || ".join(f"defined(TINYSCENE_{name.upper()})" for name in names) for names in variants.values()
        ]
        text = "".join(f"#elif {each}\n{body}" for each, body in zip(conditions, variants, strict=True))
        text = f"#{text[3:]}#endif\n"
    head = f"/* {comment(operator.output.name)}: {' x '.join(map(str, operator.weights.shape))} */\n"
    if floats is not None:
        names = zip(("factor", "addend"), bits(floats), strict=True)
        arrays = "".join(array(f"{name}_{context.number}", values) for name, values in names)
        head += f"#if defined(TINYSCENE_FLOATS)\n{arrays}#endif\n"
    return Code([], head + text, f"extern const tinyscene_conv tinyscene_conv_{context.number};\n")


def _variant(
    operator: Convolution, context: CodegenContext, values: NDArray[Any], rescales: bool, in_floats: str
) -> str:
    """The tables of a convolution for some kernels; `rescales` says that `values` have what rescales sums, too."""
    number, rescaling = context.number, rescaling_of(operator, context.sources[0])
    bias = rescaling.bias.astype(np.uint64).astype(np.uint32).astype(np.int32)  # sums wrap around
    separate = {
        "bias": bias,
        "multiplier": rescaling.multiplier.astype(np.int32),
        "shift": rescaling.shift.astype(np.int8),
    }
    if rescales:
        separate = {}
    fields = [
        f"weights_{number}",
        *([f"{name}_{number}" for name in separate] or ["NULL"] * 3),
        *map(str, (operator.weights.size // len(operator.bias), len(operator.bias))),
        *map(str, (2 * rescaling.zero_point + 1, _activation_min(operator))),
    ]
    arrays = [array(f"weights_{number}", values), *(array(f"{name}_{number}", each) for name, each in separate.items())]
    return "".join([*arrays, f"const tinyscene_conv tinyscene_conv_{number} = {{{', '.join(fields)}{in_floats}}};\n"])


def for_floats(values: str) -> str:
    """The last values of a structure, for kernels that compute in float32."""
    return f"\n#if defined(TINYSCENE_FLOATS)\n    , {values}\n#endif\n"


def _floats(operator: Convolution, context: CodegenContext) -> NDArray[np.float64] | None:
    """What rescales a convolution's sums in float32, if kernels do that and it is exact."""
    source = context.sources[0]
    if "simd" not in context.kernels or not is_fast(operator, source):
        return None
    return convolution_floats(rescaling_of(operator, source), _largest_sums(operator, source))


def rescaling_of(operator: Convolution, source: Tensor) -> Rescaling:
    """What rescales a convolution's sums, with the input's zero point folded into the bias."""
    pairs = [rescaling(float(real)) for real in operator.multipliers(source)]
    multipliers, shifts = np.array(pairs, np.int64).T
    return Rescaling(folded_bias(operator, source), multipliers, shifts, operator.output.q.zero_point)


def _activation_min(operator: Convolution) -> int:
    return operator.output.q.zero_point if operator.relu else -128

"""The layers of a TFLite graph: their sizes, their parameters and how often they multiply by weights.

No size that the file declares is believed but those of its inputs and constants, of which there must be as many bytes:
the others follow from them, and must be what is declared.
"""

from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tinyscene.train.runs.free_operators import TFLITE_FREE
from tinyscene.train.runs.tflite_sizes import Operand, Size, made

COUNTED = {  # operators that multiply by weights: which of the weights' sizes are multiplied for each value
    "CONV_2D": slice(1, None),
    "DEPTHWISE_CONV_2D": slice(1, 3),
    "FULLY_CONNECTED": slice(1, None),
    "MUL": slice(0, 0),
}
Row = tuple[str, str, Size, int, int, int]  # name, operator, size of the output, parameters, MACs, MACs by NeSsi


def count_layers(model: Any, schema: Any) -> list[Row]:
    """A row for each operator of a model. Raises an error of any kind for one that cannot be counted."""
    names = {code: name for name, code in vars(schema.BuiltinOperator).items() if isinstance(code, int)}
    if len(model.subgraphs) != 1:
        raise ValueError(f"it has {len(model.subgraphs)} graphs, not one")
    graph = model.subgraphs[0]
    declared = [() if tensor.shape is None else tuple(int(size) for size in tensor.shape) for tensor in graph.tensors]
    if any(size < 1 for shape in declared for size in shape):
        raise ValueError("a tensor has a dimension below one")
    operands = _constants(model, schema, declared)
    weights = {index: operand.size for index, operand in operands.items()}
    operands |= {int(index): Operand(declared[index]) for index in graph.inputs if index not in operands}
    rows = []
    for operator in graph.operators:
        code = model.operatorCodes[operator.opcodeIndex]
        kind = names[max(code.builtinCode, code.deprecatedBuiltinCode)]
        if kind not in COUNTED and kind not in TFLITE_FREE:
            raise ValueError(f"{kind} is an operator that is not counted here")
        taken = [int(index) for index in operator.inputs if index >= 0]
        if unknown := [index for index in taken if index not in operands]:
            raise ValueError(f"{kind} takes tensor {unknown[0]}, which nothing makes before")
        sizes = made(kind, operator.builtinOptions, [operands[index] for index in taken])
        for index, size in zip(operator.outputs, sizes, strict=True):
            if size != declared[index]:
                raise ValueError(f"{kind} makes {list(size)}, and the file says {list(declared[index])}")
            operands[int(index)] = Operand(size)
        if kind == "DEQUANTIZE" and taken[0] in weights:
            weights[int(operator.outputs[0])] = sizes[0]  # counted where it is used
        macs = prod(sizes[0]) * prod(operands[taken[1]].size[COUNTED[kind]]) if kind in COUNTED else 0
        parameters = sum(prod(weights[index]) for index in taken if index in weights) if macs else 0
        name = graph.tensors[operator.outputs[0]].name
        nessi = macs + without_weights(kind, operator.builtinOptions, operands[taken[0]].size, sizes[0])
        rows.append((name.decode() if name else kind, kind, sizes[0], parameters, macs, nessi))
    return rows


def without_weights(kind: str, options: Any, source: Size, output: Size) -> int:
    """What NeSsi counts as MACs of a .tflite beside products with weights: every value that is added or averaged."""
    if kind == "AVERAGE_POOL_2D":
        return prod(output) * options.filterHeight * options.filterWidth
    return {"ADD": prod(output), "MEAN": prod(source)}.get(kind, 0)


def _constants(model: Any, schema: Any, declared: list[Size]) -> dict[int, Operand]:
    """The tensors that the file has values of, by index."""
    kinds = {code: name.lower() for name, code in vars(schema.TensorType).items() if isinstance(code, int)}
    constants = {}
    for index, tensor in enumerate(model.subgraphs[0].tensors):
        content = model.buffers[tensor.buffer].data
        if content is not None:
            constants[index] = Operand(declared[index], _values(content, declared[index], kinds[tensor.type]))
    return constants


def _values(content: Any, size: Size, kind: str) -> NDArray[Any] | None:
    """A constant's values; none where numpy has no such type. Raises ValueError where they are more or fewer."""
    try:
        values = np.asarray(content, np.uint8).view(kind)
    except TypeError:  # int4, for one
        return None
    return values.reshape(size)

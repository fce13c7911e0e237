"""Sizes of what TFLite's operators make, against LiteRT, which works them out when it loads a model."""

from pathlib import Path
from typing import Any

import flatbuffers
import numpy as np
import pytest
from ai_edge_litert import schema_py_generated as tflite
from ai_edge_litert.interpreter import Interpreter

from tinyscene.deploy.common.errors import InputError
from tinyscene.train.runs.free_operators import TFLITE_FREE
from tinyscene.train.runs.model_files import count_tflite
from tinyscene.train.runs.tflite_layers import COUNTED

IMAGE = (1, 7, 10, 6)


def conv(padding: int, stride: int, dilation: int) -> tflite.Conv2DOptionsT:
    return tflite.Conv2DOptionsT(
        padding=padding, strideH=stride, strideW=2 * stride, dilationHFactor=dilation, dilationWFactor=dilation
    )


def depthwise(padding: int, stride: int, dilation: int) -> tflite.DepthwiseConv2DOptionsT:
    return tflite.DepthwiseConv2DOptionsT(
        padding, stride, stride, depthMultiplier=2, dilationHFactor=dilation, dilationWFactor=dilation
    )


def pool(padding: int, stride: int) -> tflite.Pool2DOptionsT:
    return tflite.Pool2DOptionsT(padding, stride, stride + 1, filterWidth=3, filterHeight=2)


def strided(**masks: Any) -> tflite.StridedSliceOptionsT:
    return tflite.StridedSliceOptionsT(**masks)


SLICING = ([0, 1, 2, 0], [1, 6, -1, 5], [1, 2, 3, 2])
OPERATORS = [  # which take the image and constants: of a size (a tuple), or of values (a list)
    *(("CONV_2D", conv(*case), (4, 3, 2, 6), (4,)) for case in ((0, 1, 1), (0, 2, 1), (1, 1, 1), (1, 2, 1), (1, 1, 2))),
    *(("DEPTHWISE_CONV_2D", depthwise(*case), (1, 3, 2, 12), (12,)) for case in ((0, 2, 1), (1, 1, 1), (1, 1, 2))),
    *(("AVERAGE_POOL_2D", pool(*case)) for case in ((0, 1), (0, 2), (1, 1), (1, 3))),
    ("MAX_POOL_2D", pool(1, 2)),
    ("FULLY_CONNECTED", tflite.FullyConnectedOptionsT(), (5, 420), (5,)),
    ("FULLY_CONNECTED", tflite.FullyConnectedOptionsT(), (5, 6), (5,)),
    ("FULLY_CONNECTED", tflite.FullyConnectedOptionsT(keepNumDims=True), (5, 6), (5,)),
    ("MEAN", tflite.ReducerOptionsT(), [1, 2]),
    ("MEAN", tflite.ReducerOptionsT(keepDims=True), [-1, 1]),
    ("SUM", tflite.ReducerOptionsT(), [0, 3]),
    ("PAD", tflite.PadOptionsT(), [0, 0, 1, 2, 3, 4, 0, 0]),
    ("PADV2", tflite.PadV2OptionsT(), [0, 0, 1, 2, 3, 4, 0, 1], ()),
    ("RESHAPE", tflite.ReshapeOptionsT(), [1, -1, 6]),
    ("RESHAPE", tflite.ReshapeOptionsT(newShape=[70, -1])),
    ("SHAPE", tflite.ShapeOptionsT(outType=tflite.TensorType.INT32)),
    ("SLICE", tflite.SliceOptionsT(), [0, 1, 2, 3], [1, 4, -1, 2]),
    ("SQUEEZE", tflite.SqueezeOptionsT()),
    ("SQUEEZE", tflite.SqueezeOptionsT(squeezeDims=[-4])),
    ("STRIDED_SLICE", strided(), *SLICING),
    ("STRIDED_SLICE", strided(beginMask=2, endMask=12), *SLICING),
    ("STRIDED_SLICE", strided(shrinkAxisMask=5), *SLICING),
    ("STRIDED_SLICE", strided(newAxisMask=2), *SLICING),
    ("STRIDED_SLICE", strided(ellipsisMask=2), [0, 0, 1], [1, 0, 4], [1, 1, 1]),
    ("STRIDED_SLICE", strided(), [0, -1, 2, 0], [1, 0, 9, 5], [1, -2, 1, 2]),
    ("TRANSPOSE", tflite.TransposeOptionsT(), [0, 3, 1, 2]),
    ("CONCATENATION", tflite.ConcatenationOptionsT(axis=2), (1, 7, 4, 6), (1, 7, 1, 6)),
    ("CONCATENATION", tflite.ConcatenationOptionsT(axis=-1), (1, 7, 10, 2)),
    ("SPLIT", tflite.SplitOptionsT(numSplits=3), [3]),
    ("ADD", tflite.AddOptionsT(), (6,)),
    ("SUB", tflite.SubOptionsT(), (3, 7, 1, 6)),
    ("MUL", tflite.MulOptionsT(), (7, 1, 1)),
    ("MAXIMUM", tflite.MaximumMinimumOptionsT(), (1, 6)),
    ("MINIMUM", tflite.MaximumMinimumOptionsT(), (1, 7, 10, 6)),
    ("PRELU", None, (1, 1, 6)),
    ("SOFTMAX", tflite.SoftmaxOptionsT(1.0)),
    *((kind, None) for kind in ("HARD_SWISH", "LOGISTIC", "LOG_SOFTMAX", "RELU", "RELU6", "TANH")),
    ("LEAKY_RELU", tflite.LeakyReluOptionsT(0.1)),
]


def write(path: Path, case: tuple[Any, ...], outputs: list[tuple[int, ...]]) -> Path:
    """A model of one operator, which declares these outputs."""
    kind, options, *constants = case
    types, tensors, buffers = tflite.TensorType, [tflite.TensorT(list(IMAGE), 0, 0, b"image")], [tflite.BufferT()]
    for constant in constants:
        is_size = isinstance(constant, tuple)
        values = np.ones(constant, np.float32) if is_size else np.array(constant, np.int32)
        if kind.startswith("PAD") and not is_size:
            values = values.reshape(4, 2)
        if kind == "SPLIT":
            values = values.reshape(())
        buffers.append(tflite.BufferT(np.frombuffer(values.tobytes(), np.uint8)))
        tensors.append(
            tflite.TensorT(list(values.shape), types.FLOAT32 if is_size else types.INT32, len(buffers) - 1, b"constant")
        )
    taken = list(range(len(tensors)))
    if kind == "SPLIT":
        taken.reverse()
    made = list(range(len(tensors), len(tensors) + len(outputs)))
    out_type = types.INT32 if kind == "SHAPE" else types.FLOAT32
    tensors += [tflite.TensorT(list(size), out_type, 0, b"made") for size in outputs]
    name = type(options).__name__.removesuffix("T")
    number = getattr(tflite.BuiltinOperator, kind)
    made_by = tflite.OperatorT(0, taken, made, getattr(tflite.BuiltinOptions, name) if options else 0, options)
    graph = tflite.SubGraphT(tensors, [0], made, [made_by])
    code = tflite.OperatorCodeT(min(number, 127), builtinCode=number)
    builder = flatbuffers.Builder()
    builder.Finish(tflite.ModelT(3, [code], [graph], buffers=buffers).Pack(builder), b"TFL3")
    path.write_bytes(builder.Output())
    return path


@pytest.mark.parametrize("case", OPERATORS, ids=[f"{number} {case[0]}" for number, case in enumerate(OPERATORS)])
def test_an_operator_makes_what_litert_makes_of_it(case: tuple[Any, ...], tmp_path: Path) -> None:
    count = 3 if case[0] == "SPLIT" else 1
    interpreter = Interpreter(model_path=str(write(tmp_path / "unsaid.tflite", case, [()] * count)))
    interpreter.allocate_tensors()
    made = [tuple(detail["shape"].tolist()) for detail in interpreter.get_output_details()]
    (layer,) = count_tflite(write(tmp_path / "said.tflite", case, made)).layers
    assert layer.output == made[0]
    other = [*made[:-1], (*made[-1], 2)]
    with pytest.raises(InputError, match=r"makes .* and the file says"):
        count_tflite(write(tmp_path / "other.tflite", case, other))


def test_every_operator_that_is_counted_is_compared() -> None:
    quantizing = {"DEQUANTIZE", "QUANTIZE"}  # which a model of ours has (test_hostile_models.py)
    assert {case[0] for case in OPERATORS} | quantizing == TFLITE_FREE | COUNTED.keys()

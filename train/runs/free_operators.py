"""Operators of exported models that multiply by no weights. What is neither here nor counted is refused."""

_ONNX = """
    Abs Add AveragePool BatchNormalization Cast Ceil Clip Concat Constant ConstantOfShape DequantizeLinear Div Dropout
    Elu Erf Exp Expand Flatten Floor Gather GlobalAveragePool GlobalMaxPool HardSigmoid HardSwish Identity
    LayerNormalization LeakyRelu Log LogSoftmax Max MaxPool Min Neg PRelu Pad Pow QuantizeLinear Range Reciprocal
    ReduceMax ReduceMean ReduceSum Relu Reshape Round Shape Sigmoid Sign Slice Softmax Softplus Split Sqrt Squeeze Sub
    Tanh Tile Transpose Unsqueeze Where
"""
_TFLITE = """
    ADD AVERAGE_POOL_2D CONCATENATION DEQUANTIZE HARD_SWISH LEAKY_RELU LOGISTIC LOG_SOFTMAX MAXIMUM MAX_POOL_2D MEAN
    MINIMUM PAD PADV2 PRELU QUANTIZE RELU RELU6 RESHAPE SHAPE SLICE SOFTMAX SPLIT SQUEEZE STRIDED_SLICE SUB SUM TANH
    TRANSPOSE
"""
ONNX_FREE = frozenset(_ONNX.split())
TFLITE_FREE = frozenset(_TFLITE.split())

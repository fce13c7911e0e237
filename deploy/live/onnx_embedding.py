"""The embedding of an ONNX model: what its classifier takes, the last layer with weights, averaged over places."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tinyscene.deploy.bundle.runners import onnx_session
from tinyscene.deploy.common.errors import InputError
from tinyscene.deploy.common.installation import missing

CLASSIFIERS = ("Conv", "Gemm", "MatMul")


def onnx_embedder(model: Path) -> Callable[[NDArray[np.float32]], NDArray[np.float32]]:
    """A function of log-mel (batch, 1, mel, frame) -> embeddings (batch, channels). Needs `onnx`, to change the model.

    Raises InputError for a model without a classifier.
    """
    try:
        import onnx
        import onnxruntime
    except ImportError:
        raise missing("onnx", "onnx") from None
    content = onnx.load_model_from_string(model.read_bytes())
    layers = [node for node in content.graph.node if node.op_type in CLASSIFIERS]
    inputs = {value.name for value in content.graph.input}
    if not layers or layers[-1].input[0] in inputs:
        raise InputError(f"{model}: has no layer before its classifier, and so no embedding")
    taken = layers[-1].input[0]
    content.graph.output.append(onnx.ValueInfoProto(name=taken))
    session = onnx_session(onnxruntime, content.SerializeToString())
    source = session.get_inputs()[0].name

    def embed(features: NDArray[np.float32]) -> NDArray[np.float32]:
        values = np.asarray(session.run([taken], {source: features})[0])  # (batch, channels, ...)
        return values.reshape(*values.shape[:2], -1).mean(2, dtype=np.float64).astype(np.float32)

    return embed

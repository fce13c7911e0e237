"""The formats a bundle is exported to, each written afresh from its checked graphs.

content = export(bundle, "tflite")
bundle.add_export("tflite", content)
"""

from tinyscene.deploy.bundle.bundle import Bundle
from tinyscene.deploy.bundle.index import EXPORTS
from tinyscene.deploy.common.errors import InputError


def export(bundle: Bundle, kind: str, small: bool = False, batch: int | None = None) -> bytes:
    """The bytes of an export. `small` is of .tflite: without what only hosts need; `batch` of .onnx, else free."""
    if kind not in EXPORTS:
        raise InputError(f"--to {kind}: known are {', '.join(EXPORTS)}")
    graph = bundle.graph if kind in ("tflite", "onnx-int8") else bundle.float_graph
    if kind.startswith("tflite"):
        from tinyscene.deploy.graph.tflite_writer import write_tflite

        return write_tflite(graph, bundle.metadata, small)
    from tinyscene.deploy.graph.onnx_writer import write_onnx

    return write_onnx(graph, bundle.metadata, batch)

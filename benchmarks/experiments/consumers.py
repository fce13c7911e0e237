"""Exports as other projects' readers compute them: the largest difference from the reference.

    python -m tinyscene.benchmarks.experiments.consumers BUNDLE     # writes benchmarks/results/consumers.json

Each reader that is installed (extra `consumers`) runs each of its formats on the golden sounds. Differences of float
files are of the logits in float, those of int8 files are steps of the logits: readers in QDQ form round otherwise than
TFLite.
"""

import importlib
import importlib.metadata
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from numpy.typing import NDArray

from tinyscene.benchmarks.experiments.results import Out, write_result
from tinyscene.deploy.bundle.bundle import Bundle, open_bundle
from tinyscene.deploy.bundle.exports import export
from tinyscene.deploy.bundle.index import EXPORTS
from tinyscene.deploy.common.command_line import run_command_line
from tinyscene.deploy.common.files import temporary_folder
from tinyscene.deploy.graph.reference import run

Values = NDArray[Any]
Read = Callable[[Any, Path, Values], Values]  # module, file, input (batch, ...) -> logits (batch, classes)


def openvino(module: Any, file: Path, values: Values) -> Values:
    compiled = module.Core().compile_model(str(file), "CPU")
    one_by_one = [next(iter(compiled(values[index : index + 1]).values())) for index in range(len(values))]
    return np.concatenate(one_by_one)


def tract(module: Any, file: Path, values: Values) -> Values:
    return module.onnx().load(str(file)).into_model().into_runnable().run([values])[0].to_numpy()


def onnx_reference(module: Any, file: Path, values: Values) -> Values:
    evaluator = module.ReferenceEvaluator(str(file))
    return evaluator.run(None, {evaluator.input_names[0]: values})[0]


def onnxslim(module: Any, file: Path, values: Values) -> Values:
    """The simplified file, by ONNX Runtime."""
    import onnxruntime

    content = module.slim(str(file)).SerializeToString()
    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    return np.asarray(session.run(None, {session.get_inputs()[0].name: values})[0])


READERS: dict[str, tuple[str, tuple[str, ...], Read]] = {  # package -> module, formats
    "openvino": ("openvino", ("tflite", "tflite-float", "onnx", "onnx-int8"), openvino),
    "tract": ("tract", ("onnx", "onnx-int8"), tract),
    "onnx": ("onnx.reference", ("onnx", "onnx-int8"), onnx_reference),
    "onnxslim": ("onnxslim", ("onnx", "onnx-int8"), onnxslim),
}


def difference(bundle: Bundle, package: str, kind: str) -> float:
    """The largest difference of a reader's logits from the reference's, on the golden sounds.

    Raises ImportError where the reader is not installed.
    """
    module, _, read = READERS[package]
    reader = importlib.import_module(module)
    graph = bundle.graph if kind in ("tflite", "onnx-int8") else bundle.float_graph
    features = bundle.vectors.features.reshape(-1, *bundle.graph.input.shape[1:])  # (batch, mel, frame, 1)
    values = features if graph.is_integer else bundle.graph.input.q.dequantize(features)
    expected = run(graph, values)
    if kind.startswith("onnx"):
        values = np.ascontiguousarray(values.transpose(0, 3, 1, 2))  # (batch, 1, mel, frame)
    with temporary_folder() as folder:
        file = folder / EXPORTS[kind]
        file.write_bytes(export(bundle, kind))
        found = read(reader, file, values)
    return float(np.abs(found.astype(np.float64).reshape(expected.shape) - expected).max())


def main(
    folder: Annotated[Path, typer.Argument(metavar="BUNDLE", help="A bundle.")],
    out: Out = Path("benchmarks/results/consumers.json"),
) -> None:
    """Run every reader that is installed and write the table."""
    bundle, rows = open_bundle(folder), []
    for package, (module, kinds, _) in READERS.items():
        try:
            importlib.import_module(module)
        except ImportError:
            typer.echo(f"{package} is not installed and left out", err=True)
            continue
        version = importlib.metadata.version(package)
        for kind in kinds:
            rows.append({"package": package, "version": version, "format": kind})
            rows[-1]["difference"] = difference(bundle, package, kind)
            typer.echo(f"{package} {version}, {kind}: {rows[-1]['difference']:.2g}")
    write_result(out, {"bundle": str(folder), "sounds": len(bundle.vectors.pcm), "rows": rows})


if __name__ == "__main__":
    run_command_line(main)

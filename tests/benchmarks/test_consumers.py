"""Exports in the hands of other projects' readers."""

import pytest

from tinyscene.benchmarks.experiments.consumers import READERS, difference
from tinyscene.deploy.bundle.bundle import Bundle

MOST = {"tflite": 8, "onnx-int8": 8, "tflite-float": 1e-3, "onnx": 1e-3}  # steps of the logits, or logits


@pytest.mark.slow
@pytest.mark.parametrize(
    ("package", "kind"), [(package, kind) for package, (_, kinds, _) in READERS.items() for kind in kinds]
)
def test_a_reader_takes_the_file_and_comes_near_the_reference(bundle: Bundle, package: str, kind: str) -> None:
    pytest.importorskip(READERS[package][0], reason=f"{package} is not installed")
    assert difference(bundle, package, kind) <= MOST[kind]

"""Opening a model: a bundle, a run folder or an exported .onnx file, as a scene classifier."""

import os
from importlib.util import find_spec

from tinyscene.deploy.bundle.bundle import open_bundle
from tinyscene.deploy.bundle.index import INDEX
from tinyscene.deploy.common.errors import InputError
from tinyscene.deploy.common.files import cache_folder, sha256
from tinyscene.deploy.live.classifier import OnnxClassifier, SceneClassifier, open_classifier
from tinyscene.interface.names import find_model


def load(model: "str | os.PathLike[str]", runner: str | None = None, device: str | None = None) -> SceneClassifier:
    """A classifier from a bundle, the name of a packaged model, a run folder or an exported .onnx file.

    A bundle is run by `runner`: reference (what a device computes), native (the firmware's C, compiled for this
    machine once, with the same results), litert, tflite-runtime or onnxruntime; by default native where a C compiler is
    installed, otherwise reference. A run is exported to ONNX first if it has not been since its
    weights changed, which needs the extras `train` and `onnx`; an exported one needs only ONNX Runtime. `device`
    names what records: a bundle's variant for it is used, or the general network where it has none. Raises
    InputError if the model cannot be used.
    """
    path = find_model(model)
    if (path / INDEX).exists():
        bundle = open_bundle(path)
        return open_classifier(bundle if device is None else bundle.variant(device), runner)
    if device is not None:
        raise InputError(f"--device {device}: {path} is no bundle; name the device's own run, RUN/devices/DEVICE")
    if runner not in (None, "reference", "onnxruntime"):
        raise InputError(f"--runner {runner}: {path} is no bundle and is run by ONNX Runtime; see `tinyscene quantize`")
    if path.suffix == ".onnx":
        return OnnxClassifier(path)
    exported, weights = path / "model.onnx", path / "model.safetensors"
    if not weights.is_file() and not exported.is_file():
        raise InputError(f"{path}: neither a bundle, nor a finished run, nor an .onnx file")
    cached = cache_folder() / "exports" / f"{sha256(weights)}.onnx" if weights.is_file() else exported
    for candidate in (exported, cached):
        if candidate.is_file():
            classifier = OnnxClassifier(candidate)
            if not weights.is_file() or classifier.metadata.get("weights_sha256") == sha256(weights):
                return classifier
    if find_spec("torch") is None:
        raise InputError(
            f"{path}: has no ONNX export of its weights; run `tinyscene export {path}` where torch is installed"
        )
    from tinyscene.train.export import export_onnx

    try:
        return OnnxClassifier(export_onnx(path, allow_over_budget=True))
    except OSError:  # a run where nothing can be written
        return OnnxClassifier(export_onnx(path, cached, allow_over_budget=True))

"""tinyscene: acoustic scene classification on a microcontroller, from recordings to a model.

    tinyscene sample   data/sample                                         # a synthetic dataset to try
    tinyscene prepare  data/sample                                         # decode and resample once
    tinyscene train    baseline --data data/sample --split 25 --out runs/first
    tinyscene evaluate runs/first --data data/sample
    tinyscene budget   baseline                                            # or a run, or a model file
    tinyscene quantize runs/first --data data/sample --out bundles/first   # integers only; --qat to fine-tune
    tinyscene export   bundles/first --to tflite,onnx,onnx-int8            # or a run, --to onnx
    tinyscene verify   bundles/first                                       # every runtime against the reference
    tinyscene inspect  bundles/first                                       # layers, scales, bytes and errors
    tinyscene classify bundles/first some.wav more/*.flac                  # or a run, or an .onnx file
    tinyscene listen   bundles/first                                       # the sound card, on the terminal
    tinyscene firmware bundles/first --out fw                              # C99, or a --package of it
    tinyscene emulate  bundles/first --target cortex-m4,riscv32            # bit for bit, with instruction counts
    tinyscene web      bundles/first --out site                            # a page: microphone and files, in a browser
    tinyscene bench    bundles/first                                       # latency beside peers, instructions, RAM
    tinyscene teach    cp_resnet --data data/sample --split 25 --out teachers/first        # no budget; or passt, ast
    tinyscene logits   teachers/first --data data/sample --split 25 --out logits/25.safetensors
    tinyscene adapt    runs/first --data data/sample --out runs/devices    # a network for each recording device
    tinyscene prune    runs/first --data data/sample --to-macs 11e6 --out runs/pruned
    tinyscene adapt    runs/first --data data/sample --out runs/by-device  # a variant for each known device
    tinyscene sweep    data_efficient --data data/sample --out sweeps/one  # splits x seeds x recipes; --ray auto
    tinyscene report   bundles/* sweeps/* --out report                     # HTML, Markdown and JSON
    tinyscene import   weights.safetensors --recipe baseline --out runs/imported
    tinyscene models                                                       # what comes along, and what can be fetched
    tinyscene push     bundles/first hf://user/name                        # then: classify hf://user/name@revision
    tinyscene pull     dcase2025-baseline --out runs/published             # from its authors

In Python:

    import tinyscene
    scene = tinyscene.load("bundles/first")     # device="s1": its variant, where the bundle has one
    scene.classify("some.wav")                  # scores by label, for each second
    stream = scene.stream(sample_rate=32000)
    stream.push(samples)                        # a decision for each second that is complete

Every command takes --json and then prints one JSON object or list on stdout; messages go to stderr.
Exit codes: 0 done, 1 runs of a sweep failed, 2 bad input, 3 over budget, 4 not verified, 130 interrupted.
"""

import sys
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tinyscene.deploy.common.errors import InputError, TinysceneError
    from tinyscene.deploy.frontend.log_mel import FrontEnd
    from tinyscene.deploy.live.classifier import SceneClassifier
    from tinyscene.interface.bundle import Bundle
    from tinyscene.interface.catalogue import pull
    from tinyscene.interface.datasets import DatasetOptions, prepare, sample
    from tinyscene.interface.evaluation import evaluate
    from tinyscene.interface.quantization import quantize
    from tinyscene.interface.reporting import report
    from tinyscene.interface.run import Run
    from tinyscene.interface.training import budget, import_weights, logits, probe, prune, recipes, sweep, train
    from tinyscene.models import load

__all__ = [
    "Bundle",
    "DatasetOptions",
    "FrontEnd",
    "InputError",
    "Run",
    "SceneClassifier",
    "TinysceneError",
    "budget",
    "evaluate",
    "import_weights",
    "load",
    "logits",
    "prepare",
    "probe",
    "prune",
    "pull",
    "quantize",
    "recipes",
    "report",
    "sample",
    "sweep",
    "train",
]

_MODULES = {
    "Bundle": "tinyscene.interface.bundle",
    "DatasetOptions": "tinyscene.interface.datasets",
    "FrontEnd": "tinyscene.deploy.frontend.log_mel",
    "InputError": "tinyscene.deploy.common.errors",
    "Run": "tinyscene.interface.run",
    "SceneClassifier": "tinyscene.deploy.live.classifier",
    "TinysceneError": "tinyscene.deploy.common.errors",
    "evaluate": "tinyscene.interface.evaluation",
    "load": "tinyscene.models",
    "prepare": "tinyscene.interface.datasets",
    "pull": "tinyscene.interface.catalogue",
    "quantize": "tinyscene.interface.quantization",
    "report": "tinyscene.interface.reporting",
    "sample": "tinyscene.interface.datasets",
    **dict.fromkeys(
        ("budget", "import_weights", "logits", "probe", "prune", "recipes", "sweep"), "tinyscene.interface.training"
    ),
}


def __getattr__(name: str) -> Any:
    if name == "train":
        return import_module("tinyscene.train")
    if name not in _MODULES:
        raise AttributeError(f"module 'tinyscene' has no attribute {name!r}")
    return getattr(import_module(_MODULES[name]), name)


def __dir__() -> list[str]:
    return __all__


class _TrainPackage(ModuleType):
    """`tinyscene.train` is both a package and the call that trains."""

    def __call__(self, *arguments: Any, **options: Any) -> Any:
        return import_module("tinyscene.interface.training").train(*arguments, **options)

    @property
    def __signature__(self) -> Any:  # what a notebook shows of the call
        return import_module("inspect").signature(import_module("tinyscene.interface.training").train)


class _Package(ModuleType):
    def __setattr__(self, name: str, value: Any) -> None:
        if name == "train" and isinstance(value, ModuleType):  # by the import system
            value.__class__ = _TrainPackage
        super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package

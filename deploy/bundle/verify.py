"""Verification of a bundle: every runtime that is installed against the reference, on the same int8 features.

    result = verify(open_bundle(folder), clips)

Runtimes with TFLite's reference kernels must equal the reference bit for bit. XNNPACK and ONNX Runtime round
differently; for them the difference is reported. The golden vectors are compared with the values computed now, and
the exports in the bundle with the files that the writers produce now.
"""

from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tinyscene.deploy.bundle.bundle import EXPORTS, Bundle
from tinyscene.deploy.bundle.exports import export
from tinyscene.deploy.bundle.golden import make_vectors
from tinyscene.deploy.bundle.runners import Invoke, make_runner
from tinyscene.deploy.common.errors import InputError, TinysceneError
from tinyscene.deploy.common.installation import MissingPackageError
from tinyscene.deploy.frontend.log_mel import float_pcm
from tinyscene.deploy.graph.reference import run

BATCH = 16  # clips
EXACT = {  # key of the result -> runner that must equal the reference
    "litert_reference_equal": "litert-reference",
    "tflite_runtime_reference_equal": "tflite-runtime-reference",
    "tflite_micro_equal": "tflite-micro",
}
NEAR = {"xnnpack": "litert", "onnxruntime": "onnxruntime"}  # prefix of the keys -> runner


class VerificationError(TinysceneError):
    """A runtime or a file that does not agree with the reference (exit code 4)."""

    exit_code = 4


@dataclass(frozen=True)
class Comparison:
    """The logits of a runner compared with the reference's; what does not apply is none."""

    max_lsb: int | None = None
    equal: float | None = None  # share of the logits
    mean_error: float | None = None  # of real logits
    same_scene: float | None = None  # share of the clips
    accuracy: float | None = None  # of the clips whose true class is known
    missing: str | None = None  # why the runner is not there
    failed: str | None = None  # why it could not run the bundle

    def as_dict(self) -> dict[str, Any]:
        return {key: value for key, value in asdict(self).items() if value is not None}


@dataclass(frozen=True)
class Verification:
    """The result of `verify`."""

    bundle: str
    clips: int
    golden_equal: bool
    exports: dict[str, bool]  # kind -> whether the file in the bundle is the one that is written now
    runners: dict[str, Comparison]

    def is_equal(self, runner: str) -> bool | None:
        """Whether a runner equals the reference bit for bit; none where it is missing."""
        return None if self.runners[runner].missing else self.runners[runner].max_lsb == 0

    def as_dict(self) -> dict[str, Any]:
        """The result as JSON: the runners, and the figures of EXACT and NEAR under keys of their own."""
        exact = {key: self.is_equal(runner) for key, runner in EXACT.items()}
        near = {
            f"{prefix}_{figure}": getattr(self.runners[runner], figure)
            for prefix, runner in NEAR.items()
            for figure in ("max_lsb", "equal", "same_scene")
        }
        return {
            "bundle": self.bundle,
            "clips": self.clips,
            **exact,
            **near,
            "golden_equal": self.golden_equal,
            "exports": self.exports,
            "runners": {name: row.as_dict() for name, row in self.runners.items()},
        }

    def require(self) -> None:
        """Raise VerificationError if anything that must agree does not. A missing runtime is no disagreement."""
        for row in self.runners.values():
            if row.failed:
                raise VerificationError(row.failed)
        wrong = [runner for runner in EXACT.values() if self.is_equal(runner) is False]
        wrong += [] if self.golden_equal else ["the golden vectors"]
        wrong += [f"the export {kind}" for kind, equal in self.exports.items() if not equal]
        if wrong:
            raise VerificationError(f"{self.bundle}: {' and '.join(wrong)} differ from the reference")


def verify(bundle: Bundle, pcm: NDArray[np.int16], truth: NDArray[np.integer[Any]] | None = None) -> Verification:
    """Compare every runtime with the reference on the golden clips and on more clips (batch, samples).

    With the true classes (batch,) of the latter, their accuracy is measured too. The runner `float` is the float graph
    on float features, on the clips given if there are any.
    """
    clips = np.concatenate([bundle.vectors.pcm, pcm])
    features = np.concatenate([bundle.features(part) for part in _batches(clips)])
    expected = _invoke(lambda part: run(bundle.graph, part), features)
    given = slice(len(bundle.vectors.pcm), None)
    runners = {}
    for name in (*EXACT.values(), *NEAR.values(), "tflite-runtime"):
        try:
            logits = _invoke(make_runner(name, bundle), features)
        except MissingPackageError as error:
            runners[name] = Comparison(missing=str(error))
        except InputError as error:
            runners[name] = Comparison(failed=str(error))
        else:
            runners[name] = replace(_compare(logits, expected), accuracy=_accuracy(logits[given], truth))
    runners["reference"] = replace(_compare(expected, expected), accuracy=_accuracy(expected[given], truth))
    scenes = given if len(pcm) else slice(None)  # the golden sounds are no scenes; they are used if there is no other
    runners["float"] = _compare_float(bundle, clips[scenes], expected[scenes], truth)
    golden_equal = make_vectors(bundle.front_end, bundle.graph).to_bytes() == bundle.vectors.to_bytes()
    return Verification(str(bundle.folder), len(clips), golden_equal, _exports(bundle), runners)


def _invoke(invoke: Invoke, features: NDArray[np.int8]) -> NDArray[np.int8]:
    return np.concatenate([invoke(part) for part in _batches(features)])


def _batches(values: NDArray[Any]) -> list[NDArray[Any]]:
    return [values[start : start + BATCH] for start in range(0, len(values), BATCH)]


def _compare(logits: NDArray[np.int8], expected: NDArray[np.int8]) -> Comparison:
    difference = np.abs(logits.astype(int) - expected)
    return Comparison(
        max_lsb=int(difference.max()),
        equal=float((difference == 0).mean()),
        same_scene=float((logits.argmax(1) == expected.argmax(1)).mean()),
    )


def _compare_float(
    bundle: Bundle, pcm: NDArray[np.int16], expected: NDArray[np.int8], truth: NDArray[np.integer[Any]] | None
) -> Comparison:
    parts = (bundle.front_end.log_mel(float_pcm(part))[..., None] for part in _batches(pcm))
    logits = np.concatenate([run(bundle.float_graph, part) for part in parts])
    return Comparison(
        mean_error=float(np.abs(bundle.graph.output.q.dequantize(expected) - logits).mean()),
        same_scene=float((logits.argmax(1) == expected.argmax(1)).mean()),
        accuracy=_accuracy(logits, truth),
    )


def _accuracy(logits: NDArray[Any], truth: NDArray[np.integer[Any]] | None) -> float | None:
    return None if truth is None else float((logits.argmax(1) == truth).mean())


def _exports(bundle: Bundle) -> dict[str, bool]:
    """Whether each export in the bundle is what its writer writes of the graph now, in full or not."""
    stored = {kind: content for kind in EXPORTS if (content := bundle.exported(kind)) is not None}
    return {
        kind: content in (export(bundle, kind), export(bundle, kind, full=True)) for kind, content in stored.items()
    }

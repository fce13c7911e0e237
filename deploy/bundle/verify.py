"""Verification of a bundle: every runtime that is installed against the reference, on the same int8 features.

    result = verify(open_bundle(folder), clips)

Runtimes with TFLite's reference kernels must equal the reference to the bit. XNNPACK and ONNX Runtime round
otherwise, so of them it is said how far they are. Whatever else there is to compare is compared too: the golden
vectors with what is computed now, and the exports in the bundle with what the writers write now.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from tinyscene.deploy.bundle.bundle import EXPORTS, Bundle
from tinyscene.deploy.bundle.exports import export
from tinyscene.deploy.bundle.golden import make_vectors
from tinyscene.deploy.bundle.runners import Invoke, MissingRuntimeError, make_runner
from tinyscene.deploy.common.errors import InputError, TinysceneError
from tinyscene.deploy.frontend.log_mel import PCM_SCALE
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


def verify(bundle: Bundle, pcm: NDArray[np.int16], truth: NDArray[np.integer[Any]] | None = None) -> dict[str, Any]:
    """Compare everything with the reference on the golden clips and on more clips (batch, samples).

    With the true classes of the latter (batch,) accuracies are given too, of these clips alone.

    Returns: the keys of EXACT (true, false, or none where the runtime is missing), for each prefix of NEAR
    `_max_lsb` and `_equal` (share of equal logits) and `_same_scene`, golden_equal, exports (kind -> equal),
    clips, and runners: name -> the same figures, or why it is `missing` or `failed`. The runner `float` is the float
    graph on float features, on the clips given if there are any.
    """
    everything = np.concatenate([bundle.vectors.pcm, pcm])
    features = np.concatenate([bundle.features(part) for part in _batches(everything)])
    expected = _invoke(lambda part: run(bundle.graph, part), features)
    more = slice(len(bundle.vectors.pcm), None)
    runners: dict[str, dict[str, Any]] = {}
    for name in (*EXACT.values(), *NEAR.values(), "tflite-runtime"):
        try:
            logits = _invoke(make_runner(name, bundle), features)
        except MissingRuntimeError as error:
            runners[name] = {"missing": str(error)}
            continue
        except InputError as error:
            runners[name] = {"failed": str(error)}
            continue
        runners[name] = _compare(logits, expected) | _accuracy(logits[more], truth)
    runners["reference"] = _compare(expected, expected) | _accuracy(expected[more], truth)
    judged = more if len(pcm) else slice(None)  # test sounds are no scenes, if there is anything better
    runners["float"] = _compare_float(bundle, everything[judged], expected[judged], truth)
    vectors = make_vectors(bundle.front_end, bundle.graph)
    result: dict[str, Any] = {"bundle": str(bundle.folder), "clips": len(everything)}
    for key, name in EXACT.items():
        result[key] = None if "missing" in runners[name] else runners[name].get("max_lsb") == 0
    for prefix, name in NEAR.items():
        for figure in ("max_lsb", "equal", "same_scene"):
            result[f"{prefix}_{figure}"] = runners[name].get(figure)
    result["golden_equal"] = vectors.to_bytes() == bundle.vectors.to_bytes()
    result["exports"] = _exports(bundle)
    return result | {"runners": runners}


def require(result: dict[str, Any]) -> None:
    """Raise VerificationError if anything that must agree does not. What is missing is no disagreement."""
    failed = [name for name, row in result["runners"].items() if "failed" in row]
    if failed:
        raise VerificationError(result["runners"][failed[0]]["failed"])
    wrong = [name for key, name in EXACT.items() if result[key] is False]
    wrong += [] if result["golden_equal"] else ["the golden vectors"]
    wrong += [f"the export {kind}" for kind, equal in result["exports"].items() if not equal]
    if wrong:
        raise VerificationError(f"{result['bundle']}: {' and '.join(wrong)} differ from the reference")


def _invoke(invoke: Invoke, features: NDArray[np.int8]) -> NDArray[np.int8]:
    return np.concatenate([invoke(part) for part in _batches(features)])


def _batches(values: NDArray[Any]) -> list[NDArray[Any]]:
    return [values[start : start + BATCH] for start in range(0, len(values), BATCH)]


def _compare(logits: NDArray[np.int8], expected: NDArray[np.int8]) -> dict[str, Any]:
    difference = np.abs(logits.astype(int) - expected)
    return {
        "max_lsb": int(difference.max()),
        "equal": float((difference == 0).mean()),
        "same_scene": float((logits.argmax(1) == expected.argmax(1)).mean()),
    }


def _compare_float(
    bundle: Bundle, pcm: NDArray[np.int16], expected: NDArray[np.int8], truth: NDArray[np.integer[Any]] | None
) -> dict[str, Any]:
    parts = (bundle.front_end.log_mel(part / PCM_SCALE)[..., None] for part in _batches(pcm))
    logits = np.concatenate([run(bundle.float_graph, part) for part in parts])
    error = np.abs(bundle.graph.output.q.dequantize(expected) - logits)
    same = float((logits.argmax(1) == expected.argmax(1)).mean())
    return {"mean_error": float(error.mean()), "same_scene": same} | _accuracy(logits, truth)


def _accuracy(logits: NDArray[Any], truth: NDArray[np.integer[Any]] | None) -> dict[str, float]:
    return {} if truth is None else {"accuracy": float((logits.argmax(1) == truth).mean())}


def _exports(bundle: Bundle) -> dict[str, bool]:
    """Whether each export in the bundle is what its writer writes of the graph now, in full or not."""
    found = {kind: content for kind in EXPORTS if (content := bundle.exported(kind)) is not None}
    return {kind: content in (export(bundle, kind), export(bundle, kind, full=True)) for kind, content in found.items()}

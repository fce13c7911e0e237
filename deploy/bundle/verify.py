"""Verification of a bundle: every runtime that is installed against the reference, on the same int8 features.

    result = verify(open_bundle(folder), clips)

Runtimes with TFLite's reference kernels must equal the reference bit for bit. XNNPACK and ONNX Runtime round
differently; for them the difference is reported. The golden vectors are compared with the values computed now, and
the exports in the bundle with the files that the writers produce now.
"""

from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from itertools import islice
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tinyscene.deploy.bundle.bundle import Bundle
from tinyscene.deploy.bundle.exports import export
from tinyscene.deploy.bundle.golden import make_vectors
from tinyscene.deploy.bundle.index import EXPORTS
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


@dataclass
class _Totals:
    """Sums over the clips of the logits of a runner compared with the reference's."""

    clips: int = 0
    logits: int = 0
    max_lsb: int = 0
    equal: int = 0  # logits
    error: float = 0.0  # of real logits
    same_scene: int = 0  # clips
    right: int = 0  # clips

    def add(self, logits: NDArray[Any], expected: NDArray[np.int8], truth: NDArray[np.integer[Any]] | None) -> None:
        """Logits (batch, classes), the reference's, and the true classes (batch,) if they are known."""
        self.clips += len(logits)
        self.logits += logits.size
        self.same_scene += int((logits.argmax(1) == expected.argmax(1)).sum())
        if truth is not None:
            self.right += int((logits.argmax(1) == truth).sum())

    def add_int8(self, logits: NDArray[np.int8], expected: NDArray[np.int8]) -> None:
        difference = np.abs(logits.astype(int) - expected)
        self.max_lsb = max(self.max_lsb, int(difference.max()))
        self.equal += int((difference == 0).sum())


def verify(
    bundle: Bundle, pcm: Iterable[NDArray[np.int16]], truth: NDArray[np.integer[Any]] | None = None
) -> Verification:
    """Compare every runtime with the reference on the golden clips and on more clips, each (samples,).

    The clips are taken as they come, a batch in memory at a time. With their true classes (clip,), their accuracy is
    measured too. The runner `float` is the float graph on float features, on the clips given if there are any.
    """
    vectors = bundle.vectors  # read first: what cannot be read is refused before any runtime says something
    runners, rows = _make_runners(bundle)
    golden = _compare(bundle, runners, rows, vectors.pcm, None)
    on_clips = _compare(bundle, runners, rows, pcm, truth)
    known = on_clips if truth is not None and len(truth) else None
    for name in runners:
        if name not in rows:
            rows[name] = _comparison(golden[name], on_clips[name], known[name] if known else None)
    rows["reference"] = _comparison(golden["reference"], on_clips["reference"], known["reference"] if known else None)
    scenes = on_clips["float"] if on_clips["float"].clips else golden["float"]  # golden sounds are no scenes
    rows["float"] = Comparison(
        mean_error=scenes.error / scenes.logits,
        same_scene=scenes.same_scene / scenes.clips,
        accuracy=known["float"].right / known["float"].clips if known else None,
    )
    order = (*EXACT.values(), *NEAR.values(), "tflite-runtime", "reference", "float")
    golden_equal = make_vectors(bundle.front_end, bundle.graph).to_bytes() == vectors.to_bytes()
    clips = golden["reference"].clips + on_clips["reference"].clips
    return Verification(str(bundle.folder), clips, golden_equal, _exports(bundle), {name: rows[name] for name in order})


def _make_runners(bundle: Bundle) -> tuple[dict[str, Invoke], dict[str, Comparison]]:
    """The runners that can be made, and for each of the others why not."""
    runners: dict[str, Invoke] = {}
    rows: dict[str, Comparison] = {}
    for name in (*EXACT.values(), *NEAR.values(), "tflite-runtime"):
        try:
            runners[name] = make_runner(name, bundle)
        except MissingPackageError as error:
            rows[name] = Comparison(missing=str(error))
        except InputError as error:
            rows[name] = Comparison(failed=str(error))
    return runners, rows


def _compare(
    bundle: Bundle,
    runners: dict[str, Invoke],
    rows: dict[str, Comparison],
    clips: Iterable[NDArray[np.int16]],
    truth: NDArray[np.integer[Any]] | None,
) -> dict[str, _Totals]:
    """Run clips by every runner; the row of one that fails is set."""
    totals = {name: _Totals() for name in (*runners, "reference", "float")}
    for start, pcm in _batches(clips):
        classes = None if truth is None else truth[start : start + len(pcm)]
        features = bundle.features(pcm)
        expected = run(bundle.graph, features)
        for name, invoke in {**runners, "reference": lambda _, logits=expected: logits}.items():
            if name in rows:
                continue
            try:
                logits = invoke(features)
            except InputError as error:
                rows[name] = Comparison(failed=str(error))
                continue
            totals[name].add(logits, expected, classes)
            totals[name].add_int8(logits, expected)
        real = run(bundle.float_graph, bundle.front_end.log_mel(float_pcm(pcm))[..., None])
        totals["float"].add(real, expected, classes)
        totals["float"].error += float(np.abs(bundle.graph.output.q.dequantize(expected) - real).sum(dtype=np.float64))
    return totals


def _comparison(golden: _Totals, on_clips: _Totals, known: _Totals | None) -> Comparison:
    """The figures of a runner on all clips, and its accuracy on those whose class is known."""
    return Comparison(
        max_lsb=max(golden.max_lsb, on_clips.max_lsb),
        equal=(golden.equal + on_clips.equal) / (golden.logits + on_clips.logits),
        same_scene=(golden.same_scene + on_clips.same_scene) / (golden.clips + on_clips.clips),
        accuracy=known.right / known.clips if known else None,
    )


def _batches(clips: Iterable[NDArray[np.int16]]) -> Iterator[tuple[int, NDArray[np.int16]]]:
    """Batches (batch, samples) of clips, and which clip each begins with."""
    rest, start = iter(clips), 0
    while batch := list(islice(rest, BATCH)):
        yield start, np.stack(batch)
        start += len(batch)


def _exports(bundle: Bundle) -> dict[str, bool]:
    """Whether each export in the bundle is what its writer writes of the graph now, small or not."""
    stored = {kind: content for kind in EXPORTS if (content := bundle.exported(kind)) is not None}
    return {
        kind: content in (export(bundle, kind), export(bundle, kind, small=True)) for kind, content in stored.items()
    }

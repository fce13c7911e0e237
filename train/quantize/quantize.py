"""Quantization of a trained run: float network in, bundle with an integer-only graph out.

    tinyscene quantize RUN --data DATA --out BUNDLE [--qat [--resume]] [--set quantize.KEY=VALUE]

The network is lowered to a float graph, calibrated on clips of its training list and made integer. With
`--qat` it is then fine-tuned as the integers it will be (`train/quantize/fake_quantize.py`), by the loop, augmentation
and recipe it was trained with; `quantize.distill` says how much it listens to the float network rather than
to the labels. Fine-tuning goes on in `BUNDLE.qat/`, a run of its own that can be resumed, and is removed when
the bundle is whole. Whoever is killed in between removes it with --resume.

Where it is asked for, the bundle gets a decision rule (`train/quantize/decide.py`), too.

A run with networks for single devices (`train/fine_tuning/adapt.py`) makes one bundle with a variant for each,
quantized as the general network is, but with the training clips of that device alone.
"""

import contextlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import nn

from tinyscene.deploy.bundle.bundle import Bundle, BundleParts, open_bundle, write_bundle
from tinyscene.deploy.bundle.index import ATTRIBUTION, BAND_MEANS, DECISION, INDEX
from tinyscene.deploy.bundle.inspection import inspect_errors, inspect_graph
from tinyscene.deploy.common.errors import InputError
from tinyscene.deploy.common.files import remove_folder, require_free, sha256
from tinyscene.deploy.common.provenance import provenance
from tinyscene.deploy.common.terminal import notice
from tinyscene.deploy.frontend.fixed_point import FixedPointLogMel
from tinyscene.deploy.frontend.log_mel import FrontEnd
from tinyscene.deploy.graph.graph import Graph
from tinyscene.deploy.graph.operator import Convolution
from tinyscene.train.data.cache import Clips
from tinyscene.train.data.datasets import Dataset
from tinyscene.train.data.training_data import TrainingData
from tinyscene.train.loop.fine_tune import lower_rate_advised, with_overrides
from tinyscene.train.loop.loop import InitialNetwork, fit
from tinyscene.train.quantize.band_means import band_means
from tinyscene.train.quantize.calibrate import Ranges, Scales, calibrate, to_integers
from tinyscene.train.quantize.clips import warnings
from tinyscene.train.quantize.correct import correct
from tinyscene.train.quantize.decide import RuleSettings, few_kept
from tinyscene.train.quantize.equalize import equalize
from tinyscene.train.quantize.fake_quantize import FakeQuantGraph
from tinyscene.train.quantize.lower import lower
from tinyscene.train.recipe import Recipe
from tinyscene.train.runs.budget import count_network, least_macs
from tinyscene.train.runs.count import Count
from tinyscene.train.runs.recording_devices import DEVICES, load_devices, part_of
from tinyscene.train.runs.run import METRICS, Card, RunFolder, load_model, model_path, read_metrics
from tinyscene.train.settings import first_change
from tinyscene.train.teachers.distill import from_network, loss_of
from tinyscene.train.training_settings import Consistency, Distill, Quantize

BATCH = 8  # clips
CORRECTION_CLIPS = 64  # for rounding and bias correction, which hold them in memory
INSPECTED_CLIPS = 16


@dataclass(frozen=True)
class Method:
    """How the networks of a run are quantized."""

    qat: bool
    overrides: tuple[str, ...]
    allow_over_budget: bool
    rule: RuleSettings
    attribution: tuple[str, ...]


def quantize(
    run: Path,
    dataset: Dataset,
    clips: Clips,
    out: Path,
    qat: bool = False,
    split: str | None = None,
    overrides: list[str] | None = None,
    resume: bool = False,
    allow_over_budget: bool = False,
    rule: RuleSettings | None = None,
    attribution: Sequence[str] = (),
) -> Bundle:
    """Quantize a run with the training clips of a split of a dataset, and write its bundle.

    `attribution` says who made the recordings, in lines for the model card of the bundle and of each variant.

    Raises:
        OverBudgetError: the network is over its limits and that is not allowed.
        InputError: the run, the overrides or the dataset cannot be used, or `out` is taken.
        InterruptedRunError: Ctrl-C while fine-tuning; it can be resumed.
    """
    if not out.name:
        raise InputError(f"{out}: name a new folder for the bundle")
    if resume and not qat:
        raise InputError("--resume: only fine-tuning can be resumed; say --qat, too")
    work = out.with_name(f"{out.name}.qat")
    card = load_model(run)[1]
    data = TrainingData(dataset, clips, split or card.split or dataset.default_split)
    method = Method(qat, tuple(overrides or ()), allow_over_budget, rule or RuleSettings(), tuple(attribution))
    if resume and _is_written(work, out):
        bundle = open_bundle(out)
        if change := _changed_since(bundle, run, card, data, method):
            raise InputError(f"{out}: was made with {change}; resume with the same, or choose another --out")
        remove_folder(work)
        return bundle
    require_free(out)
    devices = {
        device: replace(data, dataset=part_of(dataset, data.split, device)) for device in load_devices(run, card)
    }
    parts = _quantize(run, out.name, data, method, RunFolder(work, resume))
    variants = {}
    for device, own_data in devices.items():
        name, own_work = f"{out.name} for device {device}", RunFolder.begun_or_new(work / DEVICES / device)
        variants[device] = _quantize(run / DEVICES / device, name, own_data, method, own_work)
    bundle = write_bundle(out, parts, variants)
    for line in bundle.content["quantized"]["warnings"]:
        notice(f"quantize: {line}")
    if qat:
        remove_folder(work)
    return bundle


def _is_written(work: Path, out: Path) -> bool:
    """Whether the bundle has the training in `work`, and only the removal of `work` was interrupted."""
    if not (work / METRICS).exists() or not (out / INDEX).exists():
        return False
    with contextlib.suppress(ValueError):  # a line that is no JSON is of another training
        return open_bundle(out).content["quantized"].get("training") == read_metrics(work)
    return False


def _changed_since(bundle: Bundle, run: Path, card: Card, data: TrainingData, method: Method) -> str:
    """What differs between the making of a bundle and what is asked for now, or nothing."""
    content = bundle.content
    made, recipe = content["quantized"], with_overrides(card, list(method.overrides), "quantize", run)
    if content["trained"] != card.model_dump(mode="json", exclude={"recipe", "labels"}):
        return "another run"
    if change := first_change(content["recipe"], json.loads(json.dumps(recipe.as_dict()))):
        return change
    if made["split"] != data.split:
        return f"--split {made['split']}"
    if made["data_hash"] != data.clips.data_hash:
        return "another --data"
    if not method.rule.made(bundle.rule):
        return "another --keep, --average, --margin or --patience"
    lines = content.get(ATTRIBUTION, {}).get("lines", [])
    return "" if lines == list(method.attribution) else "another --attribution"


def _quantize(run: Path, name: str, data: TrainingData, method: Method, work: RunFolder) -> BundleParts:
    """Quantize one network. Fine-tuning, if the method has it, is a run in the folder `work`."""
    network, card = load_model(run)
    recipe = with_overrides(card, list(method.overrides), "quantize", run)
    clips = data.clips
    clips.require_labels(card.labels, run)
    FixedPointLogMel(recipe.features, scale=1.0, zero_point=0)  # raises if the integers cannot follow the front end
    count = count_network(network, recipe)
    count.require(recipe.budget, method.allow_over_budget)
    indices = np.random.default_rng(recipe.seed).permutation(data.training_clips())[: recipe.quantize.clips]
    graph, batches = lower(network, recipe.features.shape), log_mel_batches(recipe.features, clips.pcm[indices])
    graph, corrected, ranges, scales = post_training(graph, batches, recipe.quantize, not method.qat)
    training = []
    if method.qat:
        rounded = FakeQuantGraph(corrected)
        rounded.round_in(ranges)
        initial = InitialNetwork(rounded, f"{run} sha256:{sha256(model_path(run))}")
        training = _fine_tune(initial, network, recipe, data, work)
        corrected, ranges = rounded.cpu().graph(), rounded.ranges()
    integer = to_integers(corrected, ranges, scales)
    errors = inspect_errors(integer, graph, recipe.features, clips.pcm[indices[:INSPECTED_CLIPS]])
    content = {
        "name": name,
        "recipe": recipe.as_dict(),
        "trained": card.model_dump(mode="json", exclude={"recipe", "labels"}),
        "quantized": {
            "split": data.split,
            "data_hash": clips.data_hash,
            "data": data.describe(),
            "calibration_clips": len(indices),
            "warnings": warnings(data, len(indices)),
            "training": training,
            "made_by": provenance(),
        },
        "budget": budget_of(count, integer),
        "errors": {name: asdict(error) for name, error in errors.items()},
        BAND_MEANS: band_means([integer.input.q.quantize(batch) for batch in batches], clips, indices),
    }
    if method.rule.asked:
        rule = method.rule.rule(integer, recipe.features, clips.pcm[indices], clips.label[indices])
        content[DECISION] = rule.as_dict()
        content["quantized"]["warnings"] += few_kept(rule)
    if method.attribution:
        content[ATTRIBUTION] = {"lines": list(method.attribution)}
    return BundleParts(integer, graph, recipe.features, card.labels, content)


def log_mel_batches(front_end: FrontEnd, pcm: NDArray[np.int16]) -> list[NDArray[np.float32]]:
    """Batches of log-mel, (batch, mel, frame, 1) each, by the fixed-point front end, of clips (clips, samples)."""
    log_mel = FixedPointLogMel(front_end, scale=1.0, zero_point=0).log_mel
    return [log_mel(pcm[start : start + BATCH])[..., None] for start in range(0, len(pcm), BATCH)]


def post_training(
    graph: Graph, batches: list[NDArray[np.float32]], settings: Quantize, rounding: bool = True
) -> tuple[Graph, Graph, Ranges, Scales]:
    """The float graph, equalized; the same corrected; the ranges of its tensors on these clips; steps of weights.

    Batches: log-mel (batch, mel, frame, 1). Fine-tuning rounds weights by itself, so that `rounding` is only for what
    is not fine-tuned.
    """
    if settings.equalize:
        graph = equalize(graph, batches)
    ranges = calibrate(graph, batches, settings)
    if not settings.bias_correction:
        return graph, graph, ranges, {}
    corrected, scales = correct(graph, ranges, batches[: CORRECTION_CLIPS // BATCH], rounding and settings.rounding)
    return graph, corrected, ranges, scales


def _fine_tune(
    initial: InitialNetwork, network: nn.Module, recipe: Recipe, data: TrainingData, work: RunFolder
) -> list[dict[str, Any]]:
    """Quantization-aware training, in place, by the answers of the float network. Returns its epochs' metrics."""
    settings = recipe.quantize
    train = recipe.train.fine_tuning(settings.epochs, settings.lr, settings.batch_size)
    # bfloat16 would round where the integers do not
    train = train.model_copy(update={"weight_decay": 0.0, "precision": "float32"})
    distill = recipe.distill if settings.distill < 1 else Distill()
    qat_recipe = recipe.model_copy(update={"train": train, "distill": distill, "consistency": Consistency()})
    loss = from_network(network, settings.distill, loss_of(distill), qat_recipe.has_other_clips)
    with lower_rate_advised(work.path, "quantize"):
        fit(initial, qat_recipe, loss, data, work)
    return read_metrics(work.path)


def budget_of(count: Count, integer: Graph) -> dict[str, int]:
    """The network as the challenge counts it, and the integers as they are deployed.

    A norm or an activation that no convolution can take in is a convolution in the integers: it counts as that.
    """
    rows = inspect_graph(integer)
    deployed_macs = sum(row.macs for row in rows)
    weights = sum(operator.weights.size for operator in integer.operators if isinstance(operator, Convolution))
    counted = {"macs": max(count.macs, least_macs(deployed_macs, count.clip_seconds))}
    if count.clip_macs is not None:
        counted["clip_macs"] = max(count.clip_macs, deployed_macs)
    return {
        "parameters": max(count.parameters, weights),
        **counted,
        "deployed_bytes": sum(row.bytes for row in rows),
        "deployed_macs": deployed_macs,
    }

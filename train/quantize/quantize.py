"""Quantization of a trained run: float network in, bundle with an integer-only graph out.

    tinyscene quantize RUN --data DATA --out BUNDLE [--qat [--resume]] [--set quantize.KEY=VALUE]

The network is lowered to a float graph, calibrated on clips of its training list and made integer. With
`--qat` it is then fine-tuned as the integers it will be (`train/quantize/fake_quantize.py`), by the loop, augmentation
and recipe it was trained with; `quantize.distill` says how much it listens to the float network rather than
to the labels. Fine-tuning goes on in `BUNDLE.qat/`, a run of its own that can be resumed, and is removed when
the bundle is whole.

A run with networks for single devices (`train/fine_tuning/adapt.py`) makes one bundle with a variant for each,
quantized as the general network is, but with the training clips of that device alone.
"""

import json
import shutil
from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import nn

from tinyscene.deploy.bundle.bundle import Bundle, write_bundle
from tinyscene.deploy.bundle.inspection import inspect_errors, inspect_graph
from tinyscene.deploy.common.errors import InputError
from tinyscene.deploy.common.files import require_free, sha256
from tinyscene.deploy.common.provenance import provenance
from tinyscene.deploy.frontend.fixed_point import FixedPointLogMel
from tinyscene.deploy.graph.graph import Graph
from tinyscene.train.data.cache import Clips
from tinyscene.train.data.datasets import Dataset
from tinyscene.train.loop.loop import fit
from tinyscene.train.quantize.calibrate import Ranges, calibrate, correct_biases, equalize, to_integers
from tinyscene.train.quantize.fake_quantize import FakeQuantGraph
from tinyscene.train.quantize.lower import lower
from tinyscene.train.recipe import Consistency, Distill, Recipe, override
from tinyscene.train.runs.budget import Count, count_network
from tinyscene.train.runs.recording_devices import DEVICES, load_devices, part_of
from tinyscene.train.runs.run import METRICS, RECIPE, load_model, model_path
from tinyscene.train.teachers.distill import from_network, loss_of

BATCH = 8  # clips
BIAS_CLIPS = 64  # for the bias correction, which holds them in memory
INSPECTED_CLIPS = 16


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
) -> Bundle:
    """Quantize a run with the training clips of a split of a dataset, and write its bundle.

    Raises:
        OverBudgetError: the network is over its limits and that is not allowed.
        InputError: the run, the overrides or the dataset cannot be used, or `out` is taken.
        InterruptedRunError: Ctrl-C while fine-tuning; it can be resumed.
    """
    if not out.name:
        raise InputError(f"{out}: name a new folder for the bundle")
    require_free(out)
    if resume and not qat:
        raise InputError("--resume: only fine-tuning can be resumed; say --qat, too")
    card = load_model(run)[1]
    if wrong := [setting for setting in overrides or [] if not setting.startswith("quantize.")]:
        raise InputError(f"--set {wrong[0]}: the run is trained; only keys of its section quantize can be changed")
    split = split or card.split or dataset.default_split
    parts = {device: part_of(dataset, split, device) for device in load_devices(run, card)}
    prepare = partial(
        _prepare, clips=clips, split=split, qat=qat, overrides=overrides or [], allow_over_budget=allow_over_budget
    )
    work = out.with_name(f"{out.name}.qat")
    write = prepare(run, dataset, out.name, work, resume)
    variants = {}
    for device, part in parts.items():
        name, own = f"{out.name} for device {device}", work / DEVICES / device
        variants[device] = prepare(run / DEVICES / device, part, name, own, (own / RECIPE).exists())
    bundle = write(out, variants=variants)
    if qat:
        shutil.rmtree(work)
    return bundle


def _prepare(
    run: Path,
    dataset: Dataset,
    name: str,
    work: Path,
    resume: bool,
    clips: Clips,
    split: str,
    qat: bool,
    overrides: list[str],
    allow_over_budget: bool,
) -> Callable[..., Bundle]:
    """Quantize one network. Returns `write_bundle` with all that it takes but a folder and variants."""
    network, card = load_model(run)
    recipe = override(card.parsed_recipe, overrides, f"the recipe of {run}")
    clips.require_labels(card.labels, run)
    FixedPointLogMel(recipe.features, scale=1.0, zero_point=0)  # raises if the integers cannot follow the front end
    count = count_network(network, recipe)
    count.require(recipe.budget, allow_over_budget)
    indices = clips.select(dataset.split(split)[0])
    indices = np.random.default_rng(recipe.seed).permutation(indices)[: recipe.quantize.clips]
    graph, corrected, ranges = _post_training(lower(network, recipe.features.shape), recipe, clips.pcm[indices])
    training = []
    if qat:
        rounded = FakeQuantGraph(corrected)
        rounded.round_in(ranges)
        source = f"{run} sha256:{sha256(model_path(run))}"
        training = _fine_tune(rounded, network, recipe, dataset, clips, split, work, resume, source)
        corrected, ranges = rounded.cpu().graph(), rounded.ranges()
    integer = to_integers(corrected, ranges)
    errors = inspect_errors(integer, graph, recipe.features, clips.pcm[indices[:INSPECTED_CLIPS]])
    content = {
        "name": name,
        "recipe": recipe.as_dict(),
        "trained": card.model_dump(mode="json", exclude={"recipe", "labels"}),
        "quantized": {
            "split": split,
            "data_hash": clips.data_hash,
            "data": dataset.describe(split),
            "calibration_clips": len(indices),
            "training": training,
            "made_by": provenance(),
        },
        "budget": _budget(count, integer),
        "errors": {name: asdict(error) for name, error in errors.items()},
    }
    return partial(
        write_bundle,
        graph=integer,
        float_graph=graph,
        front_end=recipe.features,
        labels=card.labels,
        content=content,
    )


def _post_training(graph: Graph, recipe: Recipe, pcm: NDArray[np.int16]) -> tuple[Graph, Graph, Ranges]:
    """The float graph, equalized; the same with corrected biases; and the ranges of its tensors on these clips."""
    settings, log_mel = recipe.quantize, FixedPointLogMel(recipe.features, scale=1.0, zero_point=0).log_mel
    batches = [log_mel(pcm[start : start + BATCH])[..., None] for start in range(0, len(pcm), BATCH)]
    if settings.equalize:
        graph = equalize(graph, batches)
    ranges = calibrate(graph, batches, settings)
    corrected = correct_biases(graph, ranges, batches[: BIAS_CLIPS // BATCH]) if settings.bias_correction else graph
    return graph, corrected, ranges


def _fine_tune(
    rounded: FakeQuantGraph,
    network: nn.Module,
    recipe: Recipe,
    dataset: Dataset,
    clips: Clips,
    split: str,
    work: Path,
    resume: bool,
    source: str,
) -> list[dict[str, Any]]:
    """Quantization-aware training, in place. Returns the metrics of its epochs."""
    settings = recipe.quantize
    train = recipe.train.fine_tuning(settings.epochs, settings.lr, settings.batch_size)
    # bfloat16 would round where the integers do not
    train = train.model_copy(update={"weight_decay": 0.0, "precision": "float32"})
    distill = recipe.distill if settings.distill < 1 else Distill()
    qat_recipe = recipe.model_copy(update={"train": train, "distill": distill, "consistency": Consistency()})
    loss = from_network(network, settings.distill, loss_of(distill))
    fit(rounded, qat_recipe, dataset, clips, split, work, resume, loss, source)
    if not all(parameter.isfinite().all() for parameter in rounded.parameters()):
        raise InputError(f"{work}: fine-tuning diverged; remove the folder and try a lower --set quantize.lr")
    return [json.loads(line) for line in (work / METRICS).read_text(encoding="utf-8").splitlines()]


def _budget(count: Count, integer: Graph) -> dict[str, int]:
    """The network as the challenge counts it, and the integers as they are deployed."""
    rows = inspect_graph(integer)
    return {
        "parameters": count.parameters,
        "macs": count.macs,
        "deployed_bytes": sum(row.bytes for row in rows),
        "deployed_macs": sum(row.macs for row in rows),
    }

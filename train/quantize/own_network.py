"""Quantization of a network that is given as it is: a torch module of supported layers, whoever trained it.

    bundle = quantize_network(network, clips, ["bus", "tram"], front_end, Path("bundles/mine"))

There is no run, so that the index says what is known: the network's size, the calibration clips' hash, and that the
weights were given by the caller.
"""

import copy
import hashlib
import math
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import nn

from tinyscene.deploy.bundle.bundle import Bundle, BundleParts, write_bundle
from tinyscene.deploy.bundle.index import read_labels
from tinyscene.deploy.bundle.inspection import inspect_errors
from tinyscene.deploy.common.errors import InputError
from tinyscene.deploy.common.files import require_free
from tinyscene.deploy.common.provenance import provenance
from tinyscene.deploy.frontend.fixed_point import FixedPointLogMel
from tinyscene.deploy.frontend.log_mel import PCM_SCALE, FrontEnd
from tinyscene.deploy.graph.graph import Graph
from tinyscene.train.quantize.calibrate import to_integers
from tinyscene.train.quantize.clips import few_clips
from tinyscene.train.quantize.lower import lower
from tinyscene.train.quantize.quantize import INSPECTED_CLIPS, budget_of, log_mel_batches, post_training
from tinyscene.train.recipe import Recipe
from tinyscene.train.runs.budget import count_network
from tinyscene.train.runs.count import Count
from tinyscene.train.training_settings import Quantize

GIVEN = "given by the caller"
Sound = NDArray[np.int16] | NDArray[np.floating[Any]]
Calibration = Sound | Sequence[Sound]


def quantize_network(
    network: nn.Module,
    calibration: Calibration,
    labels: Sequence[str],
    front_end: FrontEnd,
    out: Path,
    settings: Quantize | None = None,
    seed: int = 0,
) -> Bundle:
    """Quantize a torch network to integers after training, and write its bundle.

    Args:
        network: log-mel (batch, 1, mel, frame) -> logits (batch, classes). It is copied, and the copy is put into
            evaluation mode on the CPU.
        calibration: sound at the front end's sample rate, int16 or float in -1..1: clips (clips, samples), or
            recordings (samples,) of any length, which are cut into clips. Some tens to hundreds of clips, like those
            that the network was trained on.
        labels: the names of the classes, in the order of the logits.
        front_end: the log-mel that the network was trained on.
        out: a new folder for the bundle.
        settings: of calibration; fine-tuning needs a run.
        seed: chooses the clips, if more are given than `settings.clips`.

    Raises:
        InputError: the network has a layer that is not supported, or does not fit the front end or the labels; the
            calibration clips or the labels cannot be used; `out` is taken.
    """
    if not isinstance(network, nn.Module):
        raise InputError(f"network: is a {type(network).__name__}; a torch.nn.Module is needed")
    require_free(out)
    settings, names = settings or Quantize(), read_labels(list(labels))
    FixedPointLogMel(front_end, scale=1.0, zero_point=0)  # raises if the integers cannot follow the front end
    network = copy.deepcopy(network).cpu().float().eval()
    graph = lower(network, front_end.shape)
    if graph.output.shape != (1, len(names)):
        made = " x ".join(map(str, graph.output.shape[1:]))
        raise InputError(f"network: makes {made} values for {len(names)} labels; needed are (batch, {len(names)})")
    given = calibration_clips(calibration, front_end)
    pcm = given[np.random.default_rng(seed).permutation(len(given))[: settings.clips]]
    graph, corrected, ranges, scales = post_training(graph, log_mel_batches(front_end, pcm), settings)
    integer = to_integers(corrected, ranges, scales)
    recipe = Recipe(name=out.name, features=front_end, quantize=settings, seed=seed)
    made_by = provenance()
    errors = inspect_errors(integer, graph, front_end, pcm[:INSPECTED_CLIPS])
    kept = recipe.as_dict()
    content = {
        "name": out.name,
        "recipe": {key: kept[key] for key in ("name", "seed", "features", "quantize")},
        "trained": {"split": None, "data_hash": None, "source": GIVEN, "made_by": made_by},
        "quantized": {
            "split": GIVEN,
            "data_hash": hashlib.sha256(given.tobytes()).hexdigest(),
            "data": None,
            "calibration_clips": len(pcm),
            "warnings": few_clips(len(pcm)),
            "training": [],
            "made_by": made_by,
        },
        "budget": budget_of(_count(network, recipe, integer), integer),
        "errors": {name: asdict(error) for name, error in errors.items()},
    }
    return write_bundle(out, BundleParts(integer, graph, front_end, names, content))


def calibration_clips(sound: Calibration, front_end: FrontEnd) -> NDArray[np.int16]:
    """Clips of a front end, (clips, samples), of clips or recordings. Raises InputError where there is none."""
    length = front_end.clip_samples
    recordings = [np.asarray(each) for each in sound]
    clips = []
    for number, recording in enumerate(recordings):
        if recording.ndim != 1 or recording.size < length:
            raise InputError(
                f"calibration: item {number} is {recording.shape}; needed are clips or recordings of one channel, of "
                f"{length:,} samples at least ({length / front_end.sample_rate:g} s at {front_end.sample_rate:,} Hz)"
            )
        whole = recording.size // length
        clips.append(_as_pcm(recording[: whole * length], number).reshape(whole, length))
    if not clips:
        raise InputError("calibration: holds no clip; give some tens of clips like those of the training")
    return np.concatenate(clips)


def _count(network: nn.Module, recipe: Recipe, integer: Graph) -> Count:
    """As the challenge counts, on one second; by the integers if the network takes clips of another length alone."""
    seconds = recipe.features.clip_seconds
    try:
        return count_network(network, recipe)
    except RuntimeError:  # a linear layer behind Flatten
        if seconds == 1.0:
            raise
    parameters, macs = sum(each.numel() for each in network.parameters()), integer.macs
    return Count(
        *(recipe.name, parameters, round(macs / seconds), parameters, "int8", ()), clip_seconds=seconds, clip_macs=macs
    )


def _as_pcm(samples: NDArray[Any], number: int) -> NDArray[np.int16]:
    if samples.dtype == np.int16:
        return samples
    if not np.issubdtype(samples.dtype, np.floating):
        raise InputError(f"calibration: item {number} is {samples.dtype}; needed are int16, or float in -1 to 1")
    peak = float(np.abs(samples).max())
    if not peak <= 1.0 or not math.isfinite(peak):
        raise InputError(f"calibration: item {number} reaches {peak:g}; floats must lie in -1 to 1")
    return np.clip(np.rint(samples * PCM_SCALE), -32768, 32767).astype(np.int16)

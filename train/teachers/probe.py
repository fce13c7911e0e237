"""Linear probes: a linear classifier on the embedding of a pretrained teacher, fitted in one go.

    tinyscene teach efficientat --probe --weights published --data DATA --split 25 --out RUN [--set probe.decay=0.01]

The embeddings of the training clips as they are, without augmentation, are computed once; multinomial logistic
regression is fitted to them by L-BFGS. The run that is written is one like any other: the network whose classifier
is linear, all else as it was.
"""

import math
import time
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tinyscene.deploy.common.errors import InputError
from tinyscene.deploy.common.files import replacing_folder, require_free, write_whole
from tinyscene.deploy.common.progress import progress
from tinyscene.deploy.common.terminal import notice
from tinyscene.deploy.common.text import json_text
from tinyscene.train.data.features import waveform
from tinyscene.train.data.training_data import TrainingData
from tinyscene.train.loop.loop import make_card
from tinyscene.train.models import build, features_of, finish
from tinyscene.train.network_settings import PROBED, EfficientAtModel
from tinyscene.train.recipe import Recipe, override
from tinyscene.train.runs.run import METRICS, MODEL, save_tensors, write_recipe
from tinyscene.train.runs.transfer import transfer

BATCH = 32  # clips
SMALLEST_DEVIATION = 1e-4  # of an embedding's value, below which it is taken for constant


def probe(recipe: Recipe, data: TrainingData, out: Path, weights: Path | None) -> Path:
    """Fit a linear classifier on the embedding of a recipe's network, in a new run. Returns the model's path.

    Raises InputError for a network that has no embedding, and where no weights are named.
    """
    if not isinstance(recipe.model, EfficientAtModel):
        raise InputError(f"--probe: {recipe.model.family} has no embedding to put a classifier on; take efficientat")
    if weights is None:
        raise InputError("--probe: the network must be trained already; name its weights with --weights")
    recipe = override(recipe, list(PROBED), recipe.name)
    torch.manual_seed(recipe.seed)
    network = build(recipe.model, len(data.clips.labels))
    source = transfer(network, weights, labels=())  # whatever classifier they have is left
    for line in data.check():
        notice(line)
    require_free(out)
    started = time.monotonic()
    embeddings = _embeddings(network, recipe, data)  # (clip, value)
    labels = torch.from_numpy(data.clips.label[data.training_clips()])
    metrics = _fit(network.classifier[-1], embeddings, labels, recipe)  # type: ignore[index]
    seconds = time.monotonic() - started
    metrics |= {"clips": len(labels), "seconds": seconds, "clips_per_second": len(labels) / seconds}
    with replacing_folder(out) as run:
        write_recipe(run, recipe)
        write_whole(run / METRICS, json_text(metrics) + "\n")
        save_tensors(run / MODEL, finish(network).state_dict(), make_card(recipe.as_dict(), data, source))
    return out / MODEL


@torch.inference_mode()
def _embeddings(network: nn.Module, recipe: Recipe, data: TrainingData) -> Tensor:
    torch_device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    features = features_of(recipe).to(torch_device)
    network.to(torch_device).eval()
    indices, parts = data.training_clips(), []
    with progress("embedding", len(indices)) as advance:
        for start in range(0, len(indices), BATCH):
            pcm = torch.from_numpy(data.clips.pcm[indices[start : start + BATCH]]).to(torch_device)
            parts.append(network.embed(features(waveform(pcm))).float().cpu())  # type: ignore[operator]
            advance(len(pcm))
    network.cpu()
    return torch.cat(parts)


def _fit(classifier: nn.Linear, embeddings: Tensor, labels: Tensor, recipe: Recipe) -> dict[str, float]:
    """Fit the classifier in place: mean cross-entropy, and half the squared weights of standardised values by decay."""
    mean, deviation = embeddings.mean(0), embeddings.std(0).clamp(min=SMALLEST_DEVIATION)
    standard = (embeddings - mean) / deviation  # (clip, value)
    weight = torch.zeros(classifier.out_features, classifier.in_features, requires_grad=True)
    bias = torch.zeros(classifier.out_features, requires_grad=True)
    settings = recipe.probe
    optimizer = torch.optim.LBFGS([weight, bias], max_iter=settings.steps, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        optimizer.zero_grad()
        value = F.cross_entropy(standard @ weight.T + bias, labels) + settings.decay / 2 * weight.square().sum()
        value.backward()
        return value

    with torch.enable_grad():
        final = float(optimizer.step(loss).detach())  # type: ignore[arg-type] # of the first evaluation
    if not math.isfinite(final):
        raise InputError("--probe: the embeddings are not finite; the weights are not those of a trained network")
    with torch.no_grad():
        classifier.weight.copy_(weight / deviation)
        classifier.bias.copy_(bias - (weight * mean / deviation).sum(1))
        logits = classifier(embeddings)
        return {
            "epoch": 1,
            "step": settings.steps,
            "loss": float(F.cross_entropy(logits, labels)),
            "accuracy": float((logits.argmax(1) == labels).float().mean()),
        }

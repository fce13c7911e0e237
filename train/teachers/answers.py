"""A teacher's answers to a batch: from a file of logits, or asked at each step.

    tinyscene train micro --data DATA --split 25 --set distill.logits=LOGITS.safetensors
    tinyscene train micro --data DATA --split 25 --set distill.online=RUN

A teacher that is asked at each step hears the batch as the student does: rolled, with impulse responses, and mixed,
after L. Beyer et al., "Knowledge Distillation: A Good Teacher Is Patient and Consistent", CVPR 2022. All of that is
done to waveforms. Each network has them at its own sample rate, decoded from the recordings: sound that was upsampled
for the teacher would lack the frequencies that it was trained on. What is done to the student's log-mel is the
student's alone.

With `distill.mask` a teacher also judges the labels, once, before the training: it is asked about the clips as they
were recorded, and a label that it gives too little has no cross-entropy.
"""

from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tinyscene.train.data import augment
from tinyscene.train.data.selection import Selection
from tinyscene.train.data.training_data import TrainingData
from tinyscene.train.data.waveforms import Waveforms
from tinyscene.train.models import features_of
from tinyscene.train.recipe import Recipe
from tinyscene.train.runs.run import load_model
from tinyscene.train.teachers.logits import named, read_logits, require_same_length, require_same_lists


class Teacher(Protocol):
    """What a student's trainer asks."""

    def __call__(self, positions: NDArray[np.int64], drawn: augment.Draw) -> Tensor:
        """Probabilities (batch, classes) of a batch of clips as it was drawn, at the recipe's temperature."""
        ...

    def as_recorded(self) -> Tensor:
        """Probabilities (clip, classes) of all clips with labels as they were recorded, at temperature 1."""
        ...


def teacher_of(
    recipe: Recipe, data: TrainingData, selection: Selection, torch_device: torch.device, batch: int
) -> Teacher | None:
    """The teacher that a recipe names, if it does; one that is asked at each step takes `batch` clips at once."""
    if recipe.distill.online:
        return OnlineTeacher(Path(recipe.distill.online), recipe, data, selection, torch_device, batch)
    return StoredAnswers(recipe, selection, data.split, torch_device) if recipe.distill.logits else None


def doubted(teacher: Teacher | None, labels: Tensor, least: float) -> Tensor:
    """Which labels (clip,) a teacher gives less than `least`, (clip,); none where there is no teacher or no limit."""
    if teacher is None or not least:
        return torch.zeros_like(labels, dtype=torch.bool)
    answers = teacher.as_recorded().cpu()  # (clip, classes)
    return answers.gather(1, labels[:, None]).squeeze(1) < least


class StoredAnswers:
    """The answers of a file, those to a clip's impulse response where the file has them; mixed as the clips are."""

    def __init__(self, recipe: Recipe, selection: Selection, split: str, torch_device: torch.device) -> None:
        logits = read_logits(Path(recipe.distill.logits or ""))
        logits.require_split(split)
        clips = selection.clips
        values = logits.of(clips.names(selection.labelled), clips.labels, clips.clip_seconds)
        folder = recipe.augment.dir_folder
        names = ["", *(path.name for path in augment.response_paths(Path(folder)))] if folder else [""]
        views = [logits.views.index(name) if name in logits.views else 0 for name in names]
        self.view = torch.tensor(views, device=torch_device)  # (response + 1,)
        self.plain = values[0].softmax(1)  # (clip, class)
        self.answers = (values / recipe.distill.temperature).softmax(2).to(torch_device)  # (view, clip, class)

    def __call__(self, positions: NDArray[np.int64], drawn: augment.Draw) -> Tensor:
        view = self.view[0 if drawn.response is None else drawn.response + 1]  # (batch,), or one for all
        return augment.mixed(self.answers[view, torch.from_numpy(positions).to(self.view.device)], drawn)

    def as_recorded(self) -> Tensor:
        return self.plain


class OnlineTeacher:
    """A run that hears each batch of a selection as the student does, at its own sample rate, by its own features."""

    def __init__(
        self,
        run: Path,
        student: Recipe,
        data: TrainingData,
        selection: Selection,
        torch_device: torch.device,
        batch: int,
    ) -> None:
        network, card = load_model(run)
        recipe = card.parsed_recipe
        require_same_length(run, recipe.features.clip_seconds, student.features.clip_seconds, "those of the student")
        rate = recipe.features.sample_rate
        selection = selection.at_rate(rate, data.dataset)
        selection.clips.require_labels(card.labels, run)
        require_same_lists(run, card, data.dataset, selection.clips, data.split)
        self.network = network.to(torch_device)
        self.features = features_of(recipe).to(torch_device)
        self.batch, self.temperature = batch, student.distill.temperature
        self.labelled = np.arange(len(selection.labelled))  # positions
        self.rate_ratio = rate / student.features.sample_rate
        self.waveforms = Waveforms(selection.parts, student.augment, recipe.features, torch_device)

    def __call__(self, positions: NDArray[np.int64], drawn: augment.Draw) -> Tensor:
        return (self._logits(positions, drawn.at_rate(self.rate_ratio)) / self.temperature).softmax(1)

    def as_recorded(self) -> Tensor:
        parts = np.split(self.labelled, range(self.batch, len(self.labelled), self.batch))
        return torch.cat([self._logits(part, augment.Draw()).softmax(1) for part in parts])

    @torch.no_grad()
    def _logits(self, positions: NDArray[np.int64], drawn: augment.Draw) -> Tensor:
        signal = augment.mixed(self.waveforms.augmented(positions, drawn), drawn)  # (batch, samples)
        return torch.cat([self.network(self.features(part)).float() for part in signal.split(self.batch)])


def online_source(recipe: Recipe) -> str | None:
    """What a card says of the teacher that is asked at each step: its run, with the hash of its weights."""
    return named(Path(recipe.distill.online)) if recipe.distill.online else None

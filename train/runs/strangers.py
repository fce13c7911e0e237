"""How many clips a bundle's decision rule keeps, each decided on by itself: of known classes, and of strangers."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tinyscene.deploy.common.errors import InputError
from tinyscene.deploy.common.progress import progress
from tinyscene.deploy.live.classifier import SceneClassifier, softmax
from tinyscene.train.data.cache import Clips, prepare
from tinyscene.train.data.selection import unlabelled_dataset

BATCH = 32  # clips


@dataclass
class KeptClips:
    """A classifier as a function of clips that counts those its rule's threshold keeps."""

    scene: SceneClassifier
    clips: int = 0
    kept: int = 0

    def __call__(self, pcm: NDArray[np.int16]) -> NDArray[np.float32]:
        """Clips (batch, samples) -> probabilities (batch, classes)."""
        heard, rule = self.scene.hear(pcm), self.scene.rule
        assert rule is not None
        assert rule.unknown is not None
        self.clips += len(pcm)
        self.kept += int((heard.likeness >= rule.unknown.threshold).sum())
        return softmax(heard.logits)


def kept_share(counts: list[KeptClips]) -> dict[str, Any]:
    """The share of the clips that were counted which is kept."""
    clips = sum(count.clips for count in counts)
    return {"kept": sum(count.kept for count in counts) / clips, "clips": clips}


def refused_share(scene: SceneClassifier, folder: Path, known: Clips) -> dict[str, Any]:
    """The share of the clips of a folder's recordings that is refused. Raises InputError if there are none."""
    if not folder.is_dir():
        raise InputError(f"--strangers {folder}: no such folder")
    clips = prepare(unlabelled_dataset(folder), known.sample_rate, known.folder.parent, clip_seconds=known.clip_seconds)
    indices = clips.select(tuple(item.path for item in clips.recordings))
    count = KeptClips(scene)
    with progress("classifying strangers", len(indices)) as advance:
        for start in range(0, len(indices), BATCH):
            advance(len(count(clips.pcm[indices[start : start + BATCH]])))
    return {"strangers": folder.name, "strangers_clips": count.clips, "refused": 1 - count.kept / count.clips}

"""The shares that a decision rule keeps and refuses, with a classifier whose likeness is the level of a clip."""

from pathlib import Path

import numpy as np
import pytest
import soundfile
from numpy.typing import NDArray

from tinyscene.deploy.bundle.decision import DecisionRule
from tinyscene.deploy.bundle.likeness import Likeness
from tinyscene.deploy.common.errors import InputError
from tinyscene.deploy.live.classifier import Heard, SceneClassifier
from tinyscene.train.data.cache import Clips
from tinyscene.train.runs.strangers import KeptClips, kept_share, refused_share


class Loudness(SceneClassifier):
    """Keeps clips whose greatest sample is at least 1000."""

    labels = ("low", "high")
    rule = DecisionRule(unknown=Likeness(1_000, 0, ((1,), (1,)), 0.95, 0.95, 10))

    def logits(self, pcm: NDArray[np.int16]) -> NDArray[np.float32]:
        return np.tile(np.array([0, 1], np.float32), (len(pcm), 1))

    def hear(self, pcm: NDArray[np.int16]) -> Heard:
        return Heard(self.logits(pcm), np.abs(pcm.astype(np.int64)).max(1))


def test_clips_at_the_threshold_are_kept_and_those_below_are_not() -> None:
    counts = [KeptClips(Loudness()) for _ in range(2)]
    for count, peaks in zip(counts, ([999, 1_000, 5_000], [0, 20_000]), strict=True):
        clips = np.repeat(np.array(peaks, np.int16)[:, None], 32_000, axis=1)
        np.testing.assert_allclose(count(clips), np.tile(np.exp([0, 1]) / (1 + np.e), (len(peaks), 1)), rtol=1e-6)
    assert kept_share(counts) == {"kept": 0.6, "clips": 5}


def test_the_share_of_strangers_is_that_of_all_their_seconds(tmp_path: Path, sample_clips: Clips) -> None:
    folder = tmp_path / "others"
    (folder / "deep").mkdir(parents=True)
    levels = {"one.wav": [0.5], "deep/four.wav": [0.001, 0.002, 0.5, 0.003]}
    for name, seconds in levels.items():
        soundfile.write(folder / name, np.repeat(seconds, 32_000), 32_000, "PCM_16")
    found = refused_share(Loudness(), folder, sample_clips)
    assert found == {"strangers": "others", "strangers_clips": 5, "refused": pytest.approx(0.6)}
    with pytest.raises(InputError, match=r"--strangers .*: no such folder"):
        refused_share(Loudness(), tmp_path / "nowhere", sample_clips)

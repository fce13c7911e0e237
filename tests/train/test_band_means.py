"""The means of the mel bands that a bundle carries: of the recording device that the network knows best."""

from collections import Counter

import numpy as np

from tinyscene.deploy.bundle.bundle import Bundle
from tinyscene.train.data.cache import Clips
from tinyscene.train.data.datasets import Dataset
from tinyscene.train.quantize.band_means import band_means


def test_the_means_are_of_the_most_common_device_by_class(sample_clips: Clips) -> None:
    rng = np.random.default_rng(0)
    indices = rng.permutation(len(sample_clips.label))[:60]
    features = rng.integers(-128, 128, (60, 4, 5, 1)).astype(np.int8)
    rows = band_means([features[:50], features[50:]], sample_clips, indices)
    devices = [sample_clips.recordings[sample_clips.recording[index]].device for index in indices]
    (common, count), *others = Counter(devices).most_common()
    assert (len(others) > 0, count < 60) == (True, True)
    for label, row in enumerate(rows):
        clips = [
            each for each, index in enumerate(indices) if (devices[each], sample_clips.label[index]) == (common, label)
        ]
        if clips:
            np.testing.assert_allclose(row, 256 * features[clips].astype(float).mean((0, 2, 3)), atol=0.51)


def test_a_bundle_has_the_means_of_its_calibration_clips(
    bundle: Bundle, sample_dataset: Dataset, sample_clips: Clips
) -> None:
    training = sample_clips.select(sample_dataset.split("5")[0])
    seed, count = bundle.content["recipe"]["seed"], bundle.content["quantized"]["calibration_clips"]
    indices = np.random.default_rng(seed).permutation(training)[:count]
    expected = band_means([bundle.features(sample_clips.pcm[indices])], sample_clips, indices)
    difference = np.array(bundle.bands.means) - expected  # 1/256; the features are rounded twice
    assert np.abs(difference).max() < 26

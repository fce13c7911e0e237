"""The means of the mel bands, by class, from which a device learns offsets (`deploy/frontend/band_offsets.py`).

They are of the recording device that most calibration clips are of: of the microphone that the network knows best. In
clips of all devices, simulated ones too, the others would move every device away from it.
"""

from collections import Counter
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from tinyscene.deploy.frontend.band_offsets import class_means
from tinyscene.train.data.cache import Clips


def band_means(batches: Sequence[NDArray[np.int8]], clips: Clips, indices: NDArray[np.int64]) -> list[list[int]]:
    """The means (class, mel), of batches (batch, mel, frame, 1) of the features of the clips `indices`."""
    devices = clips.recording_devices(indices)
    known = devices == Counter(devices.tolist()).most_common(1)[0][0]
    return class_means(np.concatenate(batches)[known], clips.label[indices][known], len(clips.labels))

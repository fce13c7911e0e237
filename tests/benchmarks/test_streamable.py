"""The table of decisions that a shift changes, on a model whose classes are known."""

import numpy as np
import pytest
from numpy.typing import NDArray

from tinyscene.benchmarks.experiments import streamable
from tinyscene.deploy.frontend.log_mel import FrontEnd
from tinyscene.train.runs.evaluate import EvaluatedModel

RATE = 4_000
ONSETS = np.array([0.5 + 0.0005, 0.5 + 0.0075, 1.0 + 0.0195, 9.0])  # s, where sounds turn from class 0 to class 1


def by_first_sample(pcm: NDArray[np.int16]) -> NDArray[np.float32]:
    return np.stack([pcm[:, 0] < 0, pcm[:, 0] > 0], 1).astype(np.float32)


def test_a_change_is_counted_once_for_each_start_that_it_follows() -> None:
    front_end = FrontEnd(sample_rate=RATE, n_mels=4)
    model = EvaluatedModel(by_first_sample, front_end, ("before", "after"), None, "torch", {})
    times = np.arange(5 * RATE) / RATE
    sounds = np.where(times < ONSETS[:, None], -1, 1).astype(np.int16)
    result = streamable._changes([model, model], sounds)
    windows = len(ONSETS) * len(streamable.STARTS)
    late = {1: 1, 2: 1, 5: 1, 10: 2, 20: 3, 50: 3, 100: 3}  # onsets that so many ms reach from a start
    assert {row["ms"]: row["changed"] for row in result["rows"]} == pytest.approx(
        {shift: 100 * count / windows for shift, count in late.items()}
    )
    for row in result["rows"]:
        assert 0 <= row["interval"][0] <= row["changed"] <= row["interval"][1]
    assert result["recordings"] == 4

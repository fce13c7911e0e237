"""Which samples of a clip each frame needs, and so when it can be computed."""

from typing import NamedTuple

import numpy as np

from tinyscene.deploy.frontend.log_mel import FrontEnd


class FrameSpan(NamedTuple):
    """The samples of the clip that a frame needs; its window may begin before the clip and end beyond it."""

    at: int  # where the window begins
    first: int  # the earliest sample that it needs, after reflection
    due: int  # one more than the last: so many samples of the clip must have arrived


def frame_spans(front_end: FrontEnd) -> list[FrameSpan]:
    """The span of every frame of a clip, in order. In closed form `due` is min(max(at + win, 1 - at), clip)."""
    left = (front_end.n_fft - front_end.win_length) // 2 - front_end.padding[0]
    spans = []
    for at in range(left, left + front_end.frames * front_end.hop_length, front_end.hop_length):
        samples = np.abs(np.arange(at, at + front_end.win_length))
        samples = np.minimum(samples, 2 * (front_end.clip_samples - 1) - samples)
        spans.append(FrameSpan(at, int(samples.min()), int(samples.max()) + 1))
    return spans

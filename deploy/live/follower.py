"""What a bundle makes of a stream's clips, one after another, where those overlap: no frame or column of it twice."""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from tinyscene.deploy.bundle.bundle import Bundle
from tinyscene.deploy.bundle.likeness import sums_of
from tinyscene.deploy.frontend.band_offsets import OffsetWindows
from tinyscene.deploy.graph.columns import run_next
from tinyscene.deploy.graph.reference import Values
from tinyscene.deploy.live.stream import Heard

Int8 = NDArray[np.int8]


class BundleFollower:
    """A `Follower` with the front end of the bundle; its results are those of each clip by itself.

    `network` computes the logits of features (batch, mel, frame, 1); by default it is the reference, which does no
    more than what is new, as it does for the likeness to the known classes. With `windows`, features have offsets.
    """

    def __init__(
        self, bundle: Bundle, network: Callable[[Int8], Int8] | None = None, windows: OffsetWindows | None = None
    ) -> None:
        self._bundle, self._network, self._windows = bundle, network, windows
        self._former: tuple[NDArray[np.int16], Int8] | None = None  # clip and its features, without offsets
        self._values: dict[str, Values] | None = None  # of the former clip

    def __call__(self, clip: NDArray[np.int16], advance: int) -> Heard:
        log_mel, rule = self._bundle.log_mel, self._bundle.rule
        features = log_mel(clip[None])[0] if self._former is None else log_mel.next_clip(clip, self._former, advance)
        self._former = clip, features
        moved = (features if self._windows is None else self._windows.take(features))[None, ..., None]
        unknown, graph = rule and rule.unknown, self._bundle.graph
        if self._network is None or unknown is not None:
            frames, rest = divmod(advance, self._bundle.front_end.hop_length)
            self._values = run_next(graph, moved, self._values, 0 if rest else frames)
        values = self._values or {}
        logits = values[graph.output.name] if self._network is None else self._network(moved)
        likeness = np.zeros(1, np.int64) if unknown is None else unknown.of(sums_of(graph, values))
        return Heard(graph.output.q.dequantize(logits), likeness)

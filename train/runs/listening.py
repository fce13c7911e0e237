"""What a second of listening costs at several numbers of decisions a second, in MACs of the network.

A network with padding over time computes each window anew. One without computes each column of each layer once, however
many decisions hear it. The front end, which is no part of the challenge's count, is left out.
"""

from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction

from tinyscene.deploy.bundle.bundle import Bundle
from tinyscene.deploy.frontend.log_mel import FrontEnd
from tinyscene.deploy.graph.streaming import stream_cost
from tinyscene.train.network_settings import CPMobileModel
from tinyscene.train.recipe import Recipe

DECISIONS = (1, 2, 4, 10)  # a second


@dataclass(frozen=True)
class Listening:
    """MACs of a second of sound, by decisions a second."""

    streams: bool  # whether columns are computed once
    macs: dict[int, int]


def frames_a_second(front_end: FrontEnd) -> Fraction:
    return Fraction(front_end.sample_rate, front_end.hop_length)


def window_by_window(macs: int) -> Listening:
    """Of a network that computes each window anew, in so many MACs."""
    return Listening(False, {decisions: decisions * macs for decisions in DECISIONS})


def second_of_columns(recipe: Recipe, macs_of: Callable[[int], int]) -> int | None:
    """MACs that a second adds to a network without padding over time; none for one with.

    `macs_of` counts a clip of so many frames: another column adds what a column costs.
    """
    model, front_end = recipe.model, recipe.features
    if not isinstance(model, CPMobileModel) or model.time_padding != "none":
        return None
    frames, step = front_end.frames, model.column_frames
    return round(Fraction(macs_of(frames + step) - macs_of(frames), step) * frames_a_second(front_end))


def listening_of(bundle: Bundle, clip_macs: int) -> Listening:
    """Of a bundle, whose clip has so many MACs."""
    cost = stream_cost(bundle.graph) if bundle.front_end.edges == "none" else None
    if cost is None:
        return window_by_window(clip_macs)
    frames = frames_a_second(bundle.front_end)
    return Listening(True, {decisions: cost.of_second(frames, decisions) for decisions in DECISIONS})

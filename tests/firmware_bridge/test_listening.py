"""Networks that listen without end: each column is computed once, and each decision is that of its whole window."""

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from tests.streamable import LABELS, RATE, STRIDES, front_end, noise, receptive_frames, streamable
from tinyscene.deploy.bundle.bundle import Bundle
from tinyscene.deploy.bundle.features import input_log_mel
from tinyscene.deploy.common.errors import InputError
from tinyscene.deploy.frontend.log_mel import FrontEnd
from tinyscene.deploy.graph.columns import run_next
from tinyscene.deploy.graph.graph import Graph
from tinyscene.deploy.graph.reference import run
from tinyscene.firmware_bridge.codegen.library import Library, access_of_all, make_library, pace_of
from tinyscene.firmware_bridge.codegen.turns import row_work
from tinyscene.firmware_bridge.memory.by_time import by_time
from tinyscene.firmware_bridge.memory.pace import make_pace
from tinyscene.firmware_bridge.native import READY, NativeScene, native_scene


def library_of(strides: list[tuple[int, int]], frames: int, columns: int, seed: int = 0) -> tuple[Graph, Library]:
    sound = front_end(frames)
    graph = streamable(sound, strides, seed)
    period = pace_of(graph, ("plain",)).period
    hop = columns * period * sound.hop_length / RATE
    return graph, make_library(graph, sound, LABELS, ("plain",), hop, order="time")


def expected(graph: Graph, sound: FrontEnd, pcm: NDArray[np.int16], hop: int) -> NDArray[np.int8]:
    """The logits of every window, each computed by itself."""
    starts = range(0, len(pcm) - sound.clip_samples + 1, hop)
    windows = np.stack([pcm[start : start + sound.clip_samples] for start in starts])
    return run(graph, input_log_mel(graph, sound)(windows)[..., None])


def followed(graph: Graph, sound: FrontEnd, pcm: NDArray[np.int16], hop: int) -> NDArray[np.int8]:
    """The same, without computing anything twice."""
    log_mel, logits = input_log_mel(graph, sound), []
    former = pcm[: sound.clip_samples], log_mel(pcm[None, : sound.clip_samples])[0]
    values = run_next(graph, former[1][None, ..., None])
    for start in range(0, len(pcm) - sound.clip_samples + 1, hop):
        clip = pcm[start : start + sound.clip_samples]
        former = clip, log_mel.next_clip(clip, former, hop if start else 0)
        values = run_next(graph, former[1][None, ..., None], values, hop // sound.hop_length if start else 0)
        logits.append(values[graph.output.name][0])
    return np.stack(logits)


def heard(scene: NativeScene, pcm: NDArray[np.int16], portions: list[int]) -> list[list[int]]:
    """The decisions on sound that comes in portions, over and over."""
    decisions, at, turn = [], 0, 0
    while at < len(pcm):
        status, taken = scene.push(np.ascontiguousarray(pcm[at : at + portions[turn % len(portions)]]))
        at, turn = at + taken, turn + 1
        if status == READY:
            decisions.append(scene.decide().tolist())
    return decisions


PORTIONS = st.lists(st.integers(1, 3_000), min_size=1, max_size=9)


def require_windows(strides: list[tuple[int, int]], more: int, columns: int, portions: list[int], samples: int) -> int:
    """Columns that are made once decide as windows do that are each computed by themselves.

    Returns how many different logits there are: where they are at their bounds, equal ones show little.
    """
    heard_frames, period = receptive_frames(strides)
    sound = front_end(heard_frames + period * (more + -(-15 // period)))
    graph, library = library_of(strides, sound.frames, columns)
    pcm, hop = noise(samples), int(library.config["HOP_SAMPLES"])
    decisions = heard(native_scene(library), pcm, portions)
    wanted = expected(graph, sound, pcm, hop).tolist()
    assert len(decisions) == (samples - sound.clip_samples - int(library.config["DELAY_SAMPLES"])) // hop + 1
    assert decisions == wanted[: len(decisions)]
    return len({tuple(each) for each in wanted})


def test_every_decision_is_that_of_its_window_while_rings_come_round_many_times() -> None:
    assert require_windows([(1, 1), (1, 2), (2, 1)], 3, 2, [333], 60_000) > 2


@pytest.mark.slow
@settings(max_examples=12, deadline=None)
@given(STRIDES, st.integers(0, 6), st.integers(1, 9), PORTIONS)
def test_every_decision_is_that_of_its_window(
    strides: list[tuple[int, int]], more: int, columns: int, portions: list[int]
) -> None:
    assume(require_windows(strides, more, columns, portions, 60_000) > 2)


@pytest.mark.slow
def test_an_hour_of_sound_decides_as_its_windows_do() -> None:
    graph, library = library_of([(1, 1), (1, 2)], 39, 6)
    sound, pcm, hop = front_end(39), noise(3_600 * RATE), int(library.config["HOP_SAMPLES"])
    decisions = heard(native_scene(library), pcm, [1, 7_000, 333])
    wanted = followed(graph, sound, pcm, hop)
    assert decisions == wanted[: len(decisions)].tolist()
    assert len(wanted) - len(decisions) <= 1 < 9_000 < len(decisions)
    assert (expected(graph, sound, pcm, 100 * hop) == wanted[::100]).all()


def test_an_instance_that_was_copied_in_the_middle_goes_on_as_the_original() -> None:
    _, library = library_of([(1, 1), (1, 2)], 31, 1)
    pcm, first, second = noise(30_000), native_scene(library), native_scene(library)
    heard(first, pcm[:14_001], [777])
    second._memory[:] = first._memory
    assert heard(second, pcm[14_001:], [50]) == heard(first, pcm[14_001:], [4_000])


def test_passes_have_about_as_much_to_do() -> None:
    graph = by_time(streamable(front_end(47), [(1, 1), (1, 1), (1, 2), (1, 1), (1, 1)], 0))
    access = access_of_all(graph, ("plain",))
    work = row_work(graph, access)
    pace = make_pace(graph, access, work, columns=1)
    load = [0.0] * pace.period
    for each, stride, start in zip(work, pace.strides, pace.starts, strict=True):
        for place in range(start % stride, pace.period, stride):
            load[place] += each
    at_once = sum(work)  # in the pass in which every operator has its turn, if none starts later
    assert max(load) < 1.3 * sum(load) / pace.period < 0.5 * at_once


@pytest.mark.parametrize("hop", [0.1, 0.0, 11.0])
def test_a_hop_that_is_no_whole_number_of_columns_is_refused(hop: float) -> None:
    sound = front_end(31)
    with pytest.raises(InputError, match=r"^a hop of .* seconds: it must be a multiple of 0.064 \(a column\), and"):
        make_library(streamable(sound, [(1, 2)], 0), sound, LABELS, ("plain",), hop, order="time")


def test_a_network_that_pads_over_time_makes_no_decisions_between_clips(bundle: Bundle) -> None:
    with pytest.raises(InputError, match=r"^a hop of 0.25 seconds: in the order by time, windows of a network"):
        make_library(bundle.graph, bundle.front_end, bundle.labels, ("plain",), 0.25, order="time")

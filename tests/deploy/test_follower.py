"""Streams of a bundle, where windows overlap: nothing is computed twice, and each decision is that of its window."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from tests.streamable import LABELS, RATE, front_end, noise, streamable
from tinyscene.deploy.bundle.bundle import Bundle
from tinyscene.deploy.bundle.decision import DecisionRule
from tinyscene.deploy.bundle.index import BAND_MEANS, DECISION
from tinyscene.deploy.bundle.likeness import Likeness, run_with_sums
from tinyscene.deploy.frontend.audio import make_clip, source_samples
from tinyscene.deploy.frontend.band_offsets import BandOffsets, OffsetWindows
from tinyscene.deploy.frontend.fixed_point import FixedPointLogMel
from tinyscene.deploy.graph import columns
from tinyscene.deploy.graph.embedding import below_classifier
from tinyscene.deploy.graph.operators import Kind
from tinyscene.deploy.graph.reference import Values, run, run_integer
from tinyscene.deploy.graph.tensor import Tensor
from tinyscene.deploy.live.classifier import BundleClassifier

COLUMN = 4 * 128 / RATE  # seconds from one column of `endless` to the next


@pytest.fixture(scope="module")
def endless(bundle: Bundle) -> Bundle:
    """A bundle of a network without padding over time, with band means and a rule that knows unknown sounds."""
    sound, rng = front_end(31), np.random.default_rng(0)
    graph = streamable(sound, [(1, 1), (1, 2)], 0)
    channels = below_classifier(graph).output.shape[3]
    directions = tuple(map(tuple, rng.integers(-99, 99, (len(LABELS), channels)).tolist()))
    rule = DecisionRule(2, 3, 2, Likeness(0, 8, directions, 0.9, 0.9, 8))
    content = bundle.content | {
        "errors": {name: {"sqnr_db": 1.0, "alone": 1.0} for name in graph.tensors},
        "budget": bundle.content["budget"] | {"clip_macs": 1},
        BAND_MEANS: rng.integers(-9_000, 9_000, (len(LABELS), sound.n_mels)).tolist(),
        DECISION: rule.as_dict(),
    }
    return replace(bundle, front_end=sound, labels=LABELS, graph=graph, content=content)


def by_windows(
    bundle: Bundle, rate: int, hop: float, pcm: NDArray[np.int16], offsets: BandOffsets | None
) -> list[tuple[str, dict[str, float]]]:
    """The decisions on windows that are each computed by themselves."""
    scene, sound, rule = BundleClassifier(bundle, "reference"), bundle.front_end, bundle.rule
    length, decider, found = source_samples(sound.clip_samples, rate, sound.sample_rate), scene.decider(), []
    windows = offsets and OffsetWindows(offsets, sound, round(hop * rate * sound.sample_rate / rate))
    while (start := round(len(found) * (hop * rate))) + length <= len(pcm):
        clip, _ = make_clip(
            (pcm[start : start + length] / 2**15).astype(np.float32), rate, sound.sample_rate, sound.clip_samples
        )
        features = bundle.log_mel(clip[None])[0]
        moved = (windows.take(features) if windows else features)[None, ..., None]
        likeness = rule.unknown.of(run_with_sums(bundle.graph, moved)[1])[0] if rule and rule.unknown else 0
        logits = bundle.graph.output.q.dequantize(run(bundle.graph, moved)[0])
        found.append((decider(logits, likeness), scene.scores(logits)))
        if offsets:
            offsets.learn(int(logits.argmax()))
    return found


def require_windows(
    bundle: Bundle,
    rate: int,
    hop: float,
    learning: bool,
    portions: list[int],
    seconds: float,
    runner: str = "reference",
) -> None:
    scene, pcm = BundleClassifier(bundle, runner), noise(round(seconds * rate))
    pcm[len(pcm) // 2 :][: len(pcm) // 4] = 0  # some windows are digital silence, and the same
    offsets, expected = (scene.band_offsets() if learning else None for _ in range(2))
    stream, found, at = scene.stream(rate, hop, offsets), [], 0
    while at < len(pcm):
        portion = pcm[at : at + portions[0]]
        found += [(each["scene"], each["scores"]) for each in stream.push(portion)]
        at, portions = at + len(portion), [*portions[1:], portions[0]]
    assert found == by_windows(bundle, rate, hop, pcm, expected)
    assert len({str(scores) for _, scores in found}) > 3
    if offsets and expected:
        assert offsets.state == expected.state
        assert np.abs(offsets.values).max() > 0


@pytest.mark.parametrize("learning", [False, True])
@pytest.mark.parametrize("rate", [RATE, 3 * RATE // 2, 11_025])
@pytest.mark.parametrize("hop", [COLUMN, 3 * COLUMN, COLUMN / 4, 0.3])
def test_a_network_without_padding_decides_on_each_window_as_by_itself(
    learning: bool, rate: int, hop: float, endless: Bundle
) -> None:
    require_windows(endless, rate, hop, learning, [999, 1, 3_000], 4 if hop > COLUMN else 1)


@pytest.mark.parametrize(("rate", "hop", "learning"), [(32_000, 0.125, False), (48_000, 0.25, True)])
def test_a_network_with_padding_does_so_too(rate: int, hop: float, learning: bool, bundle: Bundle) -> None:
    require_windows(bundle, rate, hop, learning, [999, 1, 3_000], 2.5)


@pytest.mark.slow
@settings(max_examples=40, deadline=None)
@given(
    st.sampled_from([RATE, 2 * RATE, 6 * RATE, 11_025, 4_000]),
    st.floats(0.02, 0.5) | st.integers(1, 8).map(lambda count: count * COLUMN),
    st.booleans(),
    st.lists(st.integers(1, 9_000), min_size=1, max_size=5),
)
def test_all_hops_of_all_sounds_decide_on_each_window_as_by_itself(
    endless: Bundle, rate: int, hop: float, learning: bool, portions: list[int]
) -> None:
    require_windows(endless, rate, hop, learning, portions, 6)


@pytest.mark.parametrize(("rate", "at_an_end"), [(RATE, 0), (2 * RATE, 2)])  # the resampler reaches beyond a window
def test_the_reference_computes_what_is_new_alone(
    rate: int, at_an_end: int, endless: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    spectrum = FixedPointLogMel.spectrum
    frames: list[int] = []
    made: list[int] = []

    def counted(operator: Kind, sources: list[Tensor], arguments: list[Values]) -> Values:
        y = run_integer(operator, sources, arguments)
        made.append(y.shape[2] if operator is endless.graph.operators[0] else 0)
        return y

    def spectrum_of(self: FixedPointLogMel, windowed: NDArray[np.int64]) -> NDArray[np.int64]:
        frames.append(len(windowed))
        return spectrum(self, windowed)

    monkeypatch.setattr(columns, "run_integer", counted)
    monkeypatch.setattr(FixedPointLogMel, "spectrum", spectrum_of)
    found = BundleClassifier(endless, "reference").stream(rate, COLUMN).push(noise(2 * rate))
    later = len(found) - 1
    assert later > 20
    assert 31 + later * 4 <= sum(frames) <= 31 + later * (4 + at_an_end)
    assert 15 + later * 2 <= sum(made) <= 15 + later * (2 + at_an_end)

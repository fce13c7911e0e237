"""The decision rule in C: its decisions are those of Python, for any logits, and for sound with strangers in it."""

import ctypes
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import islice, pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from tests.deploy.folders import reindexed
from tests.firmware_bridge.test_scene_c import NOT_READY, NULL_POINTER, OK, READY, pointer
from tinyscene.deploy.bundle.bundle import Bundle, open_bundle
from tinyscene.deploy.bundle.decision import NEVER, Decider, DecisionRule
from tinyscene.deploy.bundle.likeness import MOST, Likeness, run_with_sums
from tinyscene.deploy.frontend.audio import Recording
from tinyscene.deploy.live.classifier import BundleClassifier
from tinyscene.firmware_bridge.codegen.library import make_library
from tinyscene.firmware_bridge.native import NativeScene, native_scene

RunCli = Callable[..., tuple[int, str, str]]
CLIP = 32_000
MINUTE = 60
HOUR = 3_600  # seconds


def fitted(bundle: Bundle, sounds: NDArray[np.int16] | None = None, **smoothing: int) -> DecisionRule:
    """A rule with random directions; its threshold divides sounds (clips, samples), by default the golden ones."""
    _, sums = run_with_sums(bundle.graph, bundle.features(bundle.vectors.pcm if sounds is None else sounds))
    directions = np.random.default_rng(5).integers(-128, 128, (len(bundle.labels) + 1, sums.shape[1]))
    *known, silence = map(tuple, directions.tolist())
    likeness = Likeness(-MOST, 12, tuple(known), 0.5, 0.5, len(sums), silence)
    middle = int(np.sort(likeness.of(sums))[len(sums) // 2])
    return DecisionRule(**smoothing, unknown=replace(likeness, threshold=middle))


def library_of(bundle: Bundle, rule: DecisionRule, hop: float = 1.0) -> NativeScene:
    return native_scene(make_library(bundle.graph, bundle.front_end, bundle.labels, ("plain",), hop, rule=rule))


@pytest.fixture(
    scope="module", params=[{}, {"average": 3, "margin": 9}, {"average": 4, "margin": NEVER, "patience": 2}]
)
def ruled(request: pytest.FixtureRequest, bundle: Bundle) -> tuple[DecisionRule, NativeScene]:
    rule = fitted(bundle, **request.param)
    return rule, library_of(bundle, rule)


@pytest.fixture(scope="module")
def sounds(bundle: Bundle) -> NDArray[np.int16]:
    """A minute: golden sounds, noise and tones in stretches of one to four seconds."""
    rng, seconds = np.random.default_rng(3), []
    while len(seconds) < MINUTE:
        golden = bundle.vectors.pcm[rng.integers(len(bundle.vectors.pcm))]
        noise = rng.normal(0, 10.0 ** rng.uniform(0, 4), CLIP)
        tone = 8_000 * np.sin(np.arange(CLIP) * rng.uniform(0.001, 1))
        sound = (golden, noise, tone)[rng.integers(3)].clip(-32_768, 32_767).astype(np.int16)
        seconds += [sound] * int(rng.integers(1, 5))
    return np.concatenate(seconds[:MINUTE])


def decisions(scene: NativeScene, pcm: NDArray[np.int16]) -> list[int]:
    """What the library decides on after each window of sound."""
    found, at = [], 0
    while at < len(pcm):
        status, taken = scene.push(pcm[at : at + 7_777])
        at += taken
        if status == READY:
            scene.decide()
            found.append(scene.c.tinyscene_decision(scene.instance))
    return found


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_any_logits_and_embeddings_are_decided_on_as_in_python(
    ruled: tuple[DecisionRule, NativeScene], data: st.DataObject
) -> None:
    rule, scene = ruled
    assert rule.unknown is not None
    rng, classes = np.random.default_rng(data.draw(st.integers(0, 2**32))), len(rule.unknown.directions)
    count, spread = data.draw(st.integers(1, 300)), data.draw(st.sampled_from([1, 5, 60, 2**31 - 1]))
    logits = rng.integers(-128, 128, (count, classes)) // data.draw(st.sampled_from([1, 20, 127]))
    sums = rng.integers(-spread, spread + 1, (count, len(rule.unknown.directions[0])))
    silent = rng.random(count) < 0.3  # nearest to silence, at any distance from the classes
    sums[silent] = np.outer(rng.integers(0, 1_000, silent.sum()), rule.unknown.silence)
    decider = Decider(rule, classes)
    likeness = rule.unknown.of(sums.astype(np.int32))
    expected = [decider.push(row, int(each)) for row, each in zip(logits.astype(np.int8), likeness, strict=True)]

    arena = np.zeros(int(scene.config["ARENA_BYTES"]), np.int8)
    start = int(scene.config["EMBEDDING"])
    state = np.zeros(4_096, np.int32)
    scene.c.tinyscene_rule_reset(pointer(state))
    found, kept = [], []
    for row, embedding in zip(logits.astype(np.int8), sums.astype(np.int32), strict=True):
        arena[start : start + embedding.nbytes] = embedding.view(np.int8)
        scene.c.tinyscene_rule_update(pointer(state), pointer(np.ascontiguousarray(row)), pointer(arena))
        kept.append(int(state[classes]))  # tinyscene_rule.likeness
        found.append(int(state[classes + 5]))  # tinyscene_rule.decided
    assert kept == [int(likeness[max(0, end - rule.average) : end].sum()) for end in range(1, count + 1)]
    assert found == expected


def test_a_minute_of_sound_is_decided_on_as_in_python(
    bundle: Bundle, ruled: tuple[DecisionRule, NativeScene], sounds: NDArray[np.int16]
) -> None:
    rule, scene = ruled
    scene.require(scene.c.tinyscene_reset(scene.instance))
    assert rule.unknown is not None
    logits, sums = run_with_sums(bundle.graph, bundle.features(sounds.reshape(-1, CLIP)))
    decider = Decider(rule, len(bundle.labels))
    expected = [decider.push(*second) for second in zip(logits, rule.unknown.of(sums).tolist(), strict=True)]
    assert decisions(scene, sounds) == expected
    assert {len(bundle.labels)} < set(expected)  # strangers, and known sounds


def test_overlapping_windows_are_decided_on_in_their_order(bundle: Bundle, sounds: NDArray[np.int16]) -> None:
    rule, pcm = fitted(bundle, average=3, margin=5), sounds[: 8 * CLIP]
    starts = range(0, len(pcm) - CLIP + 1, CLIP // 4)
    logits, sums = run_with_sums(bundle.graph, bundle.features(np.stack([pcm[at : at + CLIP] for at in starts])))
    assert rule.unknown is not None
    decider = Decider(rule, len(bundle.labels))
    expected = [decider.push(*second) for second in zip(logits, rule.unknown.of(sums).tolist(), strict=True)]
    assert decisions(library_of(bundle, rule, 0.25), pcm) == expected


def test_a_rule_without_strangers_needs_no_embedding(bundle: Bundle, sounds: NDArray[np.int16]) -> None:
    rule, pcm = DecisionRule(average=5, margin=2), sounds[: 12 * CLIP]
    scene = library_of(bundle, rule)
    assert not {"UNKNOWN", "EMBEDDING"} & scene.config.keys()
    logits, _ = run_with_sums(bundle.graph, bundle.features(pcm.reshape(-1, CLIP)))
    decider = Decider(rule, len(bundle.labels))
    assert decisions(scene, pcm) == [decider.push(row) for row in logits]


def test_a_decision_waits_for_the_first_one_and_is_forgotten_by_a_reset(
    ruled: tuple[DecisionRule, NativeScene], sounds: NDArray[np.int16]
) -> None:
    _, scene = ruled
    assert scene.c.tinyscene_reset(scene.instance) == OK
    assert scene.c.tinyscene_decision(scene.instance) == NOT_READY
    once = decisions(scene, sounds[: 9 * CLIP])
    assert scene.c.tinyscene_reset(scene.instance) == OK
    assert scene.c.tinyscene_decision(scene.instance) == NOT_READY
    assert decisions(scene, sounds[: 9 * CLIP]) == once
    assert scene.c.tinyscene_decision(NULL_POINTER) == -1


@pytest.mark.parametrize("field", ["next", "candidate", "decided"])
def test_a_rule_from_which_a_place_outside_the_memory_would_follow_is_none(
    ruled: tuple[DecisionRule, NativeScene], bundle: Bundle, field: str
) -> None:
    rule, scene = ruled
    classes = len(bundle.labels)
    place = classes + {"next": 2, "candidate": 4, "decided": 5}[field]  # of struct tinyscene_rule
    smallest, largest = (0, rule.average - 1) if field == "next" else (-1, classes)
    for value in (smallest - 1, smallest, largest, largest + 1):
        state = np.zeros(4_096, np.int32)
        scene.c.tinyscene_rule_reset(pointer(state))
        state[place] = value
        assert scene.c.tinyscene_rule_valid(pointer(state)) == (smallest <= value <= largest)


def test_the_class_after_the_last_is_none_of_these(ruled: tuple[DecisionRule, NativeScene], bundle: Bundle) -> None:
    scene = ruled[1]
    label = scene.c.tinyscene_label
    label.restype = ctypes.c_char_p
    assert scene.config["UNKNOWN"] == len(bundle.labels)
    assert [label(ctypes.c_size_t(len(bundle.labels) + more)) for more in (0, 1)] == [b"none of these", None]


def test_the_native_runner_gives_the_sums_of_the_reference(
    bundle: Bundle, ruled: tuple[DecisionRule, NativeScene]
) -> None:
    for found, expected in zip(
        ruled[1].with_sums(bundle.vectors.pcm),
        run_with_sums(bundle.graph, bundle.features(bundle.vectors.pcm)),
        strict=True,
    ):
        np.testing.assert_array_equal(found, expected)


def test_a_library_without_a_rule_has_nothing_of_it(bundle: Bundle) -> None:
    library = make_library(bundle.graph, bundle.front_end, bundle.labels, ("plain",))
    assert not {name for name in library.files if "decision" in name or "directions" in name}
    assert "embedding" not in library.files["tinyscene_network.c"]
    assert not hasattr(native_scene(library).c, "tinyscene_decision")


def hour(esc10: Path, tau_mini: Path) -> Iterator[NDArray[np.int16]]:
    """An hour of real sound, second by second: scenes and single sounds by turns, in stretches."""
    recordings = (sorted((tau_mini / "audio").glob("*.flac")), sorted(esc10.rglob("*.ogg")))
    rng, left = np.random.default_rng(7), HOUR
    while left:
        kind = recordings[rng.integers(2)]
        start = int(rng.integers(len(kind) - 10))
        for path in kind[start : start + int(rng.integers(1, 10))]:
            for clip in Recording(path, CLIP).clips():
                if left:
                    left -= 1
                    yield clip


@pytest.mark.slow
def test_an_hour_of_sound_with_strangers_is_decided_on_as_in_python(
    bundle: Bundle, esc10: Path, tau_mini: Path, tmp_path: Path
) -> None:
    some = np.stack(list(islice(hour(esc10, tau_mini), 0, 600, 15)))
    rule = fitted(bundle, some, average=3, margin=6, patience=4)
    changed = open_bundle(reindexed(shutil.copytree(bundle.folder, tmp_path / "ruled"), decision=rule.as_dict()))
    scene, stream = library_of(changed, rule), BundleClassifier(changed, "reference").stream(CLIP)
    names, found, expected = [*bundle.labels, "none of these"], [], []
    for clip in hour(esc10, tau_mini):
        found += [names[index] for index in decisions(scene, clip)]
        expected += [decision["scene"] for decision in stream.push(clip)]
    assert len(expected) == HOUR
    assert found == expected
    changes = sum(before != after for before, after in pairwise(expected))
    assert {"none of these"} < set(expected)
    assert changes > 100

"""Offsets of the mel bands, learned while listening: what they come to, and where they are kept."""

import os
import shutil
import struct
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from tests.deploy.folders import reindexed
from tinyscene.deploy.bundle.bundle import Bundle, open_bundle
from tinyscene.deploy.common.errors import InputError
from tinyscene.deploy.frontend.band_offsets import MOST, BandOffsets, Bands, OffsetWindows, class_means, read_means
from tinyscene.deploy.frontend.fixed_point import FixedPointLogMel
from tinyscene.deploy.frontend.log_mel import FrontEnd
from tinyscene.deploy.graph.reference import run
from tinyscene.deploy.live.classifier import BundleClassifier, SceneClassifier

RunCli = Callable[..., tuple[int, str, str]]
RATE, PRIOR, HORIZON, SILENCE = 32_000, 100, 1_000, -120
BANDS = Bands(((256 * 10, 256 * -20), (256 * 40, 0)), SILENCE, PRIOR, HORIZON, 7)
FRONT_END = FrontEnd(sample_rate=4_000, n_fft=256, win_length=200, hop_length=100, n_mels=2)


def frames(low: int, high: int, count: int) -> NDArray[np.int8]:
    return np.repeat(np.array([[low], [high]], np.int8), count, axis=1)


def learned(*windows: tuple[NDArray[np.int8], int]) -> BandOffsets:
    offsets = BandOffsets(BANDS)
    for features, decided in windows:
        offsets.hear(features)
        offsets.learn(decided)
    return offsets


@pytest.mark.parametrize(
    ("count", "expected"), [(0, [0, 0]), (1, [0, 0]), (50, [-3, 2]), (100, [-5, 3]), (900, [-9, 5])]
)
def test_what_is_missing_to_the_mean_is_added_the_more_the_more_was_heard(count: int, expected: list[int]) -> None:
    assert learned((frames(20, -25, count), 0)).values.tolist() == expected  # (10, -20) is usual


def test_halves_are_rounded_away_from_zero() -> None:
    assert learned((frames(11, -21, PRIOR), 0)).values.tolist() == [-1, 1]


def test_a_device_that_stays_in_a_scene_it_knows_does_not_take_it_for_its_own_colour() -> None:
    assert learned((frames(40, 0, 900), 1)).values.tolist() == [0, 0]
    assert learned((frames(40, 0, 900), 0)).values.tolist() == [-27, -18]


def test_digital_silence_teaches_nothing() -> None:
    silent = frames(SILENCE, SILENCE, 500)
    assert learned((frames(20, -25, 50), 0), (silent, 0)).state == learned((frames(20, -25, 50), 0)).state
    assert learned((frames(SILENCE, -25, 50), 0)).frames == 50  # it is in one band only


def test_no_more_frames_are_heard_between_decisions_than_32_bits_hold() -> None:
    offsets = BandOffsets(replace(BANDS, horizon=MOST))
    for count in (MOST // 2 - 1, 2, MOST):  # the last of them one by one
        offsets.hear(frames(SILENCE - 1, 127, count))
    offsets.learn(0)
    assert offsets.frames == MOST // 2
    assert offsets._missing.tolist() == [MOST // 2 * 256 * (10 + 121), MOST // 2 * 256 * (-20 - 127)]


@pytest.mark.parametrize("sign", [1, -1])
def test_an_eighth_is_forgotten_beyond_the_horizon(sign: int) -> None:
    offsets = BandOffsets(replace(BANDS, means=((0, 256 * sign), (0, 0))))
    offsets.hear(frames(0, 0, HORIZON + 1))
    offsets.learn(0)
    assert (offsets.frames, offsets._missing.tolist()) == (1_001 - 125, [0, sign * 256 * (1_001 - 125) + -sign * 32])


def test_another_microphone_is_learned_in_the_place_of_the_first() -> None:
    offsets = learned(*[(frames(20, -26, 50), 0)] * 100)
    assert (offsets.values.tolist(), offsets.frames <= HORIZON) == ([-9, 5], True)
    for _ in range(160):
        offsets.hear(frames(0, -10, 50))
        offsets.learn(0)
    assert offsets.values.tolist() == [9, -9]


def test_no_offset_is_larger_than_the_features() -> None:
    offsets = BandOffsets(replace(BANDS, means=((256 * 127, 256 * -128),), prior=1))
    offsets.hear(frames(-128, 127, 900))
    offsets.learn(0)
    assert offsets.values.tolist() == [127, -127]
    moved = OffsetWindows(offsets, FRONT_END, 4_000).take(frames(5, -5, FRONT_END.frames))
    assert (moved == frames(127, -128, FRONT_END.frames)).all()


@settings(max_examples=30)
@given(st.integers(1, 40), st.integers(2, 6))
def test_a_frame_has_the_same_offsets_in_every_window_that_holds_it(hop: int, windows: int) -> None:
    rng = np.random.default_rng(hop)
    sound = rng.integers(-50, 50, (2, FRONT_END.frames + (windows - 1) * hop)).astype(np.int8)
    offsets = BandOffsets(replace(BANDS, prior=1))
    taker, found = OffsetWindows(offsets, FRONT_END, hop * 100), []
    for window in range(windows):
        found.append(taker.take(sound[:, window * hop :][:, : FRONT_END.frames]))
        offsets.learn(window % 2)
    first, last = (
        1,
        FRONT_END.frames - 1,
    )  # which begin and end with the clip; others are reflected in one of the windows, and computed for it
    for former, later in pairwise(found):
        assert (former[:, first + hop : last] == later[:, first : max(first, last - hop)]).all()
    assert offsets.frames == last - first + (windows - 1) * min(hop, last - first)


def test_frames_that_are_reflected_teach_nothing() -> None:
    features = frames(0, 0, FRONT_END.frames)
    features[:, [0, -1]] = 99  # the others begin with the clip, and end with it
    offsets = BandOffsets(BANDS)
    OffsetWindows(offsets, FRONT_END, 4_000).take(features)
    offsets.learn(0)
    assert offsets.state == learned((features[:, 1:-1], 0)).state


def test_a_state_goes_on_where_it_was_saved(tmp_path: Path) -> None:
    first = learned((frames(20, -25, 50), 0), (frames(1, 2, 70), 1))
    (tmp_path / "link").symlink_to("state")
    first.save(tmp_path / "link")
    second = BandOffsets(BANDS)
    second.load(tmp_path / "state")
    assert (second.values == first.values).all()
    for each in (first, second):
        each.hear(frames(3, 4, 30))
        each.learn(0)
    assert second.state == first.state


@pytest.mark.parametrize(
    "spoiled", ["shorter", "longer", "a model before", "a model behind", "a folder", "a pipe", "missing"]
)
def test_a_file_that_is_no_state_of_the_model_is_named(spoiled: str, tmp_path: Path) -> None:
    state, path = learned((frames(20, -25, 50), 0)).state, tmp_path / "state"
    contents = {
        "shorter": state[:-1],
        "longer": state + b"0",
        "a model before": state[:4] + bytes(4) + state[8:],
        "a model behind": state[:4] + b"8888" + state[8:],
    }
    if spoiled in contents:
        path.write_bytes(contents[spoiled])
    elif spoiled != "missing":
        {"a folder": os.mkdir, "a pipe": os.mkfifo}[spoiled](path)
    with pytest.raises(InputError, match=f"^{path}: "):
        BandOffsets(BANDS).load(path)


@pytest.mark.parametrize(
    ("frames", "missing", "fits"),
    [
        (-1, 0, False),
        (0, 0, True),
        (0, 1, False),
        (1, 65_280, True),
        (1, -65_280, True),
        (1, 65_281, False),
        (1, -65_281, False),
        (MOST, 0, True),
        (MOST + 1, 0, False),
    ],
)
def test_a_state_holds_what_can_have_been_heard(frames: int, missing: int, fits: bool) -> None:
    state = struct.pack("<4sIi2i", b"TSB1", BANDS.identity, frames, 0, missing)
    offsets = BandOffsets(BANDS)
    if fits:
        offsets.restore(state)
        assert offsets.state == state
        return
    with pytest.raises(InputError, match="spoiled"):
        offsets.restore(state)


@pytest.mark.parametrize(("hop", "prior", "horizon"), [(100, 1_200, 9_600), (7, 2**14, 2**14)])
def test_half_a_minute_is_the_prior_and_four_minutes_the_horizon(hop: int, prior: int, horizon: int) -> None:
    front_end = replace(FRONT_END, hop_length=hop)
    bands = Bands.of([[1, 2]], FixedPointLogMel(front_end, 0.05, 3))
    assert (bands.means, bands.prior, bands.horizon) == (((1, 2),), prior, horizon)
    assert f"{bands.prior} {bands.horizon}" == f"{prior} {horizon}"  # of one type, for the identity has them


@pytest.mark.parametrize(("scale", "zero_point"), [(0.05, -128), (0.05, 3), (0.2, 127), (1.0, 127)])
def test_the_lowest_feature_is_that_of_digital_silence(scale: float, zero_point: int) -> None:
    log_mel = FixedPointLogMel(FRONT_END, scale, zero_point)
    assert np.unique(log_mel(np.zeros((1, 4_000), np.int16))).tolist() == [Bands.of([[1, 2]], log_mel).silence]


def test_a_state_is_of_one_front_end_one_quantization_and_one_set_of_means() -> None:
    def identity(means: list[list[int]], hop: int, scale: float, zero_point: int) -> int:
        log_mel = FixedPointLogMel(replace(FRONT_END, hop_length=hop), scale, zero_point)
        return Bands.of(means, log_mel).identity

    mine = ([[1, 2]], 100, 0.05, 3)
    others = [([[1, 3]], 100, 0.05, 3), ([[1, 2]], 50, 0.05, 3), ([[1, 2]], 100, 0.06, 3), ([[1, 2]], 100, 0.05, 4)]
    assert identity(*mine) == 0xFF9ED689  # or what devices have learned would be lost
    assert identity(*mine) not in [identity(*other) for other in others]


def test_the_means_of_classes_are_those_of_their_clips() -> None:
    features = np.arange(2 * 3 * 4 * 5).reshape(2, 3, 4, 5, 1)[..., :1].astype(np.int8)  # two clips of two classes
    rows = class_means(features.reshape(2, 3, 20, 1), np.array([2, 0]), 3)
    exact = np.rint(256 * features.reshape(2, 3, 20).astype(float).mean(2)).astype(int).tolist()
    both = np.rint(256 * features.reshape(2, 3, 20).astype(float).mean((0, 2))).astype(int).tolist()
    assert rows == [exact[1], both, exact[0]]


@pytest.mark.parametrize(
    "means",
    [
        None,
        {},
        [],
        [[0, 0]],
        [[0, 0]] * 3,
        [[0, 0], [0]],
        [[0, 0], [0, 0, 0]],
        [[0, 0], [0, 0.5]],
        [[0, 0], [0, True]],
        [[0, 0], [0, 32_513]],
    ],
)
def test_means_that_are_none_are_refused(means: object) -> None:
    with pytest.raises(InputError, match=r"^band means: "):
        read_means(means, 2, 2)
    assert read_means([[0, 1], [-32_768, 32_512]], 2, 2) == ((0, 1), (-32_768, 32_512))


# Streams and the command


def sound(seconds: float) -> NDArray[np.int16]:
    """Noise that grows."""
    count = round(seconds * RATE)
    noise = np.random.default_rng(0).standard_normal(count) * np.geomspace(10, 9_000, count)
    return noise.clip(-32_768, 32_767).astype(np.int16)


class Other(SceneClassifier):
    """A model that is no bundle."""

    labels, front_end = ("a", "b"), FRONT_END

    def logits(self, pcm: NDArray[np.int16]) -> NDArray[np.float32]:
        return np.zeros((len(pcm), 2), np.float32)


def test_a_stream_decides_on_its_windows_with_the_offsets_that_it_learns(bundle: Bundle) -> None:
    scene, samples = BundleClassifier(bundle, "reference"), sound(2.5)
    offsets, expected = scene.band_offsets(), BandOffsets(bundle.bands)
    for each in (offsets, expected):  # a quiet minute, so that they are large
        each.hear(np.full((bundle.front_end.n_mels, 4_000), -100, np.int8))
        each.learn(0)
    stream, windows = scene.stream(RATE, 0.5, offsets), OffsetWindows(expected, bundle.front_end, RATE // 2)
    found = [decision["scores"] for part in np.array_split(samples, 7) for decision in stream.push(part)]
    logits = []
    for start in range(0, 24 * RATE // 16 + 1, RATE // 2):
        moved = windows.take(bundle.log_mel(samples[None, start : start + RATE])[0])
        logits.append(bundle.graph.output.q.dequantize(run(bundle.graph, moved[None, ..., None])[0]))
        expected.learn(int(logits[-1].argmax()))
    assert found == [scene.scores(row) for row in logits]
    assert offsets.state == expected.state
    assert np.abs(offsets.values).max() > 0
    assert found != [decision["scores"] for decision in scene.stream(RATE, 0.5).push(samples)]


def test_what_is_padded_teaches_nothing_and_a_new_stream_keeps_what_was_learned(bundle: Bundle) -> None:
    scene = BundleClassifier(bundle, "reference")
    offsets = scene.band_offsets()
    stream = scene.stream(RATE, None, offsets)
    stream.push(sound(1.7))
    state = offsets.state
    assert (len(stream.finish()), offsets.state, offsets.frames > 0) == (1, state, True)
    other = scene.band_offsets()
    other.restore(state)
    assert scene.stream(RATE, None, other).push(sound(1)) == stream.push(sound(1))
    assert other.state == offsets.state != state


@pytest.mark.slow
def test_the_compiled_library_decides_with_offsets_as_the_reference(bundle: Bundle) -> None:
    found = []
    for runner in ("native", "reference"):
        scene = BundleClassifier(bundle, runner)
        offsets = scene.band_offsets()
        found.append((scene.stream(RATE, 0.5, offsets).push(sound(2.5)), offsets.state))
    assert found[0] == found[1]


def test_a_model_that_has_no_means_says_how_to_get_them(bundle: Bundle) -> None:
    index = {key: value for key, value in bundle.content.items() if key != "band_means"}
    older = BundleClassifier(replace(open_bundle(bundle.folder), content=index), "reference")
    with pytest.raises(InputError, match=r"no means of its mel bands .* make it again with `tinyscene quantize`"):
        older.band_offsets()
    with pytest.raises(InputError, match="only a bundle does"):
        Other().stream(8_000, None, BandOffsets(BANDS))
    with pytest.raises(InputError, match="band offsets of another model"):
        BundleClassifier(bundle, "reference").stream(RATE, None, BandOffsets(BANDS))


def test_listening_goes_on_from_the_file_that_it_keeps(bundle: Bundle, tmp_path: Path, run_cli: RunCli) -> None:
    soundfile.write(tmp_path / "a.wav", sound(2), RATE, "PCM_16")
    command = ("listen", bundle.folder, "--source", tmp_path / "a.wav", "--fast", "--hop", 1, "--runner", "reference")
    counts = []
    for _ in range(2):
        assert run_cli(*command, "--band-offsets", tmp_path / "mine")[0] == 0
        offsets = BandOffsets(bundle.bands)
        offsets.load(tmp_path / "mine")
        counts.append(offsets.frames)
    assert counts[1] == 2 * counts[0] > 0
    (tmp_path / "mine").write_bytes(b"not mine")
    code, out, err = run_cli(*command, "--band-offsets", tmp_path / "mine")
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert (tmp_path / "mine").read_bytes() == b"not mine"


def test_hostile_means_in_an_index_are_refused(bundle: Bundle, tmp_path: Path) -> None:
    folder = reindexed(shutil.copytree(bundle.folder, tmp_path / "hostile"), band_means=[[0]])
    with pytest.raises(InputError, match=r"bundle.json: band means: not those of 10 classes$"):
        open_bundle(folder)

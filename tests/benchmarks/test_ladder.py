"""The ladder's differences and intervals, against closed forms."""

import itertools

import numpy as np
import pytest
from numpy.typing import NDArray

from tinyscene.benchmarks.bootstrap import macro
from tinyscene.benchmarks.experiments.ladder import TestList as Listed
from tinyscene.benchmarks.experiments.ladder import compare, pooled

CLIPS_A_RECORDING, RECORDINGS = 10, 4  # of each of two scenes


def listed(device: str = "s4") -> Listed:
    count = 2 * RECORDINGS * CLIPS_A_RECORDING
    recording = np.arange(count) // CLIPS_A_RECORDING
    return Listed(np.arange(count), recording // RECORDINGS, recording, np.full(count, device))


def answers(test: Listed, *shares: float) -> NDArray[np.bool_]:
    """Right answers (seed, clip): this share of each recording's clips, one share a recording."""
    position = test.clips % CLIPS_A_RECORDING
    return (position < CLIPS_A_RECORDING * np.array(shares)[test.recording])[None]


def test_the_same_answers_differ_by_nothing() -> None:
    test = listed()
    right = answers(test, *np.linspace(0, 0.7, 8))
    row = compare([right], [right], test)
    assert (row["macro_gain"], row["macro_interval"]) == (0, [0, 0])


def test_a_gain_that_is_the_same_on_every_recording_is_certain() -> None:
    test = listed()
    row = compare([answers(test, *[0.5] * 8)], [answers(test, *[0.3] * 8)], test)
    assert row["macro_gain"] == pytest.approx(20)
    assert row["macro_interval"] == pytest.approx([20, 20])


def test_the_interval_is_that_of_drawing_whole_recordings_within_their_scene() -> None:
    """One recording of four gains everything: how often it is drawn is binomial, and so are the bounds."""
    test = listed()
    gains = [1.0, 0, 0, 0, 0, 0, 0, 0]
    row = compare([answers(test, *gains)], [answers(test, *[0.0] * 8)], test)
    draws = [100 * draw.count(0) / RECORDINGS / 2 for draw in itertools.product(range(RECORDINGS), repeat=RECORDINGS)]
    assert row["macro_gain"] == pytest.approx(12.5)
    assert row["macro_interval"] == pytest.approx([np.percentile(draws, 2.5), np.percentile(draws, 97.5)])


def test_an_interval_by_recording_is_wider_than_one_by_clip_would_be() -> None:
    test = listed()
    row = compare([answers(test, 1, 1, 0, 0, 1, 1, 0, 0)], [answers(test, *[0.5] * 8)], test)
    by_clip = 100 * 1.96 * np.sqrt(0.25 / len(test.clips))
    assert row["macro_interval"][1] - row["macro_interval"][0] > 2 * 2 * by_clip


def test_mean_and_deviation_are_over_the_seeds() -> None:
    test = listed()
    right = np.concatenate([answers(test, *[share] * 8) for share in (0.2, 0.3, 0.7)])
    row = compare([right], [right], test)
    assert (row["seeds"], row["macro_mean"], row["macro_sd"]) == (3, pytest.approx(40), pytest.approx(26.457513))


def test_a_group_is_of_its_devices_alone() -> None:
    test = listed()
    halves = Listed(test.clips, test.truth, test.recording, np.where(test.clips % 2, "s1", "s4"))
    right = (halves.clips % 2 == 0)[None]  # s4 is always right, s1 never
    row = compare([right], [right], halves)
    assert (row["unseen_mean"], row["seen_mean"], row["macro_mean"]) == (100, 0, 50)


def test_folds_are_one_test_list_with_their_own_seeds() -> None:
    test = listed()
    first = np.concatenate([answers(test, *[share] * 8) for share in (0.2, 0.4)])
    row = compare([first, answers(test, *[0.9] * 8)], [answers(test, *[0.1] * 8)] * 2, pooled([test, test]))
    assert (row["runs"], row["macro_mean"], row["macro_gain"]) == (3, pytest.approx(60), pytest.approx(50))
    assert row["macro_sd"] == pytest.approx(14.142136)  # of the fold that has two


def test_an_interval_is_by_seed_too() -> None:
    """Every recording is alike, so only the two seeds, 0 and 40 %, are left to chance."""
    test = listed()
    right = np.concatenate([answers(test, *[share] * 8) for share in (0.0, 0.4)])
    row = compare([right], [answers(test, *[0.0] * 8)], test)
    assert (row["macro_gain"], row["macro_interval"]) == (pytest.approx(20), pytest.approx([0, 40]))


def test_a_class_that_a_draw_leaves_out_does_not_count_in_it() -> None:
    test = listed()
    right = answers(test, *[0.5] * RECORDINGS, *[0.3] * RECORDINGS)[0]
    second_scene = np.repeat([0.0, 1.0], RECORDINGS)[None]  # (draw, recording)
    assert macro(right, test.members("macro"), test, second_scene) == pytest.approx([0.4, 0.3])

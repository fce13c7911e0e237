"""The decision rule: against the same in fractions, as an untrusted entry of a bundle, and in classifiers."""

import json
import math
import shutil
from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st

import tinyscene
from tests.deploy.folders import reindexed
from tinyscene.deploy.bundle.bundle import Bundle, open_bundle
from tinyscene.deploy.bundle.decision import NEVER, Decider, DecisionRule
from tinyscene.deploy.bundle.likeness import MOST, Likeness, run_with_sums
from tinyscene.deploy.bundle.model_card import decision_lines
from tinyscene.deploy.common.errors import InputError
from tinyscene.deploy.graph.operators import Conv2D
from tinyscene.deploy.graph.reference import run_all
from tinyscene.deploy.live.classifier import BundleClassifier
from tinyscene.train.quantize.decide import few_kept, fit_likeness, threshold_to_keep

RunCli = Callable[..., tuple[int, str, str]]
CLIP = 32_000
INT8 = st.integers(-128, 127)
LIKENESS = Likeness(0, 0, ((1, 0), (0, 1), (-1, 0)), 0.95, 0.96, 256)
SMOOTHING = {"average": st.integers(1, 9), "margin": st.integers(0, 40) | st.just(NEVER), "patience": st.integers(0, 5)}
RULES = st.builds(
    DecisionRule,
    **SMOOTHING,
    unknown=st.none() | st.builds(lambda threshold: replace(LIKENESS, threshold=threshold), st.integers(-20, 20)),
)
SECONDS = st.tuples(st.lists(INT8 | st.integers(-3, 3), min_size=3, max_size=3), st.integers(-25, 25))
STREAMS = st.lists(SECONDS, min_size=1, max_size=40)
Stream = list[tuple[list[int], int]]  # logits and likeness of each second


def in_fractions(rule: DecisionRule, stream: Stream) -> list[int]:
    """The rule as it is described, with means that are divided, computed anew for each decision."""
    decided: list[int] = []
    candidates: list[int] = []
    classes = len(stream[0][0])
    for end in range(1, len(stream) + 1):
        window = stream[max(0, end - rule.average) : end]
        means = [Fraction(sum(column), len(window)) for column in zip(*(logits for logits, _ in window), strict=True)]
        likeness = Fraction(sum(each for _, each in window), len(window))
        is_unknown = rule.unknown is not None and likeness < rule.unknown.threshold
        candidates.append(classes if is_unknown else means.index(max(means)))
        run = next((back for back, each in enumerate(reversed(candidates)) if each != candidates[-1]), end)
        new, old = candidates[-1], decided[-1] if decided else None
        is_patient = 0 < rule.patience <= run
        if old is None or is_patient:
            changes = True
        elif classes in (new, old):
            changes = rule.patience == 0
        else:
            changes = means[new] - means[old] >= rule.margin
        decided.append(new if old is None or changes else old)
    return decided


def decided(rule: DecisionRule, stream: Stream) -> list[int]:
    decider = Decider(rule, len(stream[0][0]))
    return [decider.push(np.array(logits, np.int8), likeness) for logits, likeness in stream]


def without_likeness(*logits: list[int]) -> Stream:
    return [(each, 0) for each in logits]


def with_rule(bundle: Bundle, folder: Path, rule: DecisionRule) -> Bundle:
    """A copy of a bundle that has a rule."""
    return open_bundle(reindexed(shutil.copytree(bundle.folder, folder / "with_rule"), decision=rule.as_dict()))


@pytest.fixture(scope="module")
def recording(bundle: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bundle's golden sounds, one second each, twice."""
    path = tmp_path_factory.mktemp("decision") / "golden.wav"
    soundfile.write(path, np.concatenate([*bundle.vectors.pcm, *bundle.vectors.pcm]), CLIP, "PCM_16")
    return path


@pytest.fixture(scope="module")
def rule(bundle: Bundle) -> DecisionRule:
    """A rule that smooths, and that keeps half of the golden sounds."""
    pcm = np.concatenate([bundle.vectors.pcm, np.zeros_like(bundle.vectors.pcm[:1])])
    *sums, silence = run_with_sums(bundle.graph, bundle.features(pcm))[1]
    truth = np.arange(len(sums)) % len(bundle.labels)
    return DecisionRule(2, 3, 2, fit_likeness(np.stack(sums), silence, truth, len(bundle.labels), 0.5))


# The rule


@settings(deadline=None)
@given(RULES, STREAMS)
def test_integers_decide_as_fractions_do(rule: DecisionRule, stream: Stream) -> None:
    assert decided(rule, stream) == in_fractions(rule, stream)


def test_the_rule_of_the_defaults_is_the_highest_logit() -> None:
    stream = np.random.default_rng(0).integers(-128, 128, (200, 4)).tolist()
    assert decided(DecisionRule(), without_likeness(*stream)) == [logits.index(max(logits)) for logits in stream]


def test_a_likeness_that_equals_the_threshold_is_kept_and_the_next_lower_is_not() -> None:
    rule = DecisionRule(unknown=replace(LIKENESS, threshold=7))
    assert decided(rule, [([0, 7, 0], 7), ([0, 7, 0], 6)]) == [1, 3]


def test_a_mean_between_two_steps_is_not_rounded() -> None:
    rule = DecisionRule(average=2, unknown=replace(LIKENESS, threshold=7))
    assert decided(rule, [([1, 0, 0], 7), ([1, 0, 0], 6), ([1, 0, 0], 8)]) == [0, 3, 0]


def test_a_lead_below_the_margin_changes_the_scene_after_some_patience() -> None:
    rule = DecisionRule(margin=10, patience=3)
    stream = without_likeness([5, 0], [0, 9], [0, 9], [0, 9], [9, 0], [10, 0])
    assert decided(rule, stream) == [0, 0, 0, 1, 1, 0]


def test_a_run_is_broken_by_another_candidate() -> None:
    rule = DecisionRule(margin=NEVER, patience=2)
    stream = without_likeness([9, 0, 0], [0, 9, 0], [0, 0, 9], [0, 9, 0], [0, 9, 0])
    assert decided(rule, stream) == [0, 0, 0, 0, 1]


# The likeness


def test_the_sums_are_those_of_what_the_last_convolution_takes(bundle: Bundle) -> None:
    features = bundle.features(bundle.vectors.pcm[:2])
    logits, sums = run_with_sums(bundle.graph, features)
    taken = [operator for operator in bundle.graph.operators if isinstance(operator, Conv2D)][-1].inputs[0]
    tensors = run_all(bundle.graph, features)
    real = bundle.graph.tensors[taken].q.dequantize(tensors[taken]).sum((1, 2))  # (batch, channels)
    np.testing.assert_allclose(sums * bundle.graph.tensors[taken].q.scale, real, rtol=1e-4, atol=1e-3)
    assert (logits == tensors[bundle.graph.output.name]).all()


def test_a_likeness_is_truncated_towards_zero_and_bounded() -> None:
    shifted = replace(LIKENESS, shift=2, directions=((1, 0), (0, 1)))
    sums = np.array([[7, 3], [-7, -9], [-3, -3], [200_000, 0], [-(2**30), -(2**30)]], np.int32)
    assert shifted.of(sums).tolist() == [1, -1, 0, 32_767, -32_767]


def test_the_direction_of_a_class_is_the_mean_of_its_clips_whatever_their_lengths() -> None:
    sums = np.array([[1_000, 0, 0], [0, 10, 0], [0, 0, 500]], np.int32)
    fitted = fit_likeness(sums, np.array([-3, 0, 0]), np.array([0, 0, 1]), 2, 1.0)
    assert (fitted.directions, fitted.silence) == (((90, 90, 0), (0, 0, 127)), (-127, 0, 0))
    assert (fitted.kept, fitted.clips) == (1.0, 3)


def test_what_is_nearest_to_silence_is_just_below_the_threshold() -> None:
    """Also where its likeness is above it; one that is lower stays what it is."""
    silent = replace(LIKENESS, threshold=5, directions=((1, 0), (0, 1)), silence=(2, 0))
    assert silent.of(np.array([[9, 0], [9, 19], [3, 1], [9, 18]], np.int32)).tolist() == [4, 19, 3, 18]


def test_the_wanted_share_is_that_of_the_clips_that_are_not_nearest_to_silence() -> None:
    sums = np.array([[0, 1], [0, 2], [0, 3], [0, 4], [9, 9]], np.int32)
    fitted = fit_likeness(sums, np.array([7, 6]), np.zeros(5, np.int64), 1, 0.75)
    assert (fitted.of(sums) >= fitted.threshold).tolist() == [False, True, True, True, False]
    assert fitted.kept == 0.6
    (line,) = few_kept(DecisionRule(unknown=fitted))
    assert "keeps 60.0% of the calibration clips, not 75.0%" in line


@settings(deadline=None)
@given(st.lists(INT8, min_size=1, max_size=50), st.floats(0.01, 1))
def test_the_threshold_is_the_greatest_that_keeps_the_share(likeness: list[int], keep: float) -> None:
    values = np.array(likeness)
    threshold = threshold_to_keep(values, keep)
    greater = [value for value in likeness if value > threshold]
    assert (values >= threshold).sum() >= keep * len(values) - 1e-6
    assert len(greater) < keep * len(values)


# The entry of a bundle


def test_an_entry_is_read_as_it_was_written() -> None:
    rule = DecisionRule(4, 8, 3, replace(LIKENESS, silence=(3, -4)))
    assert DecisionRule.read(json.loads(json.dumps(rule.as_dict()))) == rule


def test_an_entry_without_a_direction_of_silence_is_read() -> None:
    older = {key: value for key, value in KNOWN.items() if key != "silence"}
    assert DecisionRule.read(PLAIN | {"unknown": older}) == DecisionRule(unknown=LIKENESS)


def test_a_bundle_without_a_rule_has_none(bundle: Bundle) -> None:
    assert "decision" not in bundle.content
    assert bundle.rule is None


PLAIN = DecisionRule().as_dict()
KNOWN = DecisionRule(unknown=LIKENESS).as_dict()["unknown"]
WRONG_LIKENESS = (
    *(
        {"threshold": 40_000},
        {"threshold": 1.0},
        {"shift": -1},
        {"shift": 49},
        {"keep": 2.0},
        {"kept": "1"},
        {"more": 1},
    ),
    *(
        {"clips": None},
        {"directions": []},
        {"directions": [[1], [1, 2]]},
        {"directions": [[128]]},
        {"directions": "12"},
    ),
    *({"silence": None}, {"silence": [1]}, {"silence": [1, 128]}),
    *({"directions": [[True]]}, {"directions": [[]]}, {"directions": [[0, 0], [0, 0]]}),
)


@pytest.mark.parametrize(
    "entry",
    [
        *(None, [], "rule", {}, {"average": 1}, PLAIN | {"more": 1}),
        *(PLAIN | {"average": wrong} for wrong in (0, 65, 1.0, True, None)),
        *(PLAIN | {"margin": -1}, PLAIN | {"margin": 257}, PLAIN | {"patience": 256}, PLAIN | {"unknown": {}}),
        *(PLAIN | {"unknown": KNOWN | wrong} for wrong in WRONG_LIKENESS),
    ],
    ids=str,
)
def test_an_entry_that_is_no_rule_is_refused(bundle: Bundle, entry: object) -> None:
    with pytest.raises(InputError, match="decision rule"):
        replace(bundle, content=bundle.content | {"decision": entry})


def test_a_rule_for_another_network_is_refused(bundle: Bundle, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"its directions are not 10 x \d+ as the graph's"):
        with_rule(bundle, tmp_path, DecisionRule(unknown=LIKENESS))


def test_a_label_that_says_none_of_these_is_refused_where_the_rule_does(
    bundle: Bundle, rule: DecisionRule, tmp_path: Path
) -> None:
    folder, labels = shutil.copytree(bundle.folder, tmp_path / "copy"), ["none of these", *bundle.labels[1:]]
    open_bundle(reindexed(folder, labels=labels, decision=DecisionRule().as_dict()))
    with pytest.raises(InputError, match="its label 'none of these'"):
        open_bundle(reindexed(folder, labels=labels, decision=rule.as_dict()))


def test_the_card_tells_the_rule_and_what_was_measured_of_it() -> None:
    rule = DecisionRule(4, 8, 3, replace(LIKENESS, threshold=-20))
    measured = {"kept": 0.9, "clips": 400, "refused": 0.5, "strangers_clips": 1000, "strangers": "other"}
    text = " ".join(decision_lines({"decision": rule.as_dict(), "metrics": {"unknown": measured}}))
    for part in ("last 4 decisions", "8 steps", "3 decisions in a row", "below -20", "95.0% of 256", "96.0%"):
        assert part in text
    for part in ("keeps 90.0% of 400", "refuses 50.0% of 1,000", "`other`"):
        assert part in text


# Classifiers


def heard(bundle: Bundle, rule: DecisionRule) -> Stream:
    """Logits and likenesses of the golden sounds, twice."""
    logits, sums = run_with_sums(bundle.graph, bundle.features(bundle.vectors.pcm))
    assert rule.unknown is not None
    return 2 * list(zip(logits.tolist(), rule.unknown.of(sums).tolist(), strict=True))


@pytest.mark.parametrize("runner", ["reference", "litert"])
def test_the_seconds_of_a_recording_are_decided_on_by_the_rule(
    bundle: Bundle, recording: Path, rule: DecisionRule, tmp_path: Path, runner: str
) -> None:
    scene = BundleClassifier(with_rule(bundle, tmp_path, rule), runner)
    found = [second["scene"] for second in scene.classify(recording)["seconds"]]
    assert found == [[*bundle.labels, "none of these"][index] for index in in_fractions(rule, heard(bundle, rule))]
    assert {"none of these"} < set(found)  # and a scene: the rule says both


def test_a_stream_decides_as_classify_does_and_forgets_when_it_ends(
    bundle: Bundle, recording: Path, rule: DecisionRule, tmp_path: Path
) -> None:
    scene = BundleClassifier(with_rule(bundle, tmp_path, rule), "reference")
    seconds = [second["scene"] for second in scene.classify(recording)["seconds"]]
    stream, samples = scene.stream(CLIP), soundfile.read(recording, dtype="int16")[0]
    for _ in range(2):
        found = [*stream.push(samples), *stream.finish()]
        assert [decision["scene"] for decision in found] == seconds


def test_a_recording_is_none_of_these_by_the_mean_likeness_of_its_seconds(
    bundle: Bundle, recording: Path, rule: DecisionRule, tmp_path: Path
) -> None:
    assert rule.unknown is not None
    mean = Fraction(sum(each for _, each in heard(bundle, rule)), 2 * len(bundle.vectors.pcm))
    for threshold, is_known in ((math.floor(mean), True), (math.floor(mean) + 1, False)):
        changed = replace(rule, unknown=replace(rule.unknown, threshold=threshold))
        scene = BundleClassifier(with_rule(bundle, tmp_path / str(threshold), changed), "reference")
        assert (scene.classify(recording)["scene"] != "none of these") == is_known


def test_scores_are_the_same_with_and_without_a_rule(
    bundle: Bundle, recording: Path, rule: DecisionRule, tmp_path: Path
) -> None:
    with_one = tinyscene.load(with_rule(bundle, tmp_path, rule).folder, "reference").classify(recording)
    without = tinyscene.load(bundle.folder, "reference").classify(recording)
    assert with_one["scores"] == without["scores"]
    assert [each["scores"] for each in with_one["seconds"]] == [each["scores"] for each in without["seconds"]]


def test_classify_says_none_of_these_first(
    bundle: Bundle, recording: Path, rule: DecisionRule, tmp_path: Path, run_cli: RunCli
) -> None:
    assert rule.unknown is not None
    strict = replace(rule, unknown=replace(rule.unknown, threshold=MOST))
    code, out, _ = run_cli("classify", with_rule(bundle, tmp_path, strict).folder, recording, "--runner", "reference")
    assert (code, out.split(": ")[1][:13]) == (0, "none of these")

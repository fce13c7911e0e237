"""Offsets of the mel bands in C: what a device learns and decides is what Python does, to the bit."""

import ctypes
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from tests.firmware_bridge.test_listening import heard
from tests.firmware_bridge.test_scene_c import NULL, NULL_POINTER, OK, pointer
from tests.streamable import LABELS, RATE, noise, receptive_frames, streamable
from tests.streamable import front_end as unpadded
from tinyscene.deploy.bundle.bundle import Bundle
from tinyscene.deploy.bundle.features import input_log_mel
from tinyscene.deploy.common.errors import InputError
from tinyscene.deploy.frontend.band_offsets import HEAD, MOST, BandOffsets, Bands, OffsetWindows
from tinyscene.deploy.frontend.log_mel import FrontEnd
from tinyscene.deploy.graph.graph import Graph
from tinyscene.deploy.graph.operators import Conv2D, Mean
from tinyscene.deploy.graph.reference import run
from tinyscene.deploy.graph.tensor import Quantization, Tensor
from tinyscene.firmware_bridge.codegen.library import Library, make_library, pace_of
from tinyscene.firmware_bridge.emulate import Image, listening_job
from tinyscene.firmware_bridge.memory.by_time import Order
from tinyscene.firmware_bridge.native import NativeScene, compile_native
from tinyscene.firmware_bridge.targets.image import build_image, build_settings

ERROR_BANDS = -6
FRONT_END = FrontEnd(sample_rate=4_000, n_fft=256, win_length=201, hop_length=100, n_mels=12)
PORTIONS = st.lists(st.integers(1, 3_000), min_size=1, max_size=6)


def padded(front_end: FrontEnd, seed: int = 0) -> Graph:
    """A convolution and a mean: a small graph that hears every band and frame."""
    rng, q = np.random.default_rng(seed), Quantization(2.0**-3, 20)
    source = Tensor("log_mel", (1, *front_end.shape, 1), q)
    made = Tensor("y", (1, *front_end.shape, 3), Quantization(2.0**-5, 0))
    values = rng.integers(-127, 128, (3, 3, 3, 1)).astype(np.int8)
    scales = np.full(3, 2.0**-9, np.float32)
    convolution = Conv2D(
        inputs=("log_mel",),
        output=made,
        weights=values,
        bias=np.zeros(3, np.int32),
        weight_scales=scales,
        padding=(1, 1, 1, 1),
    )
    return Graph(source, (convolution, Mean(inputs=("y",), output=Tensor("logits", (1, 3), Quantization(2.0**-7, 0)))))


def bands_of(graph: Graph, front_end: FrontEnd) -> Bands:
    """Random means, and a horizon that is reached within seconds."""
    means = np.random.default_rng(1).integers(-9_000, 9_000, (len(LABELS), front_end.n_mels)).tolist()
    return replace(Bands.of(means, input_log_mel(graph, front_end)), prior=40, horizon=150)


def by_windows(
    graph: Graph, front_end: FrontEnd, pcm: NDArray[np.int16], hop: int, offsets: BandOffsets
) -> list[list[int]]:
    """The logits of every window, by the class that Python's streams are made of."""
    log_mel, windows, found = input_log_mel(graph, front_end), OffsetWindows(offsets, front_end, hop), []
    for start in range(0, len(pcm) - front_end.clip_samples + 1, hop):
        moved = windows.take(log_mel(pcm[None, start : start + front_end.clip_samples])[0])
        found.append(run(graph, moved[None, ..., None])[0].tolist())
        offsets.learn(int(np.argmax(found[-1])))
    return found


def by_frames(
    graph: Graph, front_end: FrontEnd, pcm: NDArray[np.int16], hop: int, delay: int, offsets: BandOffsets
) -> list[list[int]]:
    """The same frame by frame, each computed once, `hop` frames apart and `delay` of them after a window."""
    whole = replace(front_end, clip_seconds=len(pcm) / front_end.sample_rate)
    features = input_log_mel(graph, whole)(pcm[None])[0]  # (mel, frame)
    moved, found = np.empty_like(features), []
    for frame in range(whole.frames):
        offsets.hear(features[:, frame : frame + 1])
        moved[:, frame] = (features[:, frame] + offsets.values).clip(-128, 127)
        since = frame + 1 - front_end.frames - delay  # the first decision
        if since >= 0 and since % hop == 0:
            found.append(run(graph, moved[None, :, since : since + front_end.frames, None])[0].tolist())
            offsets.learn(int(np.argmax(found[-1])))
    return found


def state_of(scene: NativeScene) -> bytes:
    state = np.zeros(HEAD.size + 4 * int(scene.config["BANDS"]), np.uint8)
    assert scene.c.tinyscene_bands_save(scene.instance, pointer(state)) == OK
    return state.tobytes()


def restored(scene: NativeScene, state: bytes) -> int:
    return scene.c.tinyscene_bands_restore(scene.instance, pointer(np.frombuffer(state, np.uint8).copy()))


def require_new(scene: NativeScene) -> None:
    memory, size = pointer(scene._memory), ctypes.c_size_t(scene._memory.nbytes)
    scene.require(scene.init(memory, size, ctypes.byref(scene.instance)))
    assert not any(state_of(scene)[8:])


def sound() -> NDArray[np.int16]:
    """Noise, with a second of digital silence, from which nothing is learned."""
    pcm = noise(24_000)
    pcm[8_000:12_000] = 0
    return pcm


def compiled(library: Library) -> NativeScene:
    return NativeScene(compile_native(library, optimize="O0"), library.config)


def require_equal(found: list[list[int]], wanted: list[list[int]], offsets: BandOffsets) -> None:
    assert found == wanted
    assert np.abs(offsets.values).max() > 2
    assert len({tuple(each) for each in wanted}) > 2


def learning(hop: float | None, order: Order = "mel") -> tuple[Bands, NativeScene]:
    graph = padded(FRONT_END)
    bands = bands_of(graph, FRONT_END)
    return bands, compiled(make_library(graph, FRONT_END, LABELS, ("plain",), hop, order=order, bands=bands))


def require_windows(bands: Bands, scene: NativeScene, portions: list[int]) -> None:
    offsets = BandOffsets(bands)
    wanted = by_windows(padded(FRONT_END), FRONT_END, sound(), int(scene.config["HOP_SAMPLES"]), offsets)
    require_equal(heard(scene, sound(), portions), wanted, offsets)
    assert state_of(scene) == offsets.state


def require_columns(columns: int, portions: list[int]) -> None:
    strides = [(1, 1), (1, 2)]
    frames, period = receptive_frames(strides)
    front_end = unpadded(frames + 5 * period)
    graph = streamable(front_end, strides, 0)
    bands = bands_of(graph, front_end)
    hop = columns * pace_of(graph, ("plain",)).period * front_end.hop_length / RATE
    library = make_library(graph, front_end, LABELS, ("plain",), hop, order="time", bands=bands)
    scene, offsets = compiled(library), BandOffsets(bands)
    frames_of = [int(library.config[f"{name}_SAMPLES"]) // front_end.hop_length for name in ("HOP", "DELAY")]
    wanted = by_frames(graph, front_end, sound(), frames_of[0], frames_of[1], offsets)
    require_equal(heard(scene, sound(), portions), wanted, offsets)


@pytest.fixture(scope="module")
def learner() -> tuple[Bands, NativeScene]:
    return learning(0.225)


def test_overlapping_windows_decide_and_learn_as_in_python(learner: tuple[Bands, NativeScene]) -> None:
    require_new(learner[1])
    require_windows(*learner, [333, 4_000])


def test_a_network_that_listens_without_end_decides_and_learns_as_in_python() -> None:
    require_columns(2, [1, 999])


def test_a_decision_that_comes_with_its_window_has_learned_what_windows_teach() -> None:
    front_end = unpadded(31)
    graph = streamable(front_end, [(1, 2)], 0)
    first, second = (BandOffsets(bands_of(graph, front_end)) for _ in range(2))
    found = by_frames(graph, front_end, sound(), 8, 0, first)
    require_equal(found, by_windows(graph, front_end, sound(), 8 * front_end.hop_length, second), second)
    assert first.state == second.state


@pytest.mark.slow
@settings(max_examples=8, deadline=None)
@given(st.sampled_from([(None, "mel"), (0.5, "mel"), (0.05, "mel"), (None, "time")]), PORTIONS)
def test_all_windows_decide_and_learn_as_in_python(how: tuple[float | None, Order], portions: list[int]) -> None:
    require_windows(*learning(*how), portions)


@pytest.mark.slow
@settings(max_examples=8, deadline=None)
@given(st.sampled_from([1, 3, 12]), PORTIONS)  # the last is a longer hop than a window
def test_all_hops_of_a_network_without_end_decide_and_learn_as_in_python(columns: int, portions: list[int]) -> None:
    require_columns(columns, portions)


def test_a_state_that_was_saved_in_a_window_and_restored_goes_on_equally(learner: tuple[Bands, NativeScene]) -> None:
    bands, scene = learner
    require_new(scene)
    heard(scene, sound()[:14_001], [999])  # three windows, and some of the fourth
    state, offsets = state_of(scene), BandOffsets(bands)
    offsets.restore(state)
    assert (offsets.state, offsets.frames > 0) == (state, True)
    scene.require(scene.c.tinyscene_reset(scene.instance))
    assert state_of(scene) == state  # a reset forgets sound only
    further = heard(scene, sound()[12_000:], [999])
    require_new(scene)
    assert heard(scene, sound()[12_000:], [999]) != further
    require_new(scene)
    assert restored(scene, state) == OK
    assert heard(scene, sound()[12_000:], [50]) == further


def changed(state: bytes, place: int, value: int) -> bytes:
    words = np.frombuffer(state, "<i4").copy()
    words[place] = value
    return words.tobytes()


@pytest.mark.parametrize(
    ("place", "value"),  # version, model, frames, of none too many or with too much missing in them, and bands
    [(0, 0), (1, 7), (2, -1), (2, MOST + 1), (2, 0), (3, 65_280 * 3 + 1), (14, -(2**31))],
)
def test_a_spoiled_or_foreign_state_is_refused_and_changes_nothing(
    learner: tuple[Bands, NativeScene], place: int, value: int
) -> None:
    bands, scene = learner
    require_new(scene)
    good = HEAD.pack(*HEAD.unpack_from(state_of(scene))[:2], 3) + np.full(12, 65_280 * 3, "<i4").tobytes()
    assert restored(scene, good) == OK
    assert restored(scene, changed(good, place, value)) == ERROR_BANDS
    assert state_of(scene) == good
    with pytest.raises(InputError, match="band offsets"):
        BandOffsets(bands).restore(changed(good, place, value))


@pytest.mark.parametrize(
    ("frames", "heard", "valid"),
    [(0, 0, 1), (MOST, MOST // 2, 1), (MOST + 1, 0, 0), (-1, 0, 0), (0, MOST // 2 + 1, 0), (0, -1, 0)],
)
def test_more_frames_than_32_bits_hold_are_no_offsets(
    learner: tuple[Bands, NativeScene], frames: int, heard: int, valid: int
) -> None:
    words = np.zeros(40, np.int32)  # struct tinyscene_offsets
    words[[0, 1 + 12]] = frames, heard
    assert learner[1].c.tinyscene_offsets_valid(pointer(words)) == valid


def test_null_pointers_are_refused(learner: tuple[Bands, NativeScene]) -> None:
    c, instance = learner[1].c, learner[1].instance
    state = np.zeros(64, np.uint8)
    assert [c.tinyscene_bands_save(*each) for each in ((NULL_POINTER, pointer(state)), (instance, NULL_POINTER))] == [
        NULL
    ] * 2
    assert [
        c.tinyscene_bands_restore(*each) for each in ((NULL_POINTER, pointer(state)), (instance, NULL_POINTER))
    ] == [NULL] * 2


def test_the_extremes_of_what_can_be_learned_stay_within_32_bits(learner: tuple[Bands, NativeScene]) -> None:
    bands, scene = learner
    for sign in (1, -1):
        state = (
            HEAD.pack(*HEAD.unpack_from(state_of(scene))[:2], MOST) + np.full(12, sign * 65_280 * MOST, "<i4").tobytes()
        )
        offsets = BandOffsets(bands)
        offsets.restore(state)
        assert restored(scene, state) == OK
        scene.require(scene.c.tinyscene_reset(scene.instance))
        assert offsets.values.tolist() == [sign * 127] * 12
        assert np.int8(sign * 127).tobytes() * 12 in scene._memory.tobytes()
        wanted = by_windows(padded(FRONT_END), FRONT_END, sound(), 900, offsets)
        assert heard(scene, sound(), [4_000]) == wanted
        assert state_of(scene) == offsets.state


def test_a_library_that_learns_no_offsets_has_nothing_of_them(bundle: Bundle) -> None:
    library = make_library(bundle.graph, bundle.front_end, bundle.labels, ("plain",))
    assert not {name for name in library.files if "band" in name} | {name for name in library.config if "BAND" in name}


@pytest.mark.slow
def test_a_cortex_m4_decides_as_in_python(tmp_path: Path) -> None:
    graph, target = padded(FRONT_END), build_settings("cortex-m4")
    bands = bands_of(graph, FRONT_END)
    library = make_library(graph, FRONT_END, LABELS, hop=0.225, bands=bands)
    pcm = sound()
    wanted = by_windows(graph, FRONT_END, pcm, 900, BandOffsets(bands))
    image = build_image(library, target, tmp_path)
    answers = Image(image, target).run(listening_job(pcm, library.config, len(wanted), 777))
    assert answers.logits.tolist() == wanted

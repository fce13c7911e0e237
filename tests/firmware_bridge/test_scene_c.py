"""The C library as its user sees it, compiled for this machine: pushes of any size, statuses, overlapping windows."""

import ctypes
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from tinyscene.deploy.bundle.bundle import Bundle
from tinyscene.deploy.common.errors import InputError
from tinyscene.deploy.frontend.fixed_point import FixedPointLogMel
from tinyscene.deploy.frontend.log_mel import FrontEnd
from tinyscene.deploy.graph.graph import Graph
from tinyscene.deploy.graph.operators import Conv2D, Mean
from tinyscene.deploy.graph.reference import run
from tinyscene.deploy.graph.tensor import Quantization, Tensor
from tinyscene.firmware_bridge.codegen.library import Library, make_library
from tinyscene.firmware_bridge.native import NativeScene, native_scene

CLIP = 32_000
OK, READY, NULL, ALIGNMENT, SIZE, INSTANCE, NOT_READY = 0, 1, -1, -2, -3, -4, -5
HOPS = (0.5, 0.25, 0.21875)  # seconds; the last leaves starts of windows at every place

NULL_POINTER = ctypes.c_void_p()


@pytest.fixture(scope="module")
def library(bundle: Bundle) -> Library:
    return make_library(bundle.graph, bundle.front_end, bundle.labels, ("plain",))


@pytest.fixture(scope="module")
def compiled(library: Library) -> NativeScene:
    return native_scene(library)


@pytest.fixture
def scene(compiled: NativeScene) -> NativeScene:
    """The library with an instance that was reset."""
    compiled.c.tinyscene_reset(compiled.instance)
    return compiled


@pytest.fixture(scope="module")
def clip(bundle: Bundle) -> NDArray[np.int16]:
    return np.ascontiguousarray(bundle.vectors.pcm[6])


@pytest.fixture(scope="module")
def stream(bundle: Bundle) -> NDArray[np.int16]:
    """Two and a half seconds of different sounds, synthetic."""
    return np.ascontiguousarray(np.concatenate([*bundle.vectors.pcm[3:7]])[: CLIP * 5 // 2])


def pointer(array: NDArray[Any], offset: int = 0) -> ctypes.c_void_p:
    return ctypes.c_void_p(array.ctypes.data + offset)


def decisions(scene: NativeScene, pcm: NDArray[np.int16], sizes: list[int]) -> list[list[int]]:
    """Push sound in portions of these sizes, over and over; the logits of every window."""
    found, at, turn = [], 0, 0
    while at < len(pcm):
        portion = pcm[at : at + sizes[turn % len(sizes)]]
        status, taken = scene.push(portion)
        at, turn = at + taken, turn + 1
        if status == READY:
            found.append(scene.decide().tolist())
        else:
            assert (status, taken) == (OK, len(portion))
    return found


def expected(bundle: Bundle, pcm: NDArray[np.int16], hop: float = 1.0) -> list[list[int]]:
    """What the reference makes of each window by itself."""
    starts = range(0, len(pcm) - CLIP + 1, round(hop * CLIP))
    q = bundle.graph.input.q
    features = FixedPointLogMel(bundle.front_end, q.scale, q.zero_point)(
        np.stack([pcm[at : at + CLIP] for at in starts])
    )
    return run(bundle.graph, features[..., None]).tolist()


def test_golden_sounds_give_golden_logits(bundle: Bundle, scene: NativeScene) -> None:
    assert (scene(bundle.vectors.pcm) == bundle.vectors.logits).all()


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.integers(1, 2 * CLIP), min_size=1, max_size=8))
def test_any_split_into_pushes_decides_the_same(
    bundle: Bundle, scene: NativeScene, stream: NDArray[np.int16], sizes: list[int]
) -> None:
    scene.c.tinyscene_reset(scene.instance)
    assert decisions(scene, stream, sizes) == expected(bundle, stream)


def test_sound_may_come_sample_by_sample(bundle: Bundle, scene: NativeScene, clip: NDArray[np.int16]) -> None:
    assert decisions(scene, clip, [1]) == expected(bundle, clip)


@pytest.mark.parametrize("hop", HOPS)
def test_overlapping_windows_are_decided_as_each_by_itself(
    bundle: Bundle, stream: NDArray[np.int16], hop: float
) -> None:
    scene = native_scene(make_library(bundle.graph, bundle.front_end, bundle.labels, ("plain",), hop))
    for sizes in ([len(stream)], [777, 31]):
        scene.require(scene.c.tinyscene_reset(scene.instance))
        assert decisions(scene, stream, sizes) == expected(bundle, stream, hop)


@pytest.mark.slow
@pytest.mark.parametrize("hop", [0.5, 0.025, 0.975, 1.0])  # of 40 frames: many, all but one, one and no shared ones
def test_windows_without_edges_share_all_their_frames(hop: float) -> None:
    front_end = FrontEnd(sample_rate=4_000, n_fft=64, win_length=51, hop_length=100, n_mels=5, edges="none")
    rng, shape = np.random.default_rng(0), front_end.shape
    source, sums = (
        Tensor("x", (1, *shape, 1), Quantization(0.0625, 20)),
        Tensor("y", (1, 1, 1, 3), Quantization(2.0, 0)),
    )
    weights, bias = rng.integers(-127, 128, (3, *shape, 1)).astype(np.int8), np.zeros(3, np.int32)
    whole = Conv2D(inputs=("x",), output=sums, weights=weights, bias=bias, weight_scales=np.full(3, 0.01, np.float32))
    graph = Graph(source, (whole, Mean(inputs=("y",), output=Tensor("logits", (1, 3), Quantization(2.0, 0)))))
    pcm = rng.integers(-9_000, 9_000, 11_000).astype(np.int16)
    starts = range(0, len(pcm) - 4_000 + 1, round(hop * 4_000))
    features = FixedPointLogMel(front_end, 0.0625, 20)(np.stack([pcm[at : at + 4_000] for at in starts]))
    expected = run(graph, features[..., None]).tolist()
    assert len({tuple(logits) for logits in expected}) > 1
    scene = native_scene(make_library(graph, front_end, ("a", "b", "c"), ("plain",), hop))
    for sizes in ([len(pcm)], [77, 310]):
        scene.require(scene.c.tinyscene_reset(scene.instance))
        assert decisions(scene, pcm, sizes) == expected


@pytest.mark.parametrize("hop", [0.0, -1.0, 1.5, 0.1234567, float("nan"), float("inf")])
def test_a_hop_that_no_frame_falls_on_is_refused(bundle: Bundle, hop: float) -> None:
    with pytest.raises(InputError, match=r"a hop of .* seconds: it must be 1, or less and a multiple of 0.015625"):
        make_library(bundle.graph, bundle.front_end, bundle.labels, ("plain",), hop)


def test_a_waiting_window_takes_no_sound_and_loses_none(
    bundle: Bundle, scene: NativeScene, stream: NDArray[np.int16]
) -> None:
    assert scene.push(stream) == (READY, CLIP)
    assert scene.push(stream[CLIP:]) == (READY, 0)
    assert [scene.decide().tolist(), *decisions(scene, stream[CLIP:], [4096])] == expected(bundle, stream)


def test_two_instances_run_side_by_side(library: Library, bundle: Bundle) -> None:
    one, other = native_scene(library), native_scene(library)
    first, second = (np.ascontiguousarray(bundle.vectors.pcm[index]) for index in (4, 6))
    for at in range(0, CLIP, 1000):
        one.push(first[at : at + 1000])
        other.push(second[at : at + 1000])
    assert one.decide().tolist() == bundle.vectors.logits[4].tolist()
    assert other.decide().tolist() == bundle.vectors.logits[6].tolist()


def test_a_reset_forgets_sound_and_decision(bundle: Bundle, scene: NativeScene, clip: NDArray[np.int16]) -> None:
    decisions(scene, clip, [CLIP])
    scene.push(clip[:20_000])
    assert scene.c.tinyscene_reset(scene.instance) == OK
    assert scene.c.tinyscene_best(scene.instance) == NOT_READY
    assert decisions(scene, clip, [CLIP]) == expected(bundle, clip)


def test_running_before_a_window_is_complete_is_refused(scene: NativeScene, clip: NDArray[np.int16]) -> None:
    assert scene.c.tinyscene_run(scene.instance) == NOT_READY
    scene.push(clip[:-1])
    assert scene.c.tinyscene_run(scene.instance) == NOT_READY
    scene.push(clip[-1:])
    assert scene.c.tinyscene_run(scene.instance) == OK
    assert scene.c.tinyscene_run(scene.instance) == NOT_READY


def test_scores_and_best_wait_for_a_decision(scene: NativeScene, clip: NDArray[np.int16]) -> None:
    scores = np.zeros(10, np.int8)
    assert scene.c.tinyscene_scores(scene.instance, pointer(scores), ctypes.c_size_t(10)) == NOT_READY
    assert scene.c.tinyscene_best(scene.instance) == NOT_READY
    logits = decisions(scene, clip, [CLIP])[0]
    assert scene.c.tinyscene_scores(scene.instance, pointer(scores), ctypes.c_size_t(9)) == SIZE
    assert scene.c.tinyscene_scores(scene.instance, NULL_POINTER, ctypes.c_size_t(10)) == NULL
    assert scene.c.tinyscene_best(scene.instance) == int(np.argmax(logits))


def test_labels_are_the_bundles(scene: NativeScene, bundle: Bundle) -> None:
    label = scene.c.tinyscene_label
    label.restype = ctypes.c_char_p
    found = [label(ctypes.c_size_t(index)) for index in range(len(bundle.labels) + 2)]
    assert found == [*(name.encode() for name in bundle.labels), None, None]


def test_null_pointers_are_refused(scene: NativeScene, clip: NDArray[np.int16]) -> None:
    c, taken = scene.c, ctypes.c_size_t()
    memory = np.zeros(int(scene.config["BYTES"]), np.uint8)
    assert scene.init(NULL_POINTER, ctypes.c_size_t(1 << 20), ctypes.byref(ctypes.c_void_p())) == NULL
    assert scene.init(pointer(memory), ctypes.c_size_t(memory.nbytes), NULL_POINTER) == NULL
    assert c.tinyscene_push(scene.instance, NULL_POINTER, ctypes.c_size_t(1), ctypes.byref(taken)) == NULL
    assert c.tinyscene_push(scene.instance, pointer(clip), ctypes.c_size_t(1), NULL_POINTER) == NULL
    assert c.tinyscene_push(scene.instance, NULL_POINTER, ctypes.c_size_t(0), ctypes.byref(taken)) == OK
    for function in (c.tinyscene_run, c.tinyscene_reset, c.tinyscene_best):
        assert function(NULL_POINTER) == NULL


@pytest.mark.parametrize(("less", "offset", "status"), [(1, 0, SIZE), (0, 1, ALIGNMENT), (0, 8, ALIGNMENT), (0, 0, OK)])
def test_memory_that_is_short_or_misaligned_is_refused(scene: NativeScene, less: int, offset: int, status: int) -> None:
    size, instance = int(scene.config["BYTES"]), ctypes.c_void_p()
    assert scene.c.tinyscene_memory_bytes() == size
    memory = np.zeros(size + 64, np.uint8)
    start = -memory.ctypes.data % 16 + offset
    assert scene.init(pointer(memory, start), ctypes.c_size_t(size - less), ctypes.byref(instance)) == status
    assert (instance.value is None) == (status != OK)


def test_memory_that_is_no_instance_is_refused(scene: NativeScene) -> None:
    memory = np.zeros(int(scene.config["BYTES"]) + 16, np.uint8)
    stranger = pointer(memory, -memory.ctypes.data % 16)
    for function in (scene.c.tinyscene_run, scene.c.tinyscene_reset, scene.c.tinyscene_best):
        assert function(stranger) == INSTANCE
        assert function(ctypes.c_void_p((stranger.value or 0) + 1)) == ALIGNMENT


@pytest.mark.parametrize("bit", range(32))
def test_an_instance_with_one_bit_of_its_magic_changed_is_none(library: Library, bit: int) -> None:
    scene = native_scene(library)
    magic = (ctypes.c_uint32).from_address(scene.instance.value or 0)  # the first of its fields
    magic.value ^= 1 << bit
    taken = ctypes.c_size_t()
    assert scene.c.tinyscene_push(scene.instance, NULL_POINTER, ctypes.c_size_t(0), ctypes.byref(taken)) == INSTANCE
    assert scene.c.tinyscene_run(scene.instance) == INSTANCE


SPOILED = [(field, -1) for field in range(4)] + [(field, more) for field in range(4) for more in (0, 1)]


@pytest.mark.parametrize(("field", "more"), SPOILED)
def test_an_instance_from_which_a_place_outside_the_memory_would_follow_is_none(
    scene: NativeScene, field: int, more: int
) -> None:
    limits = [scene.config[name] for name in ("WINDOW_SAMPLES", "RING_SAMPLES", "WINDOW_FRAMES", "PENDING")]
    largest = int(limits[field]) - (field == 1)  # a place in the ring
    words = np.zeros(7, np.int32)
    ctypes.memmove(pointer(words), scene.instance, words.nbytes)
    words[3 + field] = -1 if more < 0 else largest + more  # after magic, decided and running: struct tinyscene_sound
    ctypes.memmove(scene.instance, pointer(words), words.nbytes)
    expected = INSTANCE if more else NOT_READY
    try:
        assert scene.c.tinyscene_best(scene.instance) == expected
        assert scene.c.tinyscene_reset(scene.instance) == (INSTANCE if more else OK)
    finally:
        words[3:] = 0
        ctypes.memmove(scene.instance, pointer(words), words.nbytes)


def test_nothing_is_written_beside_the_memory(library: Library, clip: NDArray[np.int16]) -> None:
    scene = native_scene(library)
    size = int(scene.config["BYTES"])
    memory = np.full(size + 256, 0x5A, np.uint8)
    start = 64 + -memory.ctypes.data % 16
    scene.require(scene.init(pointer(memory, start), ctypes.c_size_t(size), ctypes.byref(scene.instance)))
    decisions(scene, clip, [CLIP])
    assert (memory[:start] == 0x5A).all()
    assert (memory[start + size :] == 0x5A).all()

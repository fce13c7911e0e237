"""Networks that listen without end: each column is computed once, and each decision is that of its whole window."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from tinyscene.deploy.bundle.bundle import Bundle
from tinyscene.deploy.bundle.features import input_log_mel
from tinyscene.deploy.common.errors import InputError
from tinyscene.deploy.frontend.log_mel import FrontEnd
from tinyscene.deploy.graph.graph import Graph
from tinyscene.deploy.graph.operators import Add, AveragePool2D, Conv2D, Crop, DepthwiseConv2D, Kind, MaxPool2D, Mean
from tinyscene.deploy.graph.reference import run
from tinyscene.deploy.graph.tensor import Quantization, Tensor
from tinyscene.firmware_bridge.codegen.library import Library, access_of_all, make_library, pace_of
from tinyscene.firmware_bridge.codegen.turns import row_work
from tinyscene.firmware_bridge.memory.by_time import by_time
from tinyscene.firmware_bridge.memory.pace import make_pace
from tinyscene.firmware_bridge.native import READY, NativeScene, native_scene

RATE, LABELS = 8_000, ("a", "b", "c")
Q = Quantization(2.0**-4, -3)


@dataclass
class Builder:
    """A streamable graph while it grows; weights are random."""

    rng: np.random.Generator
    input: Tensor
    operators: list[Kind] = field(default_factory=list)

    @property
    def last(self) -> Tensor:
        return self.operators[-1].output if self.operators else self.input

    def add(self, kind: Any, source: Tensor, channels: int | None = None, **more: Any) -> Tensor:
        probe = Tensor(f"t{len(self.operators)}", (1, 1, 1, 1), Q)
        made = kind(inputs=(source.name,), output=probe, **more)
        shape = made.output_shape(source)
        output = Tensor(probe.name, (*shape[:-1], channels or shape[-1]), source.q if kind in KEEPING else Q)
        self.operators.append(kind(inputs=made.inputs, output=output, **more))
        return output

    def convolve(self, source: Tensor, outputs: int, size: int, stride: tuple[int, int] = (1, 1)) -> Tensor:
        inputs = source.shape[-1]
        values = self.rng.integers(-127, 128, (outputs, size, size, inputs)).astype(np.int8)
        return self.add(Conv2D, source, padding=mel_padding(size), stride=stride, **self.weights(values, outputs))

    def depthwise(self, source: Tensor, stride: tuple[int, int], wide: int) -> Tensor:
        channels = source.shape[-1]
        values = self.rng.integers(-127, 128, (1, 3, wide, channels)).astype(np.int8)
        return self.add(
            DepthwiseConv2D, source, padding=mel_padding(3), stride=stride, **self.weights(values, channels)
        )

    def weights(self, values: NDArray[np.int8], outputs: int) -> dict[str, Any]:
        bias = self.rng.integers(-500, 500, outputs).astype(np.int32)
        scale = 2.0 / (73 * np.sqrt(values.size / outputs))
        return {"weights": values, "bias": bias, "weight_scales": np.full(outputs, scale, np.float32)}

    def block(self, stride: tuple[int, int], wide: int = 3) -> None:
        """An inverted residual whose shortcut is cropped or pooled like the windows beside it."""
        source = self.last
        expanded = self.convolve(source, source.shape[-1] + 4, 1)
        narrow = self.convolve(self.depthwise(expanded, stride, wide), source.shape[-1], 1)
        if wide == 1:
            short = source
        elif stride == (1, 1):
            short = self.add(Crop, source, crop=(0, 0, 1, 1))
        else:
            short = self.add(AveragePool2D, source, window=(3, 3), stride=stride, padding=mel_padding(3))
        output = Tensor(f"t{len(self.operators)}", narrow.shape, Q)
        self.operators.append(Add(inputs=(short.name, narrow.name), output=output, relu=True))


KEEPING = (AveragePool2D, MaxPool2D, Crop)


def mel_padding(size: int) -> tuple[int, int, int, int]:
    return (size // 2, size // 2, 0, 0)


def streamable(front_end: FrontEnd, strides: list[tuple[int, int]], seed: int) -> Graph:
    mel, frames = front_end.shape
    builder = Builder(np.random.default_rng(seed), Tensor("log_mel", (1, mel, frames, 1), Quantization(2.0**-3, 20)))
    builder.convolve(builder.input, 6, 3, (2, 2))
    for stride in strides:
        builder.block(stride)
    builder.block((1, 1), wide=1)
    classes = builder.convolve(builder.last, len(LABELS), 1)
    mean = Mean(inputs=(classes.name,), output=Tensor("logits", (1, len(LABELS)), Quantization(2.0**-4, 5)))
    return Graph(builder.input, (*builder.operators, mean))


def front_end(frames: int) -> FrontEnd:
    seconds = ((frames - 1) * 128 + 512) / RATE
    return FrontEnd(sample_rate=RATE, win_length=512, hop_length=128, n_mels=24, clip_seconds=seconds, edges="none")


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


def heard(scene: NativeScene, pcm: NDArray[np.int16], portions: list[int]) -> list[list[int]]:
    """The decisions on sound that comes in portions, over and over."""
    decisions, at, turn = [], 0, 0
    while at < len(pcm):
        status, taken = scene.push(np.ascontiguousarray(pcm[at : at + portions[turn % len(portions)]]))
        at, turn = at + taken, turn + 1
        if status == READY:
            decisions.append(scene.decide().tolist())
    return decisions


def noise(samples: int, seed: int = 1) -> NDArray[np.int16]:
    rng = np.random.default_rng(seed)
    loudness = np.repeat(rng.uniform(0, 9, samples // 700 + 1), 700)[:samples]
    return (rng.standard_normal(samples) * np.exp(loudness)).clip(-32768, 32767).astype(np.int16)


STRIDES = st.lists(st.tuples(st.integers(1, 2), st.integers(1, 2)), min_size=1, max_size=3)
PORTIONS = st.lists(st.integers(1, 3_000), min_size=1, max_size=9)


def require_windows(strides: list[tuple[int, int]], more: int, columns: int, portions: list[int], samples: int) -> None:
    """Columns that are made once decide as windows do that are each computed by themselves."""
    heard_frames, period = receptive_frames(strides)
    sound = front_end(heard_frames + period * (more + -(-15 // period)))
    graph, library = library_of(strides, sound.frames, columns)
    pcm, hop = noise(samples), int(library.config["HOP_SAMPLES"])
    decisions = heard(native_scene(library), pcm, portions)
    wanted = expected(graph, sound, pcm, hop).tolist()
    assert len(decisions) == (samples - sound.clip_samples - int(library.config["DELAY_SAMPLES"])) // hop + 1
    assert decisions == wanted[: len(decisions)]
    assert len({tuple(each) for each in wanted}) > 2  # logits at their bounds show nothing


def receptive_frames(strides: list[tuple[int, int]]) -> tuple[int, int]:
    """Frames that a column hears, and from one column to the next: the stem has a stride of 2."""
    frames, step = 3, 2
    for _, stride in strides:
        frames, step = frames + 2 * step, step * stride
    return frames, step


def test_every_decision_is_that_of_its_window_while_rings_come_round_many_times() -> None:
    require_windows([(1, 1), (1, 2), (2, 1)], 3, 2, [333], 60_000)


@pytest.mark.slow
@settings(max_examples=12, deadline=None)
@given(STRIDES, st.integers(0, 6), st.integers(1, 9), PORTIONS)
def test_every_decision_is_that_of_its_window(
    strides: list[tuple[int, int]], more: int, columns: int, portions: list[int]
) -> None:
    require_windows(strides, more, columns, portions, 60_000)


@pytest.mark.slow
def test_an_hour_of_sound_decides_as_its_windows_do() -> None:
    require_windows([(1, 1), (1, 2)], 4, 16, [1, 7_000, 333], 3_600 * RATE)


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

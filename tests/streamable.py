"""Networks without padding over time, with random weights, and sound for them. Needs no torch."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from hypothesis import strategies as st
from numpy.typing import NDArray

from tinyscene.deploy.frontend.log_mel import FrontEnd
from tinyscene.deploy.graph.graph import Graph
from tinyscene.deploy.graph.operators import Add, AveragePool2D, Conv2D, Crop, DepthwiseConv2D, Kind, MaxPool2D, Mean
from tinyscene.deploy.graph.tensor import Quantization, Tensor

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


def receptive_frames(strides: list[tuple[int, int]]) -> tuple[int, int]:
    """Frames that a column hears, and from one column to the next: the stem has a stride of 2."""
    frames, step = 3, 2
    for _, stride in strides:
        frames, step = frames + 2 * step, step * stride
    return frames, step


def noise(samples: int, seed: int = 1) -> NDArray[np.int16]:
    rng = np.random.default_rng(seed)
    loudness = np.repeat(rng.uniform(0, 9, samples // 700 + 1), 700)[:samples]
    return (rng.standard_normal(samples) * np.exp(loudness)).clip(-32768, 32767).astype(np.int16)


STRIDES = st.lists(st.tuples(st.integers(1, 2), st.integers(1, 2)), min_size=1, max_size=3)

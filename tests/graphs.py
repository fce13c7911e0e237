"""Random valid graphs: hypothesis strategies for integer ones, which shrink well, and a numpy builder of float ones.

Structure, scales and zero points are drawn by hypothesis; weights and biases follow from a drawn style and seed.
"""

import math
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from hypothesis import strategies as st
from numpy.typing import NDArray

from tinyscene.deploy.graph.graph import Graph
from tinyscene.deploy.graph.operator import MAX_CLAMP_STEPS
from tinyscene.deploy.graph.operators import (
    Add,
    AveragePool2D,
    Channels,
    Concat,
    Conv2D,
    Crop,
    DepthwiseConv2D,
    Kind,
    MaxPool2D,
    Mean,
    Repeat,
)
from tinyscene.deploy.graph.tensor import Quantization, Tensor

INT8 = (-128, 127)
MAX_CHANNELS, MAX_SIZE, MAX_WINDOW, MAX_STRIDE = 24, 12, 5, 3
ROOM = 2**31 - 2**12  # for an accumulator, shifted to the left

Draw = Any  # of a composite strategy


@dataclass(frozen=True)
class Sliding:
    """A window with its place on an input, along one axis, and how many outputs it has."""

    size: int
    stride: int
    before: int
    after: int
    outputs: int


@dataclass
class Builder:
    """A graph while it grows: each step reads the last tensor."""

    input: Tensor
    operators: list[Kind] = field(default_factory=list)

    @property
    def last(self) -> Tensor:
        return self.operators[-1].output if self.operators else self.input

    def tensor(self, shape: tuple[int, ...], quantization: Quantization | None) -> Tensor:
        return Tensor(f"t{len(self.operators)}", shape, quantization)

    def graph(self) -> Graph:
        return Graph(self.input, tuple(self.operators))


def float32s(least: float, most: float) -> st.SearchStrategy[float]:
    """float32 values over every octave between, within what a scale may be; simplest at 1."""
    first, last = math.ceil(math.log2(max(least, 2.0**-40))), math.floor(math.log2(min(most, 2.0**20)))
    powers = st.sampled_from(sorted(range(first, last), key=abs))
    mantissas = st.just(1.0) | st.floats(1, 2, width=32, exclude_max=True)
    return st.builds(lambda power, mantissa: mantissa * 2.0**power, powers, mantissas)


@st.composite
def quantizations(draw: Draw, least: float = 2.0**-14, most: float = 2.0**7) -> Quantization:
    zero_point = draw(st.sampled_from([0, *INT8]) | st.integers(*INT8))
    return Quantization(draw(float32s(least, most)), zero_point)


@st.composite
def quantizations_near(draw: Draw, scale: float) -> Quantization:
    """About as coarse as `scale`, or up to 2**9 finer or coarser."""
    octaves = draw(st.sampled_from([1, 1, 9]))
    return draw(quantizations(scale * 2.0**-octaves, scale * 2.0**octaves))


@st.composite
def slidings(draw: Draw, size: int) -> Sliding:
    """Windows over `size` values: padded as TFLite's SAME, evenly, or in any way."""
    window, stride = draw(st.integers(1, MAX_WINDOW)), draw(st.integers(1, MAX_STRIDE))
    needed = max((-(-size // stride) - 1) * stride + window - size, 0)
    even = (window // 2, window // 2)
    ways = [even, (needed // 2, needed - needed // 2)]
    if size >= window:
        ways.insert(0, (0, 0))
    if draw(st.booleans()):
        before, after = draw(st.sampled_from(ways))
    else:
        before = draw(st.integers(0, window - 1))
        after = draw(st.integers(max(window - size - before, 0), window - 1))
    return Sliding(window, stride, before, after, (size + before + after - window) // stride + 1)


@st.composite
def integers_of(draw: Draw, shape: tuple[int, ...], most: int) -> NDArray[np.int64]:
    """Whole numbers in -most..most of any style: none, all extreme, of mixed signs, random, or mostly small."""
    style = draw(st.sampled_from(["zero", "random", "small", "least", "most", "signs", "random", "small"]))
    rng = np.random.default_rng(draw(st.integers(0, 2**16)))
    match style:
        case "zero" | "least" | "most":
            return np.full(shape, {"zero": 0, "least": -most, "most": most}[style], np.int64)
        case "signs":
            return rng.choice(np.array([-most, most]), shape)
        case "random":
            return rng.integers(-most, most + 1, shape)
    return np.clip(np.rint(rng.normal(0, most / 8, shape)), -most, most).astype(np.int64)


@st.composite
def multipliers(draw: Draw, bounds: NDArray[np.int64]) -> NDArray[np.float64]:
    """What accumulators of these magnitudes can be multiplied by: to use int8 well, or anything that is allowed."""
    highest = np.floor(np.log2(ROOM / (bounds + 256))).clip(max=20)
    rng = np.random.default_rng(draw(st.integers(0, 2**16)))
    if draw(st.sampled_from([True, True, False])):
        wanted = np.ceil(np.log2(256 / np.maximum(bounds, 1))) + draw(st.integers(-3, 3))
    else:
        wanted = highest - draw(st.integers(0, 24))
    mantissas = rng.uniform(0.5, 0.9999, bounds.shape)  # times 2**exponent, as frexp has it
    return mantissas * 2.0 ** np.minimum(wanted, highest)


@st.composite
def activations(draw: Draw, scale: float) -> dict[str, Any]:
    """None, ReLU, ReLU6, or a clamp with zero in it, of few steps of the output, whose scale is given, or of many."""
    most = min(2.0**12, MAX_CLAMP_STEPS * scale / 2)
    ends = float32s(2.0**-22 * most, most)
    low = draw(ends.map(lambda end: -end) | st.sampled_from([0.0, -min(1.0, most)]))
    usual = [clamp for clamp in ((0.0, 6.0), (-1.0, 1.0)) if max(clamp) <= most]
    clamp = draw((st.sampled_from(usual) if usual else st.nothing()) | ends.map(lambda high: (low, high)))
    return draw(st.sampled_from([{}, {"relu": True}, {}, {"relu": True}, {"clamp": clamp}]))


@st.composite
def convolutions(draw: Draw, builder: Builder, keep: bool = False, linear: bool = False) -> Kind:
    """A convolution of the last tensor, depthwise or not; with `keep`, one that keeps its shape; a linear layer."""
    source = builder.last
    depthwise = not linear and draw(st.booleans())
    channels = source.shape[3]
    outputs = channels if depthwise or keep else draw(st.integers(1, MAX_CHANNELS))
    if linear:
        down = across = Sliding(1, 1, 0, 0, 1)
    elif keep:
        reach = draw(st.sampled_from([0, 1, 2]))
        down = Sliding(2 * reach + 1, 1, reach, reach, source.shape[1])
        across = Sliding(1, 1, 0, 0, source.shape[2])
    else:
        down, across = draw(slidings(source.shape[1])), draw(slidings(source.shape[2]))
    shape = (1, down.size, across.size, channels) if depthwise else (outputs, down.size, across.size, channels)
    weights = draw(integers_of(shape, 127))
    sums = np.abs(weights).sum((0, 1, 2) if depthwise else (1, 2, 3)) * source.q.reach
    largest = draw(st.sampled_from([0, 1 << 12, 1 << 12, 1 << 20, 2**31 - 2**13 - int(sums.max())]))
    bias = draw(integers_of((outputs,), largest))
    output = builder.tensor((1, down.outputs, across.outputs, outputs), draw(quantizations()))
    scales = draw(multipliers(sums + np.abs(bias))) * output.q.scale / source.q.scale
    return (DepthwiseConv2D if depthwise else Conv2D)(
        inputs=(source.name,),
        output=output,
        stride=(down.stride, across.stride),
        padding=(down.before, down.after, across.before, across.after),
        weights=weights.astype(np.int8),
        bias=bias.astype(np.int32),
        weight_scales=np.clip(scales, 2.0**-40, 2.0**20).astype(np.float32),
        **draw(activations(output.q.scale)),
    )


@st.composite
def additions(draw: Draw, builder: Builder) -> Kind:
    """The last tensor and any of its shape, itself included, in either order."""
    last = builder.last
    before = (builder.input, *(each.output for each in builder.operators))
    fitting = [it for it in before if it.shape == last.shape and abs(math.log2(it.q.scale / last.q.scale)) < 29]
    other = draw(st.sampled_from(fitting))
    high = max(last.q.scale, other.q.scale)
    names = draw(st.permutations([last.name, other.name]))
    output = builder.tensor(last.shape, draw(quantizations_near(high)))
    return Add(inputs=tuple(names), output=output, **draw(activations(output.q.scale)))


@st.composite
def pools(draw: Draw, builder: Builder) -> Kind:
    source = builder.last
    down, across = draw(slidings(source.shape[1])), draw(slidings(source.shape[2]))
    return draw(st.sampled_from([AveragePool2D, MaxPool2D]))(
        inputs=(source.name,),
        output=builder.tensor((1, down.outputs, across.outputs, source.shape[3]), source.quantization),
        stride=(down.stride, across.stride),
        padding=(down.before, down.after, across.before, across.after),
        window=(down.size, across.size),
    )


@st.composite
def crops(draw: Draw, builder: Builder) -> list[Kind]:
    """A crop of any size; of nothing where one value is left."""
    source = builder.last
    _, height, width, channels = source.shape
    top, left = draw(st.integers(0, height - 1)), draw(st.integers(0, width - 1))
    bottom, right = draw(st.integers(0, height - 1 - top)), draw(st.integers(0, width - 1 - left))
    output = builder.tensor((1, height - top - bottom, width - left - right, channels), source.quantization)
    crop = (top, bottom, left, right)
    return [Crop(inputs=(source.name,), output=output, crop=crop)] if any(crop) else []


@st.composite
def shuffles(draw: Draw, builder: Builder) -> list[Kind]:
    """Some channels and others, one behind the other; nothing where there is one channel."""
    source = builder.last
    *place, channels = source.shape
    if channels == 1:
        return []
    spans = [draw(st.sampled_from([(0, channels - 1), (channels // 2, channels), (1, channels)])) for _ in range(2)]
    parts = [
        Channels(
            inputs=(source.name,),
            output=replace(source, name=f"{source.name}/{number}", shape=(*place, end - first)),
            first=first,
        )
        for number, (first, end) in enumerate(spans)
    ]
    whole = builder.tensor((*place, sum(each.output.shape[3] for each in parts)), source.quantization)
    return [*parts, Concat(inputs=(parts[0].output.name, parts[1].output.name), output=whole)]


@st.composite
def repeated(draw: Draw, builder: Builder) -> list[Kind]:
    """The mean over mel or over frame, added to all; nothing where there is one of both."""
    source = builder.last
    _, height, width, channels = source.shape
    axes = [axis for axis, size in enumerate((height, width)) if size > 1]
    if not axes:
        return []
    window = (height, 1) if draw(st.sampled_from(axes)) == 0 else (1, width)
    shape = (1, height // window[0], width // window[1], channels)
    mean = replace(source, name=f"{source.name}/mean", shape=shape)
    wide = replace(source, name=f"{source.name}/wide")
    names = draw(st.permutations([source.name, wide.name]))
    total = builder.tensor(source.shape, draw(quantizations_near(source.q.scale)))
    return [
        AveragePool2D(inputs=(source.name,), output=mean, window=window),
        Repeat(inputs=(mean.name,), output=wide, times=window),
        Add(inputs=tuple(names), output=total, **draw(activations(total.q.scale))),
    ]


@st.composite
def valid_shortcuts(draw: Draw, builder: Builder) -> list[Kind]:
    """A convolution without padding and a crop to its size beside it, added up; nothing where no window of 3 fits."""
    source = builder.last
    _, height, width, channels = source.shape
    tall, wide = (draw(st.sampled_from([1, 3][: 1 + (size > 2)])) for size in (height, width))
    if tall == wide == 1:
        return []
    shape = (1, height - tall + 1, width - wide + 1, channels)
    weights = draw(integers_of((1, tall, wide, channels), 127))
    sums = np.abs(weights).sum((0, 1, 2)) * source.q.reach
    output = builder.tensor(shape, draw(quantizations_near(source.q.scale)))
    scales = draw(multipliers(sums)) * output.q.scale / source.q.scale
    convolution = DepthwiseConv2D(
        inputs=(source.name,),
        output=output,
        weights=weights.astype(np.int8),
        bias=np.zeros(channels, np.int32),
        weight_scales=np.clip(scales, 2.0**-40, 2.0**20).astype(np.float32),
    )
    cut = replace(output, name=f"{output.name}/cut", quantization=source.quantization)
    crop = Crop(inputs=(source.name,), output=cut, crop=(tall // 2, tall // 2, wide // 2, wide // 2))
    total = replace(output, name=f"{output.name}/sum", quantization=draw(quantizations_near(output.q.scale)))
    return [convolution, crop, Add(inputs=(output.name, cut.name), output=total)]


@st.composite
def integer_graphs(draw: Draw, most_steps: int = 4) -> Graph:
    """Valid integer graphs of every operator, up to the edges of what a Graph allows."""
    sizes = st.integers(1, MAX_SIZE)
    shape = (1, draw(sizes), draw(sizes), draw(st.integers(1, MAX_CHANNELS)))
    builder = Builder(Tensor("input", shape, draw(quantizations())))
    steps = st.sampled_from(
        ["convolution", "pool", "shortcut", "add", "crop", "cropped shortcut", "linear", "shuffle", "repeat"]
    )
    for step in draw(st.lists(steps, max_size=most_steps)):
        match step:
            case "convolution":
                builder.operators.append(draw(convolutions(builder)))
            case "pool":
                builder.operators.append(draw(pools(builder)))
            case "shortcut":
                builder.operators.append(draw(convolutions(builder, keep=True)))
                builder.operators.append(draw(additions(builder)))
            case "add":
                builder.operators.append(draw(additions(builder)))
            case "crop":
                builder.operators += draw(crops(builder))
            case "cropped shortcut":
                builder.operators += draw(valid_shortcuts(builder))
            case "shuffle":
                builder.operators += draw(shuffles(builder))
            case "repeat":
                builder.operators += draw(repeated(builder))
            case "linear":
                builder.operators.append(draw(means(builder, (1, 1))))
                builder.operators.append(draw(convolutions(builder, linear=True)))
    if not builder.operators or draw(st.booleans()):
        builder.operators.append(draw(means(builder, ())))
    return builder.graph()


@st.composite
def means(draw: Draw, builder: Builder, between: tuple[int, ...]) -> Kind:
    """The mean over mel and frame, with dimensions `between` batch and channels."""
    source = builder.last
    output = builder.tensor((1, *between, source.shape[3]), draw(quantizations_near(source.q.scale)))
    return Mean(inputs=(source.name,), output=output)


def inputs_of(graph: Graph, seed: int, batch: int = 4) -> NDArray[Any]:
    """Features (batch, ...) for a graph. Integers: all -128, all 127, then random ones."""
    rng, shape = np.random.default_rng(seed), (batch, *graph.input.shape[1:])
    if not graph.is_integer:
        return rng.normal(size=shape).astype(np.float32)
    features = rng.integers(-128, 128, shape).astype(np.int8)
    features[0], features[1] = INT8
    return features


def conv(source: str, name: str, weights: Any, bias: Any, relu: bool = False, size: int = 4) -> Conv2D:
    """A float 1 x 1 convolution over size x size; weights (outputs, inputs)."""
    weights, bias = np.array(weights, np.float32), np.array(bias, np.float32)
    output = Tensor(name, (1, size, size, len(bias)))
    return Conv2D(inputs=(source,), output=output, weights=weights[:, None, None], bias=bias, relu=relu)


def depthwise(source: str, name: str, weights: Any, size: int = 4) -> DepthwiseConv2D:
    """A float 1 x 1 depthwise convolution over size x size; weights (channels,)."""
    weights = np.array(weights, np.float32)
    output = Tensor(name, (1, size, size, len(weights)))
    return DepthwiseConv2D(
        inputs=(source,), output=output, weights=weights[None, None, None], bias=np.zeros(len(weights), np.float32)
    )


def float_graph(seed: int, blocks: int = 2) -> Graph:
    """A float network: a stem, blocks of expansion, depthwise convolution, projection and shortcut, a pool, a mean."""
    rng = np.random.default_rng(seed)
    builder = Builder(Tensor("input", (1, int(rng.integers(8, 24)), int(rng.integers(8, 24)), int(rng.integers(1, 4)))))

    def convolve(outputs: int, window: int, stride: int = 1, relu: bool = True, depthwise: bool = False) -> None:
        _, *size, channels = (source := builder.last).shape
        pad = window // 2
        shape = (1 if depthwise else outputs, window, window, channels)
        spread = np.sqrt(2 / (window * window * (1 if depthwise else channels)))
        operator = (DepthwiseConv2D if depthwise else Conv2D)(
            inputs=(source.name,),
            output=builder.tensor((1, *((each + 2 * pad - window) // stride + 1 for each in size), outputs), None),
            weights=rng.normal(0, spread, shape).astype(np.float32),
            bias=rng.normal(0, 0.1, outputs).astype(np.float32),
            stride=(stride, stride),
            padding=(pad, pad, pad, pad),
            relu=relu,
        )
        builder.operators.append(operator)

    channels = int(rng.integers(2, 9))
    convolve(channels, 3, 2)
    for _ in range(blocks):
        before = builder.last
        convolve(2 * channels, 1)
        convolve(2 * channels, 3, depthwise=True)
        convolve(channels, 1, relu=False)
        shortcut = builder.tensor(before.shape, None)
        builder.operators.append(Add(inputs=(before.name, builder.last.name), output=shortcut, relu=True))
    _, height, width, _ = builder.last.shape
    pooled = builder.tensor((1, (height + 1) // 2, (width + 1) // 2, channels), None)
    pool = AveragePool2D(inputs=(builder.last.name,), output=pooled, window=(3, 3), stride=(2, 2), padding=(1, 1, 1, 1))
    builder.operators.append(pool)
    convolve(10, 1, relu=False)
    builder.operators.append(Mean(inputs=(builder.last.name,), output=builder.tensor((1, 10), None)))
    return builder.graph()

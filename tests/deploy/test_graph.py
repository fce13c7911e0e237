"""A Graph that exists is valid: every fault is refused in one line, and nothing of it can be written."""

from collections.abc import Callable
from dataclasses import FrozenInstanceError, fields
from itertools import pairwise
from typing import Any

import numpy as np
import pytest

from tinyscene.deploy.common.errors import InputError
from tinyscene.deploy.graph.graph import Graph
from tinyscene.deploy.graph.operators import Add, AveragePool2D, Conv2D, Crop, DepthwiseConv2D, MaxPool2D, Mean
from tinyscene.deploy.graph.tensor import Quantization, Tensor

Q = Quantization(0.5, 3)
SHAPE = (1, 4, 5, 2)


def quantization(scale: Any = 0.5, zero_point: Any = 0) -> Quantization:
    return Quantization(scale, zero_point)


def tensor(name: Any = "output", shape: Any = SHAPE, q: Any = Q) -> Tensor:
    return Tensor(name, shape, q)


def of(value: float, dtype: Any, *shape: int) -> Any:
    return np.full(shape, value, dtype)


def conv(**changes: Any) -> Any:
    """A 1 x 1 convolution of 2 channels to 2; integer."""
    arrays = {"weights": of(1, np.int8, 2, 1, 1, 2), "bias": of(0, np.int32, 2), "weight_scales": of(1, np.float32, 2)}
    return Conv2D(**{"inputs": ("input",), "output": tensor(), **arrays, **changes})


def plain(**changes: Any) -> Any:
    """The same; float."""
    arrays = {"weights": of(1, np.float32, 2, 1, 1, 2), "bias": of(0, np.float32, 2), "weight_scales": None}
    return conv(**{"output": tensor(q=None), **arrays, **changes})


def depthwise(*shape: int) -> Any:
    return DepthwiseConv2D(
        **{each.name: getattr(conv(), each.name) for each in fields(Conv2D)} | {"weights": of(1, np.int8, *shape)}
    )


def add(**changes: Any) -> Any:
    return Add(**{"inputs": ("input", "input"), "output": tensor(), **changes})


def pool(**changes: Any) -> Any:
    return AveragePool2D(**{"inputs": ("input",), "output": tensor(), "window": (1, 1), **changes})


def max_pool(**changes: Any) -> Any:
    return MaxPool2D(**{"inputs": ("input",), "output": tensor(), "window": (1, 1), **changes})


def cut(*crop: Any, **changes: Any) -> Any:
    return Crop(**{"inputs": ("input",), "output": tensor(), "crop": crop, **changes})


def mean(scale: float = 0.5, **changes: Any) -> Any:
    return Mean(**{"inputs": ("input",), "output": tensor("mean", (1, 2), Quantization(scale, 3)), **changes})


def graph(*operators: Any, source: Any = None) -> Graph:
    return Graph(source or tensor("input"), operators)


def chain(operators: int) -> Graph:
    """One behind the other."""
    names = ["input", *(f"t{index}" for index in range(operators))]
    return graph(*(add(inputs=(name, name), output=tensor(made)) for name, made in pairwise(names)))


def scaled(scale: float, **changes: Any) -> Graph:
    """Its accumulators are multiplied by `scale`."""
    return graph(conv(weight_scales=of(scale, np.float32, 2), **changes))


def two_scales(one: float, two: float, total: float) -> Graph:
    """A sum of tensors of two scales."""
    first = conv(output=tensor("first", q=Quantization(two, 0)), weight_scales=of(two, np.float32, 2))
    both = add(inputs=("input", "first"), output=tensor("sum", q=Quantization(total, 0)))
    return graph(first, both, source=tensor("input", q=Quantization(one, 0)))


FAULTS: dict[str, list[Any]] = {  # what the line says, and what cannot be made
    "must lie in": [lambda v=v: quantization(v) for v in (1, 0.0, -0.5, 2.0**-41, 2.0**21, np.nan, np.float32(1), "1")],
    "no float32": [lambda: Quantization(0.1, 0)],
    "a zero point": [lambda v=v: quantization(zero_point=v) for v in (128, -129, 1.0, True, np.int8(1))],
    "printable": [lambda v=v: tensor(v) for v in ("", "a" * 201, "a\n", b"a", None)],
    "2 or 4 numbers": [
        lambda v=v: tensor(shape=v) for v in ((1, 2, 3), [1, 2], (1, 0), (1, -1), (1, 2**31), (True, 1), 5)
    ],
    "a batch of 1": [
        lambda v=v: tensor(shape=v) for v in ((2, 5), (1, 2**22 + 1), (1, 2**31 - 1, 2**31 - 1, 2**31 - 1))
    ],
    "named inputs": [lambda v=v: mean(inputs=v) for v in (["input"], ("input", "input"), (), (1,), "input")]
    + [lambda: add(inputs=("input",))],
    "stride of": [lambda v=v: pool(stride=v) for v in (0, (0, 1), (1,), (1, 1.0), [1, 1], (1, 2**31))],
    "padding of": [lambda v=v: pool(padding=v) for v in (0, (0, 0), (0, 0, 0, -1), (0, 0, 0, 2**31))],
    "window of": [lambda v=v: pool(window=v) for v in (1, (0, 1), (1, 1, 1), (1, True))],
    "a clamp of": [
        lambda v=v: conv(clamp=v)
        for v in (6.0, [0.0, 6.0], (0, 6), (0.0,), (1.0, 6.0), (-2.0, -1.0), (0.0, 0.0), (6.0, 0.0), (0.0, np.inf))
    ]
    + [lambda: conv(clamp=(np.nan, 1.0)), lambda: add(clamp=(-(2.0**21), 0.0))],
    "a clamp that": [lambda: conv(clamp=(0.0, 0.1)), lambda: add(clamp=(0.0, 6.0), relu=True)],
    "2\\*\\*30 steps": [lambda: graph(add(clamp=(0.0, 1.0), output=tensor(q=Quantization(2.0**-30, 0))))],
    "which is a mean": [
        lambda: graph(
            mean(output=tensor("mean", (1, 1, 1, 2))),
            pool(inputs=("mean",), window=(3, 3), padding=(1, 1, 1, 1), output=tensor(shape=(1, 1, 1, 2))),
        )
    ],
    "relu must": [lambda: conv(relu=1), lambda: add(relu=None)],
    "has weights of": [lambda d=d: plain(weights=of(1, d, 2, 1, 1, 2)) for d in ("i1", "f8", ">f4")]
    + [
        lambda: conv(weights=of(1, "f4", 2, 1, 1, 2)),
        lambda: conv(bias=of(0, "i8", 2)),
        lambda: plain(bias=of(0, "i4", 2)),
    ],
    "has weights \\(": [lambda s=s: conv(weights=of(1, np.int8, *s)) for s in ((2, 2), (0, 1, 1, 2), (2, 1, 1, 0))],
    "has a bias": [lambda s=s: conv(bias=of(0, np.int32, *s)) for s in ((3,), (), (2, 1))],
    "NaN or inf": [lambda v=v: plain(weights=of(v, np.float32, 2, 1, 1, 2)) for v in (np.nan, np.inf)]
    + [lambda: plain(bias=of(np.nan, np.float32, 2))],
    "needs 2 float32 scales": [lambda d=d, n=n: conv(weight_scales=of(1, d, n)) for d, n in (("f8", 2), ("f4", 1))],
    "has scales outside": [lambda v=v: scaled(v) for v in (0, -1, np.nan, np.inf, 2.0**-41, 2.0**21)],
    "weight of -128": [lambda: conv(weights=of(-128, np.int8, 2, 1, 1, 2))],
    "needs \\(1, mel": [lambda v=v: graph(v, source=tensor("input", (1, 2))) for v in (pool(), mean(), cut(1, 0, 0, 0))]
    + [lambda: graph(conv(), source=tensor("input", (1, 2)))],
    "exceeds its window": [lambda: graph(pool(padding=(1, 0, 0, 0))), lambda: graph(pool(padding=(0, 0, 0, 1)))],
    "larger than its input": [lambda v=v: graph(pool(window=v)) for v in ((5, 1), (1, 6))],
    "of 2 inputs": [lambda: graph(conv(weights=of(1, np.int8, 2, 1, 1, 3)))],
    "weights are": [
        lambda: graph(depthwise(2, 1, 1, 2)),
        lambda: graph(depthwise(1, 1, 1, 2), source=tensor("input", (1, 4, 5, 3))),
    ],
    "adds \\(": [lambda: graph(conv(output=tensor("a", (1, 4, 3, 2)), stride=(1, 2)), add(inputs=("a", "input")))],
    "below 2\\*\\*-31": [
        lambda: scaled(2.0**-32),
        lambda: two_scales(2.0**-20, 2.0**15, 1.0),
        lambda: two_scales(2.0**-19, 2.0**-19, 1.0),
    ],
    "less than 2\\*\\*-19": [lambda: two_scales(1.0, 1.0, 2.0**-19), lambda: two_scales(1.0, 1.0, 2.0**-20)],
    "accumulator can overflow": [
        lambda: scaled(1.0, bias=of(-(2**31), np.int32, 2)),
        lambda: scaled(1.0, bias=of(2**31 - 131 * 2, np.int32, 2)),
        lambda: scaled(2.0**10, bias=of(2**20, np.int32, 2)),
        lambda: scaled(2.0**20, weights=of(0, np.int8, 2, 1, 1, 2), output=tensor(q=Quantization(2.0**-12, 0))),
        lambda: graph(mean(2.0**-40), source=tensor("input", q=Quantization(2.0**-14, 0))),
    ],
    "must keep": [lambda v=v: graph(v(output=tensor(q=Quantization(0.5, 4)))) for v in (pool, max_pool)]
    + [lambda: graph(cut(0, 0, 0, 1, output=tensor(shape=(1, 4, 4, 2), q=Quantization(0.5, 4))))],
    "crop of": [lambda v=v: cut(*v) for v in ((0, 0, 1), (0, 0, 0, -1), (0, 0, 0, 1.0), (0, 0, 0, True))],
    "cuts nothing": [lambda: cut(0, 0, 0, 0)],
    "leaves nothing": [lambda v=v: graph(cut(*v)) for v in ((2, 2, 0, 0), (0, 0, 5, 0), (0, 0, 0, 2**31 - 1))],
    "below 2\\*\\*-20": [lambda: graph(mean(2.0**20))],
    "a graph of": [graph, lambda: chain(1_001)],
    "not made before": [lambda: graph(mean(inputs=("other",))), lambda: graph(mean(inputs=("mean",)))],
    "is taken": [lambda: graph(conv(output=tensor("input"))), lambda: graph(conv(), conv())],
    "nothing reads": [lambda: graph(conv(output=tensor("a")), conv(output=tensor("b")))],
    "makes \\(": [lambda v=v: graph(v) for v in (conv(stride=(2, 1)), mean(output=tensor()), cut(0, 0, 1, 0))]
    + [lambda: graph(pool(window=(2, 2)))],
    "integer tensors": [
        lambda: graph(mean(output=tensor("mean", (1, 2), None))),
        lambda: graph(mean(), source=tensor("input", q=None)),
    ],
    "integer weights": [
        lambda: graph(plain(output=tensor())),
        lambda: graph(conv(output=tensor(q=None)), source=tensor("input", q=None)),
    ],
}


@pytest.mark.parametrize(
    ("line", "make"),
    [
        pytest.param(line, make, id=f"{line}-{index}")
        for line, makes in FAULTS.items()
        for index, make in enumerate(makes)
    ],
)
def test_a_fault_is_refused_in_one_line(line: str, make: Callable[[], object]) -> None:
    with pytest.raises(InputError, match=line) as refused:
        make()
    assert "\n" not in str(refused.value)


def test_what_the_faults_are_made_of_is_valid() -> None:
    assert graph(
        conv(), pool(inputs=("output",), output=tensor("pool")), add(inputs=("pool", "pool"), output=tensor("sum"))
    )
    assert graph(plain(), source=tensor("input", q=None)).output.quantization is None
    for made in (graph(mean(2.0**19)), graph(depthwise(1, 1, 1, 2)), scaled(2.0**-31), scaled(2.0**20)):
        assert made.is_integer
    assert two_scales(1.0, 2.0**5, 2.0**-12).is_integer


@pytest.mark.parametrize("window", [2**12, 2**30])
def test_padding_makes_no_activation_larger_than_may_be(window: int) -> None:
    sizes: Any = {"window": (window,) * 2, "padding": (window - 1,) * 4, "stride": (2**31 - 1,) * 2}
    with pytest.raises(InputError):
        graph(pool(**sizes, output=tensor(shape=(1, 1, 1, 2))))


def test_nothing_of_a_graph_can_be_written() -> None:
    made = scaled(1.0)
    operator: Any = made.operators[0]
    for array in (operator.weights, operator.bias, operator.weight_scales):
        with pytest.raises(ValueError, match="read-only"):
            array[0] = 0
    for item, name in ((made, "operators"), (operator, "stride"), (made.input, "shape"), (Q, "scale")):
        with pytest.raises(FrozenInstanceError):
            setattr(item, name, None)


def one_weight(exponent: int) -> Graph:
    """One weight of 127 on inputs of -128 to 127 with zero point -128: accumulators reach 127 * 255."""
    output = tensor("output", (1, 1, 1, 1), Quantization(2.0**-10, 0))
    arrays = {"weights": of(127, np.int8, 1, 1, 1, 1), "bias": of(0, np.int32, 1)}
    scales = of(2.0 ** (exponent - 10), np.float32, 1)
    return graph(
        conv(output=output, weight_scales=scales, **arrays),
        source=tensor("input", (1, 1, 1, 1), Quantization(1.0, -128)),
    )


def test_a_convolution_may_fill_32_bits_and_no_more() -> None:
    assert 127 * 255 * 2**16 < 2**31 <= 127 * 255 * 2**17  # a multiplier of 2**15 is a shift by 16 of one half
    one_weight(15)
    with pytest.raises(InputError, match="can overflow"):
        one_weight(16)


def test_a_mean_may_fill_32_bits_and_no_more() -> None:
    def of_1024_values(multiplier: float) -> Graph:
        source = tensor("input", (1, 32, 32, 2), Quantization(2.0**13, 3))
        return graph(mean(2.0**13 / multiplier), source=source)

    assert 1024 * 255 * 2**13 < 2**31 <= 1024 * 255 * 2**14  # of which 10 bits are divided away by the count
    of_1024_values(2.0**22)
    with pytest.raises(InputError, match="can overflow"):
        of_1024_values(2.0**23)


def test_a_graph_may_have_a_thousand_operators() -> None:
    assert len(chain(1_000).operators) == 1_000


def test_the_last_operator_that_reads_a_tensor_is_known() -> None:
    first, second = conv(output=tensor("a")), add(inputs=("a", "input"), output=tensor("b"))
    whole = graph(first, second, add(inputs=("b", "a")), mean(inputs=("output",)))
    assert whole.last_reads() == [set(), {"input"}, {"a", "b"}, {"output"}]


@pytest.mark.parametrize("stride", [1, 2, 3])
def test_a_window_slides_as_far_as_it_fits(stride: int) -> None:
    for height in range(2, 9):
        places = len(range(0, height - 1, stride)), len(range(0, height + 2, stride))  # of windows of 2, and of 1
        source, made = tensor("input", (1, height, height + 2, 2)), tensor(shape=(1, *places, 2))
        assert graph(pool(window=(2, 1), stride=(stride, stride), output=made), source=source).output == made


@pytest.mark.parametrize(
    ("clamp", "bounds"), [((-0.25, 2.25), (2, 8)), ((0.0, 0.1875), (3, 3)), ((-128.0, 64.0), (-128, 127))]
)
def test_a_clamp_is_rounded_half_away_from_zero_and_to_int8(
    clamp: tuple[float, float], bounds: tuple[int, int]
) -> None:
    assert conv(clamp=clamp).integer_bounds == bounds  # in steps of 1/2 from 3


def test_padding_counts_among_the_values_of_a_window() -> None:
    def padded(height: int) -> Graph:
        source, made = (tensor(name, (1, height, 1_024, 2)) for name in ("input", "output"))
        return graph(max_pool(window=(2, 1), padding=(1, 0, 0, 0), output=made), source=source)

    assert padded(2_047).output.shape == (1, 2_047, 1_024, 2)
    with pytest.raises(InputError, match="makes too many values"):
        padded(2_048)


@pytest.mark.parametrize(("height", "fits"), [(2, True), (3, False)])  # 255 * 2**23, and half as much again
def test_the_accumulator_of_a_mean_holds_32_bits(height: int, fits: bool) -> None:
    source = tensor("input", (1, height, 1, 2), Quantization(2.0**20, 0))
    if fits:
        assert graph(mean(0.25), source=source)
        return
    with pytest.raises(InputError, match="accumulator can overflow"):
        graph(mean(0.25), source=source)

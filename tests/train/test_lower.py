"""Lowering: the graph, run by the numpy reference, against the torch network that it was made from."""

import math
import operator
import random
from collections import Counter, OrderedDict
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor, nn

from tinyscene.deploy.common.errors import InputError
from tinyscene.deploy.graph.graph import Graph
from tinyscene.deploy.graph.operator import Convolution, Window
from tinyscene.deploy.graph.operators import Crop
from tinyscene.deploy.graph.reference import run
from tinyscene.train.models import build
from tinyscene.train.quantize.lower import lower
from tinyscene.train.recipe import load_recipe, recipe_names
from tinyscene.train.runs.budget import count_recipe

SMALL = (37, 22)  # mel, frame


def trained(network: nn.Module, seed: int = 1) -> nn.Module:
    """The network with weights, BatchNorm statistics, signs and offsets of their own, in evaluation mode."""
    torch.manual_seed(seed)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d | nn.BatchNorm1d):
            for tensor, mean, spread in ((module.weight, 0.5, 0.5), (module.bias, 0.0, 0.5)):
                nn.init.normal_(tensor, mean, spread)
            assert module.running_mean is not None
            assert module.running_var is not None
            module.running_mean.normal_(0.0, 0.3)
            module.running_var.uniform_(0.05, 2.0)
    return network.eval()


def assert_same(network: nn.Module, shape: tuple[int, int] = SMALL) -> Graph:
    """The lowered network computes what torch computes, to 1e-4 of its largest output."""
    graph = lower(network, shape)
    x = torch.randn(3, 1, *shape, generator=torch.Generator().manual_seed(2))
    with torch.inference_mode():
        expected = network(x).numpy()
    actual = run(graph, x.permute(0, 2, 3, 1).contiguous().numpy())
    if actual.ndim == 4:
        actual = actual.transpose(0, 3, 1, 2)
    assert actual.shape == expected.shape
    assert np.abs(actual - expected).max() < 1e-4 * np.abs(expected).max()
    return graph


class Around(nn.Module):
    """A function of the input and the members, all of it written in `forward`."""

    def __init__(self, forward, **members: nn.Module) -> None:
        super().__init__()
        self.function = forward
        for name, module in members.items():
            self.add_module(name, module)

    def forward(self, x: Tensor) -> Tensor:
        return self.function(self, x)


def random_network(seed: int) -> nn.Sequential:
    """Convolutions, depthwise ones, pools and residual blocks with kernels, strides and padding drawn by chance."""
    draw, channels, network = random.Random(seed), 1, nn.Sequential()
    for _ in range(5):
        kernel = (draw.randint(1, 4), draw.randint(1, 4))
        stride = (draw.randint(1, 2), draw.randint(1, 2))
        padding = (draw.randint(0, kernel[0] // 2), draw.randint(0, kernel[1] // 2))
        match draw.choice(["convolution", "depthwise", "pool", "most", "residual"]):
            case "convolution":
                outputs = draw.randint(2, 6)
                network.append(nn.Conv2d(channels, outputs, kernel, stride, padding, bias=draw.random() < 0.5))
                channels = outputs
            case "depthwise":
                network.append(nn.Conv2d(channels, channels, kernel, stride, padding, groups=channels))
            case "pool":
                network.append(nn.AvgPool2d(kernel, stride, padding))
                continue
            case "most":
                network.append(nn.MaxPool2d(kernel, stride, padding, ceil_mode=draw.random() < 0.5))
            case "residual":
                path = nn.Conv2d(channels, channels, 3, stride, 1, bias=False)
                members = {"path": path, "norm": nn.BatchNorm2d(channels), "pool": nn.AvgPool2d(3, stride, 1)}
                network.append(Around(lambda self, x: F.relu(self.norm(self.path(x)) + self.pool(x)), **members))
                continue
        activation = draw.choice([nn.ReLU(), nn.ReLU6(), nn.Hardtanh(-0.5, 1.0)])
        network.extend(draw.choice([[], [nn.BatchNorm2d(channels)], [nn.BatchNorm2d(channels), activation]]))
        network.extend(draw.choice([[], [], [activation, nn.BatchNorm2d(channels)], [nn.Hardtanh(-2.0, 0.75)]]))
    head = [nn.AdaptiveAvgPool2d(1), nn.Flatten()]
    if draw.random() < 0.5:
        return network.extend([nn.Conv2d(channels, 4, 1), *head])
    return network.extend([*head, nn.Linear(channels, 7), nn.BatchNorm1d(7), nn.ReLU(), nn.Dropout(), nn.Linear(7, 4)])


@pytest.mark.parametrize("branches", ["false", "true"])
@pytest.mark.parametrize("name", recipe_names("cp_mobile"))
def test_a_shipped_recipe_computes_the_same_when_lowered(name: str, branches: str) -> None:
    recipe = load_recipe(name, [f"model.branches={branches}"])
    shape = SMALL if recipe.features.edges == "reflect" else (SMALL[0], recipe.features.frames)
    assert_same(trained(build(recipe.model, 10)), shape)


def test_the_baseline_computes_the_same_on_its_own_features() -> None:
    recipe = load_recipe("baseline")
    assert_same(trained(build(recipe.model, 10)), recipe.features.shape)


def test_the_published_weights_compute_the_same_when_lowered(baseline_weights: Path) -> None:
    recipe = load_recipe("baseline")
    network = build(recipe.model, 10)
    network.load_state_dict(load_file(baseline_weights))
    assert_same(network.eval(), recipe.features.shape)


def test_the_baseline_has_these_operators_and_multiplications() -> None:
    recipe = load_recipe("baseline")
    graph = lower(build(recipe.model, 10).eval(), recipe.features.shape)
    kinds = Counter(each.kind for each in graph.operators)
    assert kinds == {"Conv2D": 15, "DepthwiseConv2D": 6, "Add": 4, "AveragePool2D": 1, "Mean": 1}
    deployed = count_recipe(recipe).deployed
    assert deployed is not None
    convolutions = [each for each in graph.operators if isinstance(each, Convolution)]
    assert sum(each.macs for each in convolutions) == deployed.macs
    assert sum(each.weights.size + each.bias.size for each in convolutions) == deployed.parameters


def test_tensors_are_named_after_modules() -> None:
    graph = lower(build(load_recipe("baseline").model, 10).eval(), SMALL)
    names = list(graph.tensors)
    assert names[:6] == ["log_mel", "in_c.0", "in_c.1", *(f"stages.s1.b1.block.{part}" for part in range(3))]
    assert {"stages.s1.b1", "stages.s1.b3.shortcut", "stages.s3.b6.block.2"} < set(names)
    assert names[-2:] == ["feed_forward", "logits"]
    assert graph.tensors["log_mel"].shape == (1, *SMALL, 1)


def test_a_name_given_twice_is_numbered() -> None:
    network = Around(lambda self, x: self.logits(self.logits(x)), logits=nn.Conv2d(1, 1, 1))
    assert list(assert_same(network.eval()).tensors) == ["log_mel", "logits_2", "logits"]


@pytest.mark.parametrize("seed", range(24))
def test_a_random_network_computes_the_same_when_lowered(seed: int) -> None:
    shape = (80 + seed % 5, 80 + seed % 3)
    assert_same(trained(random_network(seed), seed), shape)


@pytest.mark.filterwarnings("ignore:Using padding='same'")
@pytest.mark.parametrize("kernel", [(2, 3), (5, 4)])
@pytest.mark.parametrize("padding", ["same", "valid"])
def test_padding_may_be_given_by_name(kernel: tuple[int, int], padding: str) -> None:
    assert_same(nn.Sequential(nn.Conv2d(1, 3, kernel, padding=padding)).eval())


@pytest.mark.parametrize(
    "head",
    [
        lambda self, x: self.pool(x).flatten(1),
        lambda self, x: torch.flatten(self.pool(x), start_dim=1),
        lambda self, x: self.pool(x).squeeze(),
        lambda self, x: torch.squeeze(self.pool(x), 3).squeeze(2),
        lambda self, x: x.mean((2, 3)),
        lambda self, x: torch.mean(x, dim=[-1, -2], keepdim=True).flatten(1),
    ],
)
def test_global_pooling_may_be_written_in_any_of_these_ways(head) -> None:
    network = nn.Sequential(nn.Conv2d(1, 5, 3), Around(head, pool=nn.AdaptiveAvgPool2d(1))).eval()
    assert [each.kind for each in assert_same(network).operators] == ["Conv2D", "Mean"]


def test_global_pooling_of_one_band_or_one_frame_is_global_pooling() -> None:
    for kernel in ((SMALL[0], 1), (1, SMALL[1])):
        network = nn.Sequential(nn.Conv2d(1, 5, kernel), nn.AdaptiveAvgPool2d(1), nn.Flatten()).eval()
        assert [each.kind for each in assert_same(network).operators] == ["Conv2D", "Mean"]


@pytest.mark.parametrize(
    ("joined", "kinds"),
    [
        (lambda self, x: x + self.conv(x).mean(2, True), ["Repeat", "Add"]),
        (lambda self, x: torch.relu(self.conv(x).mean(3, True) + x), ["Repeat", "Add"]),
        (lambda self, x: torch.cat([x[:, 1:3], self.conv(x)], 1)[:, :5], ["Channels", "Concat", "Channels"]),
        (lambda self, x: torch.cat((x, self.conv(x), x), dim=-3)[:, 3:8], ["Concat", "Concat", "Channels"]),
    ],
)
def test_halves_of_channels_and_sums_of_all_with_a_band_or_a_frame(joined, kinds: list[str]) -> None:
    part = Around(joined, conv=nn.Conv2d(5, 5, 1))
    graph = assert_same(nn.Sequential(nn.Conv2d(1, 5, 3), part, nn.Conv2d(5, 4, 1)).eval())
    assert [each.kind for each in graph.operators if each.kind in ("Repeat", "Add", "Channels", "Concat")] == kinds


@pytest.mark.parametrize(
    ("part", "window"),
    [
        (lambda self, x: x.mean(2, keepdim=True), (35, 1)),
        (lambda self, x: torch.mean(x, dim=[-1], keepdim=True), (1, 20)),
        (lambda self, x: F.adaptive_avg_pool2d(x, (1, 20)), (35, 1)),
        (lambda self, x: self.pool(x), (1, 20)),
    ],
)
def test_a_mean_over_mel_or_frame_is_a_window_over_all_of_it(part, window: tuple[int, int]) -> None:
    around = Around(part, pool=nn.AdaptiveAvgPool2d((None, 1)))
    graph = assert_same(nn.Sequential(nn.Conv2d(1, 5, 3), around, nn.Conv2d(5, 4, 1)).eval())
    assert [getattr(each, "window", None) for each in graph.operators] == [None, window, None]


@pytest.mark.parametrize(
    "head",
    [
        lambda self, x: self.linear(self.pool(x).flatten(1)),
        lambda self, x: self.linear(F.adaptive_avg_pool2d(x, 1).view(x.size(0), -1)),
        lambda self, x: self.linear(F.dropout(x.mean((2, 3)), 0.5, self.training)),
        lambda self, x: self.linear(x.mean((2, 3)).reshape(x.shape[0], -1)),
    ],
)
def test_a_linear_layer_after_pooling_is_a_convolution_of_one_pixel(head) -> None:
    members = {"pool": nn.AdaptiveAvgPool2d(1), "linear": nn.Linear(5, 3)}
    graph = assert_same(nn.Sequential(nn.Conv2d(1, 5, 3), Around(head, **members)).eval())
    assert [each.kind for each in graph.operators] == ["Conv2D", "Mean", "Conv2D", "Mean"]
    assert graph.output.shape == (1, 3)


def test_a_linear_layer_after_flatten_is_a_convolution_of_all_it_reads() -> None:
    network = nn.Sequential(nn.Conv2d(1, 4, 3, stride=5), nn.ReLU6(), nn.Flatten(), nn.Linear(4 * 7 * 4, 3))
    first, linear, _ = assert_same(network.eval()).operators
    assert isinstance(first, Convolution)
    assert isinstance(linear, Convolution)
    assert (first.clamp, linear.size) == ((0.0, 6.0), (7, 4))


@pytest.mark.parametrize(
    "most",
    [
        nn.MaxPool2d(3, 2, 1),
        nn.MaxPool2d((2, 3), ceil_mode=True),
        lambda x: F.max_pool2d(x, 3, stride=1, padding=1),
        lambda x: F.max_pool2d(x, (2, 1)),
        nn.AdaptiveMaxPool2d(1),
    ],
)
def test_maxima_may_be_written_in_any_of_these_ways(most) -> None:
    network = Around(lambda self, x: most(self.conv(x)), conv=nn.Conv2d(1, 3, 1))
    if isinstance(most, nn.Module):
        network.most = most
    nn.init.constant_(network.conv.bias, -5.0)  # type: ignore[arg-type] - below zero, which padding must not beat
    assert [each.kind for each in assert_same(network.eval()).operators] == ["Conv2D", "MaxPool2D"]


@pytest.mark.parametrize(
    ("clamp", "bounds"),
    [
        (nn.ReLU6(), (0.0, 6.0)),
        (F.relu6, (0.0, 6.0)),
        (nn.Hardtanh(-0.25, 0.5), (-0.25, 0.5)),
        (F.hardtanh, (-1.0, 1.0)),
        (lambda x: F.hardtanh(x, -0.5, max_val=0.75), (-0.5, 0.75)),
        (lambda x: torch.clamp(x, 0, 0.5), (0.0, 0.5)),
        (lambda x: x.clamp(min=-0.5, max=0.25), (-0.5, 0.25)),
        (lambda x: F.relu(x.clamp(-1, 0.5)), (0.0, 0.5)),
        (lambda x: F.relu(x).clamp(-1, 0.5), (0.0, 0.5)),
        (lambda x: x.clamp(min=0), (0.0, math.inf)),
    ],
)
def test_a_clamp_is_fused_however_it_is_written(clamp, bounds: tuple[float, float]) -> None:
    network = Around(lambda self, x: clamp(self.conv(x)), conv=nn.Conv2d(1, 3, 3))
    if isinstance(clamp, nn.Module):
        network.clamp = clamp
    (operator,) = assert_same(network.eval()).operators
    assert isinstance(operator, Convolution)
    assert operator.bounds == bounds


@pytest.mark.parametrize(
    "layers",
    [
        [nn.BatchNorm2d(1), nn.Conv2d(1, 3, 3, padding=1)],
        [nn.Conv2d(1, 3, 3), nn.ReLU(), nn.BatchNorm2d(3)],
        [nn.Conv2d(1, 3, 3), nn.MaxPool2d(2), nn.BatchNorm2d(3), nn.ReLU()],
        [nn.Conv2d(1, 3, 3), nn.AvgPool2d(2), nn.ReLU6()],
        [nn.Conv2d(1, 3, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.BatchNorm1d(3), nn.Linear(3, 2)],
    ],
)
def test_what_no_convolution_can_take_in_is_a_depthwise_one(layers: list[nn.Module]) -> None:
    kinds = [each.kind for each in assert_same(trained(nn.Sequential(*layers))).operators]
    assert kinds.count("DepthwiseConv2D") == 1


def test_what_others_read_too_is_not_changed_by_an_activation_or_a_norm() -> None:
    assert_same(trained(Around(lambda self, x: F.relu(y := self.conv(x)) + y, conv=nn.Conv2d(1, 3, 1))))
    members = {"conv": nn.Conv2d(1, 3, 1), "norm": nn.BatchNorm2d(3)}
    assert_same(trained(Around(lambda self, x: self.norm(y := self.conv(x)) + y, **members)))
    assert_same(trained(Around(lambda self, x: F.relu(F.dropout(y := self.conv(x), 0.5, False)) + y, **members)))


@pytest.mark.parametrize("add", [operator.add, operator.iadd, torch.add, lambda x, y: x.add(y)])
@pytest.mark.parametrize("relu", [F.relu, torch.relu, lambda x: x.relu(), nn.ReLU(inplace=True)])
def test_additions_and_relus_may_be_written_in_any_of_these_ways(add, relu) -> None:
    network = Around(lambda self, x: relu(add(self.a(x), self.b(x))), a=nn.Conv2d(1, 3, 1), b=nn.Conv2d(1, 3, 1))
    if isinstance(relu, nn.Module):
        network.relu = relu
    operators = assert_same(network.eval()).operators
    assert [(each.kind, getattr(each, "relu", None)) for each in operators][2:] == [("Add", True)]


@pytest.mark.parametrize(
    ("cut", "crop"),
    [
        (lambda x: x[:, :, :, 1:-1], (0, 0, 1, 1)),
        (lambda x: x[..., 3:], (0, 0, 3, 0)),
        (lambda x: x[:, :, 2:30, :5], (2, 7, 0, 17)),
        (lambda x: F.pad(x, (-1, -2)), (0, 0, 1, 2)),
        (lambda x: F.pad(x, (0, 0, -4, 0)), (4, 0, 0, 0)),
    ],
)
def test_a_crop_may_be_written_in_any_of_these_ways(cut, crop: tuple[int, ...]) -> None:
    first, last = assert_same(Around(lambda self, x: cut(self.conv(x)), conv=nn.Conv2d(1, 3, 1)).eval()).operators
    assert isinstance(last, Crop)
    assert (first.kind, last.crop) == ("Conv2D", crop)


def test_a_crop_of_nothing_leaves_no_trace() -> None:
    graph = assert_same(Around(lambda self, x: self.conv(F.pad(x[:, :], (0, 0))), conv=nn.Conv2d(1, 3, 1)).eval())
    assert [operator.kind for operator in graph.operators] == ["Conv2D"]


def test_dropout_and_identity_leave_no_trace() -> None:
    norm = nn.BatchNorm2d(3)
    network = nn.Sequential(nn.Conv2d(1, 3, 3), nn.Identity(), norm, nn.Dropout(0.5), nn.ReLU(), nn.Dropout2d(0.5))
    assert len(assert_same(trained(network)).operators) == 1


def test_a_graph_shares_no_memory_with_its_network() -> None:
    network = nn.Sequential(nn.Conv2d(1, 3, 1), nn.Conv2d(3, 3, 3, groups=3)).eval()
    graph, x = lower(network, SMALL), np.ones((1, *SMALL, 1), np.float32)
    before = run(graph, x)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(1.0)
    np.testing.assert_array_equal(run(graph, x), before)


def test_a_norm_needs_no_weights_of_its_own() -> None:
    network = nn.Sequential(nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3, affine=False)).eval()
    network.get_buffer("1.running_mean").fill_(0.7)
    network.get_buffer("1.running_var").fill_(0.2)
    assert_same(network)


def test_folding_is_computed_in_float64() -> None:
    network = trained(nn.Sequential(nn.Conv2d(1, 64, 3), nn.BatchNorm2d(64)))
    exact = nn.Sequential(nn.Conv2d(1, 64, 3), nn.BatchNorm2d(64)).double()
    exact.load_state_dict(network.state_dict())
    weight, gain = exact.get_parameter("0.weight"), exact.get_parameter("1.weight")
    variance = exact.get_buffer("1.running_var")
    folded = weight * (gain / (variance + 1e-5).sqrt())[:, None, None, None]  # (outputs, 1, height, width)
    convolution = lower(network, SMALL).operators[0]
    assert isinstance(convolution, Convolution)
    np.testing.assert_array_equal(convolution.weights, folded.detach().permute(0, 2, 3, 1).float().numpy())


@pytest.mark.parametrize(
    ("size", "stride", "padding"),
    [
        ((8, 8), (2, 2), (1, 0, 1, 0)),  # the last window ends on the last row
        ((9, 9), (2, 2), (1, 1, 1, 1)),
        ((8, 9), (2, 1), (1, 0, 1, 1)),
        ((10, 11), (3, 3), (1, 1, 1, 0)),  # windows from -1, 2, 5 and 8 end at 10
    ],
)
def test_padding_that_no_window_reaches_is_trimmed(
    size: tuple[int, int], stride: tuple[int, int], padding: tuple[int, ...]
) -> None:
    for layer in (nn.Conv2d(1, 2, 3, stride, 1), nn.AvgPool2d(3, stride, 1)):
        window = assert_same(nn.Sequential(layer).eval(), size).operators[0]
        assert isinstance(window, Window)
        assert window.padding == padding


def aliased(self, x: Tensor) -> Tensor:
    y = z = self.conv(x)
    z += x  # changes y as well
    return y + z


def module(forward) -> nn.Module:
    return Around(forward, conv=nn.Conv2d(8, 8, 1), norm=nn.BatchNorm2d(8))


CONV = nn.Conv2d(8, 8, 1)
REFUSED = {  # what the error says: a module "odd" after a pool of 8 channels
    "odd: Hardswish cannot be lowered; supported: Conv2d, Linear, BatchNorm2d,": nn.Hardswish(),
    "odd: Conv2d with groups=4 of 8 channels and 8 outputs ": nn.Conv2d(8, 8, 3, groups=4),
    "odd: Conv2d with groups=8 of 8 channels and 16 outputs ": nn.Conv2d(8, 16, 3, groups=8),
    "odd: Conv2d with dilation=(2, 2) ": nn.Conv2d(8, 8, 3, dilation=2),
    "odd: Conv2d with padding_mode='reflect' ": nn.Conv2d(8, 8, 3, padding=1, padding_mode="reflect"),
    "odd: MaxPool2d with dilation=(2, 2) ": nn.MaxPool2d(2, dilation=2),
    "odd: AdaptiveMaxPool2d over other than all ": nn.AdaptiveMaxPool2d(2),
    "odd: Hardtanh to 1.0 and 2.0 ": nn.Hardtanh(1.0, 2.0),
    "odd: clamp (node clamp) to -inf and 1.0 ": module(lambda self, x: x.clamp(max=1.0)),
    "odd: dropout (node dropout) cannot be lowered": module(lambda self, x: F.dropout(x, 0.0)),
    "odd: ConvTranspose2d cannot be lowered": nn.ConvTranspose2d(8, 8, 3),
    "odd: Linear on (2, 8, 37, 22) cannot be lowered; supported: linear layers on (batch, fea": nn.Linear(SMALL[1], 3),
    "odd.1: BatchNorm1d on a flattened map ": nn.Sequential(nn.Flatten(), nn.BatchNorm1d(8 * SMALL[0] * SMALL[1])),
    "odd.1: BatchNorm2d without ": nn.Sequential(CONV, nn.BatchNorm2d(8, track_running_stats=False)),
    "odd: AvgPool2d with count_include_pad=False ": nn.AvgPool2d(3, 1, 1, count_include_pad=False),
    "odd: AvgPool2d with ceil_mode=True ": nn.AvgPool2d(2, ceil_mode=True),
    "odd: AvgPool2d with a divisor_override ": nn.AvgPool2d(2, divisor_override=3),
    "odd: AdaptiveAvgPool2d over other than all of mel, ": nn.AdaptiveAvgPool2d(2),
    "odd: Flatten to (2, 8, ": nn.Flatten(2),
    "network: output (node output) of a flattened map ": nn.Flatten(),
    "odd.1: Conv2d with padding after global pooling ": nn.Sequential(
        nn.AdaptiveAvgPool2d(1), nn.Conv2d(8, 8, 3, padding=1)
    ),
    "odd: getitem (node getitem) to (2, 4, 37, 22) cannot": module(lambda self, x: self.conv(x)[:, ::2]),
    "odd: getitem (node getitem) to (2, 8, 37, 11) cannot": module(lambda self, x: x[..., ::2]),
    "odd: getitem (node getitem) to (8, 37, 22) cannot": module(lambda self, x: x[1]),
    "odd: pad (node pad) to (2, 8, 37, 24) cannot": module(lambda self, x: F.pad(x, (1, 1))),
    "odd: cat (node cat) along 2 cannot be lowered": module(lambda self, x: torch.cat([self.conv(x), x], 2)),
    "odd: add (node add) of other than two tensors ": module(lambda self, x: self.conv(x) + 1.0),
    "odd: add (node add) of (2, 8, 37, 22) and (2, 8, 1, 1) ": module(lambda self, x: x + x.mean((2, 3), True)),
    "odd: add (node add) of other than two tensors cannot": module(lambda self, x: torch.add(x, x, alpha=2)),
    "odd: mean (node mean) over other than all of": module(lambda self, x: x.mean((1, 2))),
    "odd: mean (node mean) over other than all of mel": module(lambda self, x: x.mean(2)),
    "odd: torch.fx cannot trace it ": module(lambda self, x: self.conv(x) if x.sum() > 0 else x),
    "network: torch.fx traces it as something else": module(aliased),
    "network: output (node output) of other than the last result ": module(lambda self, x: (self.conv(x), x)),
    "nothing reads tensor 'odd.conv'": module(lambda self, x: (self.conv(x), x + x)[1]),
}


@pytest.mark.parametrize("message", REFUSED)
def test_what_cannot_be_lowered_is_refused_with_its_place(message: str) -> None:
    network = nn.Sequential(OrderedDict(stem=nn.Conv2d(1, 8, 1), pool=nn.AvgPool2d(1), odd=REFUSED[message])).eval()
    with pytest.raises(InputError) as error:
        lower(network, SMALL)
    assert str(error.value).startswith(message)
    assert "\n" not in str(error.value)


def test_a_second_input_is_refused() -> None:
    class Two(nn.Conv2d):
        def forward(self, input: Tensor, mask: Tensor | None = None) -> Tensor:  # noqa: A002 - nn.Conv2d's name
            return super().forward(input)

    with pytest.raises(InputError, match=r"^network: mask \(node mask\) as a second input cannot be lowered"):
        lower(Two(1, 3, 3).eval(), SMALL)


def test_a_network_in_training_mode_is_refused() -> None:
    network = nn.Sequential(nn.Conv2d(1, 8, 1), nn.BatchNorm2d(8)).eval()
    network[1].train()
    with pytest.raises(InputError, match=r"^1: is in training mode"):
        lower(network, SMALL)


def test_a_log_mel_too_small_for_the_network_is_refused() -> None:
    with pytest.raises(InputError, match=r"^network: .* log-mel of \(37, 22\) \(.*Kernel size"):
        lower(nn.Sequential(nn.Conv2d(1, 8, 30)).eval(), SMALL)


def test_weights_that_are_not_finite_are_refused() -> None:
    network = nn.Sequential(nn.Conv2d(1, 8, 1), nn.BatchNorm2d(8)).eval()
    nn.init.constant_(network.get_buffer("1.running_var"), -1.0)
    with pytest.raises(InputError, match="NaN or infinite"):
        lower(network, SMALL)

"""CP-Mobile: the factorized inverted-residual network of the DCASE 2024 Task 1 baseline.

F. Schmid et al., "Distilling the Knowledge of Transformers and CNNs with CP-Mobile", DCASE 2023.
Parameter names are those of the published baseline, so its released weights load as they are.

With `branches`, a depthwise or pointwise convolution trains beside parallel ones (1x1, identity), each
with its own BatchNorm, after X. Ding et al., "RepVGG", CVPR 2021. `fold_branches` turns them into one
convolution: the same network as without branches, in parameters, MACs and names.
"""

import itertools

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tinyscene.deploy.common.errors import InputError
from tinyscene.train.network_settings import Channels, CPMobileModel

Pair = tuple[int, int]  # mel, frame


def round_channels(channels: float) -> int:
    """The nearest multiple of 8, never less than 90 % of `channels` (MobileNetV2)."""
    rounded = max(8, int(channels + 4) // 8 * 8)
    return rounded + 8 if rounded < 0.9 * channels else rounded


def plan_channels(model: CPMobileModel) -> Channels:
    """The channel counts that the settings give a network which was not pruned.

    The first stage is as wide as the stem's second convolution, which it adds to.
    """
    base = round_channels(model.base_channels)
    stages = [round_channels(base * model.channels_multiplier**stage) for stage in range(len(model.n_blocks))]
    outputs = [width for width, count in zip(stages, model.n_blocks, strict=True) for _ in range(count)]
    expanded = [round_channels(inputs * model.expansion_rate) for inputs in [base, *outputs[:-1]]]
    return Channels(stem=base // 4, stages=tuple(stages), expanded=tuple(expanded))


class TimeCrop(nn.Module):
    """Leaves out `frames` frames at each end."""

    def __init__(self, frames: int) -> None:
        super().__init__()
        self.frames = frames

    def forward(self, x: Tensor) -> Tensor:
        return x[..., self.frames : -self.frames] if self.frames else x


class LowPass(nn.Sequential):
    """The binomial filter (1, 2, 1) / 4 along the axes of a stride: two means of neighbours, which have no weights.

    R. Zhang, "Making Convolutional Networks Shift-Invariant Again", ICML 2019. Without padding over time, it loses a
    frame at each end.
    """

    def __init__(self, stride: Pair, pads_time: bool) -> None:
        window = (2 if stride[0] > 1 else 1, 2 if stride[1] > 1 else 1)
        padding = (window[0] - 1, window[1] - 1 if pads_time else 0)
        super().__init__(nn.AvgPool2d(window, 1, padding), nn.AvgPool2d(window, 1))


class ConvNorm(nn.Sequential):
    """Convolution (0), BatchNorm (1), optional parallel branches, and ReLU; optionally a low-pass before a stride."""

    def __init__(
        self,
        inputs: int,
        outputs: int,
        kernel: int | Pair,
        stride: Pair = (1, 1),
        groups: int = 1,
        relu: bool = True,
        branches: bool = False,
        pads_time: bool = True,
        antialias: bool = False,
    ) -> None:
        super().__init__()
        kernel = (kernel, kernel) if isinstance(kernel, int) else kernel
        padding = (kernel[0] // 2, kernel[1] // 2 if pads_time else 0)
        self.append(nn.Conv2d(inputs, outputs, kernel, stride, padding, groups=groups, bias=False))
        self.append(nn.BatchNorm2d(outputs))
        self.relu = relu
        self.low_pass = LowPass(stride, pads_time) if antialias and stride != (1, 1) else nn.Identity()
        self.crop = TimeCrop(kernel[1] // 2 - padding[1])  # of what the branches read, whose kernels are smaller
        self.parallel = nn.ModuleList()
        if branches:
            point = nn.Conv2d(inputs, outputs, 1, stride, groups=groups, bias=False)
            self.parallel.append(nn.Sequential(point, nn.BatchNorm2d(outputs)))
            if inputs == outputs and stride == (1, 1):
                self.parallel.append(nn.Sequential(nn.Identity(), nn.BatchNorm2d(outputs)))

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 - nn.Sequential's name
        """(batch, inputs, mel, frame) -> (batch, outputs, mel', frame')."""
        x = self.low_pass(input)
        y = self[1](self[0](x))
        for branch in self.parallel:
            y = y + branch(self.crop(x))
        return F.relu(y) if self.relu else y


class Block(nn.Module):
    """Inverted residual: pointwise expansion, depthwise 3x3, pointwise projection; a shortcut where the stage goes on.

    `widths` are the channels that it reads, has inside and gives; `name` is what the settings call it. A strided
    block's shortcut is a 3x3 average pool that counts its padding, as published. Without padding over time, a shortcut
    has the frames that the depthwise convolution makes, those in the middle.
    """

    def __init__(self, widths: tuple[int, int, int], shortcut: bool, name: str, model: CPMobileModel) -> None:
        super().__init__()
        (inputs, wide, outputs), branches = widths, model.branches
        stride, frames = model.strides.get(name, (1, 1)), model.time_kernels.get(name, 3)
        pads_time = model.time_padding == "same"
        depthwise = ConvNorm(
            wide, wide, (3, frames), stride, wide, branches=branches, pads_time=pads_time, antialias=model.antialias
        )
        self.block = nn.Sequential(
            ConvNorm(inputs, wide, 1, branches=branches),
            depthwise,
            ConvNorm(wide, outputs, 1, relu=False, branches=branches),
        )
        self.use_shortcut = shortcut
        reach = frames // 2 if pads_time else 0
        pool = nn.AvgPool2d((3, frames), stride, padding=(1, reach))
        loses_frames = model.antialias and stride[1] > 1 and not pads_time  # to the low-pass
        strided = nn.Sequential(TimeCrop(1), pool) if loses_frames else pool
        self.shortcut = TimeCrop(frames // 2 - reach) if stride == (1, 1) else strided

    def forward(self, x: Tensor) -> Tensor:  # (batch, inputs, mel, frame) -> (batch, outputs, mel', frame')
        y = self.block(x)
        return F.relu(y + self.shortcut(x) if self.use_shortcut else y)


class CPMobile(nn.Module):
    """Log-mel (batch, 1, mel, frame) -> logits (batch, classes)."""

    classifier_prefixes = ("feed_forward.",)  # names of the classifier's tensors begin so

    def __init__(self, model: CPMobileModel, classes: int) -> None:
        super().__init__()
        blocks = [f"b{index + 1}" for index in range(sum(model.n_blocks))]
        if unknown := sorted(set(model.strides) - set(blocks)):
            raise InputError(f"model.strides names block {unknown[0]!r}: the model has {blocks[0]} to {blocks[-1]}")
        if unknown := sorted(set(model.time_kernels) - set(blocks)):
            raise InputError(
                f"model.time_kernels names block {unknown[0]!r}: the model has {blocks[0]} to {blocks[-1]}"
            )
        self.settings, self.classes, pads_time = model, classes, model.time_padding == "same"
        planned = plan_channels(model)
        channels = model.channels or planned
        if [len(channels.stages), len(channels.expanded)] != [len(planned.stages), len(planned.expanded)]:
            raise InputError(f"model.channels: needs {len(planned.stages)} stages and {len(blocks)} expanded")
        inputs, planned_inputs = channels.stages[0], planned.stages[0]
        self.in_c = nn.Sequential(
            ConvNorm(1, channels.stem, 3, (2, 2), pads_time=pads_time, antialias=model.antialias),
            ConvNorm(channels.stem, inputs, 3, (2, 2), pads_time=pads_time, antialias=model.antialias),
        )
        self.stages = nn.Sequential()
        names = iter(zip(blocks, channels.expanded, strict=True))
        for stage, count in enumerate(model.n_blocks):
            outputs, planned_outputs = channels.stages[stage], planned.stages[stage]
            members = nn.Sequential()
            for name, wide in itertools.islice(names, count):
                shortcut = planned_inputs == planned_outputs
                members.add_module(name, Block((inputs, wide, outputs), shortcut, name, model))
                inputs, planned_inputs = outputs, planned_outputs
            self.stages.add_module(f"s{stage + 1}", members)
        self.feed_forward = nn.Sequential(
            nn.Conv2d(inputs, classes, 1, bias=False), nn.BatchNorm2d(classes), nn.AdaptiveAvgPool2d(1)
        )
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out")

    def forward(self, x: Tensor) -> Tensor:
        x = self.in_c(x)  # (batch, base, mel / 4, frame / 4)
        x = self.stages(x)  # (batch, widest, mel / 8, frame / 8)
        return self.feed_forward(x).flatten(1)  # (batch, classes)

    def completed(self, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        """Weights of a network without branches, with branches that add nothing yet: their BatchNorms give zero."""
        own = {name: tensor for name, tensor in self.state_dict().items() if ".parallel." in name}
        silent = {name: torch.zeros_like(tensor) for name, tensor in own.items() if name.endswith(".1.weight")}
        return {**own, **silent, **tensors}


def fold_branches(network: CPMobile) -> CPMobile:
    """The same function without branches: every parallel set summed into one convolution and BatchNorm."""
    if not network.settings.branches:
        return network
    plain = CPMobile(network.settings.model_copy(update={"branches": False}), network.classes)
    state = network.state_dict()
    plain.load_state_dict({name: tensor for name, tensor in state.items() if ".parallel." not in name})
    modules = dict(plain.named_modules())
    for name, source in network.named_modules():
        if isinstance(source, ConvNorm) and len(source.parallel):
            target = modules[name]
            assert isinstance(target, ConvNorm)
            _fold(source, target)
    return plain.train(network.training)


@torch.no_grad()
def _fold(source: ConvNorm, target: ConvNorm) -> None:
    convolution, norm = target[0], target[1]
    assert isinstance(convolution, nn.Conv2d)
    assert isinstance(norm, nn.BatchNorm2d)
    pairs = [(branch[0], branch[1]) for branch in (source, *source.parallel)]  # type: ignore[index]
    terms = [_kernel_and_bias(first, second, convolution) for first, second in pairs]
    convolution.weight.copy_(torch.stack([kernel for kernel, _ in terms]).sum(0))
    norm.reset_running_stats()
    norm.weight.fill_((1.0 + norm.eps) ** 0.5)  # undoes the division by sqrt(running_var + eps)
    norm.bias.copy_(torch.stack([bias for _, bias in terms]).sum(0))


def _kernel_and_bias(first: nn.Module, norm: nn.Module, like: nn.Conv2d) -> tuple[Tensor, Tensor]:
    """A branch, convolution or identity and its BatchNorm, as a kernel of `like`'s shape and a bias."""
    assert isinstance(norm, nn.BatchNorm2d)
    assert norm.running_mean is not None
    assert norm.running_var is not None
    gain = norm.weight / (norm.running_var + norm.eps).sqrt()  # (outputs,)
    kernel = torch.zeros_like(like.weight)  # (outputs, inputs / groups, height, width)
    middle, centre = kernel.shape[2] // 2, kernel.shape[3] // 2
    if isinstance(first, nn.Conv2d):
        tall, wide = (size // 2 for size in first.kernel_size)
        kernel[:, :, middle - tall : middle + tall + 1, centre - wide : centre + wide + 1] = first.weight
    else:  # identity: each output is its own input, wherever that is in its group
        outputs = torch.arange(kernel.shape[0])
        kernel[outputs, outputs % kernel.shape[1], middle, centre] = 1.0
    return kernel * gain[:, None, None, None], norm.bias - norm.running_mean * gain

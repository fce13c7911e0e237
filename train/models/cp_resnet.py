"""CP-ResNet, the ResNet with a regularised receptive field of CP-JKU's winning systems, as a teacher.

    tinyscene teach cp_resnet --data DATA --split 5 --out RUN

K. Koutini et al., "Receptive Field Regularization Techniques for Audio Classification and Tagging with Deep
Convolutional Neural Networks", IEEE/ACM TASLP 29, 2021, arXiv 2105.12395. A 5 x 5 convolution of stride 2, then
three stages of residual blocks (four each) of two convolutions, one, two and four times `base_channels` wide, with
max-pooling in between. Of the convolutions of the blocks the first is 3 x 3 and the second 1 x 1; of those that
follow (22), the first `rho` are 3 x 3 and the others 1 x 1.

A 3 x 3 convolution widens the receptive field by twice the product of the strides before it. With the paper's
`pools`, 2 x 2 after the blocks b1, b2 and b4, an output sees 23, 31, 39, 55, 71, 87, 103, 135 mels and frames for
a rho of 0 to 7, and 32 more for each one beyond.

The recipe is the teacher of the winners of DCASE 2023 Task 1 (F. Schmid et al., "CP-JKU Submission to DCASE23", and
their code): two blocks, one and one, 32 channels, two groups in the second stage, 36 channels fewer in the third,
127,684 parameters and 28.8 million MACs. The recipe `cp_resnet_large` is the paper's size.

Names and shapes are those of the published code, whose weights therefore load as they are. Weights are initialised as
there, after H. Zhang et al., "Fixup Initialization", ICLR 2019: a block starts as its shortcut.
"""

import itertools

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tinyscene.deploy.common.errors import InputError
from tinyscene.train.network_settings import CPResNetModel, Stride

Kernels = tuple[int, int]  # of a block's two convolutions
BEFORE = "b0"  # name of the place before the first block


def kernels(rho: int, blocks: int = 12) -> dict[str, Kernels]:
    """By block."""
    sizes = [3, 1] + [3 if index < rho else 1 for index in range(2 * blocks - 2)]
    return {f"b{index + 1}": (sizes[2 * index], sizes[2 * index + 1]) for index in range(blocks)}


class Block(nn.Module):
    """Two convolutions beside a shortcut, (batch, inputs, mel, frame) -> (batch, outputs, mel, frame)."""

    def __init__(self, inputs: int, outputs: int, sizes: Kernels, groups: int) -> None:
        super().__init__()
        first, second = sizes
        self.conv1 = nn.Conv2d(inputs, outputs, first, padding=first // 2, groups=groups, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, second, padding=second // 2, groups=groups, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.shortcut = nn.Sequential()
        if inputs != outputs:
            self.shortcut.add_module("conv", nn.Conv2d(inputs, outputs, 1, groups=groups, bias=False))
            self.shortcut.add_module("bn", nn.BatchNorm2d(outputs))

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.bn1(self.conv1(x)))
        return F.relu(self.bn2(self.conv2(y)) + self.shortcut(x))


class CPResNet(nn.Module):
    """Log-mel (batch, 1, mel, frame) -> logits (batch, classes)."""

    classifier_prefixes = ("feed_forward.",)  # names of the classifier's tensors begin so

    def __init__(self, model: CPResNetModel, classes: int) -> None:
        super().__init__()
        count = sum(model.blocks)
        blocks = kernels(model.rho, count)
        if unknown := sorted(model.pools.keys() - blocks - {BEFORE}):
            raise InputError(f"model.pools names block {unknown[0]!r}: the model has b1 to b{count}, and {BEFORE}")
        base = model.base_channels
        widths = [base * 2**stage - cut for stage, cut in enumerate(model.cut)]
        for stage, (width, groups) in enumerate(zip(widths, model.groups, strict=True)):
            if width < 1 or width % groups or (widths[stage - 1] if stage else base) % groups:
                raise InputError(
                    f"model.groups, model.cut: {groups} groups do not divide stage {stage + 1}, {width} wide"
                )
        stem = nn.Conv2d(1, base, 5, stride=2, padding=1, bias=False)
        self.in_c = nn.Sequential(stem, nn.BatchNorm2d(base), nn.ReLU())
        members, inputs = iter(blocks.items()), base
        stages = []
        for width, groups, length in zip(widths, model.groups, model.blocks, strict=True):
            own = dict(itertools.islice(members, length))
            stages.append(_stage(inputs, width, groups, own, model.pools))
            inputs = width
        self.stage1, self.stage2, self.stage3 = stages
        classifier = nn.Conv2d(inputs, classes, 1, bias=False)
        self.feed_forward = nn.Sequential(classifier, nn.BatchNorm2d(classes), nn.AdaptiveAvgPool2d(1))
        self.apply(lambda module: _initialise(module, count))
        nn.init.kaiming_normal_(stem.weight)
        nn.init.zeros_(classifier.weight)

    def forward(self, x: Tensor) -> Tensor:
        x = self.in_c(x)  # (batch, base, mel / 2, frame / 2)
        x = self.stage3(self.stage2(self.stage1(x)))  # (batch, 4 base, mel', frame'), by the pools
        return self.feed_forward(x).flatten(1)  # (batch, classes)


def _stage(
    inputs: int, outputs: int, groups: int, blocks: dict[str, Kernels], pools: dict[str, Stride]
) -> nn.Sequential:
    """Blocks, each with the pooling that follows it, and the one before the first of all."""
    stage = nn.Sequential()
    if "b1" in blocks and BEFORE in pools:
        stage.add_module("pool0", nn.MaxPool2d(pools[BEFORE]))
    for index, (name, sizes) in enumerate(blocks.items(), start=1):
        stage.add_module(f"block{index}", Block(inputs if index == 1 else outputs, outputs, sizes, groups))
        if name in pools:
            stage.add_module(f"pool{index}", nn.MaxPool2d(pools[name]))
    return stage


@torch.no_grad()
def _initialise(module: nn.Module, blocks: int) -> None:
    if isinstance(module, nn.Conv2d):
        nn.init.kaiming_normal_(module.weight, mode="fan_out")
    if isinstance(module, Block):  # which comes after its convolutions
        module.conv1.weight /= blocks**0.5
        nn.init.zeros_(module.conv2.weight)

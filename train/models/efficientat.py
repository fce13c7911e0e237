"""EfficientAT's MobileNet, pretrained on AudioSet, as a teacher.

    tinyscene teach efficientat --weights published --data DATA --split 25 --out RUN [--probe]

F. Schmid, K. Koutini, G. Widmer, "Efficient Large-Scale Audio Tagging via Transformer-to-CNN Knowledge Distillation",
ICASSP 2023, arXiv 2211.04772: MobileNetV3-Large (A. Howard et al., "Searching for MobileNetV3", ICCV 2019) with one
input channel, whose squeeze-and-excitation looks at channels, all widths times `model.width`, a last convolution of six
times its input, and a head on the mean over mel and time: a hidden layer, then the classifier.

Names and shapes are those of the published checkpoints, which load as they are; a classifier of other labels is fresh.
`model.tuning=head` trains the classifier alone, and BatchNorm then keeps its statistics. `model.head=linear` puts the
classifier directly on the embedding, as a linear probe (`train/teachers/probe.py`) does.
"""

import copy

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tinyscene.train.models.cp_mobile import round_channels
from tinyscene.train.network_settings import EfficientAtModel

BLOCKS = (  # of MobileNetV3-Large: kernel, expanded and output channels at width 1, squeeze-and-excitation, stride
    (3, 16, 16, False, 1),
    (3, 64, 24, False, 2),
    (3, 72, 24, False, 1),
    (5, 72, 40, True, 2),
    (5, 120, 40, True, 1),
    (5, 120, 40, True, 1),
    (3, 240, 80, False, 2),
    (3, 200, 80, False, 1),
    (3, 184, 80, False, 1),
    (3, 184, 80, False, 1),
    (3, 480, 112, True, 1),
    (3, 672, 112, True, 1),
    (5, 672, 160, True, 2),
    (5, 960, 160, True, 1),
    (5, 960, 160, True, 1),
)
STEM, HIDDEN = 16, 1280  # channels of the first convolution and of the head's hidden layer, at width 1
FIRST_HARDSWISH = 6  # index of the first block whose activation is hardswish; ReLU before
LAST_EXPANSION, REDUCTION, DROPOUT = 6, 4, 0.2
EPSILON, MOMENTUM = 0.001, 0.01  # of BatchNorm
DEVIATION = 0.01  # of a fresh linear layer


def _convolution(
    inputs: int, outputs: int, kernel: int, activation: type[nn.Module] | None, stride: int = 1, groups: int = 1
) -> nn.Sequential:
    """Convolution (0), BatchNorm (1) and activation (2)."""
    convolution = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False)
    layers: list[nn.Module] = [convolution, nn.BatchNorm2d(outputs, EPSILON, MOMENTUM)]
    return nn.Sequential(*layers, *([activation()] if activation else []))


class SqueezeExcitation(nn.Module):
    """Factors of the channels from their means, (batch, channel, mel, frame) -> the same."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        squeezed = round_channels(channels // REDUCTION)
        self.fc1 = nn.Linear(channels, squeezed)
        self.fc2 = nn.Linear(squeezed, channels)

    def forward(self, x: Tensor) -> Tensor:
        factor = self.fc2(F.relu(self.fc1(x.mean((2, 3))))).sigmoid()  # (batch, channel)
        return x * factor[:, :, None, None]


class Excitations(nn.Module):
    """The published container of squeeze-and-excitations, here of one."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conc_se_layers = nn.ModuleList([SqueezeExcitation(channels)])

    def forward(self, x: Tensor) -> Tensor:
        return self.conc_se_layers[0](x)


class Block(nn.Module):
    """Inverted residual: expansion, depthwise convolution, squeeze-and-excitation, projection; shortcuts."""

    def __init__(self, inputs: int, index: int, width: float) -> None:
        super().__init__()
        kernel, wide, outputs, excited, stride = BLOCKS[index]
        wide, self.outputs = round_channels(wide * width), round_channels(outputs * width)
        activation = nn.ReLU if index < FIRST_HARDSWISH else nn.Hardswish
        self.block = nn.Sequential()
        if wide != inputs:
            self.block.append(_convolution(inputs, wide, 1, activation))
        self.block.append(_convolution(wide, wide, kernel, activation, stride, groups=wide))
        if excited:
            self.block.append(Excitations(wide))
        self.block.append(_convolution(wide, self.outputs, 1, None))
        self.has_shortcut = stride == 1 and inputs == self.outputs

    def forward(self, x: Tensor) -> Tensor:  # (batch, inputs, mel, frame) -> (batch, outputs, mel', frame')
        y = self.block(x)
        return y + x if self.has_shortcut else y


class EfficientAt(nn.Module):
    """Log-mel (batch, 1, mel, frame) -> logits (batch, classes)."""

    def __init__(self, model: EfficientAtModel, classes: int) -> None:
        super().__init__()
        self.settings = model
        channels = round_channels(STEM * model.width)
        self.features = nn.Sequential(_convolution(1, channels, 3, nn.Hardswish, stride=2))
        for index in range(len(BLOCKS)):
            block = Block(channels, index, model.width)
            self.features.append(block)
            channels = block.outputs
        embedding, hidden = LAST_EXPANSION * channels, round_channels(HIDDEN * model.width)
        self.features.append(_convolution(channels, embedding, 1, nn.Hardswish))
        pooled: list[nn.Module] = [nn.AdaptiveAvgPool2d(1), nn.Flatten(1)]
        if model.head == "linear":
            self.classifier = nn.Sequential(*pooled, nn.Linear(embedding, classes))
        else:
            layers = [nn.Linear(embedding, hidden), nn.Hardswish(), nn.Dropout(DROPOUT), nn.Linear(hidden, classes)]
            self.classifier = nn.Sequential(*pooled, *layers)
        self.classifier_prefixes = (f"classifier.{len(self.classifier) - 1}.",)  # names of its tensors begin so
        self.apply(_initialise)
        if model.tuning == "head":
            self.features.requires_grad_(False)

    def forward(self, log_mel: Tensor) -> Tensor:
        return self.classifier(self.features(log_mel))

    def embed(self, log_mel: Tensor) -> Tensor:
        """The embedding (batch, 6 x channels), that the head gets: the mean over mel and time of the last maps."""
        return self.classifier[:2](self.features(log_mel))

    def train(self, mode: bool = True) -> "EfficientAt":
        super().train(mode)
        if self.settings.tuning == "head":
            self.features.eval()  # BatchNorm keeps its statistics
        return self

    def finished(self) -> "EfficientAt":
        """The network that is kept: every weight may be trained again."""
        network = copy.deepcopy(self)
        network.settings = self.settings.finished()
        return network.requires_grad_(True)


@torch.no_grad()
def _initialise(module: nn.Module) -> None:
    if isinstance(module, nn.Conv2d):
        nn.init.kaiming_normal_(module.weight, mode="fan_out")
    if isinstance(module, nn.Linear):
        nn.init.normal_(module.weight, 0, DEVIATION)
        nn.init.zeros_(module.bias)

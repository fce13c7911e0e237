"""TF-SepNet: convolutions along mel and along time in separate halves of the channels.

    tinyscene train tf_sepnet --data DATA --split 25 --out RUN

Y. Cai, M. Lin, C. Zhu, S. Li, X. Shao, "TF-SepNet: An Efficient 1D Kernel Design in CNNs for Low-Complexity Acoustic
Scene Classification", ICASSP 2024, in the form of their system for DCASE 2024 Task 1 (Y. Cai, S. Li, X. Shao,
"Leveraging Self-Supervised Audio Representations for Data-Efficient Acoustic Scene Classification", DCASE 2024, and
their code): 126,858 parameters at width 64.

A stem of two strided convolutions; then blocks of 1, 1.5, 2 and 2.5 times `width` channels, two of each and three of
the last, with 2 x 2 max-pooling between the groups. A block averages each half of its channels over the axis that it
convolved, so its pointwise convolutions have one row or one column to compute. After the stem and after each group
stands residual normalization (B. Kim et al., "Domain Generalization on Efficient Acoustic Scene Classification Using
Residual Normalization", DCASE 2021), which `model.residual_norm: false` leaves out.

Without residual normalization the network can be quantized and exported; with it not, since the graph has no operator
that divides by a clip's own deviation. What it gains over CP-Mobile of the same MACs: docs/results.md, "Another
family".
"""

import torch
from torch import Tensor, nn

from tinyscene.train.network_settings import TFSepNetModel

GROWTH = (1.0, 1.5, 2.0, 2.5)  # channels of the groups of blocks, as a multiple of the width
BLOCKS = (2, 2, 2, 3)  # of each group
SHORTCUT, EPSILON = 0.1, 1e-5  # of the residual normalization, as published

Pair = tuple[int, int]  # mel, frame


class ConvNorm(nn.Sequential):
    """Convolution, BatchNorm and ReLU; the kernel is padded to keep the size."""

    def __init__(self, inputs: int, outputs: int, kernel: Pair, stride: int = 1, groups: int = 1) -> None:
        padding = (kernel[0] // 2, kernel[1] // 2)
        convolution = nn.Conv2d(inputs, outputs, kernel, stride, padding, groups=groups, bias=False)
        super().__init__(convolution, nn.BatchNorm2d(outputs), nn.ReLU())


class ResidualNorm(nn.Module):
    """Each band of each example normalized over its channels and frames, beside a share of the input."""

    def forward(self, x: Tensor) -> Tensor:
        mean = x.mean((1, 3), keepdim=True)  # (batch, 1, mel, 1)
        variance = x.var((1, 3), keepdim=True)  # (batch, 1, mel, 1)
        return SHORTCUT * x + (x - mean) / (variance + EPSILON).sqrt()


class Repeated(nn.Module):
    """All channels several times, one behind the other."""

    def __init__(self, times: int) -> None:
        super().__init__()
        self.times = times

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([x] * self.times, 1)  # (batch, times * channels, mel, frame)


class HalvesShuffle(nn.Module):
    """Half of each half of the channels beside half of the other.

    It is the published shuffle, which takes them in turn, but for the order of channels, and that the weights choose.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.middle = channels // 2
        self.first = self.middle - self.middle // 2  # of the first half, in the new first half

    def forward(self, x: Tensor) -> Tensor:
        half, first, last = self.middle, self.first, 2 * self.middle - self.first
        parts = x[:, :first], x[:, half:last], x[:, first:half], x[:, last:]
        return torch.cat(parts, 1)  # (batch, channels, mel, frame)


class SeparableBlock(nn.Module):
    """Half of the channels convolved along mel, half along time; (batch, inputs, mel, frame) -> outputs channels.

    The average of a half over the axis of its kernel is added to all rows, or all frames, of that half.
    """

    def __init__(self, inputs: int, outputs: int, dropout: float) -> None:
        super().__init__()
        self.middle = half = outputs // 2
        # channels that a convolution made need no shuffle: which are in which half is its weights' to choose
        self.transition = HalvesShuffle(outputs) if inputs == outputs else ConvNorm(inputs, outputs, (1, 1))
        self.along_mel = ConvNorm(half, half, (3, 1), groups=half)
        self.mel_pointwise = nn.Sequential(ConvNorm(half, half, (1, 1)), nn.Dropout(dropout))
        self.along_time = ConvNorm(half, half, (1, 3), groups=half)
        self.time_pointwise = nn.Sequential(ConvNorm(half, half, (1, 1)), nn.Dropout(dropout))

    def forward(self, x: Tensor) -> Tensor:
        x = self.transition(x)  # (batch, outputs, mel, frame)
        first, second = x[:, : self.middle], x[:, self.middle :]  # (batch, outputs / 2, mel, frame) each
        column = self.along_mel(first).mean(2, keepdim=True)  # (batch, outputs / 2, 1, frame)
        row = self.along_time(second).mean(3, keepdim=True)  # (batch, outputs / 2, mel, 1)
        return torch.cat([first + self.mel_pointwise(column), second + self.time_pointwise(row)], 1)


class TFSepNet(nn.Module):
    """Log-mel (batch, 1, mel, frame) -> logits (batch, classes)."""

    classifier_prefixes = ("classifier.",)  # names of the classifier's tensors begin so

    def __init__(self, model: TFSepNetModel, classes: int) -> None:
        super().__init__()
        half, inputs = model.width // 2, 2 * model.width
        self.stem = nn.Sequential(
            ConvNorm(1, half, (3, 3), stride=2), Repeated(4), ConvNorm(inputs, inputs, (3, 3), stride=2, groups=inputs)
        )
        norm = ResidualNorm if model.residual_norm else nn.Identity
        groups = []
        for growth, count in zip(GROWTH, BLOCKS, strict=True):
            outputs = int(growth * model.width)
            blocks = [SeparableBlock(inputs, outputs, model.dropout)]
            blocks += [SeparableBlock(outputs, outputs, model.dropout) for _ in range(count - 1)]
            groups.append(nn.Sequential(*blocks, norm()))
            inputs = outputs
        pooled = [layer for group in groups[1:] for layer in (nn.MaxPool2d(2), group)]
        self.blocks = nn.Sequential(norm(), groups[0], *pooled)
        self.classifier = nn.Conv2d(inputs, classes, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)  # (batch, 2 width, mel / 4, frame / 4)
        x = self.blocks(x)  # (batch, 2.5 width, mel / 32, frame / 32)
        return self.classifier(x).mean((2, 3))  # (batch, classes)

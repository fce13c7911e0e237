"""Distillation: what a student's loss asks for besides the labels.

    tinyscene train student --data DATA --set distill.logits=LOGITS.safetensors
    tinyscene quantize RUN --data DATA --out BUNDLE --qat --set quantize.distill=0.5     # a run trained so

The student learns the teachers' softened answers, after G. Hinton et al., "Distilling the Knowledge in a
Neural Network", 2015, with temperature 2 and weight 0.02 on the labels as F. Schmid et al., "Distilling the
Knowledge of Transformers and CNNs with CP-Mobile", DCASE 2023, have them. The answers come from a file made
once (`train/teachers/logits.py`); mixup mixes them as it mixes labels. The loss is that of their code,

    label_weight * cross_entropy + (1 - label_weight) * temperature ** 2 * divergence,

whose divergence is the mean over clips and classes; gradients of softened answers are smaller by the square.

A loss is a function of the logits (batch, classes) and of what a batch asks for, summed over the batch.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tinyscene.train.recipe import Distill


@dataclass(frozen=True)
class Targets:
    """What the loss compares the logits of a micro-batch with, and the features they were computed from."""

    log_mel: Tensor  # (batch, 1, mel, frame), the input of the network
    labels: Tensor  # (batch, classes), distributions
    teacher: Tensor | None = None  # (batch, classes), distributions at the recipe's temperature


Loss = Callable[[Tensor, Targets], Tensor]


def cross_entropy(logits: Tensor, targets: Targets) -> Tensor:
    """Against the labels."""
    return F.cross_entropy(logits, targets.labels, reduction="sum")


def loss_of(settings: Distill) -> Loss:
    """The loss that a recipe asks for: of the labels alone, or of the labels and a teacher's answers."""
    if settings.logits is None:
        return cross_entropy
    temperature, label_weight = settings.temperature, settings.label_weight

    def loss(logits: Tensor, targets: Targets) -> Tensor:
        assert targets.teacher is not None
        softened = (logits / temperature).log_softmax(1)  # (batch, classes)
        divergence = F.kl_div(softened, targets.teacher, reduction="none").mean(1).sum()
        return label_weight * cross_entropy(logits, targets) + (1 - label_weight) * temperature**2 * divergence

    return loss


def from_network(teacher: nn.Module, share: float, rest: Loss) -> Loss:
    """The divergence from a network's answers to the same features with weight `share`, and another loss."""
    teacher.eval()

    def loss(logits: Tensor, targets: Targets) -> Tensor:
        with torch.no_grad():
            answers = teacher.to(targets.log_mel.device)(targets.log_mel).log_softmax(1)
        divergence = F.kl_div(logits.log_softmax(1), answers, reduction="sum", log_target=True)
        return share * divergence + (1 - share) * rest(logits, targets)

    return loss


def consistency(logits: Tensor, answers: Tensor, confidence: float) -> Tensor:
    """Cross-entropy of augmented clips' logits (batch, classes) with the answers to the same clips as recorded.

    Answers (batch, classes) are probabilities; those less sure than `confidence` ask for nothing. After Q. Xie
    et al., "Unsupervised Data Augmentation for Consistency Training", NeurIPS 2020.
    """
    sure = answers.amax(1) >= confidence
    return F.cross_entropy(logits, answers, reduction="none")[sure].sum()

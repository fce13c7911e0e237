"""Distillation: what a student's loss asks for besides the labels.

    tinyscene train student --data DATA --set distill.logits=LOGITS.safetensors
    tinyscene quantize RUN --data DATA --out BUNDLE --qat --set quantize.distill=0.5     # a run trained so

The student learns the teachers' softened answers, after G. Hinton et al., "Distilling the Knowledge in a
Neural Network", 2015, with temperature 2 and weight 0.02 on the labels as F. Schmid et al., "Distilling the
Knowledge of Transformers and CNNs with CP-Mobile", DCASE 2023, have them. The answers come from a file made
once, or from a run that is asked at each step (`train/teachers/answers.py`). The loss is that of their code,

    label_weight * cross_entropy + (1 - label_weight) * temperature ** 2 * divergence,

whose divergence is the mean over clips and classes; gradients of softened answers are smaller by the square. With
clips of a folder without labels (`distill.transfer`), the cross-entropy is the mean over the clips with labels, the
divergence over all.

A loss is a function of the logits (batch, classes) and of what a batch asks for, summed over the batch.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tinyscene.train.training_settings import Distill


@dataclass(frozen=True)
class Targets:
    """What the loss compares the logits of a batch with, and the features they were computed from."""

    log_mel: Tensor  # (batch, 1, mel, frame), the input of the network
    labels: Tensor  # (batch, classes), distributions; zeros for a clip without a label, all alike for a stranger
    teacher: Tensor | None = None  # (batch, classes), distributions at the recipe's temperature

    def __getitem__(self, part: slice) -> "Targets":
        log_mel = self.log_mel[part].contiguous(memory_format=torch.channels_last)
        return Targets(log_mel, self.labels[part], None if self.teacher is None else self.teacher[part])

    def alternating(self, others: "Targets") -> "Targets":
        """These clips and as many others in turn, so that every micro-batch has half of each."""
        teacher = None
        if self.teacher is not None and others.teacher is not None:
            teacher = alternating(self.teacher, others.teacher)
        log_mel, labels = alternating(self.log_mel, others.log_mel), alternating(self.labels, others.labels)
        return Targets(log_mel, labels, teacher)


def alternating(first: Tensor, second: Tensor) -> Tensor:
    """Rows of two tensors (batch, ...) in turn, (2 batch, ...)."""
    return torch.stack([first, second], 1).flatten(0, 1)


Loss = Callable[[Tensor, Targets], Tensor]


def cross_entropy(logits: Tensor, targets: Targets) -> Tensor:
    """Against the labels."""
    return F.cross_entropy(logits, targets.labels, reduction="sum")


def loss_of(settings: Distill) -> Loss:
    """The loss that a recipe asks for: of the labels alone, or of the labels and a teacher's answers."""
    if not settings.has_teacher:
        return cross_entropy
    temperature, label_weight = settings.temperature, settings.label_weight
    teacher_weight = (1 - label_weight) / (2 if settings.transfer else 1)  # which has twice the clips then

    def loss(logits: Tensor, targets: Targets) -> Tensor:
        assert targets.teacher is not None
        softened = (logits / temperature).log_softmax(1)  # (batch, classes)
        divergence = F.kl_div(softened, targets.teacher, reduction="none").mean(1).sum()
        return label_weight * cross_entropy(logits, targets) + teacher_weight * temperature**2 * divergence

    return loss


def from_network(teacher: nn.Module, share: float, rest: Loss, with_others: bool = False) -> Loss:
    """The divergence from a network's answers to the same features with weight `share`, and another loss.

    `with_others`: half of the clips are of another folder, and the divergence is the mean over all of them.
    """
    teacher.eval()
    weight = share / 2 if with_others else share

    def loss(logits: Tensor, targets: Targets) -> Tensor:
        with torch.no_grad():
            answers = teacher.to(targets.log_mel.device)(targets.log_mel).log_softmax(1)
        divergence = F.kl_div(logits.log_softmax(1), answers, reduction="sum", log_target=True)
        return weight * divergence + (1 - share) * rest(logits, targets)

    return loss


def consistency(logits: Tensor, answers: Tensor, confidence: float) -> Tensor:
    """Cross-entropy of augmented clips' logits (batch, classes) with the answers to the same clips as recorded.

    Answers (batch, classes) are probabilities; those less sure than `confidence` ask for nothing. After Q. Xie
    et al., "Unsupervised Data Augmentation for Consistency Training", NeurIPS 2020.
    """
    sure = answers.amax(1) >= confidence
    return F.cross_entropy(logits, answers, reduction="none")[sure].sum()

"""Schedules: the learning rate of each step."""

import math

from tinyscene.train.training_settings import Train


def learning_rate(settings: Train, step: int, total_steps: int) -> float:
    """The learning rate of a step."""
    if settings.schedule == "linear":
        return settings.lr * _rise_and_fall(settings, step * settings.epochs // total_steps)
    warmup = warmup_steps(settings, total_steps)
    if step < warmup:
        return settings.lr * step / warmup
    return settings.lr * 0.5 * (1.0 + math.cos(math.pi * (step - warmup) / max(1, total_steps - warmup)))


def warmup_steps(settings: Train, total_steps: int) -> int:
    """Steps of the warm-up: a share of all, or a number, which is cut to half of all in short runs."""
    if settings.warmup_steps is None:
        return round(settings.warmup * total_steps)
    return min(settings.warmup_steps, total_steps // 2)


def _rise_and_fall(settings: Train, epoch: int) -> float:
    """The share of the peak in an epoch: exponential rise, peak, linear fall, and the last rate."""
    rise, start, length = (
        round(share * settings.epochs) for share in (settings.warmup, settings.fall_start, settings.fall_length)
    )
    share = math.exp(-5.0 * (1.0 - max(epoch, 0.5) / rise) ** 2) if epoch < rise else 1.0
    if epoch <= start:
        return share
    left = max(0.0, 1.0 - (epoch - start) / max(1, length))
    return share * (settings.last_lr + (1.0 - settings.last_lr) * left)

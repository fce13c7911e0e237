"""Schedules: the learning rate of each step."""

import math

from tinyscene.train.recipe import Train


def learning_rate(settings: Train, step: int, total_steps: int) -> float:
    """Linear warm-up from zero, then half a cosine to zero."""
    warmup = warmup_steps(settings, total_steps)
    if step < warmup:
        return settings.lr * step / warmup
    return settings.lr * 0.5 * (1.0 + math.cos(math.pi * (step - warmup) / max(1, total_steps - warmup)))


def warmup_steps(settings: Train, total_steps: int) -> int:
    """Steps of the warm-up: a share of all, or a number, which is cut to half of all in short runs."""
    if settings.warmup_steps is None:
        return round(settings.warmup * total_steps)
    return min(settings.warmup_steps, total_steps // 2)

"""The learning rate at every step, as a factor of its base value."""

import math

from htc.config import AdamW, Training

IMAGES_PER_STEP = 16
"""The batch that the original's SGD learning rate is meant for."""


def base_learning_rate(training: Training, images_per_step: int) -> float:
    """SGD's `lr` is for 16 images and scales linearly with the images of a step over all processes; AdamW's is used
    as it is.
    """
    if isinstance(training.optimizer, AdamW):
        return training.optimizer.lr
    return training.optimizer.lr * images_per_step / IMAGES_PER_STEP


def learning_rate_factor(training: Training, step: int, steps_per_epoch: int, epochs: int) -> float:
    """Factor of the base learning rate at `step` (from 0): linear warm-up from `warmup_start`, times the schedule."""
    warm = 1.0
    if step < training.warmup_steps:
        warm = training.warmup_start + (1 - training.warmup_start) * step / training.warmup_steps
    if training.schedule == "cosine":
        return warm * 0.5 * (1 + math.cos(math.pi * min(1.0, step / max(1, steps_per_epoch * epochs))))
    passed = sum(step // max(1, steps_per_epoch) >= milestone for milestone in training.milestones)
    return warm * training.lr_factor**passed

"""The optimizer, its learning-rate schedule, and parameter groups with their own learning rate and weight decay."""

import math
from collections.abc import Iterable
from typing import Any

import torch
from torch import nn

from htc.config import SGD, AdamW, Training
from htc.errors import ConfigError
from htc.model.backbones.custom import CustomFeatures
from htc.model.backbones.fishnet import FishFeatures

IMAGES_PER_STEP = 16
"""The batch size that mmdetection's SGD learning rate is defined for."""


def base_learning_rate(training: Training, images_per_step: int) -> float:
    """Return the base learning rate. SGD's `lr` is for 16 images and scales linearly with the images of a step over
    all processes; AdamW's is used as it is.
    """
    if isinstance(training.optimizer, AdamW):
        return training.optimizer.lr
    return training.optimizer.lr * images_per_step / IMAGES_PER_STEP


def learning_rate_factor(training: Training, step: float, steps_per_epoch: float, epochs: int) -> float:
    """Return the factor of the base learning rate at `step` (from 0): linear warm-up from `warmup_start`, times the
    schedule.
    """
    warm = 1.0
    if step < training.warmup_steps:
        warm = training.warmup_start + (1 - training.warmup_start) * step / training.warmup_steps
    if training.schedule == "cosine":
        return warm * 0.5 * (1 + math.cos(math.pi * min(1.0, step / max(1e-9, steps_per_epoch * epochs))))
    passed = sum(step // max(1e-9, steps_per_epoch) >= milestone for milestone in training.milestones)
    return warm * training.lr_factor**passed


def build_optimizer(
    parameters: Iterable[nn.Parameter] | Iterable[dict[str, Any]], training: Training, images_per_step: int
) -> torch.optim.Optimizer:
    """Build SGD or AdamW with its base learning rate; weight decay applies to every parameter, as in mmdetection,
    unless a group sets its own.
    """
    rate = base_learning_rate(training, images_per_step)
    chosen = training.optimizer
    if isinstance(chosen, AdamW):
        return torch.optim.AdamW(parameters, lr=rate, weight_decay=chosen.weight_decay)
    return torch.optim.SGD(parameters, lr=rate, momentum=chosen.momentum, weight_decay=chosen.weight_decay)


BACKBONE_PREFIXES = ("backbone", "second_look.backbone")
"""Backbones of a detector; only the recursive feature pyramid has the second one."""
POSITION_TABLES = ("relative_position_bias_table", "absolute_pos_embed", "pos_embed", "cls_token")


def groups_of(detector: nn.Module, optimizer: SGD | AdamW) -> list[nn.Parameter] | list[dict[str, Any]]:
    """Return all trained parameters: a list if all share their settings, else groups with `lr` and `weight_decay`."""
    named = [(name, parameter) for name, parameter in detector.named_parameters() if parameter.requires_grad]
    if isinstance(optimizer, SGD) or (optimizer.layer_decay == 1 and optimizer.weight_decay_of == "all"):
        return [parameter for _, parameter in named]
    factors = factors_of(detector, optimizer.layer_decay) if optimizer.layer_decay < 1 else {}
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for name, parameter in named:
        factor = factors.get(name, 1.0)
        no_decay = optimizer.weight_decay_of == "weights" and (parameter.ndim <= 1 or name.endswith(POSITION_TABLES))
        groups.setdefault((factor, 0.0 if no_decay else optimizer.weight_decay), []).append(parameter)
    return [
        {"params": members, "lr": optimizer.lr * factor, "weight_decay": decay}
        for (factor, decay), members in groups.items()
    ]


def factors_of(detector: nn.Module, decay: float) -> dict[str, float]:
    """Map parameter names to learning-rate factors, for each backbone of the detector; raises `ConfigError` as
    `rate_factors` does.
    """
    backbones = ((name, module) for name, module in detector.named_modules() if name in BACKBONE_PREFIXES)
    return {
        f"{prefix}.{name}": factor
        for prefix, backbone in backbones
        for name, factor in rate_factors(backbone, decay).items()
    }


def rate_factors(backbone: nn.Module, decay: float) -> dict[str, float]:
    """Map parameter names to learning-rate factors that decay from the last block to the first (layer-wise decay).

    With N blocks, layers before the first block have the factor decay^(N + 1), block k has decay^(N + 1 - k), layers
    after the last block have 1. Raises `ConfigError` for networks without a sequence of blocks: timm's DPN; FishNet,
    whose transfer blocks run in another order than they are listed; and a user's own module, whose order is unknown.
    """
    blocks = [] if isinstance(backbone, FishFeatures | CustomFeatures) else block_names(backbone)
    if not blocks:
        raise ConfigError("training.optimizer.layer_decay: this backbone has no sequence of blocks; set it to 1")
    factors, seen = {}, 0
    for name, _ in backbone.named_parameters():
        inside = next((index for index, block in enumerate(blocks, 1) if name.startswith(f"{block}.")), None)
        seen = max(seen, inside or 0)
        layer = inside or (seen if seen < len(blocks) else len(blocks) + 1)
        factors[name] = decay ** (len(blocks) + 1 - layer)
    return factors


def block_names(backbone: nn.Module) -> list[str]:
    """Return the names of a network's blocks in order: the members of its outermost sequences that have submodules."""
    blocks: list[str] = []
    for name, module in backbone.named_modules():
        if isinstance(module, nn.Sequential | nn.ModuleList) and not any(
            f"{name}.".startswith(f"{block}.") for block in blocks
        ):
            blocks += [
                f"{name}.{part}" if name else part
                for part, child in module.named_children()
                if any(True for _ in child.children())
            ]
    return blocks

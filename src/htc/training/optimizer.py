"""The optimizer, its learning rate at every step, and parameter groups with their own rates and weight decay."""

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
"""The batch size that mmdetection's SGD learning rate is meant for."""


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


def build_optimizer(
    parameters: Iterable[nn.Parameter] | Iterable[dict[str, Any]], training: Training, images_per_step: int
) -> torch.optim.Optimizer:
    """SGD or AdamW at its base learning rate; weight decay on every parameter, as mmdetection has it, unless groups
    set their own.
    """
    rate = base_learning_rate(training, images_per_step)
    chosen = training.optimizer
    if isinstance(chosen, AdamW):
        return torch.optim.AdamW(parameters, lr=rate, weight_decay=chosen.weight_decay)
    return torch.optim.SGD(parameters, lr=rate, momentum=chosen.momentum, weight_decay=chosen.weight_decay)


BACKBONE_PREFIXES = ("backbone", "second_look.backbone")
"""Of a detector; the second one only where its neck looks twice."""
POSITION_TABLES = ("relative_position_bias_table", "absolute_pos_embed", "pos_embed", "cls_token")


def groups_of(detector: nn.Module, optimizer: SGD | AdamW) -> list[nn.Parameter] | list[dict[str, Any]]:
    """All trained parameters, as one list where they learn alike, else as groups with their own `lr` and
    `weight_decay`.
    """
    named = [(name, parameter) for name, parameter in detector.named_parameters() if parameter.requires_grad]
    if isinstance(optimizer, SGD) or (optimizer.layer_decay == 1 and optimizer.weight_decay_of == "all"):
        return [parameter for _, parameter in named]
    factors = factors_of(detector, optimizer.layer_decay) if optimizer.layer_decay < 1 else {}
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for name, parameter in named:
        factor = factors.get(name, 1.0)
        spared = optimizer.weight_decay_of == "weights" and (parameter.ndim <= 1 or name.endswith(POSITION_TABLES))
        groups.setdefault((factor, 0.0 if spared else optimizer.weight_decay), []).append(parameter)
    return [
        {"params": members, "lr": optimizer.lr * factor, "weight_decay": decay}
        for (factor, decay), members in groups.items()
    ]


def factors_of(detector: nn.Module, decay: float) -> dict[str, float]:
    """Parameter name -> factor of the learning rate, of each backbone that the detector has; raises `ConfigError` as
    `rate_factors`.
    """
    backbones = ((name, module) for name, module in detector.named_modules() if name in BACKBONE_PREFIXES)
    return {
        f"{prefix}.{name}": factor
        for prefix, backbone in backbones
        for name, factor in rate_factors(backbone, decay).items()
    }


def rate_factors(backbone: nn.Module, decay: float) -> dict[str, float]:
    """Parameter name -> factor of the learning rate: `decay` to the power of the blocks that follow, and once more.

    N blocks: what precedes the first one learns at decay^(N + 1), block k at decay^(N + 1 - k), what follows the last
    one at 1. Raises `ConfigError` for networks without blocks in sequence: timm's DPN, FishNet, whose transfer blocks
    run between the others and beside them, not where they are listed, and a user's own module, whose order is unknown.
    """
    blocks = [] if isinstance(backbone, FishFeatures | CustomFeatures) else block_names(backbone)
    if not blocks:
        raise ConfigError("training.optimizer.layer_decay: this backbone has no sequence of blocks; set it to 1")
    factors, seen = {}, 0
    for name, _ in backbone.named_parameters():
        inside = next((place for place, block in enumerate(blocks, 1) if name.startswith(f"{block}.")), None)
        seen = max(seen, inside or 0)
        layer = inside or (seen if seen < len(blocks) else len(blocks) + 1)
        factors[name] = decay ** (len(blocks) + 1 - layer)
    return factors


def block_names(backbone: nn.Module) -> list[str]:
    """The blocks of a network in their order: the members of its sequences that have parts themselves, outermost
    sequences only.
    """
    found: list[str] = []
    for name, module in backbone.named_modules():
        if isinstance(module, nn.Sequential | nn.ModuleList) and not any(
            f"{name}.".startswith(f"{block}.") for block in found
        ):
            found += [
                f"{name}.{part}" if name else part
                for part, child in module.named_children()
                if any(True for _ in child.children())
            ]
    return found

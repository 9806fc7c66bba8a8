"""The few layers every part is made of."""

import torch
from torch import Tensor, nn

from htc.config import BackboneNorm, LayerNorm


class FixedBatchNorm2d(nn.BatchNorm2d):
    """Batch normalisation whose affine is trained while its running statistics stay as loaded: the original's setting."""

    def train(self, mode: bool = True) -> "FixedBatchNorm2d":  # noqa: ARG002 - never in training mode, that is the point
        """Stay in evaluation mode."""
        return super().train(False)


class FrozenBatchNorm2d(FixedBatchNorm2d):
    """Batch normalisation of which nothing is trained."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels)
        self.requires_grad_(False)


def group_norm(channels: int) -> nn.GroupNorm:
    """GroupNorm with groups of at least four channels, at most 32 groups."""
    groups = min(32, max(1, channels // 4))
    while channels % groups:
        groups -= 1
    return nn.GroupNorm(groups, channels)


def norm(kind: BackboneNorm | LayerNorm, channels: int) -> nn.Module:
    """A normalisation layer for `channels` channels."""
    match kind:
        case "statistics_fixed":
            return FixedBatchNorm2d(channels)
        case "frozen":
            return FrozenBatchNorm2d(channels)
        case "batch":
            return nn.BatchNorm2d(channels)
        case "sync":
            return nn.SyncBatchNorm(channels)
        case "group":
            return group_norm(channels)
        case "none":
            return nn.Identity()


class ConvBlock(nn.Module):
    """Convolution, then norm, then ReLU, where the last two are optional; padding keeps the size at stride 1.

    With a norm the convolution has no bias.
    """

    def __init__(self, channels_in: int, channels_out: int, kernel: int, *, norm_kind: LayerNorm = "none", relu: bool = True, stride: int = 1) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels_in, channels_out, kernel, stride=stride, padding=kernel // 2, bias=norm_kind == "none")
        self.norm = norm(norm_kind, channels_out)
        self.relu = relu

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, C', H', W')"""
        x = self.norm(self.conv(x))
        return torch.relu_(x) if self.relu and not x.requires_grad else x.relu() if self.relu else x


def initialise(module: nn.Module) -> None:
    """Kaiming-normal weights for ReLU and zero biases in every convolution and linear layer."""
    for layer in module.modules():
        if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d | nn.Linear):
            nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)


def initialise_output(layer: nn.Conv2d | nn.Linear, std: float) -> None:
    """Small normal weights and zero bias, so that training starts from near-uniform predictions."""
    nn.init.normal_(layer.weight, std=std)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)

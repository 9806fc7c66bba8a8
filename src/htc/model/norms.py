"""Normalization layers: BatchNorm with fixed, frozen, local or synchronized statistics, also for an empty batch;
GroupNorm.
"""

from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd import Function
from torch.nn.modules._functions import SyncBatchNorm as FusedSyncBatchNorm

from htc.config import BackboneNorm, LayerNorm


class FixedBatchNorm2d(nn.BatchNorm2d):
    """BatchNorm with trainable affine parameters and fixed running statistics, mmdetection's default for backbones."""

    def train(self, mode: bool = True) -> "FixedBatchNorm2d":  # noqa: ARG002 - never in training mode, on purpose
        """Stay in evaluation mode."""
        return super().train(False)


class FrozenBatchNorm2d(FixedBatchNorm2d):
    """BatchNorm with fixed affine parameters and fixed running statistics."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels)
        self.requires_grad_(False)


def freeze_norms(module: nn.Module) -> nn.Module:
    """Replace every BatchNorm in `module` that updates its statistics with a frozen one of the same values. -> the
    module
    """
    if isinstance(module, nn.BatchNorm2d | nn.SyncBatchNorm) and not isinstance(module, FixedBatchNorm2d):
        frozen = FrozenBatchNorm2d(module.num_features)
        frozen.eps = module.eps
        frozen.load_state_dict(module.state_dict())
        return frozen
    for name, child in module.named_children():
        setattr(module, name, freeze_norms(child))
    return module


class BatchNorm2d(nn.BatchNorm2d):
    """BatchNorm that accepts an empty batch, as in a training step without positive RoIs."""

    def forward(self, x: Tensor) -> Tensor:  # type: ignore[override]
        """(N, C, H, W) -> (N, C, H, W); N may be 0."""
        if not self.training or len(x):
            return super().forward(x)
        return F.batch_norm(
            x, self.running_mean, self.running_var, self.weight, self.bias, training=False, eps=self.eps
        )


class SyncBatchNorm2d(BatchNorm2d):
    """BatchNorm with mean and variance over the pixels of all processes; a process may have none.

    With one process, or in evaluation mode, an ordinary BatchNorm. On a GPU, torch's fused kernels are used. Not a
    subclass of `torch.nn.SyncBatchNorm`, which DistributedDataParallel refuses on a CPU.
    """

    def forward(self, x: Tensor) -> Tensor:  # type: ignore[override]
        """(N, C, H, W) -> (N, C, H, W)."""
        if not (self.training and dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1):
            return super().forward(x)
        assert self.running_mean is not None
        assert self.running_var is not None
        assert self.num_batches_tracked is not None
        assert self.momentum is not None
        self.num_batches_tracked.add_(1)
        if x.is_cuda:
            statistics = self.running_mean, self.running_var
            return FusedSyncBatchNorm.apply(
                x, self.weight, self.bias, *statistics, self.eps, self.momentum, dist.group.WORLD, dist.get_world_size()
            )  # type: ignore[return-value]
        exact = x.to(torch.promote_types(x.dtype, torch.float32))
        total_count = summed_over_processes(exact.new_tensor([x.numel() // x.shape[1]]))
        count = total_count.clamp(min=1)
        mean = summed_over_processes(exact.sum((0, 2, 3))) / count
        centered = exact - mean[:, None, None]  # before squaring: a difference of large squares would lose precision
        variance = summed_over_processes(centered.square().sum((0, 2, 3))) / count
        with torch.no_grad():
            momentum = self.momentum * (total_count > 0).to(self.running_mean.dtype)  # an empty batch updates nothing
            self.running_mean.lerp_(mean.to(self.running_mean.dtype), momentum)
            unbiased = variance * count / (count - 1).clamp(min=1)
            self.running_var.lerp_(unbiased.to(self.running_var.dtype), momentum)
        scale = self.weight * (variance + self.eps).rsqrt()
        return (centered * scale[:, None, None] + self.bias[:, None, None]).to(x.dtype)


def group_norm(channels: int) -> nn.GroupNorm:
    """GroupNorm with groups of at least four channels, at most 32 groups."""
    groups = min(32, max(1, channels // 4))
    while channels % groups:
        groups -= 1
    return nn.GroupNorm(groups, channels)


def norm(kind: BackboneNorm | LayerNorm, channels: int) -> nn.Module:
    """Build a normalization layer of `kind` for `channels` channels."""
    match kind:
        case "statistics_fixed":
            return FixedBatchNorm2d(channels)
        case "frozen":
            return FrozenBatchNorm2d(channels)
        case "batch":
            return BatchNorm2d(channels)
        case "sync":
            return SyncBatchNorm2d(channels)
        case "group":
            return group_norm(channels)
        case "none":
            return nn.Identity()


def summed_over_processes(value: Tensor) -> Tensor:
    """Sum over all processes; its gradient is the sum of the gradients of all processes."""
    return _Summed.apply(value)  # type: ignore[return-value]


class _Summed(Function):
    @staticmethod
    def forward(ctx: Any, value: Tensor) -> Tensor:  # noqa: ARG004 - a Function's signature
        total = value.contiguous().clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:  # type: ignore[override]  # noqa: ARG004
        return _Summed.apply(gradient)  # type: ignore[return-value]

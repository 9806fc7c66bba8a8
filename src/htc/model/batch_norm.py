"""Batch normalisation that an empty batch does not stop, and over the pictures of all processes on any device:
torch's own layer needs a GPU.
"""

from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd import Function
from torch.nn.modules._functions import SyncBatchNorm as FusedSyncBatchNorm


class BatchNorm2d(nn.BatchNorm2d):
    """Batch normalisation that lets an empty batch pass: a step without positive regions has nothing to count, and
    no error to make.
    """

    def forward(self, x: Tensor) -> Tensor:  # type: ignore[override]
        """(N, C, H, W) -> the same shape; N may be 0"""
        if len(x) or not self.training:
            return super().forward(x)
        return F.batch_norm(
            x, self.running_mean, self.running_var, self.weight, self.bias, training=False, eps=self.eps
        )


class SyncBatchNorm2d(BatchNorm2d):
    """Mean and variance over all processes' pixels together; a process may have none. Alone, or in evaluation, a plain
    batch norm.

    On a GPU torch's fused kernels compute it. Not a `torch.nn.SyncBatchNorm`: data-parallel training refuses those on a
    CPU.
    """

    def forward(self, x: Tensor) -> Tensor:  # type: ignore[override]
        """(N, C, H, W) -> (N, C, H, W)"""
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
        counted = summed_over_processes(exact.new_tensor([x.numel() // x.shape[1]]))
        count = counted.clamp(min=1)
        mean = summed_over_processes(exact.sum((0, 2, 3))) / count
        centred = exact - mean[:, None, None]  # before it is squared: the difference of large squares would be rounding
        variance = summed_over_processes(centred.square().sum((0, 2, 3))) / count
        with torch.no_grad():
            momentum = self.momentum * (counted > 0).to(self.running_mean.dtype)  # nothing anywhere: nothing is learnt
            self.running_mean.lerp_(mean.to(self.running_mean.dtype), momentum)
            unbiased = variance * count / (count - 1).clamp(min=1)
            self.running_var.lerp_(unbiased.to(self.running_var.dtype), momentum)
        scale = self.weight * (variance + self.eps).rsqrt()
        return (centred * scale[:, None, None] + self.bias[:, None, None]).to(x.dtype)


def summed_over_processes(value: Tensor) -> Tensor:
    """The sum over all processes; its gradient is the sum of theirs."""
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

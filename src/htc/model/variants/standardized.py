"""Adaptive weight standardisation of DetectoRS' code (after Qiao et al. 2019, arXiv 1903.10520): what its released
weights were trained with.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

VARIANCE_EPSILON = 1e-5


class WeightStandardisation(nn.Module):
    """w -> gamma (w - mean(w)) / sqrt(var(w) + 1e-5) + beta, with the mean and variance (divided by n - 1) of each
    output channel.

    `gamma` and `beta` are not learnt: they are the first weights' own deviation and mean, so that a convolution starts
    as it is, and training moves neither. Only the direction in which a filter differs from its mean is left to learn.
    """

    gamma: Tensor
    beta: Tensor

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        mean, deviation = _mean_and_deviation(weight.detach())
        self.register_buffer("gamma", deviation)
        self.register_buffer("beta", mean)

    def forward(self, weight: Tensor) -> Tensor:
        """(C', C, H, W) -> the same shape"""
        mean, deviation = _mean_and_deviation(weight)
        return self.gamma * ((weight - mean) / deviation) + self.beta


def _mean_and_deviation(weight: Tensor) -> tuple[Tensor, Tensor]:
    """(C', 1, 1, 1) each."""
    variance, mean = torch.var_mean(weight, (1, 2, 3), keepdim=True)
    return mean, (variance + VARIANCE_EPSILON).sqrt()


class StandardisedConv2d(nn.Conv2d):
    """A convolution whose weight is standardised before each use; `baked` is the plain convolution that it amounts
    to.
    """

    def __init__(self, plain: nn.Conv2d) -> None:
        super().__init__(*_shape(plain), bias=plain.bias is not None)  # type: ignore[misc]
        self.weight, self.bias = plain.weight, plain.bias
        self.standard = WeightStandardisation(plain.weight)

    def forward(self, x: Tensor) -> Tensor:  # type: ignore[override]
        """(N, C, H, W) -> (N, C', H', W')"""
        return F.conv2d(x, self.standard(self.weight), self.bias, self.stride, self.padding, self.dilation, self.groups)

    def baked(self) -> nn.Conv2d:
        """For prediction: the same weights every time, computed once."""
        plain = nn.Conv2d(*_shape(self), bias=self.bias is not None, device="meta")  # type: ignore[misc]
        plain.weight, plain.bias = nn.Parameter(self.standard(self.weight).detach(), requires_grad=False), self.bias
        return plain


def _shape(conv: nn.Conv2d) -> tuple[object, ...]:
    return conv.in_channels, conv.out_channels, conv.kernel_size, conv.stride, conv.padding, conv.dilation, conv.groups


def standardise(module: nn.Module) -> None:
    """Turn every plain convolution inside `module` into a standardised one."""
    for name, child in list(module.named_children()):
        if type(child) is nn.Conv2d:
            setattr(module, name, StandardisedConv2d(child))
        else:
            standardise(child)

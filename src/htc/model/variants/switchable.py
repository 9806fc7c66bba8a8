"""Convolutions of DetectoRS (Qiao et al. 2020, arXiv 2006.02334): switchable atrous convolution (section 4), and the
standardized weights (after Qiao et al. 2019, arXiv 1903.10520) that its released models were trained with.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.ops import deform_conv2d

VARIANCE_EPSILON = 1e-5


class WeightStandardization(nn.Module):
    """w -> gamma (w - mean(w)) / sqrt(var(w) + 1e-5) + beta, with the mean and variance (divided by n - 1) of each
    output channel.

    `gamma` and `beta` are fixed: they are the standard deviation and mean of the initial weights, so that the
    convolution is unchanged at first, and training changes neither. It learns only the direction in which a filter
    differs from its mean.
    """

    gamma: Tensor
    beta: Tensor

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        mean, deviation = _mean_and_deviation(weight.detach())
        self.register_buffer("gamma", deviation)
        self.register_buffer("beta", mean)

    def forward(self, weight: Tensor) -> Tensor:
        """(C', C, H, W) -> (C', C, H, W)."""
        mean, deviation = _mean_and_deviation(weight)
        return self.gamma * ((weight - mean) / deviation) + self.beta


def _mean_and_deviation(weight: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of each filter, (C', 1, 1, 1) each."""
    variance, mean = torch.var_mean(weight, (1, 2, 3), keepdim=True)
    return mean, (variance + VARIANCE_EPSILON).sqrt()


class StandardizedConv2d(nn.Conv2d):
    """A convolution whose weight is standardized before each use; `baked` returns the equivalent plain convolution."""

    def __init__(self, plain: nn.Conv2d) -> None:
        super().__init__(*_shape(plain), bias=plain.bias is not None)  # type: ignore[misc]
        self.weight, self.bias = plain.weight, plain.bias
        self.standard = WeightStandardization(plain.weight)

    def forward(self, x: Tensor) -> Tensor:  # type: ignore[override]
        """(N, C, H, W) -> (N, C', H', W')."""
        return F.conv2d(x, self.standard(self.weight), self.bias, self.stride, self.padding, self.dilation, self.groups)

    def baked(self) -> nn.Conv2d:
        """Convert to a plain convolution for prediction, with the weight standardized once."""
        plain = nn.Conv2d(*_shape(self), bias=self.bias is not None, device="meta")  # type: ignore[misc]
        plain.weight, plain.bias = nn.Parameter(self.standard(self.weight).detach(), requires_grad=False), self.bias
        return plain


def _shape(conv: nn.Conv2d) -> tuple[object, ...]:
    return conv.in_channels, conv.out_channels, conv.kernel_size, conv.stride, conv.padding, conv.dilation, conv.groups


def standardize(module: nn.Module) -> None:
    """Replace every plain convolution inside `module` with a standardized one."""
    for name, child in list(module.named_children()):
        if type(child) is nn.Conv2d:
            setattr(module, name, StandardizedConv2d(child))
        else:
            standardize(child)


WIDE = 3
"""Dilation of the second convolution."""
REACH = 2
"""Radius in pixels of the mean that the switch and the offsets are computed from."""
OFFSETS = 18
"""(dy, dx) of nine taps."""


class SwitchableConv2d(nn.Module):
    """Switchable atrous convolution (Eq. 4): S(x) Conv(x, w, 1) + (1 - S(x)) Conv(x, w + dw, 3), between two global
    contexts.

    The switch S is a 1x1 convolution of the 5x5 mean, without an activation. It is initialized to 1, and dw and the
    contexts to zero, so that a trained convolution is unchanged at first. `deformable`: both convolutions are
    deformable (Dai et al. 2017), each with its offsets. If `plain` is a standardized convolution, w is standardized
    before dw is added. Not an `nn.Conv2d`, since no norm can be folded into it.
    """

    def __init__(self, plain: nn.Conv2d, *, deformable: bool) -> None:
        super().__init__()
        self.stride, self.groups = plain.stride, plain.groups
        self.weight = plain.weight
        self.standard = plain.standard if isinstance(plain, StandardizedConv2d) else nn.Identity()
        self.difference = nn.Parameter(torch.zeros_like(plain.weight))
        self.switch = nn.Conv2d(plain.in_channels, 1, 1, plain.stride)  # type: ignore[arg-type]
        self.before = nn.Conv2d(plain.in_channels, plain.in_channels, 1)
        self.after = nn.Conv2d(plain.out_channels, plain.out_channels, 1)
        offsets = (nn.Conv2d(plain.in_channels, OFFSETS, 3, plain.stride, padding=1) for _ in range(2))  # type: ignore[arg-type]
        self.offsets = nn.ModuleList(offsets if deformable else ())
        for layer in (self.switch, self.before, self.after, *self.offsets):
            for parameter in layer.parameters():
                nn.init.zeros_(parameter)
        assert self.switch.bias is not None
        nn.init.ones_(self.switch.bias)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, C', H', W')."""
        x = x + self.before(x.mean((2, 3), keepdim=True))
        local_mean, weight = mean_around(x), self.standard(self.weight)
        switch = self.switch(local_mean)
        y = switch * self._view(x, weight, 1, local_mean) + (1 - switch) * self._view(
            x, weight + self.difference, WIDE, local_mean
        )
        return y + self.after(y.mean((2, 3), keepdim=True))

    def baked(self) -> "SwitchableConv2d":
        """Standardize the weights once, for prediction. -> self"""
        self.weight = nn.Parameter(self.standard(self.weight).detach(), requires_grad=False)
        self.standard = nn.Identity()
        return self

    def _view(self, x: Tensor, weight: Tensor, dilation: int, local_mean: Tensor) -> Tensor:
        geometry: dict[str, Any] = {
            "stride": self.stride,
            "padding": (dilation, dilation),
            "dilation": (dilation, dilation),
        }
        if not self.offsets:
            return F.conv2d(x, weight, groups=self.groups, **geometry)
        offset = self.offsets[0 if dilation == 1 else 1](local_mean)
        dtype = torch.float32 if x.dtype == torch.bfloat16 else x.dtype  # torchvision has no kernel for bfloat16
        return deform_conv2d(x.to(dtype), offset.to(dtype), weight.to(dtype), **geometry).to(x.dtype)


def mean_around(x: Tensor) -> Tensor:
    """Mean over 5x5 pixels with reflected borders; a map too small to reflect (2 pixels) uses its own pixels only."""
    if min(x.shape[2:]) <= REACH:
        return F.avg_pool2d(x, 2 * REACH + 1, 1, padding=REACH, count_include_pad=False)
    return F.avg_pool2d(F.pad(x, (REACH,) * 4, mode="reflect"), 2 * REACH + 1, 1)


def make_switchable(block: nn.Module, *, deformable: bool) -> None:
    """Replace the 3x3 convolutions directly in `block` with switchable ones that keep their weights."""
    for name, plain in list(block.named_children()):
        if isinstance(plain, nn.Conv2d) and plain.kernel_size == (3, 3):
            setattr(block, name, SwitchableConv2d(plain, deformable=deformable))

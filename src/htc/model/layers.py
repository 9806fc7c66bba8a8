"""Layers that all parts share, and their initialization."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from htc.config import LayerNorm
from htc.model.norms import norm


class PointwiseConv2d(nn.Conv2d):
    """A 1x1 convolution that runs as a matrix product over channels-last pixels on a CPU.

    torch runs a single-threaded 1x1 convolution of one image on a path that copies its input (measured: 14-100 GFLOP/s
    per core against 200 with the matrix product). On other devices and in exported graphs it is an ordinary
    convolution.
    """

    def forward(self, x: Tensor) -> Tensor:  # type: ignore[override]
        """(N, C, H, W) -> (N, C', H', W')."""
        if x.device.type != "cpu" or torch.compiler.is_compiling():
            return super().forward(x)
        rows, columns = self.stride
        pixels = x[:, :, ::rows, ::columns].permute(0, 2, 3, 1)
        out = F.linear(pixels.reshape(-1, self.in_channels), self.weight.flatten(1), self.bias)
        return out.view(*pixels.shape[:3], self.out_channels).permute(0, 3, 1, 2)


def use_pointwise(module: nn.Module) -> None:
    """Replace every plain 1x1 convolution inside `module` with a `PointwiseConv2d` with the same parameters."""
    for parent in list(module.modules()):
        for name, conv in list(parent.named_children()):
            if type(conv) is nn.Conv2d and conv.kernel_size == (1, 1) and conv.groups == 1 and conv.padding == (0, 0):
                stride: Any = conv.stride
                pointwise = PointwiseConv2d(
                    conv.in_channels, conv.out_channels, 1, stride, bias=conv.bias is not None, device="meta"
                )
                pointwise.weight, pointwise.bias = conv.weight, conv.bias
                setattr(parent, name, pointwise)


class ConvBlock(nn.Module):
    """Convolution, optional norm, optional ReLU; padding keeps the size at stride 1.

    A convolution that is followed by a norm has no bias.
    """

    def __init__(
        self,
        channels_in: int,
        channels_out: int,
        kernel: int,
        *,
        norm_kind: LayerNorm = "none",
        relu: bool = True,
        stride: int = 1,
    ) -> None:
        super().__init__()
        self.conv = nn.Conv2d(
            channels_in, channels_out, kernel, stride=stride, padding=kernel // 2, bias=norm_kind == "none"
        )
        self.norm = norm(norm_kind, channels_out)
        self.relu = relu

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, C', H', W')."""
        x = self.norm(self.conv(x))
        return torch.relu_(x) if self.relu and not x.requires_grad else x.relu() if self.relu else x


def initialize(module: nn.Module) -> None:
    """Initialize convolutions and linear layers with Kaiming-normal weights for ReLU and zero biases."""
    for layer in module.modules():
        if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d | nn.Linear):
            nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)


def initialize_output(layer: nn.Conv2d | nn.Linear, std: float) -> None:
    """Initialize with small normal weights and zero bias, so that training starts from near-uniform predictions."""
    nn.init.normal_(layer.weight, std=std)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)

"""The feature pyramid: C2-C5 -> P2-P6."""

from collections.abc import Sequence
from functools import partial

import torch.nn.functional as F
from torch import Tensor, nn

from htc.config import FPN, PAFPN, RecursiveFPN
from htc.model.layers import ConvBlock


class FeaturePyramid(nn.Module):
    """FPN (Lin et al. 2017): 1x1 lateral convolutions, top-down path by nearest upsampling, 3x3 output convolutions; no
    activation. P6 is every second pixel of P5.
    """

    def __init__(self, channels_in: Sequence[int], config: FPN | PAFPN | RecursiveFPN) -> None:
        super().__init__()
        block = partial(ConvBlock, norm_kind=config.norm, relu=False)
        self.lateral = nn.ModuleList(block(c, config.channels, 1) for c in channels_in)
        self.output = nn.ModuleList(block(config.channels, config.channels, 3) for _ in channels_in)

    def forward(self, features: list[Tensor]) -> tuple[Tensor, ...]:
        """C2-C5 (B, C_i, H_i, W_i) -> P2-P6 (B, C, H_i, W_i)."""
        pyramid = self.top_down(features)
        return (*pyramid, pyramid[-1][:, :, ::2, ::2])

    def top_down(self, features: list[Tensor]) -> list[Tensor]:
        """C2-C5 -> P2-P5."""
        levels = [lateral(f) for lateral, f in zip(self.lateral, features, strict=True)]
        for i in range(len(levels) - 1, 0, -1):
            levels[i - 1] = levels[i - 1] + F.interpolate(levels[i], size=levels[i - 1].shape[-2:], mode="nearest")
        return [output(level) for output, level in zip(self.output, levels, strict=True)]


class PathAggregation(FeaturePyramid):
    """FPN with a bottom-up path (PANet, Liu et al. 2018), as in mmdetection.

    n_2 = p_2; n_{i+1} = p_{i+1} + down_i(n_i). Differs from the paper by: the sum is passed upwards *before* its 3x3
    convolution.
    """

    def __init__(self, channels_in: Sequence[int], config: PAFPN) -> None:
        super().__init__(channels_in, config)
        block = partial(ConvBlock, config.channels, config.channels, 3, norm_kind=config.norm, relu=False)
        above = range(len(channels_in) - 1)
        self.downsample = nn.ModuleList(block(stride=2) for _ in above)
        self.bottom_up = nn.ModuleList(block() for _ in above)

    def forward(self, features: list[Tensor]) -> tuple[Tensor, ...]:
        """C2-C5 (B, C_i, H_i, W_i) -> N2-N6 (B, C, H_i, W_i)."""
        levels = self.top_down(features)
        for i, down in enumerate(self.downsample):
            levels[i + 1] = levels[i + 1] + down(levels[i])
        pyramid = [levels[0], *(conv(level) for conv, level in zip(self.bottom_up, levels[1:], strict=True))]
        return (*pyramid, pyramid[-1][:, :, ::2, ::2])


def build_neck(channels_in: Sequence[int], config: FPN | PAFPN | RecursiveFPN) -> FeaturePyramid:
    """Build the neck that the configuration selects, initialized as in mmdetection; a recursive pyramid starts with an
    FPN.
    """
    neck = PathAggregation(channels_in, config) if isinstance(config, PAFPN) else FeaturePyramid(channels_in, config)
    for layer in neck.modules():
        if isinstance(layer, nn.Conv2d):
            nn.init.xavier_uniform_(layer.weight)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
    return neck

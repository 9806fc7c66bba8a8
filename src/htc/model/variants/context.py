"""Context modules of the semantic branch: each (B, C, H, W) -> (B, C, H, W)."""

import torch
from torch import Tensor, nn

from htc.config import ASPP, GCN, LayerNorm
from htc.config.model import Context
from htc.model.layers import ConvBlock
from htc.model.norms import norm


class DilatedConv(nn.Module):
    """A 3x3 convolution with dilation `rate`, norm, ReLU."""

    def __init__(self, channels: int, rate: int, norm_kind: LayerNorm) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=rate, dilation=rate, bias=norm_kind == "none")
        self.norm = norm(norm_kind, channels)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C, H, W)."""
        return self.norm(self.conv(x)).relu()


class AtrousPyramid(nn.Module):
    """ASPP of DeepLab v3 (Chen et al. 2017, section 3.3): parallel branches of several receptive fields, then a 1x1
    projection.

    The branch of the image's mean has no norm: it has one value per channel, too few for statistics in a batch of one.
    """

    def __init__(self, channels: int, config: ASPP, norm_kind: LayerNorm) -> None:
        super().__init__()
        self.point = ConvBlock(channels, channels, 1, norm_kind=norm_kind)
        self.dilated = nn.ModuleList(DilatedConv(channels, rate, norm_kind) for rate in config.rates)
        self.mean = ConvBlock(channels, channels, 1)
        self.project = ConvBlock((2 + len(config.rates)) * channels, channels, 1, norm_kind=norm_kind)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C, H, W)."""
        mean = self.mean(x.mean((2, 3), keepdim=True)).expand_as(x)
        return self.project(torch.cat([self.point(x), *(dilated(x) for dilated in self.dilated), mean], 1))


class GlobalConvolution(nn.Module):
    """GCN (Peng et al., "Large Kernel Matters", CVPR 2017, section 3.1): a k x k receptive field from separable
    convolutions.

    k x 1 then 1 x k, plus 1 x k then k x 1, without a nonlinearity between them. Differs from the paper by: a ReLU
    after the sum, since further convolutions follow here, and no boundary refinement.
    """

    def __init__(self, channels: int, config: GCN) -> None:
        super().__init__()
        k = config.kernel

        def line(rows: int, columns: int) -> nn.Conv2d:
            return nn.Conv2d(channels, channels, (rows, columns), padding=(rows // 2, columns // 2))

        self.down_across = nn.Sequential(line(k, 1), line(1, k))
        self.across_down = nn.Sequential(line(1, k), line(k, 1))

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C, H, W)."""
        return (self.down_across(x) + self.across_down(x)).relu()


def build_context(channels: int, config: Context, norm_kind: LayerNorm) -> nn.Module:
    """Build the context module that the configuration selects; the identity if there is none."""
    match config:
        case ASPP():
            return AtrousPyramid(channels, config, norm_kind)
        case GCN():
            return GlobalConvolution(channels, config)
        case _:
            return nn.Identity()

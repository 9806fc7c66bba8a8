"""Masks finer than 28 x 28: a 56 x 56 mask head that sees the image beside the pyramid.

The pyramid's finest map has stride 4, so an outline is decoded from cells of 4 pixels, and a larger grid alone adds
cells but no evidence. Here a shallow feature of the image itself is pooled on the fine grid and joins the last
layers. The idea, fine features where the outline is decided, is that of PointRend (Kirillov et al., CVPR 2020) and
RefineMask (Zhang et al., CVPR 2021). Differs from them by: all cells instead of chosen points, one step instead of
several, and the image instead of P2.

Through the cascade's mask path the fine grid travels as channels of the 14 x 14 features: each cell carries its own 4 x
4 samples.
"""

from dataclasses import dataclass, replace
from functools import cached_property

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from htc.config import Cascade, FineMask, LayerNorm
from htc.model.fusion import Pool
from htc.model.heads import MASK_BINS, FirstLayer, MaskHead, own_class_logits, plain_layer
from htc.model.layers import ConvBlock, initialize
from htc.ops.roi_pool import Pyramid, roi_pool
from htc.types import Features, Rois

FINER = 4
"""Fine cells along each side of a 14 x 14 cell."""


@dataclass(frozen=True)
class DetailedPyramid(Pyramid):
    """P2-P5, and beside them a shallow feature at strides 1, 2, 4 and 8."""

    detail: Pyramid

    def float(self) -> "DetailedPyramid":
        """The same maps in float32."""
        return replace(self, maps=tuple(m.float() for m in self.maps), detail=self.detail.float())


@dataclass(frozen=True)
class DetailedFeatures(Features):
    """The trunk's features with the detail feature at the input's own resolution."""

    detail: Float[Tensor, "B D H W"]

    @cached_property
    def pooled(self) -> tuple[Pyramid, Pyramid | None]:
        """x with details, and s."""
        x, s = super().pooled
        return DetailedPyramid(x.maps, x.strides, detail_pyramid(self.detail)), s


class DetailBranch(nn.Module):
    """Two 3x3 convolutions on the image, at its own resolution."""

    def __init__(self, channels: int, norm_kind: LayerNorm) -> None:
        super().__init__()
        self.convs = nn.Sequential(
            ConvBlock(3, channels, 3, norm_kind=norm_kind), ConvBlock(channels, channels, 3, norm_kind=norm_kind)
        )
        initialize(self)

    def forward(
        self,
        images: Float[Tensor, "B 3 H W"],
        features: Features,
        neck: nn.Module,  # noqa: ARG002 - a TrunkExtension's signature
    ) -> DetailedFeatures:
        """The features with those of the normalized images' details."""
        return DetailedFeatures(features.pyramid, features.semantic, features.semantic_logits, self.convs(images))


def detail_pyramid(feature: Float[Tensor, "B C H W"]) -> Pyramid:
    """A full-resolution feature averaged to strides 1, 2, 4 and 8, so that a RoI of any size is at most some hundred
    pixels wide on its level.
    """
    maps = [feature]
    for _ in range(3):
        maps.append(F.avg_pool2d(maps[-1], 2))
    return Pyramid(tuple(maps), (1, 2, 4, 8))


class DetailPool(nn.Module):
    """What `pool` gives on 14 x 14 cells, and as further channels the detail feature of the same regions on 56 x 56."""

    def __init__(self, pool: Pool) -> None:
        super().__init__()
        self.pool = pool

    def forward(self, x: Pyramid, s: Pyramid | None, rois: Rois) -> Float[Tensor, "N C 14 14"]:
        """-> (N, C + 16 D, 14, 14)"""
        assert isinstance(x, DetailedPyramid)
        detail = roi_pool(x.detail, rois.boxes, FINER * MASK_BINS, rows=rois.rows)
        return torch.cat([self.pool(x, s, rois), to_channels(detail)], 1)


class FineMaskHead(MaskHead):
    """M_t with a second deconvolution to 56 x 56, where a 3x3 convolution joins it with the details before the
    prediction.
    """

    def __init__(
        self,
        channels_in: int,
        num_classes: int,
        config: Cascade,
        variant: FineMask,
        levels: int = 1,
        first: FirstLayer = plain_layer,
    ) -> None:
        super().__init__(channels_in, num_classes, config, first)
        detail, width = variant.detail_channels, config.mask_channels
        self.channels_in, self.width = channels_in * levels, width
        self.upsample_again = nn.ConvTranspose2d(width, detail, 2, stride=2)
        self.join = ConvBlock(2 * detail, detail, 3, norm_kind=config.mask_norm)
        self.logits = nn.Conv2d(detail, num_classes, 1)
        initialize(self)

    def features(self, x: Float[Tensor, "N _ 14 14"]) -> Float[Tensor, "N _ 14 14"]:
        """M_t^- with the details behind it: (N, C + 16 D, 14, 14) -> (N, width + 16 D, 14, 14)"""
        return torch.cat([super().features(x[:, : self.channels_in]), x[:, self.channels_in :]], 1)

    def forward(self, features: Float[Tensor, "N _ 14 14"], labels: Int[Tensor, " N"]) -> Float[Tensor, "N 56 56"]:
        """Logits of each RoI's own class, float32."""
        coarse = self.upsample_again(self.upsample(features[:, : self.width]).relu()).relu()
        x = self.join(torch.cat([coarse, from_channels(features[:, self.width :])], 1))
        logits = own_class_logits(x.permute(0, 2, 3, 1).flatten(1, 2), self.logits, labels)
        return logits.view(len(x), x.shape[2], x.shape[3])


def to_channels(fine: Float[Tensor, "N D S S"]) -> Float[Tensor, "N _ s s"]:
    """Blocks of 4 x 4 cells as channels: (N, D, 56, 56) -> (N, 16 D, 14, 14)"""
    count, channels, rows, columns = fine.shape
    blocks = fine.permute(0, 2, 3, 1).reshape(count, rows // FINER, FINER, columns // FINER, FINER, channels)
    return (
        blocks.transpose(2, 3).reshape(count, rows // FINER, columns // FINER, channels * FINER**2).permute(0, 3, 1, 2)
    )


def from_channels(packed: Float[Tensor, "N _ s s"]) -> Float[Tensor, "N D S S"]:
    """The inverse of `to_channels`."""
    count, channels, rows, columns = packed.shape
    blocks = packed.permute(0, 2, 3, 1).reshape(count, rows, columns, FINER, FINER, channels // FINER**2)
    return (
        blocks.transpose(2, 3).reshape(count, rows * FINER, columns * FINER, channels // FINER**2).permute(0, 3, 1, 2)
    )

"""Masks finer than 28 x 28: a 56 x 56 mask head that reads the image in addition to the pyramid.

The finest map of the pyramid has stride 4, so an outline is decoded from cells of 4 pixels; a larger grid alone adds
cells but no information. Here a shallow feature of the image is pooled on the fine grid and joins the last layers. The
idea of fine features near the outline is that of PointRend (Kirillov et al., CVPR 2020) and RefineMask (Zhang et al.,
CVPR 2021). Differs from them by: all cells instead of selected points, one step instead of several, and the image
instead of P2.

The mask path of the cascade carries the fine grid as channels of the 14 x 14 features: each cell holds its 4 x 4
samples.
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
    """P2-P5, and a shallow feature at strides 1, 2, 4 and 8."""

    detail: Pyramid

    def float(self) -> "DetailedPyramid":
        """Convert the maps to float32."""
        return replace(self, maps=tuple(m.float() for m in self.maps), detail=self.detail.float())


@dataclass(frozen=True)
class DetailedFeatures(Features):
    """The trunk's features with the detail feature at the resolution of the network input."""

    detail: Float[Tensor, "B D H W"]

    @cached_property
    def pooled(self) -> tuple[Pyramid, Pyramid | None]:
        """x with the detail pyramid, and s."""
        x, s = super().pooled
        return DetailedPyramid(x.maps, x.strides, detail_pyramid(self.detail)), s


class DetailBranch(nn.Module):
    """Two 3x3 convolutions on the image, at full resolution."""

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
        """Add the detail feature of the normalized images to the features."""
        return DetailedFeatures(features.pyramid, features.semantic, features.semantic_logits, self.convs(images))


def detail_pyramid(feature: Float[Tensor, "B C H W"]) -> Pyramid:
    """Average a full-resolution feature to strides 1, 2, 4 and 8, so that a RoI of any size is at most a few hundred
    pixels wide on its level.
    """
    maps = [feature]
    for _ in range(3):
        maps.append(F.avg_pool2d(maps[-1], 2))
    return Pyramid(tuple(maps), (1, 2, 4, 8))


class DetailPool(nn.Module):
    """The output of `pool` on 14 x 14 cells, and the detail feature of the same RoIs on 56 x 56 cells as further
    channels.
    """

    def __init__(self, pool: Pool) -> None:
        super().__init__()
        self.pool = pool

    def forward(self, x: Pyramid, s: Pyramid | None, rois: Rois) -> Float[Tensor, "N C 14 14"]:
        """-> (N, C + 16 D, 14, 14)."""
        assert isinstance(x, DetailedPyramid)
        detail = roi_pool(x.detail, rois.boxes, FINER * MASK_BINS, rows=rois.rows)
        return torch.cat([self.pool(x, s, rois), to_channels(detail)], 1)


class FineMaskHead(MaskHead):
    """M_t with a second deconvolution to 56 x 56; a 3x3 convolution fuses it with the details before the prediction."""

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
        """M_t^- followed by the details: (N, C + 16 D, 14, 14) -> (N, width + 16 D, 14, 14)."""
        return torch.cat([super().features(x[:, : self.channels_in]), x[:, self.channels_in :]], 1)

    def forward(self, features: Float[Tensor, "N _ 14 14"], labels: Int[Tensor, " N"]) -> Float[Tensor, "N 56 56"]:
        """Mask logits of each RoI's class, float32."""
        coarse = self.upsample_again(self.upsample(features[:, : self.width]).relu()).relu()
        x = self.join(torch.cat([coarse, from_channels(features[:, self.width :])], 1))
        logits = own_class_logits(x.permute(0, 2, 3, 1).flatten(1, 2), self.logits, labels)
        return logits.view(x.shape[0], x.shape[2], x.shape[3])


def to_channels(fine: Float[Tensor, "N D S S"]) -> Float[Tensor, "N _ s s"]:
    """Move blocks of 4 x 4 cells to channels: (N, D, 56, 56) -> (N, 16 D, 14, 14)."""
    count, channels, rows, columns = fine.shape
    blocks = fine.permute(0, 2, 3, 1).reshape(count, rows // FINER, FINER, columns // FINER, FINER, channels)
    return (
        blocks.transpose(2, 3).reshape(count, rows // FINER, columns // FINER, channels * FINER**2).permute(0, 3, 1, 2)
    )


def from_channels(packed: Float[Tensor, "N _ s s"]) -> Float[Tensor, "N D S S"]:
    """Inverse of `to_channels`."""
    count, channels, rows, columns = packed.shape
    blocks = packed.permute(0, 2, 3, 1).reshape(count, rows, columns, FINER, FINER, channels // FINER**2)
    return (
        blocks.transpose(2, 3).reshape(count, rows * FINER, columns * FINER, channels // FINER**2).permute(0, 3, 1, 2)
    )

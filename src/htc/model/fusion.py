"""Eq. 6: x^box = P(x, r) + P(S(x), r), and likewise x^mask."""

from typing import Protocol, runtime_checkable

from torch import Tensor, nn

from htc.ops.roi_pool import Pyramid, roi_pool
from htc.types import Rois


@runtime_checkable
class RegionPooling(Protocol):
    """RoI pooling P; see `roi_pool`."""

    def __call__(
        self, pyramid: Pyramid, boxes: Tensor, bins: int, subdivide: int = 1, *, rows: Tensor | None = None
    ) -> Tensor:
        """Pool the boxes (B, R, 4), or those at `rows`. -> (N, C, bins, bins)"""
        ...


@runtime_checkable
class Pool(Protocol):
    """Maps features and RoIs to the inputs of the heads: `FusedPool`, or a module around one."""

    def __call__(self, x: Pyramid, s: Pyramid | None, rois: Rois) -> Tensor:
        """-> (N, C, bins, bins), where N is the number of slots of `rois` that go through the heads."""
        ...


class FusedPool(nn.Module):
    """P(x, r), plus P(S(x), r) if `fuse`; the semantic feature is pooled at stride 8 for boxes of any size.

    For the box heads, mmdetection's HTC pools the semantic feature to 14x14 and averages it to 7x7:
    `semantic_subdivide` = 2.
    """

    def __init__(
        self, bins: int, *, fuse: bool, semantic_subdivide: int = 1, pooling: RegionPooling = roi_pool
    ) -> None:
        super().__init__()
        self.bins, self.fuse, self.semantic_subdivide = bins, fuse, semantic_subdivide
        self.pooling = pooling

    def forward(self, x: Pyramid, s: Pyramid | None, rois: Rois) -> Tensor:
        """-> (N, C, bins, bins)"""
        pooled = self.of_pyramid(x, rois)
        return pooled + self.of_semantic(s, rois) if self.fuse and s is not None else pooled

    def of_pyramid(self, x: Pyramid, rois: Rois) -> Tensor:
        """P(x, r)."""
        return self.pooling(x, rois.boxes, self.bins, 1, rows=rois.rows)

    def of_semantic(self, s: Pyramid, rois: Rois) -> Tensor:
        """P(S(x), r)."""
        return self.pooling(s, rois.boxes, self.bins, self.semantic_subdivide, rows=rois.rows)

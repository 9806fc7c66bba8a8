"""Eq. 6: x^box = P(x, r) + P(S(x), r), and likewise x^mask."""

from torch import Tensor, nn

from htc.ops.roi_pool import Backend, Pyramid, roi_pool
from htc.types import Rois


class FusedPool(nn.Module):
    """P(x, r), plus P(S(x), r) where `fuse`: the semantic feature is pooled at stride 8 whatever a region's level.

    The original pools the semantic feature 14x14 and averages it to 7x7 for boxes: `semantic_subdivide` = 2.
    """

    def __init__(self, bins: int, *, fuse: bool, semantic_subdivide: int = 1, backend: Backend = "auto") -> None:
        super().__init__()
        self.bins, self.fuse, self.semantic_subdivide = bins, fuse, semantic_subdivide
        self.backend: Backend = backend

    def forward(self, x: Pyramid, s: Pyramid | None, rois: Rois) -> Tensor:
        """-> (B R, C, bins, bins)"""
        pooled = roi_pool(x, rois.boxes, self.bins, backend=self.backend)
        if self.fuse and s is not None:
            pooled = pooled + roi_pool(s, rois.boxes, self.bins, self.semantic_subdivide, backend=self.backend)
        return pooled

"""Adaptive feature pooling (PANet, Liu et al. 2018, section 3.2): every region reads all levels of the pyramid.

A region is pooled from each level; each level's features go through a first layer of its own; the elementwise maximum
goes on. The pool lays the levels out as channels, so that the cascade passes them on like any other feature, and a
head's first layer is one `MaxOverLevels`. The semantic feature (Eq. 6) joins every level alike.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from htc.model.fusion import FusedPool
from htc.ops.roi_pool import Pyramid
from htc.types import Rois

POOLED_LEVELS = 4
"""P2-P5."""


class AdaptivePool(nn.Module):
    """What `pool` gives on each single level, finest first, as channels."""

    def __init__(self, pool: FusedPool) -> None:
        super().__init__()
        self.pool = pool

    def forward(self, x: Pyramid, s: Pyramid | None, rois: Rois) -> Tensor:
        """-> (N, levels C, bins, bins)"""
        levels = [self.pool.of_pyramid(level, rois) for level in x.single]
        if self.pool.fuse and s is not None:
            semantic = self.pool.of_semantic(s, rois)
            levels = [level + semantic for level in levels]
        return torch.cat(levels, 1)


class MaxOverLevels(nn.Module):
    """Each level through a layer of its own, then the largest of them, element by element.

    Inputs are (N, levels C, ...) or, read cell by cell, (N, cells levels C).
    """

    def __init__(self, layers: list[nn.Module], cells: int = 1) -> None:
        super().__init__()
        self.layers = nn.ModuleList(layers)
        self.cells = cells

    def forward(self, x: Tensor) -> Tensor:
        """The fused first feature, of the layers' output shape."""
        levels = len(self.layers)
        parts = x.unflatten(1, (self.cells, levels, x.shape[1] // (self.cells * levels))).unbind(2)
        return (
            torch.stack([layer(part.flatten(1, 2)) for layer, part in zip(self.layers, parts, strict=True)])
            .max(0)
            .values
        )


def over_levels(layer: Callable[[], nn.Module], cells: int) -> nn.Module:
    """A head's first layer (`htc.model.heads.FirstLayer`) on features of all pooled levels."""
    return MaxOverLevels([layer() for _ in range(POOLED_LEVELS)], cells)


class PackedFlow(nn.Module):
    """G_t where a mask path carries more than one feature: levels, details, a second branch's input.

    It reads m^-, the first `width` channels; its output is added to every level alike and to no details.
    """

    def __init__(self, flow: nn.Module, width: int, levels: int, details: int) -> None:
        super().__init__()
        self.flow, self.width, self.levels, self.details = flow, width, levels, details

    def forward(self, features: Float[Tensor, "N _ 14 14"]) -> Float[Tensor, "N _ 14 14"]:
        """(N, at least width, 14, 14) -> (N, levels C + details, 14, 14)"""
        flowed = self.flow(features[:, : self.width]).repeat(1, self.levels, 1, 1)
        return F.pad(flowed, (0, 0, 0, 0, 0, self.details))

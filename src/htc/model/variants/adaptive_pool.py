"""Adaptive feature pooling (PANet, Liu et al. 2018, section 3.2): every RoI is pooled from all levels of the pyramid.

The features of each level go through a separate first layer; their elementwise maximum is used from there on. The pool
concatenates the levels as channels, so that the cascade passes them on like any other feature, and a head's first layer
is one `MaxOverLevels`. The semantic feature (Eq. 6) is added to every level.
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
    """The output of `pool` for each single level, finest first, concatenated as channels."""

    def __init__(self, pool: FusedPool) -> None:
        super().__init__()
        self.pool = pool

    def forward(self, x: Pyramid, s: Pyramid | None, rois: Rois) -> Tensor:
        """-> (N, levels C, bins, bins)."""
        levels = [self.pool.of_pyramid(level, rois) for level in x.single]
        if self.pool.fuse and s is not None:
            semantic = self.pool.of_semantic(s, rois)
            levels = [level + semantic for level in levels]
        return torch.cat(levels, 1)


class MaxOverLevels(nn.Module):
    """Elementwise maximum over levels, after one layer per level.

    Inputs are (N, levels C, ...) or, read cell by cell, (N, cells levels C).
    """

    def __init__(self, layers: list[nn.Module], cells: int = 1) -> None:
        super().__init__()
        self.layers = nn.ModuleList(layers)
        self.cells = cells

    def forward(self, x: Tensor) -> Tensor:
        """Fused feature, with the output shape of the layers."""
        levels = len(self.layers)
        parts = x.unflatten(1, (self.cells, levels, x.shape[1] // (self.cells * levels))).unbind(2)
        return (
            torch.stack([layer(part.flatten(1, 2)) for layer, part in zip(self.layers, parts, strict=True)])
            .max(0)
            .values
        )


def over_levels(layer: Callable[[], nn.Module], cells: int) -> nn.Module:
    """Build a head's first layer (`htc.model.heads.FirstLayer`) for features of all pooled levels."""
    return MaxOverLevels([layer() for _ in range(POOLED_LEVELS)], cells)


class PackedFlow(nn.Module):
    """G_t for a mask path that carries more than one feature: levels, details, or the input of a second branch.

    It reads m^-, the first `width` channels; its output is added to every level and not to the details.
    """

    def __init__(self, flow: nn.Module, width: int, levels: int, details: int) -> None:
        super().__init__()
        self.flow, self.width, self.levels, self.details = flow, width, levels, details

    def forward(self, features: Float[Tensor, "N _ 14 14"]) -> Float[Tensor, "N _ 14 14"]:
        """(N, at least width, 14, 14) -> (N, levels C + details, 14, 14)."""
        flowed = self.flow(features[:, : self.width]).repeat(1, self.levels, 1, 1)
        return F.pad(flowed, (0, 0, 0, 0, 0, self.details))

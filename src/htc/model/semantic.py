"""The semantic branch S(x) (paper, section 3.3 and Fig. 3)."""

from collections.abc import Sequence
from functools import partial

import torch.nn.functional as F
from torch import Tensor, nn

from htc.config import Semantic
from htc.model.layers import ConvBlock, initialize
from htc.model.variants.context import build_context

PYRAMID_LEVELS = 5
FUSED_LEVEL = 1
"""P3: the levels are fused at stride 8."""
SEMANTIC_STRIDE = 8


class SemanticBranch(nn.Module):
    """Sum of all pyramid levels, resized to stride 8, after 1x1 convolutions; then 3x3 convolutions, a prediction and
    an embedding.
    """

    def __init__(self, channels_in: int, config: Semantic) -> None:
        super().__init__()
        block = partial(ConvBlock, norm_kind=config.norm)
        self.lateral: Sequence[ConvBlock] = nn.ModuleList(
            block(channels_in, config.channels, 1) for _ in range(PYRAMID_LEVELS)
        )  # type: ignore[assignment]
        self.convs = nn.ModuleList(block(config.channels, config.channels, 3) for _ in range(config.convs))
        self.context = build_context(config.channels, config.context, config.norm)
        self.embedding = block(config.channels, config.channels, 1)
        self.logits = nn.Conv2d(config.channels, config.classes, 1)
        self.commutes = config.norm == "none"
        initialize(self)

    def forward(self, pyramid: tuple[Tensor, ...]) -> Tensor:
        """P2-P6 -> feature (B, C, H/8, W/8) before the two output layers."""
        size = (pyramid[FUSED_LEVEL].shape[2], pyramid[FUSED_LEVEL].shape[3])
        x = sum((self._at_stride_8(i, level, size) for i, level in enumerate(pyramid)), start=pyramid[0].new_zeros(()))
        for conv in self.convs:
            x = conv(x)
        return self.context(x)

    def _at_stride_8(self, index: int, level: Tensor, size: tuple[int, int]) -> Tensor:
        lateral = self.lateral[index]
        if index > FUSED_LEVEL and self.commutes:
            # mmdetection resizes first; a 1x1 convolution commutes with interpolation and is cheaper on the small map
            return F.interpolate(lateral.conv(level), size=size, mode="bilinear", align_corners=True).relu()
        if index != FUSED_LEVEL:
            level = F.interpolate(level, size=size, mode="bilinear", align_corners=True)
        return lateral(level)

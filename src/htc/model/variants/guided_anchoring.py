"""Guided anchoring (Wang et al. 2019, "Region Proposal by Guided Anchoring"): predicted locations and shapes of the
anchors.
"""

import math
from dataclasses import dataclass, replace
from functools import partial

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torchvision.ops import deform_conv2d

from htc.config import PYRAMID_STRIDES, GuidedRPN
from htc.model.layers import initialize_output
from htc.model.rpn import LevelScores, Ranked, ScoredRois, best_boxes
from htc.ops import boxes as box_ops

MAX_LOG_SHAPE = math.log(1e6)
"""A guided anchor may differ strongly in size from its square."""
OFFSET_GROUPS, TAPS = 4, 9
LOCATION_PRIOR = 0.01
"""Initial probability of a center, so that the many locations without one contribute little loss (Lin et al. 2017)."""


@dataclass(frozen=True)
class GuidedScores:
    """Output of guided anchoring for the locations of one level, in the order row, column; one anchor each."""

    scores: LevelScores
    """Objectness and deltas of the guided anchors."""
    location: Float[Tensor, "B A"]
    """Logit of an instance's center."""
    shape: Float[Tensor, "B A 2"]
    """Logarithms of the anchor's width and height relative to the square, in units of `anchor_stds`."""


class FeatureAdaption(nn.Module):
    """A deformable 3x3 convolution whose taps depend on the predicted anchor shape, so that features fit the anchor."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.offset = nn.Conv2d(2, OFFSET_GROUPS * TAPS * 2, 1, bias=False)
        self.conv = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        initialize_output(self.offset, 0.1)
        initialize_output(self.conv, 0.01)

    def forward(self, x: Float[Tensor, "B C H W"], shape: Float[Tensor, "B 2 H W"]) -> Float[Tensor, "B C H W"]:
        """Adapt the features x to the anchor shapes; no gradient flows into `shape`."""
        offset = self.offset(shape.detach())
        dtype = torch.float32 if x.dtype == torch.bfloat16 else x.dtype  # torchvision has no kernel for bfloat16
        return (
            deform_conv2d(x.to(dtype), offset.to(dtype), self.conv.weight.to(dtype), padding=(1, 1)).to(x.dtype).relu()
        )


class GuidedHead(nn.Module):
    """A 3x3 convolution shared by all levels; location and shape of each anchor; then objectness and deltas from
    adapted features.
    """

    def __init__(self, channels: int, config: GuidedRPN) -> None:
        super().__init__()
        self.config = config
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)
        self.location = nn.Conv2d(channels, 1, 1)
        self.shape = nn.Conv2d(channels, 2, 1)
        self.adaption = FeatureAdaption(channels)
        self.objectness = nn.Conv2d(channels, 1, 1)
        self.deltas = nn.Conv2d(channels, 4, 1)
        for layer in (self.conv, self.location, self.shape, self.objectness, self.deltas):
            initialize_output(layer, 0.01)
        assert self.location.bias is not None
        nn.init.constant_(self.location.bias, -math.log(1 / LOCATION_PRIOR - 1))

    def forward(self, pyramid: tuple[Tensor, ...]) -> list[GuidedScores]:
        """Map P2-P6 to per-location logits, deltas and anchor shapes (float32)."""
        levels = []
        for stride, features in zip(PYRAMID_STRIDES, pyramid, strict=True):
            hidden = self.conv(features).relu()
            shape = self.shape(hidden)
            adapted = self.adaption(hidden, shape)
            outputs = (self.objectness(adapted), self.deltas(adapted), self.location(hidden), shape)
            logits, deltas, location, sides = (x.permute(0, 2, 3, 1).flatten(1, 2).float() for x in outputs)
            scores = LevelScores(logits.squeeze(-1), deltas, features.shape[2], features.shape[3], stride)
            levels.append(GuidedScores(scores, location.squeeze(-1), sides))
        return levels

    def squares_at(self, level: LevelScores, index: Int[Tensor, "*N"]) -> Float[Tensor, "*N 4"]:
        """Square anchors at the given locations, which the predicted shapes modify."""
        return box_ops.anchors_at(index, level.width, level.stride, self.config.anchor_scale, (1.0,))

    def anchors(self, level: GuidedScores) -> Float[Tensor, "B A 4"]:
        """Guided anchors of all locations of a level; gradient flows through their shape."""
        batch, count = level.location.shape
        index = torch.arange(count, device=level.location.device).expand(batch, -1)
        return self._shaped(self.squares_at(level.scores, index), level.shape)

    def _shaped(self, squares: Float[Tensor, "B N 4"], shape: Float[Tensor, "B N 2"]) -> Float[Tensor, "B N 4"]:
        return box_ops.decode(
            squares, torch.cat([torch.zeros_like(shape), shape], -1), self.config.anchor_stds, MAX_LOG_SHAPE
        )

    def boxes_at(self, level: GuidedScores, index: Int[Tensor, "B N"]) -> Float[Tensor, "B N 4"]:
        """Boxes of the guided anchors at the given indices after their deltas are applied."""
        shape = level.shape.gather(1, index[..., None].expand(-1, -1, 2))
        deltas = level.scores.deltas.gather(1, index[..., None].expand(-1, -1, 4))
        return box_ops.decode(self._shaped(self.squares_at(level.scores, index), shape), deltas, self.config.delta_stds)

    def likely(self, level: GuidedScores) -> GuidedScores:
        """Exclude locations below `rpn.location_threshold` from the proposals of a level."""
        unlikely = level.location.sigmoid() < self.config.location_threshold
        return replace(
            level, scores=replace(level.scores, logits=level.scores.logits.masked_fill(unlikely, float("-inf")))
        )

    def propose(self, levels: list[GuidedScores], sizes: Int[Tensor, "B 2"], candidates: int, keep: int) -> ScoredRois:
        """The `keep` best boxes of each image, from at most `candidates` per level before NMS."""
        ranked = [Ranked(level.scores.logits, partial(self.boxes_at, level)) for level in levels]
        return best_boxes(ranked, sizes, candidates, keep, self.config.nms_iou)

    def propose_at_test(self, levels: list[GuidedScores], sizes: Int[Tensor, "B 2"]) -> ScoredRois:
        """Up to `rpn.proposals` proposals per image, from likely locations only."""
        return self.propose(
            [self.likely(level) for level in levels], sizes, self.config.candidates_per_level, self.config.proposals
        )

    def propose_in_training(self, levels: list[GuidedScores], sizes: Int[Tensor, "B 2"]) -> ScoredRois:
        """Up to `rpn.training_proposals` proposals per image, from all locations."""
        return self.propose(levels, sizes, self.config.training_candidates_per_level, self.config.training_proposals)

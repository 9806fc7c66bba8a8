"""The region proposal network: anchors, their scores and deltas, and the best boxes (Ren et al. 2015, on a pyramid)."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from htc.config import PYRAMID_STRIDES, RPN
from htc.model.layers import initialize_output
from htc.ops import boxes as box_ops
from htc.ops.boxes import nms
from htc.types import Rois

STDS = (1.0, 1.0, 1.0, 1.0)


@dataclass(frozen=True)
class LevelScores:
    """What the RPN says of the anchors of one level, in the order row, column, ratio."""

    logits: Float[Tensor, "B A"]
    deltas: Float[Tensor, "B A 4"]
    height: int
    width: int
    stride: int
    grid: tuple[int, int] | None = None
    """Down and right: anchors stand so far apart and have whole corners, as torchvision's; None: `stride`, exact."""


@dataclass(frozen=True)
class Ranked:
    """What one level offers: a score for each position, and the boxes of chosen positions."""

    logits: Float[Tensor, "B A"]
    """-inf: never a proposal."""
    boxes_at: Callable[[Tensor], Tensor]
    """Positions (B, N) -> boxes (B, N, 4), not clipped."""


ScoredRois = tuple[Rois, Float[Tensor, "B keep"]]
"""Regions and their objectness (0..1), best first."""


class ProposalHead(nn.Module):
    """A 3x3 convolution shared by all levels, then objectness and deltas of every anchor."""

    def __init__(self, channels: int, config: RPN) -> None:
        super().__init__()
        self.config = config
        ratios = len(config.anchor_ratios)
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)
        self.objectness = nn.Conv2d(channels, ratios, 1)
        self.deltas = nn.Conv2d(channels, 4 * ratios, 1)
        for layer in (self.conv, self.objectness, self.deltas):
            initialize_output(layer, 0.01)
        self.further = nn.ModuleList(nn.Conv2d(channels, channels, 3, padding=1) for _ in range(config.convs - 1))
        for layer in self.further:
            initialize_output(layer, 0.01)  # type: ignore[arg-type]

    def forward(self, pyramid: tuple[Tensor, ...]) -> list[LevelScores]:
        """P2-P6 -> scores and deltas of every level, float32"""
        levels = []
        for stride, features in zip(PYRAMID_STRIDES, pyramid, strict=True):
            hidden = self.conv(features).relu_()
            for conv in self.further:
                hidden = conv(hidden).relu_()
            logits = self.objectness(hidden).permute(0, 2, 3, 1).flatten(1).float()
            deltas = self.deltas(hidden).permute(0, 2, 3, 1).flatten(1).unflatten(1, (-1, 4)).float()
            levels.append(
                LevelScores(
                    logits, deltas, features.shape[2], features.shape[3], stride, self._grid(pyramid[0], features)
                )
            )
        return levels

    def _grid(self, finest: Tensor, features: Tensor) -> tuple[int, int] | None:
        """torchvision divides the padded image, whose size P2 tells, by the size of the map."""
        if self.config.anchor_grid == "exact":
            return None
        return PYRAMID_STRIDES[0] * finest.shape[2] // features.shape[2], PYRAMID_STRIDES[0] * finest.shape[
            3
        ] // features.shape[3]

    def anchors(self, level: LevelScores) -> Float[Tensor, "A 4"]:
        """All anchors of a level."""
        return self.anchors_at(level, torch.arange(level.logits.shape[1], device=level.logits.device))

    def anchors_at(self, level: LevelScores, index: Int[Tensor, "*N"]) -> Float[Tensor, "*N 4"]:
        """The anchors of the given positions."""
        if level.grid is not None:
            return box_ops.whole_anchors_at(
                index, level.width, level.grid, self.config.anchor_scale * level.stride, self.config.anchor_ratios
            )
        return box_ops.anchors_at(index, level.width, level.stride, self.config.anchor_scale, self.config.anchor_ratios)

    def boxes_at(self, level: LevelScores, index: Int[Tensor, "B N"]) -> Float[Tensor, "B N 4"]:
        """Where the anchors of the given positions are moved to."""
        deltas = level.deltas.gather(1, index[..., None].expand(-1, -1, 4))
        return box_ops.decode(self.anchors_at(level, index), deltas, STDS)

    def propose(self, levels: list[LevelScores], sizes: Int[Tensor, "B 2"], candidates: int, keep: int) -> ScoredRois:
        """The `keep` best boxes of each image, of at most `candidates` from each level before NMS."""
        ranked = [Ranked(level.logits, partial(self.boxes_at, level)) for level in levels]
        return best_boxes(ranked, sizes, candidates, keep, self.config.nms_iou)

    def propose_at_test(self, levels: list[LevelScores], sizes: Int[Tensor, "B 2"]) -> ScoredRois:
        """As many as the configuration says for prediction."""
        return self.propose(levels, sizes, self.config.candidates_per_level, self.config.proposals)

    def propose_in_training(self, levels: list[LevelScores], sizes: Int[Tensor, "B 2"]) -> ScoredRois:
        """As many as the configuration says for training."""
        return self.propose(levels, sizes, self.config.training_candidates_per_level, self.config.training_proposals)


@torch.no_grad()
def best_boxes(
    levels: list[Ranked], sizes: Int[Tensor, "B 2"], candidates: int, keep: int, nms_iou: float
) -> ScoredRois:
    """The `keep` best boxes of each image and their objectness (0..1), best first.

    Of every level the `candidates` best boxes are made, clipped, and thinned by NMS; boxes without extent are dropped.
    """
    chosen = [_best_of_level(level, sizes, candidates, nms_iou) for level in levels]
    boxes, logits, valid = (torch.cat(parts, 1) for parts in zip(*chosen, strict=True))
    best = logits.masked_fill(~valid, float("-inf")).topk(min(keep, logits.shape[1])).indices
    boxes = boxes.gather(1, best[..., None].expand(-1, -1, 4))
    return Rois(boxes, valid.gather(1, best), sizes), logits.gather(1, best).sigmoid()


def _best_of_level(level: Ranked, sizes: Tensor, candidates: int, nms_iou: float) -> tuple[Tensor, Tensor, Tensor]:
    """-> boxes (B, candidates, 4), logits (B, candidates), valid (B, candidates), thinned by NMS"""
    # a small level is filled up, so that the shape does not depend on the image
    padded = torch.nn.functional.pad(level.logits, (0, candidates), value=float("-inf"))
    logits, index = padded.topk(candidates)
    valid = logits > float("-inf")
    boxes = box_ops.clip(level.boxes_at(index.clamp(max=level.logits.shape[1] - 1)), sizes)
    valid = valid & box_ops.has_extent(boxes)
    kept = [
        nms(b, s, v, nms_iou, candidates)
        for b, s, v in zip(boxes.unbind(), logits.unbind(), valid.unbind(), strict=True)
    ]
    slots, filled = torch.stack([k[0] for k in kept]), torch.stack([k[1] for k in kept])
    return boxes.gather(1, slots[..., None].expand(-1, -1, 4)), logits.gather(1, slots), filled

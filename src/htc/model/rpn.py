"""Region proposal network on a pyramid (Ren et al. 2015): anchors, their objectness and deltas, and the best boxes."""

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
from htc.ops.static_nms import surviving_best_first
from htc.types import Rois

STDS = (1.0, 1.0, 1.0, 1.0)


@dataclass(frozen=True)
class LevelScores:
    """Output of the RPN for the anchors of one level, in the order row, column, ratio."""

    logits: Float[Tensor, "B A"]
    deltas: Float[Tensor, "B A 4"]
    height: int
    width: int
    stride: int
    grid: tuple[int, int] | None = None
    """Distance of the anchors (down, right) for torchvision's anchors, whose corners are rounded; None: `stride`, not
    rounded.
    """


@dataclass(frozen=True)
class Ranked:
    """Scores of all positions of one level, and a function that computes the boxes of some positions."""

    logits: Float[Tensor, "B A"]
    """-inf: never a proposal."""
    boxes_at: Callable[[Tensor], Tensor]
    """Indices (B, N) -> boxes (B, N, 4), not clipped."""


ScoredRois = tuple[Rois, Float[Tensor, "B keep"]]
"""Proposals and their objectness (0..1), best first."""


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
        """P2-P6 -> objectness logits and deltas of every level, float32."""
        levels = []
        for stride, level in zip(PYRAMID_STRIDES, pyramid, strict=True):
            hidden = self.conv(level).relu_()
            for conv in self.further:
                hidden = conv(hidden).relu_()
            logits = self.objectness(hidden).permute(0, 2, 3, 1).flatten(1).float()
            deltas = self.deltas(hidden).permute(0, 2, 3, 1).flatten(1).unflatten(1, (-1, 4)).float()
            levels.append(
                LevelScores(logits, deltas, level.shape[2], level.shape[3], stride, self._grid(pyramid[0], level))
            )
        return levels

    def _grid(self, p2: Tensor, level: Tensor) -> tuple[int, int] | None:
        """Distance of torchvision's anchors: the size of the padded image (from P2) divided by the size of the map."""
        if self.config.anchor_grid == "exact":
            return None
        return PYRAMID_STRIDES[0] * p2.shape[2] // level.shape[2], PYRAMID_STRIDES[0] * p2.shape[3] // level.shape[3]

    def anchors(self, level: LevelScores) -> Float[Tensor, "A 4"]:
        """All anchors of a level."""
        return self.anchors_at(level, torch.arange(level.logits.shape[1], device=level.logits.device))

    def anchors_at(self, level: LevelScores, index: Int[Tensor, "*N"]) -> Float[Tensor, "*N 4"]:
        """Anchors at the given indices."""
        if level.grid is not None:
            return box_ops.whole_anchors_at(
                index, level.width, level.grid, self.config.anchor_scale * level.stride, self.config.anchor_ratios
            )
        return box_ops.anchors_at(index, level.width, level.stride, self.config.anchor_scale, self.config.anchor_ratios)

    def boxes_at(self, level: LevelScores, index: Int[Tensor, "B N"]) -> Float[Tensor, "B N 4"]:
        """Boxes of the anchors at the given indices after their deltas are applied."""
        deltas = level.deltas.gather(1, index[..., None].expand(-1, -1, 4))
        return box_ops.decode(self.anchors_at(level, index), deltas, STDS)

    def propose(self, levels: list[LevelScores], sizes: Int[Tensor, "B 2"], candidates: int, keep: int) -> ScoredRois:
        """The `keep` best boxes of each image, from at most `candidates` per level before NMS."""
        ranked = [Ranked(level.logits, partial(self.boxes_at, level)) for level in levels]
        return best_boxes(ranked, sizes, candidates, keep, self.config.nms_iou)

    def propose_at_test(self, levels: list[LevelScores], sizes: Int[Tensor, "B 2"]) -> ScoredRois:
        """Up to `rpn.proposals` proposals per image, for prediction."""
        return self.propose(levels, sizes, self.config.candidates_per_level, self.config.proposals)

    def propose_in_training(self, levels: list[LevelScores], sizes: Int[Tensor, "B 2"]) -> ScoredRois:
        """Up to `rpn.training_proposals` proposals per image, for training."""
        return self.propose(levels, sizes, self.config.training_candidates_per_level, self.config.training_proposals)


@torch.no_grad()
def best_boxes(
    levels: list[Ranked], sizes: Int[Tensor, "B 2"], candidates: int, keep: int, nms_iou: float
) -> ScoredRois:
    """The `keep` best boxes of each image and their objectness (0..1), best first.

    The boxes of the `candidates` best positions of each level are decoded, clipped, and reduced by NMS; boxes of zero
    area are removed.
    """
    chosen = [_best_of_level(level, sizes, candidates, nms_iou) for level in levels]
    boxes, logits, valid = (torch.cat(parts, 1) for parts in zip(*chosen, strict=True))
    best = logits.masked_fill(~valid, float("-inf")).topk(min(keep, logits.shape[1])).indices
    boxes = boxes.gather(1, best[..., None].expand(-1, -1, 4))
    return Rois(boxes, valid.gather(1, best), sizes), logits.gather(1, best).sigmoid()


def _best_of_level(level: Ranked, sizes: Tensor, candidates: int, nms_iou: float) -> tuple[Tensor, Tensor, Tensor]:
    """Best boxes of a level after NMS. -> boxes (B, candidates, 4), logits (B, candidates), valid (B, candidates)"""
    # a small level is padded, so that the shape does not depend on the image
    padded = torch.nn.functional.pad(level.logits, (0, candidates), value=float("-inf"))
    logits, index = padded.topk(candidates)
    valid = logits > float("-inf")
    boxes = box_ops.clip(level.boxes_at(index.clamp(max=level.logits.shape[1] - 1)), sizes)
    valid = valid & box_ops.has_extent(boxes)
    if torch.compiler.is_exporting():
        return boxes, logits, surviving_best_first(boxes, valid, nms_iou)
    kept = [
        nms(b, s, v, nms_iou, candidates)
        for b, s, v in zip(boxes.unbind(), logits.unbind(), valid.unbind(), strict=True)
    ]
    slots, filled = torch.stack([k[0] for k in kept]), torch.stack([k[1] for k in kept])
    return boxes.gather(1, slots[..., None].expand(-1, -1, 4)), logits.gather(1, slots), filled

"""Soft-NMS (Bodla et al. 2017): the score of a box that overlaps a better one is lowered instead of removing the box.

Results have a fixed number of slots, as in `htc.ops.boxes`.
"""

from collections.abc import Callable

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from htc.ops.boxes import without_float64

SOFT_NMS_PREFIX = 1000
"""Number of best-scored candidates in the first attempt; the picks are exact while no other candidate has a better
score.
"""

Decay = Callable[[Tensor], Tensor]
"""IoU with a picked box -> factor of the score, 0..1."""


def linear_decay(threshold: float) -> Decay:
    """1 - IoU where the IoU is over `threshold`, else 1."""
    return lambda overlap: torch.where(overlap > threshold, 1 - overlap, 1.0)


def gaussian_decay(sigma: float) -> Decay:
    """exp(-IoU^2 / sigma)."""
    return lambda overlap: overlap.square().div_(-sigma).exp_()


def soft_nms_per_class(
    boxes: Float[Tensor, "N 4"],
    scores: Float[Tensor, " N"],
    labels: Int[Tensor, " N"],
    valid: Bool[Tensor, " N"],
    decay: Decay,
    min_score: float,
    capacity: int,
) -> tuple[Int[Tensor, " K"], Float[Tensor, " K"], Bool[Tensor, " K"]]:
    """Indices of the picked boxes, best first, their decayed scores, and a mask of the filled ones among the `capacity`
    slots.

    Each step picks the best remaining box and multiplies the scores of the remaining boxes of its class by
    `decay(IoU)`; a box below `min_score` is removed. Scores only fall and classes do not affect each other, so the best
    remaining box of all classes is final: `capacity` steps give the same result as running all steps for each class.
    """
    total = scores.shape[0]
    if total == 0:
        nothing = torch.zeros(capacity, dtype=torch.long, device=scores.device)
        return nothing, scores.new_zeros(capacity), nothing.bool()
    if without_float64(boxes):
        on_cpu = soft_nms_per_class(boxes.cpu(), scores.cpu(), labels.cpu(), valid.cpu(), decay, min_score, capacity)
        best, decayed, filled = (each.to(boxes.device) for each in on_cpu)
        return best, decayed, filled
    ranked = scores.masked_fill(~valid, 0.0)
    prefix = min(SOFT_NMS_PREFIX, total)
    while True:
        values, best = ranked.topk(prefix)
        picks, decayed = _pick(_apart(boxes[best], labels[best]), values, decay, capacity)
        filled = (decayed > 0) & (decayed >= min_score)
        # a pick is exact while its score is at least that of the last candidate in the prefix, which bounds all others
        if prefix == total or bool(decayed[-1] >= values[-1]) or bool(values[-1] < min_score):
            return best[picks], decayed, filled
        prefix = min(4 * prefix, total)


def _apart(boxes: Float[Tensor, "N 4"], labels: Int[Tensor, " N"]) -> Float[Tensor, "N 4"]:
    """Move the boxes of each class to a separate region, in float64: float32 would lose hundredths of a pixel there."""
    class_offset = (boxes.amax() - boxes.amin() + 1).double()
    return boxes.double() + labels[:, None] * class_offset


def _pick(
    boxes: Float[Tensor, "P 4"], scores: Float[Tensor, " P"], decay: Decay, capacity: int
) -> tuple[Int[Tensor, " K"], Float[Tensor, " K"]]:
    """Pick one box per step. Only tensors, without reading their values: no device synchronization, and exportable."""
    left, top, right, bottom = boxes.T.contiguous().unbind()
    area = (right - left) * (bottom - top)
    picks, picked_scores = [], []
    for _ in range(capacity):
        score, pick = scores.max(0)
        picks.append(pick)
        picked_scores.append(score)
        at = pick[None]
        width = torch.minimum(right, right[at]).sub_(torch.maximum(left, left[at])).clamp_(min=0)
        height = torch.minimum(bottom, bottom[at]).sub_(torch.maximum(top, top[at])).clamp_(min=0)
        overlap = width.mul_(height)
        overlap = overlap / (area + area[at]).sub_(overlap).clamp_(min=1e-6)
        scores = (scores * decay(overlap).to(scores.dtype)).index_fill(0, at, 0.0)
    return torch.stack(picks), torch.stack(picked_scores)

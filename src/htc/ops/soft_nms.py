"""Soft-NMS (Bodla et al. 2017): a box near a better one loses score instead of being dropped. Results of fixed
capacity, as in `htc.ops.boxes`.
"""

from collections.abc import Callable

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from htc.ops.boxes import EXPORT_PREFIX, without_float64

SOFT_NMS_PREFIX = 1000
"""Candidates that enter the first attempt; the picks are exact while no candidate outside is better."""

Decay = Callable[[Tensor], Tensor]
"""IoU with a picked box -> what is left of a score, 0..1."""


def linear_decay(threshold: float) -> Decay:
    """1 - IoU where the IoU is over `threshold`, else 1."""
    return lambda overlap: torch.where(overlap > threshold, 1 - overlap, 1.0)


def gaussian_decay(sigma: float) -> Decay:
    """exp(-IoU^2 / sigma)"""
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
    """Indices of the picked boxes, best first, their decayed scores, and which of the `capacity` slots are filled.

    Again and again the best remaining box is picked, and every remaining box of its class keeps `decay(IoU)` of its
    score; a box below `min_score` is dropped. Scores only fall and classes do not touch each other, so that the overall
    best remaining box is final whatever its class: as many steps as slots give what all steps for all classes would.
    """
    total = scores.shape[0]
    if total == 0:
        nothing = torch.zeros(capacity, dtype=torch.long, device=scores.device)
        return nothing, scores.new_zeros(capacity), nothing.bool()
    if without_float64(boxes):
        found = soft_nms_per_class(boxes.cpu(), scores.cpu(), labels.cpu(), valid.cpu(), decay, min_score, capacity)
        best, decayed, filled = (each.to(boxes.device) for each in found)
        return best, decayed, filled
    ranked = scores.masked_fill(~valid, 0.0)
    exporting = torch.compiler.is_exporting()
    prefix = min(EXPORT_PREFIX if exporting else SOFT_NMS_PREFIX, total)
    while True:
        values, best = ranked.topk(prefix)
        picks, found = _pick(_apart(boxes[best], labels[best]), values, decay, capacity)
        filled = (found > 0) & (found >= min_score)
        # a pick is exact while it is no worse than all candidates outside the prefix, which are no better than its last
        if exporting or prefix == total or bool(found[-1] >= values[-1]) or bool(values[-1] < min_score):
            return best[picks], found, filled
        prefix = min(4 * prefix, total)


def _apart(boxes: Float[Tensor, "N 4"], labels: Int[Tensor, " N"]) -> Float[Tensor, "N 4"]:
    """The boxes of each class moved to a place of their own; float64, since float32 would lose hundredths of a pixel
    there.
    """
    side = (boxes.amax() - boxes.amin() + 1).double()
    return boxes.double() + labels[:, None] * side


def _pick(
    boxes: Float[Tensor, "P 4"], scores: Float[Tensor, " P"], decay: Decay, capacity: int
) -> tuple[Int[Tensor, " K"], Float[Tensor, " K"]]:
    """One box a step. Tensors only, without a look at their values: nothing waits for a device, and a graph can hold
    it.
    """
    left, top, right, bottom = boxes.T.contiguous().unbind()
    area = (right - left) * (bottom - top)
    picks, found = [], []
    for _ in range(capacity):
        score, pick = scores.max(0)
        picks.append(pick)
        found.append(score)
        at = pick[None]
        width = torch.minimum(right, right[at]).sub_(torch.maximum(left, left[at])).clamp_(min=0)
        height = torch.minimum(bottom, bottom[at]).sub_(torch.maximum(top, top[at])).clamp_(min=0)
        overlap = width.mul_(height)
        overlap = overlap / (area + area[at]).sub_(overlap).clamp_(min=1e-6)
        scores = (scores * decay(overlap).to(scores.dtype)).index_fill(0, at, 0.0)
    return torch.stack(picks), torch.stack(found)

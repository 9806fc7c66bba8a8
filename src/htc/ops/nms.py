"""Greedy non-maximum suppression with results of fixed capacity, so that graphs built on it have static shapes."""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torchvision.ops import nms as torchvision_nms

NMS_PREFIX = 3000
"""Candidates that enter the first attempt of `nms_per_class`; greedy suppression of a score-sorted prefix is exact
for that prefix.
"""
EXPORT_PREFIX = 12000
"""An exported graph cannot try again: it takes this many candidates once."""


def without_float64(boxes: Tensor) -> bool:
    """Whether they lie on a device that has no float64 (Apple's GPUs): suppression then runs on the CPU."""
    return boxes.device.type == "mps"


def nms(
    boxes: Float[Tensor, "N 4"], scores: Float[Tensor, " N"], valid: Bool[Tensor, " N"], threshold: float, capacity: int
) -> tuple[Int[Tensor, " K"], Bool[Tensor, " K"]]:
    """Indices of the surviving boxes, best first, and which of the `capacity` slots are filled.

    A box is dropped when its IoU with a better kept one is over `threshold`. Invalid rows never survive and suppress
    nothing.
    """
    if len(scores) == 0:
        return torch.zeros(capacity, dtype=torch.long, device=scores.device), torch.zeros(
            capacity, dtype=torch.bool, device=scores.device
        )
    # a box without extent has IoU 0 (or undefined, which compares false) with every other
    candidates = torch.where(valid[:, None], boxes, 0.0)
    keep = torchvision_nms(candidates, scores.masked_fill(~valid, float("-inf")), threshold)
    slots = torch.cat([keep, keep.new_zeros(capacity)])[:capacity]
    filled = torch.arange(capacity, device=keep.device) < keep.shape[0]
    return slots, filled & valid[slots]


def nms_per_class(
    boxes: Float[Tensor, "N 4"],
    scores: Float[Tensor, " N"],
    labels: Int[Tensor, " N"],
    valid: Bool[Tensor, " N"],
    threshold: float,
    capacity: int,
) -> tuple[Int[Tensor, " K"], Bool[Tensor, " K"]]:
    """As `nms`, but boxes of different classes do not suppress each other."""
    total = scores.shape[0]
    if total == 0:
        return nms(boxes, scores, valid, threshold, capacity)
    if without_float64(boxes):
        slots, filled = nms_per_class(boxes.cpu(), scores.cpu(), labels.cpu(), valid.cpu(), threshold, capacity)
        return slots.to(boxes.device), filled.to(boxes.device)
    ranked = scores.masked_fill(~valid, float("-inf"))
    # float64: class offsets of up to 80 x 1333 pixels would cost float32 boxes their hundredths
    apart = (boxes.amax() - boxes.amin() + 1).double()
    exporting = torch.compiler.is_exporting()
    prefix = min(EXPORT_PREFIX if exporting else NMS_PREFIX, total)
    while True:
        best = ranked.topk(prefix).indices
        shifted = boxes[best].double() + labels[best][:, None] * apart
        slots, filled = nms(shifted, scores[best].double(), valid[best], threshold, capacity)
        if exporting or prefix == total or bool(filled.all()) or not bool(valid[best[-1]]):
            return best[slots], filled
        prefix = min(4 * prefix, total)

"""Box arithmetic and non-maximum suppression on tensors. Boxes are xyxy float32 pixels; sizes are (height, width).

Suppression returns a fixed number of slots, so that graphs built on it have static shapes.
"""

import math

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torchvision.ops import nms as torchvision_nms

MAX_LOG_SCALE = math.log(1000 / 16)
"""Largest change of a box's width or height in one decoding step, as a logarithm."""


def encode(
    boxes: Float[Tensor, "*N 4"], targets: Float[Tensor, "*N 4"], stds: tuple[float, ...]
) -> Float[Tensor, "*N 4"]:
    """Encode `targets` relative to `boxes` as deltas (dx, dy, dw, dh), divided by `stds`."""
    center, extent = _center_extent(boxes)
    target_center, target_extent = _center_extent(targets)
    deltas = torch.cat([(target_center - center) / extent, (target_extent / extent).log()], -1)
    return deltas / deltas.new_tensor(stds)


def decode(
    boxes: Float[Tensor, "*#N 4"],
    deltas: Float[Tensor, "*#N 4"],
    stds: tuple[float, ...],
    max_log_scale: float = MAX_LOG_SCALE,
) -> Float[Tensor, "*_ 4"]:
    """Apply `deltas` to `boxes`; the inverse of `encode`, with the change of size bounded by `max_log_scale`."""
    deltas = deltas.float() * torch.tensor(stds, dtype=torch.float32, device=deltas.device)
    center, extent = _center_extent(boxes)
    moved = center + deltas[..., :2] * extent
    half = extent * deltas[..., 2:].clamp(-max_log_scale, max_log_scale).exp() / 2
    return torch.cat([moved - half, moved + half], -1)


def clip(boxes: Float[Tensor, "B *N 4"], sizes: Int[Tensor, "B 2"]) -> Float[Tensor, "B *N 4"]:
    """Clip the boxes of each image to its (height, width)."""
    limit = sizes.flip(1).repeat(1, 2).to(boxes.dtype)
    limit = limit.view(sizes.shape[0], *(1,) * (boxes.dim() - 2), 4)
    return torch.minimum(boxes.clamp(min=0), limit)


def has_extent(boxes: Float[Tensor, "*N 4"]) -> Tensor:
    """Test whether each box has a positive width and height. -> (*N,) bool"""
    return (boxes[..., 2] > boxes[..., 0]) & (boxes[..., 3] > boxes[..., 1])


@torch.no_grad()
def iou(first: Float[Tensor, "M 4"], second: Float[Tensor, "N 4"]) -> Float[Tensor, "M N"]:
    """Intersection over union of every pair, without gradient; 0 where the union is empty.

    Computed one coordinate at a time and in place: for all anchors of an image, this is 2.5 times as fast as with a
    tensor of box pairs.
    """
    left, top, right, bottom = first.T[:, :, None].unbind()
    other_left, other_top, other_right, other_bottom = second.T.contiguous().unbind()
    intersection = torch.minimum(right, other_right).sub_(torch.maximum(left, other_left)).clamp_(min=0)
    intersection *= torch.minimum(bottom, other_bottom).sub_(torch.maximum(top, other_top)).clamp_(min=0)
    union = (area(first)[:, None] + area(second)).sub_(intersection).clamp_(min=1e-6)
    return intersection.div_(union)


def area(boxes: Float[Tensor, "*N 4"]) -> Tensor:
    """Width times height, in square pixels. -> (*N,)"""
    return (boxes[..., 2] - boxes[..., 0]) * (boxes[..., 3] - boxes[..., 1])


def anchors_at(
    index: Int[Tensor, "*N"], width: int, stride: int, scale: float, ratios: tuple[float, ...]
) -> Float[Tensor, "*N 4"]:
    """Anchors at the given indices of one level, whose order is (row, column, ratio).

    The center is (column, row) * stride, without a half-pixel offset; w = scale * stride / sqrt(ratio), h = scale *
    stride * sqrt(ratio), not rounded.
    """
    shape = torch.tensor(ratios, dtype=torch.float32, device=index.device).sqrt()[index % len(ratios)]
    x, y = (axis.float() * stride for axis in _column_row(index // len(ratios), width))
    half_width, half_height = scale * stride / 2 / shape, scale * stride / 2 * shape
    return torch.stack([x - half_width, y - half_height, x + half_width, y + half_height], -1)


def whole_anchors_at(
    index: Int[Tensor, "*N"], width: int, step: tuple[int, int], side: float, ratios: tuple[float, ...]
) -> Float[Tensor, "*N 4"]:
    """torchvision's anchors: like `anchors_at`, but with corners rounded to whole pixels (half to even) around centers
    at (row, column) * `step`.
    """
    shape = torch.tensor(ratios, dtype=torch.float32, device=index.device).sqrt()[index % len(ratios)]
    column, row = _column_row(index // len(ratios), width)
    x, y = column.float() * step[1], row.float() * step[0]
    half_width, half_height = (1 / shape * side / 2).round(), (shape * side / 2).round()
    return torch.stack([x - half_width, y - half_height, x + half_width, y + half_height], -1)


def _column_row(cell: Tensor, width: int) -> tuple[Tensor, Tensor]:
    row = cell // width
    return cell - row * width, row  # ONNX has no remainder by a width that is a symbol


def _center_extent(boxes: Tensor) -> tuple[Tensor, Tensor]:
    return (boxes[..., :2] + boxes[..., 2:]) / 2, boxes[..., 2:] - boxes[..., :2]


NMS_PREFIX = 3000
"""Number of best-scored candidates in the first attempt of `nms_per_class`; greedy suppression of a prefix of the
sorted candidates is exact for that prefix.
"""


def without_float64(boxes: Tensor) -> bool:
    """Test whether the device of `boxes` has no float64 (Apple's GPUs); suppression then runs on the CPU."""
    return boxes.device.type == "mps"


def nms(
    boxes: Float[Tensor, "N 4"], scores: Float[Tensor, " N"], valid: Bool[Tensor, " N"], threshold: float, capacity: int
) -> tuple[Int[Tensor, " K"], Bool[Tensor, " K"]]:
    """Indices of the boxes that survive suppression, best first, and a mask of the filled ones among the `capacity`
    slots.

    A box is removed if its IoU with a better surviving box is over `threshold`. Rows that are not `valid` never survive
    and suppress nothing.
    """
    if len(scores) == 0:
        return torch.zeros(capacity, dtype=torch.long, device=scores.device), torch.zeros(
            capacity, dtype=torch.bool, device=scores.device
        )
    # a box of zero area has IoU 0 (or NaN, which compares false) with every other box
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
    """Like `nms`, but boxes of different classes do not suppress each other."""
    total = scores.shape[0]
    if total == 0:
        return nms(boxes, scores, valid, threshold, capacity)
    if without_float64(boxes):
        slots, filled = nms_per_class(boxes.cpu(), scores.cpu(), labels.cpu(), valid.cpu(), threshold, capacity)
        return slots.to(boxes.device), filled.to(boxes.device)
    ranked = scores.masked_fill(~valid, float("-inf"))
    # float64: after a class offset of up to 80 x 1333 pixels, float32 would round away hundredths of a pixel
    class_offset = (boxes.amax() - boxes.amin() + 1).double()
    prefix = min(NMS_PREFIX, total)
    while True:
        best = ranked.topk(prefix).indices
        shifted = boxes[best].double() + labels[best][:, None] * class_offset
        slots, filled = nms(shifted, scores[best].double(), valid[best], threshold, capacity)
        if prefix == total or bool(filled.all()) or not bool(valid[best[-1]]):
            return best[slots], filled
        prefix = min(4 * prefix, total)

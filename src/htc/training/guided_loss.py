"""Losses of guided anchoring (Wang et al. 2019, section 3.2): location, shape, then objectness and box of the guided
anchors.
"""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torchvision.ops import sigmoid_focal_loss

from htc.config import PYRAMID_STRIDES, GuidedRPN
from htc.model.variants.guided_anchoring import GuidedHead, GuidedScores
from htc.ops.boxes import anchors_at, iou
from htc.training.losses import Term, cells_inside, sampled_losses, wholly_inside
from htc.training.sampling import RPN_DRAW, balanced, generator, match
from htc.types import Batch, GroundTruth

NEGATIVE_WEIGHT = 0.1


@dataclass(frozen=True)
class LocationTargets:
    """Targets of the location loss for one pyramid level."""

    center: Bool[Tensor, "B A"]
    weight: Float[Tensor, "B A"]
    """1 at instance centers, 0 around them, 0.1 elsewhere."""


def location_targets(
    truths: tuple[GroundTruth, ...], levels: list[GuidedScores], config: GuidedRPN
) -> list[LocationTargets]:
    """Compute the location targets of each level.

    For each instance in order: weight 0 within its ignored region, then a center of weight 1 within its central region.
    A later instance's ignored region overwrites an earlier one's center. On the two neighboring levels, the ignored
    region sets the weight to 0 where no instance of that level has set it. Runs on the CPU: the rectangles and maps are
    small.
    """
    maps = [(len(truths), level.scores.height, level.scores.width) for level in levels]
    centers = [torch.zeros(size, dtype=torch.bool) for size in maps]
    weights = [torch.full(size, NEGATIVE_WEIGHT) for size in maps]
    written, near = ([torch.zeros(size, dtype=torch.bool) for size in maps] for _ in range(2))
    for i, truth in enumerate(truths):
        boxes = truth.boxes.detach().float().cpu()
        for box, level in zip(boxes, levels_of(boxes, config.anchor_scale, len(levels)).tolist(), strict=True):
            ignored, center = (
                region(box / PYRAMID_STRIDES[level], part, maps[level][1:])
                for part in (config.ignored_fraction, config.center_fraction)
            )
            written[level][i][ignored] = True
            weights[level][i][ignored] = 0
            centers[level][i][ignored] = False
            written[level][i][center] = True
            weights[level][i][center] = 1
            centers[level][i][center] = True
            for other in (level - 1, level + 1):
                if 0 <= other < len(levels):
                    near[other][i][region(box / PYRAMID_STRIDES[other], config.ignored_fraction, maps[other][1:])] = (
                        True
                    )
    targets = []
    for level, center, weight, own, close in zip(levels, centers, weights, written, near, strict=True):
        weight[close & ~own] = 0
        device = level.location.device
        targets.append(LocationTargets(center.flatten(1).to(device), weight.flatten(1).to(device)))
    return targets


def levels_of(boxes: Float[Tensor, "M 4"], anchor_scale: float, count: int) -> Int[Tensor, " M"]:
    """Return the pyramid level whose anchor size is nearest to each box, on a logarithmic scale."""
    side = ((boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])).sqrt()
    return (side.log2() - math.log2(anchor_scale * PYRAMID_STRIDES[0]) + 0.5).floor().clamp(0, count - 1).long()


def region(box: Float[Tensor, "4"], fraction: float, size: tuple[int, ...]) -> tuple[slice, slice]:
    """Return the rows and columns of the central `fraction` of a box, in cells: corners are rounded half to even and
    included.
    """
    x1, y1, x2, y2 = box
    margin = (1 - fraction) / 2
    height, width = size
    near = [
        ((1 - margin) * a + margin * b).round().long().clamp(0, limit)
        for a, b, limit in ((x1, x2, width), (y1, y2, height))
    ]
    far = [
        (margin * a + (1 - margin) * b).round().long().clamp(0, limit)
        for a, b, limit in ((x1, x2, width), (y1, y2, height))
    ]
    return slice(int(near[1]), int(far[1]) + 1), slice(int(near[0]), int(far[0]) + 1)


SHAPE_DRAW = 1
"""Stream of random numbers for the shape's sample, separate from that of objectness."""
LOCATIONS_PER_UNIT = 200
"""The location loss is a sum over all locations divided by a 200th of their number, about the number of centers."""
BOUNDED_IOU_BETA, BOUNDED_IOU_EPSILON = 0.2, 1e-3


def guided_losses(head: GuidedHead, levels: list[GuidedScores], batch: Batch) -> dict[str, Term]:
    """Compute the location, shape, objectness and box terms over all levels and images."""
    anchors = torch.cat([head.anchors(level) for level in levels], 1)
    priors = prior_boxes(head.config, levels)
    inside = [locations_inside(head.config, levels, priors, size).nonzero().squeeze(1) for size in batch.sizes]
    logits, deltas = (
        torch.cat(parts, 1)
        for parts in zip(*((level.scores.logits, level.scores.deltas) for level in levels), strict=True)
    )
    fixed = list(anchors.detach().unbind())
    return {
        "rpn.location": location_term(levels, location_targets(batch.truths, levels, head.config)),
        "rpn.shape": shape_term(anchors, priors, inside, head.config, batch),
        **sampled_losses(logits, deltas, fixed, inside, head.config.delta_stds, head.config, batch),
    }


def location_term(levels: list[GuidedScores], targets: list[LocationTargets]) -> Term:
    """Compute the focal loss (gamma 2, alpha 0.25) over all locations, including those of the padding."""
    total, count = levels[0].location.new_zeros(()), 0
    for level, target in zip(levels, targets, strict=True):
        each = sigmoid_focal_loss(level.location, target.center.to(level.location.dtype), alpha=0.25, gamma=2.0)
        total = total + (each * target.weight).sum()
        count += target.weight.numel()
    return Term(total, total.new_tensor(float(count)), LOCATIONS_PER_UNIT)


def shape_term(
    anchors: Float[Tensor, "B A 4"],
    priors: list[Float[Tensor, "A 4"]],
    inside: list[Int[Tensor, "_"]],
    config: GuidedRPN,
    batch: Batch,
) -> Term:
    """Compute the bounded-IoU loss between guided anchors and the instances that a prior box of their location matches.

    Its weight is 1, as in mmdetection; the paper (Wang et al. 2019) gives lambda_2 = 0.1.
    """
    total, count = anchors.sum() * 0, 0
    for i, (truth, seed) in enumerate(zip(batch.truths, batch.seeds, strict=True)):
        matched = match(
            best_iou(truth.boxes, priors, inside[i]), config.positive_iou, config.negative_iou, config.negative_iou
        )
        positive, negative = balanced(
            matched, config.samples, config.positive_fraction, generator(seed, RPN_DRAW, SHAPE_DRAW)
        )
        count += max(len(positive), 1) + max(len(negative), 1)
        total = total + bounded_iou_loss(anchors[i, inside[i][positive]], truth.boxes[matched[positive]])
    return Term(total, total.new_tensor(float(count)))


def bounded_iou_loss(predicted: Float[Tensor, "N 4"], target: Float[Tensor, "N 4"]) -> Float[Tensor, ""]:
    """Sum, over boxes and x, y, w, h, SmoothL1 of 1 - the IoU if only this coordinate differed (Tychsen-Smith and
    Petersson 2018).
    """
    size, target_size = predicted[:, 2:] - predicted[:, :2], target[:, 2:] - target[:, :2]
    apart = (
        target[:, :2] + target[:, 2:] - predicted[:, :2] - predicted[:, 2:]
    ).abs()  # twice the distance of the centers
    position = 1 - ((target_size - apart) / (target_size + apart + BOUNDED_IOU_EPSILON)).clamp(min=0)
    extent = 1 - torch.minimum(target_size / (size + BOUNDED_IOU_EPSILON), size / (target_size + BOUNDED_IOU_EPSILON))
    z = torch.cat([position, extent], 1)
    return torch.where(z < BOUNDED_IOU_BETA, z.square() / (2 * BOUNDED_IOU_BETA), z - BOUNDED_IOU_BETA / 2).sum()


def prior_boxes(config: GuidedRPN, levels: list[GuidedScores]) -> list[Float[Tensor, "A 4"]]:
    """Return, for each scale of an octave and each ratio, the box at every location of all levels."""
    boxes = []
    for i in range(config.scales_per_octave):
        scale = config.anchor_scale * 2 ** (i / config.scales_per_octave)
        for ratio in config.anchor_ratios:
            of_levels = [_at_all(level, scale, ratio) for level in levels]
            boxes.append(torch.cat(of_levels))
    return boxes


def _at_all(level: GuidedScores, scale: float, ratio: float) -> Float[Tensor, "A 4"]:
    index = torch.arange(level.location.shape[1], device=level.location.device)
    return anchors_at(index, level.scores.width, level.scores.stride, scale, (ratio,))


def best_iou(
    objects: Float[Tensor, "M 4"], priors: list[Float[Tensor, "A 4"]], inside: Int[Tensor, " I"]
) -> Float[Tensor, "M I"]:
    """Return the best IoU of a location's prior boxes with each instance; computed box by box, since all at once would
    need nine times the memory.
    """
    best = iou(objects, priors[0][inside])
    for boxes in priors[1:]:
        best = torch.maximum(best, iou(objects, boxes[inside]))
    return best


def locations_inside(
    config: GuidedRPN, levels: list[GuidedScores], priors: list[Float[Tensor, "A 4"]], size: Int[Tensor, "2"]
) -> Bool[Tensor, " A"]:
    """Return which locations are trained for an image of this (height, width)."""
    if config.anchors_inside == "cells":
        return cells_inside([level.scores for level in levels], size)
    return torch.stack([wholly_inside(boxes, size) for boxes in priors]).any(0)

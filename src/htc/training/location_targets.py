"""Where guided anchoring should expect an object's centre (Wang et al. 2019, section 3.2)."""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from htc.config import GuidedRPN
from htc.model.rpn import STRIDES
from htc.model.variants.guided_anchoring import GuidedScores
from htc.types import GroundTruth

NEGATIVE_WEIGHT = 0.1


@dataclass(frozen=True)
class LocationTargets:
    """What is true of the locations of one level."""

    centre: Bool[Tensor, "B A"]
    weight: Float[Tensor, "B A"]
    """1 at centres, 0 around them, 0.1 elsewhere."""


def location_targets(
    truths: tuple[GroundTruth, ...], levels: list[GuidedScores], config: GuidedRPN
) -> list[LocationTargets]:
    """Object by object in order: weight 0 within its ignored part, then a centre of weight 1 within its central part.

    A later object's ignored part covers an earlier one's centre. On the two neighbouring levels the ignored part takes
    the weight where no object of that level wrote. Painted on the CPU: these are small rectangles on small maps.
    """
    maps = [(len(truths), level.scores.height, level.scores.width) for level in levels]
    centres = [torch.zeros(size, dtype=torch.bool) for size in maps]
    weights = [torch.full(size, NEGATIVE_WEIGHT) for size in maps]
    written, near = ([torch.zeros(size, dtype=torch.bool) for size in maps] for _ in range(2))
    for i, truth in enumerate(truths):
        boxes = truth.boxes.detach().float().cpu()
        for box, level in zip(boxes, levels_of(boxes, config.anchor_scale, len(levels)).tolist(), strict=True):
            ignored, centre = (
                region(box / STRIDES[level], part, maps[level][1:])
                for part in (config.ignored_fraction, config.centre_fraction)
            )
            written[level][i][ignored] = True
            weights[level][i][ignored] = 0
            centres[level][i][ignored] = False
            written[level][i][centre] = True
            weights[level][i][centre] = 1
            centres[level][i][centre] = True
            for other in (level - 1, level + 1):
                if 0 <= other < len(levels):
                    near[other][i][region(box / STRIDES[other], config.ignored_fraction, maps[other][1:])] = True
    targets = []
    for level, centre, weight, own, close in zip(levels, centres, weights, written, near, strict=True):
        weight[close & ~own] = 0
        device = level.location.device
        targets.append(LocationTargets(centre.flatten(1).to(device), weight.flatten(1).to(device)))
    return targets


def levels_of(boxes: Float[Tensor, "M 4"], anchor_scale: float, count: int) -> Int[Tensor, " M"]:
    """The level whose square is nearest in size, on a logarithmic scale."""
    side = ((boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])).sqrt()
    return (side.log2() - math.log2(anchor_scale * STRIDES[0]) + 0.5).floor().clamp(0, count - 1).long()


def region(box: Float[Tensor, "4"], fraction: float, size: tuple[int, ...]) -> tuple[slice, slice]:
    """Rows and columns of the central `fraction` of a box in cells: corners rounded half to even, both included."""
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

"""Training of the region proposal network."""

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from htc.config import RPN
from htc.model.rpn import STDS, LevelScores, ProposalHead
from htc.ops.boxes import encode, iou
from htc.training.losses import Term, box_loss
from htc.training.matching import match
from htc.training.sampling import RPN_DRAW, balanced, generator
from htc.types import Batch

CELL_ROUNDING = 32


def rpn_losses(head: ProposalHead, levels: list[LevelScores], batch: Batch) -> dict[str, Term]:
    """Objectness and box terms over the sampled anchors of all levels and pictures.

    Both are divided by the number of sampled anchors, where a picture counts at least one positive and one negative.
    """
    config = head.config
    logits = torch.cat([level.logits for level in levels], 1)
    deltas = torch.cat([level.deltas for level in levels], 1)
    anchors = torch.cat([head.anchors(level) for level in levels])
    class_total, box_total, count = logits.sum() * 0, deltas.sum() * 0, 0
    for i, (truth, seed) in enumerate(zip(batch.truths, batch.seeds, strict=True)):
        inside = anchors_inside(head, levels, anchors, batch.sizes[i]).nonzero().squeeze(1)
        matched = match(iou(truth.boxes, anchors[inside]), config.positive_iou, config.negative_iou, config.negative_iou)
        positive, negative = balanced(matched, config.samples, config.positive_fraction, generator(seed, RPN_DRAW))
        count += max(len(positive), 1) + max(len(negative), 1)
        sampled = inside[torch.cat([positive, negative])]
        target = torch.zeros(len(sampled), device=logits.device)
        target[: len(positive)] = 1
        class_total = class_total + F.binary_cross_entropy_with_logits(logits[i, sampled], target, reduction="sum")
        box_total = box_total + _positive_boxes(deltas[i], anchors, inside[positive], truth.boxes[matched[positive]], config)
    return {"rpn.class": Term(class_total, class_total.new_tensor(count)), "rpn.box": Term(box_total, box_total.new_tensor(count))}


def _positive_boxes(deltas: Tensor, anchors: Tensor, index: Int[Tensor, " P"], objects: Float[Tensor, "P 4"], config: RPN) -> Tensor:
    return box_loss(deltas[index], encode(anchors[index], objects, STDS), config.box_loss, config.box_loss_beta)


def anchors_inside(head: ProposalHead, levels: list[LevelScores], anchors: Float[Tensor, "A 4"], size: Int[Tensor, "2"]) -> Bool[Tensor, " A"]:
    """Which anchors are trained for a picture of this (height, width); those that only the batch's padding made never are."""
    height, width = size.unbind()
    if head.config.anchors_inside == "picture":
        return (anchors[:, 0] >= 0) & (anchors[:, 1] >= 0) & (anchors[:, 2] < width) & (anchors[:, 3] < height)
    rows, columns = (torch.ceil(side / CELL_ROUNDING) * CELL_ROUNDING for side in (height, width))
    flags = []
    for level in levels:
        index = torch.arange(level.height * level.width, device=anchors.device)
        cell = (index // level.width * level.stride < rows) & (index % level.width * level.stride < columns)
        flags.append(cell.repeat_interleave(len(head.config.anchor_ratios)))
    return torch.cat(flags)

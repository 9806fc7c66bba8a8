"""Training of the region proposal network."""

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from htc.config import RPN, GuidedRPN
from htc.model.rpn import STDS, LevelScores, ProposalHead
from htc.ops.boxes import encode, iou
from htc.training.losses import Term, box_loss
from htc.training.sampling import RPN_DRAW, balanced, generator, match
from htc.types import Batch

CELL_ROUNDING = 32


def rpn_losses(head: ProposalHead, levels: list[LevelScores], batch: Batch) -> dict[str, Term]:
    """Objectness and box terms over the sampled anchors of all levels and pictures."""
    logits = torch.cat([level.logits for level in levels], 1)
    deltas = torch.cat([level.deltas for level in levels], 1)
    anchors = torch.cat([head.anchors(level) for level in levels])
    inside = [anchors_inside(head, levels, anchors, size).nonzero().squeeze(1) for size in batch.sizes]
    return sampled_losses(logits, deltas, [anchors] * len(inside), inside, STDS, head.config, batch)


def sampled_losses(
    logits: Float[Tensor, "B A"],
    deltas: Float[Tensor, "B A 4"],
    anchors: list[Float[Tensor, "A 4"]],
    inside: list[Int[Tensor, "_"]],
    stds: tuple[float, ...],
    config: RPN | GuidedRPN,
    batch: Batch,
) -> dict[str, Term]:
    """Objectness and box terms over a sample of each picture's anchors, chosen among those at the indices `inside`.

    Both are divided by the number of sampled anchors, where a picture counts at least one positive and one negative.
    """
    class_total, box_total, count = logits.sum() * 0, deltas.sum() * 0, 0
    for i, (truth, seed) in enumerate(zip(batch.truths, batch.seeds, strict=True)):
        among = inside[i]
        matched = match(
            iou(truth.boxes, anchors[i][among]), config.positive_iou, config.negative_iou, config.negative_iou
        )
        positive, negative = balanced(matched, config.samples, config.positive_fraction, generator(seed, RPN_DRAW))
        count += max(len(positive), 1) + max(len(negative), 1)
        sampled = among[torch.cat([positive, negative])]
        target = torch.zeros(len(sampled), device=logits.device)
        target[: len(positive)] = 1
        class_total = class_total + F.binary_cross_entropy_with_logits(logits[i, sampled], target, reduction="sum")
        wanted = encode(anchors[i][among[positive]], truth.boxes[matched[positive]], stds)
        box_total = box_total + box_loss(deltas[i][among[positive]], wanted, config.box_loss, config.box_loss_beta)
    return {
        "rpn.class": Term(class_total, class_total.new_tensor(count)),
        "rpn.box": Term(box_total, box_total.new_tensor(count)),
    }


def anchors_inside(
    head: ProposalHead, levels: list[LevelScores], anchors: Float[Tensor, "A 4"], size: Int[Tensor, "2"]
) -> Bool[Tensor, " A"]:
    """Which anchors are trained for a picture of this (height, width); those that only the batch's padding made
    never are.
    """
    if head.config.anchors_inside == "picture":
        return wholly_inside(anchors, size)
    return cells_inside(levels, size, len(head.config.anchor_ratios))


def wholly_inside(anchors: Float[Tensor, "A 4"], size: Int[Tensor, "2"]) -> Bool[Tensor, " A"]:
    """Boxes that do not cross the border of a picture of this (height, width)."""
    height, width = size.unbind()
    return (anchors[:, 0] >= 0) & (anchors[:, 1] >= 0) & (anchors[:, 2] < width) & (anchors[:, 3] < height)


def cells_inside(levels: list[LevelScores], size: Int[Tensor, "2"], anchors: int = 1) -> Bool[Tensor, " A"]:
    """All `anchors` of each cell that starts inside this (height, width), rounded up to 32."""
    height, width = size.unbind()
    rows, columns = (torch.ceil(side / CELL_ROUNDING) * CELL_ROUNDING for side in (height, width))
    flags = []
    for level in levels:
        index = torch.arange(level.height * level.width, device=size.device)
        cell = (index // level.width * level.stride < rows) & (index % level.width * level.stride < columns)
        flags.append(cell.repeat_interleave(anchors))
    return torch.cat(flags)

"""The loss terms of Eq. 7 and of the region proposal network.

Each term is a sum and the count to divide it by, so that several processes can average over all their samples.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal

import torch
import torch.distributed as dist
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int, UInt8
from torch import Tensor

from htc.config import RPN, BoxLoss, GuidedRPN, Semantic
from htc.model.rpn import STDS, LevelScores, ProposalHead
from htc.model.semantic import SEMANTIC_STRIDE
from htc.ops.boxes import encode, iou
from htc.training.distributed import summed
from htc.training.sampling import RPN_DRAW, balanced, generator, match
from htc.types import Batch

SEMANTIC_PADDING = 255
"""Value of `Batch.semantic` in the padding of an image; independent of the value of unlabelled pixels."""


@dataclass(frozen=True)
class Term:
    """A loss before its average: `total` / `count`, times `weight`."""

    total: Float[Tensor, ""]
    count: Float[Tensor, ""]
    weight: float = 1.0

    def average(self) -> Float[Tensor, ""]:
        """Return the weighted mean; 0 (with a gradient of zeros) if the count is 0."""
        return self.total * self.weight / self.count.clamp(min=1)


def averages(terms: Mapping[str, Term], over: Literal["global", "rank"]) -> dict[str, Float[Tensor, ""]]:
    """Compute the weighted mean of every term; all processes must pass the same terms.

    Data-parallel training averages the gradients of n processes. `global`: each process divides by the count over all
    processes and multiplies by n, so that the average equals the gradient of one process with all images. `rank`: each
    process divides by its own count, as mmdetection does: the fewer instances a process has, the more weight each gets.
    """
    processes = dist.get_world_size() if dist.is_initialized() else 1
    if over == "rank" or processes == 1:
        return {name: term.average() for name, term in terms.items()}
    counts = summed(torch.stack([term.count.float() for term in terms.values()]))
    return {name: replace(term, count=counts[i]).average() * processes for i, (name, term) in enumerate(terms.items())}


def box_loss(
    predicted: Float[Tensor, "N 4"], target: Float[Tensor, "N 4"], kind: BoxLoss, beta: float
) -> Float[Tensor, ""]:
    """Sum SmoothL1 or L1 over boxes and coordinates."""
    if kind == "l1":
        return F.l1_loss(predicted, target, reduction="sum")
    return F.smooth_l1_loss(predicted, target, beta=beta, reduction="sum")


def class_loss(logits: Float[Tensor, "N classes"], labels: Int[Tensor, " N"]) -> Float[Tensor, ""]:
    """Sum the cross-entropies."""
    return F.cross_entropy(logits, labels, reduction="sum")


def mask_loss(logits: Float[Tensor, "N S S"], targets: Float[Tensor, "N S S"]) -> Float[Tensor, ""]:
    """Sum the mean binary cross-entropy of each RoI's mask; 0 without RoIs."""
    return F.binary_cross_entropy_with_logits(logits, targets, reduction="none").flatten(1).mean(1).sum()


def semantic_loss(logits: Float[Tensor, "B classes H W"], target: UInt8[Tensor, "B h w"], config: Semantic) -> Term:
    """Compute the cross-entropy at stride 8 against the top-left pixel of each 8 x 8 block; `ignore` and padding are
    excluded.
    """
    labels = target[:, ::SEMANTIC_STRIDE, ::SEMANTIC_STRIDE].long()
    labels = labels.masked_fill(labels == config.ignore, SEMANTIC_PADDING)
    total = F.cross_entropy(logits, labels, ignore_index=SEMANTIC_PADDING, reduction="sum")
    labelled = (labels != SEMANTIC_PADDING).sum()
    count = labelled if config.loss_average == "labelled" else torch.full_like(labelled, labels.numel())
    return Term(total, count.float(), config.loss_weight)


CELL_ROUNDING = 32


def rpn_losses(head: ProposalHead, levels: list[LevelScores], batch: Batch) -> dict[str, Term]:
    """Compute the objectness and box terms over the sampled anchors of all levels and images."""
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
    """Compute the objectness and box terms over anchors sampled for each image among the indices `inside`.

    Both are divided by the number of sampled anchors; each image counts as at least one positive and one negative.
    """
    class_total, box_total, count = logits.sum() * 0, deltas.sum() * 0, 0
    for i, (truth, seed) in enumerate(zip(batch.truths, batch.seeds, strict=True)):
        rows = inside[i]
        matched = match(
            iou(truth.boxes, anchors[i][rows]), config.positive_iou, config.negative_iou, config.negative_iou
        )
        positive, negative = balanced(matched, config.samples, config.positive_fraction, generator(seed, RPN_DRAW))
        count += max(len(positive), 1) + max(len(negative), 1)
        sampled = rows[torch.cat([positive, negative])]
        target = torch.zeros(len(sampled), device=logits.device)
        target[: len(positive)] = 1
        class_total = class_total + F.binary_cross_entropy_with_logits(logits[i, sampled], target, reduction="sum")
        box_targets = encode(anchors[i][rows[positive]], truth.boxes[matched[positive]], stds)
        box_total = box_total + box_loss(deltas[i][rows[positive]], box_targets, config.box_loss, config.box_loss_beta)
    return {
        "rpn.class": Term(class_total, class_total.new_tensor(count)),
        "rpn.box": Term(box_total, box_total.new_tensor(count)),
    }


def anchors_inside(
    head: ProposalHead, levels: list[LevelScores], anchors: Float[Tensor, "A 4"], size: Int[Tensor, "2"]
) -> Bool[Tensor, " A"]:
    """Return which anchors are trained for an image of this (height, width); anchors in the batch's padding never
    are.
    """
    if head.config.anchors_inside == "picture":
        return wholly_inside(anchors, size)
    return cells_inside(levels, size, len(head.config.anchor_ratios))


def wholly_inside(anchors: Float[Tensor, "A 4"], size: Int[Tensor, "2"]) -> Bool[Tensor, " A"]:
    """Return which boxes lie entirely inside an image of this (height, width)."""
    height, width = size.unbind()
    return (anchors[:, 0] >= 0) & (anchors[:, 1] >= 0) & (anchors[:, 2] < width) & (anchors[:, 3] < height)


def cells_inside(levels: list[LevelScores], size: Int[Tensor, "2"], anchors: int = 1) -> Bool[Tensor, " A"]:
    """Return which anchors (`anchors` for each cell) belong to a cell that starts inside this (height, width), rounded
    up to 32.
    """
    height, width = size.unbind()
    rows, columns = (torch.ceil(side / CELL_ROUNDING) * CELL_ROUNDING for side in (height, width))
    flags = []
    for level in levels:
        index = torch.arange(level.height * level.width, device=size.device)
        cell = (index // level.width * level.stride < rows) & (index % level.width * level.stride < columns)
        flags.append(cell.repeat_interleave(anchors))
    return torch.cat(flags)

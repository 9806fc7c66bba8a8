"""The terms of Eq. 7 and of the region proposal network.

Each is a sum and the count it is averaged over, so that ranks can average over all of them.
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
"""What `Batch.semantic` holds beyond an image, whichever value its own unlabelled pixels have."""


@dataclass(frozen=True)
class Term:
    """A loss before its average: `total` / `count`, times `weight`."""

    total: Float[Tensor, ""]
    count: Float[Tensor, ""]
    weight: float = 1.0

    def average(self) -> Float[Tensor, ""]:
        """The weighted mean; 0 (with a gradient of zeros) where nothing was counted."""
        return self.total * self.weight / self.count.clamp(min=1)


def averages(terms: Mapping[str, Term], over: Literal["global", "rank"]) -> dict[str, Float[Tensor, ""]]:
    """The weighted mean of every term; every process has the same terms.

    Data-parallel training averages the gradients of n processes. `global`: each divides by the count over all of them,
    times n, so that the average is the gradient of one process that has all the images. `rank`: each divides by its
    own count, as the original does: a process with few objects gives each of them more weight.
    """
    processes = dist.get_world_size() if dist.is_initialized() else 1
    if over == "rank" or processes == 1:
        return {name: term.average() for name, term in terms.items()}
    counts = summed(torch.stack([term.count.float() for term in terms.values()]))
    return {name: replace(term, count=counts[i]).average() * processes for i, (name, term) in enumerate(terms.items())}


def box_loss(
    predicted: Float[Tensor, "N 4"], target: Float[Tensor, "N 4"], kind: BoxLoss, beta: float
) -> Float[Tensor, ""]:
    """Sum over boxes and coordinates of SmoothL1 or L1."""
    if kind == "l1":
        return F.l1_loss(predicted, target, reduction="sum")
    return F.smooth_l1_loss(predicted, target, beta=beta, reduction="sum")


def class_loss(logits: Float[Tensor, "N classes"], labels: Int[Tensor, " N"]) -> Float[Tensor, ""]:
    """Sum of cross-entropies."""
    return F.cross_entropy(logits, labels, reduction="sum")


def mask_loss(logits: Float[Tensor, "N S S"], targets: Float[Tensor, "N S S"]) -> Float[Tensor, ""]:
    """Sum over the regions of each one's mean binary cross-entropy; 0 without any."""
    return F.binary_cross_entropy_with_logits(logits, targets, reduction="none").flatten(1).mean(1).sum()


def semantic_loss(logits: Float[Tensor, "B classes H W"], target: UInt8[Tensor, "B h w"], config: Semantic) -> Term:
    """Cross-entropy at stride 8 against the top-left pixel of each 8 x 8 block; `ignore` and padding say nothing."""
    labels = target[:, ::SEMANTIC_STRIDE, ::SEMANTIC_STRIDE].long()
    labels = labels.masked_fill(labels == config.ignore, SEMANTIC_PADDING)
    total = F.cross_entropy(logits, labels, ignore_index=SEMANTIC_PADDING, reduction="sum")
    labelled = (labels != SEMANTIC_PADDING).sum()
    count = labelled if config.loss_average == "labelled" else torch.full_like(labelled, labels.numel())
    return Term(total, count.float(), config.loss_weight)


CELL_ROUNDING = 32


def rpn_losses(head: ProposalHead, levels: list[LevelScores], batch: Batch) -> dict[str, Term]:
    """Objectness and box terms over the sampled anchors of all levels and images."""
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
    """Objectness and box terms over a sample of each image's anchors, chosen among those at the indices `inside`.

    Both are divided by the number of sampled anchors, where an image counts at least one positive and one negative.
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
    """Which anchors are trained for an image of this (height, width); those that only the batch's padding made
    never are.
    """
    if head.config.anchors_inside == "picture":
        return wholly_inside(anchors, size)
    return cells_inside(levels, size, len(head.config.anchor_ratios))


def wholly_inside(anchors: Float[Tensor, "A 4"], size: Int[Tensor, "2"]) -> Bool[Tensor, " A"]:
    """Boxes that do not cross the border of an image of this (height, width)."""
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

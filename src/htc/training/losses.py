"""The terms of Eq. 7, each as a sum and the count it is averaged over, so that ranks can average over all of them."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int, UInt8
from torch import Tensor

from htc.config import BoxLoss, Semantic
from htc.model.semantic import SEMANTIC_STRIDE
from htc.training.distributed import count, summed

SEMANTIC_PADDING = 255
"""What `Batch.semantic` holds beyond a picture, whichever value its own unlabelled pixels have."""


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
    times n, so that the average is the gradient of one process that has all the pictures. `rank`: each divides by its
    own count, as the original does: a process with few objects gives each of them more weight.
    """
    processes = count()
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

"""Suppression for exported graphs: every shape is static, classes are separate groups, and no candidate is left out.

`surviving` is one operator of a graph, so that each runtime can use its own (ONNX: NonMaxSuppression), which compares
the boxes of a group with each other only. Eager execution moves the classes apart in float64 instead
(`htc.ops.boxes.nms_per_class`), which a runtime without float64 could not.
"""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torchvision.ops import nms

from htc.ops.soft_nms import Decay


@torch.library.custom_op("htc::surviving", mutates_args=())
def surviving(boxes: Tensor, scores: Tensor, threshold: float, most: int) -> Tensor:
    """Test which boxes survive suppression by the better boxes of their group and class.

    boxes (G, N, 4); scores (G, K, N), of which those above 0 are candidates; an IoU over `threshold` suppresses; at
    most the best `most` boxes of a group and class survive. -> (G, K, N) bool
    """
    keep = torch.zeros_like(scores, dtype=torch.bool)
    for group, of_classes in enumerate(scores.unbind()):
        for label, values in enumerate(of_classes.unbind()):
            rows = (values > 0).nonzero().squeeze(1)
            keep[group, label, rows[nms(boxes[group, rows], values[rows], threshold)[:most]]] = True
    return keep


@surviving.register_fake
def _(boxes: Tensor, scores: Tensor, threshold: float, most: int) -> Tensor:  # noqa: ARG001 - the operator's signature
    return torch.empty_like(scores, dtype=torch.bool)


def surviving_best_first(
    boxes: Float[Tensor, "B N 4"], valid: Bool[Tensor, "B N"], threshold: float
) -> Bool[Tensor, "B N"]:
    """Test which of the boxes, best first, survive suppression; those that are not `valid` neither survive nor
    suppress.
    """
    count = boxes.shape[1]
    ranks = torch.arange(count, 0, -1, device=boxes.device, dtype=boxes.dtype)
    return surviving(boxes, torch.where(valid, ranks, 0.0)[:, None], threshold, count)[:, 0]


def best_surviving(
    boxes: Float[Tensor, "B R _ 4"], scores: Float[Tensor, "B R K"], threshold: float, capacity: int
) -> tuple[Int[Tensor, "B D"], Float[Tensor, "B D"]]:
    """The `capacity` best pairs of RoI and class after suppression within each class.

    Scores that are not above 0 are no candidates. -> indices among the R K pairs, best first; scores, 0 in empty slots
    """
    rois, classes = scores.shape[1:]
    per_class = scores.transpose(1, 2)
    if boxes.shape[2] == 1:  # all classes share a box
        keep = surviving(boxes[:, :, 0], per_class, threshold, capacity)
    else:
        groups = boxes.transpose(1, 2).reshape(-1, rois, 4)
        keep = surviving(groups, per_class.reshape(-1, 1, rois), threshold, capacity).reshape(-1, classes, rois)
    kept = torch.where(keep, per_class, 0.0).transpose(1, 2).flatten(1)
    values, slots = torch.nn.functional.pad(kept, (0, capacity)).topk(capacity)
    return slots.clamp(max=rois * classes - 1), values


def best_decayed(
    boxes: Float[Tensor, "B R _ 4"], scores: Float[Tensor, "B R K"], decay: Decay, min_score: float, capacity: int
) -> tuple[Int[Tensor, "B D"], Float[Tensor, "B D"]]:
    """Soft-NMS as in `htc.ops.soft_nms`, of all candidates: those with a score above 0.

    -> indices among the R K pairs, best first; decayed scores, 0 in empty slots
    """
    classes = scores.shape[2]
    left, top, right, bottom = (side.flatten(1) for side in boxes.expand(-1, -1, classes, -1).unbind(-1))
    labels = torch.arange(classes, device=scores.device).repeat(scores.shape[1])
    area, remaining = (right - left) * (bottom - top), scores.flatten(1)
    picks, values = [], []
    for _ in range(capacity):
        value, pick = remaining.max(1, keepdim=True)
        picks.append(pick)
        values.append(value)
        width = torch.minimum(right, right.gather(1, pick)) - torch.maximum(left, left.gather(1, pick))
        height = torch.minimum(bottom, bottom.gather(1, pick)) - torch.maximum(top, top.gather(1, pick))
        overlap = width.clamp(min=0) * height.clamp(min=0)
        overlap = overlap / (area + area.gather(1, pick) - overlap).clamp(min=1e-6)
        same_class = labels == labels[pick]
        remaining = torch.where(same_class, remaining * decay(overlap).to(remaining.dtype), remaining)
        remaining = remaining.scatter(1, pick, 0.0)
    found = torch.cat(values, 1)
    return torch.cat(picks, 1), torch.where(found >= min_score, found, 0.0)

"""From head outputs to detections: how stages combine (paper, section 4: test-time ensembles), and which boxes
survive.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from htc.config import Inference
from htc.model.cascade import HybridTaskCascade
from htc.ops.boxes import nms_per_class
from htc.ops.roi_pool import Pyramid
from htc.ops.soft_nms import gaussian_decay, linear_decay, soft_nms_per_class
from htc.types import BoxStage, Rois


@dataclass(frozen=True)
class Limits:
    """Which detections a call asks for; they are applied before masks are computed. None: as configured."""

    score_threshold: float | None = None
    """Detections with a lower score are left out (0..1), whatever the configuration's own threshold; so are those with
    a score of 0.
    """
    labels: tuple[int, ...] | None = None
    """Only these classes (0 .. K-1); None: all."""
    max_detections: int | None = None
    """At most this many detections an image, best first, counted among the classes above."""


NO_LIMITS = Limits()
"""The detections that the configuration describes."""


@dataclass(frozen=True)
class Selected:
    """The boxes that are kept, best first, before they have masks."""

    rois: Rois
    scores: Float[Tensor, "B D"]
    labels: Int[Tensor, "B D"]


def class_scores(stages: list[BoxStage], config: Inference) -> Float[Tensor, "B R K"]:
    """Probability of each object class, averaged over the score stages: their logits, or their probabilities."""
    chosen = [stages[t - 1].class_logits for t in config.score_stages or range(1, len(stages) + 1)]
    if config.score_ensemble == "probabilities":
        return torch.stack([logits.softmax(-1) for logits in chosen]).mean(0)[..., :-1]
    return torch.stack(chosen).mean(0).softmax(-1)[..., :-1]


def final_boxes(roi: HybridTaskCascade, stages: list[BoxStage], config: Inference) -> Float[Tensor, "B R K 4"]:
    """Where the box stage puts each region, for each class (K = 1 where all classes share one box)."""
    t = (config.box_stage or len(stages)) - 1
    return roi.box_heads[t].boxes_per_class(stages[t].rois, stages[t].deltas)


@torch.no_grad()
def select(
    scores: Float[Tensor, "B R K"],
    boxes: Float[Tensor, "B R _ 4"],
    valid: Bool[Tensor, "B R"],
    sizes: Int[Tensor, "B 2"],
    config: Inference,
    limits: Limits = NO_LIMITS,
) -> Selected:
    """Every (region, class) pair over the score threshold is a candidate; NMS or Soft-NMS per class; the best are
    kept.

    `limits` give the detections that would be left of all those without them: a box is suppressed by better ones of its
    own class alone. In eager execution the result is packed, so that no mask is computed for an empty slot; an exported
    or compiled graph has static shapes and computes all.
    """
    classes, capacity = scores.shape[2], limits.max_detections or config.max_detections
    if scores.shape[1] == 0:  # no region: an invalid one fills the slots
        scores, boxes, valid = (t.new_zeros(t.shape[0], 1, *t.shape[2:]) for t in (scores, boxes, valid))
    labels = torch.arange(classes, device=scores.device).repeat(scores.shape[1])
    picked = []
    for s, b, v in zip(scores.unbind(), boxes.unbind(), valid.unbind(), strict=True):
        flat = b.expand(-1, classes, -1).reshape(-1, 4)
        candidate = (_wanted(s, config, limits) & v[:, None]).flatten()
        slots, left, filled = thin(flat, s.flatten(), labels, candidate, config, capacity)
        if limits.score_threshold is not None:  # Soft-NMS has lowered scores
            filled = filled & (left >= limits.score_threshold)
        picked.append((flat[slots] * filled[:, None], left * filled, labels[slots] * filled, filled))
    kept_boxes, kept_scores, kept_labels, kept = (torch.stack(parts) for parts in zip(*picked, strict=True))
    static = torch.compiler.is_compiling() or torch.compiler.is_exporting()
    return Selected(Rois(kept_boxes, kept, sizes, packed=not static), kept_scores, kept_labels)


def _wanted(scores: Float[Tensor, "R K"], config: Inference, limits: Limits) -> Bool[Tensor, "R K"]:
    """The pairs of region and class that a call asks for."""
    if limits.score_threshold is None:
        wanted = scores > config.score_threshold
    else:
        wanted = scores >= limits.score_threshold if limits.score_threshold > 0 else scores > 0
    if limits.labels is None:
        return wanted
    chosen = torch.zeros(scores.shape[1], dtype=torch.bool)
    chosen[list(limits.labels)] = True
    return wanted & chosen.to(scores.device)


def thin(
    boxes: Float[Tensor, "N 4"],
    scores: Float[Tensor, " N"],
    labels: Int[Tensor, " N"],
    candidate: Bool[Tensor, " N"],
    config: Inference,
    capacity: int,
) -> tuple[Int[Tensor, " D"], Float[Tensor, " D"], Bool[Tensor, " D"]]:
    """Which boxes survive their better neighbours of the same class, best first; the scores they end with; which
    slots are filled.
    """
    soft = config.soft_nms
    if soft is None:
        slots, filled = nms_per_class(boxes, scores, labels, candidate, config.nms_iou, capacity)
        return slots, scores[slots], filled
    decay = linear_decay(soft.iou) if soft.kind == "linear" else gaussian_decay(soft.sigma)
    return soft_nms_per_class(boxes, scores, labels, candidate, decay, soft.min_score, capacity)


def segment(
    roi: HybridTaskCascade, x: Pyramid, s: Pyramid | None, rois: Rois, labels: Int[Tensor, "B D"], config: Inference
) -> Float[Tensor, "B D S S"]:
    """Probability of each box's own class on a grid of S x S cells (28 x 28, or the mask heads' own size): the mean
    over the mask stages of their sigmoids.

    All stages see the same, final boxes; of packed RoIs only the valid ones, and the grids of empty slots are zero.
    Averaging probabilities, not thresholded masks, lets callers average
    further (over augmentations, over models) before they decide. A model of boxes alone gives grids without cells (S =
    0).
    """
    if not roi.mask_heads:
        return rois.boxes.new_zeros((*labels.shape, 0, 0))
    stages = config.mask_stages or tuple(range(1, len(roi.mask_heads) + 1))
    return segment_stages(roi, x, s, rois, labels, stages).mean(0)


def segment_stages(
    roi: HybridTaskCascade,
    x: Pyramid,
    s: Pyramid | None,
    rois: Rois,
    labels: Int[Tensor, "B D"],
    stages: tuple[int, ...],
) -> Float[Tensor, "T B D S S"]:
    """Each of these mask stages' (from 1) own probabilities; every head runs once."""
    features = roi.mask_features(x, s, rois, max(stages))
    of_rows = rois.pack(labels.flatten())
    return torch.stack([rois.unpack(roi.mask_heads[t - 1](features[t - 1], of_rows).sigmoid()) for t in stages])

"""From head outputs to detections: combination of the stages (paper, section 4: test-time ensembles) and box
selection.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from htc.config import Inference, SoftNMS
from htc.model.cascade import HybridTaskCascade
from htc.ops.boxes import nms_per_class
from htc.ops.roi_pool import Pyramid
from htc.ops.soft_nms import Decay, gaussian_decay, linear_decay, soft_nms_per_class
from htc.ops.static_nms import best_decayed, best_surviving
from htc.types import BoxStage, Rois


@dataclass(frozen=True)
class Limits:
    """Limits of one call on the detections that it returns, applied before masks are computed. None: as configured."""

    score_threshold: float | None = None
    """Remove detections with a lower score (0..1), instead of the configured threshold; detections of score 0 are
    always removed.
    """
    labels: tuple[int, ...] | None = None
    """Keep these classes only (0 .. K-1); None: all."""
    max_detections: int | None = None
    """Maximum number of detections per image, best first, counted after the selection of classes."""
    class_thresholds: Float[Tensor, " K"] | None = None
    """Lowest score of each class, instead of the two above: an input of exported graphs."""


NO_LIMITS = Limits()
"""No limits besides the configured ones."""


@dataclass(frozen=True)
class Selected:
    """The selected boxes, best first, before their masks are computed."""

    rois: Rois
    scores: Float[Tensor, "B D"]
    labels: Int[Tensor, "B D"]


def class_scores(stages: list[BoxStage], config: Inference) -> Float[Tensor, "B R K"]:
    """Probability of each object class, averaged over the score stages: either their logits or their probabilities."""
    chosen = [stages[t - 1].class_logits for t in config.score_stages or range(1, len(stages) + 1)]
    if config.score_ensemble == "probabilities":
        return torch.stack([logits.softmax(-1) for logits in chosen]).mean(0)[..., :-1]
    return torch.stack(chosen).mean(0).softmax(-1)[..., :-1]


def final_boxes(roi: HybridTaskCascade, stages: list[BoxStage], config: Inference) -> Float[Tensor, "B R K 4"]:
    """Boxes of the configured box stage for each RoI and class (K = 1 if all classes share one box)."""
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
    """Select detections: every (RoI, class) pair above the score threshold is a candidate for NMS or Soft-NMS per
    class.

    `limits` do not change the other detections, since a box is suppressed only by better ones of its class. In eager
    execution the result is packed, so that no mask is computed for an empty slot; an exported or compiled graph has
    static shapes and computes all slots.
    """
    classes, capacity = scores.shape[2], limits.max_detections or config.max_detections
    if scores.shape[1] == 0:  # no RoI: an invalid one fills the slots
        scores, boxes, valid = (t.new_zeros(t.shape[0], 1, *t.shape[2:]) for t in (scores, boxes, valid))
    if torch.compiler.is_exporting():
        return _select_static(scores, boxes, valid, sizes, config, limits, capacity)
    labels = torch.arange(classes, device=scores.device).repeat(scores.shape[1])
    picked = []
    for s, b, v in zip(scores.unbind(), boxes.unbind(), valid.unbind(), strict=True):
        flat = b.expand(-1, classes, -1).reshape(-1, 4)
        candidate = (_wanted(s, config, limits) & v[:, None]).flatten()
        slots, remaining_scores, filled = thin(flat, s.flatten(), labels, candidate, config, capacity)
        if limits.score_threshold is not None:  # Soft-NMS lowers scores
            filled = filled & (remaining_scores >= limits.score_threshold)
        picked.append((flat[slots] * filled[:, None], remaining_scores * filled, labels[slots] * filled, filled))
    kept_boxes, kept_scores, kept_labels, kept = (torch.stack(parts) for parts in zip(*picked, strict=True))
    static = torch.compiler.is_compiling()
    return Selected(Rois(kept_boxes, kept, sizes, packed=not static), kept_scores, kept_labels)


def _select_static(
    scores: Float[Tensor, "B R K"],
    boxes: Float[Tensor, "B R _ 4"],
    valid: Bool[Tensor, "B R"],
    sizes: Int[Tensor, "B 2"],
    config: Inference,
    limits: Limits,
    capacity: int,
) -> Selected:
    """`select` in an exported graph: all images and classes at once, nothing depends on the values."""
    wanted, soft, thresholds = _wanted(scores, config, limits), config.soft_nms, limits.class_thresholds
    candidates = torch.where(wanted & valid[..., None], scores, 0.0)
    if soft is None:
        slots, values = best_surviving(boxes, candidates, config.nms_iou, capacity)
    else:
        slots, values = best_decayed(boxes, candidates, _decay(soft), soft.min_score, capacity)
    labels, filled = slots % scores.shape[2], values > 0
    if thresholds is not None:  # Soft-NMS lowers scores
        filled = filled & (values >= thresholds[labels])
    elif limits.score_threshold is not None:
        filled = filled & (values >= limits.score_threshold)
    flat = boxes.expand(-1, -1, scores.shape[2], -1).flatten(1, 2)
    kept = flat.gather(1, slots[..., None].expand(-1, -1, 4)) * filled[..., None]
    return Selected(Rois(kept, filled, sizes), values * filled, labels * filled)


def _wanted(scores: Float[Tensor, "*R K"], config: Inference, limits: Limits) -> Bool[Tensor, "*R K"]:
    """Pairs of RoI and class above the score threshold, of the requested classes."""
    if limits.class_thresholds is not None:
        return scores >= limits.class_thresholds
    if limits.score_threshold is None:
        wanted = scores > config.score_threshold
    else:
        wanted = scores >= limits.score_threshold if limits.score_threshold > 0 else scores > 0
    if limits.labels is None:
        return wanted
    chosen = torch.zeros(scores.shape[-1], dtype=torch.bool)
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
    """Suppress boxes that overlap better ones of the same class. -> indices, best first; scores after suppression;
    filled slots
    """
    soft = config.soft_nms
    if soft is None:
        slots, filled = nms_per_class(boxes, scores, labels, candidate, config.nms_iou, capacity)
        return slots, scores[slots], filled
    return soft_nms_per_class(boxes, scores, labels, candidate, _decay(soft), soft.min_score, capacity)


def _decay(soft: SoftNMS) -> Decay:
    return linear_decay(soft.iou) if soft.kind == "linear" else gaussian_decay(soft.sigma)


def segment(
    roi: HybridTaskCascade, x: Pyramid, s: Pyramid | None, rois: Rois, labels: Int[Tensor, "B D"], config: Inference
) -> Float[Tensor, "B D S S"]:
    """Mask probabilities of each box's class on a grid of S x S cells, averaged over the mask stages; S is 28 or the
    mask head's size.

    All stages use the same, final boxes. Of packed RoIs, only the valid ones are computed; the masks of empty slots are
    zero. Averaging probabilities, not thresholded masks, lets callers average further (over augmentations, over models)
    before they apply a threshold. A model without mask heads returns grids without cells (S = 0).
    """
    if not roi.mask_heads:
        return rois.boxes.new_zeros((*labels.shape, 0, 0))
    stages = config.mask_stages or tuple(range(1, len(roi.mask_heads) + 1))
    return stage_masks(roi, x, s, rois, labels, stages).mean(0)


def stage_masks(
    roi: HybridTaskCascade,
    x: Pyramid,
    s: Pyramid | None,
    rois: Rois,
    labels: Int[Tensor, "B D"],
    stages: tuple[int, ...],
) -> Float[Tensor, "T B D S S"]:
    """Mask probabilities of each of the given stages (from 1); every head runs once."""
    features = roi.mask_features(x, s, rois, max(stages))
    packed_labels = rois.pack(labels.flatten())
    return torch.stack([rois.unpack(roi.mask_heads[t - 1](features[t - 1], packed_labels).sigmoid()) for t in stages])

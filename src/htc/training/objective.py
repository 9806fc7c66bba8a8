"""Eq. 7: L = sum over t of alpha_t (L_box^t + L_mask^t) + beta L_seg, plus the RPN's losses."""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from htc.config import Config
from htc.model.detector import Detector
from htc.model.rpn import ProposalHead
from htc.model.variants.guided_anchoring import GuidedHead
from htc.ops.boxes import encode
from htc.ops.mask_targets import mask_targets
from htc.training.guided_loss import guided_losses
from htc.training.losses import Term, averages, box_loss, class_loss, mask_loss, rpn_losses, semantic_loss
from htc.training.sampling import RoiSampler, positives
from htc.types import Batch, BoxStage, Features, Rois, RoiTargets


class TrainingObjective(nn.Module):
    """Maps a batch to named losses, whose sum is Eq. 7. Data-parallel training wraps this module."""

    def __init__(self, detector: Detector, config: Config) -> None:
        super().__init__()
        self.detector, self.config = detector, config

    def forward(self, batch: Batch) -> dict[str, Float[Tensor, ""]]:
        """Compute the weighted losses: `rpn.class`, `rpn.box` (guided anchoring: also `rpn.location`, `rpn.shape`),
        `semantic`, and for each stage `stage1.class`, `stage1.box`, `stage1.mask`, ...
        """
        return averages(self.terms(batch), self.config.training.loss_average)

    def terms(self, batch: Batch) -> dict[str, Term]:
        """Compute the same losses as sums with their counts, before averaging."""
        rpn = self.detector.rpn
        features = self.detector.features(batch.images, semantic_logits=batch.semantic is not None)
        levels = rpn(features.pyramid)
        terms = proposal_losses(rpn, levels, batch)
        if self.config.semantic is not None and features.semantic_logits is not None and batch.semantic is not None:
            terms["semantic"] = semantic_loss(features.semantic_logits, batch.semantic, self.config.semantic)
        proposals, _ = rpn.propose_in_training(levels, batch.sizes)
        sampler = RoiSampler(batch, self.config.cascade, len(self.config.classes))
        for t, stage in enumerate(self.detector.roi.refine(*features.pooled, proposals, sampler.for_boxes)):
            name, weight = f"stage{t + 1}", self.config.cascade.loss_weights[t]  # alpha_t
            terms |= {f"{name}.{part}": term for part, term in self._box_terms(stage, batch, t, weight).items()}
            if self.detector.roi.mask_heads:
                rois = positives(self.detector.roi.mask_rois(stage, t, sampler.for_masks), batch)
                terms[f"{name}.mask"] = self._mask_term(features, rois, batch, t, weight)
        return terms

    def _box_terms(self, stage: BoxStage, batch: Batch, t: int, weight: float) -> dict[str, Term]:
        """L_box^t: cross-entropy and box loss, both divided by the number of samples (not of positives)."""
        rois, targets = stage.rois, _targets(stage.rois)
        valid, positive = rois.valid, targets.positive & rois.valid
        count = valid.sum().float()
        class_total = class_loss(stage.class_logits[valid], targets.labels[valid])
        deltas = stage.deltas[positive]
        if not self.config.cascade.class_agnostic_boxes:
            deltas = deltas.unflatten(-1, (-1, 4))
            deltas = deltas[torch.arange(len(deltas), device=deltas.device), targets.labels[positive]]
        objects = _object_boxes(targets, batch)[positive]
        target = encode(rois.boxes[positive], objects, self.config.cascade.delta_stds[t])
        box_total = box_loss(deltas, target, self.config.cascade.box_loss, 1.0) + stage.deltas.sum() * 0
        return {"class": Term(class_total, count, weight), "box": Term(box_total, count, weight)}

    def _mask_term(self, features: Features, rois: Rois, batch: Batch, t: int, weight: float) -> Term:
        """L_mask^t: binary cross-entropy of the ground-truth class over the positives' masks (28 x 28, or the mask
        head's size).
        """
        roi, labels = self.detector.roi, _targets(rois).labels
        logits = roi.mask_heads[t](roi.mask_feature(*features.pooled, rois, t), rois.pack(labels.flatten()))
        target = torch.cat([_mask_target(rois, batch, i, logits.shape[-1]) for i in range(len(batch.truths))])
        return Term(mask_loss(logits, target.to(logits.dtype)), rois.valid.sum().float(), weight)


def proposal_losses(head: ProposalHead | GuidedHead, levels: Any, batch: Batch) -> dict[str, Term]:
    """Compute the terms `rpn.*` from a proposal head and its outputs for the pyramid levels."""
    match head:
        case ProposalHead():
            return rpn_losses(head, levels, batch)
        case GuidedHead():
            return guided_losses(head, levels, batch)


def _targets(rois: Rois) -> RoiTargets:
    assert rois.targets is not None  # the sampler has set them
    return rois.targets


def _object_boxes(targets: RoiTargets, batch: Batch) -> Float[Tensor, "B R 4"]:
    """Return the ground-truth box that each RoI is matched to."""
    rows = []
    for objects, truth in zip(targets.objects, batch.truths, strict=True):
        rows.append(truth.boxes[objects] if len(truth.boxes) else torch.zeros(len(objects), 4, device=objects.device))
    return torch.stack(rows)


def _mask_target(rois: Rois, batch: Batch, image: int, size: int) -> Float[Tensor, "R {size} {size}"]:
    """Compute the mask targets of an image's valid RoIs, which are the rows that the heads process."""
    masks, valid = batch.truths[image].masks, rois.valid[image]
    if masks is None or not bool(valid.any()):
        return torch.zeros(0, size, size, device=valid.device)
    return mask_targets(masks, _targets(rois).objects[image][valid], rois.boxes[image][valid], size)

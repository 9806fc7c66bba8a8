"""The losses of whatever makes the proposals.

Eq. 7: L = sum over t of alpha_t (L_box^t + L_mask^t) + beta L_seg, plus the RPN's losses.
"""

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
from htc.training.losses import Term, averages, box_loss, class_loss, mask_loss, semantic_loss
from htc.training.rpn_loss import rpn_losses
from htc.training.sampling import RoiSample, TruthSampler
from htc.types import Batch, BoxStage, Features


def proposal_losses(head: ProposalHead | GuidedHead, levels: Any, batch: Batch) -> dict[str, Term]:
    """Terms named `rpn.*` of what `head` said of the pyramid's levels."""
    match head:
        case ProposalHead():
            return rpn_losses(head, levels, batch)
        case GuidedHead():
            return guided_losses(head, levels, batch)


class TrainingObjective(nn.Module):
    """A batch in, named losses out; their sum is Eq. 7. This is what data-parallel training wraps."""

    def __init__(self, detector: Detector, config: Config) -> None:
        super().__init__()
        self.detector, self.config = detector, config

    def forward(self, batch: Batch) -> dict[str, Float[Tensor, ""]]:
        """Weighted losses: `rpn.class`, `rpn.box` (guided anchoring: also `rpn.location`, `rpn.shape`), `semantic`, and
        for each stage `stage1.class`, `stage1.box`, `stage1.mask`, ...
        """
        return averages(self.terms(batch), self.config.training.loss_average)

    def terms(self, batch: Batch) -> dict[str, Term]:
        """The same before they are averaged."""
        rpn = self.detector.rpn
        features = self.detector.features(batch.images, semantic_logits=batch.semantic is not None)
        levels = rpn(features.pyramid)
        terms = proposal_losses(rpn, levels, batch)
        if self.config.semantic is not None and features.semantic_logits is not None and batch.semantic is not None:
            terms["semantic"] = semantic_loss(features.semantic_logits, batch.semantic, self.config.semantic)
        proposals, _ = rpn.propose_in_training(levels, batch.sizes)
        sampler = TruthSampler(batch, self.config.cascade, self.config.num_classes)
        stages = self.detector.roi.refine(*features.pooled, proposals, sampler.for_boxes)
        for t, stage in enumerate(stages):
            name, weight = f"stage{t + 1}", self.config.cascade.loss_weights[t]
            terms |= {
                f"{name}.{part}": term
                for part, term in self._box_terms(stage, sampler.boxes[t], batch, t, weight).items()
            }
            if self.detector.roi.mask_heads:
                terms[f"{name}.mask"] = self._mask_term(features, stage, sampler, batch, t, weight)
        return terms

    def _box_terms(self, stage: BoxStage, sample: RoiSample, batch: Batch, t: int, weight: float) -> dict[str, Term]:
        """L_box^t: cross-entropy and box loss, both over the number of samples (not of positives)."""
        valid, positive = sample.rois.valid, sample.positive & sample.rois.valid
        count = valid.sum().float()
        class_total = class_loss(stage.class_logits[valid], sample.labels[valid])
        deltas = stage.deltas[positive]
        if not self.config.cascade.class_agnostic_boxes:
            deltas = deltas.unflatten(-1, (-1, 4))[
                torch.arange(len(deltas), device=deltas.device), sample.labels[positive]
            ]
        targets = encode(
            sample.rois.boxes[positive], _objects_of(sample, batch)[positive], self.config.cascade.delta_stds[t]
        )
        box_total = box_loss(deltas, targets, self.config.cascade.box_loss, 1.0) + stage.deltas.sum() * 0
        return {"class": Term(class_total, count, weight), "box": Term(box_total, count, weight)}

    def _mask_term(
        self, features: Features, stage: BoxStage, sampler: TruthSampler, batch: Batch, t: int, weight: float
    ) -> Term:
        """L_mask^t: binary cross-entropy of the true class over the positives' grids (28 x 28, or the mask head's
        own size).
        """
        roi = self.detector.roi
        rois = roi.mask_rois(stage, t, sampler.for_masks)
        sample = sampler.masks[t]
        logits = roi.mask_heads[t](roi.mask_feature(*features.pooled, rois, t), rois.pack(sample.labels.flatten()))
        targets = torch.cat([_mask_targets(sample, batch, i, logits.shape[-1]) for i in range(len(batch.truths))])
        return Term(mask_loss(logits, targets.to(logits.dtype)), rois.valid.sum().float(), weight)


def _objects_of(sample: RoiSample, batch: Batch) -> Float[Tensor, "B R 4"]:
    """The box of the object each region serves."""
    rows = []
    for objects, truth in zip(sample.objects, batch.truths, strict=True):
        rows.append(truth.boxes[objects] if len(truth.boxes) else torch.zeros(len(objects), 4, device=objects.device))
    return torch.stack(rows)


def _mask_targets(sample: RoiSample, batch: Batch, image: int, size: int) -> Float[Tensor, "R {size} {size}"]:
    """Of the picture's valid regions, which are the rows that go through the heads."""
    masks, valid = batch.truths[image].masks, sample.rois.valid[image]
    if masks is None or not bool(valid.any()):
        return torch.zeros(0, size, size, device=valid.device)
    return mask_targets(masks, sample.objects[image][valid], sample.rois.boxes[image][valid], size)

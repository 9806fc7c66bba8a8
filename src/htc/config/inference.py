"""From head outputs to detections."""

from typing import Literal

from htc.config.section import Fraction, Positive, Section


class Inference(Section):
    """From head outputs to detections. Stages count from 1; `null` means the last one or all."""

    score_threshold: Fraction = 0.001
    nms_iou: Fraction = 0.5
    max_detections: Positive = 100
    score_ensemble: Literal["logits", "probabilities"] = "logits"
    box_stage: Positive | None = None
    score_stages: tuple[Positive, ...] | None = None
    mask_stages: tuple[Positive, ...] | None = None
    mask_threshold: Fraction = 0.5

"""From head outputs to detections."""

from typing import Annotated, Literal

from pydantic import Field

from htc.config.section import Fraction, Positive, PositiveFloat, Section


class LinearSoftNMS(Section):
    """A box whose IoU with a better one of its class is over `iou` keeps 1 - IoU of its score; below `min_score` it
    is dropped.
    """

    kind: Literal["linear"] = "linear"
    iou: Fraction = 0.5
    min_score: Fraction = 0.001


class GaussianSoftNMS(Section):
    """Every better box of its class leaves a box exp(-IoU^2 / sigma) of its score; below `min_score` it is dropped."""

    kind: Literal["gaussian"] = "gaussian"
    sigma: PositiveFloat = 0.5
    min_score: Fraction = 0.001


SoftNMS = LinearSoftNMS | GaussianSoftNMS


class Inference(Section):
    """From head outputs to detections. Stages count from 1; `null` means the last one or all."""

    score_threshold: Fraction = 0.001
    nms_iou: Fraction = 0.5
    soft_nms: Annotated[SoftNMS, Field(discriminator="kind")] | None = None
    """Lower the scores of overlapping boxes instead of dropping boxes over `nms_iou`, which then has no use; null:
    drop them.
    """
    max_detections: Positive = 100
    score_ensemble: Literal["logits", "probabilities"] = "logits"
    box_stage: Positive | None = None
    score_stages: tuple[Positive, ...] | None = None
    mask_stages: tuple[Positive, ...] | None = None
    mask_threshold: Fraction = 0.5

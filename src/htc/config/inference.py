"""What the network is given at test time, and how its outputs become detections."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from htc.config.base import Fraction, Positive, PositiveFloat, Section


class Input(Section):
    """Network input: RGB, resized with its ratio kept into (short_edge, long_edge), normalized, padded to `divisor`."""

    short_edge: Positive = 800
    long_edge: Positive = 1333
    max_scale: PositiveFloat | None = None
    """Never enlarge an image by more than this, however far below the edges it stays: 1 keeps the size of small ones.

    Where training draws the short edge, or a test looks at several scales, the limit is multiplied by the same factor.
    """
    mean: tuple[float, float, float] = (123.675, 116.28, 103.53)
    std: tuple[PositiveFloat, PositiveFloat, PositiveFloat] = (58.395, 57.12, 57.375)
    divisor: Positive = 32
    padding: Literal["zero", "edge"] = "zero"
    """What fills the padding: zeros, which are the mean color, as in the original; or the image's last row and
    column repeated.

    A network trained on crops never sees padding. Where images are dark, a band of the mean color is a bright one,
    and what it has not learned to ignore: edge keeps it out.
    """

    @model_validator(mode="after")
    def _edges_in_order(self) -> Self:
        if self.short_edge > self.long_edge:
            raise ValueError(f"short_edge {self.short_edge} is larger than long_edge {self.long_edge}")
        return self


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

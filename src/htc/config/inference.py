"""Configuration of the network input and of the conversion from head outputs to detections."""

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal, Self, TypeVar

from pydantic import Field, ValidationInfo, model_validator

from htc.config.base import Fraction, Percentage, Positive, PositiveFloat, Section


class TypeRange(Section):
    """The range of the type: 0 to 65535 for 16 bits, and the range of the depth that a TIFF declares. Images of floats
    are refused, since their range is unknown.
    """

    kind: Literal["type"] = "type"
    takes_floats: ClassVar[bool] = False


class BitDepth(Section):
    """The smallest camera depth (8, 10, 12, 14 or 16 bits) that contains the brightest value of the image."""

    kind: Literal["depth"] = "depth"
    takes_floats: ClassVar[bool] = False


class Percentiles(Section):
    """The values between two percentiles of the image, over all pixels and channels."""

    kind: Literal["percentile"] = "percentile"
    takes_floats: ClassVar[bool] = True
    low: Percentage = 0.1
    """Percentile of the values that becomes 0."""
    high: Percentage = 99.9
    """Percentile of the values that becomes 255."""

    @model_validator(mode="after")
    def _in_order(self) -> Self:
        return _ascending(self)


class FixedRange(Section):
    """The same two values for all images: 0 and 1 for floats that are fractions, 0 and 4095 for a camera of 12 bits."""

    kind: Literal["fixed"] = "fixed"
    takes_floats: ClassVar[bool] = True
    low: float = 0.0
    """Value that becomes 0."""
    high: float = 1.0
    """Value that becomes 255."""

    @model_validator(mode="after")
    def _in_order(self) -> Self:
        return _ascending(self)


Ascending = TypeVar("Ascending", Percentiles, FixedRange)


def _ascending(limits: Ascending) -> Ascending:
    if limits.low >= limits.high:
        raise ValueError(f"low {limits.low} must be less than high {limits.high}")
    return limits


Intensity = TypeRange | BitDepth | Percentiles | FixedRange


class Input(Section):
    """Network input: RGB, resized to fit (short_edge, long_edge) with a fixed aspect ratio, normalized, padded to
    `divisor`.
    """

    short_edge: Positive = 800
    """Length that the image's short edge is resized to, in pixels."""
    long_edge: Positive = 1333
    """Maximum length of the long edge; the image is resized to less than `short_edge` where needed."""
    max_scale: PositiveFloat | None = None
    """Maximum enlargement of an image, even if it stays smaller than the edges: 1 keeps small images at their size.

    If training draws the short edge, or prediction uses several scales, the limit is multiplied by the same factor.
    """
    mean: tuple[float, float, float] = (123.675, 116.28, 103.53)
    """Mean of R, G and B, which is subtracted."""
    std: tuple[PositiveFloat, PositiveFloat, PositiveFloat] = (58.395, 57.12, 57.375)
    """Standard deviation of R, G and B, which is divided by."""
    divisor: Positive = 32
    """Height and width of a batch are padded to a multiple of this number."""
    intensity: Annotated[Intensity, Field(discriminator="kind")] = TypeRange()
    """Values of 16-bit and float images that become 0 and 255; those outside are clipped. Images of 8 bits are not
    changed.
    """
    padding: Literal["zero", "edge"] = "zero"
    """Padding values: zeros, which are the mean color, as in mmdetection; or the image's last row and column repeated.

    A network trained on crops never sees padding. If images are dark, zero padding is a bright band that it has not
    learned to ignore; `edge` avoids that.
    """

    @model_validator(mode="before")
    @classmethod
    def _of_older_weights(cls, values: Any, info: ValidationInfo) -> Any:
        """Complete the JSON of weights from before `intensity`, whose rule was the bit depth."""
        if info.mode == "json" and isinstance(values, Mapping):
            return {"intensity": {"kind": "depth"}, **values}
        return values

    @model_validator(mode="after")
    def _edges_in_order(self) -> Self:
        if self.short_edge > self.long_edge:
            raise ValueError(f"short_edge {self.short_edge} is larger than long_edge {self.long_edge}")
        return self


class LinearSoftNMS(Section):
    """Linear Soft-NMS: a box whose IoU with a better one of its class is over `iou` has its score multiplied by 1 -
    IoU; a box below `min_score` is removed.
    """

    kind: Literal["linear"] = "linear"
    iou: Fraction = 0.5
    """IoU with a better box over which a score is lowered."""
    min_score: Fraction = 0.001
    """Boxes whose score falls below this value are removed."""


class GaussianSoftNMS(Section):
    """Gaussian Soft-NMS: each better box of its class multiplies a box's score by exp(-IoU^2 / sigma); a box below
    `min_score` is removed.
    """

    kind: Literal["gaussian"] = "gaussian"
    sigma: PositiveFloat = 0.5
    """Width of the Gaussian: the larger, the less a score is lowered."""
    min_score: Fraction = 0.001
    """Boxes whose score falls below this value are removed."""


SoftNMS = LinearSoftNMS | GaussianSoftNMS


class Inference(Section):
    """From head outputs to detections. Stages count from 1."""

    score_threshold: Fraction = 0.001
    """Minimum score of a detection."""
    nms_iou: Fraction = 0.5
    """IoU over which the worse of two boxes of one class is removed."""
    soft_nms: Annotated[SoftNMS, Field(discriminator="kind")] | None = None
    """Lower the scores of overlapping boxes instead of removing boxes over `nms_iou`, which is then unused; null:
    remove them.
    """
    max_detections: Positive = 100
    """Maximum number of detections per image."""
    score_ensemble: Literal["logits", "probabilities"] = "logits"
    """Average the stages' class logits before the softmax, or their probabilities after it."""
    box_stage: Positive | None = None
    """Stage whose refined boxes are the result; null: the last."""
    score_stages: tuple[Positive, ...] | None = None
    """Stages whose class scores are averaged; null: all."""
    mask_stages: tuple[Positive, ...] | None = None
    """Stages whose mask probabilities are averaged; null: all."""
    mask_threshold: Fraction = 0.5
    """Minimum probability of a pixel of the mask."""

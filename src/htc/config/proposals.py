"""Where proposals come from."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from htc.config.section import Fraction, Positive, PositiveFloat, Quad, Section

BoxLoss = Literal["smooth_l1", "l1"]


class RPN(Section):
    """Region proposal network: anchors of side `anchor_scale` x stride for each ratio h/w on the levels of strides
    4-64.
    """

    kind: Literal["rpn"] = "rpn"
    anchor_scale: PositiveFloat = 8.0
    anchor_ratios: tuple[PositiveFloat, ...] = (0.5, 1.0, 2.0)
    anchor_grid: Literal["exact", "torchvision"] = "exact"
    """Anchors as they are defined, or as torchvision lays them: corners rounded to whole pixels, and a step from cell
    to cell that is the padded picture's size divided by the map's, without remainder (of P6 often less than 64).
    """
    convs: Positive = 1
    """3x3 convolutions before the predictions."""
    nms_iou: Fraction = 0.7
    candidates_per_level: Positive = 1000
    """Best boxes of each level that enter non-maximum suppression at test time."""
    proposals: Positive = 1000
    training_candidates_per_level: Positive = 2000
    training_proposals: Positive = 2000
    positive_iou: Fraction = 0.7
    negative_iou: Fraction = 0.3
    samples: Positive = 256
    positive_fraction: Fraction = 0.5
    box_loss: BoxLoss = "smooth_l1"
    box_loss_beta: PositiveFloat = 1 / 9
    anchors_inside: Literal["picture", "cells"] = "picture"
    """Anchors that are trained: wholly inside the picture, or all whose cell starts inside it (rounded up to 32
    pixels).
    """


class GuidedRPN(Section):
    """Guided anchoring (Wang et al. 2019): one anchor a location, of a shape that is predicted, where a centre is
    likely.

    A location starts from a square of side `anchor_scale` x stride. At test time only locations whose probability is at
    least `location_threshold` count. Fields of the same name mean what they mean in `RPN`.
    """

    kind: Literal["guided_rpn"] = "guided_rpn"
    anchor_scale: PositiveFloat = 8.0
    scales_per_octave: Positive = 3
    """The shape is trained where boxes of side `anchor_scale` x 2^(i / scales_per_octave) x stride ..."""
    anchor_ratios: tuple[PositiveFloat, ...] = (0.5, 1.0, 2.0)
    """... and of these ratios h/w would fit an object."""
    anchor_stds: Quad = (0.07, 0.07, 0.14, 0.14)
    """Units of the predicted shape; of the offsets, which are 0, the first two."""
    delta_stds: Quad = (0.07, 0.07, 0.11, 0.11)
    location_threshold: Fraction = 0.01
    centre_fraction: Fraction = 0.2
    """The central part of an object (of its width and height) where its location is positive ..."""
    ignored_fraction: Fraction = 0.5
    """... and the part around it that is neither positive nor negative."""
    nms_iou: Fraction = 0.7
    candidates_per_level: Positive = 1000
    proposals: Positive = 1000
    training_candidates_per_level: Positive = 2000
    training_proposals: Positive = 1000
    positive_iou: Fraction = 0.7
    negative_iou: Fraction = 0.3
    samples: Positive = 256
    positive_fraction: Fraction = 0.5
    box_loss: BoxLoss = "smooth_l1"
    box_loss_beta: PositiveFloat = 1.0
    anchors_inside: Literal["picture", "cells"] = "cells"
    """Locations that are trained: where one of the boxes above lies wholly inside the picture, or all whose cell
    starts inside it.
    """

    @model_validator(mode="after")
    def _centre_in_ignored(self) -> Self:
        if self.centre_fraction > self.ignored_fraction:
            raise ValueError(
                f"centre_fraction {self.centre_fraction} is larger than ignored_fraction {self.ignored_fraction}, "
                f"which lies around it"
            )
        return self


Proposals = Annotated[RPN | GuidedRPN, Field(discriminator="kind")]

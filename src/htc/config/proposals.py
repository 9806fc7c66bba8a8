"""Where proposals come from."""

from typing import Literal

from htc.config.section import Fraction, Positive, PositiveFloat, Section

BoxLoss = Literal["smooth_l1", "l1"]


class RPN(Section):
    """Region proposal network: anchors of side `anchor_scale` x stride for each ratio h/w on the levels of strides 4-64."""

    kind: Literal["rpn"] = "rpn"
    anchor_scale: PositiveFloat = 8.0
    anchor_ratios: tuple[PositiveFloat, ...] = (0.5, 1.0, 2.0)
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
    """Anchors that are trained: wholly inside the picture, or all whose cell starts inside it (rounded up to 32 pixels)."""

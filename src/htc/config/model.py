"""The parts of the network after the backbone: neck, proposals, semantic branch, box and mask heads.

Each typed union (`Proposals`, `Context`, `MaskHeadVariant`, the necks) lists the variants of one part; `kind` selects
one.
"""

from collections.abc import Mapping
from typing import Annotated, ClassVar, Literal, Self

from pydantic import Field, model_validator

from htc.config.base import Fraction, Positive, PositiveFloat, Quad, Section

LayerNorm = Literal["none", "batch", "sync", "group"]


class FPN(Section):
    """Feature pyramid network: P2-P5, and P6 as a stride-2 subsample of P5."""

    kind: Literal["fpn"] = "fpn"
    channels: Positive = 256
    norm: LayerNorm = "none"


class PAFPN(Section):
    """FPN with PANet's bottom-up path, as the original implements it."""

    kind: Literal["pafpn"] = "pafpn"
    channels: Positive = 256
    norm: LayerNorm = "none"


class RecursiveFPN(Section):
    """DetectoRS' recursive feature pyramid: FPN, and again after a second backbone that knows the first pyramid.
    Needs a ResNet.
    """

    kind: Literal["rfp"] = "rfp"
    channels: Positive = 256
    norm: LayerNorm = "none"


class NoContext(Section):
    """Nothing: the branch as the paper has it."""

    kind: Literal["none"] = "none"


class ASPP(Section):
    """Atrous spatial pyramid pooling (DeepLab v3, Chen et al. 2017): one 1x1 and several dilated 3x3 convolutions
    and the image's mean.
    """

    kind: Literal["aspp"] = "aspp"
    rates: Annotated[tuple[Positive, ...], Field(min_length=1)] = (12, 24, 36)
    """Dilation of each 3x3 convolution, in pixels of stride 8."""


class GCN(Section):
    """Global convolutional network (Peng et al. 2017): two pairs of k x 1 and 1 x k convolutions, in either order,
    summed.
    """

    kind: Literal["gcn"] = "gcn"
    kernel: Literal[3, 5, 7, 9, 11, 13, 15] = 7
    """k."""


Context = Annotated[NoContext | ASPP | GCN, Field(discriminator="kind")]


class Semantic(Section):
    """The semantic branch (paper, section 3.3): fused at stride 8, four 3x3 convolutions, a prediction and an
    embedding.
    """

    classes: Positive = 183
    channels: Positive = 256
    convs: Positive = 4
    norm: LayerNorm = "none"
    context: Context = NoContext()
    """What follows the 3x3 convolutions (paper, section 4.6)."""
    loss_weight: Annotated[float, Field(ge=0)] = 0.2
    """beta of Eq. 7: 1 in the paper, 0.2 in every released configuration."""
    ignore: int = 255
    loss_average: Literal["labelled", "all"] = "labelled"
    """Divide by the labelled pixels (the paper's code) or by all pixels (mmdetection since August 2021)."""


BoxLoss = Literal["smooth_l1", "l1"]


PYRAMID_STRIDES = (4, 8, 16, 32, 64)
"""Pixels of the network input between two cells of P2-P6, and so between two anchors of one level."""


class RPN(Section):
    """Region proposal network: anchors of side `anchor_scale` x stride for each ratio h/w on the levels of strides
    4-64.
    """

    kind: Literal["rpn"] = "rpn"
    anchor_scale: PositiveFloat = 8.0
    anchor_ratios: tuple[PositiveFloat, ...] = (0.5, 1.0, 2.0)
    anchor_grid: Literal["exact", "torchvision"] = "exact"
    """Anchors as they are defined, or as torchvision lays them: corners rounded to whole pixels, and a step from cell
    to cell that is the padded image's size divided by the map's, without remainder (of P6 often less than 64).
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
    """Anchors that are trained: wholly inside the image, or all whose cell starts inside it (rounded up to 32
    pixels).
    """


class GuidedRPN(Section):
    """Guided anchoring (Wang et al. 2019): one anchor a location, of a shape that is predicted, where a center is
    likely.

    A location starts from a square of side `anchor_scale` x stride. At test time only locations whose probability is at
    least `location_threshold` count. Fields of the same name mean what they mean in `RPN`.
    """

    renamed_fields: ClassVar[Mapping[str, str]] = {"centre_fraction": "center_fraction"}
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
    center_fraction: Fraction = 0.2
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
    """Locations that are trained: where one of the boxes above lies wholly inside the image, or all whose cell
    starts inside it.
    """

    @model_validator(mode="after")
    def _center_in_ignored(self) -> Self:
        if self.center_fraction > self.ignored_fraction:
            raise ValueError(
                f"center_fraction {self.center_fraction} is larger than ignored_fraction {self.ignored_fraction}, "
                f"which lies around it"
            )
        return self


Proposals = Annotated[RPN | GuidedRPN, Field(discriminator="kind")]


class PlainMask(Section):
    """3x3 convolutions, a 2x2 deconvolution and a prediction: masks of 28 x 28 (Mask R-CNN, Cascade, HTC)."""

    kind: Literal["plain"] = "plain"


class FusionMask(Section):
    """PANet's fully-connected fusion: beside the convolutions a branch that sees the whole region and says object or
    not.
    """

    kind: Literal["fusion"] = "fusion"


class FineMask(Section):
    """Masks of 56 x 56 that also see the image: a second deconvolution, joined with a shallow full-resolution
    feature of the region.
    """

    kind: Literal["fine"] = "fine"
    detail_channels: Positive = 16
    """Channels of the full-resolution feature."""


class NoMask(Section):
    """Boxes alone, for data without masks: no mask head is built, and detections have no masks."""

    kind: Literal["none"] = "none"


MaskHeadVariant = Annotated[PlainMask | FusionMask | FineMask | NoMask, Field(discriminator="kind")]


Fusion = Literal["none", "box", "mask", "both"]


class Cascade(Section):
    """The box and mask heads (paper, section 3) and how their stages are trained. Tuples hold one value a stage."""

    num_stages: Positive = 3
    interleaved: bool = True
    """Eq. 2: mask head t is trained on the boxes that box head t refined; false: Eq. 1, on the boxes it was given."""
    mask_flow: bool = True
    """Eqs. 3-5: mask features of one stage are added to the next."""
    semantic_fusion: Fusion = "both"
    """Eq. 6: which heads see the semantic feature (Table 5). `none` still trains the semantic branch."""
    class_agnostic_boxes: bool = True
    delta_stds: tuple[Quad, ...] = ((0.1, 0.1, 0.2, 0.2), (0.05, 0.05, 0.1, 0.1), (0.033, 0.033, 0.067, 0.067))
    ious: tuple[Fraction, ...] = (0.5, 0.6, 0.7)
    loss_weights: tuple[Annotated[float, Field(ge=0)], ...] = (1.0, 0.5, 0.25)
    low_quality_matches: bool = True
    samples: Positive = 512
    positive_fraction: Fraction = 0.25
    box_loss: BoxLoss = "smooth_l1"
    box_convs: Annotated[int, Field(ge=0)] = 0
    """3x3 convolutions before the fully connected layers of a box head (4, with `box_fcs` 1: Wu and He 2018's
    4conv1fc).
    """
    box_fcs: Positive = 2
    box_channels: Positive = 1024
    box_norm: LayerNorm = "none"
    """Of those convolutions: the fully connected layers have none."""
    mask_channels: Positive = 256
    mask_convs: Positive = 4
    mask_norm: LayerNorm = "none"
    mask_head: MaskHeadVariant = PlainMask()
    pooling: Literal["align", "precise", "torchvision"] = "align"
    """What P(x, r) is: RoIAlign's samples, the exact mean of each bin (precise RoI pooling, Jiang et al. 2018), or
    RoIAlign as torchvision's detectors have it: two samples an axis in every bin, not shifted by half a pixel.
    """

    pooled_levels: Literal["one", "all"] = "one"
    """Levels a region reads: the one of its size, or all (PANet's adaptive feature pooling), the largest value of
    each feature taken.
    """

    @model_validator(mode="after")
    def _mask_head_fits(self) -> Self:
        if self.mask_head.kind == "fusion" and self.mask_convs < 2:
            raise ValueError("mask_head fusion branches off before the last of mask_convs: it needs 2 or more")
        if self.mask_head.kind == "none" and (self.mask_flow or self.semantic_fusion in ("mask", "both")):
            raise ValueError(
                "mask_head none has no masks to flow or to fuse into: set mask_flow to false and semantic_fusion to "
                "none or box"
            )
        return self

    @model_validator(mode="after")
    def _one_value_a_stage(self) -> Self:
        for name in ("delta_stds", "ious", "loss_weights"):
            count = len(getattr(self, name))
            if count != self.num_stages:
                raise ValueError(
                    f"{name} has {count} values for num_stages = {self.num_stages}: give one value a stage"
                )
        if self.box_norm != "none" and not self.box_convs:
            raise ValueError(
                f"box_norm {self.box_norm} belongs to convolutions in the box heads: set box_convs, to 4 for example"
            )
        return self

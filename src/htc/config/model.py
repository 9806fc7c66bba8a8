"""Configuration of the network after the backbone: neck, proposals, semantic branch, box and mask heads.

Each typed union (`Proposals`, `Context`, `MaskHeadVariant`, the necks) lists the variants of one part; `kind` selects
one.
"""

from collections.abc import Mapping
from typing import Annotated, ClassVar, Literal, Self

from pydantic import Field, model_validator

from htc.config.base import Fraction, Positive, PositiveFloat, Quad, Section

LayerNorm = Literal["none", "batch", "sync", "group"]


class FPN(Section):
    """Feature pyramid network: P2-P5, and P6 as P5 subsampled with stride 2."""

    kind: Literal["fpn"] = "fpn"
    channels: Positive = 256
    """Channels of P2-P6."""
    norm: LayerNorm = "none"
    """Norm after each convolution of the neck."""


class PAFPN(Section):
    """FPN with PANet's bottom-up path, as in mmdetection."""

    kind: Literal["pafpn"] = "pafpn"
    channels: Positive = 256
    """Channels of P2-P6."""
    norm: LayerNorm = "none"
    """Norm after each convolution of the neck."""


class RecursiveFPN(Section):
    """DetectoRS' recursive feature pyramid: an FPN, then another one after a second backbone that reads the first.
    Needs a ResNet.
    """

    kind: Literal["rfp"] = "rfp"
    channels: Positive = 256
    """Channels of P2-P6."""
    norm: LayerNorm = "none"
    """Norm after each convolution of the neck."""


class NoContext(Section):
    """No context module, as in the paper."""

    kind: Literal["none"] = "none"


class ASPP(Section):
    """Atrous spatial pyramid pooling (DeepLab v3, Chen et al. 2017): a 1x1 convolution, several dilated 3x3 ones and
    the image's mean.
    """

    kind: Literal["aspp"] = "aspp"
    rates: Annotated[tuple[Positive, ...], Field(min_length=1)] = (12, 24, 36)
    """Dilation of each 3x3 convolution, in cells of stride 8."""


class GCN(Section):
    """Global convolutional network (Peng et al. 2017): k x 1 and 1 x k convolutions in both orders, summed."""

    kind: Literal["gcn"] = "gcn"
    kernel: Literal[3, 5, 7, 9, 11, 13, 15] = 7
    """Kernel size k."""


Context = Annotated[NoContext | ASPP | GCN, Field(discriminator="kind")]


class Semantic(Section):
    """Semantic branch (paper, section 3.3): levels fused at stride 8, four 3x3 convolutions, a prediction and an
    embedding.
    """

    classes: Positive = 183
    """Number of classes of the semantic map (183 in COCO-stuff's numbering)."""
    channels: Positive = 256
    """Channels of its convolutions and of the semantic feature; must equal `neck.channels`."""
    convs: Positive = 4
    """Number of 3x3 convolutions after the levels are fused."""
    norm: LayerNorm = "none"
    """Norm after each of these convolutions."""
    context: Context = NoContext()
    """Context module after the 3x3 convolutions (paper, section 4.6)."""
    loss_weight: Annotated[float, Field(ge=0)] = 0.2
    """beta of Eq. 7: 1 in the paper, 0.2 in every released configuration."""
    ignore: int = 255
    """Value of pixels without label in a semantic map: they have no loss."""
    loss_average: Literal["labelled", "all"] = "labelled"
    """Divide by the labelled pixels (the paper's code) or by all pixels (mmdetection since August 2021)."""


BoxLoss = Literal["smooth_l1", "l1"]


PYRAMID_STRIDES = (4, 8, 16, 32, 64)
"""Stride of P2-P6 in pixels of the network input, which is also the distance of neighboring anchors of a level."""


class RPN(Section):
    """Region proposal network: one anchor of side `anchor_scale` x stride per ratio h/w and location, on the levels of
    strides 4-64.
    """

    kind: Literal["rpn"] = "rpn"
    anchor_scale: PositiveFloat = 8.0
    """Side of an anchor divided by the stride of its level."""
    anchor_ratios: tuple[PositiveFloat, ...] = (0.5, 1.0, 2.0)
    """Ratios height / width of the anchors at each location."""
    anchor_grid: Literal["exact", "torchvision"] = "exact"
    """Exact anchors, or torchvision's: corners rounded to whole pixels, and a distance between anchors that is the
    padded image's size divided by the map's, rounded down (on P6 often less than 64).
    """
    convs: Positive = 1
    """Number of 3x3 convolutions before the predictions."""
    nms_iou: Fraction = 0.7
    """IoU over which the worse of two proposals is removed."""
    candidates_per_level: Positive = 1000
    """Number of best boxes per level before NMS, for prediction."""
    proposals: Positive = 1000
    """Maximum number of proposals per image after NMS, for prediction."""
    training_candidates_per_level: Positive = 2000
    """Number of best boxes per level before NMS, for training."""
    training_proposals: Positive = 2000
    """Maximum number of proposals per image after NMS, for training."""
    positive_iou: Fraction = 0.7
    """Anchors of at least this IoU with an instance are positive; so are the best anchors of each instance if their IoU
    is at least `negative_iou`.
    """
    negative_iou: Fraction = 0.3
    """Anchors whose IoU with every instance is below this value are negative."""
    samples: Positive = 256
    """Number of anchors sampled per image for the loss."""
    positive_fraction: Fraction = 0.5
    """Maximum fraction of positive anchors among the samples."""
    box_loss: BoxLoss = "smooth_l1"
    """Loss of the box offsets."""
    box_loss_beta: PositiveFloat = 1 / 9
    """Absolute error at which smooth L1 changes from quadratic to linear; unused by `l1`."""
    anchors_inside: Literal["picture", "cells"] = "picture"
    """Anchors used in training: those wholly inside the image, or all whose cell starts inside it (rounded up to 32
    pixels).
    """


class GuidedRPN(Section):
    """Guided anchoring (Wang et al. 2019): one anchor of predicted shape per location, at locations that likely hold a
    center.

    Each anchor starts as a square of side `anchor_scale` x stride. For prediction, only locations with a probability of
    at least `location_threshold` are used. Fields with the same name have the same meaning as in `RPN`.
    """

    renamed_fields: ClassVar[Mapping[str, str]] = {"centre_fraction": "center_fraction"}
    kind: Literal["guided_rpn"] = "guided_rpn"
    anchor_scale: PositiveFloat = 8.0
    """Side of the square that each anchor starts as, divided by the stride of its level."""
    scales_per_octave: Positive = 3
    """The shape is trained at locations where one of the boxes of side `anchor_scale` x 2^(i / scales_per_octave) x
    stride ...
    """
    anchor_ratios: tuple[PositiveFloat, ...] = (0.5, 1.0, 2.0)
    """... and of one of these ratios h/w matches an instance."""
    anchor_stds: Quad = (0.07, 0.07, 0.14, 0.14)
    """Units of the predicted shape (the last two); the first two are for the offsets, which are 0."""
    delta_stds: Quad = (0.07, 0.07, 0.11, 0.11)
    """Units of the four box offsets that are predicted from the anchor."""
    location_threshold: Fraction = 0.01
    """For prediction, the minimum probability of a location that is used."""
    center_fraction: Fraction = 0.2
    """Central fraction of an instance's width and height in which locations are positive."""
    ignored_fraction: Fraction = 0.5
    """Larger fraction, in which the other locations are ignored: neither positive nor negative."""
    nms_iou: Fraction = 0.7
    """IoU over which the worse of two proposals is removed."""
    candidates_per_level: Positive = 1000
    """Number of best boxes per level before NMS, for prediction."""
    proposals: Positive = 1000
    """Maximum number of proposals per image after NMS, for prediction."""
    training_candidates_per_level: Positive = 2000
    """Number of best boxes per level before NMS, for training."""
    training_proposals: Positive = 1000
    """Maximum number of proposals per image after NMS, for training."""
    positive_iou: Fraction = 0.7
    """Anchors of at least this IoU with an instance are positive; so are the best anchors of each instance if their IoU
    is at least `negative_iou`.
    """
    negative_iou: Fraction = 0.3
    """Anchors whose IoU with every instance is below this value are negative."""
    samples: Positive = 256
    """Number of anchors sampled per image for the loss."""
    positive_fraction: Fraction = 0.5
    """Maximum fraction of positive anchors among the samples."""
    box_loss: BoxLoss = "smooth_l1"
    """Loss of the box offsets."""
    box_loss_beta: PositiveFloat = 1.0
    """Absolute error at which smooth L1 changes from quadratic to linear; unused by `l1`."""
    anchors_inside: Literal["picture", "cells"] = "cells"
    """Locations used in training: those where one of the boxes above is wholly inside the image, or all whose cell
    starts inside it.
    """

    @model_validator(mode="after")
    def _center_in_ignored(self) -> Self:
        if self.center_fraction > self.ignored_fraction:
            raise ValueError(
                f"center_fraction {self.center_fraction} must not be larger than ignored_fraction "
                f"{self.ignored_fraction}, which includes it"
            )
        return self


Proposals = Annotated[RPN | GuidedRPN, Field(discriminator="kind")]


class PlainMask(Section):
    """3x3 convolutions, a 2x2 deconvolution and a prediction: masks of 28 x 28 (Mask R-CNN, Cascade Mask R-CNN,
    HTC).
    """

    kind: Literal["plain"] = "plain"


class FusionMask(Section):
    """PANet's fully-connected fusion: an additional branch that reads the whole RoI and predicts class-agnostic
    foreground.
    """

    kind: Literal["fusion"] = "fusion"


class FineMask(Section):
    """Masks of 56 x 56 that also use the image: a second deconvolution, fused with a shallow full-resolution feature of
    the RoI.
    """

    kind: Literal["fine"] = "fine"
    detail_channels: Positive = 16
    """Channels of the full-resolution feature."""


class NoMask(Section):
    """Boxes only, for data without masks: no mask heads, and detections without masks."""

    kind: Literal["none"] = "none"


MaskHeadVariant = Annotated[PlainMask | FusionMask | FineMask | NoMask, Field(discriminator="kind")]


Fusion = Literal["none", "box", "mask", "both"]


class Cascade(Section):
    """The box and mask heads (paper, section 3) and the training of their stages. Tuples have one value per stage."""

    num_stages: Positive = 3
    """Number of stages T, each with a box head and a mask head."""
    interleaved: bool = True
    """Eq. 2: mask head t is trained on the boxes refined by box head t; false: Eq. 1, on the input boxes of box head
    t.
    """
    mask_flow: bool = True
    """Eqs. 3-5: the mask features of one stage are added to those of the next."""
    semantic_fusion: Fusion = "both"
    """Eq. 6: heads that use the semantic feature (Table 5). `none` still trains the semantic branch."""
    class_agnostic_boxes: bool = True
    """True: one box regression for all classes; false: one per class."""
    delta_stds: tuple[Quad, ...] = ((0.1, 0.1, 0.2, 0.2), (0.05, 0.05, 0.1, 0.1), (0.033, 0.033, 0.067, 0.067))
    """Units of the box offsets (x, y, width, height) of each stage."""
    ious: tuple[Fraction, ...] = (0.5, 0.6, 0.7)
    """IoU from which a box is positive, for each stage."""
    loss_weights: tuple[Annotated[float, Field(ge=0)], ...] = (1.0, 0.5, 0.25)
    """Weight of each stage in the loss (alpha of Eq. 7)."""
    low_quality_matches: bool = True
    """Also match each instance to its best boxes where their IoU is at least the stage's threshold, as mmdetection
    does: such a box takes this instance even if it overlaps another one more.
    """
    samples: Positive = 512
    """Number of boxes sampled per image and stage for the loss."""
    positive_fraction: Fraction = 0.25
    """Maximum fraction of positive boxes among the samples."""
    box_loss: BoxLoss = "smooth_l1"
    """Loss of the box offsets: smooth L1 with beta 1, or L1."""
    box_convs: Annotated[int, Field(ge=0)] = 0
    """Number of 3x3 convolutions before the fully connected layers of a box head (4, with `box_fcs` 1, is 4conv1fc of
    Wu and He 2018).
    """
    box_fcs: Positive = 2
    """Number of fully connected layers of a box head."""
    box_channels: Positive = 1024
    """Width of the fully connected layers."""
    box_norm: LayerNorm = "none"
    """Norm of those convolutions; the fully connected layers have none."""
    mask_channels: Positive = 256
    """Channels of the mask heads."""
    mask_convs: Positive = 4
    """Number of 3x3 convolutions of a mask head before the deconvolution."""
    mask_norm: LayerNorm = "none"
    """Norm after each of these convolutions."""
    mask_head: MaskHeadVariant = PlainMask()
    """Variant of the mask heads."""
    pooling: Literal["align", "precise", "torchvision"] = "align"
    """RoI pooling P(x, r): RoIAlign; the exact mean of each bin (precise RoI pooling, Jiang et al. 2018); or
    torchvision's RoIAlign, with two samples per axis in every bin and coordinates not shifted by half a pixel.
    """

    pooled_levels: Literal["one", "all"] = "one"
    """Levels that a RoI is pooled from: one, chosen by its size, or all (PANet's adaptive feature pooling), with an
    elementwise maximum.
    """

    @model_validator(mode="after")
    def _mask_head_fits(self) -> Self:
        if self.mask_head.kind == "fusion" and self.mask_convs < 2:
            raise ValueError("mask_head fusion needs mask_convs of 2 or more: its branch starts before the last one")
        if self.mask_head.kind == "none" and (self.mask_flow or self.semantic_fusion in ("mask", "both")):
            raise ValueError(
                "mask_head none has no mask features: set mask_flow to false and semantic_fusion to none or box"
            )
        return self

    @model_validator(mode="after")
    def _one_value_per_stage(self) -> Self:
        for name in ("delta_stds", "ious", "loss_weights"):
            count = len(getattr(self, name))
            if count != self.num_stages:
                raise ValueError(
                    f"{name} has {count} values for num_stages = {self.num_stages}: give one value per stage"
                )
        if self.box_norm != "none" and not self.box_convs:
            raise ValueError(
                f"box_norm {self.box_norm} needs convolutions in the box heads: set box_convs, for example to 4"
            )
        return self

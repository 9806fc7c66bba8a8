"""The box and mask heads, stage by stage."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from htc.config.mask_head import MaskHeadVariant, PlainMask
from htc.config.neck import LayerNorm
from htc.config.proposals import BoxLoss
from htc.config.section import Fraction, Positive, Quad, Section

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

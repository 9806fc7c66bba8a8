"""What answers a region with a mask: the variants of M_t."""

from typing import Annotated, Literal

from pydantic import Field

from htc.config.section import Positive, Section


class PlainMask(Section):
    """3x3 convolutions, a 2x2 deconvolution and a prediction: masks of 28 x 28 (Mask R-CNN, Cascade, HTC)."""

    kind: Literal["plain"] = "plain"


class FusionMask(Section):
    """PANet's fully-connected fusion: beside the convolutions a branch that sees the whole region and says object or
    not.
    """

    kind: Literal["fusion"] = "fusion"


class FineMask(Section):
    """Masks of 56 x 56 that also see the picture: a second deconvolution, joined with a shallow full-resolution
    feature of the region.
    """

    kind: Literal["fine"] = "fine"
    detail_channels: Positive = 16
    """Channels of the full-resolution feature."""


class NoMask(Section):
    """Boxes alone, for data without masks: no mask head is built, and detections have no masks."""

    kind: Literal["none"] = "none"


MaskHeadVariant = Annotated[PlainMask | FusionMask | FineMask | NoMask, Field(discriminator="kind")]

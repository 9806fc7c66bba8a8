"""Backbones: C2-C5 from a picture."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from htc.config.section import Positive, Section

BackboneNorm = Literal["statistics_fixed", "frozen", "batch", "sync", "group"]


class ResNet(Section):
    """ResNet or ResNeXt, "pytorch" style (the stride is in the 3x3 convolution), features C2-C5 of strides 4-32.

    `norm`: `statistics_fixed` trains the affine and keeps the running statistics (the original); `frozen` trains neither.
    `frozen_stages`: 1 freezes the stem and layer1 (the original), 0 the stem alone, -1 nothing.
    """

    kind: Literal["resnet"] = "resnet"
    depth: Literal[18, 34, 50, 101, 152] = 50
    groups: Positive = 1
    base_width: Positive = 64
    norm: BackboneNorm = "statistics_fixed"
    frozen_stages: Annotated[int, Field(ge=-1, le=4)] = 1
    deformable: Literal["none", "v1", "v2"] = "none"
    deformable_stages: tuple[Annotated[int, Field(ge=2, le=5)], ...] = ()

    @model_validator(mode="after")
    def _deformable_says_where(self) -> Self:
        if (self.deformable != "none") != bool(self.deformable_stages):
            raise ValueError("deformable and deformable_stages go together: for example deformable: v1, deformable_stages: [3, 4, 5]")
        if self.deformable != "none" and self.depth < 50:
            raise ValueError("deformable convolution needs bottleneck blocks: depth 50 or more")
        if self.depth < 50 and (self.groups != 1 or self.base_width != 64):
            raise ValueError("groups and base_width need bottleneck blocks: depth 50 or more")
        return self

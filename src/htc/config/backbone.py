"""Configuration of the backbones, which compute C2-C5 from an image."""

from collections.abc import Mapping
from typing import Annotated, ClassVar, Literal, Self

from pydantic import Field, model_validator

from htc.config.base import Fraction, Positive, Section

BackboneNorm = Literal["statistics_fixed", "frozen", "batch", "sync", "group"]
Pretrained = bool | str
"""Initial weights for training: false: none; true: timm's weights for this network; else another timm name or a
file.
"""
StageCount = Annotated[int, Field(ge=-1, le=4)]
Deformable = Literal["none", "v1", "v2"]
Switchable = Literal["none", "plain", "deformable"]
DeformableStages = tuple[Annotated[int, Field(ge=2, le=5)], ...]


def _check_deformable(kind: Deformable, stages: DeformableStages) -> None:
    if (kind != "none") != bool(stages):
        raise ValueError(
            "deformable and deformable_stages must be set together, as in deformable: v1, deformable_stages: [3, 4, 5]"
        )


def _check_switchable(kind: Switchable, stages: DeformableStages, deformable: DeformableStages) -> None:
    if (kind != "none") != bool(stages):
        raise ValueError(
            "switchable and switchable_stages must be set together, as in switchable: deformable, switchable_stages: "
            "[3, 4, 5]"
        )
    if set(stages) & set(deformable):
        raise ValueError(
            "a stage is in both switchable_stages and deformable_stages: to combine them, set switchable: deformable "
            "and remove deformable"
        )


def _check_pretrained(norm: BackboneNorm, pretrained: Pretrained) -> None:
    if norm == "group" and pretrained:
        raise ValueError(
            "norm group cannot use ImageNet weights, which have BatchNorm: with pretrained, set norm to "
            "statistics_fixed, frozen, batch or sync"
        )


class ResNet(Section):
    """ResNet or ResNeXt with feature maps C2-C5 of strides 4-32.

    `norm`: `statistics_fixed` trains the affine parameters and keeps the running statistics (as in mmdetection);
    `frozen` trains neither. `frozen_stages`: 1 freezes the stem and layer1 (as in mmdetection), 0 the stem only, -1
    nothing.
    """

    renamed_fields: ClassVar[Mapping[str, str]] = {"standardised": "standardized"}
    kind: Literal["resnet"] = "resnet"
    depth: Literal[18, 34, 50, 101, 152] = 50
    """Number of layers."""
    groups: Positive = 1
    """Groups of the 3x3 convolutions; 32 or 64 for ResNeXt."""
    base_width: Positive = 64
    """Width of each group in the first stage."""
    norm: BackboneNorm = "statistics_fixed"
    """Norm of the backbone; see above."""
    frozen_stages: StageCount = 1
    """Stages that are not trained; see above."""
    stride_in: Literal["3x3", "1x1"] = "3x3"
    """Convolution in each stage's first block that has the stride; 1x1 is the older "caffe" or MSRA style of
    detectron2's weights.
    """
    deformable: Deformable = "none"
    """Deformable 3x3 convolutions in `deformable_stages`: none, v1 (Dai et al. 2017) or v2 (modulated, Zhu et al.
    2019).
    """
    deformable_stages: DeformableStages = ()
    """Feature maps (2-5) whose layers use deformable 3x3 convolutions."""
    switchable: Switchable = "none"
    """Switchable atrous convolution (Qiao et al. 2020) in `switchable_stages`, made of plain or deformable
    convolutions.
    """
    switchable_stages: DeformableStages = ()
    """Feature maps (2-5) whose layers use switchable convolutions."""
    standardized: bool = False
    """Adaptive weight standardization of every convolution except the deformable ones, as in DetectoRS."""
    pretrained: Pretrained = False
    """Initial weights for training: false for none, true for timm's weights of this network, another timm name, or a
    file.
    """

    @model_validator(mode="after")
    def _options_fit(self) -> Self:
        _check_deformable(self.deformable, self.deformable_stages)
        _check_switchable(self.switchable, self.switchable_stages, self.deformable_stages)
        if self.stride_in == "1x1" and self.depth < 50:
            raise ValueError("stride_in 1x1 needs bottleneck blocks: depth 50 or more")
        if self.deformable != "none" and self.depth < 50:
            raise ValueError("deformable convolution needs bottleneck blocks: depth 50 or more")
        _check_pretrained(self.norm, self.pretrained)
        if self.depth < 50 and (self.groups != 1 or self.base_width != 64):
            raise ValueError("groups and base_width need bottleneck blocks: depth 50 or more")
        return self


class Timm(Section):
    """Any timm network with feature maps of strides 4, 8, 16 and 32: `legacy_senet154`, `dpn107`, `swin_*`,
    `convnext_*`, ...

    `norm` replaces the network's batch norms (networks without any, such as Swin and ConvNeXt, ignore it).
    `frozen_stages`: 1 freezes all layers up to C2, stem included, 2 also those up to C3, and so on; -1 nothing.
    """

    kind: Literal["timm"] = "timm"
    name: str
    """Name of the network in timm."""
    norm: Literal["statistics_fixed", "frozen", "batch", "sync"] = "statistics_fixed"
    """Norm that replaces the network's batch norms; see above."""
    frozen_stages: Literal[-1, 1, 2, 3, 4] = -1
    """Stages that are not trained; see above."""
    output_norm: Literal["none", "layer"] = "none"
    """A LayerNorm on each feature map, as in the detectors of Swin's and ConvNeXt's authors (Liu et al. 2021, 2022)."""
    drop_path_rate: Fraction = 0.0
    """Stochastic depth: maximum rate of dropped residual branches in training; the rate grows with depth."""
    deformable: Deformable = "none"
    """Deformable 3x3 convolutions in `deformable_stages`: none, v1 or v2."""
    deformable_stages: DeformableStages = ()
    """Feature maps (2-5) whose layers use deformable 3x3 convolutions."""
    pretrained: Pretrained = False
    """Initial weights for training: false for none, true for timm's weights of this network, another timm name, or a
    file.
    """

    @model_validator(mode="after")
    def _options_fit(self) -> Self:
        _check_deformable(self.deformable, self.deformable_stages)
        return self


class FishNet(Section):
    """FishNet (Sun et al. 2018, arXiv 1901.03495): tail, body and head; C2 is the last feature of the body, C3-C5 are
    the head's.
    """

    kind: Literal["fishnet"] = "fishnet"
    depth: Literal[99, 150] = 150
    """Number of layers."""
    norm: BackboneNorm = "statistics_fixed"
    """Norm of the backbone, as in `ResNet`."""
    pretrained: str | Literal[False] = False
    """A weights file with the authors' parameter names or this library's; timm has no weights of it."""

    @model_validator(mode="after")
    def _pretrained_fits(self) -> Self:
        _check_pretrained(self.norm, self.pretrained)
        return self


class ViT(Section):
    """Plain vision transformer from timm with 16-pixel patches and a simple pyramid on its last feature (Li et al.
    2022, ViTDet).
    """

    kind: Literal["vit"] = "vit"
    name: str = "vit_base_patch16_224"
    """Name of the network in timm."""
    drop_path_rate: Fraction = 0.0
    """Stochastic depth: maximum rate of dropped residual branches in training."""
    pretrained: Pretrained = False
    """Initial weights for training: false for none, true for timm's weights of this network, another timm name, or a
    file.
    """


class CustomBackbone(Section):
    """A user's module, passed in addition to the configuration: `htc.Detector(config, backbone=module)`.

    Its code is not part of the configuration. `name` is its module and class, used in messages; `channels` are those of
    C2-C5. `htc.Detector` sets both.
    """

    kind: Literal["custom"] = "custom"
    name: str
    """Module and class of the user's backbone, for messages."""
    channels: tuple[Positive, Positive, Positive, Positive]
    """Channels of C2-C5."""
    pretrained: Literal[False] = False
    """The module initializes its own weights."""


Backbone = Annotated[ResNet | Timm | FishNet | ViT | CustomBackbone, Field(discriminator="kind")]

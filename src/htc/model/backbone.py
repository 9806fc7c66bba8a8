"""The backbone that the configuration names; ResNet and ResNeXt by timm, with deformable convolution where it is asked for."""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torchvision.ops import deform_conv2d

from htc.config import Backbone, BackboneNorm, FishNet, ResNet, Timm, ViT
from htc.model.fishnet import FishFeatures
from htc.model.layers import freeze_norms, norm
from htc.model.plain_vit import PlainViT
from htc.model.timm_features import TimmFeatures, create

C2_TO_C5 = (1, 2, 3, 4)


class DeformableConv2d(nn.Conv2d):
    """A 3x3 convolution that samples where `conv_offset` says (Dai et al. 2017; modulated: Zhu et al. 2019).

    Plain: 18 channels, (dy, dx) of the nine taps. Modulated: 27, the last nine the logits of each tap's weight. One offset group.
    """

    def __init__(self, plain: nn.Conv2d, *, modulated: bool) -> None:
        super().__init__(plain.in_channels, plain.out_channels, 3, plain.stride, plain.padding, plain.dilation, plain.groups, bias=False)  # type: ignore[arg-type]
        self.conv_offset = nn.Conv2d(plain.in_channels, 27 if modulated else 18, 3, plain.stride, plain.padding, plain.dilation)  # type: ignore[arg-type]
        nn.init.zeros_(self.conv_offset.weight)
        assert self.conv_offset.bias is not None
        nn.init.zeros_(self.conv_offset.bias)

    def forward(self, x: Tensor) -> Tensor:  # type: ignore[override]
        """(N, C, H, W) -> (N, C', H', W')"""
        said = self.conv_offset(x)
        offset, logits = said[:, :18], said[:, 18:]
        weight = logits.sigmoid() if logits.shape[1] else None
        dtype = torch.float32 if x.dtype == torch.bfloat16 else x.dtype  # torchvision has no kernel for bfloat16
        parts = [None if part is None else part.to(dtype) for part in (x, offset, self.weight, self.bias)]
        arguments: dict[str, Any] = {"stride": self.stride, "padding": self.padding, "dilation": self.dilation}
        return deform_conv2d(*parts, **arguments, mask=None if weight is None else weight.to(dtype)).to(x.dtype)  # type: ignore[arg-type]


def build_backbone(config: Backbone, weights: Mapping[str, Tensor] | None = None) -> nn.Module:
    """A module (B, 3, H, W) -> [C2, C3, C4, C5] of strides 4, 8, 16, 32.

    `weights` are a classifier's under timm's names (`htc.checkpoint.imagenet` finds them); what has no place in it stays as it is.
    Raises `ConfigError` for names that timm does not have or that cannot be a backbone.
    """
    match config:
        case ResNet():
            return build_resnet(config, weights)
        case Timm():
            return TimmFeatures(config, weights)
        case ViT():
            return PlainViT(config, weights)
        case FishNet():
            return FishFeatures(config)


def build_resnet(config: ResNet, weights: Mapping[str, Tensor] | None = None) -> nn.Module:
    """Parameter names are torchvision's: conv1, bn1, layer1.0.conv1, ..."""
    widths: dict[str, Any] = {"cardinality": config.groups, "base_width": config.base_width} if config.depth >= 50 else {}
    backbone = create(
        f"resnet{config.depth}",
        weights,
        features_only=True,
        out_indices=C2_TO_C5,
        norm_layer=partial(_norm, kind=config.norm),
        zero_init_last=False,
        **widths,
    )
    for stage in config.deformable_stages:
        for block in backbone[f"layer{stage - 1}"]:  # type: ignore[index]
            block.conv2 = DeformableConv2d(block.conv2, modulated=config.deformable == "v2")
    freeze(backbone, config.frozen_stages)
    return backbone


def _norm(channels: int, *, kind: BackboneNorm, **_placement: Any) -> nn.Module:
    """timm also passes device and dtype; ours follow torch's defaults."""
    return norm(kind, channels)


def freeze(backbone: nn.Module, stages: int) -> None:
    """Stop training the stem (stages >= 0) and the first `stages` layers, their norms and running statistics included."""
    frozen = [] if stages < 0 else ["conv1", "bn1", *(f"layer{i}" for i in range(1, stages + 1))]
    for name in frozen:
        backbone[name] = freeze_norms(backbone[name]).requires_grad_(False)  # type: ignore[index, operator]


def channels(backbone: nn.Module) -> Sequence[int]:
    """Channels of C2-C5."""
    if isinstance(backbone, TimmFeatures | PlainViT | FishFeatures):
        return backbone.channels
    return backbone.feature_info.channels()  # type: ignore[union-attr, operator]

"""Build the backbone that the configuration selects; ResNet and ResNeXt come from timm, optionally with deformable or
switchable convolutions.
"""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from torch import Tensor, nn

from htc.config import Backbone, BackboneNorm, Config, CustomBackbone, FishNet, ResNet, Timm, ViT
from htc.errors import ConfigError
from htc.model.backbones.custom import CustomFeatures, with_custom
from htc.model.backbones.fishnet import FishFeatures
from htc.model.backbones.timm_features import TimmFeatures, create
from htc.model.backbones.vit import PlainViT
from htc.model.norms import freeze_norms, norm
from htc.model.variants.deformable import make_deformable
from htc.model.variants.switchable import make_switchable, standardize

C2_TO_C5 = (1, 2, 3, 4)


def select_backbone(config: Config, module: nn.Module | None) -> tuple[Config, nn.Module]:
    """Return the user's `module` with a configuration that records it, or the backbone of the configuration if `module`
    is None.

    Raises `ConfigError` if `module` cannot be a backbone, or if the configuration requires one and it is missing.
    """
    return (config, build_backbone(config.backbone)) if module is None else with_custom(config, module)


def build_backbone(config: Backbone, weights: Mapping[str, Tensor] | None = None) -> nn.Module:
    """Build a module (B, 3, H, W) -> [C2, C3, C4, C5] of strides 4, 8, 16, 32.

    `weights` are a classifier's, under timm's names (`htc.checkpoint.formats.imagenet` reads them); parameters that are
    missing in it keep their initial values. Raises `ConfigError` for names that timm does not have or that cannot be a
    backbone.
    """
    match config:
        case ResNet():
            return build_resnet(config, weights)
        case Timm():
            return TimmFeatures(config, weights)
        case ViT():
            return PlainViT(config, weights)
        case FishNet():
            fish = FishFeatures(config)
            if weights is not None:
                fish.load_state_dict(dict(weights))
            return fish
        case CustomBackbone():
            raise ConfigError(
                f"backbone.kind is custom: the code of {config.name} is not part of the configuration. Pass it: "
                f"htc.load(folder, backbone=MyBackbone()) or htc.Detector(config, backbone=MyBackbone())"
            )


def build_resnet(config: ResNet, weights: Mapping[str, Tensor] | None = None) -> nn.Module:
    """Build a ResNet or ResNeXt with torchvision's parameter names: conv1, bn1, layer1.0.conv1, ..."""
    widths: dict[str, Any] = (
        {"cardinality": config.groups, "base_width": config.base_width} if config.depth >= 50 else {}
    )
    backbone = create(
        f"resnet{config.depth}",
        weights,
        features_only=True,
        out_indices=C2_TO_C5,
        norm_layer=partial(_norm, kind=config.norm),
        zero_init_last=False,
        **widths,
    )
    if config.stride_in == "1x1":
        stride_first(backbone)
    if config.standardized:
        standardize(backbone)
    for stage in config.deformable_stages:
        for block in backbone[f"layer{stage - 1}"]:  # type: ignore[index]
            assert config.deformable != "none"
            make_deformable(block, config.deformable, keep_weights=weights is not None)
    for stage in config.switchable_stages:
        for block in backbone[f"layer{stage - 1}"]:  # type: ignore[index]
            make_switchable(block, deformable=config.switchable == "deformable")
    freeze(backbone, config.frozen_stages)
    return backbone


def stride_first(backbone: nn.Module) -> None:
    """Move the stride of each stage from the 3x3 convolution of its first block to the 1x1 convolution before it."""
    for layer in ("layer2", "layer3", "layer4"):
        block = backbone[layer][0]  # type: ignore[index]
        block.conv1.stride, block.conv2.stride = block.conv2.stride, block.conv1.stride


def _norm(channels: int, *, kind: BackboneNorm, **_placement: Any) -> nn.Module:
    """Build a norm of `kind`. timm also passes device and dtype, which are ignored: torch's defaults apply."""
    return norm(kind, channels)


def freeze(backbone: nn.Module, stages: int) -> None:
    """Freeze the stem (stages >= 0) and the first `stages` layers, including the running statistics of their norms."""
    frozen = [] if stages < 0 else ["conv1", "bn1", *(f"layer{i}" for i in range(1, stages + 1))]
    for name in frozen:
        backbone[name] = freeze_norms(backbone[name]).requires_grad_(False)  # type: ignore[index, operator]


def channels(backbone: nn.Module) -> Sequence[int]:
    """Channels of C2-C5."""
    if isinstance(backbone, TimmFeatures | PlainViT | FishFeatures | CustomFeatures):
        return backbone.channels
    return backbone.feature_info.channels()  # type: ignore[union-attr, operator]

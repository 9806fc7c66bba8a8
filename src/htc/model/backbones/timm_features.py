"""timm networks as backbones: four feature maps of strides 4 to 32 for any image size."""

from collections.abc import Iterator, Mapping
from functools import cache
from typing import Any, Literal

import timm
import torch
from timm.layers import BatchNormAct2d  # pyright: ignore[reportPrivateImportUsage]
from torch import Tensor, nn

from htc.config import Timm
from htc.errors import ConfigError
from htc.model.backbones.swin import pad_before_shift
from htc.model.norms import freeze_norms, norm
from htc.model.variants.deformable import make_deformable

BACKBONE_STRIDES = (4, 8, 16, 32)
_ANY_SIZE: dict[str, dict[str, Any]] = {
    # windows are always whole and shifted for any image size, since the bias tables support whole windows only;
    # WindowBlock pads the maps
    "timm.models.swin_transformer": {"strict_img_size": False, "always_partition": True},
    "timm.models.swin_transformer_v2": {"strict_img_size": False, "always_partition": True},
}

NormKind = Literal["statistics_fixed", "frozen", "batch", "sync"]


class TimmFeatures(nn.Module):
    """C2-C5 of a timm network, always (N, C, H, W); `weights` are a classifier's, under timm's names.

    Raises `ConfigError` for a name that timm does not have, and for networks without maps of strides 4, 8, 16 and 32.
    """

    def __init__(self, config: Timm, weights: Mapping[str, Tensor] | None = None) -> None:
        super().__init__()
        indices = map_indices(config.name)
        extra = {"drop_path_rate": config.drop_path_rate} if config.drop_path_rate else {}
        self.body: nn.Module = create(
            config.name, weights, features_only=True, out_indices=indices, **_size_options(config.name), **extra
        )
        info: Any = self.body.feature_info
        self.channels = tuple(info.channels())
        self.channels_last = getattr(self.body, "output_fmt", None) == "NHWC"
        pad_before_shift(self.body)
        convert_norms(self.body, config.norm)
        if config.deformable != "none":
            _deform(_parts(self.body, config.name, "deformable_stages"), config, keep_weights=weights is not None)
        if config.frozen_stages > 0:
            _freeze(self.body, _parts(self.body, config.name, "frozen_stages"), config.frozen_stages)
        self.norms = nn.ModuleList(nn.LayerNorm(c) for c in self.channels if config.output_norm == "layer")

    def forward(self, x: Tensor) -> list[Tensor]:
        """(N, 3, H, W) -> [C2, C3, C4, C5]."""
        maps = self.body(x)
        if self.norms:
            rows = (m if self.channels_last else m.permute(0, 2, 3, 1) for m in maps)
            return [layer(m).permute(0, 3, 1, 2) for layer, m in zip(self.norms, rows, strict=True)]
        return [m.permute(0, 3, 1, 2) for m in maps] if self.channels_last else list(maps)


def create(name: str, weights: Mapping[str, Tensor] | None, **options: Any) -> nn.Module:
    """Call `timm.create_model`, with `weights` under timm's names if given (timm resizes position embeddings and drops
    the classifier).
    """
    if weights is not None:
        source = {"state_dict": dict(weights), "custom_load": False, "hf_hub_id": None, "url": "", "file": None}
        options |= {"pretrained": True, "pretrained_cfg_overlay": source}
    try:
        return timm.create_model(name, **options)
    except TypeError as error:
        raise ConfigError(f"backbone.name {name}: timm does not build it this way: {error}") from error


def check_name(name: str) -> None:
    """Raise `ConfigError` with the nearest names if timm has no such network."""
    if not timm.is_model(name):
        near = timm.list_models(f"*{name.split('_')[0].split('.')[0]}*")[:4]
        hint = f": did you mean {', '.join(near)}?" if near else "; `timm.list_models()` lists all names"
        raise ConfigError(f"backbone.name {name}: timm has no network of that name{hint}")
    network, _, tag = name.partition(".")
    known = timm.list_pretrained(f"{network}.*")
    if tag and name not in known:
        raise ConfigError(
            f"backbone.name {name}: timm has {network}, but no weights of that tag; use {', '.join(known) or 'no tag'}"
        )


@cache
def map_indices(name: str) -> tuple[int, ...]:
    """Indices of a network's feature maps of strides 4, 8, 16 and 32."""
    check_name(name)
    with torch.device("meta"):
        try:
            info: Any = timm.create_model(name, features_only=True).feature_info
        except (RuntimeError, AttributeError, AssertionError) as error:
            raise ConfigError(f"backbone.name {name}: timm cannot return its feature maps ({error})") from error
    strides = tuple(info.reduction())
    if any(stride not in strides for stride in BACKBONE_STRIDES):
        raise ConfigError(
            f"backbone.name {name}: its maps have strides {strides}, not 4, 8, 16 and 32; for a plain vision "
            f"transformer, use backbone.kind vit"
        )
    chosen = tuple(len(strides) - 1 - strides[::-1].index(stride) for stride in BACKBONE_STRIDES)
    return tuple(info.out_indices[i] for i in chosen)


def _size_options(name: str) -> dict[str, Any]:
    """Options that let the network accept images of any size; raises `ConfigError` if it accepts one size only."""
    module = timm.models.model_entrypoint(name.split(".")[0]).__module__
    if module in _ANY_SIZE:
        return _ANY_SIZE[module]
    described = timm.models.get_pretrained_cfg(name)
    if described is not None and described.fixed_input_size:
        raise ConfigError(
            f"backbone.name {name}: accepts images of {described.input_size} only; use a convolutional network, "
            f"swin_* or convnext_*"
        )
    return {}


def convert_norms(module: nn.Module, kind: NormKind) -> None:
    """Replace every BatchNorm of a network with one of `kind`, with the same weights and statistics; an activation
    inside it becomes a separate layer.
    """
    for name, child in list(module.named_children()):
        if isinstance(child, nn.BatchNorm2d):
            setattr(module, name, _converted(child, kind))
        else:
            convert_norms(child, kind)


def _converted(old: nn.BatchNorm2d, kind: NormKind) -> nn.Module:
    new = norm(kind, old.num_features)
    assert isinstance(new, nn.BatchNorm2d | nn.SyncBatchNorm)
    new.eps, new.momentum = old.eps, old.momentum
    new.load_state_dict(old.state_dict())
    return (
        NormThen(new, old.get_submodule("drop"), old.get_submodule("act")) if isinstance(old, BatchNormAct2d) else new
    )


class NormThen(nn.Module):
    """timm's norm with a built-in activation, split so that the norm can be of any kind."""

    def __init__(self, layer: nn.Module, drop: nn.Module, act: nn.Module) -> None:
        super().__init__()
        self.norm, self.drop, self.act = layer, drop, act

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, C, H, W)."""
        return self.act(self.drop(self.norm(x)))


def _parts(body: nn.Module, name: str, setting: str) -> list[tuple[int, str, nn.Module]]:
    """(first feature map it contributes to, name, module) of each part, in order; 2 is C2, stem included."""
    returned = getattr(body, "return_layers", None)
    if returned is None or not isinstance(body, nn.ModuleDict):
        raise ConfigError(f"backbone.{setting}: timm cannot split {name} into stages; remove this setting")
    parts, served = [], 2
    for part, module in body.items():
        parts.append((served, part, module))
        served += part in returned
    return parts


def _blocks(part: nn.Module) -> Iterator[nn.Module]:
    """Modules of a part that directly contain a 3x3 convolution."""
    for module in part.modules():
        if not isinstance(module, nn.Sequential) and any(
            isinstance(child, nn.Conv2d) and child.kernel_size == (3, 3) for child in module.children()
        ):
            yield module


def _deform(parts: list[tuple[int, str, nn.Module]], config: Timm, *, keep_weights: bool) -> None:
    """Make the convolutions of the configured stages deformable; raises `ConfigError` if there are none."""
    assert config.deformable != "none"
    for stage in config.deformable_stages:
        blocks = [block for map_, _, part in parts if map_ == stage for block in list(_blocks(part))]
        if not sum(make_deformable(block, config.deformable, keep_weights=keep_weights) for block in blocks):
            raise ConfigError(
                f"backbone.deformable_stages {stage}: {config.name} has no 3x3 convolution in this stage that could "
                f"be deformable"
            )


def _freeze(body: nn.Module, parts: list[tuple[int, str, nn.Module]], stages: int) -> None:
    """Freeze the parts that the first `stages` maps are computed by, including their norms."""
    for map_, name, part in parts:
        if map_ <= stages + 1:
            setattr(body, name, freeze_norms(part).requires_grad_(False))

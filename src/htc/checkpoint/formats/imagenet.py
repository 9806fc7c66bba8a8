"""ImageNet weights for a backbone: from a file, or by timm's name from the cache or the network.

They are used only at the start of a training. Files of FishNet's authors (github.com/kevin-ssy/FishNet) have other
names, which `our_names` maps to ours.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import timm
import torch
from huggingface_hub import hf_hub_download
from torch import Tensor, nn

from htc.checkpoint.download import FetchError, download, offline
from htc.checkpoint.fit import require_finite
from htc.checkpoint.native import is_safetensors, read_safetensors
from htc.checkpoint.prefixes import without_common_prefix
from htc.checkpoint.safe_pickle.torch_file import open_torch_file
from htc.checkpoint.safe_pickle.values import TensorReference
from htc.config import Backbone, FishNet, ResNet
from htc.errors import CheckpointError, ConfigError
from htc.files import cache_folder
from htc.model.backbone import build_backbone
from htc.model.backbones.timm_features import check_name

_STEM = {1: (0, 1), 2: (3, 4), 3: (6, 7)}
"""Stem convolution in the file -> index of our convolution and of its norm."""
_NORM = re.compile(r"\.bn([123])\.")
_BODY = re.compile(r"fish\.fish\.(\d)\.(\d)\.(.+)")


def our_names(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename weights to our names; our names are kept, and those of the classifier are dropped."""
    named = {(_ours(name) if name.startswith(("fish.", "conv")) else name): tensor for name, tensor in weights.items()}
    return {name: tensor for name, tensor in named.items() if name is not None}


def _ours(name: str) -> str | None:
    stem = re.fullmatch(r"conv([123])\.([01])\.(\w+)", name)
    if stem:
        return f"stem.{_STEM[int(stem[1])][int(stem[2])]}.{stem[3]}"
    body = _BODY.fullmatch(_NORM.sub(r".norm\1.", name))
    if body is None:
        return None
    stage, part, rest = int(body[1]), int(body[2]), body[3]
    if stage < 3:
        return f"tail.{stage}.{rest}"
    if stage == 3:
        return {
            0: f"neck.widen.{rest}",
            1: f"neck.widen.5.{rest}",
            2: f"neck.blocks.{rest}",
            3: f"neck.attention.{rest.removeprefix('0.')}",
        }[part]
    if part > 1:
        return None
    if part == 1:
        return f"transfers.{stage - 4}.{rest}"
    return f"body.{stage - 4}.{rest}" if stage < 7 else f"head.{stage - 7}.{rest}"


RESNETS = {
    (18, 1, 64): "resnet18.tv_in1k",
    (34, 1, 64): "resnet34.tv_in1k",
    (50, 1, 64): "resnet50.tv_in1k",
    (101, 1, 64): "resnet101.tv_in1k",
    (152, 1, 64): "resnet152.tv_in1k",
    (50, 32, 4): "resnext50_32x4d.tv_in1k",
    (101, 32, 4): "resnext101_32x4d.gluon_in1k",
    (101, 32, 8): "resnext101_32x8d.tv_in1k",
    (101, 64, 4): "resnext101_64x4d.tv_in1k",
}
"""(depth, groups, base_width) -> timm's name: torchvision's weights if they exist, as in mmdetection."""
Triple = tuple[float, float, float]
_CLASSIFIER = 4
"""Maximum number of weights of a classifier that its backbone does not have."""
_SEED = 1901_07518
"""Seed of the two networks that are compared to see what the weights filled. It is used nowhere else, since weights
drawn from the same seed would look unfilled.
"""
_OURS = re.compile(r"^(up4|up8|norms)\.|\.(conv_offset|switch|before|after|offsets|standard)\.|\.difference$")
"""Parts of a backbone that classifiers do not have."""


def start_from_imagenet(backbone: nn.Module, config: Backbone) -> str | None:
    """Copy the weights of `config.pretrained` into `backbone`; return their name or file, or None without any.

    Raises `ConfigError` if timm has no weights for this network, `FetchError` if they cannot be downloaded, and
    `CheckpointError` if they belong to another network.
    """
    if not config.pretrained:
        return None
    name = source_of(config)
    weights = read_classifier(Path(name)) if Path(name).is_file() else read_classifier(fetch_from_timm(name))
    state = _loaded(config, weights, name)
    backbone.load_state_dict(state, strict=False)
    return name


def source_of(config: Backbone) -> str:
    """Return the file or the timm name of the configured weights."""
    if isinstance(config.pretrained, str):
        if Path(config.pretrained).is_file():
            return config.pretrained
        if isinstance(config, FishNet) or not timm.is_model(config.pretrained):
            raise ConfigError(
                f"backbone.pretrained {config.pretrained}: no such file"
                + ("" if isinstance(config, FishNet) else ", and not the name of a timm network")
            )
        return config.pretrained
    if isinstance(config, ResNet):
        shape = (config.depth, config.groups, config.base_width)
        if shape not in RESNETS:
            raise ConfigError(
                f"backbone.pretrained: there are no ImageNet weights for depth, groups, base_width {shape}; set it to "
                f"a file or to false"
            )
        return RESNETS[shape]
    assert not isinstance(config, FishNet)
    return config.name


def expected_normalization(config: Backbone) -> tuple[Triple, Triple] | None:
    """Return the mean and standard deviation (RGB, 0-255) with which the configured weights were trained.

    None without weights, and for a file, which does not record them. Raises `ConfigError` as `source_of` does.
    """
    name = source_of(config) if config.pretrained else ""
    described = timm.models.get_pretrained_cfg(name) if name and not Path(name).is_file() else None
    if described is None:
        return None
    (red, green, blue), (of_red, of_green, of_blue) = described.mean, described.std
    return (255 * red, 255 * green, 255 * blue), (255 * of_red, 255 * of_green, 255 * of_blue)


def fetch_from_timm(name: str) -> Path:
    """Return the weights file of a timm name, from the cache of huggingface_hub or ours; download it if needed."""
    check_name(name)
    described = timm.models.get_pretrained_cfg(name)
    remedy = f"set backbone.pretrained to a file of {name} (.pth, .safetensors), or to false for random initial weights"
    if described is None or not (described.hf_hub_id or described.url):
        raise ConfigError(f"backbone.pretrained: timm has no weights named {name}; {remedy}")
    if not described.hf_hub_id:
        file = str(described.url).rsplit("/", 1)[1]
        digits = re.search(r"-([0-9a-f]{8,})\.", file)
        if digits is None:
            raise ConfigError(f"backbone.pretrained {name}: its URL has no checksum; {remedy}")
        target = cache_folder() / file
        if not target.exists() and offline():
            raise FetchError(
                f"backbone.pretrained {name}: offline, and not in the cache; download {described.url} to {target}, or "
                f"{remedy}"
            )
        return download(str(described.url), target, digits[1])
    file = described.hf_hub_filename or "model.safetensors"
    try:
        return Path(hf_hub_download(described.hf_hub_id, file, local_files_only=True))
    except OSError:
        if offline():
            raise FetchError(
                f"backbone.pretrained {name}: offline, and {described.hf_hub_id} is not in the cache of "
                f"huggingface_hub; {remedy}"
            ) from None
    try:
        return Path(hf_hub_download(described.hf_hub_id, file))
    except OSError as error:
        raise FetchError(
            f"backbone.pretrained {name}: {described.hf_hub_id} cannot be downloaded from the Hugging Face hub: "
            f"{error}; {remedy}"
        ) from error


def read_classifier(path: Path) -> dict[str, Tensor]:
    """Read the tensors of a classifier's file without executing anything in it; a `state_dict` or `model` in it is
    used, and prefixes that all names have are removed. Raises `CheckpointError`, also for values that are not finite.
    """
    tensors = _classifier_tensors(path)
    require_finite(str(path), tensors, {})
    return {name: tensors[theirs] for name, theirs in without_common_prefix(tensors).items()}


def _classifier_tensors(path: Path) -> dict[str, Tensor]:
    if is_safetensors(path):
        return read_safetensors(path)
    file = open_torch_file(path)
    content: Any = file.content
    for key in ("state_dict_ema", "state_dict", "model"):
        if isinstance(content, Mapping) and isinstance(content.get(key), Mapping):
            content = content[key]
    entries = content.items() if isinstance(content, Mapping) else ()
    named = {str(name): value for name, value in entries if isinstance(value, TensorReference)}
    if not named:
        raise CheckpointError(f"{path}: contains no named weights; pass the state_dict of a classifier")
    return file.tensors(named)


def _loaded(config: Backbone, weights: Mapping[str, Tensor], name: str) -> dict[str, Tensor]:
    """Return the tensors (by our names) that the weights filled. To find those that were not filled, two networks with
    the same seed are compared, of which one got the weights.
    """
    weights = our_names(weights) if isinstance(config, FishNet) else weights
    plain = _seeded(config, None, name)
    filled = _seeded(config, weights, name)
    same = {key for key, value in filled.items() if torch.equal(value, plain[key])}
    matrices = [key for key, value in filled.items() if value.ndim >= 2 and not _OURS.search(key)]
    missing = [key for key in matrices if key in same]
    if missing:
        raise CheckpointError(
            f"backbone.pretrained {name}: belongs to another network: {len(missing)} weights are missing, the first is "
            f"{missing[0]}"
        )
    more = sum(tensor.ndim >= 2 for tensor in weights.values()) - len(matrices)
    if more > _CLASSIFIER:
        raise CheckpointError(
            f"backbone.pretrained {name}: belongs to another network: it has {more} weights that the backbone does not "
            f"have"
        )
    return {key: value for key, value in filled.items() if key not in same}


def _seeded(config: Backbone, weights: Mapping[str, Tensor] | None, name: str) -> dict[str, Tensor]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(_SEED)
        try:
            return build_backbone(config, weights).state_dict()
        except (RuntimeError, KeyError) as error:
            if weights is None:
                raise
            raise CheckpointError(
                f"backbone.pretrained {name}: belongs to another network: {' '.join(str(error).split())[:300]}"
            ) from error

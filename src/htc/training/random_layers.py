"""Layers of a backbone that a training leaves as they were drawn: a fault where it starts from no weights."""

import torch

from htc.config import Backbone, FishNet, ResNet, ViT
from htc.model.backbone import build_backbone
from htc.model.layers import FixedBatchNorm2d


def kept_random(config: Backbone) -> str | None:
    """What stays random in a backbone that starts from no weights, and how to avoid it; None where all of it learns.

    Raises `ConfigError` for a network that cannot be built.
    """
    if isinstance(config, ViT):  # never frozen; position tables that do not learn are drawn by rule, not at random
        return None
    with torch.device("meta"):
        backbone = build_backbone(config)
    frozen = any(not parameter.requires_grad for parameter in backbone.parameters())
    fixed = any(isinstance(part, FixedBatchNorm2d) for part in backbone.modules())
    kept = ["frozen layers"] * frozen + ["fixed statistics of norms"] * fixed
    if not kept:
        return None
    return f"nothing to start from, and {' and '.join(kept)} of the backbone stay as drawn: give {_remedies(config)}"


def _remedies(config: Backbone) -> str:
    """Flags: weights for the backbone, weights for all, or a backbone that learns as a whole."""
    match config:
        case ResNet():
            return "--backbone.pretrained true, --weights NAME, or --backbone.norm group --backbone.frozen_stages -1"
        case FishNet():
            return "--backbone.pretrained FILE, --weights NAME, or --backbone.norm group"
        case _:
            return "--backbone.pretrained true, --weights NAME, or --backbone.norm batch --backbone.frozen_stages -1"

"""The typed configuration of a model and its training: frozen, and validated as a whole.

`whole` defines the root, and each part has a module: `backbone`, `model` (neck, proposals, heads), `inference`,
`training`; `base` has what they share, including `Section.replace`. Presets (`htc.presets`) are functions that return a
configuration; settings from files, environment and flags (`htc.settings`) override it before validation, so that all
errors are reported at once.
"""

from htc.config.backbone import Backbone, BackboneNorm, CustomBackbone, FishNet, ResNet, Timm, ViT
from htc.config.base import Precision, Section
from htc.config.inference import GaussianSoftNMS, Inference, Input, LinearSoftNMS, SoftNMS
from htc.config.model import (
    ASPP,
    FPN,
    GCN,
    PAFPN,
    PYRAMID_STRIDES,
    RPN,
    BoxLoss,
    Cascade,
    FineMask,
    Fusion,
    FusionMask,
    GuidedRPN,
    LayerNorm,
    NoContext,
    NoMask,
    PlainMask,
    Proposals,
    RecursiveFPN,
    Semantic,
)
from htc.config.training import SGD, AdamW, Augmentation, CopyPaste, Photometric, Sampling, ScaleJitter, Training
from htc.config.whole import Config

__all__ = [
    "ASPP",
    "FPN",
    "GCN",
    "PAFPN",
    "PYRAMID_STRIDES",
    "RPN",
    "SGD",
    "AdamW",
    "Augmentation",
    "Backbone",
    "BackboneNorm",
    "BoxLoss",
    "Cascade",
    "Config",
    "CopyPaste",
    "CustomBackbone",
    "FineMask",
    "FishNet",
    "Fusion",
    "FusionMask",
    "GaussianSoftNMS",
    "GuidedRPN",
    "Inference",
    "Input",
    "LayerNorm",
    "LinearSoftNMS",
    "NoContext",
    "NoMask",
    "Photometric",
    "PlainMask",
    "Precision",
    "Proposals",
    "RecursiveFPN",
    "ResNet",
    "Sampling",
    "ScaleJitter",
    "Section",
    "Semantic",
    "SoftNMS",
    "Timm",
    "Training",
    "ViT",
]

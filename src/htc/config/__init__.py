"""The typed configuration of a model and of its training: frozen and validated as a whole.

A configuration is a value. `whole` is its root, and each part has a module: `backbone`, `model` (neck, proposals,
heads), `inference`, `training`; `base` is what they share, `Section.replace` included. Presets (`htc.presets`) are
functions that return one; files, environment and flags (`htc.settings`) are laid over it before it is validated, so
that every error is found at once.
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

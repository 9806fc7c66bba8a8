"""The configuration of a model and of its training: frozen, typed, checked as a whole.

A configuration is a value. Presets (`htc.presets`) are functions that return one; files, environment and flags are laid
over it before it is validated, so that every error is found at once.
"""

from htc.config.augmentation import Augmentation, CopyPaste, Photometric, ScaleJitter
from htc.config.backbone import Backbone, BackboneNorm, FishNet, ResNet, Timm, ViT
from htc.config.cascade import Cascade, Fusion
from htc.config.context import ASPP, GCN, NoContext
from htc.config.inference import GaussianSoftNMS, Inference, LinearSoftNMS, SoftNMS
from htc.config.input import Input
from htc.config.mask_head import FineMask, FusionMask, NoMask, PlainMask
from htc.config.neck import FPN, PAFPN, LayerNorm, RecursiveFPN
from htc.config.proposals import RPN, BoxLoss, GuidedRPN, Proposals
from htc.config.sampling import Sampling
from htc.config.section import Section
from htc.config.semantic import Semantic
from htc.config.training import SGD, AdamW, Training
from htc.config.whole import Config

__all__ = [
    "ASPP",
    "FPN",
    "GCN",
    "PAFPN",
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

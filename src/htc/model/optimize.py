"""Preparation of a trained detector for inference: norms folded, precision and memory layout chosen."""

from copy import deepcopy
from itertools import pairwise

import torch
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_weights

from htc.config import Precision
from htc.model.backbones.custom import CustomFeatures
from htc.model.backbones.timm_features import TimmFeatures
from htc.model.detector import Detector
from htc.model.layers import use_pointwise
from htc.model.variants.deformable import DeformableConv2d
from htc.model.variants.switchable import StandardizedConv2d, SwitchableConv2d


def for_inference(detector: Detector, precision: Precision = "fp32") -> Detector:
    """Copy the detector for inference: evaluation mode, BatchNorms folded into their convolutions, 1x1 convolutions as
    matrix products, weights in `precision`, channels last.

    The detections are equal up to float32 rounding; the copy cannot be trained further. Box arithmetic stays float32 in
    either precision.
    """
    ready = deepcopy(detector).requires_grad_(False)
    for part in ready.children():
        if not isinstance(part, CustomFeatures):  # how a user's module applies its layers is unknown
            bake(part)
            fold_batch_norms(part)
            use_pointwise(part)
    return (
        ready.eval().to(torch.bfloat16 if precision == "bf16" else torch.float32).to(memory_format=torch.channels_last)
    )


def bake(module: nn.Module) -> None:
    """Standardize weights once instead of in every forward."""
    for name, child in list(module.named_children()):
        if isinstance(child, StandardizedConv2d | SwitchableConv2d):
            setattr(module, name, child.baked())
        else:
            bake(child)


def fold_batch_norms(module: nn.Module) -> None:
    """Fold every BatchNorm that directly follows a convolution in its parent into that convolution.

    Not inside networks of timm: their modules need not be listed in the order in which they run.
    """
    if isinstance(module, TimmFeatures):
        return
    for (_, conv), (name, norm) in pairwise(list(module.named_children())):
        if isinstance(conv, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d | nn.SyncBatchNorm):
            _fold(conv, norm)
            setattr(module, name, nn.Identity())
    for child in module.children():
        fold_batch_norms(child)


def _fold(conv: nn.Conv2d, norm: nn.BatchNorm2d | nn.SyncBatchNorm) -> None:
    assert norm.running_mean is not None
    assert norm.running_var is not None
    assert not isinstance(conv, DeformableConv2d) or conv.bias is None
    conv.weight, conv.bias = fuse_conv_bn_weights(
        conv.weight, conv.bias, norm.running_mean, norm.running_var, norm.eps, norm.weight, norm.bias
    )

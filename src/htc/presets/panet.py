"""PANet (Liu et al., "Path Aggregation Network for Instance Segmentation", CVPR 2018)."""

from collections.abc import Callable

from htc.config import PAFPN, Config, FusionMask
from htc.presets.coco import BACKBONES, mask_rcnn


def panet(name: str) -> Config:
    """Mask R-CNN with PANet's three parts: bottom-up path, adaptive feature pooling, fully-connected fusion of masks.

    Anchors, losses and schedule are those of `mask_rcnn_r50_fpn_1x_coco`, so that the two differ in these parts alone.
    The bottom-up path is the one of released PAFPN weights. No weights of this preset are published, and its frozen
    layers would stay random without ImageNet weights:
    `htc train --preset panet_r50_fpn_1x_coco --backbone.pretrained true`.
    """
    base = mask_rcnn(name, BACKBONES["r50"])
    cascade = base.cascade.model_copy(update={"pooled_levels": "all", "mask_head": FusionMask()})
    return base.model_copy(update={"neck": PAFPN(), "cascade": cascade})


PANET: dict[str, Callable[[], Config]] = {"panet_r50_fpn_1x_coco": lambda: panet("panet_r50_fpn_1x_coco")}

"""Small detectors, each with one or more of the newer parts."""

from htc.config import (
    ASPP,
    GCN,
    PAFPN,
    Config,
    FineMask,
    FishNet,
    FusionMask,
    GaussianSoftNMS,
    GuidedRPN,
    LinearSoftNMS,
    RecursiveFPN,
    ResNet,
    Timm,
    ViT,
)
from small_detector import CHANNELS, small_config


def guided(config: Config) -> Config:
    """With guided anchoring, as many proposals."""
    counts = {
        name: getattr(config.rpn, name)
        for name in ("candidates_per_level", "training_candidates_per_level", "proposals", "training_proposals")
    }
    return config.replace(rpn=GuidedRPN(anchor_scale=4.0, **counts))


PANET = {"pooled_levels": "all", "mask_head": FusionMask(), "mask_convs": 2}
PARTS = {
    "Swin": small_config(1, backbone=Timm(name="swin_tiny_patch4_window7_224", output_norm="layer")),
    "ConvNeXt": small_config(1, backbone=Timm(name="convnext_atto", output_norm="layer")),
    "RegNetY": small_config(1, backbone=Timm(name="regnety_002", norm="batch")),
    "FishNet": small_config(1, backbone=FishNet(depth=99)),
    "plain ViT": small_config(1, backbone=ViT(name="vit_tiny_patch16_224")),
    "recursive pyramid, switchable convolution, standardised weights": small_config(
        1,
        backbone=ResNet(depth=18, switchable="deformable", switchable_stages=(4, 5), standardized=True),
        neck=RecursiveFPN(channels=CHANNELS),
    ),
    "precise RoI pooling": small_config(1, cascade={"pooling": "precise"}),
    "panet, guided anchoring, GCN, Gaussian Soft-NMS": guided(
        small_config(
            1,
            semantic={"context": GCN()},
            neck=PAFPN(channels=CHANNELS),
            cascade=PANET,
            inference={"soft_nms": GaussianSoftNMS()},
        )
    ),
    "fine masks, ASPP, linear Soft-NMS": small_config(
        2,
        semantic={"context": ASPP(rates=(1, 2))},
        cascade={"mask_head": FineMask()},
        inference={"soft_nms": LinearSoftNMS()},
    ),
}

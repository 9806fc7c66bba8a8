"""Models beyond the paper: PANet, guided anchoring, DetectoRS, and HTC with transformer and ConvNeXt backbones
("HTC++").
"""

from collections.abc import Callable

from htc.config import (
    FPN,
    PAFPN,
    AdamW,
    Augmentation,
    Backbone,
    Config,
    CopyPaste,
    FusionMask,
    GuidedRPN,
    Inference,
    LinearSoftNMS,
    RecursiveFPN,
    ResNet,
    Timm,
    Training,
    ViT,
)
from htc.presets.coco import BACKBONES, TWENTY_EPOCHS, htc, mask_rcnn
from htc.presets.small import htc_r18_small


def panet(name: str) -> Config:
    """Mask R-CNN with PANet's three parts: bottom-up path, adaptive feature pooling, fully-connected fusion of masks.

    Anchors, losses and schedule are those of `mask_rcnn_r50_fpn_1x_coco`, so that the two differ in these parts only.
    The bottom-up path is that of the released PAFPN weights. There are no published weights of this preset, and its
    frozen layers would stay random without ImageNet weights: `htc train --preset panet_r50_fpn_1x_coco
    --backbone.pretrained true`.
    """
    cascade = {"pooled_levels": "all", "mask_head": FusionMask()}
    return mask_rcnn(name, BACKBONES["r50"]).replace(neck=PAFPN(), cascade=cascade)


PANET: dict[str, Callable[[], Config]] = {"panet_r50_fpn_1x_coco": lambda: panet("panet_r50_fpn_1x_coco")}


THREE_EPOCHS = Training(epochs=3, milestones=(1, 2))


def htc_ga_rpn(name: str, training: Training) -> Config:
    """HTC with proposals from guided anchoring, trained jointly with the other parts.

    The paper's step from 44.3 to 45.3 mask AP (Table 7, with SENet-154) fine-tuned a trained detector: that is the
    schedule of three epochs, `htc train --preset htc_r50_fpn_ga_rpn_finetune_3e --weights TRAINED_HTC`, where
    everything but the layers of guided anchoring starts from the given weights. The longer schedule needs ImageNet
    weights, or the frozen layers stay random: `htc train --preset htc_r50_fpn_ga_rpn_20e --backbone.pretrained true`.
    There is no published AP of these presets with ResNet-50, and they have not been trained on COCO with this library.
    """
    return htc(name, BACKBONES["r50"], training).replace(rpn=GuidedRPN())


def htc_r18_small_ga_rpn(name: str) -> Config:
    """`htc_r18_small` with guided anchoring; squares of the size of its anchors, the same number of proposals."""
    rpn = GuidedRPN(
        anchor_scale=4.0, candidates_per_level=500, training_candidates_per_level=500, training_proposals=1000
    )
    return htc_r18_small(name).replace(rpn=rpn)


GA_RPN: dict[str, Callable[[], Config]] = {
    "htc_r50_fpn_ga_rpn_20e": lambda: htc_ga_rpn("htc_r50_fpn_ga_rpn_20e", TWENTY_EPOCHS),
    "htc_r50_fpn_ga_rpn_finetune_3e": lambda: htc_ga_rpn("htc_r50_fpn_ga_rpn_finetune_3e", THREE_EPOCHS),
    "htc_r18_small_ga_rpn": lambda: htc_r18_small_ga_rpn("htc_r18_small_ga_rpn"),
}


def beyond(name: str, backbone: Backbone, *, layer_decay: float = 1.0) -> Config:
    """The full HTC with the given backbone and the training recipe of this module."""
    training = Training(
        epochs=72,
        milestones=(63, 69),
        warmup_steps=1000,
        clip_gradients=10.0,
        optimizer=AdamW(lr=1e-4, weight_decay=0.05, weight_decay_of="weights", layer_decay=layer_decay),
        augmentation=Augmentation(
            short_edges=(400, 1400), long_edge=1600, copy_paste=CopyPaste(probability=0.5, share=0.5)
        ),
    )
    return htc(name, backbone, training).replace(inference=Inference(soft_nms=LinearSoftNMS()))


def swin(size: str, drop_path_rate: float) -> Timm:
    """Swin with windows of 7, pretrained on ImageNet-22K, with the options for detection."""
    return Timm(
        name=f"swin_{size}_patch4_window7_224.ms_in22k",
        output_norm="layer",
        drop_path_rate=drop_path_rate,
        pretrained=True,
    )


BEYOND: dict[str, Callable[[], Config]] = {
    "htcpp_swin_b": lambda: beyond("htcpp_swin_b", swin("base", 0.2)),
    "htcpp_swin_l": lambda: beyond("htcpp_swin_l", swin("large", 0.2)),
    "htcpp_convnext_b": lambda: beyond(
        "htcpp_convnext_b",
        Timm(name="convnext_base.fb_in22k", output_norm="layer", drop_path_rate=0.4, pretrained=True),
        layer_decay=0.9,
    ),
    "htcpp_vit_b": lambda: beyond(
        "htcpp_vit_b", ViT(name="vit_base_patch16_224.mae", drop_path_rate=0.1, pretrained=True), layer_decay=0.7
    ),
}


def detectors(name: str, *, recursive: bool, switchable: bool) -> Config:
    """HTC R-50 with either or both parts of DetectoRS; 12 epochs, as in mmdetection, whose model zoo has weights of all
    three.

    `recursive`: recursive pyramid; `switchable`: switchable deformable convolutions in C3-C5 of each backbone. The
    weights of every convolution are standardized. Meant for 8 GPUs with two images each (13.6 GB), both backbones from
    ImageNet weights. These presets have not been trained to the end with this library yet.

        htc train --preset detectors_htc_r50_1x_coco --backbone.pretrained true --data coco --semantic stuffthingmaps
        --devices 8
    """
    options = {"switchable": "deformable", "switchable_stages": (3, 4, 5)} if switchable else {}
    backbone = ResNet(depth=50, standardized=True, **options)
    return htc(name, backbone, Training()).replace(neck=RecursiveFPN() if recursive else FPN())


DETECTORS: dict[str, Callable[[], Config]] = {
    "htc_r50_rfp_1x_coco": lambda: detectors("htc_r50_rfp_1x_coco", recursive=True, switchable=False),
    "htc_r50_sac_1x_coco": lambda: detectors("htc_r50_sac_1x_coco", recursive=False, switchable=True),
    "detectors_htc_r50_1x_coco": lambda: detectors("detectors_htc_r50_1x_coco", recursive=True, switchable=True),
}

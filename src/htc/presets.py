"""Named configurations. Names follow the original's, so that its released weights map one to one.

Each preset is a function that returns a whole `Config`; nothing inherits from anything.
"""

from collections.abc import Callable
from difflib import get_close_matches

from htc.coco_classes import COCO_CLASSES, COCO_IDS
from htc.config import FPN, RPN, AdamW, Augmentation, Cascade, Config, Inference, Input, ResNet, Semantic, Training
from htc.errors import ConfigError

TWENTY_EPOCHS = Training(epochs=20, milestones=(16, 19))
BACKBONES = {
    "r50": ResNet(depth=50),
    "r101": ResNet(depth=101),
    "x101_32x4d": ResNet(depth=101, groups=32, base_width=4),
    "x101_64x4d": ResNet(depth=101, groups=64, base_width=4),
}
X101_64X4D_DCONV = ResNet(depth=101, groups=64, base_width=4, deformable="v1", deformable_stages=(3, 4, 5))


def mask_rcnn(name: str, backbone: ResNet) -> Config:
    """Mask R-CNN: one stage, parallel, class-specific boxes, L1 losses; the first row of Table 1's baselines."""
    return Config(
        preset=name,
        classes=COCO_CLASSES,
        category_ids=COCO_IDS,
        backbone=backbone,
        rpn=RPN(box_loss="l1", anchors_inside="cells", training_proposals=1000),
        cascade=Cascade(
            num_stages=1,
            interleaved=False,
            mask_flow=False,
            semantic_fusion="none",
            class_agnostic_boxes=False,
            delta_stds=((0.1, 0.1, 0.2, 0.2),),
            ious=(0.5,),
            loss_weights=(1.0,),
            box_loss="l1",
        ),
        semantic=None,
        inference=Inference(score_threshold=0.05),
    )


def cascade_mask_rcnn(name: str, backbone: ResNet) -> Config:
    """Cascade Mask R-CNN, Eq. 1: three stages in parallel, no mask flow, no semantic branch."""
    return Config(
        preset=name,
        classes=COCO_CLASSES,
        category_ids=COCO_IDS,
        backbone=backbone,
        cascade=Cascade(interleaved=False, mask_flow=False, semantic_fusion="none", low_quality_matches=False),
        semantic=None,
        inference=Inference(score_threshold=0.05),
    )


def htc(name: str, backbone: ResNet, training: Training = TWENTY_EPOCHS) -> Config:
    """Hybrid Task Cascade, Eqs. 2-6: interleaved, mask flow, semantic fusion in box and mask heads."""
    return Config(preset=name, classes=COCO_CLASSES, category_ids=COCO_IDS, backbone=backbone, training=training)


def htc_without_semantic(name: str) -> Config:
    """HTC of Eqs. 2-5, without the semantic branch: for data without stuff maps, or the third row of Table 2."""
    return Config(
        preset=name,
        classes=COCO_CLASSES,
        category_ids=COCO_IDS,
        cascade=Cascade(semantic_fusion="none"),
        semantic=None,
    )


def paper(config: Config) -> Config:
    """The paper's own numbers where the released configurations differ: beta 1, score threshold 0.001, one matching rule."""
    semantic = None if config.semantic is None else config.semantic.model_copy(update={"loss_weight": 1.0})
    return config.model_copy(
        update={
            "semantic": semantic,
            "cascade": config.cascade.model_copy(update={"low_quality_matches": True}),
            "inference": config.inference.model_copy(update={"score_threshold": 0.001}),
            "training": TWENTY_EPOCHS,
        }
    )


def htc_r18_small(name: str) -> Config:
    """A small HTC that learns from scratch in minutes on a CPU: what `htc demo` trains.

    One class, one foreground class in the semantic branch (derived from the instances), GroupNorm everywhere since there are
    no pretrained statistics to keep, anchors half as large for small objects. Pictures are not enlarged, so that objects keep
    their size. Heads and samples are as small as costs no accuracy here (mask AP of 360 steps on the bundled nuclei: 0.407 with
    32 mask channels, 0.409 with 64).
    """
    return Config(
        preset=name,
        classes=("object",),
        category_ids=(1,),
        backbone=ResNet(depth=18, norm="group", frozen_stages=-1),
        neck=FPN(channels=64, norm="group"),
        rpn=RPN(anchor_scale=4.0, candidates_per_level=500, training_candidates_per_level=300, training_proposals=300),
        cascade=Cascade(samples=64, box_channels=256, mask_channels=32, mask_convs=2, mask_norm="group"),
        semantic=Semantic(classes=2, channels=64, norm="group", loss_weight=0.2),
        inference=Inference(max_detections=400),
        input=Input(short_edge=1024, long_edge=1408, max_scale=1.0),
        training=Training(
            epochs=8,
            schedule="cosine",
            warmup_steps=50,
            batch_size=4,
            clip_gradients=10.0,
            optimizer=AdamW(lr=1e-3),
            augmentation=Augmentation(horizontal_flip=0.5, vertical_flip=0.5, crop=(256, 256)),
        ),
    )


def _catalogue() -> dict[str, Callable[[], Config]]:
    presets: dict[str, Callable[[], Config]] = {}
    for short, backbone in BACKBONES.items():
        presets[f"mask_rcnn_{short}_fpn_1x_coco"] = lambda name=f"mask_rcnn_{short}_fpn_1x_coco", b=backbone: mask_rcnn(name, b)
    for short, backbone in BACKBONES.items():
        presets[f"cascade_mask_rcnn_{short}_fpn_1x_coco"] = lambda name=f"cascade_mask_rcnn_{short}_fpn_1x_coco", b=backbone: cascade_mask_rcnn(name, b)
    presets["htc_without_semantic_r50_fpn_1x_coco"] = lambda: htc_without_semantic("htc_without_semantic_r50_fpn_1x_coco")
    presets["htc_r50_fpn_1x_coco"] = lambda: htc("htc_r50_fpn_1x_coco", BACKBONES["r50"], Training())
    presets["htc_r50_fpn_20e_coco"] = lambda: htc("htc_r50_fpn_20e_coco", BACKBONES["r50"])
    presets["htc_r101_fpn_20e_coco"] = lambda: htc("htc_r101_fpn_20e_coco", BACKBONES["r101"])
    for short in ("x101_32x4d", "x101_64x4d"):
        presets[f"htc_{short}_fpn_16x1_20e_coco"] = lambda name=f"htc_{short}_fpn_16x1_20e_coco", b=BACKBONES[short]: htc(name, b)
    dconv = "htc_x101_64x4d_fpn_dconv_c3-c5_mstrain_400_1400_16x1_20e_coco"
    multiscale = TWENTY_EPOCHS.model_copy(update={"augmentation": Augmentation(short_edges=(400, 1400), long_edge=1600)})
    presets[dconv] = lambda: htc(dconv, X101_64X4D_DCONV, multiscale)
    presets["htc_r50_fpn_20e_paper"] = lambda: paper(htc("htc_r50_fpn_20e_paper", BACKBONES["r50"]))
    presets["cascade_mask_rcnn_r50_fpn_20e_paper"] = lambda: paper(cascade_mask_rcnn("cascade_mask_rcnn_r50_fpn_20e_paper", BACKBONES["r50"]))
    presets["mask_rcnn_r50_fpn_20e_paper"] = lambda: paper(mask_rcnn("mask_rcnn_r50_fpn_20e_paper", BACKBONES["r50"]))
    presets["htc_r18_small"] = lambda: htc_r18_small("htc_r18_small")
    return presets


PRESETS = _catalogue()


def preset(name: str) -> Config:
    """The configuration of that name; raises `ConfigError` with the nearest names if there is none."""
    if name not in PRESETS:
        near = get_close_matches(name, PRESETS, n=3, cutoff=0.5)
        hint = f"did you mean {' or '.join(near)}?" if near else "`htc models` lists them."
        raise ConfigError(f"there is no preset {name!r}; {hint}")
    return PRESETS[name]()

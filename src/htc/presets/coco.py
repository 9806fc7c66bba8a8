"""mmdetection's COCO models under mmdetection's names, so that its released weights map one to one; COCO's classes."""

from collections.abc import Callable

from htc.config import RPN, Augmentation, Backbone, Cascade, Config, Inference, ResNet, Training

COCO_CLASSES: tuple[str, ...] = (
    "person",
    "bicycle",
    "car",
    "motorcycle",
    "airplane",
    "bus",
    "train",
    "truck",
    "boat",
    "traffic light",
    "fire hydrant",
    "stop sign",
    "parking meter",
    "bench",
    "bird",
    "cat",
    "dog",
    "horse",
    "sheep",
    "cow",
    "elephant",
    "bear",
    "zebra",
    "giraffe",
    "backpack",
    "umbrella",
    "handbag",
    "tie",
    "suitcase",
    "frisbee",
    "skis",
    "snowboard",
    "sports ball",
    "kite",
    "baseball bat",
    "baseball glove",
    "skateboard",
    "surfboard",
    "tennis racket",
    "bottle",
    "wine glass",
    "cup",
    "fork",
    "knife",
    "spoon",
    "bowl",
    "banana",
    "apple",
    "sandwich",
    "orange",
    "broccoli",
    "carrot",
    "hot dog",
    "pizza",
    "donut",
    "cake",
    "chair",
    "couch",
    "potted plant",
    "bed",
    "dining table",
    "toilet",
    "tv",
    "laptop",
    "mouse",
    "remote",
    "keyboard",
    "cell phone",
    "microwave",
    "oven",
    "toaster",
    "sink",
    "refrigerator",
    "book",
    "clock",
    "vase",
    "scissors",
    "teddy bear",
    "hair drier",
    "toothbrush",
)
COCO_IDS: tuple[int, ...] = (
    1,
    2,
    3,
    4,
    5,
    6,
    7,
    8,
    9,
    10,
    11,
    13,
    14,
    15,
    16,
    17,
    18,
    19,
    20,
    21,
    22,
    23,
    24,
    25,
    27,
    28,
    31,
    32,
    33,
    34,
    35,
    36,
    37,
    38,
    39,
    40,
    41,
    42,
    43,
    44,
    46,
    47,
    48,
    49,
    50,
    51,
    52,
    53,
    54,
    55,
    56,
    57,
    58,
    59,
    60,
    61,
    62,
    63,
    64,
    65,
    67,
    70,
    72,
    73,
    74,
    75,
    76,
    77,
    78,
    79,
    80,
    81,
    82,
    84,
    85,
    86,
    87,
    88,
    89,
    90,
)


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


def htc(name: str, backbone: Backbone, training: Training = TWENTY_EPOCHS) -> Config:
    """Hybrid Task Cascade, Eqs. 2-6: interleaved, mask flow, semantic fusion in box and mask heads."""
    return Config(preset=name, classes=COCO_CLASSES, category_ids=COCO_IDS, backbone=backbone, training=training)


def htc_without_semantic(name: str) -> Config:
    """HTC of Eqs. 2-5, without the semantic branch, for data without stuff maps; the third row of Table 2."""
    return Config(
        preset=name,
        classes=COCO_CLASSES,
        category_ids=COCO_IDS,
        cascade=Cascade(semantic_fusion="none"),
        semantic=None,
    )


def _catalogue() -> dict[str, Callable[[], Config]]:
    presets: dict[str, Callable[[], Config]] = {}
    for short, backbone in BACKBONES.items():
        presets[f"mask_rcnn_{short}_fpn_1x_coco"] = lambda name=f"mask_rcnn_{short}_fpn_1x_coco", b=backbone: mask_rcnn(
            name, b
        )
    for short, backbone in BACKBONES.items():
        presets[f"cascade_mask_rcnn_{short}_fpn_1x_coco"] = (
            lambda name=f"cascade_mask_rcnn_{short}_fpn_1x_coco", b=backbone: cascade_mask_rcnn(name, b)
        )
    presets["htc_without_semantic_r50_fpn_1x_coco"] = lambda: htc_without_semantic(
        "htc_without_semantic_r50_fpn_1x_coco"
    )
    presets["htc_r50_fpn_1x_coco"] = lambda: htc("htc_r50_fpn_1x_coco", BACKBONES["r50"], Training())
    presets["htc_r50_fpn_20e_coco"] = lambda: htc("htc_r50_fpn_20e_coco", BACKBONES["r50"])
    presets["htc_r101_fpn_20e_coco"] = lambda: htc("htc_r101_fpn_20e_coco", BACKBONES["r101"])
    for short in ("x101_32x4d", "x101_64x4d"):
        presets[f"htc_{short}_fpn_16x1_20e_coco"] = lambda name=f"htc_{short}_fpn_16x1_20e_coco", b=BACKBONES[short]: (
            htc(name, b)
        )
    dconv = "htc_x101_64x4d_fpn_dconv_c3-c5_mstrain_400_1400_16x1_20e_coco"
    multiscale = TWENTY_EPOCHS.replace(augmentation=Augmentation(short_edges=(400, 1400), long_edge=1600))
    presets[dconv] = lambda: htc(dconv, X101_64X4D_DCONV, multiscale)
    return presets


OFFICIAL = _catalogue()

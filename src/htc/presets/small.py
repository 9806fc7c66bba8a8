"""Models for training from scratch: a small one for a CPU, a large one for datasets of many images."""

from collections.abc import Callable

from htc.config import FPN, RPN, AdamW, Augmentation, Cascade, Config, Inference, Input, ResNet, Semantic, Training
from htc.presets.coco import COCO_CLASSES, COCO_IDS


def htc_r18_small(name: str) -> Config:
    """A small HTC that trains from scratch in minutes on a CPU; the model of `htc demo`.

    One class, one foreground class in the semantic branch (derived from the instances), GroupNorm everywhere since
    there are no pretrained statistics, anchors of half the size for small instances. Images are not enlarged, so that
    instances keep their size; they are padded with their edges, since training on crops never shows padding. In
    training, RoIs are sampled from as many proposals as prediction keeps: large background boxes are not among the best
    300, so with 300 they were never sampled as negatives and scored high in prediction. Heads and numbers of samples
    are as small as possible without a loss of accuracy with 300 proposals (mask AP after 360 steps on the bundled
    nuclei: 0.407 with 32 mask channels, 0.409 with 64).
    """
    return Config(
        preset=name,
        classes=("object",),
        category_ids=(1,),
        backbone=ResNet(depth=18, norm="group", frozen_stages=-1),
        neck=FPN(channels=64, norm="group"),
        rpn=RPN(anchor_scale=4.0, candidates_per_level=500, training_candidates_per_level=500, training_proposals=1000),
        cascade=Cascade(samples=64, box_channels=256, mask_channels=32, mask_convs=2, mask_norm="group"),
        semantic=Semantic(classes=2, channels=64, norm="group", loss_weight=0.2),
        inference=Inference(max_detections=400),
        input=Input(short_edge=1024, long_edge=1408, max_scale=1.0, padding="edge"),
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


def htc_r50_scratch(name: str) -> Config:
    """HTC R-50 without pretrained weights: GroupNorm everywhere and nothing frozen, since there are no pretrained
    statistics.

    For datasets of about COCO's size: from some ten thousand images on, training from scratch reaches the accuracy of
    ImageNet weights with about three times as many epochs (He, Girshick, Dollar 2019, "Rethinking ImageNet
    pre-training"). Not measured with this library.
    """
    return Config(
        preset=name,
        classes=COCO_CLASSES,
        category_ids=COCO_IDS,
        backbone=ResNet(depth=50, norm="group", frozen_stages=-1),
        neck=FPN(norm="group"),
        cascade=Cascade(mask_norm="group"),
        semantic=Semantic(norm="group"),
        training=Training(epochs=36, milestones=(28, 34), warmup_steps=1000, clip_gradients=35.0),
    )


SMALL: dict[str, Callable[[], Config]] = {
    "htc_r18_small": lambda: htc_r18_small("htc_r18_small"),
    "htc_r50_scratch": lambda: htc_r50_scratch("htc_r50_scratch"),
}

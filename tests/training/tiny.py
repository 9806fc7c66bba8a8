"""The smallest configuration with every part of HTC in it."""

from htc.config import FPN, RPN, AdamW, Augmentation, Cascade, Config, Inference, Input, ResNet, Semantic, Training


def tiny(**training):
    """A small HTC with everything: three stages, interleaved, flow, semantic fusion."""
    schedule = {"epochs": 2, "warmup_steps": 2, "batch_size": 2, "clip_gradients": 10.0, "optimizer": AdamW(lr=1e-3)}
    augmentation = Augmentation(horizontal_flip=0.5, vertical_flip=0.5, crop=(64, 64), resize=False)
    return Config(
        classes=("anything",),
        category_ids=(1,),
        backbone=ResNet(depth=18, norm="group", frozen_stages=-1),
        neck=FPN(channels=16, norm="group"),
        rpn=RPN(
            anchor_scale=4.0,
            training_candidates_per_level=50,
            training_proposals=50,
            candidates_per_level=50,
            proposals=50,
        ),
        cascade=Cascade(samples=16, box_channels=16, mask_channels=16, mask_convs=1, mask_norm="group"),
        semantic=Semantic(classes=2, channels=16, convs=1, norm="group"),
        inference=Inference(max_detections=20, score_threshold=0.05),
        input=Input(short_edge=64, long_edge=96, max_scale=1.0),
        training=Training(**{**schedule, "augmentation": augmentation, **training}),
    )

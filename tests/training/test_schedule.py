"""The official schedules, as numbers: the rate of the first steps, and at each milestone of COCO's 117,266 images
on 16 at a time.
"""

import pytest

from htc.presets import PRESETS, preset
from htc.training.optimizer import base_learning_rate, learning_rate_factor

STEPS = 7330
"""An epoch of 117,266 images, 16 at a time."""


def rate(config, epoch, step=0, images=16):
    """The learning rate at a step of an epoch (both from 0)."""
    training = config.training
    return base_learning_rate(training, images) * learning_rate_factor(
        training, epoch * STEPS + step, STEPS, training.epochs
    )


@pytest.mark.parametrize(
    ("name", "epochs", "milestones"),
    [
        ("mask_rcnn_r50_fpn_1x_coco", 12, (8, 11)),
        ("cascade_mask_rcnn_r101_fpn_1x_coco", 12, (8, 11)),
        ("htc_r50_fpn_1x_coco", 12, (8, 11)),
        ("htc_r50_fpn_20e_coco", 20, (16, 19)),
        ("htc_x101_64x4d_fpn_16x1_20e_coco", 20, (16, 19)),
        ("htc_r50_fpn_20e_paper", 20, (16, 19)),
        ("mask_rcnn_r50_fpn_20e_paper", 20, (16, 19)),
    ],
)
def test_warm_up_and_milestones(name, epochs, milestones):
    config = preset(name)
    assert config.training.epochs == epochs
    # mmdetection: linear warm-up over 500 steps from 0.001 of the rate: 0.02 (0.001 + 0.999 step / 500).
    assert [rate(config, 0, step) for step in (0, 250, 499, 500)] == pytest.approx([2e-5, 0.01001, 0.01996004, 0.02])
    first, second = milestones
    assert [
        rate(config, first - 1, STEPS - 1),
        rate(config, first),
        rate(config, second - 1, STEPS - 1),
    ] == pytest.approx([0.02, 0.002, 0.002])
    assert [rate(config, second), rate(config, epochs - 1, STEPS - 1)] == pytest.approx([0.0002, 0.0002])


@pytest.mark.parametrize(("images", "expected"), [(1, 0.00125), (2, 0.0025), (8, 0.01), (16, 0.02), (32, 0.04)])
def test_the_rate_follows_the_real_batch(images, expected):
    assert rate(preset("htc_r50_fpn_20e_coco"), 1, images=images) == pytest.approx(expected)


def test_optimizer_of_every_official_preset():
    for name in PRESETS:
        if name.endswith(("_coco", "_paper")):
            chosen = preset(name).training.optimizer
            assert (chosen.kind, chosen.lr, chosen.momentum, chosen.weight_decay) == ("sgd", 0.02, 0.9, 1e-4), name


def test_the_paper_s_own_settings():
    """Beta 1, score threshold 0.001 and one matching rule for all three rows."""
    for kind in ("htc", "cascade_mask_rcnn", "mask_rcnn"):
        config = preset(f"{kind}_r50_fpn_20e_paper")
        assert config.inference.score_threshold == 0.001
        assert config.cascade.low_quality_matches
        assert config.semantic is None or config.semantic.loss_weight == 1.0
        assert config.training.clip_gradients is None


def test_multi_scale_of_the_largest_released_model():
    augmentation = preset("htc_x101_64x4d_fpn_dconv_c3-c5_mstrain_400_1400_16x1_20e_coco").training.augmentation
    assert (augmentation.short_edges, augmentation.long_edge) == ((400, 1400), 1600)

"""What is chosen where the user does not say, on data made of numbers alone."""

import re
from dataclasses import replace
from pathlib import Path

import pytest

from htc.config import Config, FishNet, ResNet, Timm, ViT
from htc.data.dataset import Dataset, ImageRecord, Instance
from htc.presets import PRESETS, preset
from htc.settings.layers import from_flags, overlay
from htc.training.auto_config import (
    ENOUGH_IMAGES,
    choose_config,
    derived_choices,
    gib_needed,
    recorded_choice,
    write_choices,
)
from htc.training.finetune import kept_random


def data(images=30, size=(480, 640), side=100.0, objects=3):
    """Images of one size with square objects of one size."""
    instances = tuple(
        Instance(i, i % 2, (10.0 + i, 10.0, 10.0 + i + side, 10.0 + side), False, None) for i in range(objects)
    )
    record = ImageRecord(0, Path("0.png"), *size, instances)
    return Dataset(Path("train.json"), ("fig", "date"), (1, 2), (record,) * images)


def fields(chosen):
    return {name: value for choice in chosen.choices for name, value in choice.fields.items()}


def rule_of(chosen, field):
    return next(choice.rule for choice in chosen.choices if field in choice.fields)


def test_few_images_without_weights_get_the_small_model():
    found = choose_config(data(), [], memory=16)
    assert found.config.preset == "htc_r18_small"
    assert "30 images and no weights" in rule_of(found, "preset")
    assert "--weights htc_r50_fpn_20e_coco" in rule_of(found, "preset")
    # 8 steps an epoch of 4 images: 1500 steps would be 188 epochs.
    assert found.config.training.epochs == 100
    assert found.evaluate_every == 5
    assert found.config.training.warmup_steps == 50
    assert found.config.inference.max_detections == 100
    assert (found.config.input.short_edge, found.config.input.max_scale) == (480, 1.0)
    for name, value in fields(found).items():
        part = found.config.model_dump()
        for key in name.split("."):
            part = part[key]
        assert part == value, name


SIDES = [(14.0, 250, 2.0, 300, 256), (100.0, 99, 1.0, 100, 256), (400.0, 1, 1.0, 100, None)]


@pytest.mark.parametrize(("side", "objects", "scale", "detections", "crop"), SIDES)
def test_objects_decide_size_crop_and_detections(side, objects, scale, detections, crop):
    found = choose_config(data(side=side, objects=objects), [], memory=None)
    assert found.config.input.max_scale == pytest.approx(scale, abs=0.3)
    assert found.config.inference.max_detections == detections
    assert found.config.training.augmentation.crop == (None if crop is None else (crop, crop))


def test_small_objects_get_small_anchors():
    scales = {
        side: choose_config(
            data(side=side, objects=20), from_flags([("input.max-scale", "1")]), None
        ).config.rpn.anchor_scale
        for side in (9.0, 100.0)
    }
    assert scales[9.0] < scales[100.0]


def test_what_is_given_is_not_chosen():
    given = from_flags(
        [
            ("training.epochs", "7"),
            ("input.short-edge", "320"),
            ("rpn.anchor-scale", "8"),
            ("training.augmentation.crop", "none"),
        ]
    )
    found = choose_config(data(objects=250), given, memory=16)
    assert found.config.training.epochs == 7
    assert found.config.input.short_edge == 320
    assert found.config.rpn.anchor_scale == 8
    assert found.config.training.augmentation.crop is None
    assert set(fields(found)) == {"preset", "inference.max_detections", "training.warmup_steps"}
    assert found.config.training.warmup_steps == 8 * 7 // 10


@pytest.mark.parametrize(("memory", "name"), [(80, "htc_r50_scratch"), (None, "htc_r50_scratch"), (4, "htc_r18_small")])
def test_many_images_get_a_large_model_if_it_fits(memory, name):
    found = choose_config(data(ENOUGH_IMAGES), [], memory)
    assert found.config.preset == name
    assert f"{ENOUGH_IMAGES} images" in rule_of(found, "preset")
    assert "training.epochs" not in fields(found)


def test_weights_bring_their_architecture_and_anchors():
    weights = ("htc_r50_fpn_20e_coco", preset("htc_r50_fpn_20e_coco"))
    found = choose_config(data(side=20.0, objects=120), [], 80, weights)
    assert found.config.preset == "htc_r50_fpn_20e_coco"
    assert found.config.rpn.anchor_scale == 8
    assert "rpn.anchor_scale" not in fields(found)
    # 15 steps an epoch of 2 images: 100 epochs, the milestones where the 12 epochs of 1x have them.
    assert (found.config.training.epochs, found.config.training.milestones) == (100, (67, 92))
    assert found.config.training.warmup_steps == 150
    assert found.config.inference.max_detections == 200


def test_a_batch_that_does_not_fit_becomes_smaller():
    weights = ("own", preset("htc_r50_fpn_1x_coco"))
    roomy, tight = (
        choose_config(data(size=(800, 1333)), [], memory, weights) for memory in (80, gib_needed(weights[1], 1) / 0.8)
    )
    assert roomy.config.training.batch_size == 2
    assert tight.config.training.batch_size == 1
    assert "2 images a step need about" in rule_of(tight, "training.batch_size")


def test_steps_are_counted_over_batch_processes_and_accumulation():
    given = from_flags([("training.accumulate", "2")])
    # 1000 images, 4 a batch: 250 batches of one process, 125 of two; two of them a step.
    assert choose_config(data(1000), given, None).config.training.epochs == 12
    assert choose_config(data(1000), given, None, processes=2).config.training.epochs == 24


def test_images_of_rare_classes_are_shown_more_often():
    common = data(50, objects=1)
    rare = replace(common.images[0], instances=tuple(replace(one, label=2) for one in common.images[0].instances))
    both = Dataset(Path("train.json"), ("fig", "date", "nut"), (1, 2, 3), (*data(50, objects=2).images, rare))
    assert choose_config(both, [], None).config.training.sampling.repeat_threshold == pytest.approx(
        0.1 * 50 / 51, rel=1e-3
    )
    assert choose_config(common, [], None).config.training.sampling.repeat_threshold is None


@pytest.mark.parametrize("objects", [0, 1])
def test_data_with_hardly_anything_in_it(objects):
    found = choose_config(data(1, objects=objects), [], None)
    assert isinstance(found.config, Config)
    assert found.config.inference.max_detections == 100


@pytest.mark.parametrize(("images", "rate"), [(2, 0.0025), (16, 0.02), (32, 0.04)])
def test_the_real_learning_rate_is_stated(images, rate):
    one, semantic = derived_choices(preset("htc_r50_fpn_1x_coco"), "auto", images, from_weights=True)
    assert one.fields == {"learning rate": pytest.approx(rate)}
    assert f"SGD's 0.02 is for 16 images a step, and a step has {images}" in one.rule
    assert "background and 80 classes" in semantic.rule


def test_fewer_proposals_than_a_test_keeps_are_spoken_of():
    """Large boxes of background then are never a lesson, and score high."""
    config = preset("htc_r18_small")
    few = config.replace(rpn={"training_proposals": 300})
    _, found, _ = derived_choices(few, "auto", 4)
    assert found.fields == {"rpn.training_proposals": 300}
    assert "the 1000 of prediction" in found.rule
    assert "--rpn.training_proposals 1000" in found.rule
    assert all("rpn.training_proposals" not in one.fields for one in derived_choices(config, "auto", 4))


def test_layers_that_stay_random_are_spoken_of():
    """The presets of released weights freeze what the weights have learned; without them a training must say what it
    lacks.
    """
    config = preset("htc_r50_fpn_1x_coco")
    _, found, _ = derived_choices(config, "auto", 2)
    assert found.fields == {"backbone.pretrained": False}
    assert "frozen layers and fixed statistics of norms of the backbone" in found.rule
    assert "random" in found.rule
    pretrained = config.replace(backbone={"pretrained": True})
    assert (
        len(derived_choices(pretrained, "auto", 2)) == len(derived_choices(config, "auto", 2, from_weights=True)) == 2
    )


LEARNING = ResNet(depth=18, norm="group", frozen_stages=-1)
KEPT = [
    (LEARNING, None),
    (
        ResNet(depth=18, norm="batch", frozen_stages=0),
        "and frozen layers and fixed statistics of norms of .* --backbone.pretrained true, --weights NAME, or",
    ),
    (
        ResNet(depth=18, norm="group", frozen_stages=1),
        "and frozen layers of the backbone .* --backbone.norm group --backbone.frozen_stages -1$",
    ),
    (ResNet(depth=18, norm="statistics_fixed", frozen_stages=-1), "and fixed statistics of norms of"),
    (Timm(name="convnext_atto"), None),
    (
        Timm(name="convnext_atto", frozen_stages=1),
        "and frozen layers of .* --backbone.pretrained true, .* --backbone.norm batch",
    ),
    (Timm(name="regnety_002"), "and fixed statistics of norms of"),
    (Timm(name="regnety_002", norm="batch"), None),
    (
        FishNet(depth=99),
        "and fixed statistics of norms of .* --backbone.pretrained FILE, --weights NAME, or --backbone.norm group$",
    ),
    (FishNet(depth=99, norm="sync"), None),
    (ViT(name="vit_tiny_patch16_224"), None),
]


@pytest.mark.parametrize(("backbone", "says"), KEPT)
def test_what_of_a_backbone_stays_random(backbone, says):
    found = kept_random(backbone)
    assert found is None if says is None else re.search(says, str(found))


@pytest.mark.parametrize("name", sorted(PRESETS))
def test_presets_that_learn_from_nothing_keep_nothing_random(name):
    backbone = preset(name).backbone
    if isinstance(backbone, ResNet) and not backbone.pretrained:
        assert (kept_random(backbone) is None) == ("small" in name or "scratch" in name)


@pytest.mark.parametrize(
    "name",
    ["htc_r50_fpn_20e_coco", "htc_x101_64x4d_fpn_dconv_c3-c5_mstrain_400_1400_16x1_20e_coco", "panet_r50_fpn_1x_coco"],
)
def test_the_remedy_without_weights_is_one(name):
    base = preset(name)
    given = from_flags([("backbone.norm", "group"), ("backbone.frozen-stages", "-1")])
    assert kept_random(base.backbone) is not None
    assert kept_random(overlay(base, given).backbone) is None


def test_adamw_s_rate_is_not_scaled_and_choices_are_written(tmp_path):
    found = derived_choices(preset("htc_r18_small"), "none", 4)
    assert found[0].fields == {"learning rate": 0.001}
    assert "as it is" in found[0].rule
    assert found[1].fields == {"semantic targets": "none"}
    write_choices(tmp_path, found)
    assert recorded_choice(tmp_path, "learning rate", None) == 0.001
    assert (
        recorded_choice(tmp_path, "evaluate every", 1)
        == recorded_choice(tmp_path / "nothing", "evaluate every", 1)
        == 1
    )

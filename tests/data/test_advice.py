"""The rules of thumb: against brute force where they compute, and at the borders where they decide."""

from pathlib import Path

import numpy as np
import pytest
import torch

from htc.config import PYRAMID_STRIDES, Input
from htc.data.advice import (
    Statistics,
    anchor_coverage,
    anchor_scale,
    best_anchor_iou,
    class_repeats,
    input_size,
    max_detections,
    repeat_threshold,
    sampling,
    statistics_of,
)
from htc.data.dataset import Dataset, ImageRecord, Instance
from htc.ops import boxes as box_ops


def statistics(sides=(), *, size=(480, 640), images=None, labels=None, classes=("thing",), count=None) -> Statistics:
    """Square objects of those sides at (40, 40), all on one image unless told."""
    sides = np.asarray(sides, float)
    images = np.zeros(len(sides), np.int64) if images is None else np.asarray(images)
    labels = np.zeros(len(sides), np.int64) if labels is None else np.asarray(labels)
    count = int(images.max(initial=0)) + 1 if count is None else count
    boxes = np.stack([np.full(len(sides), 40.0), np.full(len(sides), 40.0), 40 + sides, 40 + sides], 1).reshape(-1, 4)
    return Statistics(classes, np.tile(np.array([size]), (count, 1)), boxes, labels, images)


def test_statistics_leave_crowds_out_and_keep_empty_images():
    def thing(id, crowd):
        return Instance(id, 1, (1.0, 2.0, 4.0, 6.0), crowd, None)

    records = (
        ImageRecord(0, Path("a"), 10, 20, ()),
        ImageRecord(1, Path("b"), 30, 40, (thing(1, False), thing(2, True))),
    )
    found = statistics_of(Dataset(Path("x.json"), ("a", "b"), (1, 7), records))
    assert found.sizes.tolist() == [[10, 20], [30, 40]]
    assert found.counts.tolist() == [0, 1]
    assert found.sides == pytest.approx([12**0.5])
    assert found.class_shares.tolist() == [0.0, 0.5]


@pytest.mark.parametrize("scale", [2.0, 8.0])
@pytest.mark.parametrize("ratios", [(0.5, 1.0, 2.0), (1.0,)])
def test_best_anchor_is_the_best_of_all_anchors(scale, ratios):
    rng = np.random.default_rng(0)
    low = rng.uniform(0, 150, (60, 2))
    boxes = np.concatenate([low, np.minimum(low + rng.uniform(2, 90, (60, 2)), (200, 160))], 1)
    boxes = boxes[(boxes[:, 2:] > boxes[:, :2]).all(1)]
    data = Statistics(("a",), np.array([(160, 200)]), boxes, np.zeros(len(boxes), int), np.zeros(len(boxes), int))
    size = Input(short_edge=320, long_edge=400)
    every = []
    for stride in PYRAMID_STRIDES:
        rows, columns = -(-320 // stride), -(-400 // stride)
        every.append(box_ops.anchors_at(torch.arange(rows * columns * len(ratios)), columns, stride, scale, ratios))
    expected = box_ops.iou(torch.tensor(boxes * 2, dtype=torch.float32), torch.cat(every)).amax(1)
    assert best_anchor_iou(data, size, scale, ratios) == pytest.approx(expected.numpy(), abs=1e-5)


def test_anchor_scale_stays_unless_another_serves_many_more():
    size = Input(short_edge=480, long_edge=640)
    assert anchor_scale(statistics([40, 60, 120]), size).settings == {"rpn.anchor_scale": 8.0}
    small = statistics(np.linspace(9, 14, 20))
    chosen = anchor_scale(small, size).settings["rpn.anchor_scale"]
    assert chosen < 8
    assert anchor_coverage(small, size, chosen) > anchor_coverage(small, size, 8.0) + 0.05
    assert anchor_scale(small, size, present=chosen).settings == {"rpn.anchor_scale": chosen}


@pytest.mark.parametrize(
    ("side", "size", "short", "scale"),
    [
        (30, (480, 640), 480, 1.0),
        (12, (480, 640), 960, 2.0),
        (20, (480, 640), 576, 1.2),
        (2, (480, 640), 960, 2.0),
        (128, (1200, 1600), 800, 0.67),
        (80, (1000, 1200), 800, 0.8),
        (80, (600, 800), 608, 1.0),
    ],
)
def test_input_size(side, size, short, scale):
    settings = input_size(statistics([side] * 10, size=size)).settings
    assert settings["input.short_edge"] == short
    assert settings["input.max_scale"] == pytest.approx(scale, abs=0.01)
    assert short * 5 / 3 - 1 <= settings["input.long_edge"] <= 1600
    assert Input(**{name.split(".")[1]: value for name, value in settings.items()})


def test_images_too_large_for_a_network_are_to_be_cut():
    advice = input_size(statistics([10] * 10, size=(4000, 4000)))
    assert advice.settings["input.long_edge"] == 1600
    assert advice.settings["input.short_edge"] == 1600
    assert "training.augmentation.crop" in advice.reason


def test_small_images_of_a_mixed_set_are_not_blown_up():
    data = statistics([40] * 10, images=range(10))
    sizes = np.array([(256, 256)] * 5 + [(1024, 1024)] * 5)
    settings = input_size(Statistics(data.classes, sizes, data.boxes, data.labels, data.images)).settings
    assert (settings["input.short_edge"], settings["input.max_scale"]) == (1024, 1.0)


@pytest.mark.parametrize(("densest", "expected"), [(0, 100), (1, 100), (99, 100), (100, 200), (375, 400)])
def test_max_detections(densest, expected):
    assert max_detections(statistics([10] * densest)).settings == {"inference.max_detections": expected}


@pytest.mark.parametrize("count", [0, 3])
def test_no_objects_no_advice(count):
    empty = statistics([], count=count)
    assert input_size(empty).settings == {}
    assert anchor_scale(empty, Input()).settings == {}
    assert max_detections(empty).settings == {"inference.max_detections": 100}
    assert anchor_coverage(empty, Input(), 8.0) == 1.0
    assert repeat_threshold(empty) is None


def test_rare_classes():
    """Class 0 in all of 100 images, class 1 in half of them, class 2 in one; class 3 nowhere."""
    images = [*range(100), *range(0, 100, 2), 7]
    labels = [0] * 100 + [1] * 50 + [2]
    data = statistics([20] * 151, images=images, labels=labels, classes=("a", "b", "c", "d"))
    threshold = repeat_threshold(data)
    assert threshold == pytest.approx(0.05)
    assert class_repeats(data, threshold) == pytest.approx([1, 1, 5**0.5, 1])
    assert sampling(data).settings == {"training.sampling.repeat_threshold": pytest.approx(0.05)}
    assert sampling(statistics([20] * 100, images=range(100))).settings == {}
    assert (
        repeat_threshold(statistics([20] * 150, images=images[:150], labels=labels[:150], classes=("a", "b"))) is None
    )

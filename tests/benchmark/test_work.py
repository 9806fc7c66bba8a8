"""The work is equal for all, and none of it is degenerate."""

import pytest
import torch

from htc.benchmark.work import BENCHMARK_SCORE_THRESHOLD, fixed_boxes, make_work, mask_rcnn_of, random_detector
from htc.ops.roi_pool import pyramid_level
from htc.presets import preset


def test_boxes_lie_in_the_image_and_fill_every_level():
    boxes = fixed_boxes(1000, (800, 1344), torch.Generator().manual_seed(0))
    assert bool((boxes[:, 2:] > boxes[:, :2]).all())
    assert bool((boxes >= 0).all())
    assert bool((boxes <= torch.tensor([1344, 800, 1344, 800])).all())
    assert torch.bincount(pyramid_level(boxes, 4), minlength=4).min() >= 50


@pytest.mark.parametrize("detections", [0, 1, 20])
def test_the_same_arguments_give_the_same_work(detections: int):
    first, second = (make_work((64, 96), 3, 10, detections) for _ in range(2))
    assert first.size == (64, 96)
    assert first.detections.boxes.shape == (1, detections, 4)
    assert first.probabilities.shape == (detections, 28, 28)
    assert torch.equal(first.proposals.boxes, second.proposals.boxes)
    assert torch.equal(first.class_logits, second.class_logits)


def test_a_few_classes_a_region_pass_the_score_threshold():
    scores = make_work((800, 1344), 80, 1000, 100).class_logits.softmax(-1)[..., :-1]
    assert 1000 <= int((scores > BENCHMARK_SCORE_THRESHOLD).sum()) <= 5000


def test_random_weights_leave_boxes_where_they_are():
    config = preset("htc_r18_small")
    detector = random_detector(config)
    work = make_work((64, 64), config.num_classes, 5, 1)
    with torch.inference_mode():
        stages = detector.eval().refine(detector.features(work.images), work.proposals)
    assert len(stages) == 3
    torch.testing.assert_close(stages[-1].refined.boxes, work.proposals.boxes, atol=1e-3, rtol=0)


@pytest.mark.parametrize("name", ["htc_r50_fpn_1x_coco", "htc_r18_small", "mask_rcnn_r50_fpn_1x_coco"])
def test_mask_rcnn_of_a_model_keeps_its_size(name: str):
    config = preset(name)
    plain = mask_rcnn_of(config)
    assert (plain.cascade.num_stages, plain.cascade.mask_flow, plain.semantic) == (1, False, None)
    assert (plain.backbone, plain.neck, plain.cascade.mask_channels) == (
        config.backbone,
        config.neck,
        config.cascade.mask_channels,
    )

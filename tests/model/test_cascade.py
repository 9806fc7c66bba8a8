"""Eqs. 1 to 5 written out: which boxes each stage sees, and how mask features flow."""

import pytest
import torch

from htc.model.detector import Detector
from htc.ops.boxes import clip, decode
from htc.types import BoxStage, Features, Rois
from small_detector import ALL_STDS, random_images, seeded_detector, small_config

SIZES = torch.tensor([[64, 96], [56, 80]])


def regions(count: int = 9) -> Rois:
    numbers = torch.Generator().manual_seed(5)
    corner = torch.rand(2, count, 2, generator=numbers) * 40
    return Rois(
        torch.cat([corner, corner + 5 + torch.rand(2, count, 2, generator=numbers) * 30], -1),
        torch.ones(2, count, dtype=torch.bool),
        SIZES,
    )


def prepared(stages: int = 3, **cascade: object) -> tuple[Detector, Features]:
    detector = seeded_detector(small_config(stages, cascade=cascade, semantic={})).eval()
    with torch.no_grad():
        return detector, detector.features(random_images())


@pytest.mark.parametrize("stages", [1, 2, 3])
@torch.no_grad()
def test_each_stage_moves_the_boxes_of_the_one_before(stages: int) -> None:
    detector, features = prepared(stages)
    roi, rois = detector.roi, regions()
    found = detector.refine(features, rois)
    assert len(found) == stages
    for stage, head, stds in zip(found, roi.box_heads, ALL_STDS, strict=False):
        assert torch.equal(stage.rois.boxes, rois.boxes)
        logits, deltas = head(roi.box_pool(*features.pooled, rois))
        torch.testing.assert_close(stage.class_logits, logits.view(2, 9, -1))
        rois = rois.with_boxes(clip(decode(rois.boxes, deltas.view(2, 9, 4), stds), SIZES))
        torch.testing.assert_close(stage.refined.boxes, rois.boxes)
    assert (found[-1].refined.boxes - found[0].rois.boxes).abs().max() > 0.1


def test_the_sampler_picks_what_each_stage_sees() -> None:
    detector, features = prepared()
    asked = []

    def first(rois: Rois, t: int) -> Rois:
        asked.append(t)
        return Rois(rois.boxes[:, : 5 - t], rois.valid[:, : 5 - t], rois.sizes)

    with torch.no_grad():
        stages = detector.roi.refine(*features.pooled, regions(), first)
    assert asked == [0, 1, 2]
    assert [stage.class_logits.shape[1] for stage in stages] == [5, 4, 3]
    assert torch.equal(stages[1].rois.boxes, stages[0].refined.boxes[:, :4])


def test_refined_boxes_carry_no_gradient() -> None:
    detector, features = prepared(2)
    stages = detector.refine(features, regions())
    assert stages[0].deltas.requires_grad
    assert not any(stage.refined.boxes.requires_grad for stage in stages)


@pytest.mark.parametrize("interleaved", [False, True])
def test_mask_heads_look_at_refined_boxes_where_interleaved(interleaved: bool) -> None:
    detector, _ = prepared(1, interleaved=interleaved)
    before, after = regions(), regions(4)
    stage = BoxStage(before, torch.zeros(2, 9, 4), torch.zeros(2, 9, 4), after)
    assert detector.roi.mask_rois(stage, 0) is (after if interleaved else before)


@pytest.mark.parametrize("mask_flow", [False, True])
@pytest.mark.parametrize("stages", [1, 2, 3])
@torch.no_grad()
def test_mask_features(stages: int, mask_flow: bool) -> None:
    """Eqs. 3-5: m_t = M_t(x + G_t(m_{t-1})), all on the same regions; without flow every head sees x alone."""
    detector, features = prepared(3, mask_flow=mask_flow)
    roi, rois = detector.roi, regions(4)
    x = roi.mask_pool(*features.pooled, rois)
    expected = [roi.mask_heads[0].features(x)]
    for t in range(1, stages):
        expected.append(roi.mask_heads[t].features(x + roi.mask_flows[t - 1](expected[-1]) if mask_flow else x))
    found = roi.mask_features(*features.pooled, rois, stages)
    for ours, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, theirs)
    torch.testing.assert_close(roi.mask_feature(*features.pooled, rois, stages - 1), expected[-1])


def test_without_flow_no_other_mask_head_runs_in_training() -> None:
    detector, features = prepared(3, mask_flow=False)
    ran = []
    for t, head in enumerate(detector.roi.mask_heads):
        head.convs[0].register_forward_hook(lambda *_, t=t: ran.append(t))  # type: ignore[operator]
    detector.roi.mask_feature(*features.pooled, regions(), 2)
    assert ran == [2]


def test_gradients_flow_back_through_the_mask_flow() -> None:
    """No detach: the last stage's mask teaches the first stage's convolutions and the flow between them."""
    detector, features = prepared(3)
    feature = detector.roi.mask_feature(*features.pooled, regions(), 2)
    detector.roi.mask_heads[2](feature, torch.zeros(18, dtype=torch.long)).sum().backward()
    for part in (detector.roi.mask_heads[0].convs, detector.roi.mask_flows[0], detector.roi.mask_flows[1]):
        assert all(p.grad is not None and p.grad.any() for p in part.parameters())
    assert detector.roi.mask_heads[0].logits.weight.grad is None


@pytest.mark.parametrize("count", [0, 1])
@torch.no_grad()
def test_few_regions(count: int) -> None:
    detector, features = prepared()
    stages = detector.refine(features, regions(count))
    assert [stage.class_logits.shape for stage in stages] == [(2, count, 4)] * 3
    assert [m.shape[0] for m in detector.roi.mask_features(*features.pooled, regions(count), 3)] == [2 * count] * 3

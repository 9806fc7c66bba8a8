"""How stages combine, and which boxes survive: each against the rule written out."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor
from torchvision.ops import batched_nms

from htc.config import FineMask, FusionMask, GaussianSoftNMS, Inference, LinearSoftNMS
from htc.model.postprocess import Limits, Selected, class_scores, final_boxes, segment, select
from htc.ops.boxes import clip, decode
from htc.ops.pixel_gather import PixelGather
from htc.types import BoxStage, Rois
from small_detector import ALL_STDS, random_images, seeded_detector, small_config

SIZES = torch.tensor([[64, 96], [56, 80]])
K = 3
PARTS: list[dict[str, Any]] = [
    {},
    {"cascade": {"mask_head": FineMask()}},
    {"cascade": {"mask_head": FusionMask(), "mask_convs": 2, "pooled_levels": "all"}},
    {"cascade": {"pooling": "precise"}},
]


def regions(count: int, seed: int = 5) -> Rois:
    numbers = torch.Generator().manual_seed(seed)
    corner = torch.rand(2, count, 2, generator=numbers) * 40
    return Rois(
        torch.cat([corner, corner + 5 + torch.rand(2, count, 2, generator=numbers) * 30], -1),
        torch.ones(2, count, dtype=torch.bool),
        SIZES,
    )


def stages(count: int = 8, deltas: int = 4) -> list[BoxStage]:
    numbers = torch.Generator().manual_seed(2)
    return [
        BoxStage(
            regions(count, t),
            torch.randn(2, count, K + 1, generator=numbers) * 2,
            torch.randn(2, count, deltas, generator=numbers),
            regions(count, t + 1),
        )
        for t in range(3)
    ]


@pytest.mark.parametrize("chosen", [None, (1,), (3,), (1, 3)])
def test_scores_average_logits_then_softmax(chosen: tuple[int, ...] | None) -> None:
    said = stages()
    logits = [said[t - 1].class_logits for t in chosen or (1, 2, 3)]
    expected = (sum(logits) / len(logits)).softmax(-1)[..., :K]  # type: ignore[union-attr]
    torch.testing.assert_close(class_scores(said, Inference(score_stages=chosen)), expected)


@pytest.mark.parametrize("chosen", [None, (2,), (1, 2)])
def test_scores_average_probabilities(chosen: tuple[int, ...] | None) -> None:
    said = stages()
    probabilities = [said[t - 1].class_logits.softmax(-1) for t in chosen or (1, 2, 3)]
    expected = (sum(probabilities) / len(probabilities))[..., :K]  # type: ignore[index]
    torch.testing.assert_close(
        class_scores(said, Inference(score_stages=chosen, score_ensemble="probabilities")), expected
    )


@pytest.mark.parametrize("class_agnostic", [True, False])
@pytest.mark.parametrize("stage", [None, 1, 2, 3])
def test_boxes_come_from_the_box_stage(stage: int | None, class_agnostic: bool) -> None:
    detector = seeded_detector(small_config(3, cascade={"class_agnostic_boxes": class_agnostic}))
    said = stages(deltas=4 if class_agnostic else 4 * K)
    found = final_boxes(detector.roi, said, Inference(box_stage=stage))
    t = (stage or 3) - 1
    for k in range(1 if class_agnostic else K):
        expected = clip(decode(said[t].rois.boxes, said[t].deltas[..., 4 * k : 4 * k + 4], ALL_STDS[t]), SIZES)
        torch.testing.assert_close(found[:, :, k], expected)


@pytest.mark.parametrize("chosen", [None, (1,), (2,), (3,), (1, 3), (3, 1)])
@pytest.mark.parametrize("mask_flow", [True, False])
@torch.no_grad()
def test_masks_are_the_mean_probability_of_the_mask_stages(mask_flow: bool, chosen: tuple[int, ...] | None) -> None:
    detector = seeded_detector(small_config(3, cascade={"mask_flow": mask_flow}, semantic={})).eval()
    features, rois = detector.features(random_images()), regions(5)
    labels = torch.arange(10).view(2, 5) % K
    every = detector.roi.mask_features(*features.pooled, rois, 3)
    each = [detector.roi.mask_heads[t - 1](every[t - 1], labels.flatten()).sigmoid() for t in chosen or (1, 2, 3)]
    found = segment(detector.roi, *features.pooled, rois, labels, Inference(mask_stages=chosen))
    torch.testing.assert_close(found, (sum(each) / len(each)).view(2, 5, 28, 28))  # type: ignore[union-attr]


@pytest.mark.parametrize("count", [0, 1])
@torch.no_grad()
def test_few_masks(count: int) -> None:
    detector = seeded_detector(small_config(3, semantic={})).eval()
    features = detector.features(random_images())
    assert detector.segment(features, regions(count), torch.zeros(2, count, dtype=torch.long)).shape == (
        2,
        count,
        28,
        28,
    )


def scores_and_boxes(count: int, boxes_per_region: int) -> tuple[Tensor, Tensor]:
    numbers = torch.Generator().manual_seed(9)
    corner = torch.rand(2, count, boxes_per_region, 2, generator=numbers) * 40
    return torch.rand(2, count, K, generator=numbers), torch.cat(
        [corner, corner + 10 + torch.rand(corner.shape, generator=numbers) * 15], -1
    )


@pytest.mark.parametrize("boxes_per_region", [1, K])
@pytest.mark.parametrize(("count", "keep"), [(60, 10), (60, 400), (1, 5), (0, 5)])
def test_every_pair_over_the_threshold_is_a_candidate(count: int, keep: int, boxes_per_region: int) -> None:
    """Not only each region's best class; NMS per class; then the best of all."""
    scores, boxes = scores_and_boxes(count, boxes_per_region)
    valid = torch.arange(count).expand(2, count) % 7 != 3
    found = select(scores, boxes, valid, SIZES, Inference(score_threshold=0.3, nms_iou=0.5, max_detections=keep))
    for i in range(2):
        region, label = ((scores[i] > 0.3) & valid[i][:, None]).nonzero().unbind(1)
        candidates, values = boxes[i, region, label if boxes_per_region > 1 else 0], scores[i, region, label]
        best = batched_nms(candidates, values, label, 0.5)[:keep]
        kept = found.rois.valid[i]
        assert int(kept.sum()) == len(best)
        torch.testing.assert_close(found.rois.boxes[i][kept], candidates[best])
        torch.testing.assert_close(found.scores[i][kept], values[best])
        assert torch.equal(found.labels[i][kept], label[best])
        assert not found.scores[i][~kept].any()
        assert not found.rois.boxes[i][~kept].any()


def test_a_score_at_the_threshold_is_no_candidate() -> None:
    scores = torch.tensor([[[0.5, 0.25, 0.5001]]])
    boxes = torch.tensor([[[[0.0, 0.0, 10.0, 10.0]]]])
    found = select(scores, boxes, torch.ones(1, 1, dtype=torch.bool), SIZES[:1], Inference(score_threshold=0.5))
    assert found.rois.valid.sum() == 1
    assert found.labels[0, 0] == 2


SUPPRESSIONS = [{}, {"soft_nms": GaussianSoftNMS()}, {"soft_nms": LinearSoftNMS()}]
LIMITS = [
    Limits(score_threshold=0.6),
    Limits(labels=(1,)),
    Limits(labels=(0, 2)),
    Limits(labels=()),
    Limits(max_detections=3),
    Limits(0.5, (0, 1), 4),
]


def of_image(selected: Selected, image: int) -> tuple[Tensor, Tensor, Tensor]:
    kept = selected.rois.valid[image]
    return selected.rois.boxes[image][kept], selected.scores[image][kept], selected.labels[image][kept]


@pytest.mark.parametrize("limits", LIMITS)
@pytest.mark.parametrize("suppression", SUPPRESSIONS)
@pytest.mark.parametrize("boxes_per_region", [1, K])
def test_limits_give_what_is_left_of_all_detections(
    boxes_per_region: int, suppression: dict[str, Any], limits: Limits
) -> None:
    """NMS and Soft-NMS of the whole, filtered afterwards."""
    scores, boxes = scores_and_boxes(60, boxes_per_region)
    valid = torch.ones(2, 60, dtype=torch.bool)
    of = Inference(score_threshold=0.3, max_detections=400, **suppression)
    whole, limited = select(scores, boxes, valid, SIZES, of), select(scores, boxes, valid, SIZES, of, limits)
    assert not whole.rois.valid.all(), "the cap of the configuration must not bind"
    for i in range(2):
        all_boxes, all_scores, all_labels = of_image(whole, i)
        chosen = all_scores >= (limits.score_threshold or 0)
        if limits.labels is not None:
            chosen &= torch.isin(all_labels, torch.tensor(limits.labels, dtype=torch.long))
        rows = chosen.nonzero().squeeze(1)[: limits.max_detections]
        for ours, expected in zip(of_image(limited, i), (all_boxes, all_scores, all_labels), strict=True):
            assert torch.equal(ours, expected[rows])
    assert limited.rois.valid.shape[1] == (limits.max_detections or 400)


def test_classes_are_chosen_before_the_best_are_counted() -> None:
    """Ten detections of one class, though better ones of others would fill all slots."""
    scores, boxes = torch.tensor([0.9, 0.8, 0.4]).expand(1, 30, K), torch.zeros(1, 30, 1, 4)
    boxes[0, :, 0] = torch.arange(30)[:, None] * torch.tensor([20.0, 0, 20, 0]) + torch.tensor([0.0, 0, 10, 10])
    of, valid = Inference(max_detections=10), torch.ones(1, 30, dtype=torch.bool)
    assert set(select(scores, boxes, valid, SIZES[:1], of).labels.flatten().tolist()) == {0}
    found = select(scores, boxes, valid, SIZES[:1], of, Limits(labels=(2,)))
    assert found.rois.valid.all()
    assert set(found.labels.flatten().tolist()) == {2}


@pytest.mark.parametrize(("threshold", "count"), [(None, 1), (0.1, 3), (0.0, 4), (0.45, 2)])
def test_a_threshold_of_the_call_replaces_the_configured_one(threshold: float | None, count: int) -> None:
    scores = torch.tensor([[[0.6, 0.45, 0.2], [0.0, 0.0, 0.05]]])
    boxes = torch.tensor([[[[0.0, 0.0, 10.0, 10.0]], [[20.0, 0.0, 30.0, 10.0]]]])
    valid = torch.ones(1, 2, dtype=torch.bool)
    limits = Limits(score_threshold=threshold)
    found = select(scores[..., :3], boxes, valid, SIZES[:1], Inference(score_threshold=0.5), limits)
    assert int(found.rois.valid.sum()) == count


@pytest.mark.parametrize("parts", PARTS)
@torch.no_grad()
def test_no_mask_head_or_pool_runs_on_an_empty_slot(parts: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """Eager execution packs; the probabilities are those of all slots."""
    detector = seeded_detector(small_config(2, **({"semantic": {}} | parts))).eval()
    features, rois = detector.features(random_images()), regions(5)
    valid = torch.tensor([[True, False, True, True, False], [False, False, True, False, False]])
    packed, labels = replace(rois, valid=valid, packed=True), torch.arange(10).view(2, 5) % K
    expected = detector.segment(features, replace(rois, valid=valid), labels)
    rows: set[int] = set()
    for head in detector.roi.mask_heads:
        head.register_forward_hook(lambda _head, _inputs, logits: rows.add(len(logits)))
    detector.roi.mask_pool.register_forward_hook(lambda _pool, _inputs, pooled: rows.add(len(pooled)))
    bags = PixelGather.apply
    monkeypatch.setattr(PixelGather, "apply", lambda table, bags_: rows.add(bags_.count) or bags(table, bags_))
    found = detector.segment(features, packed, labels)
    assert rows == {4}
    torch.testing.assert_close(found[valid], expected[valid], atol=1e-5, rtol=0)
    assert not found[~valid].any()


@pytest.mark.parametrize("parts", PARTS)
@torch.no_grad()
def test_masks_of_no_detection(parts: dict[str, Any]) -> None:
    detector = seeded_detector(small_config(2, **({"semantic": {}, "inference": {"score_threshold": 1.0}} | parts)))
    found = detector.eval()(random_images(), SIZES)
    assert not found.valid.any()
    assert found.masks.shape[:2] == (2, 10)
    assert not found.masks.any()


def test_eager_selection_is_packed() -> None:
    scores, boxes = scores_and_boxes(20, 1)
    assert select(scores, boxes, torch.ones(2, 20, dtype=torch.bool), SIZES, Inference()).rois.packed

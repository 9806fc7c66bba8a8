"""How stages combine, and which boxes survive: each against the rule written out."""

import pytest
import torch
from torch import Tensor
from torchvision.ops import batched_nms

from htc.config import Inference
from htc.model.postprocess import class_scores, final_boxes, segment, select
from htc.ops.boxes import clip, decode
from htc.types import BoxStage, Rois
from small_detector import ALL_STDS, pictures, seeded_detector, small_config

SIZES = torch.tensor([[64, 96], [56, 80]])
K = 3


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
    features, rois = detector.features(pictures()), regions(5)
    labels = torch.arange(10).view(2, 5) % K
    every = detector.roi.mask_features(*features.pooled, rois, 3)
    each = [detector.roi.mask_heads[t - 1](every[t - 1], labels.flatten()).sigmoid() for t in chosen or (1, 2, 3)]
    found = segment(detector.roi, *features.pooled, rois, labels, Inference(mask_stages=chosen))
    torch.testing.assert_close(found, (sum(each) / len(each)).view(2, 5, 28, 28))  # type: ignore[union-attr]


@pytest.mark.parametrize("count", [0, 1])
@torch.no_grad()
def test_few_masks(count: int) -> None:
    detector = seeded_detector(small_config(3, semantic={})).eval()
    features = detector.features(pictures())
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

"""Proposals against the rules written out with torchvision's operators."""

import pytest
import torch
from torch import Tensor
from torchvision.ops import clip_boxes_to_image
from torchvision.ops import nms as torchvision_nms

from htc.config import RPN
from htc.model.rpn import LevelScores, ProposalHead
from htc.ops.boxes import decode

SIZES = torch.tensor([[128, 160], [100, 90]])


def head(**fields: object) -> ProposalHead:
    return ProposalHead(8, RPN(**fields))  # type: ignore[arg-type]


def levels(seed: int = 0, spread: float = 0.5) -> list[LevelScores]:
    numbers = torch.Generator().manual_seed(seed)
    said = []
    for stride in (4, 8, 16, 32, 64):
        height, width = -(-128 // stride), -(-160 // stride)
        count = 3 * height * width
        logits = torch.randn(2, count, generator=numbers)
        said.append(LevelScores(logits, torch.randn(2, count, 4, generator=numbers) * spread, height, width, stride))
    return said


def written_out(
    rpn: ProposalHead, said: list[LevelScores], image: int, candidates: int, keep: int
) -> tuple[Tensor, Tensor]:
    boxes, logits = [], []
    for level in said:
        best = level.logits[image].sort(descending=True).indices[:candidates]
        moved = decode(rpn.anchors(level)[best], level.deltas[image, best], (1.0, 1.0, 1.0, 1.0))
        moved = clip_boxes_to_image(moved, tuple(SIZES[image].tolist()))
        extent = (moved[:, 2] > moved[:, 0]) & (moved[:, 3] > moved[:, 1])
        moved, scores = moved[extent], level.logits[image, best][extent]
        survivors = torchvision_nms(moved, scores, 0.7)
        boxes.append(moved[survivors])
        logits.append(scores[survivors])
    order = torch.cat(logits).sort(descending=True).indices[:keep]
    return torch.cat(boxes)[order], torch.cat(logits)[order].sigmoid()


@pytest.mark.parametrize(("candidates", "keep"), [(100, 120), (100, 1000), (5, 1), (4000, 300)])
def test_proposals_equal_the_rules_written_out(candidates: int, keep: int) -> None:
    """Per level the best, decoded, clipped to the image's own size, those with extent, NMS; then the best of all
    levels.
    """
    rpn, said = head(), levels()
    rois, scores = rpn.propose(said, SIZES, candidates, keep)
    assert rois.boxes.shape == (2, min(keep, 5 * candidates), 4)
    for i in range(2):
        boxes, expected = written_out(rpn, said, i, candidates, keep)
        valid = rois.valid[i]
        assert int(valid.sum()) == len(boxes)
        assert valid[: len(boxes)].all()
        torch.testing.assert_close(rois.boxes[i][valid], boxes)
        torch.testing.assert_close(scores[i][valid], expected)


def test_boxes_without_extent_are_no_proposals() -> None:
    """All deltas push far beyond the left border."""
    rpn, said = head(), levels()
    for level in said:
        level.deltas[..., 0] = -100
    rois, _ = rpn.propose(said, SIZES, 50, 80)
    assert not rois.valid.any()
    assert rois.boxes.isfinite().all()


def test_a_diverged_network_proposes_nothing() -> None:
    rpn, said = head(), levels()
    for level in said:
        level.deltas[0] = float("nan")
    rois, _ = rpn.propose(said, SIZES, 50, 80)
    assert not rois.valid[0].any()
    assert rois.valid[1].any()


def test_outputs_follow_the_order_of_the_anchors() -> None:
    """Row, column, ratio; the deltas' channels are ratio x (dx, dy, dw, dh)."""
    rpn = head()
    pyramid = tuple(torch.randn(2, 8, 8 >> i or 1, 10 >> i or 1) for i in range(5))
    for level, features in zip(rpn(pyramid), pyramid, strict=True):
        hidden = rpn.conv(features).relu()
        logits, deltas = rpn.objectness(hidden), rpn.deltas(hidden)
        height, width = features.shape[2:]
        assert (level.height, level.width) == (height, width)
        for row, column, ratio in ((0, 0, 0), (height - 1, width - 1, 2), (0, width - 1, 1)):
            at = (row * width + column) * 3 + ratio
            torch.testing.assert_close(level.logits[:, at], logits[:, ratio, row, column])
            torch.testing.assert_close(level.deltas[:, at], deltas[:, 4 * ratio : 4 * ratio + 4, row, column])


def test_anchors_of_all_levels() -> None:
    rpn = head(anchor_scale=8.0)
    for level in levels():
        anchors = rpn.anchors(level)
        assert len(anchors) == level.logits.shape[1]
        torch.testing.assert_close(
            (anchors[:, 2] - anchors[:, 0]) * (anchors[:, 3] - anchors[:, 1]),
            torch.full((len(anchors),), (8.0 * level.stride) ** 2),
        )
        last = (anchors[-1, :2] + anchors[-1, 2:]) / 2
        torch.testing.assert_close(
            last, torch.tensor([(level.width - 1.0) * level.stride, (level.height - 1.0) * level.stride])
        )

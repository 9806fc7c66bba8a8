"""Guided anchoring at test time against the rules written out."""

import math
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.ops import clip_boxes_to_image
from torchvision.ops import nms as torchvision_nms

from htc.config import GuidedRPN
from htc.model.rpn import LevelScores
from htc.model.variants.guided_anchoring import FeatureAdaption, GuidedHead, GuidedScores

SIZES = torch.tensor([[128, 160], [100, 90]])


def head(**fields: object) -> GuidedHead:
    torch.manual_seed(0)
    return GuidedHead(8, GuidedRPN(**fields))  # type: ignore[arg-type]


def levels(seed: int = 0, spread: float = 1.0, height: int = 128, width: int = 160) -> list[GuidedScores]:
    """About half of the locations are likely centers."""
    numbers = torch.Generator().manual_seed(seed)
    said = []
    for stride in (4, 8, 16, 32, 64):
        rows, columns = -(-height // stride), -(-width // stride)
        logits, location = (torch.randn(2, rows * columns, generator=numbers) for _ in range(2))
        deltas, shape = (torch.randn(2, rows * columns, n, generator=numbers) * spread for n in (4, 2))
        said.append(
            GuidedScores(
                LevelScores(logits, deltas, rows, columns, stride), location + math.log(0.01 / 0.99), shape * 3
            )
        )
    return said


def box_of(level: GuidedScores, image: int, at: int, scale: float) -> list[float]:
    """The square of a location, given its predicted shape, moved by its deltas."""
    row, column = divmod(at, level.scores.width)
    x, y, side = column * level.scores.stride, row * level.scores.stride, scale * level.scores.stride
    w, h = (side * math.exp(0.14 * float(s)) for s in level.shape[image, at])
    dx, dy, dw, dh = (
        float(d) * std for d, std in zip(level.scores.deltas[image, at], (0.07, 0.07, 0.11, 0.11), strict=True)
    )
    x, y, w, h = x + dx * w, y + dy * h, w * math.exp(dw), h * math.exp(dh)
    return [x - w / 2, y - h / 2, x + w / 2, y + h / 2]


def written_out(
    said: list[GuidedScores], image: int, candidates: int, keep: int, *, likely: bool, scale: float
) -> tuple[Tensor, Tensor]:
    boxes, scores = [], []
    for level in said:
        logits = level.scores.logits[image]
        rows = [
            at
            for at in range(len(logits))
            if not likely or 1 / (1 + math.exp(-float(level.location[image, at]))) >= 0.01
        ]
        rows = sorted(rows, key=lambda at: -float(logits[at]))[:candidates]
        moved = torch.tensor([box_of(level, image, at, scale) for at in rows]).view(-1, 4)
        moved = clip_boxes_to_image(moved, tuple(SIZES[image].tolist()))
        extent = (moved[:, 2] > moved[:, 0]) & (moved[:, 3] > moved[:, 1])
        moved, left = moved[extent], logits[rows][extent]
        survivors = torchvision_nms(moved, left, 0.7)
        boxes.append(moved[survivors])
        scores.append(left[survivors])
    order = torch.cat(scores).sort(descending=True).indices[:keep]
    return torch.cat(boxes)[order], torch.cat(scores)[order].sigmoid()


@pytest.mark.parametrize("likely", [True, False])
@pytest.mark.parametrize(("candidates", "keep"), [(60, 80), (5, 1), (700, 1000)])
def test_proposals_equal_the_rules_written_out(candidates: int, keep: int, likely: bool) -> None:
    """At test time from likely locations alone, in training from all."""
    limits = {
        "candidates_per_level": candidates,
        "proposals": keep,
        "training_candidates_per_level": candidates,
        "training_proposals": keep,
    }
    rpn, said = head(anchor_scale=4.0, **limits), levels()
    rois, scores = rpn.propose_at_test(said, SIZES) if likely else rpn.propose_in_training(said, SIZES)
    assert rois.boxes.shape == (2, min(keep, 5 * candidates), 4)
    for i in range(2):
        boxes, expected = written_out(said, i, candidates, keep, likely=likely, scale=4.0)
        valid = rois.valid[i]
        assert valid[: len(boxes)].all()
        assert int(valid.sum()) == len(boxes)
        torch.testing.assert_close(rois.boxes[i][valid], boxes, atol=1e-3, rtol=1e-4)
        torch.testing.assert_close(scores[i][valid], expected)


@pytest.mark.parametrize("threshold", [0.0, 1.0])
def test_where_all_or_no_locations_are_likely(threshold: float) -> None:
    rpn, said = head(location_threshold=threshold, proposals=30), levels()
    rois, _ = rpn.propose_at_test(said, SIZES)
    everywhere, _ = rpn.propose(said, SIZES, 1000, 30)
    assert rois.valid.any() == (threshold == 0)
    assert torch.equal(rois.boxes, everywhere.boxes) == (threshold == 0)
    assert rois.boxes.isfinite().all()


@pytest.mark.parametrize("spread", [0.0, 1e4])
def test_guided_anchors_are_squares_where_nothing_is_said_and_finite_whatever_is_said(spread: float) -> None:
    rpn = head()
    for level in levels(spread=spread):
        anchors = rpn.anchors(level)
        assert anchors.isfinite().all()
        if spread == 0:
            side = 8.0 * level.scores.stride
            torch.testing.assert_close(
                anchors[..., 2:] - anchors[..., :2], torch.full((*level.location.shape, 2), side)
            )
            torch.testing.assert_close(
                anchors[1, 1],
                torch.tensor([level.scores.stride - side / 2, -side / 2, level.scores.stride + side / 2, side / 2]),
            )


def test_a_shape_reaches_far_beyond_a_box_delta() -> None:
    """A thousand times the square's width: box deltas stop at 62.5."""
    rpn, said = head(), levels()[3]
    said = replace(said, shape=torch.full_like(said.shape, math.log(1000) / 0.14))
    width = rpn.anchors(said)[0, 0, 2] - rpn.anchors(said)[0, 0, 0]
    assert float(width) == pytest.approx(8 * 32 * 1000, rel=1e-3)


def test_outputs_follow_the_order_of_the_locations() -> None:
    rpn = head()
    pyramid = tuple(torch.randn(2, 8, 8 >> i or 1, 10 >> i or 1) for i in range(5))
    for level, features in zip(rpn(pyramid), pyramid, strict=True):
        hidden = rpn.conv(features).relu()
        shape = rpn.shape(hidden)
        adapted = rpn.adaption(hidden, shape)
        height, width = features.shape[2:]
        for row, column in ((0, 0), (height - 1, width - 1), (0, width - 1)):
            at = row * width + column
            torch.testing.assert_close(level.location[:, at], rpn.location(hidden)[:, 0, row, column])
            torch.testing.assert_close(level.shape[:, at], shape[:, :, row, column])
            torch.testing.assert_close(level.scores.logits[:, at], rpn.objectness(adapted)[:, 0, row, column])
            torch.testing.assert_close(level.scores.deltas[:, at], rpn.deltas(adapted)[:, :, row, column])


def bilinear(x: Tensor, row: float, column: float) -> Tensor:
    """(C, H, W) at one point, nothing beyond the border."""
    total = torch.zeros(x.shape[0])
    for r in (math.floor(row), math.floor(row) + 1):
        for c in (math.floor(column), math.floor(column) + 1):
            if 0 <= r < x.shape[1] and 0 <= c < x.shape[2]:
                total += x[:, r, c] * (1 - abs(row - r)) * (1 - abs(column - c))
    return total


def test_feature_adaption_samples_where_the_shape_says() -> None:
    """Tap by tap; the channels are four groups, each with nine (dy, dx) of its own; no gradient reaches the shape."""
    torch.manual_seed(0)
    adaption = FeatureAdaption(8)
    torch.nn.init.normal_(adaption.conv.weight)
    torch.nn.init.normal_(adaption.offset.weight)
    x, shape = torch.randn(1, 8, 4, 5, requires_grad=True), torch.randn(1, 2, 4, 5, requires_grad=True)
    found = adaption(x, shape)
    offsets = F.conv2d(shape, adaption.offset.weight)[0].unflatten(0, (4, 9, 2))
    for row, column in ((0, 0), (2, 3), (3, 4)):
        expected = torch.zeros(8)
        for group in range(4):
            for tap in range(9):
                dy, dx = offsets[group, tap, :, row, column].tolist()
                sample = bilinear(
                    x[0, 2 * group : 2 * group + 2].detach(), row + tap // 3 - 1 + dy, column + tap % 3 - 1 + dx
                )
                expected += adaption.conv.weight[:, 2 * group : 2 * group + 2, tap // 3, tap % 3].detach() @ sample
        torch.testing.assert_close(found[0, :, row, column], expected.relu(), atol=1e-4, rtol=1e-4)
    found.sum().backward()
    assert shape.grad is None
    assert x.grad is not None
    assert adaption.offset.weight.grad is not None


def test_a_new_head_expects_a_center_with_one_percent() -> None:
    said = head()(tuple(torch.zeros(1, 8, 2, 2) for _ in range(5)))
    for level in said:
        torch.testing.assert_close(level.location.sigmoid(), torch.full((1, 4), 0.01))

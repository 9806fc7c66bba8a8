"""Training of guided anchoring: targets cell by cell, losses written out, as the paper and its configuration say."""

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from htc.config import GuidedRPN
from htc.model.variants.guided_anchoring import GuidedHead, GuidedScores
from htc.ops.boxes import encode, iou
from htc.training.guided_loss import (
    best_iou,
    bounded_iou_loss,
    guided_losses,
    location_targets,
    locations_inside,
    prior_boxes,
)
from htc.types import Batch, GroundTruth
from small_detector import small_batch, small_config, truth

EVERYTHING = 1_000_000
STRIDES = (4, 8, 16, 32, 64)


def head(**fields: object) -> GuidedHead:
    torch.manual_seed(0)
    rpn = GuidedHead(16, GuidedRPN(**({"anchor_scale": 4.0, "samples": EVERYTHING} | fields)))  # type: ignore[arg-type]
    for layer in (rpn.location, rpn.shape, rpn.objectness, rpn.deltas):
        torch.nn.init.normal_(layer.weight, std=0.1)
    return rpn


def levels(rpn: GuidedHead, height: int = 64, width: int = 96, images: int = 2) -> list[GuidedScores]:
    numbers = torch.Generator().manual_seed(3)
    return rpn(tuple(torch.randn(images, 16, -(-height // s), -(-width // s), generator=numbers) * 5 for s in STRIDES))


def level_of(box: list[float], anchor_scale: float) -> int:
    side = math.sqrt((box[2] - box[0]) * (box[3] - box[1]))
    return min(max(math.floor(math.log2(side) - math.log2(anchor_scale * 4) + 0.5), 0), 4)


def within(box: list[float], fraction: float, row: int, column: int, stride: int, size: tuple[int, int]) -> bool:
    """Whether a cell lies in the central fraction of a box; corners rounded half to even, clamped to 0 .. size, both
    included.
    """
    margin = (1 - fraction) / 2
    for low, high, at, limit in ((box[0], box[2], column, size[1]), (box[1], box[3], row, size[0])):
        first = min(max(round(((1 - margin) * low + margin * high) / stride), 0), limit)
        last = min(max(round((margin * low + (1 - margin) * high) / stride), 0), limit)
        if not first <= at <= last:
            return False
    return True


def target_of(
    boxes: list[list[float]], level: int, row: int, column: int, size: tuple[int, int], anchor_scale: float
) -> tuple[bool, float]:
    """One cell: the last object of this level whose middle half holds it decides; else a neighbouring level's
    object; else 0.1.
    """
    decision, near = None, False
    for box in boxes:
        own = level_of(box, anchor_scale)
        if own == level and within(box, 0.5, row, column, STRIDES[level], size):
            decision = within(box, 0.2, row, column, STRIDES[level], size)
        near |= abs(own - level) == 1 and within(box, 0.5, row, column, STRIDES[level], size)
    if decision is not None:
        return decision, float(decision)
    return False, 0.0 if near else 0.1


EMPTY = truth([], [])
ONE = truth([(10, 8, 50, 44)], [1])
CROWDED = truth(
    [
        (4, 4, 36, 40),
        (5, 4, 37, 40),
        (40, 10, 80, 50),
        (0, 0, 3, 3),
        (0, 0, 96, 64),
        (20, 20, 32, 30),
        (90, 60, 96, 64),
        (70, 3, 76, 61),
    ],
    [0] * 8,
)
LATER_COVERS = truth([(20, 20, 36, 36), (24, 20, 44, 36)], [0, 0])


@pytest.mark.parametrize("scale", [4.0, 8.0])
@pytest.mark.parametrize(
    "truths",
    [(CROWDED, ONE), (LATER_COVERS, EMPTY), (EMPTY, EMPTY), (ONE,)],
    ids=["crowded", "later covers", "empty", "one"],
)
def test_location_targets_cell_by_cell(truths: tuple[GroundTruth, ...], scale: float) -> None:
    rpn = head(anchor_scale=scale)
    said = levels(rpn, images=len(truths))
    centers = 0
    for number, (level, target) in enumerate(zip(said, location_targets(truths, said, rpn.config), strict=True)):
        size = (level.scores.height, level.scores.width)
        for i, each in enumerate(truths):
            boxes = each.boxes.tolist()
            expected = [
                target_of(boxes, number, row, column, size, scale)
                for row in range(size[0])
                for column in range(size[1])
            ]
            assert target.center[i].tolist() == [center for center, _ in expected]
            torch.testing.assert_close(target.weight[i], torch.tensor([weight for _, weight in expected]))
            centers += sum(center for center, _ in expected)
    assert (centers > 0) == any(len(each.boxes) for each in truths)


def test_a_later_object_takes_the_center_of_an_earlier_one() -> None:
    rpn = head()
    said = levels(rpn)
    alone, both = (
        location_targets((one, EMPTY), said, rpn.config)[0].center[0]
        for one in (truth([(20, 20, 36, 36)], [0]), LATER_COVERS)
    )
    assert (alone & ~both).any()


def test_a_region_that_starts_at_the_border_is_empty() -> None:
    """An object whose center rounds to the first cell beyond the map trains no location."""
    rpn = head()
    said = levels(rpn)
    target = location_targets((truth([(92, 60, 100, 68)], [0]), EMPTY), said, rpn.config)[0]
    assert not target.center.any()


def reach(objects: Tensor, inside: list[int], rpn: GuidedHead, said: list[GuidedScores]) -> Tensor:
    """(M, I): the best of nine boxes a location, one by one."""
    rows = []
    for level in said:
        for row in range(level.scores.height):
            for column in range(level.scores.width):
                x, y = column * level.scores.stride, row * level.scores.stride
                nine = []
                for octave in (0, 1 / 3, 2 / 3):
                    for ratio in (0.5, 1.0, 2.0):
                        side = rpn.config.anchor_scale * 2**octave * level.scores.stride
                        w, h = side / math.sqrt(ratio), side * math.sqrt(ratio)
                        nine.append([x - w / 2, y - h / 2, x + w / 2, y + h / 2])
                rows.append(nine)
    boxes = torch.tensor(rows)[inside]
    return iou(objects, boxes.view(-1, 4)).view(len(objects), len(inside), 9).amax(-1)


@pytest.mark.parametrize("rule", ["picture", "cells"])
@pytest.mark.parametrize("size", [(64, 96), (40, 33)])
def test_locations_that_are_trained(rule: str, size: tuple[int, int]) -> None:
    """All whose cell starts inside the size rounded up to 32; or those where any of the nine boxes lies in the
    image.
    """
    rpn = head(anchors_inside=rule)
    said = levels(rpn)
    found = locations_inside(rpn.config, said, prior_boxes(rpn.config, said), torch.tensor(size)).tolist()
    expected = []
    for level in said:
        for row in range(level.scores.height):
            for column in range(level.scores.width):
                x, y, stride = column * level.scores.stride, row * level.scores.stride, level.scores.stride
                halves = [
                    (4 * 2 ** (i / 3) * stride / math.sqrt(ratio) / 2, 4 * 2 ** (i / 3) * stride * math.sqrt(ratio) / 2)
                    for i in range(3)
                    for ratio in (0.5, 1.0, 2.0)
                ]
                fits = any(x - w >= 0 and y - h >= 0 and x + w < size[1] and y + h < size[0] for w, h in halves)
                cell = y < -(-size[0] // 32) * 32 and x < -(-size[1] // 32) * 32
                expected.append(fits if rule == "picture" else cell)
    assert found == expected


@pytest.mark.parametrize("count", [0, 3])
def test_the_best_of_nine_boxes(count: int) -> None:
    rpn = head()
    said = levels(rpn)
    objects, inside = CROWDED.boxes[:count], torch.arange(5, 40)
    found = best_iou(objects, prior_boxes(rpn.config, said), inside)
    torch.testing.assert_close(found, reach(objects, inside.tolist(), rpn, said))


def bounded(p: list[float], t: list[float]) -> float:
    total = 0.0
    for axis in (0, 1):
        size, wanted = p[axis + 2] - p[axis], t[axis + 2] - t[axis]
        d = abs((p[axis] + p[axis + 2]) / 2 - (t[axis] + t[axis + 2]) / 2)
        for z in (
            1 - max(0.0, (wanted - 2 * d) / (wanted + 2 * d + 1e-3)),
            1 - min(wanted / (size + 1e-3), size / (wanted + 1e-3)),
        ):
            total += z * z / 2 / 0.2 if z < 0.2 else z - 0.1
    return total


@pytest.mark.parametrize("count", [0, 1, 6])
def test_bounded_iou_loss_written_out(count: int) -> None:
    numbers = torch.Generator().manual_seed(1)
    corner = torch.rand(2, count, 2, generator=numbers) * 30
    first, second = torch.cat([corner, corner + 5 + torch.rand(2, count, 2, generator=numbers) * 40], -1)
    assert float(bounded_iou_loss(first, second)) == pytest.approx(
        sum(map(bounded, first.tolist(), second.tolist())), rel=1e-4, abs=1e-7
    )
    assert float(bounded_iou_loss(first, first)) == pytest.approx(0, abs=1e-3)


def matched(overlap: Tensor) -> list[int | None]:
    """Object, None (ignored) or -1 (background) of each region, by the rules of the RPN."""
    best = overlap.amax(1).tolist() if overlap.numel() else []
    served: list[int | None] = []
    for column in overlap.T.tolist():
        top = max(column, default=0.0)
        one = column.index(top) if column and top >= 0.7 else -1 if top < float(torch.tensor(0.3)) else None
        for m, value in enumerate(column):
            one = m if value == best[m] and value >= float(torch.tensor(0.3)) else one
        served.append(one)
    return served


def written_out(rpn: GuidedHead, said: list[GuidedScores], batch: Batch) -> dict[str, float]:
    """All four losses when every candidate is sampled."""
    focal, cells = 0.0, 0
    for level, target in zip(said, location_targets(batch.truths, said, rpn.config), strict=True):
        p = level.location.detach().double().sigmoid()
        each = torch.where(target.center, -0.25 * (1 - p) ** 2 * p.log(), -0.75 * p**2 * (1 - p).log())
        focal, cells = focal + float((each * target.weight).sum()), cells + p.numel()
    sums, counts = dict.fromkeys(("shape", "class", "box"), 0.0), dict.fromkeys(("shape", "class"), 0)
    for i, each in enumerate(batch.truths):
        anchors = torch.cat([rpn.anchors(level)[i] for level in said]).detach()
        logits, deltas = (
            torch.cat([getattr(level.scores, part)[i] for level in said]).detach() for part in ("logits", "deltas")
        )
        inside = (
            locations_inside(rpn.config, said, prior_boxes(rpn.config, said), batch.sizes[i])
            .nonzero()
            .flatten()
            .tolist()
        )
        for part, served in (
            ("shape", matched(reach(each.boxes, inside, rpn, said))),
            ("class", matched(iou(each.boxes, anchors[inside]))),
        ):
            positive = [(a, m) for a, m in zip(inside, served, strict=True) if m is not None and m >= 0]
            counts[part] += max(len(positive), 1) + max(served.count(-1), 1)
            if part == "shape":
                sums["shape"] += sum(bounded(anchors[a].tolist(), each.boxes[m].tolist()) for a, m in positive)
                continue
            negative = [a for a, m in zip(inside, served, strict=True) if m == -1]
            sums["class"] += sum(math.log1p(math.exp(-float(logits[a]))) for a, _ in positive) + sum(
                math.log1p(math.exp(float(logits[a]))) for a in negative
            )
            for a, m in positive:
                for d in (
                    (deltas[a] - encode(anchors[a][None], each.boxes[m][None], (0.07, 0.07, 0.11, 0.11))[0])
                    .abs()
                    .tolist()
                ):
                    sums["box"] += d * d / 2 if d < 1 else d - 0.5
    return {
        "rpn.location": focal / (cells / 200),
        "rpn.shape": sums["shape"] / counts["shape"],
        "rpn.class": sums["class"] / counts["class"],
        "rpn.box": sums["box"] / counts["class"],
    }


@pytest.mark.parametrize("rule", ["picture", "cells"])
@pytest.mark.parametrize(
    "truths",
    [(CROWDED, ONE), (EMPTY, ONE), (EMPTY, EMPTY), (ONE,)],
    ids=["both", "one empty", "all empty", "batch of one"],
)
def test_losses_equal_the_rules_written_out(rule: str, truths: tuple[GroundTruth, ...]) -> None:
    rpn = head(anchors_inside=rule)
    batch = small_batch(small_config(), truths)
    said = levels(rpn, images=len(truths))
    terms = {name: float(term.average().detach()) for name, term in guided_losses(rpn, said, batch).items()}
    assert terms == pytest.approx(written_out(rpn, said, batch), rel=1e-4, abs=1e-7)
    assert (terms["rpn.shape"] > 0) == any(len(each.boxes) for each in truths)


def test_shape_and_objectness_are_sampled_apart_and_by_the_images_seed_alone() -> None:
    rpn = head(samples=32)
    batch, said = small_batch(small_config()), levels(rpn)
    found = []
    for seeds in ((1, 2), (1, 2), (1, 3)):
        torch.rand(5)
        found.append(
            {
                name: float(term.average().detach())
                for name, term in guided_losses(rpn, said, replace(batch, seeds=seeds)).items()
            }
        )
    assert found[0] == found[1]
    assert found[0]["rpn.class"] != found[2]["rpn.class"]
    assert float(guided_losses(rpn, said, batch)["rpn.class"].count) <= 64


@pytest.mark.parametrize("truths", [(EMPTY,), (ONE,)], ids=["empty", "one"])
def test_every_parameter_gets_a_gradient(truths: tuple[GroundTruth, ...]) -> None:
    """Also without objects: processes that train together wait for each one's gradient."""
    rpn = head()
    terms = guided_losses(rpn, levels(rpn, images=1), small_batch(small_config(), truths))
    sum(term.average() for term in terms.values()).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in rpn.parameters())


def test_class_and_box_losses_do_not_move_the_shape() -> None:
    """Guided anchors are given to them, not trained by them."""
    rpn = head()
    terms = guided_losses(rpn, levels(rpn), small_batch(small_config()))
    (terms["rpn.class"].average() + terms["rpn.box"].average()).backward()
    assert rpn.shape.weight.grad is None
    assert rpn.location.weight.grad is None

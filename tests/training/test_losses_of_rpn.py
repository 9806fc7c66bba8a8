"""Training of the region proposal network: which anchors take part, and the two losses written out."""

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from htc.config import RPN
from htc.model.rpn import LevelScores, ProposalHead
from htc.ops.boxes import encode, iou
from htc.training.losses import anchors_inside, rpn_losses
from htc.types import Batch, GroundTruth
from small_detector import small_batch, small_config, truth

EVERYTHING = 1_000_000


def head(**fields: object) -> ProposalHead:
    torch.manual_seed(0)
    return ProposalHead(16, RPN(**({"anchor_scale": 4.0, "samples": EVERYTHING, "positive_fraction": 0.5} | fields)))


def levels(rpn: ProposalHead, height: int = 64, width: int = 96, images: int = 2) -> list[LevelScores]:
    numbers = torch.Generator().manual_seed(3)
    return rpn(
        tuple(
            torch.randn(images, 16, -(-height // s), -(-width // s), generator=numbers) * 5 for s in (4, 8, 16, 32, 64)
        )
    )


def anchors(rpn: ProposalHead, said: list[LevelScores]) -> Tensor:
    return torch.cat([rpn.anchors(level) for level in said])


@pytest.mark.parametrize("size", [(64, 96), (56, 80), (33, 17), (4, 4)])
def test_anchors_wholly_inside_the_image(size: tuple[int, int]) -> None:
    rpn = head(anchors_inside="picture")
    said = levels(rpn)
    everything = anchors(rpn, said)
    inside = anchors_inside(rpn, said, everything, torch.tensor(size))
    expected = [x1 >= 0 and y1 >= 0 and x2 < size[1] and y2 < size[0] for x1, y1, x2, y2 in everything.tolist()]
    assert inside.tolist() == expected


def test_an_anchor_that_ends_on_the_far_border_is_not_inside() -> None:
    """x2 < width and not <=; x1 >= 0 includes 0."""
    rpn = head(anchors_inside="picture", anchor_ratios=(1.0,), anchor_scale=2.0)
    said = levels(rpn)[:1]
    box = rpn.anchors(said[0])[25]  # row 1, column 1 at stride 4: (0, 0) - (8, 8)
    assert box.tolist() == [0, 0, 8, 8]
    for size, expected in (((8, 9), False), ((9, 8), False), ((9, 9), True)):
        assert bool(anchors_inside(rpn, said, box[None], torch.tensor(size))[0]) is expected


@pytest.mark.parametrize(
    ("size", "rows", "columns"), [((64, 96), 64, 96), ((56, 80), 64, 96), ((32, 33), 32, 64), ((1, 64), 32, 64)]
)
def test_anchors_whose_cell_starts_inside(size: tuple[int, int], rows: int, columns: int) -> None:
    """Whatever their extent; the size is rounded up to 32, the batch's padding beyond it takes no part."""
    rpn = head(anchors_inside="cells")
    said = levels(rpn, 128, 160)
    inside = anchors_inside(rpn, said, anchors(rpn, said), torch.tensor(size))
    expected = []
    for level in said:
        for row in range(level.height):
            for column in range(level.width):
                expected += [row * level.stride < rows and column * level.stride < columns] * 3
    assert inside.tolist() == expected


def written_out(rpn: ProposalHead, said: list[LevelScores], batch: Batch) -> tuple[float, float]:
    """Both losses from the rules, anchor by anchor, when all candidates are sampled."""
    config = rpn.config
    logits, deltas = (
        torch.cat([x.logits for x in said], 1).detach().double(),
        torch.cat([x.deltas for x in said], 1).detach(),
    )
    everything = anchors(rpn, said)
    bce = boxes = 0.0
    count = 0
    for i, each in enumerate(batch.truths):
        inside = anchors_inside(rpn, said, everything, batch.sizes[i]).nonzero().flatten().tolist()
        overlap = iou(each.boxes, everything[inside])
        reach = overlap.amax(1).tolist() if len(each.boxes) and inside else []
        positives = negatives = 0
        for j, a in enumerate(inside):
            column = overlap[:, j].tolist()
            best = max(column, default=0.0)
            served = column.index(best) if column and best >= 0.7 else None
            for m, value in enumerate(column):
                served = m if value == reach[m] and value >= float(torch.tensor(0.3)) else served
            if served is not None:
                positives += 1
                bce += math.log1p(math.exp(-float(logits[i, a])))
                target = encode(everything[a][None], each.boxes[served][None], (1.0, 1.0, 1.0, 1.0))[0]
                for d in (deltas[i, a] - target).abs().tolist():
                    quadratic = config.box_loss == "smooth_l1" and d < config.box_loss_beta
                    boxes += (
                        d**2 / 2 / config.box_loss_beta
                        if quadratic
                        else d - (config.box_loss_beta / 2 if config.box_loss == "smooth_l1" else 0)
                    )
            elif best < float(torch.tensor(0.3)):
                negatives += 1
                bce += math.log1p(math.exp(float(logits[i, a])))
        count += max(positives, 1) + max(negatives, 1)
    return bce / count, boxes / count


EMPTY = truth([], [])
ONE = truth([(10, 8, 50, 44)], [1])
CROWDED = truth([(4, 4, 36, 40), (5, 4, 37, 40), (40, 10, 80, 50), (0, 0, 3, 3)], [0, 1, 2, 0])


@pytest.mark.parametrize("rule", ["picture", "cells"])
@pytest.mark.parametrize("loss", ["smooth_l1", "l1"])
@pytest.mark.parametrize(
    "truths",
    [(CROWDED, ONE), (EMPTY, ONE), (EMPTY, EMPTY), (ONE,)],
    ids=["both", "one empty", "all empty", "batch of one"],
)
def test_losses_equal_the_rules_written_out(rule: str, loss: str, truths: tuple[GroundTruth, ...]) -> None:
    rpn = head(anchors_inside=rule, box_loss=loss)
    batch = small_batch(small_config(), truths)
    said = levels(rpn, images=len(truths))
    terms = rpn_losses(rpn, said, batch)
    ours = [float(terms[name].average().detach()) for name in ("rpn.class", "rpn.box")]
    assert ours == pytest.approx(written_out(rpn, said, batch), rel=1e-4, abs=1e-7)
    assert ours[0] > 0


def test_at_most_the_configured_number_is_sampled() -> None:
    rpn = head(samples=32)
    batch = small_batch(small_config())
    assert float(rpn_losses(rpn, levels(rpn), batch)["rpn.class"].count) <= 64
    assert float(rpn_losses(head(), levels(rpn), batch)["rpn.class"].count) > 200


def test_sampled_anchors_depend_on_the_images_seed_alone() -> None:
    rpn = head(samples=32)
    batch, said = small_batch(small_config()), levels(rpn)
    losses = []
    for seeds in ((1, 2), (1, 2), (1, 3)):
        torch.rand(5)
        losses.append(float(rpn_losses(rpn, said, replace(batch, seeds=seeds))["rpn.class"].average().detach()))
    assert losses[0] == losses[1] != losses[2]


@pytest.mark.parametrize("size", [(2, 2), (64, 96)])
def test_every_parameter_gets_a_gradient_also_without_anchors_inside(size: tuple[int, int]) -> None:
    """An image too small for any anchor counts as one positive and one negative and teaches nothing."""
    rpn = head()
    batch = replace(small_batch(small_config(), (ONE,)), sizes=torch.tensor([size]))
    terms = rpn_losses(rpn, levels(rpn, images=1), batch)
    sum(term.average() for term in terms.values()).backward()
    assert all(p.grad is not None for p in rpn.parameters())
    if size == (2, 2):
        assert float(terms["rpn.class"].count) == 2
        assert float(terms["rpn.class"].total.detach()) == 0

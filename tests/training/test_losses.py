"""The terms of Eq. 7 against sums written out."""

import math

import pytest
import torch
from torch import Tensor

from htc.config import Semantic
from htc.training.losses import Term, box_loss, class_loss, mask_loss, semantic_loss


def tensor(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("count", [0, 1, 6])
@pytest.mark.parametrize(("kind", "beta"), [("smooth_l1", 1.0), ("smooth_l1", 1 / 9), ("l1", 1.0)])
def test_box_loss(kind: str, beta: float, count: int) -> None:
    predicted, target = tensor(count, 4), tensor(count, 4, seed=1)
    expected = 0.0
    for difference in (predicted - target).abs().flatten().tolist():
        quadratic = kind == "smooth_l1" and difference < beta
        expected += difference**2 / (2 * beta) if quadratic else difference - (beta / 2 if kind == "smooth_l1" else 0)
    assert float(box_loss(predicted, target, kind, beta)) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("count", [0, 1, 6])
def test_class_loss(count: int) -> None:
    logits, labels = tensor(count, 4), torch.arange(count) % 4
    expected = sum(
        -math.log(float(row.exp()[label] / row.exp().sum())) for row, label in zip(logits, labels, strict=True)
    )
    assert float(class_loss(logits, labels)) == pytest.approx(expected, rel=1e-5, abs=1e-9)


def test_mask_loss_sums_over_regions_and_averages_over_their_grid() -> None:
    logits, targets = tensor(3, 28, 28), (tensor(3, 28, 28, seed=1) > 0).float()
    probability = logits.sigmoid()
    each = -(targets * probability.log() + (1 - targets) * (1 - probability).log()).mean((1, 2))
    assert float(mask_loss(logits, targets)) == pytest.approx(float(each[0] + each[1] + each[2]), rel=1e-5)
    assert float(mask_loss(logits[:0], targets[:0])) == 0


def semantic_target(height: int = 32, width: int = 40) -> Tensor:
    target = torch.randint(0, 5, (2, height, width), generator=torch.Generator().manual_seed(2)).to(torch.uint8)
    target[0, :16] = 255
    return target


@pytest.mark.parametrize("average", ["labelled", "all"])
def test_semantic_loss_reads_the_top_left_pixel_of_each_block(average: str) -> None:
    logits, target = tensor(2, 5, 4, 5), semantic_target()
    total, labelled = 0.0, 0
    for b in range(2):
        for i in range(4):
            for j in range(5):
                label = int(target[b, 8 * i, 8 * j])
                if label != 255:
                    total -= float(logits[b, :, i, j].log_softmax(0)[label])
                    labelled += 1
    term = semantic_loss(logits, target, Semantic(classes=5, loss_weight=0.2, loss_average=average))  # type: ignore[arg-type]
    assert labelled == 30
    assert float(term.average()) == pytest.approx(0.2 * total / (labelled if average == "labelled" else 40), rel=1e-5)


def test_nothing_labelled_is_no_loss_and_no_gradient() -> None:
    logits = tensor(1, 5, 4, 5).requires_grad_()
    loss = semantic_loss(logits, torch.full((1, 32, 40), 255, dtype=torch.uint8), Semantic(classes=5)).average()
    loss.backward()
    assert float(loss.detach()) == 0
    assert logits.grad is not None
    assert logits.grad.abs().sum() == 0


def test_padding_is_ignored_whatever_value_the_maps_ignore() -> None:
    """Batches are padded with 255, also where a data set marks its unlabelled pixels with another value."""
    logits, target = tensor(2, 5, 4, 5), semantic_target()
    other = target.clone()
    other[1, :8] = 7
    same = target.clone()
    same[1, :8] = 255
    assert float(semantic_loss(logits, other, Semantic(classes=5, ignore=7)).average()) == float(
        semantic_loss(logits, same, Semantic(classes=5)).average()
    )


@pytest.mark.parametrize(("count", "expected"), [(0.0, 3.0), (1.0, 3.0), (4.0, 0.75)])
def test_a_term_is_averaged_and_weighted(count: float, expected: float) -> None:
    assert float(Term(torch.tensor(6.0), torch.tensor(count), 0.5).average()) == expected

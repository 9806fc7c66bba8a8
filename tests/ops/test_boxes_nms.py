"""Non-maximum suppression of fixed capacity against torchvision's."""

import pytest
import torch
from torch import Tensor
from torchvision.ops import batched_nms
from torchvision.ops import nms as torchvision_nms

from htc.ops import boxes as module
from htc.ops.boxes import NMS_PREFIX, nms, nms_per_class


def candidates(count: int, seed: int = 0, side: float = 200.0, offset: float = 0.0) -> tuple[Tensor, Tensor]:
    """Crowded boxes and their scores, all different."""
    numbers = torch.Generator().manual_seed(seed)
    corner = torch.rand(count, 2, generator=numbers) * side + offset
    boxes = torch.cat([corner, corner + 5 + torch.rand(count, 2, generator=numbers) * 60], 1)
    return boxes, (torch.randperm(count, generator=numbers) + 1) / (count + 1)


@pytest.mark.parametrize("capacity", [1, 20, 500])
@pytest.mark.parametrize("threshold", [0.0, 0.3, 0.7])
def test_equals_torchvision(threshold: float, capacity: int) -> None:
    boxes, scores = candidates(400)
    slots, filled = nms(boxes, scores, torch.ones(400, dtype=torch.bool), threshold, capacity)
    expected = torchvision_nms(boxes, scores, threshold)[:capacity]
    assert slots.shape == filled.shape == (capacity,)
    assert slots[filled].tolist() == expected.tolist()
    assert filled[: len(expected)].all()


@pytest.mark.parametrize("threshold", [0.0, 0.5, 1.0])
def test_invalid_rows_neither_survive_nor_suppress(threshold: float) -> None:
    boxes, scores = candidates(100)
    valid = torch.arange(100) % 3 != 0
    slots, filled = nms(boxes, scores, valid, threshold, 100)
    rows = valid.nonzero().squeeze(1)
    assert slots[filled].tolist() == rows[torchvision_nms(boxes[valid], scores[valid], threshold)].tolist()


@pytest.mark.parametrize("count", [0, 1, 5])
def test_nothing_valid(count: int) -> None:
    boxes, scores = candidates(count)
    nothing = torch.zeros(count, dtype=torch.bool)
    for slots, filled in (
        nms(boxes, scores, nothing, 0.5, 4),
        nms_per_class(boxes, scores, torch.zeros(count, dtype=torch.long), nothing, 0.5, 4),
    ):
        assert slots.shape == (4,)
        assert filled.tolist() == [False] * 4


@pytest.mark.parametrize("count", [1, 300, NMS_PREFIX + 500])
@pytest.mark.parametrize("offset", [0.0, -150.0])
def test_per_class_equals_batched_nms(count: int, offset: float) -> None:
    boxes, scores = candidates(count, offset=offset)
    labels = torch.arange(count) % 7
    slots, filled = nms_per_class(boxes, scores, labels, torch.ones(count, dtype=torch.bool), 0.5, 50)
    assert slots[filled].tolist() == batched_nms(boxes, scores, labels, 0.5)[:50].tolist()


def test_classes_do_not_suppress_each_other_across_the_origin() -> None:
    """Coordinates below zero: the ranges into which classes are moved must still be apart."""
    boxes = torch.tensor([[40.0, 40.0, 50.0, 50.0], [-50.0, -50.0, -1.0, -1.0], [-11.0, -11.0, -1.0, -1.0]])
    slots, filled = nms_per_class(
        boxes, torch.tensor([0.9, 0.8, 0.7]), torch.tensor([0, 1, 1]), torch.ones(3, dtype=torch.bool), 0.5, 3
    )
    assert sorted(slots[filled].tolist()) == [0, 1, 2]


def test_the_prefix_grows_until_it_fills_the_capacity(monkeypatch: pytest.MonkeyPatch) -> None:
    """3500 copies of one good box come first: what else survives lies beyond the first 3000 candidates."""
    tries = []
    original = module.nms

    def counted(boxes: Tensor, *rest: object) -> tuple[Tensor, Tensor]:
        tries.append(len(boxes))
        return original(boxes, *rest)

    monkeypatch.setattr(module, "nms", counted)
    boxes, scores = candidates(5000, side=2000.0)
    boxes[:3500] = torch.tensor([10.0, 10.0, 60.0, 60.0])
    scores = scores / 2 + (torch.arange(5000) < 3500) / 2
    labels = torch.zeros(5000, dtype=torch.long)
    slots, filled = nms_per_class(boxes, scores, labels, torch.ones(5000, dtype=torch.bool), 0.5, 100)
    assert tries == [NMS_PREFIX, 5000]
    assert filled.all()
    assert slots.tolist() == torchvision_nms(boxes, scores, 0.5)[:100].tolist()


def test_the_prefix_stops_growing_where_nothing_valid_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    tries = []
    original = module.nms
    monkeypatch.setattr(module, "nms", lambda *a: tries.append(len(a[0])) or original(*a))
    boxes, scores = candidates(5000)
    valid = torch.arange(5000) < 40
    _, filled = nms_per_class(boxes, scores, torch.zeros(5000, dtype=torch.long), valid, 0.5, 100)
    assert tries == [NMS_PREFIX]
    assert 0 < int(filled.sum()) <= 40


def test_class_offsets_keep_hundredths_of_a_pixel() -> None:
    """IoU of exactly 0.5 +- 0.0001 in the last of 80 classes on a large image; float32 offsets would blur it."""
    base = torch.tensor([1300.0, 780.0, 1310.0, 790.0])
    boxes = torch.stack(
        [
            base,
            base + torch.tensor([0, 0, 0, -4.998]),
            base + torch.tensor([20.0, 0, 20, 0]),
            base + torch.tensor([20.0, 0, 20, -5.002]),
        ]
    )
    slots, filled = nms_per_class(
        boxes, torch.tensor([0.9, 0.8, 0.7, 0.6]), torch.full((4,), 79), torch.ones(4, dtype=torch.bool), 0.5, 4
    )
    assert slots[filled].tolist() == [0, 2, 3]


def test_a_device_without_float64_leaves_it_to_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """No such device is at hand: one call is told that its boxes lie there, and calls again with what lies on the
    CPU.
    """
    boxes, scores = candidates(300)
    labels, valid = torch.arange(300) % 3, torch.ones(300, dtype=torch.bool)
    expected = nms_per_class(boxes, scores, labels, valid, 0.5, 20)
    asked = iter([True, False])
    monkeypatch.setattr(module, "without_float64", lambda _boxes: next(asked))
    found = nms_per_class(boxes, scores, labels, valid, 0.5, 20)
    assert next(asked, None) is None
    assert all(torch.equal(one, other) for one, other in zip(found, expected, strict=True))

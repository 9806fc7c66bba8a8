"""Soft-NMS against the definition, box by box."""

import math

import pytest
import torch
from torch import Tensor

from htc.ops import soft_nms as module
from htc.ops.boxes import nms_per_class
from htc.ops.soft_nms import SOFT_NMS_PREFIX, Decay, gaussian_decay, linear_decay, soft_nms_per_class
from ops.test_boxes_nms import candidates

MIN_SCORE = 0.02


def weight(kind: str, overlap: float) -> float:
    """The paper: s (1 - IoU) over the threshold, or s exp(-IoU^2 / sigma)."""
    if kind == "linear":
        return 1 - overlap if overlap > 0.5 else 1.0
    return math.exp(-(overlap**2) / 0.5)


DECAYS: dict[str, Decay] = {"linear": linear_decay(0.5), "gaussian": gaussian_decay(0.5)}


def overlap(a: list[float], b: list[float]) -> float:
    width, height = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    both = max(width, 0) * max(height, 0)
    return both / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - both)


def literal(
    kind: str, boxes: Tensor, scores: Tensor, labels: Tensor, valid: Tensor, capacity: int
) -> list[tuple[float, int]]:
    """Class by class to the end, then the best over all classes: (score, index)."""
    picked = []
    for label in set(labels.tolist()):
        left = {
            i: float(scores[i])
            for i in range(len(scores))
            if labels[i] == label and valid[i] and scores[i] >= MIN_SCORE
        }
        places = {i: boxes[i].tolist() for i in left}
        while left:
            best = max(left, key=lambda i: left[i])
            picked.append((left.pop(best), best))
            left = {i: score * weight(kind, overlap(places[i], places[best])) for i, score in left.items()}
            left = {i: score for i, score in left.items() if score >= MIN_SCORE}
    return sorted(picked, reverse=True)[:capacity]


@pytest.mark.parametrize("kind", ["linear", "gaussian"])
@pytest.mark.parametrize("capacity", [1, 30, 300])
@pytest.mark.parametrize("classes", [1, 4])
@pytest.mark.parametrize("offset", [0.0, -150.0])
def test_equals_the_definition(kind: str, capacity: int, classes: int, offset: float) -> None:
    boxes, scores = candidates(150, offset=offset)
    labels, valid = torch.arange(150) % classes, torch.arange(150) % 5 != 2
    picks, left, filled = soft_nms_per_class(boxes, scores, labels, valid, DECAYS[kind], MIN_SCORE, capacity)
    assert picks.shape == left.shape == filled.shape == (capacity,)
    expected = literal(kind, boxes, scores, labels, valid, capacity)
    assert picks[filled].tolist() == [index for _, index in expected]
    torch.testing.assert_close(left[filled], torch.tensor([score for score, _ in expected]), rtol=1e-5, atol=1e-7)
    assert filled[: len(expected)].all()


@pytest.mark.parametrize("kind", ["linear", "gaussian"])
@pytest.mark.parametrize("count", [0, 1, 5])
def test_nothing_valid(count: int, kind: str) -> None:
    boxes, scores = candidates(count)
    labels, nothing = torch.zeros(count, dtype=torch.long), torch.zeros(count, dtype=torch.bool)
    picks, left, filled = soft_nms_per_class(boxes, scores, labels, nothing, DECAYS[kind], 0.0, 4)
    assert picks.shape == left.shape == (4,)
    assert filled.tolist() == [False] * 4


def test_full_decay_is_hard_nms() -> None:
    """A decay that leaves nothing over 0.5 is the old rule."""
    boxes, scores = candidates(400)
    labels, valid = torch.arange(400) % 3, torch.ones(400, dtype=torch.bool)
    picks, left, filled = soft_nms_per_class(boxes, scores, labels, valid, lambda iou: (iou <= 0.5).double(), 0.0, 60)
    slots, kept = nms_per_class(boxes, scores, labels, valid, 0.5, 60)
    assert picks[filled].tolist() == slots[kept].tolist()
    assert torch.equal(left[filled], scores[slots[kept]])


def test_a_box_at_the_least_score_stays_and_one_at_the_threshold_keeps_its_score() -> None:
    """IoU of exactly 0.5 is not over it; 0.6 x (1 - 2/3) = 0.2 is not below 0.2."""
    boxes = torch.tensor([[0.0, 0.0, 30.0, 10.0], [0.0, 0.0, 15.0, 10.0], [0.0, 0.0, 20.0, 10.0]])
    scores, labels, valid = (
        torch.tensor([0.9, 0.7, 0.6]),
        torch.zeros(3, dtype=torch.long),
        torch.ones(3, dtype=torch.bool),
    )
    picks, left, filled = soft_nms_per_class(boxes, scores, labels, valid, linear_decay(0.5), 0.0, 3)
    assert picks.tolist() == [0, 1, 2]
    torch.testing.assert_close(left, torch.tensor([0.9, 0.7, 0.6 * (1 - 2 / 3) * (1 - 0.75)]))
    alone = torch.tensor([True, False, True])
    _, left, filled = soft_nms_per_class(
        boxes, scores, labels, alone, linear_decay(0.5), float(scores[2] * torch.tensor(1 - 20 / 30)), 2
    )
    assert filled.all()
    _, left, filled = soft_nms_per_class(boxes, scores, labels, alone, linear_decay(0.5), 0.21, 2)
    assert filled.tolist() == [True, False]


@pytest.mark.parametrize("kind", ["linear", "gaussian"])
def test_the_prefix_grows_until_no_candidate_outside_is_better(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """1200 copies of one good box come first: after a few of them the best boxes lie beyond the prefix."""
    tries = []
    original = module._pick

    def counted(boxes: Tensor, *rest: object) -> tuple[Tensor, Tensor]:
        tries.append(len(boxes))
        return original(boxes, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(module, "_pick", counted)
    boxes, scores = candidates(1300, side=2000.0)
    boxes[:1200] = torch.tensor([10.0, 10.0, 60.0, 60.0])
    scores = scores / 4 + (torch.arange(1300) < 1200) / 2 + 0.1
    labels, valid = torch.zeros(1300, dtype=torch.long), torch.ones(1300, dtype=torch.bool)
    picks, _, filled = soft_nms_per_class(boxes, scores, labels, valid, DECAYS[kind], 0.001, 40)
    assert tries == [SOFT_NMS_PREFIX, 1300]
    monkeypatch.setattr(module, "SOFT_NMS_PREFIX", 1300)
    whole, _, _ = soft_nms_per_class(boxes, scores, labels, valid, DECAYS[kind], 0.001, 40)
    assert filled.all()
    assert torch.equal(picks, whole)
    assert (picks >= 1200).any()


def test_can_be_exported() -> None:
    class Wrapper(torch.nn.Module):
        def forward(self, boxes: Tensor, scores: Tensor, labels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
            return soft_nms_per_class(boxes, scores, labels, scores > 0.1, DECAYS["gaussian"], 0.05, 12)

    boxes, scores = candidates(60)
    inputs = (boxes, scores, torch.arange(60) % 3)
    graph = torch.export.export(Wrapper(), inputs).module()
    for ours, exported in zip(Wrapper()(*inputs), graph(*inputs), strict=True):
        torch.testing.assert_close(ours, exported)


def test_a_device_without_float64_leaves_it_to_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    boxes, scores = candidates(300)
    labels, valid = torch.arange(300) % 3, torch.ones(300, dtype=torch.bool)
    expected = soft_nms_per_class(boxes, scores, labels, valid, linear_decay(0.3), 0.001, 20)
    asked = iter([True, False])
    monkeypatch.setattr(module, "without_float64", lambda _boxes: next(asked))
    found = soft_nms_per_class(boxes, scores, labels, valid, linear_decay(0.3), 0.001, 20)
    assert next(asked, None) is None
    assert all(torch.equal(one, other) for one, other in zip(found, expected, strict=True))

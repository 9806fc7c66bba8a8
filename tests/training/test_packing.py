"""Norms in the heads see the regions that are there, and nothing of the slots that fill up a batch."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from htc.config import FPN, Config, FineMask, FusionMask
from htc.model.detector import Detector
from htc.training import sampling
from htc.training.objective import TrainingObjective
from htc.types import Rois
from small_detector import CHANNELS, seeded_detector, small_batch, small_config, truth

NORMS = {"mask_norm": "batch", "box_norm": "batch", "box_convs": 1, "box_fcs": 1}
HEADS: list[dict[str, Any]] = [
    {},
    {"mask_head": FineMask()},
    {"mask_head": FusionMask(), "mask_convs": 2, "pooled_levels": "all"},
]


def config(**cascade: Any) -> Config:
    return small_config(2, semantic={}, neck=FPN(channels=CHANNELS, norm="group"), cascade=NORMS | cascade)


def step(of: Config, *truths: Any) -> tuple[dict[str, Tensor], dict[str, Tensor], Detector]:
    """Losses and gradients of one step, and the detector after it."""
    detector = seeded_detector(of)
    losses = TrainingObjective(detector, of).train()(small_batch(of, tuple(truths) or None))
    torch.stack(list(losses.values())).sum().backward()
    return losses, {name: p.grad for name, p in detector.named_parameters() if p.grad is not None}, detector


def statistics(detector: Detector) -> dict[str, Tensor]:
    return {name: value for name, value in detector.named_buffers() if name.startswith("roi.") and "running" in name}


def with_more_slots(rows: Any, sizes: Tensor, padded: Callable[..., Any] = sampling._padded) -> Any:
    """Sixteen empty slots more in every image."""
    rois = padded(rows, sizes)

    def longer(value: Tensor) -> Tensor:
        return torch.cat([value, value.new_zeros((len(value), 16, *value.shape[2:]))], 1)

    targets = replace(rois.targets, **{name: longer(value) for name, value in vars(rois.targets).items()})
    return replace(rois, boxes=longer(rois.boxes), valid=longer(rois.valid), targets=targets)


@pytest.mark.parametrize("head", HEADS)
def test_empty_slots_change_nothing(monkeypatch: pytest.MonkeyPatch, head: dict[str, Any]) -> None:
    of = config(**head)
    losses, gradients, detector = step(of)
    monkeypatch.setattr(sampling, "_padded", with_more_slots)
    more, more_gradients, other = step(of)
    for name, value in losses.items():
        torch.testing.assert_close(more[name], value, msg=name)
    for name, value in gradients.items():
        torch.testing.assert_close(more_gradients[name], value, atol=1e-5, rtol=1e-4, msg=name)
    assert statistics(detector)
    for name, value in statistics(other).items():
        torch.testing.assert_close(value, statistics(detector)[name], msg=name)


@pytest.mark.parametrize("head", HEADS)
def test_a_step_without_any_object_teaches_mask_heads_nothing(head: dict[str, Any]) -> None:
    of = config(**head)
    before = {name: value.clone() for name, value in statistics(seeded_detector(of)).items()}
    losses, gradients, detector = step(of, truth([], []), truth([], []))
    assert all(value.isfinite() for value in losses.values())
    assert losses["stage1.mask"] == losses["stage2.mask"] == 0
    masks = {name: value for name, value in statistics(detector).items() if name.startswith("roi.mask_heads")}
    assert masks
    assert all(torch.equal(value, before[name]) for name, value in masks.items())
    learning = {name for name, p in detector.named_parameters() if p.requires_grad}
    assert set(gradients) == learning, "a parameter without gradient stops data-parallel training"
    assert not any(value.any() for name, value in gradients.items() if name.startswith("roi.mask_heads"))


def test_slots_and_rows() -> None:
    valid = torch.tensor([[True, False, True], [False, True, False]])
    rois = Rois(torch.zeros(2, 3, 4), valid, torch.tensor([[8, 8], [8, 8]]), packed=True)
    slots = torch.arange(6.0).view(6, 1)
    assert rois.pack(slots).flatten().tolist() == [0, 2, 4]
    assert rois.unpack(rois.pack(slots)).squeeze(2).tolist() == [[0, 0, 2], [0, 4, 0]]
    whole = replace(rois, packed=False)
    assert torch.equal(whole.unpack(whole.pack(slots)), slots.view(2, 3, 1))

"""Every variant of a part, as a whole: it is set by name, learns, predicts, is folded, runs in bfloat16, comes back
from disk.
"""

from pathlib import Path

import pytest
import torch

from htc.checkpoint.load import load_model
from htc.checkpoint.native import save_pretrained
from htc.config import Config
from htc.errors import CheckpointError
from htc.model.detector import Detector
from htc.model.optimize import for_inference
from htc.settings.layers import from_flags, overlay
from htc.training.objective import TrainingObjective
from htc.types import Rois
from small_detector import random_images, seeded_detector, small_batch, small_config, truth

SIZES = torch.tensor([[64, 96], [56, 80]])
BASE = small_config(2, semantic={})
VARIANTS = {
    "fine masks": [("cascade.mask_head.kind", "fine"), ("cascade.mask_head.detail_channels", "4")],
    "precise RoI pooling": [("cascade.pooling", "precise")],
    "adaptive feature pooling": [("cascade.pooled_levels", "all")],
    "fully-connected fusion": [("cascade.mask_head.kind", "fusion"), ("cascade.mask_convs", "2")],
    "ASPP": [("semantic.context.kind", "aspp"), ("semantic.context.rates", "1,3")],
    "GCN": [("semantic.context.kind", "gcn"), ("semantic.context.kernel", "5")],
    "everything in the regions": [
        ("cascade.pooled_levels", "all"),
        ("cascade.mask_head.kind", "fine"),
        ("cascade.pooling", "precise"),
    ],
}


def variant(name: str) -> Config:
    return overlay(BASE, from_flags(VARIANTS[name]))


def regions(count: int = 12) -> Rois:
    numbers = torch.Generator().manual_seed(5)
    corner = torch.rand(2, count, 2, generator=numbers) * 40
    return Rois(
        torch.cat([corner, corner + 5 + torch.rand(2, count, 2, generator=numbers) * 30], -1),
        torch.ones(2, count, dtype=torch.bool),
        SIZES,
    )


@pytest.mark.parametrize("name", VARIANTS)
def test_a_training_step_reaches_every_parameter(name: str) -> None:
    config = variant(name)
    detector = seeded_detector(config).train()
    losses = TrainingObjective(detector, config)(small_batch(config))
    assert all(loss.isfinite() and loss > 0 for loss in losses.values())
    sum(losses.values()).backward()  # type: ignore[union-attr]
    without = [
        key
        for key, p in detector.named_parameters()
        if p.requires_grad and (p.grad is None or not p.grad.isfinite().all())
    ]
    assert without == []
    still = [
        key
        for key, p in detector.named_parameters()
        if p.requires_grad and p.grad is not None and p.grad.ndim > 1 and not p.grad.any()
    ]
    assert not [key for key in still if "backbone" not in key]


@pytest.mark.parametrize("name", VARIANTS)
def test_a_training_step_without_objects(name: str) -> None:
    config = variant(name)
    detector = seeded_detector(config).train()
    losses = TrainingObjective(detector, config)(small_batch(config, (truth([], []),), seeds=(1,)))
    assert all(loss.isfinite() for loss in losses.values())
    sum(losses.values()).backward()  # type: ignore[union-attr]
    assert all(p.grad is not None for p in detector.parameters() if p.requires_grad)


@pytest.mark.parametrize("name", VARIANTS)
@torch.no_grad()
def test_it_predicts_one_image_several_and_nothing(name: str) -> None:
    config = variant(name)
    detector = seeded_detector(config).eval()
    both = detector(random_images(), SIZES)
    assert both.valid.any(1).all()
    alone = detector(random_images()[:1], SIZES[:1])
    torch.testing.assert_close(alone.boxes, both.boxes[:1], atol=1e-3, rtol=0)
    torch.testing.assert_close(alone.masks, both.masks[:1], atol=1e-3, rtol=0)
    nothing = seeded_detector(overlay(config, from_flags([("inference.score_threshold", "1.0")]))).eval()(
        random_images(), SIZES
    )
    assert not nothing.valid.any()
    assert nothing.masks.shape == both.masks.shape
    assert nothing.masks.isfinite().all()


@pytest.mark.parametrize("name", VARIANTS)
@torch.no_grad()
def test_the_copy_for_inference_gives_the_same_numbers(name: str) -> None:
    flags = [("cascade.mask_norm", "batch"), ("semantic.norm", "batch")]
    detector = seeded_detector(overlay(variant(name), from_flags(flags))).eval()
    ready = for_inference(detector)
    assert not any(isinstance(module, torch.nn.BatchNorm2d) for module in ready.modules())
    features, theirs = (
        ready.features(random_images(), semantic_logits=True),
        detector.features(random_images(), semantic_logits=True),
    )
    torch.testing.assert_close(features.semantic_logits, theirs.semantic_logits, atol=1e-3, rtol=1e-3)
    for stage, expected in zip(ready.refine(features, regions()), detector.refine(theirs, regions()), strict=True):
        torch.testing.assert_close(stage.class_logits, expected.class_logits, atol=1e-3, rtol=1e-3)
    labels = torch.arange(24).view(2, 12) % 3
    torch.testing.assert_close(
        ready.segment(features, regions(), labels), detector.segment(theirs, regions(), labels), atol=1e-3, rtol=0
    )


@pytest.mark.parametrize("name", VARIANTS)
@torch.no_grad()
def test_bfloat16_stays_near(name: str) -> None:
    detector = seeded_detector(variant(name)).eval()
    ready = for_inference(detector, "bf16")
    assert {p.dtype for p in ready.parameters()} == {torch.bfloat16}
    found = ready(random_images(), SIZES)
    assert found.boxes.dtype == found.scores.dtype == found.masks.dtype == torch.float32
    labels = torch.arange(24).view(2, 12) % 3
    ours, theirs = (each.segment(each.features(random_images()), regions(), labels) for each in (ready, detector))
    assert (ours - theirs).abs().mean() < 0.05


@pytest.mark.parametrize("name", VARIANTS)
def test_it_comes_back_from_disk(name: str, tmp_path: Path) -> None:
    config = variant(name)
    detector = Detector(config)
    loaded = load_model(save_pretrained(detector, config, tmp_path))
    assert loaded.config == config
    assert loaded.report.fits
    assert all(torch.equal(loaded.state_dict[key], value) for key, value in detector.state_dict().items())


@pytest.mark.parametrize("name", VARIANTS)
def test_the_weights_of_the_base_are_refused_and_the_field_is_named(name: str, tmp_path: Path) -> None:
    """Where a variant has other weights; one that computes otherwise with the same weights loads them."""
    config = variant(name)
    save_pretrained(Detector(BASE), config, tmp_path)
    if Detector(BASE).state_dict().keys() == Detector(config).state_dict().keys():
        assert load_model(tmp_path).report.fits
        return
    with pytest.raises(CheckpointError, match=VARIANTS[name][0][0]):
        load_model(tmp_path)

"""The copy that predicts: the same numbers step by step (random networks have near ties, so not their final lists)."""

import pytest
import torch
from torch import nn

from htc.config import PAFPN, Config, ResNet
from htc.model.detector import Detector
from htc.model.layers import PointwiseConv2d
from htc.model.optimize import fold_batch_norms, for_inference
from htc.types import Rois
from small_detector import CHANNELS, random_images, seeded_detector, small_config

SIZES = torch.tensor([[64, 96], [56, 80]])
CONFIGS = {
    "trained affine": small_config(3, semantic={}),
    "frozen": small_config(2, semantic={}, backbone=ResNet(depth=18, norm="frozen")),
    "batch norm everywhere": small_config(
        2,
        cascade={"mask_norm": "batch"},
        semantic={"norm": "batch"},
        backbone=ResNet(depth=18, norm="batch"),
        neck=PAFPN(channels=CHANNELS, norm="batch"),
    ),
    "sync": small_config(2, cascade={"mask_norm": "sync"}, backbone=ResNet(depth=18, norm="sync")),
    "group norm": small_config(2, cascade={"mask_norm": "group"}, backbone=ResNet(depth=18, norm="group")),
    "deformable": small_config(1, backbone=ResNet(depth=50, deformable="v1", deformable_stages=(3, 4))),
    "modulated deformable, ResNeXt": small_config(
        1, backbone=ResNet(depth=50, groups=32, base_width=4, deformable="v2", deformable_stages=(5,))
    ),
    "class-specific boxes": small_config(1, cascade={"class_agnostic_boxes": False}),
}


def trained(config: Config) -> Detector:
    """As after training: norms that are not the identity."""
    detector = seeded_detector(config)
    numbers = torch.Generator().manual_seed(7)
    for module in detector.modules():
        if isinstance(module, nn.BatchNorm2d | nn.SyncBatchNorm):
            for tensor, low, high in (
                (module.running_mean, -0.2, 0.2),
                (module.running_var, 0.7, 1.5),
                (module.weight, 0.7, 1.2),
                (module.bias, -0.2, 0.2),
            ):
                assert tensor is not None
                tensor.data.uniform_(low, high, generator=numbers)
    return detector.eval()


def regions() -> Rois:
    numbers = torch.Generator().manual_seed(5)
    corner = torch.rand(2, 20, 2, generator=numbers) * 40
    return Rois(
        torch.cat([corner, corner + 5 + torch.rand(2, 20, 2, generator=numbers) * 30], -1),
        torch.ones(2, 20, dtype=torch.bool),
        SIZES,
    )


@pytest.mark.parametrize("name", CONFIGS)
@torch.no_grad()
def test_every_step_gives_the_same_numbers(name: str) -> None:
    detector = trained(CONFIGS[name])
    ready = for_inference(detector)
    features, theirs = (
        ready.features(random_images(), semantic_logits=True),
        detector.features(random_images(), semantic_logits=True),
    )
    for level, expected in zip(features.pyramid, theirs.pyramid, strict=True):
        torch.testing.assert_close(level, expected, atol=1e-3 * float(expected.std()), rtol=1e-3)
    if theirs.semantic is not None:
        torch.testing.assert_close(features.semantic, theirs.semantic, atol=1e-3, rtol=1e-3)
        torch.testing.assert_close(features.semantic_logits, theirs.semantic_logits, atol=1e-3, rtol=1e-3)
    for level, expected in zip(ready.rpn(features.pyramid), detector.rpn(theirs.pyramid), strict=True):
        torch.testing.assert_close(level.logits, expected.logits, atol=1e-3, rtol=1e-3)
        torch.testing.assert_close(level.deltas, expected.deltas, atol=1e-3, rtol=1e-3)
    for stage, expected in zip(ready.refine(features, regions()), detector.refine(theirs, regions()), strict=True):
        torch.testing.assert_close(stage.class_logits, expected.class_logits, atol=1e-3, rtol=1e-3)
        torch.testing.assert_close(stage.refined.boxes, expected.refined.boxes, atol=1e-2, rtol=0)
    labels = torch.arange(40).view(2, 20) % 3
    torch.testing.assert_close(
        ready.segment(features, regions(), labels), detector.segment(theirs, regions(), labels), atol=1e-3, rtol=0
    )


@pytest.mark.parametrize("name", CONFIGS)
@torch.no_grad()
def test_bfloat16_runs_and_stays_near(name: str) -> None:
    detector = trained(CONFIGS[name])
    ready = for_inference(detector, "bf16")
    assert {p.dtype for p in ready.parameters()} == {torch.bfloat16}
    features, theirs = ready.features(random_images()), detector.features(random_images())
    assert {level.dtype for level in features.pyramid} == {torch.bfloat16}
    for level, expected in zip(features.pyramid, theirs.pyramid, strict=True):
        assert (level.float() - expected).abs().mean() < 0.05 * expected.std()
    stages = ready.refine(features, regions())
    assert stages[-1].refined.boxes.dtype == torch.float32
    found = ready(random_images(), SIZES)
    assert found.valid.any(1).all()
    assert found.boxes.dtype == found.scores.dtype == found.masks.dtype == torch.float32
    assert all(t.isfinite().all() for t in (found.boxes, found.scores, found.masks))


def test_the_copy_is_ready_and_the_trained_detector_untouched() -> None:
    detector = trained(CONFIGS["trained affine"]).train()
    before = {name: value.clone() for name, value in detector.state_dict().items()}
    ready = for_inference(detector)
    assert not any(module.training for module in ready.modules())
    assert not any(p.requires_grad for p in ready.parameters())
    assert not any(isinstance(module, nn.BatchNorm2d) for module in ready.modules())
    assert any(isinstance(module, PointwiseConv2d) for module in ready.modules())
    assert detector.training
    assert set(before) == set(detector.state_dict())
    assert all(torch.equal(value, before[name]) for name, value in detector.state_dict().items())
    assert next(p for name, p in detector.named_parameters() if name.startswith("backbone.layer4")).requires_grad


def test_only_norms_that_follow_a_convolution_are_folded() -> None:
    model = nn.Sequential(
        nn.Conv2d(3, 4, 1), nn.ReLU(), nn.BatchNorm2d(4), nn.Conv2d(4, 4, 1, bias=False), nn.BatchNorm2d(4)
    ).eval()
    x = torch.randn(1, 3, 5, 5)
    expected = model(x)
    fold_batch_norms(model)
    assert [type(layer) for layer in model] == [nn.Conv2d, nn.ReLU, nn.BatchNorm2d, nn.Conv2d, nn.Identity]
    torch.testing.assert_close(model(x), expected)

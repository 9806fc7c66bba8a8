"""The whole network: its parameters' names, every preset, and `forward` as the chain of its public steps."""

import pytest
import torch

from htc.config import ResNet, Timm
from htc.model.detector import Detector
from htc.presets import PRESETS, preset
from htc.types import Rois
from small_detector import random_images, seeded_detector, small_config

SIZES = torch.tensor([[64, 96], [56, 80]])


def resnet50_names() -> set[str]:
    names = {"conv1.weight", "bn1.weight", "bn1.bias"}
    for layer, blocks in enumerate((3, 4, 6, 3), start=1):
        for block in range(blocks):
            at = f"layer{layer}.{block}."
            names |= {f"{at}conv{i}.weight" for i in (1, 2, 3)} | {
                f"{at}bn{i}.{p}" for i in (1, 2, 3) for p in ("weight", "bias")
            }
        names |= {f"layer{layer}.0.downsample.{p}" for p in ("0.weight", "1.weight", "1.bias")}
    return names


def test_parameter_names_of_htc_r50() -> None:
    """What checkpoints of this library hold; conversions of the original's files aim at these names."""
    both = ("weight", "bias")
    expected = {f"backbone.{name}" for name in resnet50_names()}
    expected |= {f"neck.{part}.{i}.conv.{p}" for part in ("lateral", "output") for i in range(4) for p in both}
    expected |= {f"rpn.{part}.{p}" for part in ("conv", "objectness", "deltas") for p in both}
    for t in range(3):
        expected |= {f"roi.box_heads.{t}.{part}.{p}" for part in ("fc.0", "fc.1", "classify", "regress") for p in both}
        expected |= {
            f"roi.mask_heads.{t}.{part}.{p}"
            for part in (*(f"convs.{i}.conv" for i in range(4)), "upsample", "logits")
            for p in both
        }
    expected |= {f"roi.mask_flows.{t}.conv.{p}" for t in range(2) for p in both}
    expected |= {f"semantic.lateral.{i}.conv.{p}" for i in range(5) for p in both}
    expected |= {f"semantic.convs.{i}.conv.{p}" for i in range(4) for p in both}
    expected |= {f"semantic.{part}.{p}" for part in ("logits", "embedding.conv") for p in both}
    with torch.device("meta"):
        detector = Detector(preset("htc_r50_fpn_1x_coco"))
    assert {name for name, _ in detector.named_parameters()} == expected
    trained = {name for name, p in detector.named_parameters() if p.requires_grad}
    assert {name.split(".")[1] for name in expected - trained} == {"conv1", "bn1", "layer1"}


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_builds(name: str) -> None:
    """Without memory: the structure fits the configuration."""
    config = preset(name)
    assert config.preset == name
    with torch.device("meta"):
        detector = Detector(config)
    cascade = config.cascade
    assert (detector.semantic is None) == (config.semantic is None)
    assert len(detector.roi.box_heads) == len(detector.roi.mask_heads) == cascade.num_stages
    assert len(detector.roi.mask_flows) == (cascade.num_stages - 1 if cascade.mask_flow else 0)
    for head in detector.roi.box_heads:
        assert head.classify.out_features == config.num_classes + 1
        assert head.regress.out_features == (4 if cascade.class_agnostic_boxes else 4 * config.num_classes)
    deformable = [n for n, _ in detector.backbone.named_parameters() if "conv_offset" in n]
    asked = isinstance(config.backbone, ResNet | Timm) and config.backbone.deformable != "none"
    assert bool(deformable) == asked


@torch.no_grad()
def test_forward_is_the_chain_of_the_public_steps() -> None:
    detector = seeded_detector(small_config(3, semantic={})).eval()
    features = detector.features(random_images())
    proposals, _ = detector.propose(features, SIZES)
    selected = detector.select(detector.refine(features, proposals))
    masks = detector.segment(features, selected.rois, selected.labels)
    found = detector(random_images(), SIZES)
    assert found.valid.all(1).all()
    for ours, theirs in (
        (found.boxes, selected.rois.boxes),
        (found.scores, selected.scores),
        (found.labels, selected.labels),
        (found.masks, masks),
    ):
        torch.testing.assert_close(ours, theirs)


@torch.no_grad()
def test_a_image_is_found_alike_alone_and_in_a_batch() -> None:
    detector = seeded_detector(small_config(3, semantic={})).eval()
    images = random_images(3)
    sizes = torch.tensor([[64, 96], [64, 90], [50, 96]])
    together = detector.features(images)
    proposals, _ = detector.propose(together, sizes)
    stages = detector.refine(together, proposals)
    for i in range(3):
        features = detector.features(images[i : i + 1])
        alone, _ = detector.propose(features, sizes[i : i + 1])
        torch.testing.assert_close(
            alone.boxes[0][alone.valid[0]], proposals.boxes[i][proposals.valid[i]], atol=1e-3, rtol=0
        )
        for mine, theirs in zip(detector.refine(features, alone), stages, strict=True):
            torch.testing.assert_close(mine.class_logits[0], theirs.class_logits[i], atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize("size", [(32, 32), (64, 32), (100, 70)])
@torch.no_grad()
def test_small_and_odd_sizes(size: tuple[int, int]) -> None:
    """Also where a side is no multiple of 32 and the coarsest level is one pixel."""
    detector = seeded_detector(small_config(2, semantic={})).eval()
    found = detector(random_images(1, *size), torch.tensor([size]))
    assert found.boxes.isfinite().all()
    assert found.valid.any()


@torch.no_grad()
def test_nothing_found() -> None:
    """A threshold that no score reaches: empty slots, finite numbers."""
    detector = seeded_detector(small_config(3, semantic={}, inference={"score_threshold": 1.0})).eval()
    found = detector(random_images(), SIZES)
    assert not found.valid.any()
    assert not found.boxes.any()
    assert found.masks.isfinite().all()


@torch.no_grad()
def test_no_proposals() -> None:
    detector = seeded_detector(small_config(3, semantic={})).eval()
    features = detector.features(random_images())
    none = Rois(torch.zeros(2, 6, 4), torch.zeros(2, 6, dtype=torch.bool), SIZES)
    assert not detector.select(detector.refine(features, none)).rois.valid.any()


@torch.no_grad()
def test_semantic_prediction_only_where_asked_for() -> None:
    detector = seeded_detector(small_config(1, semantic={})).eval()
    assert detector.features(random_images()).semantic_logits is None
    logits = detector.features(random_images(), semantic_logits=True).semantic_logits
    assert logits is not None
    assert logits.shape == (2, 5, 8, 12)
    without = seeded_detector(small_config(1)).features(random_images(), semantic_logits=True)
    assert without.semantic is None
    assert without.semantic_logits is None

"""Eq. 7 as a whole: every combination of switches trains and predicts, and the terms are what their definitions say."""

from dataclasses import replace
from itertools import product

import pytest
import torch
import torch.nn.functional as F

from htc.config import PAFPN, Config, GuidedRPN, ResNet
from htc.model.detector import Detector
from htc.ops.boxes import encode
from htc.training.objective import TrainingObjective
from htc.training.sampling import RoiSampler
from htc.types import GroundTruth, RawDetections
from small_detector import CHANNELS, random_images, seeded_detector, small_batch, small_config, truth

SIZES = torch.tensor([[64, 96], [56, 80]])


def expected_terms(config: Config) -> set[str]:
    stages = range(1, config.cascade.num_stages + 1)
    return {"rpn.class", "rpn.box", *(f"stage{t}.{part}" for t in stages for part in ("class", "box", "mask"))} | (
        {"semantic"} if config.semantic else set()
    )


def without_use(config: Config) -> set[str]:
    """Parts that no loss reaches: the embedding of a semantic branch that no head sees (Table 5, row `none`)."""
    return {"semantic.embedding"} if config.semantic and config.cascade.semantic_fusion == "none" else set()


def trains(config: Config) -> Detector:
    """One SGD step; every trainable parameter that has a use gets a gradient and moves."""
    detector = seeded_detector(config)
    objective = TrainingObjective(detector, config).train()
    losses = objective(small_batch(config))
    assert set(losses) == expected_terms(config)
    for name, value in losses.items():
        assert value.isfinite(), name
        assert value > 0, name
    torch.stack(list(losses.values())).sum().backward()
    for name, parameter in detector.named_parameters():
        used = parameter.requires_grad and not any(name.startswith(part) for part in without_use(config))
        assert (parameter.grad is not None) == used, name
        if parameter.grad is not None:
            assert parameter.grad.isfinite().all(), name
            # in an image this small no region and no sampled anchor may lie on P4 or P5
            assert parameter.grad.any() or name.startswith(("neck.output.2", "neck.output.3")), name
    torch.optim.SGD([p for p in detector.parameters() if p.requires_grad], 1e-3).step()
    return detector


def predicts(detector: Detector) -> RawDetections:
    detector.eval()
    with torch.inference_mode():
        found = detector(random_images(), SIZES)
    count = detector.config.inference.max_detections
    assert found.boxes.shape == (2, count, 4)
    assert found.masks.shape == (2, count, 28, 28)
    assert found.valid.any(1).all()
    assert (found.boxes[1, :, 2] <= 80).all()
    assert (found.boxes[1, :, 3] <= 56).all()
    assert (found.scores[0].diff() <= 0).all()
    assert found.labels.amax() < detector.config.num_classes
    assert found.masks.amin() >= 0
    assert found.masks.amax() <= 1
    return found


FUSIONS = (None, "none", "box", "mask", "both")


def few_off(stages: int, interleaved: bool, mask_flow: bool, fusion: str | None) -> bool:
    """Whether at most one switch differs from HTC's, or all do: these are in the fast suite."""
    off = [stages < 3, not interleaved, not mask_flow, fusion != "both"]
    return sum(off) <= 1 or (all(off) and stages == 1)


@pytest.mark.parametrize(
    ("stages", "interleaved", "mask_flow", "fusion"),
    [
        pytest.param(*c, id="-".join(map(str, c)), marks=() if few_off(*c) else pytest.mark.slow)
        for c in product((1, 2, 3), (False, True), (False, True), FUSIONS)
    ],
)
def test_every_combination_of_switches_trains_and_predicts(
    stages: int, interleaved: bool, mask_flow: bool, fusion: str | None
) -> None:
    switches = {"interleaved": interleaved, "mask_flow": mask_flow, "semantic_fusion": fusion or "none"}
    predicts(trains(small_config(stages, cascade=switches, semantic=None if fusion is None else {})))


VARIANTS = {
    "class-specific boxes, one interleaved stage": small_config(
        1, cascade={"class_agnostic_boxes": False, "box_loss": "l1"}, rpn={"box_loss": "l1"}
    ),
    "class-specific boxes, three parallel stages": small_config(
        3, cascade={"class_agnostic_boxes": False, "interleaved": False, "mask_flow": False}
    ),
    "class-specific boxes, HTC": small_config(3, cascade={"class_agnostic_boxes": False}, semantic={}),
    "PAFPN": small_config(2, neck=PAFPN(channels=CHANNELS)),
    "group norm everywhere": small_config(
        2,
        cascade={"mask_norm": "group"},
        semantic={"norm": "group"},
        backbone=ResNet(depth=18, norm="group", frozen_stages=-1),
        neck=PAFPN(channels=CHANNELS, norm="group"),
    ),
    "trained batch norm, frozen stages": small_config(1, backbone=ResNet(depth=18, norm="batch", frozen_stages=2)),
    "frozen norm": small_config(1, backbone=ResNet(depth=18, norm="frozen")),
    "guided anchoring": small_config(2, semantic={}).replace(
        rpn=GuidedRPN(anchor_scale=4.0, proposals=40, training_proposals=40, samples=64)
    ),
    "one class": small_config(2, semantic={}, classes=("cell",), category_ids=(4,)),
    "low-quality matching off": small_config(2, cascade={"low_quality_matches": False}),
}


@pytest.mark.parametrize("name", VARIANTS)
def test_other_variants_train_and_predict(name: str) -> None:
    config = VARIANTS[name]
    detector = seeded_detector(config)
    batch = small_batch(config)
    if config.num_classes == 1:
        batch = replace(batch, truths=tuple(replace(t, labels=t.labels * 0) for t in batch.truths))
    losses = TrainingObjective(detector, config).train()(batch)
    total = torch.stack(list(losses.values())).sum()
    total.backward()
    assert total.isfinite()
    unreached = [name for name, p in detector.named_parameters() if p.requires_grad and p.grad is None]
    assert unreached == []
    predicts(detector)


EMPTY = truth([], [])
ONE = truth([(10, 8, 50, 44)], [1])
BOXES_ONLY = truth([(4, 4, 36, 40)], [0], masks=False)


@pytest.mark.parametrize("interleaved", [False, True])
@pytest.mark.parametrize(
    ("truths", "masks"),
    [
        ((EMPTY,), False),
        ((EMPTY, EMPTY), False),
        ((EMPTY, ONE), True),
        ((ONE,), True),
        ((BOXES_ONLY, BOXES_ONLY), False),
        ((BOXES_ONLY, ONE), True),
    ],
    ids=["batch of one empty", "all empty", "one empty", "batch of one", "boxes only", "one boxes only"],
)
def test_missing_objects_and_masks(truths: tuple[GroundTruth, ...], masks: bool, interleaved: bool) -> None:
    """Nothing is undefined, and every parameter takes part in the step: processes that train together wait for each
    one's gradient.
    """
    config = small_config(2, cascade={"interleaved": interleaved}, semantic={})
    detector = seeded_detector(config)
    losses = TrainingObjective(detector, config).train()(small_batch(config, truths))
    for t in (1, 2):
        assert (losses[f"stage{t}.mask"] > 0) == masks
        assert (losses[f"stage{t}.box"] > 0) == any(len(each.boxes) for each in truths)
        assert losses[f"stage{t}.class"] > 0
    torch.stack(list(losses.values())).sum().backward()
    for name, parameter in detector.named_parameters():
        assert not parameter.requires_grad or parameter.grad is not None, name
        assert parameter.grad is None or parameter.grad.isfinite().all(), name


def test_the_semantic_branch_trains_alone_where_no_head_sees_it() -> None:
    """Table 5, row `none`: its loss still reaches the backbone."""
    config = small_config(1, cascade={"semantic_fusion": "none"}, semantic={})
    detector = seeded_detector(config)
    TrainingObjective(detector, config).train()(small_batch(config))["semantic"].backward()
    for part in (
        detector.semantic.convs,
        detector.semantic.lateral,
        detector.semantic.logits,
        detector.backbone["layer4"],
    ):  # type: ignore[union-attr, index]
        assert all(p.grad is not None and p.grad.any() for p in part.parameters())
    assert all(p.grad is None for p in detector.roi.parameters())


def test_without_semantic_maps_there_is_no_semantic_loss() -> None:
    config = small_config(1, semantic={})
    losses = TrainingObjective(seeded_detector(config), config)(replace(small_batch(config), semantic=None))
    assert set(losses) == expected_terms(config) - {"semantic"}


def test_stage_and_semantic_weights_are_those_of_eq_7() -> None:
    def losses(weights: tuple[float, float], beta: float) -> dict[str, torch.Tensor]:
        config = small_config(2, cascade={"loss_weights": weights}, semantic={"loss_weight": beta})
        with torch.no_grad():
            return TrainingObjective(seeded_detector(config), config).train()(small_batch(config))

    plain, weighted = losses((1.0, 1.0), 1.0), losses((0.5, 0.25), 0.2)
    factors = {"stage1": 0.5, "stage2": 0.25, "semantic": 0.2, "rpn": 1.0}
    for name, value in plain.items():
        torch.testing.assert_close(weighted[name], value * factors[name.split(".")[0]])


@pytest.mark.parametrize("class_agnostic", [True, False])
@pytest.mark.parametrize("kind", ["smooth_l1", "l1"])
def test_box_terms_written_out(class_agnostic: bool, kind: str) -> None:
    """Class and box loss of a stage are sums over the whole batch's samples, divided by their number."""
    config = small_config(
        1, cascade={"class_agnostic_boxes": class_agnostic, "box_loss": kind, "samples": 1000, "positive_fraction": 0.5}
    )
    detector, batch = seeded_detector(config), small_batch(config)
    with torch.no_grad():
        features = detector.features(batch.images)
        proposals, _ = detector.rpn.propose(detector.rpn(features.pyramid), batch.sizes, 30, 40)
        sampler = RoiSampler(batch, config.cascade, config.num_classes)
        stage = detector.roi.refine(*features.pooled, proposals, sampler.for_boxes)[0]
        losses = TrainingObjective(detector, config)(batch)
    targets = stage.rois.targets
    assert targets is not None
    count, class_total, box_total = 0, 0.0, 0.0
    for i, each in enumerate(batch.truths):
        for row in stage.rois.valid[i].nonzero().flatten().tolist():
            count += 1
            label = int(targets.labels[i, row])
            class_total -= float(stage.class_logits[i, row].log_softmax(0)[label])
            if label < config.num_classes:
                target = encode(
                    stage.rois.boxes[i, row][None], each.boxes[targets.objects[i, row]][None], (0.1, 0.1, 0.2, 0.2)
                )[0]
                said = stage.deltas[i, row] if class_agnostic else stage.deltas[i, row].view(3, 4)[label]
                box_total += float(
                    F.l1_loss(said, target, reduction="sum")
                    if kind == "l1"
                    else F.smooth_l1_loss(said, target, reduction="sum")
                )
    assert box_total > 0
    assert float(losses["stage1.class"]) == pytest.approx(class_total / count, rel=1e-4)
    assert float(losses["stage1.box"]) == pytest.approx(box_total / count, rel=1e-4)


def test_the_same_batch_gives_the_same_losses() -> None:
    config = small_config(2, semantic={})
    objective = TrainingObjective(seeded_detector(config), config).train()
    with torch.no_grad():
        first = objective(small_batch(config))
        torch.rand(3)
        second = objective(small_batch(config))
        other = objective(small_batch(config, seeds=(1, 2)))
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert not torch.equal(first["stage1.class"], other["stage1.class"])


def test_mixed_precision_trains() -> None:
    config = small_config(3, semantic={})
    objective = TrainingObjective(seeded_detector(config), config).train()
    with torch.no_grad():
        exact = objective(small_batch(config))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        losses = objective(small_batch(config))
    torch.stack([value.float() for value in losses.values()]).sum().backward()
    for name in ("semantic", "rpn.class", "stage1.class"):
        assert float(losses[name].detach()) == pytest.approx(float(exact[name]), rel=0.1), name
    assert all(p.grad is not None and p.grad.isfinite().all() for p in objective.parameters() if p.requires_grad)

"""Our detector against the original's numbers on the first image, in evaluation mode, for twelve models."""

from collections.abc import Iterator
from typing import ClassVar

import numpy as np
import pytest
import torch
from pycocotools import mask as coco_mask

from htc.model.postprocess import segment
from htc.results import Masks
from htc.types import Features, RawDetections, Rois
from parity.reference import HEIGHT, WIDTH, Case, image, load_case

SIZES = torch.tensor([[HEIGHT, WIDTH]])
RELATIVE = 1e-3
"""Of an array's own standard deviation."""
PIXELS = 0.02


def relative_error(ours: torch.Tensor, theirs: np.ndarray) -> float:
    assert tuple(ours.shape) == theirs.shape
    return float(np.abs(ours.numpy() - theirs).max() / theirs.std())


def rois(boxes: np.ndarray) -> Rois:
    return Rois(torch.from_numpy(boxes).float()[None], torch.ones(1, len(boxes), dtype=torch.bool), SIZES)


@pytest.fixture(scope="class")
def case(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Case]:
    loaded = load_case(request.cls.name, tmp_path_factory.mktemp("checkpoint"))
    loaded.detector.eval()
    with torch.inference_mode():
        yield loaded


@pytest.fixture(scope="class")
def features(case: Case) -> Features:
    return case.detector.features(image(0)[None].contiguous(memory_format=torch.channels_last), semantic_logits=True)


@pytest.fixture(scope="class")
def found(case: Case, features: Features) -> RawDetections:
    detector = case.detector
    selected = detector.select(detector.refine(features, detector.propose(features, SIZES)[0]))
    masks = detector.segment(features, selected.rois, selected.labels)
    return RawDetections(selected.rois.boxes, selected.scores, selected.labels, selected.rois.valid, masks)


class ParityOfDetections:
    """Image in, boxes and masks out; one subclass a model."""

    name: ClassVar[str]

    def test_detections(self, case: Case, found: RawDetections) -> None:
        """The same label, the nearest box: near-equal scores may swap places."""
        theirs = case.arrays["det_boxes"]
        agreeing = 0
        for box, score, label in zip(theirs, case.arrays["det_scores"], case.arrays["det_labels"], strict=True):
            same = (found.labels[0] == int(label)) & found.valid[0]
            distance = (found.boxes[0] - torch.from_numpy(box)).abs().amax(1).masked_fill(~same, float("inf"))
            nearest = int(distance.argmin())
            agreeing += bool(distance[nearest] < PIXELS) and abs(float(found.scores[0, nearest]) - score) < 1e-4
        assert int(found.valid.sum()) == len(theirs)
        assert agreeing >= 0.99 * len(theirs)

    def test_masks_of_own_detections(self, case: Case, found: RawDetections) -> None:
        """The whole path: our boxes, our masks."""
        ours = Masks(found.masks[0].numpy(), found.boxes[0].numpy(), (HEIGHT, WIDTH), 0.5).rle()
        theirs = case.arrays["det_boxes"]
        compared = 0
        for i, (box, label) in enumerate(zip(theirs, case.arrays["det_labels"], strict=True)):
            same = (found.labels[0] == int(label)) & found.valid[0]
            distance = (found.boxes[0] - torch.from_numpy(box)).abs().amax(1).masked_fill(~same, float("inf"))
            if distance.min() < PIXELS:
                assert_alike(ours[int(distance.argmin())], case.expected["masks_all_stages"][i])
                compared += 1
        assert compared >= 0.99 * len(theirs)


class ParityOfInference(ParityOfDetections):
    """All of the way besides; one subclass a model."""

    def test_pyramid(self, case: Case, features: Features) -> None:
        for level, step in zip(range(2, 7), (8, 4, 2, 1, 1), strict=True):
            assert (
                relative_error(features.pyramid[level - 2][0, :8, ::step, ::step], case.arrays[f"fpn_p{level}"])
                < RELATIVE
            )

    def test_semantic_branch(self, case: Case, features: Features) -> None:
        if "semantic_logits" not in case.arrays:
            assert features.semantic is None
            assert case.config.semantic is None
            return
        assert features.semantic is not None
        assert features.semantic_logits is not None
        assert relative_error(features.semantic[0, :8, ::4, ::4], case.arrays["semantic_feature"]) < RELATIVE
        assert relative_error(features.semantic_logits[0, :24, ::4, ::4], case.arrays["semantic_logits"]) < RELATIVE
        assert (features.semantic_logits[0].argmax(0).numpy() == case.arrays["semantic_argmax"]).mean() > 0.999

    def test_rpn(self, case: Case, features: Features) -> None:
        for number, level in zip(range(2, 7), case.detector.rpn(features.pyramid), strict=True):
            logits = level.logits.view(level.height, level.width, 3).permute(2, 0, 1)
            deltas = level.deltas.view(level.height, level.width, 12).permute(2, 0, 1)
            assert relative_error(logits[:, ::4, ::4], case.arrays[f"rpn_logits_p{number}"]) < RELATIVE
            assert relative_error(deltas[:, ::4, ::4], case.arrays[f"rpn_deltas_p{number}"]) < RELATIVE

    def test_proposals(self, case: Case, features: Features) -> None:
        proposals, scores = case.detector.propose(features, SIZES)
        ours, theirs = proposals.boxes[0].numpy(), case.arrays["proposals"]
        assert int(proposals.valid.sum()) == len(theirs)
        distance = np.abs(ours[:, None] - theirs[None]).max(-1).min(1)
        assert (distance < PIXELS).sum() >= 0.998 * len(theirs)
        assert (np.diff(scores[0].numpy()) <= 0).all()
        np.testing.assert_allclose(scores[0].numpy(), case.arrays["proposal_scores"], atol=1e-4)

    def test_stages(self, case: Case, features: Features) -> None:
        stages = case.detector.refine(features, rois(case.arrays["proposals"]))
        for t, stage in enumerate(stages, start=1):
            assert np.abs(stage.rois.boxes[0, :100].numpy() - case.arrays[f"stage{t}_rois"]).max() < PIXELS
            assert relative_error(stage.class_logits[0, :100], case.arrays[f"stage{t}_cls_logits"]) < RELATIVE
            assert relative_error(stage.deltas[0, :100, :32], case.arrays[f"stage{t}_deltas"]) < RELATIVE
        if len(stages) > 1:
            assert np.abs(stages[-1].refined.boxes[0, :100].numpy() - case.arrays["stage_final_boxes"]).max() < PIXELS

    def test_mask_logits(self, case: Case, features: Features) -> None:
        roi, labels = case.detector.roi, torch.from_numpy(case.arrays["det_labels"][:10].astype(np.int64))
        boxes = rois(case.arrays["det_boxes"][:10])
        for t, feature in enumerate(roi.mask_features(*features.pooled, boxes, len(roi.mask_heads)), start=1):
            assert (
                relative_error(roi.mask_heads[t - 1](feature, labels), case.arrays[f"mask_logits_stage{t}"]) < RELATIVE
            )

    @pytest.mark.parametrize("stages", ["all", "last"])
    def test_masks(self, case: Case, features: Features, stages: str) -> None:
        """Pasted masks of the stored boxes: from the mean of all stages (the paper), and from the last one alone."""
        expected = (
            case.expected[f"masks_{stages}_stage{'s' if stages == 'all' else ''}"]
            if stages == "all" or case.config.cascade.num_stages > 1
            else []
        )
        boxes, labels = case.arrays["det_boxes"], torch.from_numpy(case.arrays["det_labels"].astype(np.int64))[None]
        dial = case.config.inference.replace(mask_stages=None if stages == "all" else (case.config.cascade.num_stages,))
        probabilities = segment(case.detector.roi, *features.pooled, rois(boxes), labels, dial)
        ours = Masks(probabilities[0].numpy(), boxes, (HEIGHT, WIDTH), 0.5).rle()
        for mine, theirs in zip(ours, expected, strict=bool(expected)):
            assert_alike(mine, theirs)


def assert_alike(mine: dict, theirs: dict) -> None:
    """IoU of at least 0.99, or at most 3 different pixels."""
    a, b = coco_mask.decode(mine).astype(bool), coco_mask.decode(theirs).astype(bool)
    assert (a ^ b).sum() <= 3 or (a & b).sum() / (a | b).sum() >= 0.99


class TestMaskRCNN(ParityOfInference):
    name = "mask_rcnn_r50_fpn"


class TestCascadeMaskRCNN(ParityOfInference):
    name = "cascade_mask_rcnn_r50_fpn"


class TestHTCWithoutSemantic(ParityOfInference):
    name = "htc_without_semantic_r50_fpn"


class TestHTC(ParityOfInference):
    name = "htc_r50_fpn"


class TestHTCX101Deformable(ParityOfInference):
    name = "htc_x101_64x4d_dcn_fpn"


class TestHTCModulatedDeformable(ParityOfInference):
    name = "htc_r50_fpn_dcnv2"


class TestHTCPathAggregation(ParityOfInference):
    name = "htc_r50_pafpn"


class TestHTCWithoutMaskFlow(ParityOfInference):
    name = "htc_r50_fpn_no_mask_flow"


class TestHTCFusionBox(ParityOfInference):
    name = "htc_r50_fpn_fusion_box"


class TestHTCSoftNMS(ParityOfDetections):
    name = "htc_r50_fpn_soft_nms"


class TestHTCSoftNMSGaussian(ParityOfDetections):
    name = "htc_r50_fpn_soft_nms_gaussian"


class TestHTCGuidedAnchoring(ParityOfInference):
    name = "htc_r50_fpn_ga_rpn"

    def test_rpn(self, case: Case, features: Features) -> None:
        for number, level in zip(range(2, 7), case.detector.rpn(features.pyramid), strict=True):
            side = (level.scores.height, level.scores.width)
            said = {
                "logits": level.scores.logits[..., None],
                "deltas": level.scores.deltas,
                "location": level.location[..., None],
                "shape": level.shape,
            }
            for part, values in said.items():
                found = values[0].unflatten(0, side).permute(2, 0, 1)[:, ::4, ::4]
                assert relative_error(found, case.arrays[f"rpn_{part}_p{number}"]) < RELATIVE, (part, number)

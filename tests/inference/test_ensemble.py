"""Several views and models as one: by definition equal to the single model where they add nothing."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from htc.config import Input, NoMask
from htc.errors import ConfigError
from htc.inference.ensemble import PAPER_ENSEMBLE, EnsemblePredictor, Proposed, fuse_proposals, mean_of_grids
from htc.inference.predictor import Predictor
from htc.inference.views import View, parse_views
from htc.model.detector import Detector
from htc.model.postprocess import class_scores, final_boxes
from htc.presets import preset
from htc.results import Detections, Masks
from htc.types import BoxStage
from small_detector import seeded_detector, small_config
from stand_in_detector import Corners, config


def single(seed: int = 0, stages: int = 2, **parts: Any) -> Predictor:
    built = small_config(stages, semantic={}, **parts)
    return Predictor(seeded_detector(built, seed, spread=0.1), built)


def random_image(height: int = 48, width: int = 80, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def assert_same(found: Detections, expected: Detections, tolerance: float = 1e-5) -> None:
    assert len(found) == len(expected) > 0
    assert found.class_names == expected.class_names
    assert found.category_ids.tolist() == expected.category_ids.tolist()
    assert found.size == expected.size
    np.testing.assert_allclose(found.boxes, expected.boxes, atol=100 * tolerance)
    np.testing.assert_allclose(found.scores, expected.scores, atol=tolerance)
    np.testing.assert_allclose(found.masks.probabilities, expected.masks.probabilities, atol=10 * tolerance)


@pytest.mark.parametrize("size", [(48, 80), (101, 67), (1, 1)])
@pytest.mark.parametrize("copies", [1, 2])
def test_the_identity_and_two_copies_are_the_single_model(size: tuple[int, int], copies: int) -> None:
    model = single()
    assert_same(
        EnsemblePredictor([model] * copies).predict(random_image(*size), score_threshold=0.0),
        model.predict(random_image(*size), score_threshold=0.0),
    )


@pytest.mark.parametrize(
    "inference",
    [
        {"soft_nms": {"kind": "gaussian"}},
        {"soft_nms": {"kind": "linear"}},
        {"score_ensemble": "probabilities"},
        {"score_stages": (1,), "box_stage": 1},
    ],
)
def test_copies_are_the_single_model_with_other_settings(inference: dict) -> None:
    model = single(inference=inference)
    assert_same(
        EnsemblePredictor([model, model]).predict(random_image(), score_threshold=0.0),
        model.predict(random_image(), score_threshold=0.0),
    )


def test_copies_are_the_single_model_with_boxes_of_their_own_for_each_class() -> None:
    model = single(stages=1, cascade={"class_agnostic_boxes": False})
    assert_same(
        EnsemblePredictor([model, model]).predict(random_image(), score_threshold=0.0),
        model.predict(random_image(), score_threshold=0.0),
    )


def test_batches_and_single_images_agree() -> None:
    joint = EnsemblePredictor([single(), single(1)], parse_views("0.75:flip"))
    images = [random_image(40, 60), random_image(60, 40), random_image(40, 60, 1)]
    for alone, together in zip(
        [joint.predict(one, score_threshold=0.0) for one in images],
        joint.predict_many(images, batch_size=3, score_threshold=0.0),
        strict=True,
    ):
        assert_same(together, alone)


@pytest.mark.parametrize(("views", "axis"), [("0.75,1:flip", 1), ("1:flip,vflip", 0)])
def test_flips_are_equivariant(views: str, axis: int) -> None:
    joint, seen = EnsemblePredictor([single(), single(1)], parse_views(views)), random_image()
    found, mirrored = (
        joint.predict(seen, score_threshold=0.0),
        joint.predict(np.flip(seen, axis).copy(), score_threshold=0.0),
    )
    boxes, (height, width) = mirrored.boxes.copy(), mirrored.size
    if axis == 1:
        boxes[:, [0, 2]] = width - boxes[:, [2, 0]]
    else:
        boxes[:, [1, 3]] = height - boxes[:, [3, 1]]
    turned = np.flip(mirrored.masks.probabilities, 2 if axis == 1 else 1).copy()
    masks = Masks(turned, boxes, mirrored.size)
    assert_same(found, replace(mirrored, boxes=boxes, masks=masks), 1e-4)


def test_models_of_other_class_order_input_and_stages_say_the_same_things() -> None:
    """A member whose classes are only renumbered changes nothing."""
    model = single(stages=1, cascade={"class_agnostic_boxes": False})
    order = [2, 0, 1]
    names = tuple(model.config.classes[label] for label in order)
    other = model.config.replace(classes=names)
    detector = Detector(other)
    weights = {name: value.clone() for name, value in model.detector.state_dict().items()}
    for name in ("roi.box_heads.0.classify.weight", "roi.box_heads.0.classify.bias"):
        weights[name] = weights[name][[*order, 3]]
    for name in ("roi.box_heads.0.regress.weight", "roi.box_heads.0.regress.bias"):
        weights[name] = weights[name].unflatten(0, (3, 4))[order].flatten(0, 1)
    for name in ("roi.mask_heads.0.logits.weight", "roi.mask_heads.0.logits.bias"):
        weights[name] = weights[name][order]
    detector.load_state_dict(weights)
    assert_same(
        EnsemblePredictor([model, Predictor(detector, other)]).predict(random_image(), score_threshold=0.0),
        model.predict(random_image(), score_threshold=0.0),
    )
    mixed = [model, single(1, 3, input=Input(short_edge=32, long_edge=96, mean=(1.0, 2.0, 3.0)))]
    assert len(EnsemblePredictor(mixed, parse_views("1,48x96:flip")).predict(random_image(), score_threshold=0.0)) > 0


def test_masks_are_means_of_probabilities_in_every_box_grid() -> None:
    """Against the definition, written out: the models one by one on the joint boxes, at the image's own size,
    plain and mirrored.
    """
    models, size = [single(0), single(1)], torch.tensor([[64, 96]])
    pixels = random_image(64, 96)
    found = EnsemblePredictor(models, parse_views("1:flip")).predict(pixels, score_threshold=0.0)
    settings = models[0].config.input
    image = (
        (torch.from_numpy(pixels).permute(2, 0, 1).float() - torch.tensor(settings.mean).view(3, 1, 1))
        / torch.tensor(settings.std).view(3, 1, 1)
    )[None]
    boxes, labels = torch.from_numpy(found.boxes)[None], torch.from_numpy(found.labels)[None]
    mirrored = torch.stack([96 - boxes[..., 2], boxes[..., 1], 96 - boxes[..., 0], boxes[..., 3]], -1)
    masks = []
    with torch.inference_mode():
        for model in models:
            assert isinstance(model.detector, Detector)
            for seen, places in ((image, boxes), (image.flip(-1), mirrored)):
                features = model.detector.features(seen)
                rois = model.detector.propose(features, size)[0]
                rois = replace(rois, boxes=places, valid=torch.ones(places.shape[:2], dtype=torch.bool))
                grid = model.detector.segment(features, rois, labels)
                masks.append(grid if places is boxes else grid.flip(-1))
    expected = torch.stack(masks).mean(0)[0].numpy()
    np.testing.assert_allclose(found.masks.probabilities, expected, atol=1e-5)
    assert len(np.unique(found.masks.probabilities)) > 100


def test_scores_and_boxes_are_means_over_models_on_the_same_regions() -> None:
    models, pixels, size = [single(0), single(1)], random_image(64, 96), torch.tensor([[64, 96]])
    joint = EnsemblePredictor(models)
    with torch.inference_mode():
        looks = joint._viewed(pixels, View())
        regions = fuse_proposals([look.propose() for look in looks], 0.7)
        scores, boxes, _ = joint._candidates(looks)
        parts = []
        for look in looks:
            stages: list[BoxStage] = look.detector.refine(look.features, look._rois(regions.boxes, regions.valid))
            parts.append(
                (
                    class_scores(stages, look.detector.config.inference)[0],
                    final_boxes(look.detector.roi, stages, look.detector.config.inference)[0],
                )
            )
    torch.testing.assert_close(scores, (parts[0][0] + parts[1][0]) / 2)
    torch.testing.assert_close(boxes, ((parts[0][1] + parts[1][1]) / 2).expand(-1, 3, -1).double())
    assert size.tolist() == looks[0].sizes.tolist()


def test_grids_of_several_sizes_are_averaged_on_the_finest() -> None:
    """A ramp over the box is the same ramp on every grid, away from the border; boxes alone have no say."""
    ramps = [((torch.arange(side) + 0.5) / side).expand(1, 2, side, side) for side in (28, 56)]
    mean = mean_of_grids([ramps[0], torch.zeros(1, 2, 0, 0), ramps[1]])
    torch.testing.assert_close(mean[..., 1:-1], ramps[1][..., 1:-1])
    assert mean_of_grids([torch.zeros(1, 2, 0, 0)] * 2).shape == (1, 2, 0, 0)


def test_models_with_and_without_masks() -> None:
    boxes = single(cascade={"mask_head": NoMask(), "mask_flow": False, "semantic_fusion": "box"})
    masks = single(1)
    alone = EnsemblePredictor([boxes, boxes]).predict(random_image(), score_threshold=0.0)
    assert not alone.masks.exist
    np.testing.assert_allclose(alone.boxes, boxes.predict(random_image(), score_threshold=0.0).boxes, atol=1e-3)
    assert EnsemblePredictor([boxes, masks]).predict(random_image(), score_threshold=0.0).masks.exist


def brute_force(members: list[Proposed], threshold: float) -> list[tuple[float, ...]]:
    rows = [
        (-float(s), number, row)
        for number, one in enumerate(members)
        for row, s in enumerate(one.objectness)
        if one.valid[row]
    ]
    kept: list[tuple[int, list[float]]] = []
    for _, number, row in sorted(rows):
        x1, y1, x2, y2 = box = members[number].boxes[row].tolist()
        for other, (a1, b1, a2, b2) in kept:
            common = max(min(x2, a2) - max(x1, a1), 0) * max(min(y2, b2) - max(y1, b1), 0)
            if other != number and common > threshold * ((x2 - x1) * (y2 - y1) + (a2 - a1) * (b2 - b1) - common):
                break
        else:
            kept.append((number, box))
    return [tuple(box) for _, box in kept][: max(len(one.valid) for one in members)]


@pytest.mark.parametrize("counts", [(30, 30), (30, 10, 20), (5, 0), (0, 0)])
def test_fused_proposals_are_those_of_the_loop(counts: tuple[int, ...]) -> None:
    numbers = torch.Generator().manual_seed(1)
    members = []
    for count in counts:
        corner = torch.rand(count, 2, generator=numbers, dtype=torch.double) * 10
        boxes = torch.cat([corner, corner + 8 + 4 * torch.rand(count, 2, generator=numbers)], 1)
        members.append(
            Proposed(
                boxes,
                torch.rand(count, generator=numbers).sort(descending=True).values,
                torch.rand(count, generator=numbers) > 0.2,
            )
        )
    fused = fuse_proposals(members, 0.5)
    assert [tuple(box) for box in fused.boxes[fused.valid].tolist()] == brute_force(members, 0.5)
    assert len(fused.valid) == max(counts)


def test_nothing_found_by_anyone() -> None:
    model = single(inference={"score_threshold": 1.0})
    found = EnsemblePredictor([model, model], parse_views("0.75,1:flip")).predict(random_image(), score_threshold=1.0)
    assert len(found) == 0
    assert found.masks.rle() == []


def test_no_proposals() -> None:
    """Regions of every view are invalid: still no detection, and no error."""
    model = single()
    with torch.no_grad():
        model.detector.rpn.deltas.bias.fill_(-1e6)  # type: ignore[union-attr]
    assert len(
        EnsemblePredictor([model, model], parse_views("1:flip")).predict(random_image(), score_threshold=0.0)
    ) == len(model.predict(random_image(), score_threshold=0.0))


def test_different_classes_are_refused_by_name() -> None:
    other = small_config(2, semantic={}, classes=("cat", "dog", "fish"))
    with pytest.raises(ConfigError, match="missing 'bird' and additional 'fish'"):
        EnsemblePredictor([single(), Predictor(seeded_detector(other), other)])


def test_nothing_to_join_is_refused() -> None:
    with pytest.raises(ConfigError, match="at least one model"):
        EnsemblePredictor([])
    with pytest.raises(ConfigError, match="at least one model"):
        EnsemblePredictor([single()], [])
    with pytest.raises(ConfigError, match="Corners cannot be part"):
        EnsemblePredictor([Predictor(Corners(), config())])


@pytest.mark.parametrize("options", [{"short_edge": 32}, {"long_edge": 96}, {"semantic": True}])
def test_options_of_a_single_model_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=r"short_edge and long_edge are for one view|no semantic branch"):
        EnsemblePredictor([single()]).predict(random_image(), **options)


@pytest.mark.parametrize("limits", [{"classes": ["dog"]}, {"max_detections": 2}, {"score_threshold": 0.4}])
def test_what_a_call_asks_for_is_chosen_before_the_masks(limits: dict[str, Any]) -> None:
    """The same detections as of all, and no mask head sees more than them."""
    joint = EnsemblePredictor([single(inference={"max_detections": 200}), single(1)])
    everything = joint.predict(random_image(), score_threshold=0.0)
    assert len(everything) < 200
    expected = everything.filter(limits.get("score_threshold", 0.0), limits.get("classes"))
    expected = expected[: limits.get("max_detections")]
    rows: list[int] = []
    for detector in joint.detectors:
        for head in detector.roi.mask_heads:
            head.register_forward_hook(lambda _head, _inputs, logits: rows.append(len(logits)))
    assert_same(joint.predict(random_image(), **{"score_threshold": 0.0, **limits}), expected)
    assert set(rows) == {len(expected)}


def test_the_paper_ensemble_is_five_networks_of_the_same_classes() -> None:
    members = [preset(name) for name in PAPER_ENSEMBLE]
    assert len({str(member.backbone) for member in members}) == 5
    assert len({member.classes for member in members}) == 1

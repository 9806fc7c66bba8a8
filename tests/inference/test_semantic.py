"""The semantic map of an image, asked for with its objects, and the merge of both."""

import numpy as np
import pytest
import torch
from scipy.ndimage import map_coordinates

from htc.errors import ConfigError
from htc.inference.panoptic import merge, stuff_labels
from htc.inference.predictor import Predictor
from htc.results import Detections, Masks
from htc.semantic_map import SemanticMap
from small_detector import seeded_detector, small_config

IMAGE = np.random.default_rng(0).integers(0, 255, (50, 70, 3), np.uint8)


def predictor(**parts):
    config = small_config(semantic={}, inference={"score_threshold": 0.0}, **parts)
    return Predictor(seeded_detector(config), config)


def test_without_asking_there_is_no_map():
    assert predictor().predict(IMAGE).semantic is None


def test_the_map_is_asked_for_and_changes_nothing_else():
    model = predictor()
    found, plain = (
        model.predict(IMAGE, score_threshold=0.0, semantic=True),
        model.predict(IMAGE, score_threshold=0.0),
    )
    assert np.array_equal(found.boxes, plain.boxes)
    assert np.array_equal(found.masks.probabilities, plain.masks.probabilities)
    assert found.semantic is not None
    labels = found.semantic.labels()
    assert labels.shape == (50, 70)
    assert labels.max() < 5
    assert found[:1].semantic is found.semantic


def test_a_batch_gives_each_image_its_own_map():
    model = predictor()
    other = IMAGE[::-1].copy()
    together = [found.semantic.labels() for found in model.predict_many([IMAGE, other], batch_size=2, semantic=True)]
    for image, labels in zip((IMAGE, other), together, strict=True):
        assert (labels == model.predict(image, semantic=True).semantic.labels()).mean() > 0.999


def test_a_model_without_the_branch_says_so():
    config = small_config()
    with pytest.raises(ConfigError, match="no semantic branch"):
        Predictor(seeded_detector(config), config).predict(IMAGE, semantic=True)


@pytest.mark.parametrize(
    ("input_size", "size"),
    [((64, 96), (64, 96)), ((61, 90), (200, 310)), ((64, 96), (23, 31)), ((8, 8), (5, 7)), ((1, 1), (1, 1))],
)
def test_each_pixel_is_sampled_where_it_was_trained(input_size, size):
    """Logit (i, j) lies at pixel (8 i, 8 j) of the input; beyond the last ones the last ones go on."""
    logits = (
        np.random.default_rng(0).normal(size=(4, -(-input_size[0] // 8), -(-input_size[1] // 8))).astype(np.float32)
    )
    rows, columns = (
        ((np.arange(length) + 0.5) * own / length - 0.5) / 8 for length, own in zip(size, input_size, strict=True)
    )
    grid = np.meshgrid(rows, columns, indexing="ij")
    expected = np.stack(
        [map_coordinates(channel.astype(np.float64), grid, order=1, mode="nearest") for channel in logits]
    )
    labels = SemanticMap(logits, input_size, size).labels()
    chosen = np.take_along_axis(expected, labels[None].astype(int), 0)[0]
    assert np.abs(chosen - expected.max(0)).max() < 1e-5


def test_training_targets_come_back_at_their_places():
    """A map that is right at the trained pixels (map[::8, ::8]) is right there in the image."""
    target = np.random.default_rng(1).integers(0, 5, (64, 96))
    logits = np.eye(5, dtype=np.float32)[target[::8, ::8]].transpose(2, 0, 1)
    assert np.array_equal(SemanticMap(logits, (64, 96), (64, 96)).labels()[::8, ::8], target[::8, ::8])


def found_boxes(boxes, scores, names, semantic=None):
    corners = np.array(boxes, np.float32).reshape(-1, 4)
    masks = Masks(np.ones((len(corners), 28, 28), np.float32), corners, (100, 100))
    ids = np.zeros(len(corners), np.int64)
    return Detections(corners, np.array(scores, np.float32), ids, tuple(names), ids, masks, (100, 100), None, semantic)


def test_better_things_own_what_they_share_and_mostly_hidden_ones_go():
    found = found_boxes(
        [(0, 0, 40, 40), (20, 0, 60, 40), (0, 0, 30, 40), (80, 80, 90, 90)],
        [0.9, 0.8, 0.7, 0.4],
        ["cat", "dog", "cat", "cat"],
    )
    merged = merge(found, {"cat": 1, "dog": 2}, {})
    # The second keeps its free half; the third is hidden by the first; the fourth scores too little.
    assert [segment.category_id for segment in merged.segments] == [1, 2]
    assert (merged.ids == 1).sum() == 1600
    assert (merged.ids == 2).sum() == 800
    assert (merged.ids > 0).sum() == 2400


def test_stuff_fills_what_things_leave_if_it_is_large_enough():
    """Left half label 3, right half label 4, a strip of label 5: the strip is too small, label 4 is no stuff."""
    logits = np.full((6, 13, 13), -1, np.float32)
    logits[3, :, :7] = logits[4, :, 7:] = 1
    logits[5, :1] = 2
    semantic = SemanticMap(logits, (100, 100), (100, 100))
    labels = semantic.labels()
    merged = merge(found_boxes([(0, 50, 30, 90)], [0.9], ["cat"], semantic), {"cat": 1}, {3: 70, 5: 90}, area=1000)
    assert [segment.category_id for segment in merged.segments] == [1, 70]
    assert np.array_equal(merged.ids == 2, (labels == 3) & (merged.ids != 1))
    assert not (merged.ids[labels == 4] > 1).any()


@pytest.mark.parametrize("stuff", [{}, {3: 70}])
def test_nothing_found_is_void(stuff):
    merged = merge(found_boxes([], [], []), {"cat": 1}, stuff)
    assert not merged.segments
    assert not merged.ids.any()


def test_what_the_branch_learned_shows_in_its_classes():
    categories = {1: False, 2: False, 3: False, 92: True, 100: True, 250: True}
    assert stuff_labels(small_config(semantic={"classes": 4}), categories) == {}
    assert stuff_labels(small_config(semantic={"classes": 6}), categories) == {3: 92, 4: 100, 5: 250}
    assert stuff_labels(small_config(semantic={"classes": 183}), categories) == {91: 92, 99: 100}
    with pytest.raises(ConfigError, match="needs a semantic branch"):
        stuff_labels(small_config(), categories)


def test_the_network_forward_is_the_same():
    config = small_config(semantic={})
    detector = seeded_detector(config).eval()
    images, sizes = torch.randn(1, 3, 64, 96), torch.tensor([[64, 96]])
    with torch.no_grad():
        assert torch.equal(
            detector(images, sizes).boxes, detector.detect(detector.features(images, semantic_logits=True), sizes).boxes
        )

"""Image, boxes, masks and semantic map move together, whatever the chain of transforms."""

from typing import Any

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from data.blobs import placements, seen_bitmaps, truth_of
from htc.config import Augmentation, Input, ScaleJitter
from htc.data.instance_masks import boxes_from_masks
from htc.data.mask_encodings import Crop
from htc.data.semantic_maps import derived_map
from htc.data.transforms import (
    Placement,
    clip_boxes,
    draw_placement,
    normalize,
    pad_images,
    pad_semantic,
    place_ground_truth,
    place_image,
    place_masks,
    place_semantic,
    plain_placement,
    resized_size,
)
from htc.types import GroundTruth


@settings(max_examples=60, deadline=None)
@given(placements(), st.integers(0, 2**31))
def test_boxes_are_the_boxes_of_their_masks(placement: Placement, seed: int) -> None:
    ground_truth, _ = truth_of(seed, placement.original)
    placed = place_ground_truth(ground_truth, placement)
    assert placed.masks is not None
    torch.testing.assert_close(
        placed.boxes, clip_boxes(boxes_from_masks(placed.masks), placement.size), atol=1e-3, rtol=1e-5
    )
    assert len(placed.boxes) == len(placed.labels) == len(placed.masks)
    if placement.window is None:
        assert placed.labels.tolist() == [0, 1, 2, 3]


@settings(max_examples=60, deadline=None)
@given(placements(resize=False), st.integers(0, 2**31))
def test_masks_and_image_show_the_same_pixels(placement: Placement, seed: int) -> None:
    ground_truth, crops = truth_of(seed, placement.original)
    assert ground_truth.masks is not None
    for number, crop in enumerate(crops):
        image = np.zeros((*placement.original, 3), np.uint8)
        image[crop.y : crop.y + crop.bitmap.shape[0], crop.x : crop.x + crop.bitmap.shape[1]] = crop.bitmap[:, :, None]
        seen = seen_bitmaps(place_masks(ground_truth.masks, placement), placement.size)[number]
        assert np.array_equal(place_image(image, placement)[:, :, 0] > 0, seen)


@settings(max_examples=60, deadline=None)
@given(placements(), st.integers(0, 2**31))
def test_the_semantic_map_follows(placement: Placement, seed: int) -> None:
    """One object: its class is exactly where its placed mask is."""
    ground_truth, crops = truth_of(seed, placement.original, count=1)
    assert ground_truth.masks is not None
    semantic = place_semantic(derived_map(crops, [6], [], placement.original), placement)
    assert semantic.shape == placement.size
    assert np.array_equal(semantic == 7, seen_bitmaps(place_masks(ground_truth.masks, placement), placement.size)[0])


@settings(max_examples=40, deadline=None)
@given(placements(), st.integers(0, 2**31), st.booleans(), st.booleans())
def test_a_second_flip_undoes_the_first(placement: Placement, seed: int, horizontal: bool, vertical: bool) -> None:
    """Flips are involutions, of image, boxes, masks and semantic map alike."""
    ground_truth, crops = truth_of(seed, placement.original)
    height, width = placement.original
    flip = Placement(placement.original, placement.original, horizontal, vertical)
    image = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    semantic = derived_map(crops, [0, 1, 2, 3], [], placement.original)
    twice = place_ground_truth(place_ground_truth(ground_truth, flip), flip)
    assert np.array_equal(place_image(place_image(image, flip), flip), image)
    assert np.array_equal(place_semantic(place_semantic(semantic, flip), flip), semantic)
    assert torch.equal(twice.boxes, ground_truth.boxes)
    assert twice.masks is not None
    assert ground_truth.masks is not None
    assert np.array_equal(seen_bitmaps(twice.masks, (height, width)), seen_bitmaps(ground_truth.masks, (height, width)))


@settings(max_examples=60, deadline=None)
@given(placements(), st.integers(0, 2**31))
def test_deriving_and_moving_can_be_exchanged(placement: Placement, seed: int) -> None:
    """The semantic map derived from the annotated masks, then moved, equals the one derived from the moved masks."""
    ground_truth, crops = truth_of(seed, placement.original, count=3)
    placed = place_ground_truth(ground_truth, placement)
    assert placed.masks is not None
    # Small over large is decided by the annotated areas; the moved ones may be equal.
    order = sorted(range(3), key=lambda i: -int(crops[i].bitmap.sum()))
    expected = np.zeros(placement.size, np.uint8)
    dense = seen_bitmaps(place_masks(ground_truth.masks, placement), placement.size)  # type: ignore[arg-type]
    for i in order:
        expected[dense[i]] = 1 + i
    assert np.array_equal(place_semantic(derived_map(crops, [0, 1, 2], [], placement.original), placement), expected)


@pytest.mark.parametrize("size", [(480, 640), (640, 427), (1, 1), (1, 5000), (213, 140)])
def test_the_resize_is_the_originals(size: tuple[int, int]) -> None:
    placement = plain_placement(size, Input())
    scale = min(1333 / max(size), 800 / min(size))
    assert placement.resized == tuple(max(int(side * scale + 0.5), 1) for side in size)
    image = np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8)
    assert np.array_equal(
        place_image(image, placement), cv2.resize(image, placement.resized[::-1]).reshape(*placement.resized, 3)
    )


def test_known_resized_sizes() -> None:
    assert resized_size((480, 640), 800, 1333) == (800, 1067)
    assert resized_size((427, 640), 800, 1333) == (800, 1199)
    assert resized_size((1000, 3000), 800, 1333) == (444, 1333)


def test_a_view_depends_on_its_generator_alone() -> None:
    augmentation = Augmentation(vertical_flip=0.5, short_edges=(400, 1400), long_edge=1600, crop=(300, 300))
    views = [
        draw_placement((480, 640), Input(), augmentation, torch.Generator().manual_seed(seed))
        for seed in (1, 1, 2, 3, 4)
    ]
    assert views[0] == views[1]
    assert len(set(views)) == 4


def test_views_cover_their_ranges() -> None:
    augmentation = Augmentation(short_edges=(10, 12), crop=(8, 8), vertical_flip=0.0, horizontal_flip=0.5)
    generator = torch.Generator().manual_seed(0)
    views = [draw_placement((20, 20), Input(), augmentation, generator) for _ in range(300)]
    assert {view.resized for view in views} == {(10, 10), (11, 11), (12, 12)}
    assert {view.corner[0] for view in views if view.resized == (10, 10)} == {0, 1, 2}
    assert {view.flip_horizontal for view in views} == {True, False}
    assert {view.flip_vertical for view in views} == {False}


def test_the_draws_are_stable_numbers() -> None:
    """Written down: what a seed draws must not change, or a resumed run would leave its curve."""
    plain = draw_placement((480, 640), Input(), Augmentation(), torch.Generator().manual_seed(7))
    assert plain == Placement((480, 640), (800, 1067), flip_horizontal=True)
    wild = Augmentation(vertical_flip=0.5, short_edges=(400, 1400), long_edge=1600, crop=(300, 300))
    assert draw_placement((480, 640), Input(), wild, torch.Generator().manual_seed(7)) == Placement(
        (480, 640), (679, 905), True, False, (249, 559), (300, 300)
    )


@pytest.mark.parametrize("size", [(480, 640), (30, 300), (1, 1)])
def test_large_scale_jitter(size: tuple[int, int]) -> None:
    """The image fits into the target times a factor of the range; never is more than the target seen; the window
    lies inside.
    """
    augmentation = Augmentation(jitter=ScaleJitter(scales=(0.5, 2.0), size=(100, 120)))
    generator = torch.Generator().manual_seed(0)
    views = [draw_placement(size, Input(), augmentation, generator) for _ in range(300)]
    fit = min(100 / size[0], 120 / size[1])
    scales = [max(view.resized) / (fit * max(size)) for view in views]
    assert 0.45 < min(scales) < 0.6
    assert 1.9 < max(scales) < 2.05
    for view in views:
        assert view.size == (min(view.resized[0], 100), min(view.resized[1], 120))
        assert all(
            0 <= corner <= whole - side
            for corner, whole, side in zip(view.corner, view.resized, view.size, strict=True)
        )
    assert len({view.corner for view in views}) > 1 or max(size) == 1
    limit = min(fit, 0.5)
    held = [
        max(draw_placement(size, Input(max_scale=0.5), augmentation, generator).resized) / max(size) for _ in range(200)
    ]
    rounding = 1 / max(size)
    assert min(held) < 0.7 * limit + rounding
    assert 1.6 * limit - rounding < max(held) <= 2 * limit + rounding


def test_a_list_of_edges() -> None:
    augmentation = Augmentation(short_edge_choices=(20, 50, 30))
    generator = torch.Generator().manual_seed(0)
    assert {draw_placement((40, 40), Input(), augmentation, generator).resized[0] for _ in range(100)} == {20, 30, 50}


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"short_edges": (3, 9), "short_edge_choices": (3,)}, "exclude each other"),
        ({"short_edges": (9, 3)}, "give the shorter edge first"),
        ({"short_edge_choices": ()}, "is empty"),
        ({"jitter": {}, "crop": (5, 5)}, "remove crop"),
        ({"jitter": {}, "resize": False}, "remove resize"),
        ({"jitter": {"scales": (2.0, 1.0)}}, "give the smaller factor first"),
        ({"photometric": {"hue": 0.6}}, "less than or equal to 0.5"),
    ],
)
def test_settings_that_contradict_each_other(values: dict[str, Any], says: str) -> None:
    with pytest.raises(ValidationError, match=says):
        Augmentation(**values)


def test_a_window_larger_than_the_image_is_the_image() -> None:
    augmentation = Augmentation(resize=False, crop=(256, 256), horizontal_flip=0)
    view = draw_placement((30, 300), Input(), augmentation, torch.Generator().manual_seed(0))
    assert view.size == (30, 256)


def test_objects_without_mask_are_clipped_and_crowds_move_along() -> None:
    ground_truth = GroundTruth(
        torch.tensor([[0.0, 0.0, 10.0, 10.0], [0.0, 0.0, 4.0, 4.0]]),
        torch.tensor([0, 1]),
        None,
        torch.tensor([[8.0, 8.0, 20.0, 20.0]]),
    )
    placed = place_ground_truth(ground_truth, Placement((20, 20), (20, 20), corner=(5, 5), window=(10, 10)))
    assert placed.boxes.tolist() == [[0, 0, 5, 5]]
    assert placed.labels.tolist() == [0]
    assert placed.crowd_boxes.tolist() == [[3, 3, 10, 10]]


def test_no_objects() -> None:
    ground_truth, _ = truth_of(0, (10, 10), count=0)
    placed = place_ground_truth(ground_truth, Placement((10, 10), (20, 20), True, True, (2, 2), (7, 7)))
    assert placed.boxes.shape == (0, 4)
    assert placed.masks is not None
    assert len(placed.masks) == 0


def test_padding() -> None:
    """Zeros after normalizing, 255 in the semantic map, sizes that the divisor divides, channels last."""
    settings = Input()
    views = [np.full((33, 20, 3), 255, np.uint8), np.full((10, 40, 3), 7, np.uint8)]
    images = pad_images(views, settings)
    assert images.shape == (2, 3, 64, 64)
    assert images.is_contiguous(memory_format=torch.channels_last)
    assert images[0, :, 33:].abs().sum() == 0
    assert images[1, :, :, 40:].abs().sum() == 0
    assert np.allclose(images[0, :, 5, 5].numpy(), (255 - np.array(settings.mean)) / np.array(settings.std))
    assert np.allclose(normalize(views[1], settings)[0, 0], images[1, :, 0, 0].numpy())
    semantic = pad_semantic([np.zeros((33, 20), np.uint8)], (64, 64))
    assert int((semantic == 0).sum()) == 33 * 20
    assert int((semantic == 255).sum()) == 64 * 64 - 33 * 20


def test_padding_with_the_edges() -> None:
    views = [np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8) for shape in ((33, 20, 3), (10, 40, 3))]
    images = pad_images(views, Input(padding="edge"))
    for image, view in zip(images, views, strict=True):
        below, beside = 64 - view.shape[0], 64 - view.shape[1]
        expected = normalize(np.pad(view, ((0, below), (0, beside), (0, 0)), "edge"), Input())
        assert np.array_equal(image.permute(1, 2, 0).numpy(), expected)


def test_small_lies_over_large_and_objects_over_crowds() -> None:
    large, small, crowd = (
        Crop(0, 0, np.ones((6, 6), np.uint8)),
        Crop(2, 2, np.ones((2, 2), np.uint8)),
        Crop(4, 4, np.ones((4, 4), np.uint8)),
    )
    for crops, labels in (([large, small], [0, 1]), ([small, large], [1, 0])):
        semantic = derived_map(crops, labels, [crowd], (9, 9))
        assert semantic[0, 0] == 1
        assert semantic[2, 2] == 2
        assert semantic[5, 5] == 1
        assert semantic[7, 7] == 255
        assert semantic[8, 8] == 0

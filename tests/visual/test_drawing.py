"""Drawings: what is painted where, and that captions stay legible."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from htc.ops.masks import MaskCrop
from htc.types import MaskCrops
from htc.visual import labels as captions
from htc.visual.drawing import crops_of, draw_objects, enlarge, enlarge_crop, enlargement, paint_mask, side_by_side
from htc.visual.palette import PALETTE, class_colors, instance_colors, luminance, text_color


def squares(count: int, side: int, step: int, columns: int = 10) -> np.ndarray:
    corner = (
        np.array([(number % columns, number // columns) for number in range(count)], np.float32).reshape(-1, 2) * step
        + step // 4
    )
    return np.concatenate((corner, corner + side), axis=1)


def filled(boxes: np.ndarray):
    def crops(order: np.ndarray):
        for x0, y0, x1, y1 in boxes[order].astype(int).tolist():
            yield MaskCrop(x0, y0, np.ones((y1 - y0, x1 - x0), bool))

    return crops


def test_inside_is_tinted_outline_is_opaque_and_the_rest_untouched() -> None:
    canvas = np.full((60, 60, 3), 100, np.uint8)
    bitmap = np.ones((20, 30), bool)
    bitmap[8:12, 10:20] = False
    paint_mask(canvas, MaskCrop(10, 15, bitmap), np.array([200, 0, 0], np.uint8), 1)
    assert canvas[19, 24].tolist() == pytest.approx([142, 58, 58], abs=1)
    assert canvas[15, 20].tolist() == pytest.approx([208, 38, 38], abs=8)
    assert (canvas[25, 24] == 100).all()  # inside the hole
    outside = np.ones((60, 60), bool)
    outside[13:37, 8:42] = False
    assert (canvas[outside] == 100).all()


@pytest.mark.parametrize("place", [(0, 0), (50, 50)])
def test_masks_at_the_border(place: tuple[int, int]) -> None:
    canvas = np.zeros((60, 60, 3), np.uint8)
    paint_mask(canvas, MaskCrop(*place, np.ones((10, 10), bool)), PALETTE[0], 5)
    assert canvas.any()


@pytest.mark.parametrize("bitmap", [np.zeros((0, 0), bool), np.zeros((4, 5), bool)])
def test_empty_masks_paint_nothing(bitmap: np.ndarray) -> None:
    canvas = np.zeros((9, 9, 3), np.uint8)
    paint_mask(canvas, MaskCrop(2, 2, bitmap), PALETTE[0], 1)
    assert not canvas.any()


def test_small_objects_are_painted_over_large_ones() -> None:
    boxes = np.array([[20, 20, 40, 40], [0, 0, 60, 60]], np.float32)
    drawn = draw_objects(np.zeros((60, 60, 3), np.uint8), boxes, np.array([0, 1]), filled(boxes))
    small, large = drawn[20, 30].astype(int), drawn[0, 30].astype(int)
    assert np.abs(small - class_colors(np.array([0]))[0]).max() < 60
    assert np.abs(large - class_colors(np.array([1]))[0]).max() < 60


@pytest.mark.parametrize("size", [(1, 1), (7, 100), (100, 100), (3000, 20)])
@pytest.mark.parametrize("count", [0, 1, 30])
def test_any_size_and_number(size: tuple[int, int], count: int) -> None:
    boxes = squares(count, 8, 12).clip(0, [size[1], size[0]] * 2)
    drawn = draw_objects(
        np.zeros((*size, 3), np.uint8),
        boxes,
        np.zeros(count, int),
        filled(boxes),
        ["nucleus 0.93"] * count,
        outline_boxes=True,
    )
    assert drawn.shape == (*size, 3)


def placed(
    monkeypatch: pytest.MonkeyPatch, size: tuple[int, int], boxes: np.ndarray, text: str = "person 0.93"
) -> np.ndarray:
    """Where `paint_labels` puts captions (xyxy)."""
    spots: list[np.ndarray] = []
    monkeypatch.setattr(captions, "_blend", lambda _canvas, _patch, spot, _color: spots.append(spot))
    captions.paint_labels(
        np.zeros((*size, 3), np.uint8), boxes, [text] * len(boxes), PALETTE[np.zeros(len(boxes), int)]
    )
    return np.array(spots).reshape(-1, 4)


def overlapping(spots: np.ndarray) -> int:
    meet = (spots[:, None, :2] < spots[None, :, 2:]).all(-1) & (spots[None, :, :2] < spots[:, None, 2:]).all(-1)
    return int(meet.sum()) - len(spots)


def test_captions_cover_neither_one_another_nor_leave_the_image(monkeypatch: pytest.MonkeyPatch) -> None:
    spots = placed(monkeypatch, (480, 640), squares(12, 60, 70, 6))
    assert len(spots) == 12
    assert overlapping(spots) == 0
    assert (spots[:, :2] >= 0).all()
    assert (spots[:, 2:] <= [640, 480]).all()


def test_crowded_images_show_scores_inside_objects_with_room(monkeypatch: pytest.MonkeyPatch) -> None:
    boxes = np.concatenate((squares(40, 50, 60, 8), squares(40, 14, 60, 8)))
    spots = placed(monkeypatch, (480, 640), boxes)
    assert 20 <= len(spots) <= 40
    assert overlapping(spots) == 0
    centers = (spots[:, :2] + spots[:, 2:]) / 2
    assert np.abs(centers - (boxes[:40, :2] + 25)[: len(spots)]).max() <= 1


def test_crowded_images_of_small_objects_show_no_captions(monkeypatch: pytest.MonkeyPatch) -> None:
    assert len(placed(monkeypatch, (480, 640), np.concatenate((squares(5, 50, 60, 8), squares(80, 14, 60, 8))))) == 0


def test_tiny_image_has_no_caption_rather_than_a_cut_one(monkeypatch: pytest.MonkeyPatch) -> None:
    assert len(placed(monkeypatch, (12, 30), np.array([[0, 0, 30, 12]], np.float32))) == 0


def test_letters_grow_with_the_image() -> None:
    sizes = [captions.font_size(size) for size in ((100, 100), (480, 640), (2000, 3000), (6000, 8000))]
    assert sizes == sorted(sizes)
    assert sizes[0] == 10
    assert 8000 / sizes[-1] < 2 * 640 / sizes[1]


def test_one_class_neighbours_differ_several_classes_keep_their_colors() -> None:
    boxes = squares(50, 10, 12)
    colors = instance_colors(boxes, np.zeros(50, int))
    assert all((colors[number] != colors[number + 1]).any() for number in range(49))
    labels = np.array([0, 3, 0, 79])
    colors = instance_colors(squares(4, 10, 12), labels)
    assert (colors == class_colors(labels)).all()
    assert (colors[0] == colors[2]).all()


def test_first_21_classes_have_distinct_colors() -> None:
    assert len(np.unique(class_colors(np.arange(21)), axis=0)) == 21


@pytest.mark.parametrize("label", range(21))
def test_captions_contrast_with_their_plate(label: int) -> None:
    ground = class_colors(np.array([label]))[0]
    light, dark = sorted((luminance(ground), luminance(np.array(text_color(ground)))), reverse=True)
    assert (light + 0.05) / (dark + 0.05) > 3.2


@pytest.mark.parametrize(
    ("size", "factor"),
    [((1, 1), 640), ((100, 80), 7), ((256, 256), 3), ((512, 400), 1), ((480, 640), 1), ((6000, 8000), 1)],
)
def test_small_images_are_enlarged(size: tuple[int, int], factor: int) -> None:
    assert enlargement(size) == factor


def test_annotated_masks_are_crops_too() -> None:
    first, second = np.ones((2, 3), np.uint8), np.eye(4, dtype=np.uint8)
    masks = MaskCrops(
        pixels=torch.from_numpy(np.concatenate((first.ravel(), second.ravel()))),
        sizes=torch.tensor([[2, 3], [0, 0], [4, 4]]),
        offsets=torch.tensor([[5, 6], [0, 0], [7, 8]]),
        canvas=(20, 30),
    )
    found = list(crops_of(masks)(np.array([2, 0, 1])))
    assert [(crop.x, crop.y, crop.bitmap.shape) for crop in found] == [(7, 8, (4, 4)), (5, 6, (2, 3)), (0, 0, (0, 0))]
    assert np.array_equal(found[0].bitmap, second.astype(bool))
    assert next(iter(crops_of(masks, 3)(np.array([0])))).bitmap.shape == (6, 9)
    with pytest.raises(ValueError, match="annotated"):
        crops_of(replace(masks, scale=(-1.0, 1.0)))


def test_enlarged_masks_fit_enlarged_images() -> None:
    crop = enlarge_crop(MaskCrop(3, 5, np.ones((4, 6), bool)), 5)
    assert (crop.x, crop.y, crop.bitmap.shape) == (15, 25, (20, 30))
    assert crop.bitmap.mean() > 0.9
    assert enlarge_crop(MaskCrop(3, 5, np.ones((0, 0), bool)), 5).bitmap.size == 0
    assert enlarge(np.zeros((4, 6), np.uint8), 5).shape == (20, 30, 3)


def test_side_by_side() -> None:
    left, right = np.full((50, 80, 3), 10, np.uint8), np.full((60, 70), 20, np.uint8)
    sheet = side_by_side(left, right, ("prediction", "ground truth"))
    assert (sheet == 10).all(-1).sum() == 50 * 80
    assert (sheet == 20).all(-1).sum() == 60 * 70
    assert (sheet[:20] < 128).any()  # the titles

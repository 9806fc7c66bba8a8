"""Polygons drawn again give the mask they came from."""

import numpy as np
import pytest
from pycocotools import mask as coco_mask

from htc.ops.masks import MaskCrop
from htc.ops.polygons import polygons


def drawn(outlines: list[np.ndarray], height: int, width: int) -> np.ndarray:
    parts = coco_mask.frPyObjects([outline.reshape(-1).tolist() for outline in outlines], height, width)
    return coco_mask.decode(coco_mask.merge(parts)).astype(bool)


def disc(height: int, width: int) -> np.ndarray:
    rows, columns = np.mgrid[:height, :width]
    return ((rows - height / 2) / (height / 2.2)) ** 2 + ((columns - width / 2) / (width / 2.2)) ** 2 < 1


def overlap(one: np.ndarray, other: np.ndarray) -> float:
    return (one & other).sum() / (one | other).sum()


def test_a_rectangle_is_its_four_corners() -> None:
    (outline,) = polygons(MaskCrop(10, 20, np.ones((3, 5), bool)))
    assert sorted(map(tuple, outline.tolist())) == [(10, 20), (10, 23), (15, 20), (15, 23)]


def test_exact_outline_gives_the_same_pixels_again() -> None:
    bitmap = disc(40, 60)
    found = drawn(polygons(MaskCrop(7, 5, bitmap)), 60, 80)
    assert np.array_equal(found[5:45, 7:67], bitmap)
    assert found.sum() == bitmap.sum()


def test_outline_turns_only_at_pixel_corners() -> None:
    bitmap = np.random.default_rng(0).random((30, 40)) > 0.4
    for outline in polygons(MaskCrop(0, 0, bitmap)):
        steps = np.diff(outline, axis=0, append=outline[:1])
        assert (outline == outline.round()).all()
        assert ((steps == 0).sum(1) == 1).all()


@pytest.mark.parametrize(("tolerance", "least"), [(0.75, 0.97), (1.0, 0.95)])
def test_simplified_outline_has_fewer_corners_and_nearly_the_same_pixels(tolerance: float, least: float) -> None:
    bitmap = disc(40, 60)
    exact, simple = polygons(MaskCrop(0, 0, bitmap))[0], polygons(MaskCrop(0, 0, bitmap), tolerance)[0]
    assert len(simple) < len(exact) / 2
    assert overlap(drawn([simple], 40, 60), bitmap) > least


def test_parts_come_largest_first_and_holes_are_filled() -> None:
    bitmap = np.zeros((20, 30), bool)
    bitmap[1:3, 1:3] = True
    bitmap[5:15, 10:25] = True
    bitmap[8:10, 14:18] = False
    large, small = polygons(MaskCrop(0, 0, bitmap))
    assert np.ptp(large, axis=0).tolist() == [15, 10]
    assert np.ptp(small, axis=0).tolist() == [2, 2]


@pytest.mark.parametrize("shape", [(0, 0), (0, 5), (4, 4)])
def test_no_pixels_no_polygons(shape: tuple[int, int]) -> None:
    assert polygons(MaskCrop(3, 3, np.zeros(shape, bool))) == []


def test_one_pixel_is_a_unit_square() -> None:
    (outline,) = polygons(MaskCrop(3, 4, np.ones((1, 1), bool)), tolerance=0.5)
    assert len(outline) >= 3
    assert outline.min(0).tolist() == [3, 4]
    assert outline.max(0).tolist() == [4, 5]

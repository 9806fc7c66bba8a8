"""Polygons drawn again give the mask they came from."""

import numpy as np
import pytest
from pycocotools import mask as coco_mask

from htc.ops.masks import MaskCrop
from htc.ops.polygons import Polygon, polygons


def filled(outline: np.ndarray, height: int, width: int) -> np.ndarray:
    parts = coco_mask.frPyObjects([outline.reshape(-1).tolist()], height, width)
    return coco_mask.decode(coco_mask.merge(parts)).astype(bool)


def drawn(parts: list[Polygon], height: int, width: int) -> np.ndarray:
    image = np.zeros((height, width), bool)
    for part in parts:
        inside = filled(part.exterior, height, width)
        for hole in part.holes:
            inside &= ~filled(hole, height, width)
        image |= inside
    return image


def disc(height: int, width: int) -> np.ndarray:
    rows, columns = np.mgrid[:height, :width]
    return ((rows - height / 2) / (height / 2.2)) ** 2 + ((columns - width / 2) / (width / 2.2)) ** 2 < 1


def overlap(one: np.ndarray, other: np.ndarray) -> float:
    return (one & other).sum() / (one | other).sum()


def test_a_rectangle_is_its_four_corners() -> None:
    (part,) = polygons(MaskCrop(10, 20, np.ones((3, 5), bool)))
    assert part.holes == ()
    assert sorted(map(tuple, part.exterior.tolist())) == [(10, 20), (10, 23), (15, 20), (15, 23)]


def test_exact_outline_gives_the_same_pixels_again() -> None:
    bitmap = disc(40, 60)
    found = drawn(polygons(MaskCrop(7, 5, bitmap)), 60, 80)
    assert np.array_equal(found[5:45, 7:67], bitmap)
    assert found.sum() == bitmap.sum()


def test_outline_turns_only_at_pixel_corners() -> None:
    bitmap = np.random.default_rng(0).random((30, 40)) > 0.4
    outlines = [o for part in polygons(MaskCrop(0, 0, bitmap)) for o in (part.exterior, *part.holes)]
    assert len(outlines) > 20
    for outline in outlines:
        steps = np.diff(outline, axis=0, append=outline[:1])
        assert (outline == outline.round()).all()
        assert ((steps == 0).sum(1) == 1).all()


@pytest.mark.parametrize(("tolerance", "least"), [(0.75, 0.97), (1.0, 0.95)])
def test_simplified_outline_has_fewer_corners_and_nearly_the_same_pixels(tolerance: float, least: float) -> None:
    bitmap = disc(40, 60)
    exact, simple = polygons(MaskCrop(0, 0, bitmap))[0], polygons(MaskCrop(0, 0, bitmap), tolerance)[0]
    assert len(simple.exterior) < len(exact.exterior) / 2
    assert overlap(drawn([simple], 40, 60), bitmap) > least


def test_parts_come_largest_first_with_their_holes() -> None:
    bitmap = np.zeros((20, 30), bool)
    bitmap[1:3, 1:3] = True
    bitmap[5:15, 10:25] = True
    bitmap[8:10, 14:18] = False
    bitmap[12, 20] = False
    large, small = polygons(MaskCrop(0, 0, bitmap))
    assert np.ptp(large.exterior, axis=0).tolist() == [15, 10]
    assert sorted(sorted(map(tuple, hole.tolist())) for hole in large.holes) == [
        [(14, 8), (14, 10), (18, 8), (18, 10)],
        [(20, 12), (20, 13), (21, 12), (21, 13)],
    ]
    assert np.ptp(small.exterior, axis=0).tolist() == [2, 2]
    assert small.holes == ()


def test_an_island_in_a_hole_is_a_part_of_its_own() -> None:
    bitmap = np.ones((11, 11), bool)
    bitmap[2:9, 2:9] = False
    bitmap[4:7, 4:7] = True
    bitmap[5, 5] = False
    ring, island = polygons(MaskCrop(3, 4, bitmap))
    assert [len(part.holes) for part in (ring, island)] == [1, 1]
    assert np.array_equal(drawn([ring, island], 15, 14)[4:, 3:], bitmap)


@pytest.mark.parametrize("seed", range(20))
def test_random_masks_with_holes_come_back_to_the_pixel(seed: int) -> None:
    """Pixels that touch at a corner alone share the corner: parts may then meet there, never overlap."""
    numbers = np.random.default_rng(seed)
    bitmap = numbers.random((17, 23)) < numbers.uniform(0.2, 0.95)
    assert np.array_equal(drawn(polygons(MaskCrop(0, 0, bitmap)), 17, 23), bitmap)


def test_nothing_has_no_parts() -> None:
    assert polygons(MaskCrop(0, 0, np.zeros((4, 5), bool))) == []
    assert polygons(MaskCrop(0, 0, np.zeros((0, 0), bool))) == []

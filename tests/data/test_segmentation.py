"""Polygons cut at the border, and every mask's box and area, against pixels."""

import numpy as np
import pytest
from pycocotools import mask as coco_masks

from htc.data.segmentation import cut_ring, exact_area, read_outline, signed_area

H, W = 60, 80


def pixels(ring: list[float]) -> np.ndarray:
    """Which pixel centers of the image lie in a polygon."""
    x, y = np.meshgrid(np.arange(W) + 0.5, np.arange(H) + 0.5)
    inside = np.zeros((H, W), bool)
    points = np.array(ring).reshape(-1, 2)
    for (x1, y1), (x2, y2) in zip(points, np.roll(points, -1, 0), strict=True):
        if y1 != y2:
            inside ^= ((y1 > y) != (y2 > y)) & (x < (x2 - x1) * (y - y1) / (y2 - y1) + x1)
    return inside


@pytest.mark.parametrize("seed", range(12))
def test_a_cut_polygon_covers_what_it_covered_inside(seed):
    rng = np.random.default_rng(seed)
    angles = np.sort(rng.uniform(0, 2 * np.pi, 9))
    radius = rng.uniform(10, 50, 9)
    center = rng.uniform((-10, -10), (W + 10, H + 10))
    ring = (center + np.stack([np.cos(angles), np.sin(angles)], 1) * radius[:, None]).ravel().tolist()
    cut = cut_ring(ring, H, W)
    inside = pixels(ring)
    if len(cut) < 6:
        assert not inside.any()
        return
    points = np.array(cut).reshape(-1, 2)
    assert points.min() >= 0
    assert (points <= (W, H)).all()
    assert (pixels(cut) == inside).all()


@pytest.mark.parametrize("ring", [[-9.0, -9.0, -2.0, -9.0, -2.0, -2.0], [90.0, 5.0, 99.0, 5.0, 95.0, 20.0]])
def test_nothing_remains_of_a_polygon_outside(ring):
    assert cut_ring(ring, H, W) == []
    assert read_outline([ring], H, W).segmentation is None


@pytest.mark.parametrize("compressed", [True, False])
def test_run_lengths_have_the_box_and_area_of_their_pixels(compressed):
    bitmap = np.zeros((H, W), np.uint8, order="F")
    bitmap[5:20, 30:44] = 1
    bitmap[7:9, 33:36] = 0
    runs = coco_masks.encode(bitmap)
    counts = (
        runs["counts"].decode()
        if compressed
        else np.diff(np.flatnonzero(np.diff(np.r_[2, bitmap.ravel("F"), 2])), prepend=-0).tolist()[1:]
    )
    outline = read_outline({"size": [H, W], "counts": counts}, H, W)
    assert outline.box == (30, 5, 44, 20)
    assert outline.area == bitmap.sum() == exact_area(outline, H, W)


def test_area_of_polygons():
    square = [10.0, 10.0, 30.0, 10.0, 30.0, 25.0, 10.0, 25.0]
    assert abs(signed_area(np.array(square).reshape(-1, 2))) == 300
    overlapping = read_outline([square, square], H, W)
    assert overlapping.area == 600
    assert exact_area(overlapping, H, W) == pytest.approx(300, abs=40)


@pytest.mark.parametrize("value", [None, []])
def test_no_segmentation_is_no_fault(value):
    outline = read_outline(value, H, W)
    assert (outline.segmentation, outline.faults, outline.box) == (None, (), None)

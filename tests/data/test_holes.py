"""Rings inside others: which are holes, and the mask without them."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pycocotools import mask as coco_masks

from htc.data.annotation_file import annotation_file
from htc.data.coco import dataset_of, ground_truth_of
from htc.data.dataset import Polygons
from htc.data.holes import hole_rings, nested_rings, with_holes
from htc.data.mask_encodings import counts_of, decode_mask
from htc.evaluation.coco import coco_metrics

SIZE = 64


def square(low: float, high: float, turned: bool = False) -> np.ndarray:
    ring = np.array([(low, low), (high, low), (high, high), (low, high)], float)
    return (ring[::-1] if turned else ring).ravel()


def area(rings: list[np.ndarray]) -> int:
    mask = with_holes(Polygons(tuple(rings)), SIZE, SIZE)
    return int(counts_of(mask, SIZE, SIZE)[1::2].sum())


OUTER, HOLE, ISLAND = square(8, 56), square(20, 44, turned=True), square(28, 36)


@pytest.mark.parametrize(
    ("rings", "holes", "pixels"),
    [
        ([OUTER, HOLE], {1}, 48**2 - 24**2),
        ([HOLE, OUTER], {0}, 48**2 - 24**2),
        ([OUTER[::-1].reshape(-1, 2)[:, ::-1].ravel(), square(20, 44)], {1}, 48**2 - 24**2),
        ([OUTER, HOLE, ISLAND], {1}, 48**2 - 24**2 + 8**2),
        ([ISLAND, HOLE, OUTER], {1}, 48**2 - 24**2 + 8**2),
        ([OUTER, square(20, 44)], set(), 48**2),
        ([OUTER, square(8, 56, turned=True)], set(), 48**2),
        ([OUTER, square(8, 32, turned=True)], {1}, 48**2 - 24**2),
        ([OUTER, square(20, 60, turned=True)], set(), None),
        ([square(0, 10), square(20, 30, turned=True)], set(), 200),
        ([OUTER], set(), 48**2),
    ],
    ids=["hole", "order", "mirrored", "island", "island first", "same", "equal", "touching", "across", "apart", "one"],
)
def test_rings(rings: list[np.ndarray], holes: set[int], pixels: int | None) -> None:
    assert hole_rings(rings) == holes
    if pixels is not None:
        assert area(rings) == pixels


def test_a_ring_in_the_notch_of_another_is_no_hole() -> None:
    """Its box is inside the other's, and all of its points are outside."""
    notched = np.array([2, 2, 60, 2, 60, 60, 40, 60, 40, 20, 20, 20, 20, 60, 2, 60], float)
    assert nested_rings([notched, square(25, 35, turned=True)]) == {}
    crossing = np.array([10, 30, 10, 40, 50, 40, 50, 30], float)  # its points are inside, its edges cross the notch
    assert nested_rings([notched, crossing]) == {}


def test_another_part_over_the_hole_stays() -> None:
    """A hole is cut from the ring around it alone."""
    rings = [OUTER, HOLE, np.array([30, 0, 34, 0, 34, 63, 30, 63], float)]
    assert hole_rings(rings) == {1}
    mask = decode_mask(with_holes(Polygons(tuple(rings)), SIZE, SIZE), SIZE, SIZE)
    assert mask.bitmap[32 - mask.y, 32 - mask.x] == 1
    assert mask.bitmap[32 - mask.y, 24 - mask.x] == 0


def test_random_holes_equal_the_difference_of_the_masks() -> None:
    rng = np.random.default_rng(3)
    for _ in range(50):
        angles = np.sort(rng.uniform(0, 2 * np.pi, 12))
        unit = np.stack([np.cos(angles), np.sin(angles)], 1)
        outer = 32 + unit * rng.uniform(24, 30, (12, 1))
        if len(nested_rings([outer.ravel(), (32 + (outer - 32) * 0.4)[::-1].ravel()])) == 0:
            continue  # the center is not inside
        inner = (32 + (outer - 32) * 0.4)[::-1]
        masks: list[Any] = [
            coco_masks.decode(coco_masks.frPyObjects([r.ravel().tolist()], SIZE, SIZE))[:, :, 0] for r in (outer, inner)
        ]
        expected = int((masks[0] & ~masks[1].astype(bool)).sum())
        assert area([outer.ravel(), inner.ravel()]) == expected


def content(rings: list[np.ndarray]) -> dict[str, Any]:
    return {
        "images": [{"id": 1, "file_name": "a.png", "height": SIZE, "width": SIZE}],
        "categories": [{"id": 1, "name": "thing"}],
        "annotations": [
            {
                "id": 1,
                "image_id": 1,
                "category_id": 1,
                "iscrowd": 0,
                "bbox": [8, 8, 48, 48],
                "area": 1728,
                "segmentation": [ring.tolist() for ring in rings],
            }
        ],
    }


def test_training_cuts_the_hole_and_the_official_evaluation_fills_it() -> None:
    data = content([OUTER, HOLE])
    (instance,) = dataset_of(annotation_file(data, Path("a.json"))).images[0].instances
    assert counts_of(instance.segmentation, SIZE, SIZE)[1::2].sum() == 1728  # type: ignore[arg-type]
    (filled,) = dataset_of(annotation_file(data, Path("a.json"), holes=False)).images[0].instances
    assert isinstance(filled.segmentation, Polygons)
    truth = ground_truth_of(annotation_file(data, Path("a.json")))
    assert truth["annotations"] == data["annotations"]
    union: Any = coco_masks.merge(coco_masks.frPyObjects([OUTER.tolist()], SIZE, SIZE))
    counts = union["counts"].decode()
    result = {"image_id": 1, "category_id": 1, "score": 0.9, "segmentation": {"size": [SIZE, SIZE], "counts": counts}}
    assert coco_metrics(data, [result])["segm"]["AP"] == 1

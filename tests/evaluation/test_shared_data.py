"""Our numbers against pycocotools on real annotations, where a checkout has them beside it, with results made from
them by noise.
"""

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
from pycocotools import mask as rle_codec

from evaluation_scenes import assert_equal, found
from htc.evaluation.comparison import to_rle

DATA = next(
    (folder / "shared/data" for folder in Path(__file__).resolve().parents if (folder / "shared/data").is_dir()),
    Path("shared/data"),
)
BUNDLED = Path(__file__).parents[2] / "src/htc/demo/nuclei/annotations/instances_val.json"
SETS = {
    "nuclei": BUNDLED,
    "dsb2018": DATA / "dsb2018/annotations/instances_val.json",
    "fruits_nuts": DATA / "fruits_nuts/annotations/instances_val.json",
    "coco_mini": DATA / "coco_mini/annotations/instances_val2017.json",
    "coco_panoptic_sample": DATA / "coco_panoptic_sample/annotations/panoptic_as_detection.json",
}
MOST_OBJECTS = 200


def part(path):
    """The first images of a file, with at most `MOST_OBJECTS` objects, some of them made crowds.

    Objects count from 1: pycocotools takes one of id 0, as the panoptic sample has it, for "unmatched".
    """
    content = json.loads(path.read_text())
    images, objects = [], []
    for image in content["images"]:
        own = [a for a in content["annotations"] if a["image_id"] == image["id"]]
        if objects and len(objects) + len(own) > MOST_OBJECTS:
            break
        images.append(image)
        objects += own
    objects = [
        {**a, "id": number, "iscrowd": int(a.get("iscrowd", 0) or number % 17 == 0)}
        for number, a in enumerate(objects, start=1)
    ]
    return {"images": images, "annotations": objects, "categories": content["categories"]}


def noisy(truth, seed=0):
    """Results: each object not at all, well, badly or twice, and some of another class; masks moved, grown or
    shrunk.
    """
    generator = np.random.default_rng(seed)
    sizes = {image["id"]: (image["height"], image["width"]) for image in truth["images"]}
    classes = [category["id"] for category in truth["categories"]]
    results = []
    for annotation in truth["annotations"]:
        mask = rle_codec.decode(to_rle(annotation["segmentation"], *sizes[annotation["image_id"]]))
        for _ in range(generator.choice([0, 1, 1, 2])):
            reach = max(1, int(mask.sum() ** 0.5 * 0.2))
            moved = np.roll(mask, tuple(generator.integers(-reach, reach + 1, 2)), (0, 1))
            change = (cv2.dilate, cv2.erode)[generator.integers(2)]
            moved = change(moved, np.ones((3, 3), np.uint8), iterations=int(generator.integers(3)))
            category = annotation["category_id"] if generator.random() < 0.8 else int(generator.choice(classes))
            if moved.any():
                results.append(found(annotation["image_id"], category, moved, generator.random()))
    return results


@pytest.mark.parametrize("name", SETS)
def test_equals_pycocotools_on_real_annotations(name):
    if not SETS[name].is_file():
        pytest.skip(f"{SETS[name]} is not there")
    truth = part(SETS[name])
    results = noisy(truth)
    assert any(annotation["iscrowd"] for annotation in truth["annotations"])
    for max_detections in (100, 400):
        assert_equal(truth, results, max_detections)

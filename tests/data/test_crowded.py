"""An image with 400 objects, and data sets without masks."""

import json
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco_masks

from htc.config import Augmentation, Config, Input, Training
from htc.data.coco import read_coco
from htc.data.dataset import Dataset
from htc.data.loader import TrainingImages, training_loader
from htc.presets import preset

SIDE, OBJECTS = 1400, 400


def crowded(folder: Path, encoding: str) -> Dataset:
    """One image of 1400 x 1400 with 400 rectangles in a grid, in one of COCO's encodings."""
    Image.new("RGB", (SIDE, SIDE)).save(folder / "a.png")
    annotations = []
    for number in range(OBJECTS):
        x, y, w, h = 70 * (number % 20) + 3, 70 * (number // 20) + 5, 60, 50
        segmentation: object = [[x, y, x + w, y, x + w, y + h, x, y + h]]
        if encoding != "polygon":
            runs = [x * SIDE + y, *[h, SIDE - h] * (w - 1), h]
            uncompressed = {"size": [SIDE, SIDE], "counts": [*runs, SIDE * SIDE - sum(runs)]}
            compressed = coco_masks.frPyObjects(uncompressed, SIDE, SIDE)
            segmentation = (
                uncompressed if encoding == "runs" else {"size": [SIDE, SIDE], "counts": compressed["counts"].decode()}
            )
        annotations.append(
            {
                "id": number,
                "image_id": 0,
                "category_id": 1,
                "bbox": [x, y, w, h],
                "iscrowd": 0,
                "segmentation": segmentation,
            }
        )
    images = [{"id": 0, "file_name": "a.png", "height": SIDE, "width": SIDE}]
    (folder / "a.json").write_text(
        json.dumps({"images": images, "annotations": annotations, "categories": [{"id": 1, "name": "cell"}]})
    )
    return read_coco(folder / "a.json", folder)


def config_of(**augmentation: object) -> Config:
    """The small model at the image's own size, with the given augmentation."""
    training = Training(augmentation=Augmentation.model_validate({"resize": False, **augmentation}))
    return preset("htc_r18_small").replace(input=Input(short_edge=SIDE, long_edge=SIDE), training=training)


PASTE = {"copy_paste": {"probability": 1.0, "share": 1.0}}


@pytest.mark.parametrize(("encoding", "augmentation"), [("polygon", {}), ("runs", {}), ("text", {}), ("text", PASTE)])
def test_four_hundred_objects_are_never_dense(tmp_path: Path, encoding: str, augmentation: dict[str, object]) -> None:
    """Dense they would be 784 MB; the image is 6 MB and its crops 1.2 MB."""
    images = TrainingImages(crowded(tmp_path, encoding), config_of(**augmentation), 0, 0)
    tracemalloc.start()
    sample = images[0]
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert sample.ground_truth.masks is not None
    assert len(sample.ground_truth.boxes) == len(sample.ground_truth.masks) >= OBJECTS
    assert sample.semantic is not None
    if not augmentation:
        assert len(sample.ground_truth.masks.pixels) == OBJECTS * 60 * 50
        assert int((sample.semantic == 1).sum()) == OBJECTS * 60 * 50
    assert peak < 64e6


def test_images_with_and_without_masks_share_a_batch(tmp_path: Path) -> None:
    """Where any object of an image has no mask the image teaches boxes only; its map is derived from the boxes
    there.
    """
    for name in ("a", "b"):
        Image.new("RGB", (40, 40)).save(tmp_path / f"{name}.png")
    images = [{"id": number, "file_name": f"{name}.png", "height": 40, "width": 40} for number, name in enumerate("ab")]
    square = {"category_id": 1, "bbox": [4, 4, 20, 20], "iscrowd": 0}
    outline = [[4, 4, 24, 4, 24, 24, 4, 24]]
    annotations = [{"id": 1, "image_id": 0, "segmentation": outline, **square}, {"id": 2, "image_id": 1, **square}]
    (tmp_path / "a.json").write_text(
        json.dumps({"images": images, "annotations": annotations, "categories": [{"id": 1, "name": "cell"}]})
    )
    (batch,) = training_loader(read_coco(tmp_path / "a.json", tmp_path), config_of(horizontal_flip=0.0), 0, 0, 2)
    for id, ground_truth in zip(batch.image_ids, batch.truths, strict=True):
        assert (ground_truth.masks is None) == (id == 1)
        assert ground_truth.boxes.tolist() == [[4, 4, 24, 24]]
    assert batch.semantic is not None
    assert np.array_equal(batch.semantic[0], batch.semantic[1])

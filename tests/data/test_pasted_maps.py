"""Copy-paste moves the semantic map with the image, wherever the map comes from: each pixel of the images tells
its own place.
"""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from htc.config import Augmentation, CopyPaste, Semantic
from htc.data.coco import read_coco
from htc.data.dataset import Dataset
from htc.data.ground_truth import annotated
from htc.data.loader import TrainingImages
from htc.data.semantic_maps import MapSources, with_semantic_maps
from htc.presets import preset

SIZES = {1: (40, 52), 2: (48, 36), 3: (44, 44)}
"""(height, width) by image id."""
CLASSES = 60


@pytest.fixture
def data(tmp_path: Path) -> Dataset:
    """Pixels are (image id, row, column); two objects and a crowd in each image."""
    images, annotations = [], []
    for id, (height, width) in SIZES.items():
        rows, columns = np.mgrid[:height, :width]
        Image.fromarray(np.stack([np.full_like(rows, id), rows, columns], -1).astype(np.uint8)).save(
            tmp_path / f"{id}.png"
        )
        images.append({"id": id, "file_name": f"{id}.png", "height": height, "width": width})
        for number, (x, y, w, h, crowd) in enumerate(((2, 3, 14, 9, 0), (12, 8, 9, 25, 0), (25, 20, 8, 8, 1))):
            outline = (
                [[x, y, x + w, y, x + w, y + h, x, y + h]]
                if not crowd
                else {"size": [height, width], "counts": [0, height * width]}
            )
            annotations.append(
                {
                    "id": 10 * id + number,
                    "image_id": id,
                    "category_id": 4 + number % 2,
                    "iscrowd": crowd,
                    "bbox": [x, y, w, h],
                }
            )
            annotations[-1]["segmentation"] = outline
    categories = [{"id": 4, "name": "cat"}, {"id": 5, "name": "dog"}]
    (tmp_path / "instances.json").write_text(
        json.dumps({"images": images, "annotations": annotations, "categories": categories})
    )
    return read_coco(tmp_path / "instances.json", tmp_path)


@pytest.fixture
def maps(tmp_path: Path) -> Path:
    """Noise of classes: `stuff/` with 10..39 and 255, `panoptic/` with categories 4, 5, 50, a crowd and void."""
    generator, entries = np.random.default_rng(0), []
    for name in ("stuff", "panoptic"):
        (tmp_path / name).mkdir()
    for id, size in SIZES.items():
        Image.fromarray(
            np.where(generator.random(size) < 0.2, 255, generator.integers(10, 40, size)).astype(np.uint8)
        ).save(tmp_path / f"stuff/{id}.png")
        ids = generator.integers(0, 5, size) * 1000
        Image.fromarray(np.stack([ids % 256, ids // 256, 0 * ids], -1).astype(np.uint8)).save(
            tmp_path / f"panoptic/{id}.png"
        )
        segments = [{"id": 1000 * place, "category_id": category} for place, category in ((1, 4), (2, 5), (3, 50))]
        entries.append(
            {
                "image_id": id,
                "file_name": f"{id}.png",
                "segments_info": [*segments, {"id": 4000, "category_id": 4, "iscrowd": 1}],
            }
        )
    categories = [
        {"id": id, "name": name, "isthing": int(id < 50)} for id, name in ((4, "cat"), (5, "dog"), (50, "grass"))
    ]
    (tmp_path / "panoptic.json").write_text(json.dumps({"annotations": entries, "categories": categories}))
    return tmp_path


@pytest.mark.parametrize("kind", ["derived", "folder", "panoptic", "all three"])
def test_each_pixel_brings_its_class(data: Dataset, maps: Path, kind: str) -> None:
    """Through flips, a window and pasted objects: what the map says where a pixel lies is what it said where the
    pixel came from.
    """
    panoptic = (maps / "panoptic.json", maps / "panoptic")
    sources = {
        "folder": MapSources(maps / "stuff"),
        "panoptic": MapSources(None, *panoptic),
        "all three": MapSources(maps / "stuff", *panoptic, "ids"),
    }
    data = data if kind == "derived" else with_semantic_maps(data, sources[kind])
    small = preset("htc_r18_small")
    augmentation = Augmentation(
        resize=False, vertical_flip=0.5, crop=(36, 34), copy_paste=CopyPaste(probability=1.0, share=0.7)
    )
    config = small.replace(semantic=Semantic(classes=CLASSES, channels=64), training={"augmentation": augmentation})
    known = {record.id: annotated(record, CLASSES, data.semantic_maps).semantic for record in data.images}
    pasted = 0
    for epoch in range(4):
        images = TrainingImages(data, config, seed=0, epoch=epoch)
        for sample in (images[position] for position in range(len(images))):
            expected = np.zeros_like(sample.semantic)
            for id, semantic in known.items():
                here = sample.image[:, :, 0] == id
                expected[here] = semantic[sample.image[here][:, 1], sample.image[here][:, 2]]
                pasted += int(here.sum()) if id != sample.image_id else 0
            assert np.array_equal(sample.semantic, expected)
    assert pasted > 200

"""Small generated data sets: a clean one, and one for each fault that has this fault and no other."""

import copy
import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from PIL import Image
from pycocotools import mask as coco_masks

from htc.data.mask_encodings import read_counts

HEIGHT, WIDTH = 96, 128
CATEGORIES = [{"id": 1, "name": "disc"}, {"id": 5, "name": "bar"}]


@dataclass
class DataSet:
    """Files of a training and a validation part below one folder."""

    root: Path
    train: dict[str, Any]
    val: dict[str, Any]

    @property
    def annotations(self) -> Path:
        return self.root / "annotations" / "instances_train.json"

    @property
    def images(self) -> Path:
        return self.root / "train"

    @property
    def val_annotations(self) -> Path:
        return self.root / "annotations" / "instances_val.json"

    @property
    def val_images(self) -> Path:
        return self.root / "val"

    @property
    def maps(self) -> Path:
        return self.root / "maps"

    def write(self) -> "DataSet":
        self.annotations.parent.mkdir(parents=True, exist_ok=True)
        self.annotations.write_text(json.dumps(self.train))
        self.val_annotations.write_text(json.dumps(self.val))
        return self

    @property
    def objects(self) -> list[dict[str, Any]]:
        return self.train["annotations"]

    def image(self, number: int = 0) -> Path:
        return self.images / self.train["images"][number]["file_name"]


def clean(root: Path) -> DataSet:
    """Three images a part with a disc (polygon) and a bar (run lengths) each, one crowd, and a map for each
    training image.
    """
    parts = {}
    for part, first in (("train", 0), ("val", 3)):
        (root / part).mkdir(parents=True)
        images, annotations = [], []
        for number in range(3):
            name = f"{part}_{number}.png"
            Image.fromarray(scene(first + number)).save(root / part / name)
            images.append({"id": number + 1, "file_name": name, "height": HEIGHT, "width": WIDTH})
            annotations += [disc(2 * number + 1, number + 1), bar(2 * number + 2, number + 1)]
        annotations.append(crowd(99, 1))
        parts[part] = {
            "info": {"description": "generated"},
            "images": images,
            "annotations": annotations,
            "categories": copy.deepcopy(CATEGORIES),
        }
    (root / "maps").mkdir()
    for image in parts["train"]["images"]:
        values = np.zeros((HEIGHT, WIDTH), np.uint8)
        values[:20] = 255
        values[40:60] = 182
        Image.fromarray(values).save(root / "maps" / Path(image["file_name"]).with_suffix(".png").name)
    return DataSet(root, parts["train"], parts["val"]).write()


@cache
def scene(seed: int) -> np.ndarray:
    """Blurred noise: no two are alike."""
    noise = np.random.default_rng(seed).integers(0, 256, (12, 16, 3), dtype=np.uint8)
    return cv2.resize(noise, (WIDTH, HEIGHT), interpolation=cv2.INTER_CUBIC)


def disc(id: int, image: int, center: tuple[float, float] = (40.3, 50.6), radius: float = 17.4) -> dict[str, Any]:
    angles = np.linspace(0, 2 * np.pi, 24, endpoint=False)
    points = np.stack([center[0] + radius * np.cos(angles), center[1] + radius * np.sin(angles)], 1).round(2)
    ring = points.ravel().tolist()
    low, high = points.min(0), points.max(0)
    area = float(coco_masks.area(coco_masks.frPyObjects([ring], HEIGHT, WIDTH))[0])
    return {
        "id": id,
        "image_id": image,
        "category_id": 1,
        "iscrowd": 0,
        "segmentation": [ring],
        "bbox": [round(float(value), 2) for value in (*low, *(high - low))],
        "area": area,
    }


def bar(id: int, image: int, box: tuple[int, int, int, int] = (70, 20, 40, 25)) -> dict[str, Any]:
    return {"id": id, "image_id": image, "category_id": 5, "iscrowd": 0, **_runs(box)}


def crowd(id: int, image: int) -> dict[str, Any]:
    found = {"id": id, "image_id": image, "category_id": 1, "iscrowd": 1, **_runs((80, 70, 30, 20))}
    found["segmentation"]["counts"] = read_counts(found["segmentation"]["counts"].encode()).tolist()
    return found


def _runs(box: tuple[int, int, int, int]) -> dict[str, Any]:
    x, y, w, h = box
    bitmap = np.zeros((HEIGHT, WIDTH), np.uint8, order="F")
    bitmap[y : y + h, x : x + w] = 1
    runs = coco_masks.encode(bitmap)
    return {
        "segmentation": {"size": [HEIGHT, WIDTH], "counts": runs["counts"].decode()},
        "bbox": [float(value) for value in box],
        "area": float(w * h),
    }


Fault = Callable[[DataSet], None]


def change(position: int, **fields: Any) -> Fault:
    """Those fields of one annotation changed; None removes one."""

    def apply(data: DataSet) -> None:
        for name, value in fields.items():
            if value is None:
                del data.objects[position][name]
            else:
                data.objects[position][name] = value

    return apply


def both(*faults: Fault) -> Fault:
    def apply(data: DataSet) -> None:
        for fault in faults:
            fault(data)

    return apply

"""Output of all readers of other formats, and its conversion to COCO instance files."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from pycocotools import mask as coco_masks

from htc.data.image_headers import IMAGE_SUFFIXES
from htc.data.mask_encodings import Rings, polygon_runs
from htc.files import write_json

ANNOTATIONS_FOLDER = "annotations"
IMAGE_ENDINGS = frozenset(IMAGE_SUFFIXES)
SPLIT_NAMES = {"train": "train", "val": "val", "valid": "val", "validation": "val", "test": "test"}
"""Folder names of the splits, as common tools write them, and their names here."""


@dataclass(frozen=True, slots=True)
class ConvertedInstance:
    """One instance: polygons, RLE (COCO's dict), or a box only."""

    category: int
    """Index into `Converted.classes`."""
    segmentation: Rings | dict[str, Any] | None
    box: tuple[float, float, float, float] | None = None
    """x, y, width, height in pixels; None: the box of the segmentation."""


@dataclass(frozen=True, slots=True)
class ConvertedImage:
    """One image and its instances."""

    file_name: str
    """Relative to `Converted.images`, with forward slashes."""
    height: int
    width: int
    objects: tuple[ConvertedInstance, ...]


@dataclass(frozen=True)
class Converted:
    """A whole dataset that was read."""

    kind: str
    """Name of the source format, for messages: "YOLO", "labelme", ..."""
    images: Path
    """The folder that file names are relative to; nothing in it is copied or changed."""
    classes: tuple[str, ...]
    parts: dict[str, tuple[ConvertedImage, ...]]
    """`train`, optionally `val` and `test`."""
    notes: tuple[str, ...] = ()
    """Notes for the user about how it was read."""


@dataclass
class Notes:
    """Notes about skipped or interpreted data, counted so that each takes one line."""

    counts: dict[str, int] = field(default_factory=dict)

    def add(self, what: str) -> None:
        """Count one occurrence."""
        self.counts[what] = self.counts.get(what, 0) + 1

    def lines(self) -> tuple[str, ...]:
        """One line per note, with its count if there are several."""
        return tuple(what if count == 1 else f"{count} x {what}" for what, count in self.counts.items())


def images_in(folder: Path) -> list[Path]:
    """Image files directly in a folder, sorted by name."""
    return sorted(
        path for path in folder.iterdir() if path.suffix.lower() in IMAGE_ENDINGS and not path.name.startswith(".")
    )


def write_parts(data: Converted, destination: Path) -> dict[str, Path]:
    """Write `annotations/instances_<part>.json` below `destination`; returns the files by part. Raises
    `OutputError`.
    """
    files = {}
    for part, images in data.parts.items():
        files[part] = destination / ANNOTATIONS_FOLDER / f"instances_{part}.json"
        write_json(files[part], coco_content(data, images))
    return files


def coco_content(data: Converted, images: tuple[ConvertedImage, ...]) -> dict[str, Any]:
    """One part in COCO's instance format; image, instance and category ids start at 1."""
    return {
        "info": {"description": f"{data.kind} data, converted; file names are relative to {data.images}"},
        "images": [
            {"id": number, "file_name": image.file_name, "height": image.height, "width": image.width}
            for number, image in enumerate(images, start=1)
        ],
        "categories": [{"id": number, "name": name} for number, name in enumerate(data.classes, start=1)],
        "annotations": list(_annotations(images)),
    }


def _annotations(images: tuple[ConvertedImage, ...]) -> Iterator[dict[str, Any]]:
    id = 0
    for number, image in enumerate(images, start=1):
        for instance in image.objects:
            id += 1
            box, area = _box_and_area(instance, image)
            record = {
                "id": id,
                "image_id": number,
                "category_id": instance.category + 1,
                "iscrowd": 0,
                "bbox": box,
                "area": area,
            }
            yield record if instance.segmentation is None else record | {"segmentation": instance.segmentation}


def _box_and_area(instance: ConvertedInstance, image: ConvertedImage) -> tuple[list[float], float]:
    """xywh and number of pixels; for a polygon, the box of its points within the image, like COCO's boxes."""
    if instance.segmentation is None:
        assert instance.box is not None
        return [round(value, 3) for value in instance.box], round(instance.box[2] * instance.box[3], 3)
    if isinstance(instance.segmentation, dict):
        runs: Any = {**instance.segmentation, "counts": instance.segmentation["counts"].encode("ascii")}
        return [float(value) for value in coco_masks.toBbox(runs)], float(coco_masks.area(runs))
    points = np.concatenate([np.array(ring, np.float64) for ring in instance.segmentation]).reshape(-1, 2)
    low, high = points.min(0).clip(0), np.minimum(points.max(0), (image.width, image.height))
    encoded = coco_masks.merge(polygon_runs(instance.segmentation, image.height, image.width))
    return [round(float(value), 3) for value in (*low, *(high - low))], float(coco_masks.area(encoded))


def text_of(runs: Any) -> str:
    """Counts of a compressed RLE as a string for JSON."""
    counts = runs["counts"]
    return counts if isinstance(counts, str) else counts.decode("ascii")

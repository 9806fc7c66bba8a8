"""Output of all readers of other formats, and its conversion to COCO instance files."""

import os
from collections.abc import Container, Iterable, Iterator
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from pycocotools import mask as coco_masks

from htc.data.faults import Faults
from htc.data.image_headers import IMAGE_SUFFIXES
from htc.data.mask_encodings import Rings, polygon_runs
from htc.data.segmentation import parse_segmentation
from htc.errors import DataError
from htc.files import visible_entries, whole_file, write_json

ANNOTATIONS_FOLDER = "annotations"
IMAGE_ENDINGS = frozenset(IMAGE_SUFFIXES)
EMBEDDED_FOLDER = "images"
NAMES_SHOWN = 10
"""Number of names in a note; the others are counted."""
SPLIT_NAMES = {
    **{"train": "train", "val": "val", "valid": "val", "validation": "val", "test": "test"},
    **{"training": "train", "testing": "test"},
}
"""Folder names of the splits, as common tools write them, and their names here."""


@dataclass(frozen=True, slots=True)
class ConvertedInstance:
    """One instance: polygons, RLE (COCO's dict), or a box only."""

    category: int
    """Index into `Converted.classes`."""
    segmentation: Rings | dict[str, Any] | None
    box: tuple[float, float, float, float] | None = None
    """x, y, width, height in pixels; None: the box of the segmentation."""
    crowd: bool = False
    """Several instances that are not told apart."""


@dataclass(frozen=True, slots=True)
class ConvertedImage:
    """One image and its instances."""

    path: Path
    height: int
    width: int
    objects: tuple[ConvertedInstance, ...]
    content: bytes | None = None
    """The image's file, if it is embedded in an annotation file; `path` is then the name to give it."""


@dataclass(frozen=True)
class Converted:
    """A whole dataset that was read."""

    kind: str
    """Name of the source format, for messages: "YOLO", "labelme", ..."""
    folder: Path
    """The folder of the dataset; nothing in it is copied or changed."""
    classes: tuple[str, ...]
    parts: dict[str, tuple[ConvertedImage, ...]]
    """`train`, optionally `val` and `test`."""
    notes: tuple[str, ...] = ()
    """Notes for the user about how it was read."""

    @cached_property
    def images(self) -> Path:
        """The folder that file names are relative to: the dataset's, or one above it if images lie outside of it."""
        paths = [image.path for images in self.parts.values() for image in images]
        outside = [absolute(path).parent for path in paths if not _is_below(path, self.folder)]
        if not outside:
            return self.folder
        try:
            return Path(os.path.commonpath([absolute(self.folder), *outside]))
        except ValueError as error:
            raise DataError(
                f"{self.folder}: its images have no common folder ({error}); put them on one drive"
            ) from error

    def file_name(self, image: ConvertedImage) -> str:
        """Name of an image relative to `images`, with forward slashes."""
        root = self.images
        path, root = (image.path, root) if _is_below(image.path, root) else (absolute(image.path), absolute(root))
        return path.relative_to(root).as_posix()


@dataclass
class Notes:
    """Notes about skipped or interpreted data, counted so that each takes one line."""

    counts: dict[str, int] = field(default_factory=dict)
    names: dict[str, list[str]] = field(default_factory=dict)

    def add(self, what: str) -> None:
        """Count one occurrence."""
        self.counts[what] = self.counts.get(what, 0) + 1

    def name(self, what: str, name: str) -> None:
        """Count one occurrence and list its name."""
        self.add(what)
        self.names.setdefault(what, []).append(name)

    def lines(self) -> tuple[str, ...]:
        """One line per note, with its count if there are several, and the names."""
        return tuple(
            (what if count == 1 else f"{count} x {what}")
            + (f": {listed(self.names[what])}" if what in self.names else "")
            for what, count in self.counts.items()
        )


def listed(names: Iterable[str]) -> str:
    """The names, separated by commas; of many the first ones and the number of the others."""
    names = list(names)
    more = f" and {len(names) - NAMES_SHOWN} more" if len(names) > NAMES_SHOWN else ""
    return ", ".join(names[:NAMES_SHOWN]) + more


def images_in(folder: Path) -> list[Path]:
    """Image files directly in a folder, sorted by name."""
    return [path for path in visible_entries(folder) if path.suffix.lower() in IMAGE_ENDINGS]


def images_below(folder: Path, without: Container[str] = ()) -> Iterator[Path]:
    """Image files in a folder and its visible subfolders, except those with a name in `without`."""
    yield from images_in(folder)
    for path in visible_entries(folder):
        if path.is_dir() and path.name not in without:
            yield from images_below(path, without)


def with_embedded(data: Converted, destination: Path) -> Converted:
    """Write the images that are embedded in annotation files below `destination`; returns the dataset with their paths.
    Raises `OutputError`.
    """
    parts = {}
    for part, images in data.parts.items():
        written = []
        for position, image in enumerate(images):
            if image.content is not None:
                path = destination / EMBEDDED_FOLDER / part / f"{position:06}-{image.path.name}"
                with whole_file(path) as writer:
                    writer.write(image.content)
                image = replace(image, path=path, content=None)
            written.append(image)
        parts[part] = tuple(written)
    return replace(data, parts=parts)


def write_parts(data: Converted, destination: Path) -> dict[str, Path]:
    """Write `annotations/instances_<part>.json` below `destination`; returns the files by part. Raises `DataError` for
    outlines that training would refuse, and `OutputError`.
    """
    _check_outlines(data)
    files = {}
    for part, images in data.parts.items():
        files[part] = destination / ANNOTATIONS_FOLDER / f"instances_{part}.json"
        write_json(files[part], coco_content(data, images))
    return files


def _check_outlines(data: Converted) -> None:
    """Raise `DataError` with the image of each outline that training would refuse."""
    faults = Faults(data.folder)
    for image in (image for images in data.parts.values() for image in images):
        for number, instance in enumerate(image.objects, start=1):
            for fault in parse_segmentation(instance.segmentation, image.height, image.width).faults:
                faults.add(f"{image.path}: instance {number} ({data.classes[instance.category]}): {fault.what}")
    faults.check()


def coco_content(data: Converted, images: tuple[ConvertedImage, ...]) -> dict[str, Any]:
    """One part in COCO's instance format; image, instance and category ids start at 1."""
    return {
        "info": {"description": f"{data.kind} data, converted; file names are relative to {data.images}"},
        "images": [
            {"id": number, "file_name": data.file_name(image), "height": image.height, "width": image.width}
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
                "iscrowd": int(instance.crowd),
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


def _is_below(path: Path, folder: Path) -> bool:
    return ".." not in path.parts and path.is_relative_to(folder)


def absolute(path: Path) -> Path:
    """Absolute path without `..`, which a file name must not contain; links are resolved only if that is necessary."""
    return path.resolve() if ".." in path.parts else path.absolute()


def text_of(runs: Any) -> str:
    """Counts of a compressed RLE as a string for JSON."""
    counts = runs["counts"]
    return counts if isinstance(counts, str) else counts.decode("ascii")

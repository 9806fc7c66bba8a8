"""Writing of datasets built in Python as COCO instance files. Images are not copied; images in memory are written as
PNGs.
"""

import hashlib
import io
import json
import math
import os
from collections.abc import Mapping
from dataclasses import replace
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from htc.data.dataset import Dataset, ImageRecord, Instance, Polygons
from htc.data.formats.converted import ANNOTATIONS_FOLDER, SPLIT_NAMES, absolute
from htc.data.mask_encodings import counts_of
from htc.errors import DataError
from htc.files import whole_file, write_json


def write_dataset(dataset: Dataset, annotations: Path, arrays: Path) -> Path:
    """Write the COCO instance file `annotations`, and the images in memory to the folder `arrays`.

    Returns the folder that file names are relative to, the common folder of all images. Raises `OutputError`.
    """
    root, paths = located(dataset, arrays)
    for record, path in zip(dataset.images, paths, strict=True):
        if record.pixels is not None:
            _write_png(path, record.pixels)
    write_json(annotations, content_of(dataset, root, paths))
    return root


def save_split(dataset: Dataset, folder: Path, split: str) -> tuple[Path, Path]:
    """Write one split below `folder`; returns (annotations, images). Raises `DataError` for an unknown split, and
    `OutputError`.
    """
    name = split_name(split)
    annotations = folder / ANNOTATIONS_FOLDER / f"instances_{name}.json"
    return annotations, write_dataset(dataset, annotations, folder / name)


def split_name(split: str) -> str:
    """Normalize the name of a split to `train`, `val` or `test` (also `valid`, `validation`); raises `DataError` for
    other names.
    """
    if split not in SPLIT_NAMES:
        near = get_close_matches(str(split), SPLIT_NAMES, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"splits are {', '.join(dict.fromkeys(SPLIT_NAMES.values()))}"
        raise DataError(f"there is no split {split!r}; {hint}")
    return SPLIT_NAMES[split]


def by_split(data: Mapping[str, Dataset]) -> dict[str, Dataset]:
    """Datasets by `train`, `val` and `test`, with the class order of the first one if it contains the others' classes;
    raises `DataError` for other keys and values.
    """
    named: dict[str, Dataset] = {}
    for key, dataset in data.items():
        name = split_name(key)
        if name in named:
            raise DataError(f"data has two datasets for the split {name!r}: pass only one")
        if not isinstance(dataset, Dataset):
            raise DataError(f"data[{key!r}] is of type {type(dataset).__name__}; pass an htc.Dataset")
        if dataset.semantic_maps is not None:
            raise DataError(f"data[{key!r}] has semantic maps, which a COCO file cannot store; pass them as semantic=")
        named[name] = dataset
    if not named:
        raise DataError('data is an empty dictionary; pass {"train": Dataset, "val": Dataset}')
    first = named.get("train") or next(iter(named.values()))
    return {name: with_classes_of(dataset, first) for name, dataset in named.items()}


def with_classes_of(dataset: Dataset, other: Dataset) -> Dataset:
    """Give `dataset` the classes and category ids of `other`, if `other` has all of its classes."""
    if not set(dataset.classes) <= set(other.classes):
        return dataset  # evaluation matches classes by name, and reports those that are missing in the model
    labels = [other.classes.index(name) for name in dataset.classes]
    images = tuple(
        replace(
            record, instances=tuple(replace(instance, label=labels[instance.label]) for instance in record.instances)
        )
        for record in dataset.images
    )
    return replace(dataset, classes=other.classes, category_ids=other.category_ids, images=images)


def digest(datasets: Mapping[str, Dataset]) -> str:
    """A hash of eight characters of the annotations and the images in memory."""
    hashed = hashlib.blake2b(digest_size=4)
    for name, dataset in datasets.items():
        hashed.update(json.dumps([name, str(located(dataset)[0]), dataset.to_coco()]).encode())
        for record in dataset.images:
            hashed.update(b"" if record.pixels is None else record.pixels.tobytes())
    return hashed.hexdigest()


def located(dataset: Dataset, arrays: Path | None = None) -> tuple[Path, list[Path]]:
    """The common folder of all images, and the absolute path of each; images in memory are placed in `arrays` (None:
    the common folder).
    """
    folders = [absolute(record.path.parent) for record in dataset.images if record.pixels is None]
    if arrays is not None and len(folders) < len(dataset):
        folders.append(absolute(arrays))
    try:
        root = Path(os.path.commonpath(folders)) if folders else Path()
    except ValueError as error:
        raise DataError(f"the images have no common folder ({error}); put them on one drive") from error
    in_memory = root if arrays is None else absolute(arrays)
    return root, [
        absolute(record.path) if record.pixels is None else in_memory / f"{position:06}.png"
        for position, record in enumerate(dataset.images, start=1)
    ]


def content_of(dataset: Dataset, root: Path, paths: list[Path]) -> dict[str, Any]:
    """Content of a COCO instance file; file names are relative to `root`, with forward slashes."""
    return {
        "images": [_image(record, path.relative_to(root)) for record, path in zip(dataset.images, paths, strict=True)],
        "categories": [
            {"id": id, "name": name} for id, name in zip(dataset.category_ids, dataset.classes, strict=True)
        ],
        "annotations": [
            _annotation(instance, record, dataset.category_ids[instance.label])
            for record in dataset.images
            for instance in record.instances
        ],
    }


def _image(record: ImageRecord, name: Path) -> dict[str, Any]:
    group = {} if record.group is None else {"group": record.group}
    return {"id": record.id, "file_name": name.as_posix(), "height": record.height, "width": record.width, **group}


def _annotation(instance: Instance, record: ImageRecord, category: int) -> dict[str, Any]:
    x, y, width, height = xywh_of(instance.box)
    record_values: dict[str, Any] = {
        "id": instance.id,
        "image_id": record.id,
        "category_id": category,
        "iscrowd": int(instance.crowd),
        "bbox": [x, y, width, height],
        "area": instance.area,
    }
    outline = instance.segmentation
    if outline is None:
        return record_values if instance.area is not None else record_values | {"area": width * height}
    if instance.area is None:
        record_values["area"] = float(counts_of(outline, record.height, record.width)[1::2].sum())
    if isinstance(outline, Polygons):
        return record_values | {"segmentation": [ring.tolist() for ring in outline.rings]}
    counts = outline.counts.decode("ascii") if isinstance(outline.counts, bytes) else outline.counts.tolist()
    return record_values | {"segmentation": {"size": [record.height, record.width], "counts": counts}}


def xywh_of(box: tuple[float, float, float, float]) -> list[float]:
    """x, y, width, height of an xyxy box, such that x + width and y + height equal the original ends bit for bit."""
    return [box[0], box[1], _extent(box[0], box[2]), _extent(box[1], box[3])]


def _extent(start: float, end: float) -> float:
    extent = end - start
    if start + extent == end:
        return extent
    # The difference was rounded, and the sum, half-way between two floats, was rounded to the other one.
    return math.nextafter(extent, math.inf if start + extent < end else -math.inf)


def _write_png(path: Path, pixels: UInt8[np.ndarray, "H W 3"]) -> None:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG", compress_level=1)
    with whole_file(path) as writer:
        writer.write(buffer.getbuffer())

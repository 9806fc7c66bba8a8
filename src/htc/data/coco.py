"""Datasets and ground truth for evaluation from COCO instance files, and the folder layouts of COCO datasets.

Format: https://cocodataset.org/#format-data. `info` and `licenses` are not needed; ids may have gaps and start at 0.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from operator import attrgetter
from pathlib import Path
from typing import Any

import numpy as np

from htc.data.annotation_file import AnnotationFile, read_annotation_file
from htc.data.coco_records import AnnotationEntry, ImageEntry, box_fault, category_fault, crowd_fault
from htc.data.columns import ColumnImages, Columns, packed
from htc.data.dataset import Dataset, ImageRecord, Instance, Polygons, RunLengths
from htc.data.faults import Faults, RecordFault
from htc.data.holes import with_holes
from htc.data.mask_encodings import decode_mask
from htc.data.record_values import whole
from htc.data.segmentation import ParsedSegmentation, parse_segmentation
from htc.errors import DataError
from htc.files import uncollected

LAYOUTS = (
    ("annotations/instances_train.json", "train", "annotations/instances_val.json", "val"),
    ("annotations/instances_train2017.json", "train2017", "annotations/instances_val2017.json", "val2017"),
    ("train/_annotations.coco.json", "train", "valid/_annotations.coco.json", "valid"),
)
"""(training annotations, their images, validation annotations, their images): plain, COCO's, Roboflow's."""
TEST_PARTS = (
    ("annotations/instances_test.json", "test"),
    ("annotations/instances_test2017.json", "test2017"),
    ("test/_annotations.coco.json", "test"),
)
"""(test annotations, their images) for each of `LAYOUTS`; not needed for training."""
NAMES_SHOWN = 5
"""Missing images that a message names."""
HARMLESS = frozenset(("list-empty", "annotation-id-twice", "category-name-twice"))
"""Faults that do not affect an evaluation, which renumbers annotations and distinguishes categories by id."""


@dataclass(frozen=True)
class Splits:
    """Paths of the training and validation splits; without a validation split, both of its paths are None."""

    train_annotations: Path
    train_images: Path
    val_annotations: Path | None
    val_images: Path | None
    holes: bool = True
    """Whether rings inside others, of the opposite orientation, are holes (`--coco-holes`)."""


def find_splits(folder: Path) -> Splits:
    """Find the splits of a dataset in one of `LAYOUTS`; `DataError` if there is none or its image folder is missing."""
    if not folder.is_dir():
        raise DataError(f"{folder}: no such folder; give the folder that contains the annotations and images")
    for train, train_images, val, val_images in LAYOUTS:
        if not (folder / train).is_file():
            continue
        if not (folder / train_images).is_dir():
            raise DataError(
                f"{folder / train} exists, but its image folder {folder / train_images} does not; add it or use "
                f"--train-images"
            )
        if not (folder / val).is_file():
            return Splits(folder / train, folder / train_images, None, None)
        if not (folder / val_images).is_dir():
            raise DataError(
                f"{folder / val} exists, but its image folder {folder / val_images} does not; add it or use "
                f"--val-images"
            )
        return Splits(folder / train, folder / train_images, folder / val, folder / val_images)
    known = "".join(f"\n  {train} with {images}/" for train, images, _, _ in LAYOUTS)
    raise DataError(
        f"{folder} has none of the known layouts:{known}\narrange it like one of them, or pass the paths: "
        f"--train-annotations, --train-images"
    )


def read_splits(splits: Splits) -> tuple[Dataset, Dataset | None]:
    """Read the training split and, if there is one, the validation split; raises `DataError` like `read_coco`."""
    train = read_coco(splits.train_annotations, splits.train_images, holes=splits.holes)
    if splits.val_annotations is None or splits.val_images is None:
        return train, None
    return train, read_coco(splits.val_annotations, splits.val_images, holes=splits.holes)


def coco_parts(folder: Path) -> dict[str, tuple[Path, Path]]:
    """(annotations, images) of each split `train`, `val` and `test` that a folder has, in the first matching layout of
    `LAYOUTS`; image folders are not checked.
    """
    for (train, train_images, val, val_images), test in zip(LAYOUTS, TEST_PARTS, strict=True):
        parts = {"train": (train, train_images), "val": (val, val_images), "test": test}
        existing = {name: (folder / file, folder / images) for name, (file, images) in parts.items()}
        existing = {name: part for name, part in existing.items() if part[0].is_file()}
        if existing:
            return existing
    return {}


def read_coco(annotations: Path, images: Path | None, *, holes: bool = True) -> Dataset:
    """Read an instance file; the images are in the folder `images` (None: do not check that they exist). Rings inside
    others, of the opposite orientation, are holes unless `holes` is False.

    Raises `DataError` with the file, the record, what is wrong and what to do; instances that cannot be used for
    training are listed in `dropped`.
    """
    return dataset_of(read_annotation_file(annotations, images, holes=holes))


def read_image_list(annotations: Path, images: Path | None) -> Dataset:
    """Read only the images and classes, from a file that need not have annotations: COCO's
    `image_info_test-dev2017.json`.

    Otherwise like `read_coco`.
    """
    file = read_annotation_file(annotations, images, lists=("images", "categories"))
    return dataset_of(replace(file, content={**file.content, "annotations": []}))


@uncollected()
def dataset_of(file: AnnotationFile, describe: Callable[[RecordFault], str] = attrgetter("message")) -> Dataset:
    """Build the dataset of a file without faults; else raises `DataError` with all of them. Classes are sorted by
    category id.

    `describe`: formats a fault, for content that does not come from a file.
    """
    faults = Faults(file.file)
    for fault in (*file.category_faults, *file.image_faults):
        faults.add(describe(fault))
    faults.check()
    if file.folder is not None:
        _check_presence(file, file.folder, faults)
    if file.columns is not None:
        faults.check()
        return _dataset_of_columns(file, file.columns)
    instances, dropped = _instances(file, faults, describe)
    faults.check()
    return Dataset(
        annotations=file.file,
        classes=tuple(file.classes.values()),
        category_ids=tuple(file.classes),
        images=packed(
            [
                ImageRecord(
                    image.id,
                    image.path,
                    *_size(image),
                    tuple(instances.get(image.position, ())),
                    group=image.record.get("group"),
                )
                for image in file.images
            ],
            file.classes,
        ),
        dropped=tuple(dropped),
    )


def _dataset_of_columns(file: AnnotationFile, columns: Columns) -> Dataset:
    """The dataset of a file without faults, whose records are built when they are accessed."""
    named = ((image, image.name if file.folder is None else f"{file.folder}/{image.name}") for image in file.images)
    paths = {image.position: str(image.path) for image, usual in named if str(image.path) != usual}
    labels = {category: label for label, category in enumerate(columns.classes)}
    unusable = np.ones(len(columns.ids), bool)
    unusable[columns.order] = False
    dropped = [file.annotations[index] for index in np.flatnonzero(unusable).tolist()]
    return Dataset(
        annotations=file.file,
        classes=tuple(columns.classes.values()),
        category_ids=columns.category_ids,
        images=ColumnImages(columns, file.folder, paths, holes=file.holes),
        dropped=tuple(_dropped(entry, str(_instance(entry, labels, file.holes))) for entry in dropped),
    )


def _size(image: ImageEntry) -> tuple[int, int]:
    assert image.size is not None
    return image.size


def _check_presence(file: AnnotationFile, folder: Path, faults: Faults) -> None:
    missing = [image.name for image in file.images if image.location.missing]
    if missing:
        shown = ", ".join(missing[:NAMES_SHOWN]) + (", ..." if len(missing) > NAMES_SHOWN else "")
        faults.add(
            f"{len(missing)} of {len(file.images)} images not found in {folder}: {shown}; give the right folder or "
            f"remove those images"
        )


def _instances(
    file: AnnotationFile, faults: Faults, describe: Callable[[RecordFault], str]
) -> tuple[dict[int, list[Instance]], list[str]]:
    """Instances by the position of their image, and the reasons for dropped ones."""
    instances: dict[int, list[Instance]] = {}
    dropped: list[str] = []
    faulty = list(file.annotation_faults)
    labels = {category: label for label, category in enumerate(file.classes)}
    for entry in file.annotations:
        instance = _instance(entry, labels, file.holes)
        if isinstance(instance, Instance):
            instances.setdefault(entry.image.position, []).append(instance)
        elif isinstance(instance, RecordFault):
            faulty.append(instance)
        else:
            dropped.append(_dropped(entry, instance))
    for fault in sorted(faulty, key=lambda fault: fault.position or 0):
        faults.add(describe(fault))
    return instances, dropped


def _dropped(entry: AnnotationEntry, reason: str) -> str:
    return f"annotation {entry.id} (image {entry.image.id}, {entry.image.name}): {reason}"


def _instance(entry: AnnotationEntry, labels: Mapping[int, int], holes: bool) -> Instance | RecordFault | str:
    """The instance of an annotation; its fault; or the reason why it cannot be used for training."""
    height, width = _size(entry.image)
    segmentation, faults, _, _ = parse_segmentation(entry.record.get("segmentation"), height, width)
    if faults:
        return category_fault(entry, labels) or entry.fault(faults[0].code, faults[0].what)
    fault = category_fault(entry, labels) or box_fault(entry) or crowd_fault(entry)
    if fault is not None:
        return fault
    category = entry.category
    assert category is not None
    x, y, w, h = _box(entry, segmentation, height, width)
    box = (max(x, 0.0), max(y, 0.0), min(x + w, float(width)), min(y + h, float(height)))
    # mmdetection also drops these; COCO's train2017 contains some.
    if w < 1 or h < 1:
        return f"its box is {w:g} x {h:g} pixels, less than one"
    if box[0] >= box[2] or box[1] >= box[3]:
        return "its box lies outside the image"
    if holes and isinstance(segmentation, Polygons) and len(segmentation.rings) > 1:
        segmentation = with_holes(segmentation, height, width)
    return Instance(entry.id, labels[category], box, entry.crowd, segmentation, entry.area)


def _box(
    entry: AnnotationEntry, segmentation: Polygons | RunLengths | None, height: int, width: int
) -> tuple[float, float, float, float]:
    """x, y, width, height; the mask's if the annotation has no box."""
    box = entry.box
    if box is not None:
        return box
    assert segmentation is not None
    crop = decode_mask(segmentation, height, width)
    return float(crop.x), float(crop.y), float(crop.bitmap.shape[1]), float(crop.bitmap.shape[0])


@uncollected()
def ground_truth_of(file: AnnotationFile) -> Mapping[str, Any]:
    """Content for the COCO evaluation: a missing id, box or `iscrowd` is filled in, `ignore` is a crowd, and values
    have COCO's types.

    Nothing else is changed or removed: duplicate ids and names do not matter here, and polygons stay a union. Raises
    `DataError` for images without id or size, and for annotations without image, category, usable box or mask.
    """
    if file.columns is not None:
        return {
            "images": [image.record for image in file.images],
            "categories": file.columns.category_records,
            "annotations": [file.columns.truth(index) for index in range(len(file.columns.ids))],
        }
    faults = Faults(file.file)
    for fault in (*file.category_faults, *file.image_faults, *file.annotation_faults):
        if fault.code not in HARMLESS:
            faults.add(fault.message)
    faults.check()
    records: list[Any] = []
    categories = file.categories
    for entry in file.annotations:
        parsed = parse_segmentation(entry.record.get("segmentation"), *_size(entry.image))
        fault = category_fault(entry, categories) or box_fault(entry) or crowd_fault(entry)
        if fault is None and parsed.faults:
            fault = entry.fault(parsed.faults[0].code, parsed.faults[0].what)
        if fault is not None:
            faults.add(fault.message)
        else:
            changed = _changes(entry, parsed)
            records.append({**entry.record, **changed} if changed else entry.record)
    faults.check()
    images = [{**image.record, **values} if (values := image.in_coco_types) else image.record for image in file.images]
    names = [one if type(one["id"]) is int else {**one, "id": whole(one["id"])} for one in file.content["categories"]]
    return {**file.content, "images": images, "annotations": records, "categories": names}


def _changes(entry: AnnotationEntry, parsed: ParsedSegmentation) -> dict[str, Any]:
    """The fields that the evaluation needs in another form."""
    changed = entry.in_coco_types
    if entry.record.get("id") != entry.id:
        changed["id"] = entry.id
    if entry.box is None:
        changed["bbox"] = list(_box(entry, parsed.segmentation, *_size(entry.image)))
    if entry.record.get("iscrowd", 0) != int(entry.crowd):
        changed["iscrowd"] = int(entry.crowd)
    if "area" in entry.record and entry.area is None:
        changed["area"] = None
    if parsed.segmentation is None and entry.record.get("segmentation"):
        changed["segmentation"] = None
    return changed

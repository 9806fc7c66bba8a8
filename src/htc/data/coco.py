"""COCO instance files to typed records, and the folder layouts they come in.

Format: https://cocodataset.org/#format-data. `info` and `licenses` are not needed; ids may have gaps and begin at 0.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from htc.data.annotations import AnnotationError, parse_instance
from htc.data.dataset import Dataset, ImageRecord, Instance
from htc.data.faults import Faults
from htc.data.json_file import read_json
from htc.errors import DataError

LAYOUTS = (
    ("annotations/instances_train.json", "train", "annotations/instances_val.json", "val"),
    ("annotations/instances_train2017.json", "train2017", "annotations/instances_val2017.json", "val2017"),
    ("train/_annotations.coco.json", "train", "valid/_annotations.coco.json", "valid"),
)
"""(training annotations, their pictures, validation annotations, their pictures): plain, COCO's own, Roboflow's."""


@dataclass(frozen=True)
class Splits:
    """Where a data set's parts lie; without validation part, both of its places are None."""

    train_annotations: Path
    train_images: Path
    val_annotations: Path | None
    val_images: Path | None


def find_splits(folder: Path) -> Splits:
    """The parts of a data set in one of `LAYOUTS`; `DataError` if none is there or its picture folder is missing."""
    if not folder.is_dir():
        raise DataError(f"{folder}: no such folder; give the folder that holds the annotations and pictures")
    for train, train_images, val, val_images in LAYOUTS:
        if not (folder / train).is_file():
            continue
        if not (folder / train_images).is_dir():
            raise DataError(
                f"{folder / train} is there, but its picture folder {folder / train_images} is not; add it or use "
                f"--train-images"
            )
        if not (folder / val).is_file():
            return Splits(folder / train, folder / train_images, None, None)
        if not (folder / val_images).is_dir():
            raise DataError(
                f"{folder / val} is there, but its picture folder {folder / val_images} is not; add it or use "
                f"--val-images"
            )
        return Splits(folder / train, folder / train_images, folder / val, folder / val_images)
    known = "".join(f"\n  {train} with {images}/" for train, images, _, _ in LAYOUTS)
    raise DataError(
        f"{folder} has none of the known layouts:{known}\narrange it like one of them, or name the parts: "
        f"--train-annotations, --train-images"
    )


def read_coco(annotations: Path, images: Path | None) -> Dataset:
    """Reads an instance file; pictures lie in the folder `images` (None: their presence is not checked).

    Classes are ordered by category id. Crowd regions are what `iscrowd` says, whatever their encoding. Raises
    `DataError` that names the file, the record, what is wrong and what to do; objects nothing can be learned from go to
    `dropped`.
    """
    content = _load(annotations)
    faults = Faults(annotations)
    classes = _categories(content["categories"], faults)
    records = _images(content["images"], faults)
    faults.check()
    paths = _paths(records, images, faults)
    labels = {category: label for label, category in enumerate(classes)}
    instances, dropped = _instances(content["annotations"], labels, records, faults)
    faults.check()
    return Dataset(
        annotations=annotations,
        classes=tuple(classes.values()),
        category_ids=tuple(classes),
        images=tuple(
            ImageRecord(id, paths[id], record["height"], record["width"], tuple(instances.get(id, ())))
            for id, record in records.items()
        ),
        dropped=tuple(dropped),
    )


def read_picture_list(annotations: Path, images: Path | None) -> Dataset:
    """Pictures and classes alone, of a file that need not have annotations: COCO's `image_info_test-dev2017.json`.

    The rest is as in `read_coco`.
    """
    content = _load(annotations, ("images", "categories"))
    faults = Faults(annotations)
    classes = _categories(content["categories"], faults)
    records = _images(content["images"], faults)
    faults.check()
    paths = _paths(records, images, faults)
    faults.check()
    pictures = tuple(
        ImageRecord(id, paths[id], record["height"], record["width"], ()) for id, record in records.items()
    )
    return Dataset(
        annotations=annotations, classes=tuple(classes.values()), category_ids=tuple(classes), images=pictures
    )


def _load(annotations: Path, lists: tuple[str, ...] = ("images", "annotations", "categories")) -> dict[str, Any]:
    content = read_json(annotations, "the COCO instance file (.json)")
    if isinstance(content, list):
        raise DataError(
            f"{annotations} is a list, as result files are; give the annotation file, with images, annotations and "
            f"categories"
        )
    missing = [key for key in lists if not isinstance(content, dict) or not isinstance(content.get(key), list)]
    if missing:
        raise DataError(
            f"{annotations} is not a COCO instance file: it has no list of {' and '.join(missing)}; export it as COCO "
            f"instance segmentation"
        )
    return content


def _categories(categories: list[Any], faults: Faults) -> dict[int, str]:
    """Names by id, in order of the ids."""
    names: dict[int, str] = {}
    for category in categories:
        id, name = (category.get("id"), category.get("name")) if isinstance(category, dict) else (None, None)
        if not isinstance(id, int) or not isinstance(name, str) or not name:
            faults.add(f"category {id!r} needs a whole number as id and a name; correct it")
        elif id in names:
            faults.add(f"category id {id} occurs twice; give every category its own id")
        elif name in names.values():
            faults.add(f"category name {name!r} occurs twice; give every category its own name")
        else:
            names[id] = name
    if not categories:
        faults.add("it has no categories; name at least one")
    return dict(sorted(names.items()))


def _images(images: list[Any], faults: Faults) -> dict[int | str, dict[str, Any]]:
    records: dict[int | str, dict[str, Any]] = {}
    for image in images:
        id = image.get("id") if isinstance(image, dict) else None
        if not isinstance(id, int | str):
            faults.add(f"image {id!r} needs a whole number or a text as id; correct it")
        elif id in records:
            faults.add(f"image id {id!r} occurs twice; give every picture its own id")
        elif not isinstance(image.get("file_name"), str) or not image["file_name"]:
            faults.add(f"image {id!r} has no file_name; add it")
        elif not all(isinstance(image.get(side), int) and image[side] > 0 for side in ("height", "width")):
            faults.add(f"image {id!r} ({image['file_name']}) needs height and width in whole pixels; add them")
        else:
            records[id] = image
    if not images:
        faults.add("it has no images; a data set needs at least one")
    return records


def _paths(records: dict[int | str, dict[str, Any]], images: Path | None, faults: Faults) -> dict[int | str, Path]:
    """Every picture's file, directly in the folder, or below it as file_name says."""
    if images is not None and not images.is_dir():
        raise DataError(f"{images}: no such folder; give the folder of the pictures that {faults.file} names")
    present = set() if images is None else {entry.name for entry in images.iterdir()}
    paths: dict[int | str, Path] = {}
    missing = []
    for id, record in records.items():
        name = record["file_name"]
        paths[id] = Path(name) if images is None else images / name
        if images is None or name in present or ("/" in name and paths[id].is_file()):
            continue
        # Some exports write the folder into file_name as well.
        paths[id] = images / Path(name).name
        if paths[id].name not in present:
            missing.append(name)
    if missing:
        others = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        faults.add(
            f"picture {missing[0]}{others} of {len(records)} not found in {images}; give the right folder or remove "
            f"those images"
        )
    return paths


def _instances(
    annotations: list[Any], labels: dict[int, int], records: dict[int | str, dict[str, Any]], faults: Faults
) -> tuple[dict[int | str, list[Instance]], list[str]]:
    """Objects by image id, and why others were left out."""
    instances: dict[int | str, list[Instance]] = {}
    dropped: list[str] = []
    seen: set[int | str] = set()
    for position, annotation in enumerate(annotations):
        if not isinstance(annotation, dict):
            faults.add(f"annotations[{position}] is not an object with fields; remove it")
            continue
        id = annotation.get("id", f"[{position}]")
        image = annotation.get("image_id")
        if id in seen:
            faults.add(f"annotation id {id} occurs twice; give every annotation its own id")
        elif not isinstance(image, int | str) or image not in records:
            faults.add(
                f"annotation {id} belongs to image {image!r}, which is not among the images; add the image or remove "
                f"the annotation"
            )
        else:
            seen.add(id)
            try:
                found = parse_instance(
                    {**annotation, "id": id}, labels, records[image]["height"], records[image]["width"]
                )
            except AnnotationError as fault:
                faults.add(f"annotation {id} (image {image}): {fault}")
                continue
            if isinstance(found, str):
                dropped.append(f"annotation {id} (image {image}): {found}")
            else:
                instances.setdefault(image, []).append(found)
    return instances, dropped

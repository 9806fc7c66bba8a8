"""Conversion of images and instances in memory to the content of a COCO instance file, so that the same rules check
both.

The form of a record (types, shapes, counts) is checked here; annotations (polygons, RLE, boxes, categories) are checked
by the reader of COCO files, whose faults are reported with the index of the record.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from difflib import get_close_matches
from os import PathLike
from pathlib import Path
from typing import Any, NotRequired, TypedDict

import numpy as np
from jaxtyping import UInt8
from PIL import Image
from pycocotools import mask as coco_masks

from htc.data.annotation_file import annotation_file
from htc.data.coco import dataset_of
from htc.data.dataset import Dataset
from htc.data.faults import FAULT_REMEDIES, Faults, RecordFault
from htc.data.formats.converted import text_of
from htc.data.images import image_size, read_image
from htc.data.record_values import short
from htc.data.written import xywh_of
from htc.errors import DataError

MaskLike = np.ndarray | Sequence[Sequence[float]] | Mapping[str, Any] | None
"""A mask: a bitmap (H, W) bool or 0/1, polygons [[x, y, x, y, ...], ...] in pixels, COCO RLE, or None."""


class DatasetRecord(TypedDict):
    """One image and its N instances, the input of `htc.Dataset.from_records`."""

    image: str | PathLike[str] | Image.Image | np.ndarray
    """A path, a PIL image, or an RGB array (H, W, 3) uint8."""
    labels: Sequence[str] | Sequence[int] | np.ndarray
    """(N,) class names, or indices into `classes`."""
    boxes: NotRequired[Sequence[Sequence[float]] | np.ndarray | None]
    """(N, 4) xyxy, pixels of the image; absent or None: those of the masks."""
    masks: NotRequired[Sequence[MaskLike] | np.ndarray | None]
    """(N, H, W) bool, or one `MaskLike` per instance; absent or None: boxes only."""
    crowd: NotRequired[Sequence[bool] | np.ndarray | None]
    """(N,): regions of uncounted instances, neither positive nor background; absent or None: no crowd."""
    id: NotRequired[int | str]
    """Image id; absent: the image's position, from 1."""
    group: NotRequired[int | str]
    """Images of one group stay in one split when `val_share` splits the data."""


FIELDS = tuple(DatasetRecord.__annotations__)
NEEDED = ("image", "labels")


@dataclass(frozen=True)
class _Parsed:
    """A record of valid form."""

    name: str
    path: Path
    pixels: UInt8[np.ndarray, "H W 3"] | None
    size: tuple[int, int]
    labels: list[str] | list[int]
    annotations: list[dict[str, Any]]
    """Without ids and category."""
    fields: dict[str, Any]
    """`id` and `group`, if given."""


def dataset_of_records(records: Iterable[Mapping[str, Any]], classes: Sequence[str] | None, source: str) -> Dataset:
    """Build the dataset of `records`; `source` describes them in errors. See `htc.Dataset.from_records`."""
    faults = Faults(Path(source))
    parsed: list[_Parsed] = []
    descriptions: list[str] = []
    for index, record in enumerate(records):
        descriptions.append(_describe(index, record))
        try:
            parsed.append(_parse(record, index))
        except DataError as error:
            faults.add(f"{descriptions[-1]}: {error}")
    faults.check()
    if not parsed:
        raise DataError(f"{source}: there are no records; give one per image, also for images without instances")
    names = _class_names(parsed, classes, source)
    return _read(parsed, names, descriptions, faults)


def _read(parsed: list[_Parsed], names: list[str], descriptions: list[str], faults: Faults) -> Dataset:
    annotations: list[dict[str, Any]] = []
    owners: list[str] = []
    images: list[dict[str, Any]] = []
    for index, parsed_record in enumerate(parsed):
        image = {
            "id": index + 1,
            "file_name": parsed_record.name,
            "height": parsed_record.size[0],
            "width": parsed_record.size[1],
            **parsed_record.fields,
        }
        images.append(image)
        for instance, (label, annotation) in enumerate(
            zip(parsed_record.labels, parsed_record.annotations, strict=True)
        ):
            try:
                category = _category(label, names)
            except DataError as error:
                faults.add(f"{descriptions[index]}: labels[{instance}] {error}")
                continue
            owners.append(f"{descriptions[index]}, instance {instance}")
            complete = {"id": len(owners), "image_id": image["id"], "category_id": category, **annotation}
            annotations.append(complete)
    faults.check()
    categories = [{"id": number, "name": name} for number, name in enumerate(names, start=1)]
    content = {"images": images, "categories": categories, "annotations": annotations}
    in_order = {
        "images": descriptions,
        "annotations": owners,
        "categories": [f"classes[{n}]" for n in range(len(names))],
    }

    def describe(fault: RecordFault) -> str:
        prefix = "" if fault.position is None else f"{in_order[fault.part][fault.position]}: "
        return f"{prefix}{fault.what}; {FAULT_REMEDIES[fault.code]}"

    dataset = dataset_of(annotation_file(content, faults.file), describe)
    located = tuple(
        replace(record, path=parsed_record.path, pixels=parsed_record.pixels)
        for record, parsed_record in zip(dataset.images, parsed, strict=True)
    )
    return replace(dataset, images=located)


def _describe(index: int, record: Any) -> str:
    image = record.get("image") if isinstance(record, Mapping) else None
    return f"records[{index}]" + (f" (image {image})" if isinstance(image, str | PathLike) else "")


def _parse(record: Any, index: int) -> _Parsed:
    if not isinstance(record, Mapping):
        raise DataError(f"it is of type {type(record).__name__}; give a dictionary with the keys {', '.join(FIELDS)}")
    for key in record:
        if key not in FIELDS:
            near = get_close_matches(str(key), FIELDS, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"the keys are {', '.join(FIELDS)}"
            raise DataError(f"it has the unknown key {key!r}; {hint}")
    for key in NEEDED:
        if key not in record:
            raise DataError(f"it has no {key!r}; every record needs {' and '.join(NEEDED)} (no instances: [])")
    path, pixels, size = _image(record["image"], index)
    labels = _labels(record["labels"])
    boxes = _boxes(record.get("boxes"), len(labels))
    masks = _masks(record.get("masks"), len(labels), size)
    crowd = _crowd(record.get("crowd"), len(labels))
    annotations = [_annotation(number, boxes, mask, crowd) for number, mask in enumerate(masks)]
    fields = {key: _plain(record[key]) for key in ("id", "group") if record.get(key) is not None}
    return _Parsed(str(path), path, pixels, size, labels, annotations, fields)


def _image(image: Any, index: int) -> tuple[Path, UInt8[np.ndarray, "H W 3"] | None, tuple[int, int]]:
    """Path, pixels if the image is not a file, and (height, width), for a file from its header only."""
    if isinstance(image, str | PathLike):
        path = Path(image).absolute()
        return path, None, image_size(path)
    pixels = read_image(image)
    return Path(f"{index + 1:06}.png"), pixels, (pixels.shape[0], pixels.shape[1])


def _labels(labels: Any) -> list[str] | list[int]:
    array = _array(labels, "labels")
    if array.ndim != 1:
        raise DataError(f"its labels have the shape {array.shape}; give a list with one label per instance")
    if array.size and array.dtype.kind not in "Uiu":
        raise DataError(f"its labels are of type {array.dtype}; give class names, or indices into classes")
    return array.tolist()


def _boxes(boxes: Any, count: int) -> list[list[float]] | None:
    """Convert to COCO's x, y, width, height."""
    if boxes is None:
        return None
    array = _array(boxes, "boxes")
    if not array.size and not count:
        return []
    if array.shape != (count, 4) or array.dtype.kind not in "fiu":
        raise DataError(
            f"its boxes have the shape {array.shape} and type {array.dtype}; {count} labels need ({count}, 4) numbers"
        )
    values = array.astype(np.float64)
    for number, box in enumerate(values):
        if not np.isfinite(box).all() or (box[2:] < box[:2]).any():
            raise DataError(
                f"boxes[{number}] is {array[number].tolist()}; give finite numbers x1, y1, x2, y2 in pixels, with "
                f"x1 <= x2 and y1 <= y2"
            )
    return [xywh_of((x1, y1, x2, y2)) for x1, y1, x2, y2 in values.tolist()]


def _masks(masks: Any, count: int, size: tuple[int, int]) -> list[Any]:
    """Convert each mask to COCO's `segmentation`, None for an instance without a mask."""
    if masks is None:
        return [None] * count
    if not isinstance(masks, list | tuple):
        masks = _array(masks, "masks")
        if masks.ndim != 3 and masks.size:
            raise DataError(f"its masks have the shape {masks.shape}; give ({count}, {size[0]}, {size[1]})")
    if len(masks) != count:
        raise DataError(f"it has {len(masks)} masks and {count} labels; give one mask per instance, or None for it")
    return [_segmentation(mask, f"masks[{number}]", size) for number, mask in enumerate(masks)]


def _segmentation(mask: Any, name: str, size: tuple[int, int]) -> Any:
    if mask is None:
        return None
    if isinstance(mask, Mapping):
        return {key: _plain(list(value) if isinstance(value, tuple) else value) for key, value in mask.items()}
    if isinstance(mask, list | tuple):
        return [_ring(ring) for ring in mask]
    array = _array(mask, name)
    if array.shape != size:
        raise DataError(f"{name} has the shape {array.shape}, its image (height, width) {size}; give masks of its size")
    if array.dtype.kind not in "biu":
        raise DataError(f"{name} is of type {array.dtype}; give bool, for example mask > 0.5")
    runs: Any = coco_masks.encode(np.asfortranarray((array != 0).astype(np.uint8)))
    return {"size": list(size), "counts": text_of(runs)}


def _ring(ring: Any) -> Any:
    """Convert a polygon to a list x, y, x, y, ...; anything else is returned unchanged, for the reader to reject."""
    try:
        return (
            np.asarray(ring, np.float64).reshape(-1).tolist() if isinstance(ring, list | tuple | np.ndarray) else ring
        )
    except (TypeError, ValueError):
        return list(ring)


def _crowd(crowd: Any, count: int) -> list[bool]:
    if crowd is None:
        return [False] * count
    array = _array(crowd, "crowd")
    if array.shape != (count,) or (array.size and not np.isin(array, (0, 1)).all()):
        raise DataError(f"its crowd is {short(crowd)}; give one True or False per instance ({count})")
    return array.astype(bool).tolist()


def _annotation(number: int, boxes: list[list[float]] | None, mask: Any, crowd: list[bool]) -> dict[str, Any]:
    if boxes is None and mask is None:
        raise DataError(f"instance {number} has neither box nor mask; give boxes, or a mask for each instance")
    box = {} if boxes is None else {"bbox": boxes[number]}
    segmentation = {} if mask is None else {"segmentation": mask}
    return {"iscrowd": int(crowd[number]), **box, **segmentation}


def _array(values: Any, name: str) -> np.ndarray:
    try:
        return np.asarray(values)
    except (TypeError, ValueError, RuntimeError) as error:
        raise DataError(f"its {name} cannot be read as an array ({error}); give a list or a NumPy array") from error


def _plain(value: Any) -> Any:
    """Convert NumPy values and bytes to Python numbers, lists and text."""
    if isinstance(value, np.generic | np.ndarray):
        return value.tolist()
    return value.decode("ascii", "replace") if isinstance(value, bytes) else value


def _class_names(parsed: list[_Parsed], classes: Sequence[str] | None, source: str) -> list[str]:
    if classes is not None:
        if isinstance(classes, str) or not all(isinstance(name, str) for name in classes):
            raise DataError(f"{source}: classes is {short(classes)}; give a list of names")
        return list(classes)
    labels = {label for record in parsed for label in record.labels}
    if any(not isinstance(label, str) for label in labels):
        raise DataError(f"{source}: labels are indices, so classes=[...] is needed: the name of each class")
    if not labels:
        raise DataError(f"{source}: no record has an instance, so classes=[...] is needed")
    return sorted(map(str, labels))


def _category(label: str | int, names: list[str]) -> int:
    """Category id of a label, from 1; raises `DataError`."""
    if isinstance(label, str):
        if label in names:
            return names.index(label) + 1
        near = get_close_matches(label, names, n=1, cutoff=0.5)
        hint = f"did you mean {near[0]!r}?" if near else f"classes are {short(names)}"
        raise DataError(f"is {label!r}, which is not among the classes; {hint}")
    if not 0 <= label < len(names):
        raise DataError(f"is {label}; there are {len(names)} classes, so give 0 to {len(names) - 1}")
    return label + 1

"""COCO's panoptic annotations as semantic maps: things and stuff of every pixel, without telling objects apart.

Format: https://cocodataset.org/#format-data, "Panoptic Segmentation". Crowd segments and pixels of no segment are 255 (ignore).
"""

import json
from collections.abc import Collection
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from htc.data.faults import Faults
from htc.data.records import Dataset, ImageRecord, PanopticMaps
from htc.data.semantic_targets import IGNORE, MOST_CLASSES
from htc.errors import DataError


def read_panoptic(annotations: Path, folder: Path, dataset: Dataset, *, by_id: bool = False, may_lack: Collection[int | str] = ()) -> PanopticMaps:
    """Reads a panoptic annotation file. Classes are its categories in their order, from 0, or `by_id` their category ids - 1.

    Every picture of `dataset` must have an annotation (by image id) whose PNG lies in `folder`, but for those that `may_lack` it.
    Raises `DataError` that names the file, what is wrong and what to do.
    """
    if not folder.is_dir():
        raise DataError(f"{folder}: no such folder of panoptic PNGs; give the right one")
    content = _load(annotations)
    faults = Faults(annotations)
    values = _classes(content["categories"], by_id, faults)
    faults.check()
    found = {entry["image_id"]: entry for entry in content["annotations"] if isinstance(entry, dict) and "image_id" in entry}
    if may_lack and not any(record.id in found for record in dataset.images):
        raise DataError(f"{annotations} has no annotation of any of the {len(dataset)} pictures; give the file of these pictures")
    maps = PanopticMaps({values[category["id"]]: category["name"] for category in content["categories"]}, folder, {}, {})
    for record in dataset.images:
        entry = found.get(record.id)
        if entry is not None:
            _add(maps, record, entry, values, faults)
        elif record.id not in may_lack:
            faults.add(f"image {record.id} ({record.path.name}) has no annotation; add it, or train on the pictures that have one")
    faults.check()
    return maps


def _add(maps: PanopticMaps, record: ImageRecord, entry: dict[str, Any], values: dict[int, int], faults: Faults) -> None:
    try:
        file = str(entry["file_name"])
        segments = {int(s["id"]): IGNORE if s.get("iscrowd", 0) else values[s["category_id"]] for s in entry["segments_info"]}
    except (KeyError, TypeError, ValueError) as error:
        faults.add(f"the annotation of image {record.id} is damaged ({error}); each segment needs an id and the category_id of a listed category")
        return
    if not (maps.folder / file).is_file():
        faults.add(f"picture {file} of image {record.id} is not in {maps.folder}; give the folder of the panoptic PNGs")
    maps.files[record.id], maps.segments[record.id] = file, segments


def read_panoptic_map(record: ImageRecord, panoptic: PanopticMaps) -> UInt8[np.ndarray, "H W"]:
    """The class of every pixel of one picture; raises `DataError` for a PNG that cannot be used or holds unlisted segments."""
    path = panoptic.folder / panoptic.files[record.id]
    try:
        with Image.open(path) as image:
            mode, colours = image.mode, np.asarray(image)
    except (OSError, SyntaxError, ValueError) as error:
        raise DataError(f"{path} is not a readable PNG ({error}); export the panoptic maps again") from error
    if mode not in ("RGB", "RGBA"):
        raise DataError(f"{path} has mode {mode}; a panoptic PNG has segment ids as colours, R + 256 G + 65536 B: for class numbers leave out --semantic-json")
    if colours.shape[:2] != (record.height, record.width):
        raise DataError(f"{path} is {colours.shape[1]}x{colours.shape[0]}, its picture {record.width}x{record.height}; maps must have their picture's size")
    ids = colours[:, :, 0] + 256 * colours[:, :, 1].astype(np.uint32) + 65536 * colours[:, :, 2].astype(np.uint32)
    known = {0: IGNORE, **panoptic.segments[record.id]}
    order = np.array(sorted(known), np.uint32)
    place = np.searchsorted(order, ids).clip(max=len(order) - 1)
    wrong = ids[order[place] != ids]
    if len(wrong):
        raise DataError(f"{path} holds segment {int(wrong[0])}, which the annotation of image {record.id} does not list; PNG and JSON must belong together")
    return np.array([known[int(id)] for id in order], np.uint8)[place]


def _load(annotations: Path) -> dict[str, Any]:
    try:
        content = json.loads(annotations.read_bytes())
    except OSError as error:
        raise DataError(f"{annotations} cannot be read ({error.strerror}); give COCO's panoptic annotation file (.json)") from error
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise DataError(f"{annotations} is not valid JSON ({error}); export or download it again") from error
    lists = isinstance(content, dict) and all(isinstance(content.get(key), list) for key in ("annotations", "categories"))
    if not lists or not any(isinstance(entry, dict) and "segments_info" in entry for entry in content["annotations"]):
        raise DataError(f"{annotations} is not a panoptic annotation file: no annotation has segments_info; give e.g. panoptic_train2017.json")
    return content


def _classes(categories: list[Any], by_id: bool, faults: Faults) -> dict[int, int]:
    """Class number by category id: the place in the file, or the id - 1."""
    if not by_id and len(categories) > MOST_CLASSES + 1:
        faults.add(f"{len(categories)} categories do not fit into a semantic map (at most {MOST_CLASSES + 1})")
    values: dict[int, int] = {}
    for category in categories:
        id, name = (category.get("id"), category.get("name")) if isinstance(category, dict) else (None, None)
        if not isinstance(id, int) or not isinstance(name, str) or id in values:
            faults.add(f"category {id!r} needs a whole number of its own as id, and a name; correct it")
            continue
        if by_id and not 1 <= id <= MOST_CLASSES + 1:
            faults.add(f"category {name!r} has the id {id}; classes are category ids - 1 here, so ids must be 1..{MOST_CLASSES + 1}")
        values[id] = id - 1 if by_id else len(values)
    return values

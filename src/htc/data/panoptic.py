"""COCO's panoptic format: a JSON file with segments, and a PNG per image whose colors are segment ids.

https://cocodataset.org/#format-data, "Panoptic Segmentation".
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int32

from htc.data.dataset import Dataset
from htc.data.faults import Faults
from htc.data.map_files import read_segment_ids
from htc.errors import DataError
from htc.files import read_json

PANOPTIC_KIND = "COCO's panoptic annotation file, as panoptic_train2017.json"


@dataclass(frozen=True)
class Category:
    """A class of things or stuff."""

    id: int
    name: str
    thing: bool


@dataclass(frozen=True)
class Segment:
    """One thing, or all of one stuff class in an image."""

    id: int
    """Its value in the map, from 1."""
    category_id: int
    crowd: bool = False
    """Only in annotations: a region of uncounted things."""


@dataclass(frozen=True)
class Panoptic:
    """Segment of each pixel of an image."""

    ids: Int32[np.ndarray, "H W"]
    """`Segment.id`; 0: no segment (void)."""
    segments: tuple[Segment, ...]


@dataclass(frozen=True)
class PanopticFile:
    """Panoptic annotations whose maps are read on demand."""

    file: Path
    folder: Path
    categories: dict[int, Category]
    """By id, in the file's order."""
    maps: dict[int | str, tuple[str, tuple[Segment, ...]]]
    """PNG file name and segments, by image id."""

    def read(self, image_id: int | str, size: tuple[int, int]) -> Panoptic:
        """Read the segments of an image of `size` (height, width). Raises `DataError`."""
        name, segments = self.maps[image_id]
        ids = read_segment_ids(self.folder / name, size)
        return Panoptic(
            valued(self.folder / name, ids, {segment.id: segment.id for segment in segments}, 0, np.int32), segments
        )


def valued(
    path: Path, ids: Int32[np.ndarray, "H W"], values: Mapping[int, int], void: int, dtype: type[np.generic]
) -> np.ndarray:
    """Map each pixel's segment to its value, `void` outside of segments. Raises `DataError` if the PNG contains
    segments that are not listed.
    """
    known = {**values, 0: void}
    order = np.array(sorted(known), np.int32)
    index = np.searchsorted(order, ids).clip(max=len(order) - 1)
    unlisted = ids[order[index] != ids]
    if len(unlisted):
        raise DataError(
            f"{path} contains segment {int(unlisted[0])}, which its annotation does not list; check that PNG and JSON "
            f"belong together"
        )
    return np.array([known[int(id)] for id in order], dtype)[index]


def read_panoptic(
    file: Path, folder: Path, dataset: Dataset | None = None, may_lack: Collection[int | str] = ()
) -> PanopticFile:
    """Read the JSON file and check that the PNGs exist: for every image of `dataset`, or for all in the file.

    An image of `dataset` without an annotation is a fault unless it is in `may_lack`; at least one image must have one.
    Raises `DataError` with the file, what is wrong and what to do.
    """
    content = _load(file)
    if not folder.is_dir():
        raise DataError(f"{folder}: no such folder of panoptic PNGs; correct the path")
    faults = Faults(file)
    panoptic = PanopticFile(file, folder, _categories(content["categories"], faults), {})
    faults.check()
    entries = {
        entry["image_id"]: entry for entry in content["annotations"] if isinstance(entry, dict) and "image_id" in entry
    }
    names = (
        dict.fromkeys(entries, "")
        if dataset is None
        else {record.id: f" ({record.path.name})" for record in dataset.images}
    )
    if may_lack and not any(id in entries for id in names):
        raise DataError(f"{file} has no annotation for any of the {len(names)} images; give the file of these images")
    for id, name in names.items():
        if id in entries:
            _add(panoptic, id, entries[id], faults)
        elif id not in may_lack:
            faults.add(f"image {id}{name} has no annotation; add it, or remove the image")
    faults.check()
    return panoptic


def _load(file: Path) -> dict[str, Any]:
    content = read_json(file, PANOPTIC_KIND)
    missing = [
        key
        for key in ("annotations", "categories")
        if not isinstance(content, dict) or not isinstance(content.get(key), list)
    ]
    if missing:
        raise DataError(
            f"{file} is not a panoptic annotation file: it has no list of {' and '.join(missing)}; give {PANOPTIC_KIND}"
        )
    if content["annotations"] and not any(
        isinstance(entry, dict) and "segments_info" in entry for entry in content["annotations"]
    ):
        raise DataError(
            f"{file} is not a panoptic annotation file: no annotation has segments_info; give {PANOPTIC_KIND}"
        )
    return content


def _categories(categories: list[Any], faults: Faults) -> dict[int, Category]:
    by_id: dict[int, Category] = {}
    for category in categories:
        fields = category if isinstance(category, dict) else {}
        id, name = fields.get("id"), fields.get("name")
        if not isinstance(id, int) or not isinstance(name, str) or id in by_id:
            faults.add(f"category {id!r} needs a unique integer as id, and a name; correct it")
        elif fields.get("isthing") not in (0, 1):
            faults.add(f"category {name!r} needs isthing, 1 for things and 0 for stuff; correct it")
        else:
            by_id[id] = Category(id, name, bool(fields["isthing"]))
    return by_id


def _add(panoptic: PanopticFile, id: int | str, entry: Mapping[str, Any], faults: Faults) -> None:
    try:
        name = str(entry["file_name"])
        segments = tuple(
            Segment(int(segment["id"]), panoptic.categories[segment["category_id"]].id, bool(segment.get("iscrowd", 0)))
            for segment in entry["segments_info"]
        )
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        faults.add(
            f"the annotation of image {id} is damaged ({error}); each segment needs an id and the category_id of a "
            f"listed category"
        )
        return
    if not (panoptic.folder / name).is_file():
        faults.add(f"image {name} of image {id} is not in {panoptic.folder}; give the folder of the panoptic PNGs")
    panoptic.maps[id] = name, segments

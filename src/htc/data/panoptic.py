"""COCO's panoptic format: a JSON of segments, and a PNG an image whose colors are their ids.

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
    """A thing, or all of one kind of stuff in the image."""

    id: int
    """Its value in the map, from 1."""
    category_id: int
    crowd: bool = False
    """Annotations alone: a region of uncounted things."""


@dataclass(frozen=True)
class Panoptic:
    """Who owns each pixel."""

    ids: Int32[np.ndarray, "H W"]
    """`Segment.id`; 0: nobody (void)."""
    segments: tuple[Segment, ...]


@dataclass(frozen=True)
class PanopticFile:
    """Annotations whose maps are read when they are asked for."""

    file: Path
    folder: Path
    categories: dict[int, Category]
    """By id, in the file's order."""
    maps: dict[int | str, tuple[str, tuple[Segment, ...]]]
    """Name of the PNG and segments, by image id."""

    def read(self, image_id: int | str, size: tuple[int, int]) -> Panoptic:
        """One image's segments; `size` (height, width) is that of its image. Raises `DataError`."""
        name, segments = self.maps[image_id]
        ids = read_segment_ids(self.folder / name, size)
        return Panoptic(
            valued(self.folder / name, ids, {segment.id: segment.id for segment in segments}, 0, np.int32), segments
        )


def valued(
    path: Path, ids: Int32[np.ndarray, "H W"], values: Mapping[int, int], void: int, dtype: type[np.generic]
) -> np.ndarray:
    """The value of each pixel's segment, `void` where there is none. Raises `DataError` if the PNG holds segments
    that are not listed.
    """
    known = {**values, 0: void}
    order = np.array(sorted(known), np.int32)
    place = np.searchsorted(order, ids).clip(max=len(order) - 1)
    unlisted = ids[order[place] != ids]
    if len(unlisted):
        raise DataError(
            f"{path} holds segment {int(unlisted[0])}, which its annotation does not list; PNG and JSON must belong "
            f"together"
        )
    return np.array([known[int(id)] for id in order], dtype)[place]


def read_panoptic(
    file: Path, folder: Path, dataset: Dataset | None = None, may_lack: Collection[int | str] = ()
) -> PanopticFile:
    """The JSON, checked with the presence of its PNGs: for every image of `dataset`, or for all that it has.

    An image of `dataset` without annotation is a fault, but for those that `may_lack` it, as long as some have one.
    Raises `DataError` that names the file, what is wrong and what to do.
    """
    content = _load(file)
    if not folder.is_dir():
        raise DataError(f"{folder}: no such folder of panoptic PNGs; give the right one")
    faults = Faults(file)
    found = PanopticFile(file, folder, _categories(content["categories"], faults), {})
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
        raise DataError(f"{file} has no annotation of any of the {len(names)} images; give the file of these images")
    for id, name in names.items():
        if id in entries:
            _add(found, id, entries[id], faults)
        elif id not in may_lack:
            faults.add(f"image {id}{name} has no annotation; add it, or leave the image out")
    faults.check()
    return found


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
    found: dict[int, Category] = {}
    for category in categories:
        fields = category if isinstance(category, dict) else {}
        id, name = fields.get("id"), fields.get("name")
        if not isinstance(id, int) or not isinstance(name, str) or id in found:
            faults.add(f"category {id!r} needs a whole number of its own as id, and a name; correct it")
        elif fields.get("isthing") not in (0, 1):
            faults.add(f"category {name!r} needs isthing, 1 for things and 0 for stuff; correct it")
        else:
            found[id] = Category(id, name, bool(fields["isthing"]))
    return found


def _add(found: PanopticFile, id: int | str, entry: Mapping[str, Any], faults: Faults) -> None:
    try:
        name = str(entry["file_name"])
        segments = tuple(
            Segment(int(one["id"]), found.categories[one["category_id"]].id, bool(one.get("iscrowd", 0)))
            for one in entry["segments_info"]
        )
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        faults.add(
            f"the annotation of image {id} is damaged ({error}); each segment needs an id and the category_id of a "
            f"listed category"
        )
        return
    if not (found.folder / name).is_file():
        faults.add(f"image {name} of image {id} is not in {found.folder}; give the folder of the panoptic PNGs")
    found.maps[id] = name, segments

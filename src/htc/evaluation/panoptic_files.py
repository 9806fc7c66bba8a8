"""COCO's panoptic format: a JSON of segments, and a PNG a picture whose colours are their ids (R + 256 G + 65536 B)."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from htc.errors import DataError
from htc.evaluation.files import read_json
from htc.evaluation.panoptic import Category
from htc.files import write_json
from htc.inference.outputs import write_picture
from htc.inference.panoptic import Panoptic, Segment

BASE = 256


@dataclass(frozen=True)
class PanopticFile:
    """Annotations whose maps are read when they are asked for."""

    file: Path
    folder: Path
    categories: dict[int, Category]
    entries: dict[int | str, dict[str, Any]]
    """By image id."""

    def read(self, image_id: int | str, size: tuple[int, int]) -> Panoptic:
        """One picture's segments; `size` (height, width) is that of its picture. Raises `DataError`."""
        entry = self.entries[image_id]
        path = self.folder / entry["file_name"]
        ids = read_ids(path)
        if ids.shape != size:
            raise DataError(f"{path} is {ids.shape[1]}x{ids.shape[0]}, its picture {size[1]}x{size[0]}; panoptic maps must have their picture's size")
        segments = tuple(Segment(one["id"], one["category_id"], bool(one.get("iscrowd", 0))) for one in entry["segments_info"])
        unknown = set(np.unique(ids).tolist()) - {0, *(segment.id for segment in segments)}
        if unknown:
            raise DataError(f"{path} holds segment {min(unknown)}, which {self.file} does not describe; export both again")
        return Panoptic(ids, segments)


def read_panoptic(file: Path, folder: Path) -> PanopticFile:
    """The JSON, checked; raises `DataError` if it, its folder or a PNG is missing."""
    content = read_json(file, "panoptic annotations")
    missing = [key for key in ("annotations", "categories") if not isinstance(content, dict) or not isinstance(content.get(key), list)]
    if missing:
        raise DataError(f"{file} has no list of {' and '.join(missing)}; give COCO's panoptic JSON")
    try:
        categories = {one["id"]: Category(one["id"], one["name"], bool(one["isthing"])) for one in content["categories"]}
        entries = {one["image_id"]: {"file_name": one["file_name"], "segments_info": one["segments_info"]} for one in content["annotations"]}
        used = {segment["category_id"] for one in entries.values() for segment in one["segments_info"]}
    except (KeyError, TypeError) as error:
        raise DataError(f"{file} lacks {error}; panoptic categories have id, name and isthing, annotations image_id, file_name and segments_info") from error
    if not used <= categories.keys():
        raise DataError(f"{file} has segments of category {min(used - categories.keys())}, which its categories lack; export it again")
    absent = [one["file_name"] for one in entries.values() if not (folder / one["file_name"]).is_file()]
    if absent:
        raise DataError(f"{folder} lacks {len(absent)} of {len(entries)} maps that {file} names, the first is {absent[0]}; give the folder of the PNGs")
    return PanopticFile(file, folder, categories, entries)


def read_ids(path: Path) -> np.ndarray:
    """The segment ids of a PNG (H, W); raises `DataError` for anything but an RGB picture."""
    try:
        with Image.open(path) as image:
            mode, colours = image.mode, np.array(image)
    except (OSError, SyntaxError, ValueError) as error:
        raise DataError(f"{path} is not a readable PNG ({error}); export the panoptic maps again") from error
    if mode != "RGB":
        raise DataError(f"{path} has mode {mode}; a panoptic map is RGB, its colours the segments' ids")
    return (colours.astype(np.int32) * np.array([1, BASE, BASE * BASE], np.int32)).sum(2, dtype=np.int32)


class PanopticWriter:
    """Maps into a folder, one a picture; use inside `with panoptic_writer(folder, categories)`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.entries: list[dict[str, Any]] = []

    def add(self, image_id: int | str, name: str, found: Panoptic) -> None:
        """Writes `<name>.png` and remembers its segments; raises `OutputError`."""
        colours = np.stack([found.ids // BASE**place % BASE for place in range(3)], axis=-1).astype(np.uint8)
        write_picture(self.folder / f"{name}.png", colours)
        segments = [_described(segment, found.ids == segment.id) for segment in found.segments]
        self.entries.append({"image_id": image_id, "file_name": f"{name}.png", "segments_info": segments})


@contextmanager
def panoptic_writer(folder: Path, categories: Sequence[Category]) -> Iterator[PanopticWriter]:
    """PNGs in `folder` and, when the block ends well, `folder/panoptic.json`; raises `OutputError`."""
    writer = PanopticWriter(folder)
    yield writer
    described = [{"id": one.id, "name": one.name, "isthing": int(one.thing)} for one in categories]
    write_json(folder / "panoptic.json", {"annotations": writer.entries, "categories": described})


def _described(segment: Segment, pixels: np.ndarray) -> dict[str, Any]:
    rows, columns = np.flatnonzero(pixels.any(1)), np.flatnonzero(pixels.any(0))
    box = [int(columns[0]), int(rows[0]), int(columns[-1] - columns[0] + 1), int(rows[-1] - rows[0] + 1)]
    return {"id": segment.id, "category_id": segment.category_id, "iscrowd": int(segment.crowd), "area": int(pixels.sum()), "bbox": box}

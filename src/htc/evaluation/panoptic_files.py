"""Writes COCO's panoptic format; `htc.data.panoptic` reads it."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from htc.data.panoptic import Category, Panoptic, Segment
from htc.files import write_json
from htc.inference.outputs import write_picture

BASE = 256


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
    return {
        "id": segment.id,
        "category_id": segment.category_id,
        "iscrowd": int(segment.crowd),
        "area": int(pixels.sum()),
        "bbox": box,
    }

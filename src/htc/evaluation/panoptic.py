"""Panoptic quality (Kirillov et al., CVPR 2019), and COCO panoptic files of predictions.

PQ = sum of the IoU of matched segments / (TP + FP / 2 + FN / 2), class by class. Panoptic annotations are read by
`htc.data.panoptic`.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from htc.data.panoptic import Category, Panoptic, Segment
from htc.files import write_json
from htc.inference.outputs import write_image

MATCH = 0.5
"""Segments of one class match if their IoU is *above* this: then no segment can match two."""


class PanopticQuality:
    """Adds up images; `numbers` tells PQ and its two factors, SQ (mean IoU of what matched) and RQ (F1 of
    matching).
    """

    def __init__(self, categories: Mapping[int, Category]) -> None:
        self.categories = dict(sorted(categories.items()))
        self._row = {id: row for row, id in enumerate(self.categories)}
        self._sums: Float[np.ndarray, "C 4"] = np.zeros((len(self._row), 4))
        """IoU, TP, FP, FN of each class."""

    def add(self, truth: Panoptic, found: Panoptic) -> None:
        """One image. Void pixels (0) of the truth count neither for nor against a segment; crowds are not to be
        found.

        A found segment without match is left out where more than half of it is void or in a crowd of its class.
        """
        ours = {segment.id: segment for segment in truth.segments}
        theirs = {segment.id: segment for segment in found.segments}
        shared = _shared_pixels(truth, found)
        area = _sums(shared, axis=1)
        truth_area = _sums(shared, axis=0)
        matched: set[int] = set()
        hit: set[int] = set()
        for (one, other), pixels in shared.items():
            if not one or not other or ours[one].crowd or ours[one].category_id != theirs[other].category_id:
                continue
            iou = pixels / (area[other] + truth_area[one] - pixels - shared.get((0, other), 0))
            if iou > MATCH:
                self._count(ours[one].category_id, iou, 1, 0, 0)
                matched.add(other)
                hit.add(one)
        for id, segment in ours.items():
            if id not in hit and not segment.crowd and truth_area.get(id, 0):
                self._count(segment.category_id, 0, 0, 0, 1)
        for id, segment in theirs.items():
            if id in matched or not area.get(id, 0):
                continue
            crowds = [one for one, own in ours.items() if own.crowd and own.category_id == segment.category_id]
            excused = sum(shared.get((one, id), 0) for one in [0, *crowds])
            if excused <= MATCH * area[id]:
                self._count(segment.category_id, 0, 0, 1, 0)

    def _count(self, category: int, *amounts: float) -> None:
        self._sums[self._row[category]] += amounts

    def numbers(self) -> dict[str, Any]:
        """PQ, SQ, RQ (0..1; -1 undefined) as means over the classes that occur: all, things, stuff; PQ of each
        class.
        """
        iou, hits, wrong, missed = self._sums.T
        weight = hits + (wrong + missed) / 2
        occurs = weight > 0
        quality = np.stack(
            [iou / np.maximum(weight, 1e-9), iou / np.maximum(hits, 1e-9), hits / np.maximum(weight, 1e-9)]
        )
        things = np.array([category.thing for category in self.categories.values()], bool)

        def means(chosen: np.ndarray) -> dict[str, float]:
            rows = chosen & occurs
            return dict(
                zip(("PQ", "SQ", "RQ"), quality[:, rows].mean(1).tolist() if rows.any() else [-1.0] * 3, strict=True)
            )

        names = [category.name for category in self.categories.values()]
        per_class = {
            name: float(value) if known else -1.0 for name, value, known in zip(names, quality[0], occurs, strict=True)
        }
        return means(np.ones(len(names), bool)) | {
            "things": means(things),
            "stuff": means(~things),
            "per_class": per_class,
        }


def _shared_pixels(truth: Panoptic, found: Panoptic) -> dict[tuple[int, int], int]:
    """Pixels of every pair (segment of the truth, found segment) that meets, void among them."""
    pairs, counts = np.unique(np.stack((truth.ids.ravel(), found.ids.ravel())), axis=1, return_counts=True)
    return {(one, other): count for one, other, count in zip(*pairs.tolist(), counts.tolist(), strict=True)}


def _sums(shared: Mapping[tuple[int, int], int], axis: int) -> dict[int, int]:
    total: dict[int, int] = {}
    for pair, pixels in shared.items():
        total[pair[axis]] = total.get(pair[axis], 0) + pixels
    return total


BASE = 256


class PanopticWriter:
    """Maps into a folder, one an image; use inside `with panoptic_writer(folder, categories)`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.entries: list[dict[str, Any]] = []

    def add(self, image_id: int | str, name: str, found: Panoptic) -> None:
        """Writes `<name>.png` and remembers its segments; raises `OutputError`."""
        colors = np.stack([found.ids // BASE**place % BASE for place in range(3)], axis=-1).astype(np.uint8)
        write_image(self.folder / f"{name}.png", colors)
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

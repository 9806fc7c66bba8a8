"""Panoptic quality (Kirillov et al., CVPR 2019), and COCO panoptic files of predictions.

PQ = sum of the IoU of matched segments / (TP + FP / 2 + FN / 2), for each class. Panoptic annotations are read by
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
"""Segments of one class match if their IoU is *above* this value, so that no segment can match two others."""


class PanopticQuality:
    """Counts over images, from which `metrics` computes PQ and its factors SQ (mean IoU of the matches) and RQ (F1 of
    the matching).
    """

    def __init__(self, categories: Mapping[int, Category]) -> None:
        self.categories = dict(sorted(categories.items()))
        self._row = {id: row for row, id in enumerate(self.categories)}
        self._sums: Float[np.ndarray, "C 4"] = np.zeros((len(self._row), 4))
        """Sum of IoU, TP, FP, FN of each class."""

    def add(self, ground_truth: Panoptic, prediction: Panoptic) -> None:
        """Add one image. Void pixels (0) of the ground truth are excluded from every IoU; crowds are never missed.

        An unmatched predicted segment is ignored if more than half of it is void or in a crowd of its class.
        """
        annotated = {segment.id: segment for segment in ground_truth.segments}
        predicted = {segment.id: segment for segment in prediction.segments}
        shared = _shared_pixels(ground_truth, prediction)
        area = _sums(shared, axis=1)
        truth_area = _sums(shared, axis=0)
        matched: set[int] = set()
        detected: set[int] = set()
        for (one, other), pixels in shared.items():
            if (
                not one
                or not other
                or annotated[one].crowd
                or annotated[one].category_id != predicted[other].category_id
            ):
                continue
            iou = pixels / (area[other] + truth_area[one] - pixels - shared.get((0, other), 0))
            if iou > MATCH:
                self._count(annotated[one].category_id, iou, 1, 0, 0)
                matched.add(other)
                detected.add(one)
        for id, segment in annotated.items():
            if id not in detected and not segment.crowd and truth_area.get(id, 0):
                self._count(segment.category_id, 0, 0, 0, 1)
        for id, segment in predicted.items():
            if id in matched or not area.get(id, 0):
                continue
            crowds = [one for one, own in annotated.items() if own.crowd and own.category_id == segment.category_id]
            ignored = sum(shared.get((one, id), 0) for one in [0, *crowds])
            if ignored <= MATCH * area[id]:
                self._count(segment.category_id, 0, 0, 1, 0)

    def _count(self, category: int, *amounts: float) -> None:
        self._sums[self._row[category]] += amounts

    def metrics(self) -> dict[str, Any]:
        """Return PQ, SQ, RQ (0..1; -1 undefined) as means over all classes that occur, over things and over stuff, and
        the PQ of each class.
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
            name: float(value) if defined else -1.0
            for name, value, defined in zip(names, quality[0], occurs, strict=True)
        }
        return means(np.ones(len(names), bool)) | {
            "things": means(things),
            "stuff": means(~things),
            "per_class": per_class,
        }


def _shared_pixels(ground_truth: Panoptic, prediction: Panoptic) -> dict[tuple[int, int], int]:
    """Count the pixels of every overlapping pair (ground-truth segment, predicted segment), including void (0)."""
    pairs, counts = np.unique(np.stack((ground_truth.ids.ravel(), prediction.ids.ravel())), axis=1, return_counts=True)
    return {(one, other): count for one, other, count in zip(*pairs.tolist(), counts.tolist(), strict=True)}


def _sums(shared: Mapping[tuple[int, int], int], axis: int) -> dict[int, int]:
    total: dict[int, int] = {}
    for pair, pixels in shared.items():
        total[pair[axis]] = total.get(pair[axis], 0) + pixels
    return total


BASE = 256


class PanopticWriter:
    """Writes one PNG for each image into a folder; use it inside `with panoptic_writer(folder, categories)`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.entries: list[dict[str, Any]] = []

    def add(self, image_id: int | str, name: str, prediction: Panoptic) -> None:
        """Write `<name>.png` and keep its segments for the JSON file; raises `OutputError`."""
        colors = np.stack([prediction.ids // BASE**digit % BASE for digit in range(3)], axis=-1).astype(np.uint8)
        write_image(self.folder / f"{name}.png", colors)
        segments = [_described(segment, prediction.ids == segment.id) for segment in prediction.segments]
        self.entries.append({"image_id": image_id, "file_name": f"{name}.png", "segments_info": segments})


@contextmanager
def panoptic_writer(folder: Path, categories: Sequence[Category]) -> Iterator[PanopticWriter]:
    """Yield a writer of PNGs in `folder`; write `folder/panoptic.json` when the block ends. Raises `OutputError`."""
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

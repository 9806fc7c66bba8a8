"""Objects that are annotated twice."""

from collections.abc import Iterator
from typing import Any

import numpy as np
from jaxtyping import Float
from pycocotools import mask as coco_masks

from htc.data.dataset import RunLengths
from htc.data.formats.converted import polygon_runs
from htc.doctor.finding import Edit, Finding
from htc.doctor.part import Object, Part

SAME = 0.95
"""Intersection over union above which two masks (or boxes, where either has no mask) are one object."""


def doubles(part: Part) -> Iterator[Finding]:
    """Pairs of one picture with nearly the same mask: one class, or two."""
    for objects in part.of_picture.values():
        candidates = [one for one in objects if not one.crowd and one.where is not None]
        if len(candidates) < 2:
            continue
        removed: set[int] = set()
        for first, second in _alike(candidates):
            if first.position in removed or second.position in removed:
                continue
            if first.record.get("category_id") != second.record.get("category_id"):
                names = [repr(part.classes.get(one.record.get("category_id", -1), "?")) for one in (first, second)]
                yield part.finding(
                    second,
                    "object-two-classes",
                    f"it is {names[1]}, and annotation {first.id} in the same place {names[0]}",
                )
                continue
            equal = _content(first) == _content(second)
            removed.add(second.position)
            edits = (Edit("annotations", second.position, None),) if equal else ()
            what = (
                f"it is annotation {first.id} again"
                if equal
                else f"it covers nearly the same pixels as annotation {first.id}"
            )
            yield part.finding(second, "object-twice", what, edits, "the second one removed")


def _alike(objects: list[Object]) -> Iterator[tuple[Object, Object]]:
    boxes = np.array([one.where for one in objects], np.float64)
    for first in range(len(objects) - 1):
        for offset in np.flatnonzero(_overlaps(boxes[first], boxes[first + 1 :]) >= SAME):
            second = first + 1 + int(offset)
            if _mask_overlap(objects[first], objects[second]) >= SAME:
                yield objects[first], objects[second]


def _overlaps(box: Float[np.ndarray, " 4"], others: Float[np.ndarray, "N 4"]) -> Float[np.ndarray, " N"]:
    """Intersection over union of one box with others."""
    shared = (np.minimum(box[2:], others[:, 2:]) - np.maximum(box[:2], others[:, :2])).clip(0).prod(1)
    union = (box[2:] - box[:2]).prod() + (others[:, 2:] - others[:, :2]).prod(1) - shared
    return shared / np.maximum(union, 1e-9)


def _mask_overlap(first: Object, second: Object) -> float:
    """1 where either has no mask: then the boxes decide."""
    if first.outline.segmentation is None or second.outline.segmentation is None:
        return 1.0
    pair: Any = [_encoded(first), _encoded(second)]
    shared: Any = coco_masks.iou(pair[:1], pair[1:], [0])
    return float(shared[0, 0])


def _encoded(one: Object) -> Any:
    assert one.picture.size is not None
    segmentation = one.outline.segmentation
    assert segmentation is not None
    height, width = one.picture.size
    if not isinstance(segmentation, RunLengths):
        return coco_masks.merge(polygon_runs([ring.tolist() for ring in segmentation.rings], height, width))
    if isinstance(segmentation.counts, bytes):
        return {"size": [height, width], "counts": segmentation.counts}
    runs: Any = {"size": [height, width], "counts": segmentation.counts.tolist()}
    return coco_masks.frPyObjects(runs, height, width)


def _content(one: Object) -> tuple[Any, Any, Any]:
    return one.record.get("category_id"), one.record.get("segmentation"), one.record.get("bbox")


CHECKS = (doubles,)

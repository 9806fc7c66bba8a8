"""One COCO annotation to one `Instance`: what it must hold, and what is wrong when it does not."""

import math
from typing import Any

import numpy as np

from htc.data.dataset import Instance, Polygons, RunLengths
from htc.data.instance_masks import counts_of, decode_mask, read_counts

FAR = 10
"""A polygon further outside than this many picture sizes is not a polygon of this picture."""


class AnnotationError(ValueError):
    """What is wrong with an annotation and what to do, without its id."""


def parse_instance(annotation: dict[str, Any], labels: dict[int, int], height: int, width: int) -> Instance | str:
    """The object that `annotation` describes on a picture of that size; a sentence why, if nothing can be learned from
    it.

    `labels` maps category ids to 0 .. K-1. Raises `AnnotationError` for what must be corrected.
    """
    category = annotation.get("category_id")
    if not isinstance(category, int) or category not in labels:
        raise AnnotationError(f"category_id {category!r} is not among the categories; add it there or correct it")
    segmentation = _segmentation(annotation.get("segmentation"), height, width)
    x, y, w, h = _box(annotation.get("bbox"), segmentation, height, width)
    box = (max(x, 0.0), max(y, 0.0), min(x + w, float(width)), min(y + h, float(height)))
    # The original leaves these out as well; COCO's own train2017 holds some.
    if w < 1 or h < 1:
        return f"its box is {w:g} x {h:g} pixels, less than one"
    if box[0] >= box[2] or box[1] >= box[3]:
        return "its box lies outside the picture"
    crowd = annotation.get("iscrowd", 0)
    if crowd not in (0, 1):
        raise AnnotationError(f"iscrowd is {crowd!r}; it must be 0 or 1")
    return Instance(annotation["id"], labels[category], box, bool(crowd), segmentation)


def _box(
    bbox: Any, segmentation: Polygons | RunLengths | None, height: int, width: int
) -> tuple[float, float, float, float]:
    """x, y, width, height; the mask's where the annotation has none."""
    if bbox is None:
        if segmentation is None:
            raise AnnotationError("it has neither bbox nor segmentation; give it one or remove it")
        crop = decode_mask(segmentation, height, width)
        return float(crop.x), float(crop.y), float(crop.bitmap.shape[1]), float(crop.bitmap.shape[0])
    if not isinstance(bbox, list) or len(bbox) != 4 or not all(_is_number(value) for value in bbox):
        raise AnnotationError(f"bbox is {_short(bbox)}; it must be four numbers, [x, y, width, height]")
    x, y, w, h = map(float, bbox)
    if w < 0 or h < 0:
        raise AnnotationError(f"bbox {_short(bbox)} has a negative size; COCO's order is [x, y, width, height]")
    return x, y, w, h


def _segmentation(value: Any, height: int, width: int) -> Polygons | RunLengths | None:
    if value is None or value == []:
        return None
    if isinstance(value, list):
        return _polygons(value, height, width)
    if isinstance(value, dict) and "counts" in value:
        return _run_lengths(value, height, width)
    raise AnnotationError(
        "its segmentation is neither a list of polygons nor a run-length encoding; export it as COCO instances"
    )


def _polygons(rings: list[Any], height: int, width: int) -> Polygons:
    if all(_is_number(value) for value in rings):
        raise AnnotationError(
            "its segmentation is one flat list of numbers; COCO's is a list of polygons: put it in another pair of "
            "brackets"
        )
    arrays = []
    for number, ring in enumerate(rings, start=1):
        if not isinstance(ring, list) or not all(_is_number(value) for value in ring):
            raise AnnotationError(
                f"polygon {number} is not a list of finite numbers x, y, x, y, ...; correct or remove it"
            )
        if len(ring) < 6 or len(ring) % 2:
            raise AnnotationError(
                f"polygon {number} has {len(ring)} numbers; it needs x and y of at least three points (six numbers)"
            )
        array = np.array(ring, np.float64)
        if np.abs(array).max() > FAR * (max(height, width) + 1):
            raise AnnotationError(
                f"polygon {number} lies far outside the {width}x{height} picture; correct its coordinates"
            )
        arrays.append(array)
    return Polygons(tuple(arrays))


def _run_lengths(value: dict[str, Any], height: int, width: int) -> RunLengths:
    size, counts = value.get("size"), value["counts"]
    if size != [height, width]:
        raise AnnotationError(
            f"its run-length size is {_short(size)}, the picture's [height, width] is [{height}, {width}]; make "
            f"them agree"
        )
    if isinstance(counts, str):
        try:
            runs = RunLengths(counts.encode("ascii"))
            decoded = read_counts(counts.encode("ascii"))
        except ValueError as error:
            raise AnnotationError(
                "its run-length text is damaged; encode the mask again, for example with pycocotools"
            ) from error
    elif isinstance(counts, list) and all(isinstance(value, int) for value in counts):
        runs = RunLengths(np.array(counts, np.int64))
        decoded = counts_of(runs, height, width)
    else:
        raise AnnotationError(
            "its run-length counts are neither a text nor a list of whole numbers; encode the mask again"
        )
    if int(decoded.sum()) != height * width or (decoded < 0).any():
        raise AnnotationError(
            f"its runs cover {int(decoded.sum())} pixels, the picture has {height * width}; encode the mask again"
        )
    return runs


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."

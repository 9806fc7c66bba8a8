"""Matching of results to ground truth, image by image.

By COCO's rule, in the order of the scores and within a class (`matched_images`), and by overlap alone, whatever the
classes (`pair_by_overlap`): the latter gives the confusion matrix, which has a row and a column for the background.
Score thresholds and the kinds of errors are computed from the same matches.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int

from htc.evaluation.comparison import Annotation, Comparison

IOU = 0.5
"""A result with at least this IoU with an object of its class is right."""


@dataclass(frozen=True)
class Matched:
    """One image: D results, best first, and G objects, crowds among them."""

    image: int
    """Place in `Comparison.image_ids`."""
    found: Int[np.ndarray, " D"]
    """Places in `Comparison.found`."""
    scores: Float[np.ndarray, " D"]
    labels: Int[np.ndarray, " D"]
    """Places in `Comparison.categories`."""
    objects: Int[np.ndarray, " G"]
    """Places in `Comparison.objects`."""
    object_labels: Int[np.ndarray, " G"]
    crowd: Bool[np.ndarray, " G"]
    ious: Float[np.ndarray, "D G"]
    """IoU of masks, or of boxes where there are no masks; for a crowd the part of the result that lies in it."""
    match: Int[np.ndarray, " D"]
    """The object of its class (0 .. G-1) that each result found, by COCO's rule at IoU 0.5; -1: none."""
    ignored: Bool[np.ndarray, " D"]
    """Found nothing but lies in a crowd of its class: neither right nor wrong."""

    @property
    def detected(self) -> Bool[np.ndarray, " G"]:
        """Whether each object was found by any result."""
        found = np.zeros(len(self.objects), bool)
        found[self.match[self.match >= 0]] = True
        return found


def matched_images(comparison: Comparison, max_detections: int) -> Iterator[Matched]:
    """Every image's results, at most `max_detections` of a class, matched at IoU 0.5."""
    labels = {category: label for label, (category, _) in enumerate(comparison.categories)}
    for image, (objects, found) in enumerate(comparison.by_image()):
        kept = _best(found, max_detections)
        own = np.array([labels[item["category_id"]] for item in kept], np.int64)
        object_labels = np.array([labels[item["category_id"]] for item in objects], np.int64)
        crowd = np.array([item["iscrowd"] for item in objects], bool)
        ious = overlaps(comparison, kept, objects)
        match, ignored = match_by_score(np.where(own[:, None] == object_labels[None], ious, 0.0), crowd)
        scores = np.array([item["score"] for item in kept], np.float64)
        yield Matched(image, _places(kept), scores, own, _places(objects), object_labels, crowd, ious, match, ignored)


def overlaps(
    comparison: Comparison, found: Sequence[Annotation], objects: Sequence[Annotation]
) -> Float[np.ndarray, "D G"]:
    """IoU of every result with every object, whatever their classes."""
    if not found or not objects:
        return np.zeros((len(found), len(objects)))
    ours: list[Any] = [item["bbox"] for item in objects]
    theirs: list[Any] = [item["bbox"] for item in found]
    if comparison.object_masks is not None and comparison.found_masks is not None:
        ours = [comparison.object_masks[item["id"] - 1] for item in objects]
        theirs = [comparison.found_masks[item["id"] - 1] for item in found]
    from faster_coco_eval.core import mask as mask_api

    ious: Any = mask_api.iou(theirs, ours, [item["iscrowd"] for item in objects])
    return np.asarray(ious, np.float64).reshape(len(found), len(objects))


def match_by_score(
    ious: Float[np.ndarray, "D G"], crowd: Bool[np.ndarray, " G"], iou: float = IOU
) -> tuple[Int[np.ndarray, " D"], Bool[np.ndarray, " D"]]:
    """COCO's rule: each result, best first, takes the free object it overlaps most, if by at least `iou`; else it may
    lie in a crowd.

    `ious` is 0 where classes differ. Returns the objects (-1: none) and what is ignored because of a crowd.
    """
    match = np.full(len(ious), -1)
    if not ious.size:
        return match, np.zeros(len(ious), bool)
    near = ious >= min(iou, 1 - 1e-10)
    ignored = (near & crowd).any(1)
    near &= ~crowd
    free = np.ones(ious.shape[1], bool)
    for row in np.flatnonzero(near.any(1)):
        candidates = np.flatnonzero(near[row] & free)
        if len(candidates):
            # Among equals the last one, as COCO has it.
            match[row] = candidates[len(candidates) - 1 - ious[row, candidates][::-1].argmax()]
            free[match[row]] = False
    return match, ignored & (match < 0)


def _best(found: Sequence[Annotation], most: int) -> list[Annotation]:
    """The first `most` of each class."""
    if len(found) <= most:
        return list(found)
    counts: dict[int, int] = {}
    kept = []
    for item in found:
        counts[item["category_id"]] = counts.get(item["category_id"], 0) + 1
        if counts[item["category_id"]] <= most:
            kept.append(item)
    return kept


def _places(items: Sequence[Annotation]) -> Int[np.ndarray, " _"]:
    return np.array([item["id"] - 1 for item in items], np.int64)


def confusion_matrix(images: Iterable[Matched], classes: int, threshold: float) -> Int[np.ndarray, "K1 K1"]:
    """Counts [object's class, result's class]; the last row are results without object, the last column objects without
    result.

    Results of at least `threshold` and objects are paired one to one whatever their classes, the largest IoU first and
    down to 0.5. A result without object that lies in a crowd (of any class) is left out.
    """
    matrix = np.zeros((classes + 1, classes + 1), np.int64)
    for image in images:
        kept = image.scores >= threshold
        ious, labels = image.ious[kept], image.labels[kept]
        pairs = pair_by_overlap(np.where(image.crowd[None], 0.0, ious))
        np.add.at(matrix, (image.object_labels[pairs[pairs >= 0]], labels[pairs >= 0]), 1)
        in_crowd = (ious[:, image.crowd] >= IOU).any(1)
        matrix[classes, :classes] += np.bincount(labels[(pairs < 0) & ~in_crowd], minlength=classes)
        missed = _free(len(image.objects), pairs) & ~image.crowd
        matrix[:classes, classes] += np.bincount(image.object_labels[missed], minlength=classes)
    return matrix


def pair_by_overlap(ious: Float[np.ndarray, "D G"], iou: float = IOU) -> Int[np.ndarray, " D"]:
    """The object (0 .. G-1) of each result, or -1: pairs one to one, the largest IoU first, down to `iou`."""
    pairs = np.full(len(ious), -1)
    rows, columns = np.nonzero(ious >= iou)
    free = np.ones(ious.shape[1], bool)
    for place in np.argsort(-ious[rows, columns], kind="stable"):
        row, column = rows[place], columns[place]
        if pairs[row] < 0 and free[column]:
            pairs[row] = column
            free[column] = False
    return pairs


def _free(objects: int, pairs: Int[np.ndarray, " D"]) -> Bool[np.ndarray, " G"]:
    free = np.ones(objects, bool)
    free[pairs[pairs >= 0]] = False
    return free
